//! This machine.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use tokio::sync::watch;

use super::fetch::{BlobSource, Fetcher};
use super::files;
use super::program::{self, End, Finished};
use super::{ArtifactPin, Cmd, CommandFailed, Facts, Output, Owner, Query, ReadHost, Stat, WriteHost};
use crate::cluster;

pub use super::program::Stream;

/// What happens while something is done. It may hold secrets: the redactor stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// A line that a program printed.
    Output { stream: Stream, line: String },
    /// What is being waited for.
    Progress(String),
}

/// Receives events, from any thread.
pub type Events = Arc<dyn Fn(HostEvent) + Send + Sync>;

/// What [`RealHost::new`] needs.
pub struct RealHostOptions {
    /// `/`; in tests a directory that stands for it. Programs always see the real machine.
    pub root: PathBuf,
    /// Where artifacts are kept: `/var/lib/provision/cache`, below `root`.
    pub cache_dir: PathBuf,
    /// The controller's files.
    pub blobs: Arc<dyn BlobSource>,
    pub events: Events,
    /// `true` ends all running programs and downloads.
    pub cancel: watch::Receiver<bool>,
}

/// This machine, as [`ReadHost`] and [`WriteHost`]. Cheap to clone; all clones share cache, client and cancellation.
#[derive(Clone)]
pub struct RealHost {
    shared: Arc<Shared>,
    events: Events,
}

struct Shared {
    root: PathBuf,
    cache_dir: PathBuf,
    facts: Facts,
    fetcher: Fetcher,
    cancel: watch::Receiver<bool>,
    cluster: cluster::Connector,
}

impl RealHost {
    /// Gathers the facts; changes nothing.
    ///
    /// # Errors
    /// When this is no Linux system that tells what it is.
    pub fn new(options: RealHostOptions) -> Result<Self> {
        let cache = below(&options.root, &options.cache_dir);
        Ok(Self {
            shared: Arc::new(Shared {
                facts: Facts::gather()?,
                fetcher: Fetcher::new(cache, options.blobs),
                root: options.root,
                cache_dir: options.cache_dir,
                cancel: options.cancel,
                cluster: cluster::Connector::default(),
            }),
            events: options.events,
        })
    }

    /// The same host with another receiver of its events: one for each resource that runs.
    #[must_use]
    pub fn with_events(&self, events: Events) -> Self {
        Self { shared: Arc::clone(&self.shared), events }
    }

    fn real(&self, path: &Path) -> PathBuf {
        below(&self.shared.root, path)
    }

    async fn start(&self, cmd: &Cmd, on_line: &(dyn Fn(Stream, &str) + Send + Sync)) -> Result<Finished> {
        let cwd = cmd.cwd.as_deref().map(|cwd| self.real(cwd));
        program::run(cmd, cwd.as_deref(), &self.shared.cancel, on_line).await
    }
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[async_trait]
impl ReadHost for RealHost {
    fn facts(&self) -> &Facts {
        &self.shared.facts
    }

    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        files::read(&self.real(path))
    }

    fn open(&self, path: &Path) -> Result<Option<Box<dyn Read + Send>>> {
        Ok(files::open(&self.real(path))?.map(|file| Box::new(file) as Box<dyn Read + Send>))
    }

    fn stat(&self, path: &Path) -> Result<Option<Stat>> {
        files::stat(&self.real(path))
    }

    fn read_link(&self, path: &Path) -> Result<Option<PathBuf>> {
        files::read_link(&self.real(path))
    }

    fn list_dir(&self, path: &Path) -> Result<Vec<String>> {
        files::list(&self.real(path))
    }

    fn sha256(&self, path: &Path) -> Result<Option<String>> {
        files::sha256(&self.real(path))
    }

    async fn query(&self, query: &Query) -> Result<Output> {
        let mut cmd = Cmd::new(query.argv()).timeout(query.timeout());
        cmd.env.extend(query.env().iter().cloned());
        let finished = self.start(&cmd, &|_, _| ()).await?;
        let asked = query.asked();
        match finished.end {
            End::NotInstalled => {
                Ok(Output { stderr: format!("{}: command not found", query.argv()[0]), ..finished.output })
            }
            End::Exited(_) if finished.truncated => bail!("`{asked}` printed more than 16 MiB"),
            End::Exited(_) => Ok(finished.output),
            End::TimedOut => bail!("`{asked}` did not answer within {} s", query.timeout().as_secs()),
            End::Cancelled => bail!("`{asked}` was cancelled"),
        }
    }

    async fn peek(&self, artifact: &ArtifactPin) -> Result<Vec<u8>> {
        let progress = |text: &str| self.progress(text);
        tokio::select! {
            content = self.shared.fetcher.peek(artifact, &progress) => content,
            () = program::cancelled(&self.shared.cancel) => bail!("artifact {}: cancelled", artifact.name),
        }
    }

    async fn cluster(&self) -> Result<cluster::Reader, cluster::Unavailable> {
        self.shared.cluster.connect(self).await
    }

    fn progress(&self, text: &str) {
        (self.events)(HostEvent::Progress(text.to_owned()));
    }
}

#[async_trait]
impl WriteHost for RealHost {
    fn as_read(&self) -> &dyn ReadHost {
        self
    }

    fn write_stream(&self, path: &Path, content: &mut dyn Read, mode: u32, owner: Owner) -> Result<()> {
        files::write(&self.real(path), content, mode, owner)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> Result<()> {
        files::create_dir(&self.real(path), mode)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        files::set_mode(&self.real(path), mode)
    }

    fn set_owner(&self, path: &Path, owner: Owner) -> Result<()> {
        files::set_owner(&self.real(path), owner)
    }

    fn symlink(&self, path: &Path, target: &Path) -> Result<()> {
        files::symlink(&self.real(path), target)
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        files::remove_file(&self.real(path))
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        files::remove_dir_all(&self.real(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        files::rename(&self.real(from), &self.real(to))
    }

    async fn run(&self, cmd: &Cmd) -> Result<Output> {
        let finished = self
            .start(cmd, &|stream, line| {
                (self.events)(HostEvent::Output { stream, line: line.to_owned() });
            })
            .await?;
        let reason = match finished.end {
            End::Exited(status) if status.success() => return Ok(finished.output),
            End::Exited(status) => match std::os::unix::process::ExitStatusExt::signal(&status) {
                Some(signal) => format!("was ended by signal {signal}"),
                None => format!("ended with status {}", finished.output.status),
            },
            End::TimedOut => format!("did not finish within {} s", cmd.timeout.as_secs()),
            End::Cancelled => "was cancelled".into(),
            End::NotInstalled => "is not installed".into(),
        };
        let exited = matches!(finished.end, End::Exited(_));
        Err(CommandFailed {
            argv: cmd.argv.clone(),
            reason,
            status: exited.then_some(finished.output.status),
            tail: finished.tail,
        }
        .into())
    }

    async fn fetch(&self, artifact: &ArtifactPin) -> Result<PathBuf> {
        let progress = |text: &str| self.progress(text);
        tokio::select! {
            fetched = self.shared.fetcher.fetch(artifact, &progress) => fetched?,
            () = program::cancelled(&self.shared.cancel) => bail!("artifact {}: cancelled", artifact.name),
        };
        Ok(self.shared.cache_dir.join(&artifact.sha256))
    }

    async fn cluster_mut(&self) -> Result<cluster::Writer, cluster::Unavailable> {
        self.cluster().await.map(cluster::Writer::new)
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[cfg(test)]
#[path = "real_tests.rs"]
pub(crate) mod tests;
