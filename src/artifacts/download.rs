//! Bringing a file from a URL: resumed where it stopped, and never used before its hash is right.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode};

use super::{Progress, Store};
use crate::hash;
use crate::host::ArtifactPin;

/// How often a broken connection is tried again.
const TRIES: u32 = 4;

/// Brings a pinned file into the cache, if it is not there. Two runs do not bring the same file twice.
///
/// # Errors
/// When it has no URL, cannot be brought, or has the wrong hash (then what was brought is thrown away).
pub async fn fetch(pin: &ArtifactPin, store: &Store, progress: Progress<'_>) -> Result<PathBuf> {
    if let Some(path) = store.get(&pin.sha256)? {
        return Ok(path);
    }
    // Waiting for the lock may take as long as the other's download.
    let _held = tokio::task::block_in_place(|| store.lock(&pin.sha256, &pin.name, progress))?;
    if let Some(path) = store.get(&pin.sha256)? {
        return Ok(path);
    }
    let partial = store.partial_path(&pin.sha256);
    to_file(pin, &partial, progress).await?;
    let (sha256, _) = store.put(&partial)?;
    Ok(store.blob_path(&sha256))
}

/// Brings a pinned file to `partial`, going on where an earlier try left it.
///
/// # Errors
/// As [`fetch`].
pub async fn to_file(pin: &ArtifactPin, partial: &Path, progress: Progress<'_>) -> Result<()> {
    let url = pin.url.as_deref().ok_or_else(|| {
        anyhow!("artifact {} ({}) was built on the controller, and has no URL to bring it from", pin.name, pin.version)
    })?;
    let client = client()?;
    let mut tries = 0;
    loop {
        tries += 1;
        match once(&client, pin, url, partial, progress).await {
            Ok(()) => break,
            Err(Fault::Final(error)) => return Err(error),
            Err(Fault::Passing(error)) if tries == TRIES => {
                return Err(error.context(format!(
                    "artifact {}: {url} could not be brought in {TRIES} tries; what came is kept, and the next run goes on there",
                    pin.name
                )));
            }
            Err(Fault::Passing(error)) => {
                progress(&format!("{}: {error:#}; trying again", pin.name));
                tokio::time::sleep(Duration::from_millis(500) * 2_u32.pow(tries)).await;
            }
        }
    }
    let found = hash::sha256_reader(File::open(partial)?)?;
    if found != pin.sha256 {
        fs::remove_file(partial)?;
        bail!(
            "artifact {}: the file from {url} has the wrong checksum\n  expected {}\n  found    {found}\n\
             Either the publisher replaced the file, or something on the way did. It was thrown away; \
             if the new file is right, put its hash into artifacts.yml.",
            pin.name,
            pin.sha256
        );
    }
    Ok(())
}

enum Fault {
    /// Another try may help.
    Passing(anyhow::Error),
    Final(anyhow::Error),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Final(error.into())
    }
}

fn client() -> Result<Client> {
    // The first of all callers sets it; it is the same one for all.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .connect_timeout(Duration::from_secs(20))
        .read_timeout(Duration::from_secs(60))
        .user_agent(concat!("provision/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("making an HTTP client")
}

async fn once(
    client: &Client,
    pin: &ArtifactPin,
    url: &str,
    partial: &Path,
    progress: Progress<'_>,
) -> Result<(), Fault> {
    let have = fs::metadata(partial).map_or(0, |metadata| metadata.len());
    let mut request = client.get(url);
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let mut response = request.send().await.map_err(|error| Fault::Passing(anyhow::Error::new(error.without_url())))?;
    let mut at = match response.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT if starts_at(&response, have) => have,
        // Nothing is left to bring: the hash decides whether that is so.
        StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => return Ok(()),
        status => {
            let error = anyhow!("artifact {}: {url} answers {status}", pin.name);
            return Err(if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                Fault::Passing(error)
            } else {
                Fault::Final(error)
            });
        }
    };
    let total = response.content_length().map(|rest| at + rest);
    let mut file = OpenOptions::new().create(true).append(true).open(partial)?;
    if at == 0 {
        file.set_len(0)?;
    }
    let mut shown = Instant::now();
    loop {
        match response.chunk().await {
            Err(error) => return Err(Fault::Passing(anyhow::Error::new(error.without_url()))),
            Ok(None) => break,
            Ok(Some(chunk)) => {
                file.write_all(&chunk)?;
                at += chunk.len() as u64;
            }
        }
        if shown.elapsed() > Duration::from_millis(200) {
            shown = Instant::now();
            let of = total.map(|total| format!(" of {}", total / 1_000_000)).unwrap_or_default();
            progress(&format!("{}: {}{of} MB", pin.name, at / 1_000_000));
        }
    }
    file.sync_all()?;
    Ok(())
}

