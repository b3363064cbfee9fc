//! What names in stage files stand for: artifacts of the lock and images of recipes, built where they must be.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::build::{Scope, cached, key};
use super::dockerfile::{self, DockerBuild, DockerSpec};
use super::{BuiltImage, Workshop, build, pull};
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
    /// Bytes in the cache; `None` when it is not there, or not all of it.
    pub cached: Option<u64>,
    pub license: Option<String>,
    /// SHA-256 of its files in the cache: an image of a registry has many, others have one.
    #[serde(skip)]
    files: Vec<String>,
}

/// What verifying an artifact found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub name: String,
    /// How many files of it are in the cache and were hashed, and their bytes.
    pub files: usize,
    pub bytes: u64,
    /// How many of them were damaged, and are removed.
    pub damaged: usize,
    /// Nothing of it was missing before.
    pub complete: bool,
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

    /// All artifacts, and what of them the cache has. Only looks: brings, builds and removes nothing.
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
        let (files, complete) = match (&artifact.source, &hash) {
            (Source::Registry { digest, .. }, _) => {
                let pull::Pulled { files, complete } = pull::pulled(digest, &self.store)?;
                (files, complete)
            }
            (_, Some(sha256)) if self.store.size(sha256)?.is_some() => (vec![sha256.clone()], true),
            _ => (Vec::new(), false),
        };
        let mut bytes = 0;
        for file in &files {
            bytes += self.store.size(file)?.unwrap_or_default();
        }
        Ok(Row {
            name: artifact.name.clone(),
            version: artifact.version.clone(),
            kind: artifact.kind,
            from,
            hash,
            cached: complete.then_some(bytes),
            license: artifact.license.clone(),
            files,
        })
    }

    /// Brings or builds what the cache does not have of these artifacts; images of registries, too, for this machine's processor.
    /// One that cannot be had does not keep the others from being tried: each comes with how it went.
    ///
    /// # Errors
    /// When there is none of one of these names; then nothing was tried.
    pub async fn fetch(&self, names: &[String], progress: Progress<'_>) -> Result<Vec<(String, Result<()>)>> {
        let artifacts = names.iter().map(|name| self.lock.get(name)).collect::<Result<Vec<_>>>()?;
        let mut fetched = Vec::new();
        for artifact in artifacts {
            fetched.push((artifact.name.clone(), self.fetch_one(artifact, progress).await));
        }
        Ok(fetched)
    }

    async fn fetch_one(&self, artifact: &Artifact, progress: Progress<'_>) -> Result<()> {
        match &artifact.source {
            Source::Url { .. } => {
                download::fetch(&self.lock.pin(&artifact.name)?, &self.store, progress).await?;
            }
            Source::Registry { reference, digest } => {
                let work = self.store.work("image")?;
                pull::pull(reference, digest, &self.store, work.path(), progress).await?;
            }
            Source::Script(_) | Source::Image(_) => {
                tokio::task::block_in_place(|| self.artifact(&artifact.name, progress))?;
            }
        }
        Ok(())
    }

    /// Hashes every file that the cache has of the artifacts, from start to end, and removes what is damaged: the next use brings
    /// or builds it again.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn verify(&self, progress: Progress<'_>) -> Result<Vec<Verified>> {
        let mut seen: BTreeMap<String, bool> = BTreeMap::new();
        let mut all = Vec::new();
        for row in self.list()? {
            let mut verified =
                Verified { name: row.name, files: 0, bytes: 0, damaged: 0, complete: row.cached.is_some() };
            for file in row.files {
                progress(&format!("{}: hashing {}", verified.name, &file[..12]));
                let bytes = self.store.size(&file)?.unwrap_or_default();
                // Images share layers.
                let good = match seen.get(&file) {
                    Some(good) => *good,
                    None => self.store.verify(&file)?,
                };
                if !good {
                    self.store.forget(&file)?;
                }
                seen.insert(file, good);
                verified.files += 1;
                verified.bytes += bytes;
                verified.damaged += usize::from(!good);
            }
            all.push(verified);
        }
        Ok(all)
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
        let names = ["made".to_owned(), "app".to_owned()];
        for (name, result) in sources.fetch(&names, &|_| {}).await.unwrap() {
            result.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
        assert_eq!(cached(), ["app", "made"]);
        let counts = || -> Vec<_> {
            let verified = sources.verify(&|_| {}).unwrap();
            verified.into_iter().map(|it| (it.name, it.files, it.damaged, it.complete)).collect()
        };
        let row = |name: &str, files, damaged, complete| (name.to_owned(), files, damaged, complete);
        let absent = [row("file", 0, 0, false), row("made", 0, 0, false), row("pulled", 0, 0, false)];
        let good =
            [row("app", 1, 0, true), row("file", 0, 0, false), row("made", 1, 0, true), row("pulled", 0, 0, false)];
        assert_eq!(counts(), good);

        // Damaged with the same size and time, where only hashing finds it; and cut, as a full disk does it.
        let made = sources.artifact("made", &|_| {}).unwrap();
        let path = sources.store().blob_path(&made.sha256);
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        for content in ["CONTENT\n", "con"] {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, content).unwrap();
            std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
            assert_eq!(cached(), ["app", "made"]);
            assert!(path.exists(), "the list only looks");
            let mut damaged = good.clone();
            damaged[2].2 = 1;
            assert_eq!(counts(), damaged);
            assert!(!path.exists());
            assert_eq!(cached(), ["app"]);
            assert_eq!(counts()[1..], absent);
            assert_eq!(sources.artifact("made", &|_| {}).unwrap(), made, "built again");
        }
    }

    /// An image of a registry in parts, its manifest first.
    #[tokio::test(flavor = "multi_thread")]
    async fn images_of_registries_count_blob_by_blob() {
        let dir = tempfile::tempdir().unwrap();
        let config = b"{}";
        let sha256 = hash::sha256(config);
        let manifest = format!("{{\"config\":{{\"digest\":\"sha256:{sha256}\",\"size\":2}},\"layers\":[]}}");
        let text = format!(
            "pulled:\n  version: v1\n  kind: image\n  ref: example.org/pulled:v1\n  digest: sha256:{}\n",
            hash::sha256(&manifest)
        );
        let lock = Lock::parse("artifacts.yml", &text).unwrap();
        let sources = Sources::new(lock, Store::at(dir.path().join("cache")).unwrap(), dir.path());
        let store = sources.store();
        let put = |content: &[u8]| {
            let work = store.work("test").unwrap();
            std::fs::write(work.path().join("blob"), content).unwrap();
            store.put(&work.path().join("blob")).unwrap();
        };
        put(manifest.as_bytes());
        assert_eq!(sources.list().unwrap()[0].cached, None, "the configuration is missing");
        put(config);
        assert_eq!(sources.list().unwrap()[0].cached, Some(manifest.len() as u64 + 2));
        // All is there: nobody is asked.
        sources.fetch(&["pulled".to_owned()], &|_| {}).await.unwrap()[0].1.as_ref().unwrap();
        let path = store.blob_path(&sha256);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "[]").unwrap();
        let verified = sources.verify(&|_| {}).unwrap();
        assert_eq!((verified[0].files, verified[0].damaged), (2, 1));
        assert!(!path.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_cannot_be_had_does_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bad.sh"), "exit 3\n").unwrap();
        std::fs::write(dir.path().join("good.sh"), "echo content > \"$1\"\n").unwrap();
        let artifact = |name: &str, script: &str| {
            format!("{name}:\n  version: v1\n  kind: binary\n  recipe: {{ script: {script} }}\n")
        };
        let text = [artifact("a", "bad.sh"), artifact("b", "good.sh"), artifact("c", "bad.sh")].concat();
        let lock = Lock::parse("artifacts.yml", &text).unwrap();
        let sources = Sources::new(lock, Store::at(dir.path().join("cache")).unwrap(), dir.path());
        let names = ["a", "b", "c"].map(str::to_owned);
        let fetched = sources.fetch(&names, &|_| {}).await.unwrap();
        let failed: Vec<_> = fetched.iter().filter(|(_, it)| it.is_err()).map(|(name, _)| name.as_str()).collect();
        assert_eq!(failed, ["a", "c"]);
        let error = sources.fetch(&["b".to_owned(), "d".to_owned()], &|_| {}).await.unwrap_err().to_string();
        assert!(error.contains("d"), "{error}");
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
