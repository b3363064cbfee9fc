//! The model registry as the sub-commands see it: versions of a named model, aliases that point to
//! them, artifacts. Behind it is an MLflow server or a directory.
//!
//! | alias | points to |
//! |---|---|
//! | [`PRODUCTION`] | what is served |
//! | [`PREVIOUS`] | what was served before; where a rollback goes |
//! | [`STAGING`] | the newest challenger that is not (yet) served |

mod directory;
mod mlflow;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use directory::DirectoryRegistry;
pub use mlflow::MlflowRegistry;

pub const PRODUCTION: &str = "production";
pub const PREVIOUS: &str = "previous";
pub const STAGING: &str = "staging";

/// Tag of a version: SHA-256 of its `model.onnx`. Written by [`Registry::register`], compared by
/// whoever downloads.
pub const SHA256_TAG: &str = "model.sha256";

/// What goes wrong with a registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Mlflow(#[from] mlflow_client::Error),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("the registry {shown:?}: {reason}; give http://mlflow:5000, file:///a/directory or a path")]
    Address { shown: String, reason: String },
    #[error("{what} {name:?}: {reason}")]
    Name { what: &'static str, name: String, reason: &'static str },
    #[error("the model {model:?} has no version {version:?} in {registry}")]
    NoVersion { model: String, version: String, registry: String },
    #[error("version {version} of {model}: {reason}")]
    Artifact { model: String, version: String, reason: String },
}

impl Error {
    /// The registry could not be asked, or not now. Otherwise it did answer.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Mlflow(error) if error.is_temporary())
    }
}

/// A registered version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub model: String,
    /// A whole number, as text.
    pub version: String,
    /// Where the registry says its artifacts are.
    pub source: String,
    /// The run that made it, where one is known.
    pub run_id: Option<String>,
    /// Milliseconds since 1970.
    pub created_at: i64,
    pub tags: BTreeMap<String, String>,
}

/// Where a version comes from: becomes a run in MLflow, `run.json` in a directory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Experiment that the run belongs to.
    pub experiment: String,
    /// Empty: a made-up one.
    pub name: String,
    pub params: BTreeMap<String, String>,
    pub metrics: Vec<RunMetric>,
    /// Tags of the run.
    pub tags: BTreeMap<String, String>,
    /// Tags of the version.
    pub version_tags: BTreeMap<String, String>,
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunMetric {
    pub key: String,
    pub value: f64,
    /// Epoch or the like.
    pub step: i64,
    /// Milliseconds since 1970.
    pub at: i64,
}

/// A registry. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Registry {
    Mlflow(MlflowRegistry),
    Directory(DirectoryRegistry),
}

