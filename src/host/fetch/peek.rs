//! Looking into an artifact that may not be on this host, without bringing it there: planning changes nothing.

use std::io::{Read as _, Seek as _};

use anyhow::{Context, Result, anyhow, bail};
use reqwest::Url;
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::fs::File;

use super::{Fetcher, Progress, client, mib, shown};
use crate::hash;
use crate::host::{ArtifactPin, files};

/// What is looked into is held in memory.
const LARGEST: u64 = 64 * 1024 * 1024;

impl Fetcher {
    /// See [`crate::host::ReadHost::peek`].
    pub async fn peek(&self, artifact: &ArtifactPin, progress: Progress<'_>) -> Result<Vec<u8>> {
        self.look(artifact, progress).await.with_context(|| format!("artifact {} {}", artifact.name, artifact.version))
    }

    async fn look(&self, artifact: &ArtifactPin, progress: Progress<'_>) -> Result<Vec<u8>> {
        if let Some(content) = files::read(&self.cache.join(&artifact.sha256))?
            && hash::sha256(&content) == artifact.sha256
        {
            return Ok(content);
        }
        if let Some(content) = self.controllers(&artifact.sha256).await.context("from the controller")? {
            return checked(content, artifact, "the controller");
        }
        let url = artifact.url.as_deref().with_context(|| {
            format!("neither this host nor the controller has it (sha256 {}), and it has no URL", artifact.sha256)
        })?;
        let url = Url::parse(url).with_context(|| format!("{url:?} is no URL"))?;
        let source = shown(&url);
        progress(&format!("{}: looking at {source}", artifact.name));
        let content = self.downloaded(url).await.with_context(|| format!("cannot look at {source}"))?;
        checked(content, artifact, &source)
    }

    async fn controllers(&self, sha256: &str) -> Result<Option<Vec<u8>>> {
        let mut file = std::fs::File::from(memfd_create("provision", MemfdFlags::CLOEXEC)?);
        if !self.blobs.fetch(sha256, &mut File::from_std(file.try_clone()?)).await? {
            return Ok(None);
        }
        file.rewind()?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok(Some(content))
    }

    async fn downloaded(&self, url: Url) -> Result<Vec<u8>> {
        let client = self.client.get_or_try_init(|| async { client() }).await?;
        // Without the address, which may hold a password.
        let failed = |error: reqwest::Error| anyhow!(error.without_url());
        let mut response = client.get(url).send().await.map_err(failed)?;
        if !response.status().is_success() {
            bail!("it answered {}", response.status());
        }
        let mut content = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            content.extend_from_slice(&chunk);
            if content.len() as u64 > LARGEST {
                bail!("it is larger than {}, which is too much to hold in memory", mib(LARGEST));
            }
        }
        Ok(content)
    }
}

fn checked(content: Vec<u8>, artifact: &ArtifactPin, source: &str) -> Result<Vec<u8>> {
    let found = hash::sha256(&content);
    if found != artifact.sha256 {
        bail!(
            "wrong checksum: {source} gave sha256 {found}, but artifacts.yml pins {}; do not use it before you know why they differ",
            artifact.sha256
        );
    }
    Ok(content)
}
