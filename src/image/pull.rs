//! Bringing an image of a registry into the cache, blob by blob, for hosts that cannot ask the registry themselves.
//!
//! The protocol is that of the OCI distribution specification, with the token handshake that Docker Hub, ghcr.io and quay.io ask
//! for. Everything is fixed by its digest: a registry that answers with something else is found out.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, RANGE, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use super::archive::{LARGEST_MANIFEST, limited};
use super::reference::Reference;
use crate::artifacts::{Progress, Store};
use crate::hash;
use crate::host::http_client;

/// What manifests and indexes are called.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// How often a broken connection is tried again.
const TRIES: u32 = 4;

/// No honest token is longer.
const LARGEST_TOKEN: u64 = 1 << 20;

/// Brings the image with this digest, for this machine's processor, into the cache, and links its blobs into `folder`.
///
/// # Errors
/// When the registry does not answer, does not have it (or asks for a login that is not there), or answers with another content.
pub async fn pull(reference: &str, digest: &str, store: &Store, folder: &Path, progress: Progress<'_>) -> Result<()> {
    let parsed = Reference::parse(reference).with_context(|| format!("{reference:?} is not the name of an image"))?;
    let (registry, name) = parsed.repository.split_once('/').context("an image without a registry")?;
    let mut puller = Puller { registry: Registry::new(registry, name)?, store, folder, progress, what: reference };
    puller.image(digest).await.with_context(|| format!("pulling the image {reference}@{digest}"))
}

/// What the cache has of an image of a registry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Hashes of its manifests, configuration and layers that are there. Their content is not looked at, but for manifests.
    pub files: Vec<String>,
    /// Nothing that this machine's processor needs is missing.
    pub complete: bool,
}

/// Looks which blobs of an image the cache has.
///
/// # Errors
/// When the cache cannot be read.
pub fn pulled(digest: &str, store: &Store) -> Result<Pulled> {
    let mut pulled = Pulled { files: Vec::new(), complete: true };
    let mut wanted = vec![digest.to_owned()];
    let mut is_manifest = true;
    // From an index to a manifest, and from there to its parts.
    while let Some(digest) = wanted.pop() {
        let Some(sha256) = sha256_of(&digest).ok().filter(|it| store.size(it).is_ok_and(|size| size.is_some())) else {
            pulled.complete = false;
            continue;
        };
        pulled.files.push(sha256.to_owned());
        if !std::mem::take(&mut is_manifest) {
            continue;
        }
        let text = limited(File::open(store.blob_path(sha256))?).unwrap_or_default();
        let manifest: Value = serde_json::from_slice(&text).unwrap_or_default();
        let of = |part: &Value| part["digest"].as_str().unwrap_or_default().to_owned();
        if let Some(platforms) = manifest["manifests"].as_array() {
            is_manifest = true;
            wanted.extend(platforms.iter().find(|it| is_this_platform(&it["platform"])).map(of));
            pulled.complete &= !wanted.is_empty();
        } else {
            wanted.push(of(&manifest["config"]));
            wanted.extend(manifest["layers"].as_array().into_iter().flatten().map(of));
        }
    }
    Ok(pulled)
}

struct Puller<'a> {
    registry: Registry,
    store: &'a Store,
    folder: &'a Path,
    progress: Progress<'a>,
    what: &'a str,
}

