//! What names in stage files stand for: artifacts of the lock and images of recipes, built where they must be.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::build::{Scope, cached, key};
use super::dockerfile::{self, DockerBuild, DockerSpec};
use super::{BuiltImage, Workshop, build};
use crate::artifacts::{Artifact, Lock, Progress, Source, Store, download, script};
use crate::host::ArtifactPin;

/// An image, wherever it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// Built on the controller.
    Built(BuiltImage),
    /// Pulled by the host from a registry.
    Registry {
        /// With tag, without digest: `docker.io/library/postgres:17.11-bookworm`.
        reference: String,
        /// `sha256:…`.
        digest: String,
        /// The image as an archive, where the host is not to ask the registry.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        archive: Option<ArtifactPin>,
    },
    /// Built by BuildKit on the host.
    Dockerfile(DockerBuild),
}

impl ImageSource {
    /// What goes into the `image:` of a pod: with a tag for people and fixed by content.
    pub fn reference(&self) -> String {
        match self {
            Self::Built(image) => image.reference.clone(),
            Self::Dockerfile(build) => build.reference.clone(),
            Self::Registry { reference, digest, .. } => format!("{reference}@{digest}"),
        }
    }

    /// The name that containerd has it under, the one that a pod's reference leads to.
    pub fn stored_name(&self) -> String {
        match self {
            Self::Built(image) => image.reference.clone(),
            Self::Dockerfile(build) => build.reference.clone(),
            Self::Registry { digest, .. } => format!("{}@{digest}", self.repository()),
        }
    }

    /// What all builds or versions of it have in common: `provision.local/rul`, `docker.io/library/postgres`.
    pub fn repository(&self) -> &str {
        let (Self::Built(BuiltImage { reference, .. })
        | Self::Dockerfile(DockerBuild { reference, .. })
        | Self::Registry { reference, .. }) = self;
        reference.rsplit_once(':').map_or(reference, |(name, _)| name)
    }

    /// Digest of its manifest or index; `None` where only building tells it.
    pub fn digest(&self) -> Option<&str> {
        match self {
            Self::Built(image) => Some(&image.digest),
            Self::Registry { digest, .. } => Some(digest),
            Self::Dockerfile(_) => None,
        }
    }
}

/// One row of the list of artifacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub name: String,
    pub version: String,
    pub kind: crate::artifacts::Kind,
    /// URL, image reference, or `recipe PATH`.
    pub from: String,
    /// SHA-256 or digest; `None` for what is not built yet.
    pub hash: Option<String>,
    /// Bytes in the cache; `None` when it is not there.
    pub cached: Option<u64>,
    pub license: Option<String>,
}

/// The artifacts of a project and the cache that holds them.
#[derive(Debug, Clone)]
pub struct Sources {
    lock: Lock,
    store: Store,
    root: PathBuf,
}

impl Sources {
    /// `root` is the project's folder, which recipes are relative to.
    pub fn new(lock: Lock, store: Store, root: impl Into<PathBuf>) -> Self {
        Self { lock, store, root: root.into() }
    }

    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The file of an artifact; what comes from a recipe is built, if the cache does not have it. Brings nothing from a URL.
    ///
    /// # Errors
    /// When there is none of this name (with a suggestion), it is not a file, or building fails.
    pub fn artifact(&self, name: &str, progress: Progress<'_>) -> Result<ArtifactPin> {
        let artifact = self.lock.get(name)?;
        match &artifact.source {
            Source::Url { .. } | Source::Registry { .. } => self.lock.pin(name),
            Source::Script(recipe) => {
                let built = script::ensure(artifact, recipe, &self.root, &self.store, progress)?;
                Ok(ArtifactPin {
                    name: name.to_owned(),
                    version: artifact.version.clone(),
                    sha256: built.sha256,
                    url: None,
                })
            }
            Source::Image(recipe) => Ok(self.artifact_image_recipe(artifact, recipe, progress)?.archive),
        }
    }

    /// The image of a recipe, relative to the project; built, if the cache does not have it.
    ///
    /// # Errors
    /// When the recipe is wrong or outside of the project, or the build fails.
    pub fn image(&self, recipe: &str, progress: Progress<'_>) -> Result<BuiltImage> {
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !Path::new(recipe).components().all(inside) {
            bail!("the image recipe {recipe:?} leads out of the project; give a path below {}", self.root.display());
        }
        let root = self.real_root()?;
        build(&self.root.join(recipe), &self.workshop(&root), progress)
    }

