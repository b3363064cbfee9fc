//! What is published, and where: the same content is not written twice.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::Options;
use super::cluster::Cluster;
use crate::artifact::{BASELINE_FILE, Baseline, PUBLISHED_FILE};

/// Most bytes that Kubernetes takes for a ConfigMap's data.
const MOST: usize = 1 << 20;
/// What two publications of the same baseline may differ in.
const PASSING: [&str; 2] = ["generated_at", "generator"];

/// The two forms of a baseline.
#[derive(Debug, Clone)]
pub struct Documents {
    earlier: Value,
    ours: Value,
    version: String,
    sha256: String,
}

impl Documents {
    /// # Errors
    /// A baseline that does not fit into a ConfigMap.
    pub fn new(baseline: &Baseline, model: &str, alias: &str) -> Result<Self, String> {
        let documents = Self {
            earlier: json!({
                "model_version": baseline.model_version,
                "model_uri": format!("models:/{model}@{alias}"),
                "training_set_size": baseline.training_set_size,
                "prediction_stats": baseline.prediction_stats,
                "histogram": baseline.seed_histogram,
                "generated_at": baseline.generated_at,
                "generator": baseline.generator,
            }),
            ours: serde_json::to_value(baseline).map_err(|e| e.to_string())?,
            version: baseline.model_version.clone().unwrap_or_default(),
            sha256: baseline.model.sha256.clone(),
        };
        let size: usize = documents.data().iter().map(|(key, text)| key.len() + text.len()).sum();
        if size > MOST {
            return Err(format!(
                "its baseline has {size} bytes, a ConfigMap takes {MOST}: take --out, and mount the file"
            ));
        }
        Ok(documents)
    }

    /// `data` of the ConfigMap.
    pub fn data(&self) -> BTreeMap<String, String> {
        [(BASELINE_FILE, &self.earlier), (PUBLISHED_FILE, &self.ours)]
            .map(|(key, value)| (key.to_owned(), value.to_string()))
            .into()
    }

    pub fn annotations(&self) -> BTreeMap<String, String> {
        [("rul/model-version", &self.version), ("rul/model-sha256", &self.sha256)]
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .into()
    }

    /// Whether `data` says the same, whenever it was written.
    pub fn same(&self, data: Option<&BTreeMap<String, String>>) -> bool {
        let holds = |key: &str, wanted: &Value| data.and_then(|d| d.get(key)).is_some_and(|text| says(text, wanted));
        holds(BASELINE_FILE, &self.earlier) && holds(PUBLISHED_FILE, &self.ours)
    }

    /// The ConfigMap as nobody has it yet.
    pub fn manifest(&self, namespace: &str, name: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                annotations: Some(self.annotations()),
                ..ObjectMeta::default()
            },
            data: Some(self.data()),
            ..ConfigMap::default()
        }
    }
}

fn says(text: &str, wanted: &Value) -> bool {
    // Numbers are compared as they are read back, not as they were computed.
    let read = |text: &str| serde_json::from_str::<Value>(text).ok().map(lasting);
    read(text).is_some_and(|found| Some(found) == read(&wanted.to_string()))
}

fn lasting(mut document: Value) -> Value {
    if let Some(document) = document.as_object_mut() {
        document.retain(|key, _| !PASSING.contains(&key.as_str()));
    }
    document
}

/// Where to.
#[derive(Debug)]
pub enum Place {
    ConfigMap { namespace: String, name: String },
    Manifest { path: PathBuf, namespace: String, name: String },
    Json(PathBuf),
}

impl Place {
    pub fn new(options: &Options) -> Self {
        let (namespace, name) = (options.namespace.clone(), options.configmap.clone());
        match options.out.clone().filter(|path| !path.as_os_str().is_empty()) {
            None => Self::ConfigMap { namespace, name },
            Some(path) if path.extension().is_some_and(|end| end == "yml" || end == "yaml") => {
                Self::Manifest { path, namespace, name }
            }
            Some(path) => Self::Json(path),
        }
    }

    pub fn shown(&self) -> String {
        match self {
            Self::ConfigMap { namespace, name } => format!("ConfigMap {namespace}/{name}"),
            Self::Manifest { path, .. } | Self::Json(path) => path.display().to_string(),
        }
    }

    /// Whether anything had to be written.
    ///
    /// # Errors
    /// A sentence.
    pub async fn publish(&self, documents: &Documents) -> Result<bool, String> {
        match self {
            Self::ConfigMap { namespace, name } => Cluster::new(namespace, name).await?.publish(documents).await,
            Self::Manifest { path, namespace, name } => {
                let known = existing(path)?.and_then(|text| serde_json::from_str::<ConfigMap>(&text).ok());
                let same = known.is_some_and(|known| {
                    known.metadata.name.as_ref() == Some(name)
                        && known.metadata.namespace.as_ref() == Some(namespace)
                        && documents.same(known.data.as_ref())
                });
                // JSON is YAML.
                let manifest = documents.manifest(namespace, name);
                let text = serde_json::to_string_pretty(&manifest).map_err(|e| e.to_string())?;
                write_unless(same, path, &text)
            }
            Self::Json(path) => {
                let same = existing(path)?.is_some_and(|text| says(&text, &documents.ours));
                write_unless(same, path, &documents.ours.to_string())
            }
        }
    }
}

fn existing(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// The file has the old content or the new one, never a part.
fn write_unless(same: bool, path: &Path, text: &str) -> Result<bool, String> {
    if same {
        return Ok(false);
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        // Read by another user than the one that writes.
        let readable = std::fs::Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().prefix(".baseline-").permissions(readable).tempfile_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map(|()| true).map_err(|e| e.to_string())
}