impl Puller<'_> {
    async fn image(&mut self, digest: &str) -> Result<()> {
        let mut manifest = self.manifest(digest).await?;
        if let Some(chosen) = chosen_of(&manifest)?.map(str::to_owned) {
            manifest = self.manifest(&chosen).await?;
        }
        let parts: Vec<_> =
            [&manifest["config"]].into_iter().chain(manifest["layers"].as_array().into_iter().flatten()).collect();
        let total = parts.len();
        for (index, part) in parts.into_iter().enumerate() {
            let digest = part["digest"].as_str().context("its manifest has a part without a digest")?;
            let size = part["size"].as_u64().context("its manifest has a part without a size")?;
            self.blob(digest, size, &format!("{} of {total}", index + 1)).await?;
        }
        Ok(())
    }

    async fn manifest(&mut self, digest: &str) -> Result<Value> {
        let sha256 = sha256_of(digest)?;
        if self.store.get(sha256)?.is_none() {
            (self.progress)(&format!("{}: asking for its manifest", self.what));
            let request = |client: &Client, base: &str| {
                client.get(format!("{base}/manifests/{digest}")).header(ACCEPT, MANIFESTS)
            };
            let text = body(self.registry.send(request).await?, LARGEST_MANIFEST).await?;
            if hash::sha256(&text) != sha256 {
                bail!("the registry answers with another manifest than {digest}");
            }
            let work = self.store.work("manifest")?;
            let path = work.path().join("manifest.json");
            fs::write(&path, &text)?;
            self.store.put(&path)?;
        }
        let path = self.link(sha256)?;
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    async fn blob(&mut self, digest: &str, size: u64, which: &str) -> Result<()> {
        let sha256 = sha256_of(digest)?;
        if self.store.get(sha256)?.is_none() {
            let what = format!("{}, blob {which}", self.what);
            let _held = tokio::task::block_in_place(|| self.store.lock(sha256, &what, self.progress))?;
            if self.store.get(sha256)?.is_none() {
                let partial = self.store.partial_path(sha256);
                self.download(digest, size, &partial, &what).await?;
                if hash::sha256_reader(File::open(&partial)?)? != sha256 {
                    fs::remove_file(&partial)?;
                    bail!("the registry answers with another content than {digest}; it was thrown away");
                }
                self.store.put(&partial)?;
            }
        }
        self.link(sha256)?;
        Ok(())
    }

    async fn download(&mut self, digest: &str, size: u64, partial: &Path, what: &str) -> Result<()> {
        let mut tries = 1;
        loop {
            match self.once(digest, size, partial, what).await {
                Ok(()) => return Ok(()),
                // What came is kept, and the next try goes on there.
                Err(error) if tries < TRIES && error.downcast_ref::<reqwest::Error>().is_some() => {
                    (self.progress)(&format!("{what}: {error:#}; trying again"));
                    tokio::time::sleep(Duration::from_millis(500) * 2_u32.pow(tries)).await;
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn once(&mut self, digest: &str, size: u64, partial: &Path, what: &str) -> Result<()> {
        let have = fs::metadata(partial).map_or(0, |metadata| metadata.len());
        let request = |client: &Client, base: &str| {
            let request = client.get(format!("{base}/blobs/{digest}"));
            if have > 0 { request.header(RANGE, format!("bytes={have}-")) } else { request }
        };
        let mut response = match self.registry.send(request).await {
            // Nothing is left to bring: the hash decides whether that is so.
            Err(error)
                if error.downcast_ref::<Refused>().is_some_and(|it| it.0 == StatusCode::RANGE_NOT_SATISFIABLE) =>
            {
                return Ok(());
            }
            other => other?,
        };
        let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let goes_on = range.is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
        let mut file = OpenOptions::new().create(true).append(true).open(partial)?;
        let mut at = if goes_on { have } else { 0 };
        file.set_len(at)?;
        let mut shown = Instant::now();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            file.write_all(&chunk)?;
            at += chunk.len() as u64;
            // The hash would say so, too, but only when the disk is full.
            if at > size {
                fs::remove_file(partial)?;
                bail!("the registry answers with more than the {size} bytes of {digest}; it was thrown away");
            }
            if shown.elapsed() > Duration::from_millis(200) {
                shown = Instant::now();
                (self.progress)(&format!("{what}: {} MB", at / 1_000_000));
            }
        }
        Ok(file.sync_all()?)
    }

    fn link(&self, sha256: &str) -> Result<PathBuf> {
        let to = self.folder.join(sha256);
        if !to.exists() {
            let from = self.store.blob_path(sha256);
            // On another file system than the cache's it is copied.
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))?;
        }
        Ok(to)
    }
}

/// A registry answered with this status.
#[derive(Debug, thiserror::Error)]
#[error("the registry answers {0}{hint}", hint = login_hint(*.0))]
struct Refused(StatusCode);

fn login_hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; log in there with `docker login` or the like, so that ~/.docker/config.json has it"
        }
        _ => "",
    }
}

/// One repository of a registry.
struct Registry {
    client: Client,
    /// `https://ghcr.io/v2/mlflow/mlflow`.
    base: String,
    /// `Authorization` as the last challenge made it.
    authorization: Option<String>,
    /// `user:password` of the user's Docker configuration, in base64.
    login: Option<String>,
}