/// Whether the answer goes on at this byte.
fn starts_at(response: &Response, byte: u64) -> bool {
    response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|range| range.to_str().ok())
        .is_some_and(|range| range.starts_with(&format!("bytes {byte}-")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that cuts its first answer in the middle and knows ranges. Gives its address and the requests it got.
    async fn cutting_server(content: &'static [u8]) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/file", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = seen.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 4096];
                let n = stream.read(&mut buffer).await.unwrap();
                let request = String::from_utf8_lossy(&buffer[..n]).to_lowercase();
                let first = requests.lock().unwrap().is_empty();
                requests.lock().unwrap().push(request.clone());
                let from = request
                    .split_once("range: bytes=")
                    .and_then(|(_, rest)| rest.split_once('-')?.0.parse::<usize>().ok());
                let (head, from) = match from {
                    None => ("200 OK".to_owned(), 0),
                    Some(from) => {
                        let last = content.len() - 1;
                        let range = format!("content-range: bytes {from}-{last}/{}", content.len());
                        (format!("206 Partial Content\r\n{range}"), from)
                    }
                };
                let rest = &content[from..];
                let head = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", rest.len());
                stream.write_all(head.as_bytes()).await.unwrap();
                let end = if first { rest.len() / 2 } else { rest.len() };
                stream.write_all(&rest[..end]).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        (address, seen)
    }

    fn pin(url: String, sha256: String) -> ArtifactPin {
        ArtifactPin { name: "thing".into(), version: "v1".into(), sha256, url: Some(url) }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cut_download_goes_on_where_it_stopped() {
        let (url, seen) = cutting_server(b"0123456789").await;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path()).unwrap();
        let pin = pin(url, hash::sha256("0123456789"));
        let path = fetch(&pin, &store, &|_| {}).await.unwrap();
        assert_eq!(fs::read(path).unwrap(), b"0123456789");
        assert!(seen.lock().unwrap()[1].contains("range: bytes=5-"));
        fetch(&pin, &store, &|_| {}).await.unwrap();
        assert_eq!(seen.lock().unwrap().len(), 2, "what the cache has is not asked for");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wrong_checksum_names_both_hashes_and_leaves_nothing() {
        let (url, _) = cutting_server(b"0123456789").await;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path()).unwrap();
        let wanted = hash::sha256("something else");
        let error = fetch(&pin(url.clone(), wanted.clone()), &store, &|_| {}).await.unwrap_err().to_string();
        for part in ["artifact thing", &url, &wanted, &hash::sha256("0123456789")] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert!(!store.partial_path(&wanted).exists());
        assert_eq!(store.get(&wanted).unwrap(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_built_here_has_no_url() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path()).unwrap();
        let pin = ArtifactPin { url: None, ..pin(String::new(), hash::sha256("x")) };
        let error = fetch(&pin, &store, &|_| {}).await.unwrap_err().to_string();
        assert!(error.contains("built on the controller"), "{error}");
    }
}
