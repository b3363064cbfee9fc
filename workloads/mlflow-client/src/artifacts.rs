//! Artifacts: listing, downloading and uploading whole folders, through MLflow's proxy or S3.

use std::path::{Path, PathBuf};

use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::client::Client;
use crate::error::Error;
use crate::s3::S3;
use crate::send::{Place, Repeat, pause, send};
use crate::source::Location;

/// Most bytes of one folder: a model of ours has a quarter of a megabyte.
pub const MAX_BYTES: u64 = 1 << 30;
/// Most files of one folder.
pub const MAX_FILES: usize = 10_000;
/// Deepest folder.
const MAX_DEPTH: usize = 16;

/// A file among artifacts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// From the folder that was asked for, with `/`.
    pub path: String,
    pub size: u64,
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    files: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    #[serde(default)]
    is_dir: bool,
    #[serde(default)]
    file_size: Option<u64>,
}

/// Where a download goes.
enum Target<'a> {
    Memory(&'a mut Vec<u8>),
    File { file: &'a mut tokio::fs::File, path: &'a Path },
}

impl Target<'_> {
    async fn write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        match self {
            Self::Memory(bytes) => {
                bytes.extend_from_slice(chunk);
                Ok(())
            }
            Self::File { file, path } => {
                file.write_all(chunk).await.map_err(|source| Error::File { path: path.to_path_buf(), source })
            }
        }
    }
}