impl Registry {
    fn new(registry: &str, name: &str) -> Result<Self> {
        let host = registry.split(':').next().unwrap_or_default();
        let scheme = if host == "localhost" || host.starts_with("127.") { "http" } else { "https" };
        // The name on images and the name of the machine differ for this one only.
        let machine = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let client = http_client()
            .connect_timeout(Duration::from_secs(20))
            .read_timeout(Duration::from_secs(60))
            .build()
            .context("making an HTTP client")?;
        let base = format!("{scheme}://{machine}/v2/{name}");
        Ok(Self { client, base, authorization: None, login: login(registry) })
    }

    /// Sends a request, answering the registry's question for a token once.
    async fn send(&mut self, request: impl Fn(&Client, &str) -> RequestBuilder) -> Result<Response> {
        for asked in [false, true] {
            let mut built = request(&self.client, &self.base);
            if let Some(authorization) = &self.authorization {
                built = built.header(AUTHORIZATION, authorization);
            }
            let response = built.send().await.map_err(reqwest::Error::without_url)?;
            if response.status() == StatusCode::UNAUTHORIZED && !asked {
                let challenge = response.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
                self.authorization = Some(self.answer(challenge.unwrap_or_default()).await?);
                continue;
            }
            if response.status().is_success() {
                return Ok(response);
            }
            if response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS {
                response.error_for_status_ref().map_err(reqwest::Error::without_url)?;
            }
            return Err(Refused(response.status()).into());
        }
        Err(Refused(StatusCode::UNAUTHORIZED).into())
    }

    /// The header that a challenge asks for: a token of the service that it names, or the login itself.
    async fn answer(&self, challenge: &str) -> Result<String> {
        let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            let login = self.login.as_ref().ok_or(Refused(StatusCode::UNAUTHORIZED))?;
            return Ok(format!("Basic {login}"));
        }
        let parameters = parameters(rest);
        let parameter = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let realm = parameter("realm").ok_or(Refused(StatusCode::UNAUTHORIZED))?;
        let mut url = reqwest::Url::parse(realm).map_err(|_| anyhow!("the registry's realm {realm:?} is no URL"))?;
        for name in ["service", "scope"] {
            if let Some(value) = parameter(name) {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let mut request = self.client.get(url);
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, format!("Basic {login}"));
        }
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        if !response.status().is_success() {
            return Err(Refused(response.status()).into());
        }
        let answer: Value = serde_json::from_slice(&body(response, LARGEST_TOKEN).await?)
            .context("the registry's token service does not answer in JSON")?;
        let token = answer["token"].as_str().or(answer["access_token"].as_str());
        Ok(format!("Bearer {}", token.context("the registry's token service gave no token")?))
    }
}

/// All of an answer that may be at most this long.
async fn body(mut response: Response, longest: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > longest {
            bail!("the registry's answer is longer than {} MiB", longest >> 20);
        }
    }
    Ok(bytes)
}

/// `key="value",key="value"` of a challenge.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([',', ' ']).to_ascii_lowercase();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((key, value.to_owned()));
        rest = after;
    }
    found
}

/// What `docker login` wrote for a registry.
fn login(registry: &str) -> Option<String> {
    let folder = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")))?;
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).ok()?).ok()?;
    let hub = "https://index.docker.io/v1/";
    let entry = [registry, if registry == "docker.io" { hub } else { registry }];
    let auth = entry.iter().find_map(|name| config["auths"][*name]["auth"].as_str())?;
    // Only what is a login: a broken entry must not be sent anywhere.
    STANDARD.decode(auth).ok().filter(|login| login.contains(&b':')).map(|_| auth.to_owned())
}

/// The digest of the manifest for this machine in an index; `None` for what is a manifest itself.
///
/// # Errors
/// When the image is not made for this machine's processor.
pub(super) fn chosen_of(manifest: &Value) -> Result<Option<&str>> {
    let Some(platforms) = manifest["manifests"].as_array() else { return Ok(None) };
    let chosen = platforms.iter().find(|it| is_this_platform(&it["platform"])).and_then(|it| it["digest"].as_str());
    chosen.map(Some).with_context(|| format!("it is not made for linux/{}", architecture()))
}

pub(super) fn sha256_of(digest: &str) -> Result<&str> {
    digest
        .strip_prefix("sha256:")
        .filter(|sha256| hash::is_sha256(sha256))
        .with_context(|| format!("{digest:?} is not a digest like sha256:…"))
}

pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn is_this_platform(platform: &Value) -> bool {
    platform["os"] == "linux" && platform["architecture"] == architecture()
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