    /// The image of an artifact; what comes from a recipe is built, if the cache does not have it.
    ///
    /// # Errors
    /// When there is none of this name (with a suggestion), it is not an image, or building fails.
    pub fn image_artifact(&self, name: &str, progress: Progress<'_>) -> Result<ImageSource> {
        let artifact = self.lock.get(name)?;
        match &artifact.source {
            Source::Registry { reference, digest } => {
                Ok(ImageSource::Registry { reference: reference.clone(), digest: digest.clone(), archive: None })
            }
            Source::Image(recipe) => Ok(ImageSource::Built(self.artifact_image_recipe(artifact, recipe, progress)?)),
            Source::Url { .. } | Source::Script(_) => {
                bail!("{}: artifact {name} is a file, not an image", artifact.place)
            }
        }
    }

    fn artifact_image_recipe(&self, artifact: &Artifact, recipe: &str, progress: Progress<'_>) -> Result<BuiltImage> {
        self.image(recipe, progress).with_context(|| format!("{}: artifact {}", artifact.place, artifact.name))
    }

    /// The image's name as a recipe (relative to the project) has it. Builds nothing.
    ///
    /// # Errors
    /// When the recipe is wrong or starts from an artifact that is not there.
    pub fn recipe_name(&self, recipe: &str) -> Result<String> {
        let recipe = super::load(&self.root.join(recipe))?.recipe;
        if let Some(base) = recipe.base_artifact() {
            self.lock.get(base)?;
        }
        Ok(recipe.name.value)
    }

    /// Key of what a recipe makes the artifact from; `None` for what is fixed by its own hash.
    ///
    /// # Errors
    /// When an input cannot be read.
    pub fn inputs(&self, artifact: &Artifact) -> Result<Option<String>> {
        match &artifact.source {
            Source::Url { .. } | Source::Registry { .. } => Ok(None),
            Source::Script(recipe) => script::key(artifact, recipe, &self.root).map(Some),
            Source::Image(recipe) => self.recipe_inputs(recipe).map(Some),
        }
    }

    /// Key of what in the project the image of a recipe is made from.
    ///
    /// # Errors
    /// When the recipe is wrong, or an input cannot be read.
    pub fn recipe_inputs(&self, recipe: &str) -> Result<String> {
        let root = self.real_root()?;
        key(&self.root.join(recipe), &self.workshop(&root), Scope::Project, &[])
    }

    fn real_root(&self) -> Result<PathBuf> {
        std::fs::canonicalize(&self.root).with_context(|| format!("reading {}", self.root.display()))
    }

    fn workshop<'a>(&'a self, root: &'a Path) -> Workshop<'a> {
        Workshop { root, lock: &self.lock, store: &self.store }
    }

    /// What a host needs to build the image of a Dockerfile.
    ///
    /// # Errors
    /// As [`dockerfile::prepare`].
    pub fn docker_build(&self, spec: &DockerSpec, progress: Progress<'_>) -> Result<DockerBuild> {
        dockerfile::prepare(spec, &self.root, &self.store, progress)
    }