impl Registry {
    /// `http(s)://..` is MLflow, `file:///..` or a path a directory. Nothing is asked or made yet.
    ///
    /// # Errors
    /// When it is neither.
    pub fn open(uri: &str, http: reqwest::Client) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Address { shown: without_credentials(uri), reason: reason.to_owned() };
        match uri.split_once("://") {
            Some(("http" | "https", _)) => {
                Ok(Self::Mlflow(MlflowRegistry::new(mlflow_client::Client::new(http, uri)?)))
            }
            Some(("file", path)) if path.starts_with('/') => Ok(Self::Directory(DirectoryRegistry::new(path))),
            Some(("file", _)) => Err(wrong("a file address has three slashes and no host")),
            Some(_) => Err(wrong("of an unknown kind")),
            None if uri.trim().is_empty() => Err(wrong("empty")),
            None => Ok(Self::Directory(DirectoryRegistry::new(uri.strip_prefix("file:").unwrap_or(uri)))),
        }
    }

    /// What it is called in messages, without credentials.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Mlflow(registry) => registry.client().address().shown().to_owned(),
            Self::Directory(registry) => registry.root().display().to_string(),
        }
    }

    /// For callers that come again by themselves: one attempt, and little time for it.
    #[must_use]
    pub fn impatient(self, each: std::time::Duration) -> Self {
        match self {
            Self::Mlflow(registry) => Self::Mlflow(registry.impatient(each)),
            directory @ Self::Directory(_) => directory,
        }
    }

    /// The version that an alias points to; `None` when the model or the alias is missing.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn alias(&self, model: &str, alias: &str) -> Result<Option<Version>, Error> {
        check_name("model", model)?;
        check_name("alias", alias)?;
        match self {
            Self::Mlflow(registry) => registry.alias(model, alias).await,
            Self::Directory(registry) => registry.alias(model, alias),
        }
    }

    /// Points an alias to a version, in one step also when it pointed elsewhere.
    ///
    /// # Errors
    /// An unknown version; no usable answer.
    pub async fn set_alias(&self, model: &str, alias: &str, version: &str) -> Result<(), Error> {
        check_name("model", model)?;
        check_name("alias", alias)?;
        match self {
            Self::Mlflow(registry) => registry.set_alias(model, alias, version).await,
            Self::Directory(registry) => registry.set_alias(model, alias, version),
        }
    }

    /// Deletes an alias; one that is not there is no error.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn delete_alias(&self, model: &str, alias: &str) -> Result<(), Error> {
        check_name("model", model)?;
        check_name("alias", alias)?;
        match self {
            Self::Mlflow(registry) => registry.delete_alias(model, alias).await,
            Self::Directory(registry) => registry.delete_alias(model, alias),
        }
    }

    /// `None` when there is no such model or version.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn version(&self, model: &str, version: &str) -> Result<Option<Version>, Error> {
        check_name("model", model)?;
        match self {
            Self::Mlflow(registry) => registry.version(model, version).await,
            Self::Directory(registry) => registry.version(model, version),
        }
    }

    /// The newest versions of a model, newest first (at most 100); none for an unknown model.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn versions(&self, model: &str) -> Result<Vec<Version>, Error> {
        check_name("model", model)?;
        match self {
            Self::Mlflow(registry) => registry.versions(model).await,
            Self::Directory(registry) => registry.versions(model),
        }
    }

    /// Files an artifact directory as the next version of a model, which is made where absent, and
    /// tags it with [`SHA256_TAG`]. In MLflow the artifact goes into a run of its own.
    ///
    /// # Errors
    /// No `model.onnx` in the directory; no usable answer.
    pub async fn register(&self, model: &str, artifact: &Path, run: &RunInfo) -> Result<Version, Error> {
        check_name("model", model)?;
        let mut run = run.clone();
        run.version_tags.insert(SHA256_TAG.to_owned(), sha256_of(&artifact.join(model::MODEL_FILE))?);
        match self {
            Self::Mlflow(registry) => registry.register(model, artifact, &run).await,
            Self::Directory(registry) => registry.register(model, artifact, &run),
        }
    }

    /// # Errors
    /// An unknown version; no usable answer.
    pub async fn set_tag(&self, version: &Version, key: &str, value: &str) -> Result<(), Error> {
        match self {
            Self::Mlflow(registry) => registry.set_tag(version, key, value).await,
            Self::Directory(registry) => registry.set_tag(version, key, value),
        }
    }

    /// The tags that a version has now.
    ///
    /// # Errors
    /// An unknown version; no usable answer.
    pub async fn tags(&self, version: &Version) -> Result<BTreeMap<String, String>, Error> {
        let now = self.version(&version.model, &version.version).await?;
        now.map(|v| v.tags).ok_or_else(|| Error::NoVersion {
            model: version.model.clone(),
            version: version.version.clone(),
            registry: self.shown(),
        })
    }

    /// Metrics of the run that made a version, the last value of each; empty without a run.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn metrics(&self, version: &Version) -> Result<BTreeMap<String, f64>, Error> {
        match self {
            Self::Mlflow(registry) => registry.metrics(version).await,
            Self::Directory(registry) => registry.metrics(version),
        }
    }

    /// Copies a version's artifact into `dest`, which must not exist: afterwards it is there as a
    /// whole, or not at all. `model.onnx` is compared with [`SHA256_TAG`] where the version has it.
    ///
    /// # Errors
    /// Nothing there, something else than was registered, no usable answer, a full disk.
    pub async fn download(&self, version: &Version, dest: &Path) -> Result<(), Error> {
        let file = |source| Error::File { path: dest.to_owned(), source };
        let parent = dest.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(|source| Error::File { path: parent.to_owned(), source })?;
        if dest.exists() {
            return Err(file(std::io::Error::from(std::io::ErrorKind::AlreadyExists)));
        }
        let part = Part::new(parent).map_err(file)?;
        match self {
            Self::Mlflow(registry) => registry.download(version, &part.path).await?,
            Self::Directory(registry) => registry.download(version, &part.path)?,
        }
        if let Some(expected) = version.tags.get(SHA256_TAG) {
            let found = sha256_of(&part.path.join(model::MODEL_FILE))?;
            if found != *expected {
                return Err(Error::Artifact {
                    model: version.model.clone(),
                    version: version.version.clone(),
                    reason: format!("its {} has SHA-256 {found}, registered was {expected}", model::MODEL_FILE),
                });
            }
        }
        std::fs::rename(&part.path, dest).map_err(file)
    }
}

/// A directory that is being filled; removed unless it was renamed away.
#[derive(Debug)]
struct Part {
    path: PathBuf,
}

impl Part {
    fn new(parent: &Path) -> std::io::Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!(".part-{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                // Left by a process of the same number that was killed; containers reuse them.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone when it was renamed.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn sha256_of(path: &Path) -> Result<String, Error> {
    use sha2::{Digest, Sha256};
    let bytes = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    Ok(hex::encode(Sha256::digest(bytes)))
}

/// Names become file names and parts of addresses.
fn check_name(what: &'static str, name: &str) -> Result<(), Error> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.chars().all(good) {
        let reason = "use 1 to 128 letters, digits, '-', '_' and '.', not beginning with '.'";
        return Err(Error::Name { what, name: name.to_owned(), reason });
    }
    Ok(())
}

/// `http://user:password@host` is shown as `http://host`.
#[must_use]
pub fn without_credentials(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Registry, check_name, without_credentials};

    #[test]
    fn addresses() {
        let http = crate::http::unhurried().unwrap();
        for (uri, shown) in [
            ("http://u:p@mlflow:5000/", "http://mlflow:5000"),
            ("file:///a/b", "/a/b"),
            ("/a/b", "/a/b"),
            ("a/b", "a/b"),
        ] {
            assert_eq!(Registry::open(uri, http.clone()).unwrap().shown(), shown);
        }
        for uri in ["", "file://host/a", "s3://b", "databricks://u:secret@x"] {
            let error = Registry::open(uri, http.clone()).unwrap_err().to_string();
            assert!(error.contains("http://mlflow:5000") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        for (uri, shown) in [
            ("http://mlflow:5000", "http://mlflow:5000"),
            ("http://u:p@mlflow:5000/a@b", "http://mlflow:5000/a@b"),
            ("https://u:p@w@host/x", "https://host/x"),
            ("file:///mlruns", "file:///mlruns"),
            ("databricks", "databricks"),
            ("http://token@h?x=1", "http://h?x=1"),
        ] {
            assert_eq!(without_credentials(uri), shown);
        }
    }

    #[test]
    fn names_stay_inside() {
        for good in ["cmapss-rul", "a.b_C-1"] {
            check_name("model", good).unwrap();
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "ä", &"x".repeat(129)] {
            check_name("model", bad).unwrap_err();
        }
    }
}
