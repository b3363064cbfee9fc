//! What a resource may do to a machine.
//!
//! [`ReadHost`] has no method that can change anything: whatever only holds one cannot break the promise that `plan`
//! changes nothing. [`WriteHost`] is what `apply` gets. [`real`] is this machine, [`fake`] is for tests.

pub mod facts;
#[cfg(test)]
pub mod fake;
mod fetch;
mod files;
mod memory;
pub mod owner;
mod program;
pub mod query;
pub mod real;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use facts::Facts;
pub use fetch::BlobSource;
pub(crate) use fetch::{http_client, shown};
pub use memory::MemoryFile;
pub use query::{HelmChart, HelmTemplate, Query};
pub use real::{Events, HostEvent, RealHost, RealHostOptions, Stream};

use crate::cluster;

/// What kind of thing is at a path (never followed through a symbolic link).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    File,
    Directory,
    Symlink,
    Other,
}

/// Metadata of a path, as by `lstat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    pub file_type: FileType,
    /// Permission bits only (`0o7777`).
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes.
    pub size: u64,
}

/// What a program answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Exit status; 128 + signal number when a signal ended it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// A program to run. Arguments are a list: no shell string is ever built from values.
#[derive(Debug, Clone)]
pub struct Cmd {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: Option<PathBuf>,
    pub stdin: Option<Vec<u8>>,
    /// It is ended (TERM, then KILL, whole process group) when it takes longer.
    pub timeout: Duration,
}

impl Cmd {
    /// `argv` with nothing on standard input and ten minutes to finish.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: None,
            stdin: None,
            timeout: Duration::from_secs(600),
        }
    }

    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Runs it in this directory instead of `/`.
    #[must_use]
    pub fn cwd(mut self, path: impl Into<PathBuf>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// A program ended with a status other than 0, or could not be started.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("`{}` {}", argv.join(" "), reason)]
pub struct CommandFailed {
    pub argv: Vec<String>,
    /// `ended with status 100`, `was ended by signal 9`, `did not finish within 600 s`, `is not installed`.
    pub reason: String,
    pub status: Option<i32>,
    /// The last 20 lines of what it printed, standard output and error as they came.
    pub tail: Vec<String>,
}

/// Reads a machine. No method of this trait can change anything on it.
#[async_trait]
pub trait ReadHost: Send + Sync {
    /// What never changes during a run: distribution, architecture, whether it is a container...
    fn facts(&self) -> &Facts;

    /// The whole file; `None` when there is none.
    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>>;

    /// [`ReadHost::read_file`] as text; what is not UTF-8 is replaced.
    fn read_text(&self, path: &Path) -> Result<Option<String>> {
        let bytes = self.read_file(path)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The file as a stream, for what is too large to hold in memory; `None` when there is none.
    fn open(&self, path: &Path) -> Result<Option<Box<dyn Read + Send>>>;

    /// `None` when nothing is there.
    fn stat(&self, path: &Path) -> Result<Option<Stat>>;

    /// Target of a symbolic link; `None` when there is none.
    fn read_link(&self, path: &Path) -> Result<Option<PathBuf>>;

    /// Names in a directory, sorted; empty when there is none.
    fn list_dir(&self, path: &Path) -> Result<Vec<String>>;

    /// SHA-256 of a file, lower-case hex; `None` when there is none.
    fn sha256(&self, path: &Path) -> Result<Option<String>>;

    /// Asks a program that only looks. A program that is not installed answers with status 127.
    async fn query(&self, query: &Query) -> Result<Output>;

    /// The content of a pinned artifact, in memory and verified: from the host's cache, else from the controller, else from its
    /// URL. Nothing is kept.
    ///
    /// # Errors
    /// When no source has it, the checksum is wrong, or it is too large to be looked at (64 MiB).
    async fn peek(&self, artifact: &ArtifactPin) -> Result<Vec<u8>>;

    /// The Kubernetes API server of this host, read only. `Err` says why it cannot be asked.
    async fn cluster(&self) -> Result<cluster::Reader, cluster::Unavailable>;

    /// Says what is being waited for; shown live, kept nowhere.
    fn progress(&self, text: &str);
}

/// Changes a machine.
#[async_trait]
pub trait WriteHost: ReadHost {
    /// This host as one that can only be read, for observing again after a change.
    fn as_read(&self) -> &dyn ReadHost;

    /// Replaces or makes a file atomically (temporary file in the same directory, fsync, rename) with exactly this mode and
    /// owner, so that no one ever sees half of it or reads it with wider permissions. The parent directory must exist.
    fn write_file(&self, path: &Path, content: &[u8], mode: u32, owner: Owner) -> Result<()> {
        self.write_stream(path, &mut &content[..], mode, owner)
    }

    /// [`WriteHost::write_file`] of everything that `content` yields, in constant memory.
    fn write_stream(&self, path: &Path, content: &mut dyn Read, mode: u32, owner: Owner) -> Result<()>;

    /// Makes one directory; its parent must exist.
    fn create_dir(&self, path: &Path, mode: u32) -> Result<()>;

    /// Makes a directory and those above it that are missing, all with this mode; one that is there stays as it is.
    fn create_dirs(&self, path: &Path, mode: u32) -> Result<()> {
        let mut missing = Vec::new();
        for dir in path.ancestors() {
            if self.stat(dir)?.is_some() {
                break;
            }
            missing.push(dir);
        }
        for dir in missing.into_iter().rev() {
            self.create_dir(dir, mode)?;
        }
        Ok(())
    }

    fn set_mode(&self, path: &Path, mode: u32) -> Result<()>;

    fn set_owner(&self, path: &Path, owner: Owner) -> Result<()>;

    /// Makes `path` a symbolic link to `target`, atomically replacing a link or file that is there.
    fn symlink(&self, path: &Path, target: &Path) -> Result<()>;

    /// Removes a file or link; nothing to remove is fine.
    fn remove_file(&self, path: &Path) -> Result<()>;

    /// Removes a directory and all in it; nothing to remove is fine.
    fn remove_dir_all(&self, path: &Path) -> Result<()>;

    /// Renames within one file system, replacing atomically.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Runs a program, streaming its lines to the user interface.
    ///
    /// # Errors
    /// [`CommandFailed`] unless it ends with status 0.
    async fn run(&self, cmd: &Cmd) -> Result<Output>;

    /// Brings a pinned artifact to a file on this host: from the host's cache, else from the controller, else from its URL.
    /// The file is verified against the hash before it is returned, and lives in the host's cache.
    ///
    /// # Errors
    /// When no source has it, or the checksum is wrong (naming the artifact, both hashes and the source).
    async fn fetch(&self, artifact: &ArtifactPin) -> Result<PathBuf>;

    /// The Kubernetes API server of this host. `Err` says why it cannot be asked.
    async fn cluster_mut(&self) -> Result<cluster::Writer, cluster::Unavailable>;

    /// Waits without blocking others.
    async fn sleep(&self, duration: Duration);
}

/// Numeric owner of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// A file from outside, fixed by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ArtifactPin {
    /// Its name in `artifacts.yml`.
    pub name: String,
    pub version: String,
    /// 64 lower-case hex digits.
    pub sha256: String,
    /// Where it comes from; `None` for what was built on the controller.
    pub url: Option<String>,
}
