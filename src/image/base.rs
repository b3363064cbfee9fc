//! Images that others start from: `base: { artifact: NAME }` of a recipe.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{archive, build, pull};
use crate::artifacts::{Artifact, Lock, Progress, Source, Store, download, script};

/// Where images are built.
#[derive(Debug, Clone, Copy)]
pub struct Workshop<'a> {
    /// The project's folder, without links: with the workspace that `cargo:` names programs of.
    pub root: &'a Path,
    /// The project's artifacts, which bases are among.
    pub lock: &'a Lock,
    pub store: &'a Store,
}

/// An image that another starts from, for this machine's platform.
#[derive(Debug)]
pub struct BaseImage {
    /// Lowest first.
    pub layers: Vec<BaseLayer>,
    /// Digests of the uncompressed layers.
    pub diff_ids: Vec<Value>,
    /// `config` of its configuration: environment, user, entry point...
    pub config: Value,
}

/// A layer of it, as it came.
#[derive(Debug)]
pub struct BaseLayer {
    pub path: PathBuf,
    pub media_type: String,
    pub sha256: String,
    /// Bytes, as compressed as it is.
    pub size: u64,
}

/// Key of what fixes the content of a base. `recipes` are the recipes that led to it.
///
/// # Errors
/// When there is no such artifact, an input of it cannot be read, or recipes lead back to themselves.
pub(super) fn key(name: &str, workshop: &Workshop<'_>, scope: build::Scope, recipes: &[PathBuf]) -> Result<String> {
    let artifact = workshop.lock.get(name)?;
    match &artifact.source {
        Source::Registry { digest, .. } => Ok(digest.clone()),
        Source::Url { sha256, .. } => Ok(sha256.clone()),
        Source::Script(recipe) => script::key(artifact, recipe, workshop.root),
        Source::Image(recipe) => build::key(&workshop.root.join(recipe), workshop, scope, recipes),
    }
}

/// Brings a base from where its artifact is pinned, or builds it; its blobs go into `folder`.
///
/// # Errors
/// When it cannot be had, is no OCI image, or is not for this machine's processor.
pub(super) fn bring(name: &str, workshop: &Workshop<'_>, folder: &Path, progress: Progress<'_>) -> Result<BaseImage> {
    std::fs::create_dir_all(folder)?;
    let artifact = workshop.lock.get(name)?;
    let digest = blobs(artifact, workshop, folder, progress).with_context(|| format!("{}: {name}", artifact.place))?;
    read(folder, &digest).with_context(|| format!("{}: {name} as the base of an image", artifact.place))
}

/// The digest of its manifest or index, which is in `folder` then with all that is below it.
fn blobs(artifact: &Artifact, workshop: &Workshop<'_>, folder: &Path, progress: Progress<'_>) -> Result<String> {
    let Workshop { root, lock, store } = *workshop;
    let archive = match &artifact.source {
        Source::Registry { reference, digest } => {
            waiting(pull::pull(reference, digest, store, folder, progress))?;
            return Ok(digest.clone());
        }
        Source::Url { .. } => waiting(download::fetch(&lock.pin(&artifact.name)?, store, progress))?,
        Source::Script(recipe) => store.blob_path(&script::ensure(artifact, recipe, root, store, progress)?.sha256),
        Source::Image(recipe) => {
            let image = build::build(&root.join(recipe), workshop, progress)?;
            store.blob_path(&image.archive.sha256)
        }
    };
    archive::split(&archive, folder)?;
    only_image(&archive)
}

/// Runs what waits for a network on threads of its own: those who build are not asynchronous, but may be called by who is.
fn waiting<T: Send>(work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let run = || tokio::runtime::Runtime::new().context("starting to wait for the network")?.block_on(work);
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The digest of the one image in an OCI layout.
fn only_image(layout: &Path) -> Result<String> {
    for entry in tar::Archive::new(archive::open(layout)?).entries()? {
        let entry = entry?;
        if entry.path()?.to_string_lossy().trim_start_matches("./") != "index.json" {
            continue;
        }
        let text = archive::limited(entry).context("reading its index.json")?;
        let index: Value = serde_json::from_slice(&text).context("reading its index.json")?;
        let all = index["manifests"].as_array().into_iter().flatten().filter_map(|it| it["digest"].as_str());
        // One image may be there under several names.
        let all: BTreeSet<&str> = all.collect();
        let [digest] = all.iter().collect::<Vec<_>>()[..] else {
            bail!("it has {} images where one is needed", all.len());
        };
        return Ok((*digest).to_owned());
    }
    bail!("it is no OCI image layout: it has no index.json")
}

fn read(folder: &Path, digest: &str) -> Result<BaseImage> {
    let mut manifest = json(folder, digest)?;
    if let Some(chosen) = pull::chosen_of(&manifest)?.map(str::to_owned) {
        manifest = json(folder, &chosen)?;
    }
    let config = json(folder, manifest["config"]["digest"].as_str().unwrap_or_default())?;
    if !pull::is_this_platform(&config) {
        bail!("it is for {}/{}, not for linux/{}", config["os"], config["architecture"], pull::architecture());
    }
    let layers = manifest["layers"].as_array().context("its manifest has no layers")?;
    let layers = layers.iter().map(|layer| base_layer(folder, layer)).collect::<Result<Vec<_>>>()?;
    let diff_ids = config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
    if diff_ids.len() != layers.len() {
        bail!("its configuration speaks of {} layers and its manifest of {}", diff_ids.len(), layers.len());
    }
    Ok(BaseImage { layers, diff_ids, config: config["config"].clone() })
}

fn base_layer(folder: &Path, layer: &Value) -> Result<BaseLayer> {
    let sha256 = pull::sha256_of(layer["digest"].as_str().unwrap_or_default())?.to_owned();
    let media_type = match layer["mediaType"].as_str().unwrap_or_default() {
        // The same under the name that the specification has for it: a manifest has one family of names.
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        other if other.starts_with("application/vnd.oci.image.layer.v1.tar") => other,
        other => bail!("its layer {sha256} has the type {other:?}, which is not understood"),
    };
    let path = folder.join(&sha256);
    let size = std::fs::metadata(&path).with_context(|| format!("its layer {sha256} is not there"))?.len();
    Ok(BaseLayer { path, media_type: media_type.to_owned(), sha256, size })
}

fn json(folder: &Path, digest: &str) -> Result<Value> {
    let path = folder.join(pull::sha256_of(digest)?);
    let file = File::open(&path).with_context(|| format!("its part {digest} is not there"))?;
    let text = archive::limited(file).with_context(|| format!("its part {digest}"))?;
    serde_json::from_slice(&text).with_context(|| format!("its part {digest} is not what an image has"))
}

#[cfg(test)]
#[path = "base_tests.rs"]
mod tests;
