//! Bringing pinned artifacts to this host: from its cache, else from the controller, else from their URL.
//!
//! An artifact lives in the cache under its SHA-256. It is written as `<sha256>.part` first and gets its name only when its
//! hash is right. A download that was cut goes on where it stopped, also in a later run.

mod peek;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use async_trait::async_trait;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, StatusCode, Url};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::AsyncWriteExt;

use super::files::{explain, free_space, mib};
use super::{ArtifactPin, files};

/// How often a download is tried.
const TRIES: u32 = 3;
/// Between two reports of progress.
const REPORT: Duration = Duration::from_millis(500);

/// The controller, as a source of files.
#[async_trait]
pub trait BlobSource: Send + Sync {
    /// Writes the blob with this hash to `dest`, which is empty and open for writing; the caller verifies it.
    /// `false`: the controller does not have it.
    ///
    /// # Errors
    /// When the transfer broke or `dest` could not be written.
    async fn fetch(&self, sha256: &str, dest: &mut File) -> Result<bool>;
}

/// The cache of one host.
pub struct Fetcher {
    cache: PathBuf,
    blobs: Arc<dyn BlobSource>,
    /// One lock for each artifact that somebody waits for.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    client: tokio::sync::OnceCell<Client>,
    /// Before the second try; doubled before the third.
    pause: Duration,
}

/// Why a try failed.
enum Failure {
    /// Trying again may help.
    Passing(anyhow::Error),
    /// It will not.
    Lasting(anyhow::Error),
}

type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

impl Fetcher {
    pub fn new(cache: PathBuf, blobs: Arc<dyn BlobSource>) -> Self {
        Self {
            cache,
            blobs,
            busy: Mutex::default(),
            client: tokio::sync::OnceCell::new(),
            pause: Duration::from_secs(2),
        }
    }

    /// See [`super::WriteHost::fetch`].
    pub async fn fetch(&self, artifact: &ArtifactPin, progress: Progress<'_>) -> Result<PathBuf> {
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(busy.entry(artifact.sha256.clone()).or_default())
        };
        let _alone = lock.lock().await;
        self.fetch_alone(artifact, progress)
            .await
            .with_context(|| format!("artifact {} {}", artifact.name, artifact.version))
    }

    async fn fetch_alone(&self, artifact: &ArtifactPin, progress: Progress<'_>) -> Result<PathBuf> {
        if !crate::hash::is_sha256(&artifact.sha256) {
            bail!("{:?} is no SHA-256; give it 64 lower-case hex digits in artifacts.yml", artifact.sha256);
        }
        let cached = self.cache.join(&artifact.sha256);
        match sha256(&cached).await? {
            Some(found) if found == artifact.sha256 => return Ok(cached),
            Some(_) => {
                progress("the cached copy is damaged; fetching it again");
                files::remove_file(&cached)?;
            }
            None => {}
        }
        fs::create_dir_all(&self.cache).await.map_err(|error| explain("cannot make the cache", &self.cache, error))?;
        let part = self.cache.join(format!("{}.part", artifact.sha256));
        if !self.ask_controller(artifact, &part, progress).await? {
            let url = artifact.url.as_deref().with_context(|| {
                format!(
                    "neither the cache of the host nor the controller has it (sha256 {}), and it has no URL; run the command again from the controller that built it",
                    artifact.sha256
                )
            })?;
            self.ask_url(artifact, url, &part, progress).await?;
        }
        files::set_mode(&part, 0o644)?;
        files::rename(&part, &cached)?;
        Ok(cached)
    }

    /// `false` when the controller does not have it.
    async fn ask_controller(&self, artifact: &ArtifactPin, part: &Path, progress: Progress<'_>) -> Result<bool> {
        // Beside the part of a download, which is worth keeping until the controller really has it.
        let own = part.with_extension("controller");
        let mut file = create(&own, false).await?;
        let report = async {
            loop {
                tokio::time::sleep(REPORT).await;
                if let Ok(metadata) = fs::metadata(&own).await
                    && metadata.len() > 0
                {
                    let done = mib(metadata.len());
                    progress(&format!("{}: {done} from the controller", artifact.name));
                }
            }
        };
        let copy = async {
            let has = self.blobs.fetch(&artifact.sha256, &mut file).await?;
            if has {
                finish(&mut file).await?;
            }
            anyhow::Ok(has)
        };
        let copied = tokio::select! {
            copied = copy => copied,
            () = report => unreachable!("it reports for ever"),
        };
        let outcome = match copied {
            Ok(true) => match verify(&own, artifact, "the controller").await {
                Ok(()) => files::rename(&own, part).map(|()| true),
                Err(error) => Err(error),
            },
            Ok(false) => Ok(false),
            Err(error) => Err(disk_or(&own, error).context("from the controller")),
        };
        if !matches!(outcome, Ok(true)) {
            files::remove_file(&own)?;
        }
        outcome
    }

    async fn ask_url(&self, artifact: &ArtifactPin, url: &str, part: &Path, progress: Progress<'_>) -> Result<()> {
        let url = Url::parse(url).with_context(|| format!("{url:?} is no URL"))?;
        let source = shown(&url);
        let client = self.client.get_or_try_init(|| async { client() }).await?;
        let mut reasons: Vec<String> = Vec::new();
        let mut tried = 0;
        while tried < TRIES {
            let resumed = fs::metadata(part).await.is_ok_and(|it| it.len() > 0);
            match download(client, url.clone(), artifact, part, progress).await {
                Ok(()) => match verify(part, artifact, &source).await {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        files::remove_file(part)?;
                        // What was there before may have come from another file of that name: one clean try decides.
                        if !resumed {
                            return Err(error);
                        }
                        progress("the resumed download is damaged; starting from its beginning");
                        continue;
                    }
                },
                Err(Failure::Lasting(error)) => {
                    files::remove_file(part)?;
                    return Err(error.context(format!("cannot download {source}")));
                }
                Err(Failure::Passing(error)) => {
                    tried += 1;
                    let reason = format!("{error:#}");
                    if tried < TRIES {
                        progress(&format!("{source}: {reason}; trying again"));
                        tokio::time::sleep(self.pause * tried).await;
                    }
                    if !reasons.contains(&reason) {
                        reasons.push(reason);
                    }
                }
            }
        }
        bail!(
            "cannot download {source}: gave up after {TRIES} tries ({}); is the network reachable from this host?",
            reasons.join("; ")
        )
    }
}