impl Client {
    /// All files below a place, in the order of their names. None when there is nothing.
    ///
    /// # Errors
    /// No usable answer; more than [`MAX_FILES`]; a name that leads out of the folder.
    pub async fn list(&self, at: &Location) -> Result<Vec<Stored>, Error> {
        let mut files = match at {
            Location::Proxy { .. } => self.list_proxy(at).await?,
            Location::S3 { bucket, key } => self.list_s3(at, bucket, key).await?,
        };
        for file in &files {
            if !is_below(&file.path) {
                return Err(wrong(at, format!("holds a file named {:?}, which leads out of the folder", file.path)));
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    async fn list_proxy(&self, at: &Location) -> Result<Vec<Stored>, Error> {
        let mut files = Vec::new();
        let mut folders = vec![(String::new(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let Location::Proxy { path } = at.join(&folder) else { break };
            let mut url = self.address.url(["api", "2.0", "mlflow-artifacts", "artifacts"]);
            url.query_pairs_mut().append_pair("path", &path);
            let place = self.place(format!("the listing of {path}"));
            let response = send(&place, self.attempts, Repeat::Safe, || {
                self.address.login(self.http.get(url.clone())).timeout(self.patience)
            })
            .await
            .map_err(|e| self.explain(e))?;
            let body = response.bytes().await.map_err(|e| place.unreachable(&e))?;
            let listing: Listing = serde_json::from_slice(&body).map_err(|e| place.answer(e.to_string()))?;
            for entry in listing.files {
                // One level at a time: MLflow names the entries from the folder that was asked for.
                let path = if folder.is_empty() { entry.path } else { format!("{folder}/{}", entry.path) };
                if entry.is_dir && depth == MAX_DEPTH {
                    return Err(wrong(at, format!("has more than {MAX_DEPTH} folders in one another")));
                } else if entry.is_dir {
                    folders.push((path, depth + 1));
                } else {
                    files.push(Stored { path, size: entry.file_size.unwrap_or_default() });
                }
            }
            if files.len() + folders.len() > MAX_FILES {
                return Err(wrong(at, format!("has more than {MAX_FILES} files")));
            }
        }
        Ok(files)
    }

    async fn list_s3(&self, at: &Location, bucket: &str, key: &str) -> Result<Vec<Stored>, Error> {
        let prefix = if key.is_empty() { String::new() } else { format!("{key}/") };
        let place = Place { server: self.s3.shown(), call: format!("the listing of {at}") };
        let (mut files, mut from) = (Vec::new(), None::<String>);
        loop {
            let url = self.s3.list(bucket, &prefix, from.as_deref())?;
            let response =
                send(&place, self.attempts, Repeat::Safe, || self.http.get(url.clone()).timeout(self.patience)).await?;
            let text = response.text().await.map_err(|e| place.unreachable(&e))?;
            let page = S3::read_list(&text).map_err(|e| place.answer(e))?;
            for (key, size) in page.objects {
                let path = key.strip_prefix(&prefix).unwrap_or(&key);
                // A key that ends with a slash is a folder that somebody made by hand.
                if !path.is_empty() && !path.ends_with('/') {
                    files.push(Stored { path: path.to_owned(), size });
                }
            }
            if files.len() > MAX_FILES {
                return Err(wrong(at, format!("has more than {MAX_FILES} files")));
            }
            from = page.next;
            if from.is_none() {
                return Ok(files);
            }
        }
    }

    /// Downloads everything below a place into a folder, which is made if absent. What is there
    /// under the same names is replaced. After an error the folder holds a part.
    ///
    /// # Errors
    /// Nothing there; no usable answer; more than [`MAX_BYTES`] or [`MAX_FILES`]; a file that
    /// arrives with another length than announced; a full disk.
    pub async fn download(&self, from: &Location, to: &Path) -> Result<Vec<Stored>, Error> {
        let mut files = self.list(from).await?;
        if files.is_empty() {
            return Err(wrong(
                from,
                "nothing is there; was the upload finished, and is it the folder of the model?".to_owned(),
            ));
        }
        let mut left = MAX_BYTES;
        for file in &mut files {
            let target = file.path.split('/').fold(to.to_owned(), |at, part| at.join(part));
            if let Some(folder) = target.parent() {
                tokio::fs::create_dir_all(folder)
                    .await
                    .map_err(|source| Error::File { path: folder.to_owned(), source })?;
            }
            file.size = self.download_to(&from.join(&file.path), &target, left).await?;
            left -= file.size;
        }
        Ok(files)
    }

    /// One file, of at most `most` bytes.
    ///
    /// # Errors
    /// As [`Self::download`].
    pub async fn download_bytes(&self, from: &Location, most: u64) -> Result<Vec<u8>, Error> {
        let mut attempt = 1;
        loop {
            let mut bytes = Vec::new();
            match self.pull(from, most, &mut Target::Memory(&mut bytes)).await {
                Ok(_) => return Ok(bytes),
                Err(error) if error.is_temporary() && attempt < self.attempts => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause(attempt)).await;
            attempt += 1;
        }
    }

    async fn download_to(&self, from: &Location, to: &Path, most: u64) -> Result<u64, Error> {
        let file_error = |source| Error::File { path: to.to_owned(), source };
        let mut attempt = 1;
        loop {
            let mut file = tokio::fs::File::create(to).await.map_err(file_error)?;
            match self.pull(from, most, &mut Target::File { file: &mut file, path: to }).await {
                Ok(size) => {
                    file.flush().await.map_err(file_error)?;
                    return Ok(size);
                }
                Err(error) if error.is_temporary() && attempt < self.attempts => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause(attempt)).await;
            attempt += 1;
        }
    }

    /// One attempt at a file. Its length.
    async fn pull(&self, from: &Location, most: u64, target: &mut Target<'_>) -> Result<u64, Error> {
        let place = self.artifact_place("the download of", from);
        let mut response = self.open(&place, from).await?;
        let announced = response.content_length();
        let mut size = 0;
        loop {
            // A peer that falls silent in the middle must not hold us for ever.
            let chunk = tokio::time::timeout(self.patience, response.chunk()).await;
            let chunk = chunk.map_err(|_| Error::Unreachable {
                server: place.server.clone(),
                call: place.call.clone(),
                reason: "it stopped in the middle".to_owned(),
                sent: true,
            })?;
            let Some(chunk) = chunk.map_err(|e| place.unreachable(&e))? else { break };
            size += chunk.len() as u64;
            if size > most {
                return Err(wrong(from, format!("is larger than allowed ({MAX_BYTES} bytes for a whole folder)")));
            }
            target.write(&chunk).await?;
        }
        match announced {
            Some(announced) if announced != size => Err(Error::Unreachable {
                server: place.server,
                call: place.call,
                reason: format!("{size} of {announced} bytes arrived"),
                sent: true,
            }),
            _ => Ok(size),
        }
    }

    async fn open(&self, place: &Place, from: &Location) -> Result<Response, Error> {
        let (url, ours) = self.file_url(from, &Method::GET)?;
        // The pauses between attempts are the caller's, for the body may break off as well.
        let opened = send(place, 1, Repeat::Safe, || self.sign(self.http.get(url.clone()), ours));
        let opened = tokio::time::timeout(self.patience, opened).await.map_err(|_| Error::Unreachable {
            server: place.server.clone(),
            call: place.call.clone(),
            reason: "it took too long".to_owned(),
            sent: true,
        })?;
        opened.map_err(|e| self.explain(e))
    }

    /// Uploads all files of a folder, below a place.
    ///
    /// # Errors
    /// No usable answer; an unreadable file; an empty folder.
    pub async fn upload(&self, from: &Path, to: &Location) -> Result<Vec<Stored>, Error> {
        let files = local_files(from)?;
        if files.is_empty() {
            return Err(wrong(to, format!("nothing to upload: {} has no files", from.display())));
        }
        let mut stored = Vec::with_capacity(files.len());
        for (path, file) in files {
            let bytes = tokio::fs::read(&file).await.map_err(|source| Error::File { path: file.clone(), source })?;
            let size = bytes.len() as u64;
            self.upload_bytes(bytes, &to.join(&path)).await?;
            stored.push(Stored { path, size });
        }
        Ok(stored)
    }

    /// Uploads one file.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn upload_bytes(&self, bytes: Vec<u8>, to: &Location) -> Result<(), Error> {
        let place = self.artifact_place("the upload of", to);
        let (url, ours) = self.file_url(to, &Method::PUT)?;
        // Copying a body for another attempt costs nothing this way.
        let body = bytes::Bytes::from(bytes);
        let sent = send(&place, self.attempts, Repeat::Safe, || {
            let request = self.http.put(url.clone()).body(body.clone()).timeout(self.patience.saturating_mul(10));
            self.sign(request, ours)
        });
        sent.await.map(|_| ()).map_err(|e| self.explain(e))
    }

    fn artifact_place(&self, what: &str, at: &Location) -> Place {
        let server = match at {
            Location::Proxy { .. } => self.address.shown().to_owned(),
            Location::S3 { .. } => self.s3.shown(),
        };
        Place { server, call: format!("{what} {at}") }
    }

    /// The address of a file, and whether MLflow's credentials belong to it.
    fn file_url(&self, at: &Location, method: &Method) -> Result<(Url, bool), Error> {
        match at {
            Location::Proxy { path } => {
                let segments = ["api", "2.0", "mlflow-artifacts", "artifacts"].into_iter().chain(path.split('/'));
                Ok((self.address.url(segments), true))
            }
            Location::S3 { bucket, key } if *method == Method::PUT => Ok((self.s3.put(bucket, key)?, false)),
            Location::S3 { bucket, key } => Ok((self.s3.get(bucket, key)?, false)),
        }
    }

    fn sign(&self, request: RequestBuilder, ours: bool) -> RequestBuilder {
        if ours { self.address.login(request) } else { request }
    }
}

fn wrong(at: &Location, reason: String) -> Error {
    Error::Artifacts { place: at.to_string(), reason }
}

/// Is this a plain path downwards?
fn is_below(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Files below a folder, in the order of their names: their path with `/`, and where they are.
fn local_files(root: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut files = Vec::new();
    let mut folders = vec![(String::new(), root.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        let error = |source| Error::File { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(error)? {
            let entry = entry.map_err(error)?;
            let Ok(name) = entry.file_name().into_string() else {
                return Err(error(std::io::Error::other("has a file whose name is not UTF-8")));
            };
            let path = format!("{prefix}{name}");
            // Links are followed: what is behind them is what is to be uploaded.
            if std::fs::metadata(entry.path()).map_err(error)?.is_dir() {
                folders.push((format!("{path}/"), entry.path()));
            } else {
                files.push((path, entry.path()));
            }
            if files.len() + folders.len() > MAX_FILES {
                return Err(error(std::io::Error::other(format!("has more than {MAX_FILES} files"))));
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{is_below, local_files};

    #[test]
    fn names_that_lead_out_are_not_below() {
        for path in ["a", "a/b.onnx", "..a", "a b"] {
            assert!(is_below(path), "{path}");
        }
        for path in ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a\\b", "./a", "a/"] {
            assert!(!is_below(path), "{path}");
        }
    }

    #[test]
    fn folders_in_folders() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("b/c")).unwrap();
        for name in ["z", "b/c/y", "b/x"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let names: Vec<_> = local_files(dir.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["b/c/y", "b/x", "z"]);
        assert!(local_files(&dir.path().join("absent")).unwrap_err().to_string().contains("absent"));
    }
}