    /// All artifacts, and what of them the cache has. Brings and builds nothing.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn list(&self) -> Result<Vec<Row>> {
        self.lock.iter().map(|artifact| self.row(artifact)).collect()
    }

    fn row(&self, artifact: &Artifact) -> Result<Row> {
        let (from, hash) = match &artifact.source {
            Source::Url { url, sha256 } => (url.clone(), Some(sha256.clone())),
            Source::Registry { reference, digest } => (reference.clone(), Some(digest.clone())),
            Source::Script(recipe) => {
                let built = script::cached(artifact, recipe, &self.root, &self.store)?;
                (format!("recipe {}", recipe.script), built.map(|built| built.sha256))
            }
            Source::Image(recipe) => {
                let root = self.real_root()?;
                let built = cached(&self.root.join(recipe), &self.workshop(&root))?;
                (format!("recipe {recipe}"), built.map(|image| image.archive.sha256))
            }
        };
        let file = hash.as_deref().filter(|hash| crate::hash::is_sha256(hash));
        let file = file.map(|hash| self.store.open_blob(hash)).transpose()?.flatten();
        Ok(Row {
            name: artifact.name.clone(),
            version: artifact.version.clone(),
            kind: artifact.kind,
            from,
            hash,
            cached: file.and_then(|file| Some(file.metadata().ok()?.len())),
            license: artifact.license.clone(),
        })
    }

    /// Brings or builds what the cache does not have of these artifacts. An image of a registry is pulled by the host, so there is
    /// nothing to bring for it here.
    ///
    /// # Errors
    /// The first that cannot be had.
    pub async fn fetch(&self, names: &[String], progress: Progress<'_>) -> Result<()> {
        for name in names {
            let artifact = self.lock.get(name)?;
            match &artifact.source {
                Source::Url { .. } => {
                    download::fetch(&self.lock.pin(name)?, &self.store, progress).await?;
                }
                Source::Registry { .. } => progress(&format!("{name}: pulled by the host, nothing to fetch")),
                Source::Script(_) | Source::Image(_) => {
                    tokio::task::block_in_place(|| self.artifact(name, progress))?;
                }
            }
        }
        Ok(())
    }

    /// Hashes every file that the cache has of the artifacts, from start to end. Answers with the names of those whose content is
    /// not what it must be; the next use brings or builds them again.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn verify(&self, progress: Progress<'_>) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        for row in self.list()? {
            let Some(hash) = row.hash.filter(|_| row.cached.is_some()) else {
                continue;
            };
            progress(&format!("{}: hashing", row.name));
            if !self.store.verify(&hash)? {
                self.store.forget(&hash)?;
                broken.push(row.name);
            }
        }
        Ok(broken)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::hash;

    const RECIPE: &str = "name: app\nfiles: [{ content: x, to: /x }]\n";

    fn sources(dir: &Path) -> Sources {
        std::fs::write(dir.join("build.sh"), "echo content > \"$1\"\n").unwrap();
        std::fs::write(dir.join("image.yml"), RECIPE).unwrap();
        let (sha256, digest) = (hash::sha256("file"), format!("sha256:{}", hash::sha256("image")));
        let text = format!(
            "file:\n  version: v1\n  kind: binary\n  url: https://example.org/file\n  sha256: {sha256}\n\
             pulled:\n  version: v1\n  kind: image\n  ref: example.org/pulled:v1\n  digest: {digest}\n\
             made:\n  version: v1\n  kind: binary\n  recipe: {{ script: build.sh }}\n\
             app:\n  version: v1\n  kind: image\n  recipe: {{ image: image.yml }}\n"
        );
        let lock = Lock::parse("artifacts.yml", &text).unwrap();
        Sources::new(lock, Store::at(dir.join("cache")).unwrap(), dir)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_list_says_what_the_cache_has_and_verify_what_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path());
        let cached = || -> Vec<String> {
            let rows = sources.list().unwrap();
            rows.into_iter().filter(|row| row.cached.is_some()).map(|row| row.name).collect()
        };
        assert_eq!(cached(), Vec::<String>::new());
        let names = ["made".to_owned(), "app".to_owned(), "pulled".to_owned()];
        sources.fetch(&names, &|_| {}).await.unwrap();
        assert_eq!(cached(), ["app", "made"]);
        assert_eq!(sources.verify(&|_| {}).unwrap(), Vec::<String>::new());

        let made = sources.artifact("made", &|_| {}).unwrap();
        let path = sources.store().blob_path(&made.sha256);
        // The same size and time: only hashing finds it.
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "CONTENT\n").unwrap();
        std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
        assert_eq!(sources.verify(&|_| {}).unwrap(), ["made"]);
        assert_eq!(cached(), ["app"]);
        assert_eq!(sources.artifact("made", &|_| {}).unwrap(), made, "built again");
    }

    #[test]
    fn names_lead_to_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path());
        let image = sources.image_artifact("app", &|_| {}).unwrap();
        assert!(image.reference().starts_with("provision.local/app:"));
        assert_eq!(sources.image("image.yml", &|_| {}).map(ImageSource::Built).unwrap(), image);
        let pulled = sources.image_artifact("pulled", &|_| {}).unwrap();
        assert_eq!(pulled.stored_name(), format!("example.org/pulled@{}", pulled.digest().unwrap()));
        assert_eq!(sources.artifact("file", &|_| {}).unwrap().url.as_deref(), Some("https://example.org/file"));
        let error = sources.image_artifact("made", &|_| {}).unwrap_err().to_string();
        assert_eq!(error, "artifacts.yml:12:3: artifact made is a file, not an image");
        let error = sources.artifact("pulled", &|_| {}).unwrap_err().to_string();
        assert!(error.ends_with("use it as `image: { artifact: pulled }`"), "{error}");
        assert!(sources.image("../image.yml", &|_| {}).unwrap_err().to_string().contains("leads out of the project"));
        assert!(sources.image_artifact("apq", &|_| {}).unwrap_err().to_string().contains("did you mean \"app\"?"));
    }
}