/// One try, from where the last one stopped.
async fn download(
    client: &Client,
    url: Url,
    artifact: &ArtifactPin,
    part: &Path,
    progress: Progress<'_>,
) -> Result<(), Failure> {
    let passing = |error: reqwest::Error| {
        // Without the address, which may hold a password; the caller names it without.
        Failure::Passing(anyhow!(error.without_url()))
    };
    let have = fs::metadata(part).await.map_or(0, |metadata| metadata.len());
    let mut request = client.get(url);
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let mut response = request.send().await.map_err(passing)?;
    let status = response.status();
    let from = match status {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(CONTENT_RANGE);
            let range = range.and_then(|value| value.to_str().ok()).unwrap_or("");
            if !range.starts_with(&format!("bytes {have}-")) {
                files::remove_file(part).map_err(Failure::Lasting)?;
                return Err(Failure::Passing(anyhow!("it answered with another range")));
            }
            have
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            // There may be nothing left to ask for; the hash will tell.
            return Ok(());
        }
        status if status.is_success() => 0,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            return Err(Failure::Passing(anyhow!("it answered {status}")));
        }
        status if status.is_server_error() => {
            return Err(Failure::Passing(anyhow!("it answered {status}")));
        }
        status => return Err(Failure::Lasting(anyhow!("it answered {status}"))),
    };
    let length = response.content_length();
    if let (Some(need), Some(free)) = (length, part.parent().and_then(free_space))
        && need > free
    {
        return Err(Failure::Lasting(anyhow!(
            "the disk is full: {} are needed and {} are free on the file system of {}; free some space and run the same command again",
            mib(need),
            mib(free),
            part.display()
        )));
    }
    let total = length.map_or_else(String::new, |length| format!(" of {}", mib(from + length)));
    let mut file = create(part, from > 0).await.map_err(Failure::Lasting)?;
    let disk = |error: std::io::Error| Failure::Lasting(explain("cannot write", part, error));
    let mut done = from;
    let mut reported = Instant::now();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                file.write_all(&chunk).await.map_err(disk)?;
                done += chunk.len() as u64;
                if reported.elapsed() > REPORT {
                    reported = Instant::now();
                    progress(&format!("{}: {}{total}", artifact.name, mib(done)));
                }
            }
            Ok(None) => break,
            Err(error) => {
                // What came is kept for the next try.
                file.flush().await.map_err(disk)?;
                return Err(passing(error));
            }
        }
    }
    finish(&mut file).await.map_err(disk)
}

async fn create(path: &Path, append: bool) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(!append)
        .append(append)
        .open(path)
        .await
        .map_err(|error| explain("cannot write", path, error))
}

async fn finish(file: &mut File) -> std::io::Result<()> {
    file.flush().await?;
    file.sync_all().await
}

/// The reason of a full disk in its full form; any other error as it is.
fn disk_or(path: &Path, error: anyhow::Error) -> anyhow::Error {
    let full = error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull)
    });
    if full { explain("cannot write", path, std::io::ErrorKind::StorageFull.into()) } else { error }
}

async fn verify(path: &Path, artifact: &ArtifactPin, source: &str) -> Result<()> {
    let found = sha256(path).await?.with_context(|| format!("{}: disappeared", path.display()))?;
    if found != artifact.sha256 {
        bail!(
            "wrong checksum: {source} gave sha256 {found}, but artifacts.yml pins {}; do not use it before you know why they differ",
            artifact.sha256
        );
    }
    Ok(())
}

async fn sha256(path: &Path) -> Result<Option<String>> {
    let path = path.to_path_buf();
    tokio::task::spawn_blocking(move || files::sha256(&path)).await?
}

fn client() -> Result<Client> {
    http_client()
        .connect_timeout(Duration::from_secs(15))
        .read_timeout(Duration::from_secs(60))
        .build()
        .context("cannot start an HTTP client")
}

/// An HTTP client of ours, to be finished.
pub(crate) fn http_client() -> reqwest::ClientBuilder {
    // An error says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().user_agent(concat!("provision/", env!("CARGO_PKG_VERSION")))
}

/// An address without user, password and query, any of which may be a secret.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // They fail for addresses that cannot have them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.into()
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
