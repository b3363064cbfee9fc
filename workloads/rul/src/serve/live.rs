//! What answers: a model, or a constant that says it is one. Loading checks everything before
//! anything is served.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::HeaderValue;
use model::{Backend, MANIFEST_FILE, Model, Scratch};
use serde::{Deserialize, Serialize};

use super::directory::{LoadError, check_golden, fingerprint, read_baseline};
use super::histogram::Histogram;
use super::input::Shape;
use super::metrics::{Metrics, PREDICTION_EDGES, unix_now};
use super::watched::Watched;

/// What the stub takes, that of the seed's model.
pub const STUB_SHAPE: Shape = Shape { window: 30, features: 16 };
/// `model_version` of the stub.
pub const STUB_VERSION: &str = "stub";

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One thing that answers. Never changed once it is served: a request keeps the one it began with.
pub struct Live {
    engine: Engine,
    pub shape: Shape,
    pub version: Arc<str>,
    pub header: HeaderValue,
    pub histogram: Arc<Histogram>,
    /// `None` where nothing is known about the training data, and in the shadow.
    pub watched: Option<Watched>,
    /// Of the cache, for a version of the registry: tells it from every other.
    pub folder: Option<String>,
    pub description: Description,
}

/// What to load, and as what.
#[derive(Debug, Clone, Copy)]
pub struct Loading<'a> {
    pub dir: &'a Path,
    /// What the service is called by its clients; the manifest's own name is not compared with it,
    /// since a registry may file one artifact under several names.
    pub name: &'a str,
    pub require_golden: bool,
    /// The shape that clients were built for: a running service does not change it under them.
    pub keep: Option<Shape>,
    /// Where it was taken from; without one, the manifest tells the version.
    pub registered: Option<&'a Registered>,
    /// A challenger: its predictions are counted apart.
    pub shadow: bool,
}

/// A version of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The registry, without credentials.
    pub registry: String,
    pub version: String,
    /// Where the registry says its artifacts are.
    pub source: String,
    pub run_id: Option<String>,
}

enum Engine {
    Stub(f32),
    Model(Box<Model>),
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.description.fmt(f)
    }
}

/// What `/v1/model` says about it.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub is_stub: bool,
    /// Directory it came from.
    pub source: Option<PathBuf>,
    /// What the registry says about it.
    pub registered: Option<Registered>,
    /// Of `model.onnx`.
    pub sha256: Option<String>,
    /// Of all files of the directory; what decides about a reload.
    pub content_sha256: Option<String>,
    pub window: usize,
    pub features: usize,
    pub feature_names: Vec<String>,
    /// Largest prediction in cycles.
    pub cap: Option<f32>,
    /// Code that runs it.
    pub backend: String,
    /// Golden windows that it was checked with.
    pub golden_windows: usize,
    /// Largest difference to a golden answer, in cycles.
    pub golden_difference: Option<f32>,
    /// Edges of its prediction histogram, in cycles.
    pub prediction_edges: Vec<f64>,
    /// RFC 3339.
    pub loaded_at: String,
    #[serde(skip)]
    pub loaded_unix: f64,
}

impl Live {
    /// Says which folder of the cache this is.
    pub fn cached_as(mut self, folder: &str) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    pub fn is_stub(&self) -> bool {
        self.description.is_stub
    }

    /// Cycles for `count` windows.
    ///
    /// # Errors
    /// The model's own, for a shape that is not its own.
    pub fn predict(&self, windows: &[f32], count: usize) -> Result<Vec<f32>, model::Error> {
        match &self.engine {
            Engine::Stub(value) => Ok(vec![*value; count]),
            Engine::Model(model) => {
                let mut out = vec![0.0; count];
                SCRATCH.with_borrow_mut(|scratch| model.predict(scratch, windows, count, &mut out))?;
                Ok(out)
            }
        }
    }

    /// The constant.
    pub fn stub(name: &str, value: f32, metrics: &Metrics) -> Self {
        Self {
            engine: Engine::Stub(value),
            shape: STUB_SHAPE,
            version: STUB_VERSION.into(),
            header: HeaderValue::from_static(STUB_VERSION),
            histogram: metrics.version(name, STUB_VERSION, &PREDICTION_EDGES),
            watched: None,
            folder: None,
            description: Description {
                name: name.to_owned(),
                version: STUB_VERSION.to_owned(),
                is_stub: true,
                source: None,
                registered: None,
                sha256: None,
                content_sha256: None,
                window: STUB_SHAPE.window,
                features: STUB_SHAPE.features,
                feature_names: Vec::new(),
                cap: None,
                backend: format!("stub: always {value:?}"),
                golden_windows: 0,
                golden_difference: None,
                prediction_edges: PREDICTION_EDGES.to_vec(),
                loaded_at: jiff::Timestamp::now().to_string(),
                loaded_unix: unix_now(),
            },
        }
    }

    /// Loads a directory: hash, signature, golden answers, histogram edges.
    ///
    /// # Errors
    /// A sentence that says which file is wrong and why.
    pub fn load(loading: Loading<'_>, metrics: &Metrics) -> Result<Self, LoadError> {
        let Loading { dir, name, require_golden, keep, registered, shadow } = loading;
        let content = fingerprint(dir)?;
        let (model, manifest) = Model::load_dir(dir).map_err(|e| LoadError::Refused(e.to_string()))?;
        let shape = Shape { window: model.window(), features: model.features() };
        let refuse = |reason: String| Err(LoadError::Refused(reason));
        let version = registered.map_or(manifest.version.as_str(), |r| r.version.as_str());
        let Ok(header) = HeaderValue::from_str(version) else {
            return refuse(format!("{MANIFEST_FILE}: version {version:?} has control characters"));
        };
        if version.is_empty() || version.len() > 128 || version == STUB_VERSION {
            return refuse(format!(
                "{MANIFEST_FILE}: version {version:?} is not usable (1 to 128 characters, not \"{STUB_VERSION}\")"
            ));
        }
        if let Some(keep) = keep.filter(|keep| *keep != shape) {
            return refuse(format!(
                "version {version} takes windows of {} x {}, the one being served {} x {}; restart the service to \
                 change the shape",
                shape.window, shape.features, keep.window, keep.features
            ));
        }
        let (golden_windows, golden_difference) = check_golden(dir, &model, shape, require_golden)?;
        let reference = read_baseline(dir, &manifest.features)?;
        let edges = reference.edges;
        if fingerprint(dir)? != content {
            return refuse("the directory changed while it was read".to_owned());
        }
        Ok(Self {
            shape,
            version: version.into(),
            header,
            histogram: if shadow {
                metrics.shadow_version(name, version, &edges)
            } else {
                metrics.version(name, version, &edges)
            },
            // What comes in is the same for both; it is counted once.
            watched: reference.inputs.filter(|_| !shadow).map(|inputs| inputs.watch(metrics)),
            folder: None,
            description: Description {
                name: name.to_owned(),
                version: version.to_owned(),
                is_stub: false,
                source: Some(dir.to_owned()),
                registered: registered.cloned(),
                sha256: Some(manifest.sha256.clone()),
                content_sha256: Some(content),
                window: shape.window,
                features: shape.features,
                feature_names: manifest.features.clone(),
                cap: Some(model.cap()).filter(|cap| cap.is_finite()),
                backend: match model.backend() {
                    Backend::Native(set) => format!("native ({set})"),
                    Backend::Rten => "rten".to_owned(),
                },
                golden_windows,
                golden_difference,
                prediction_edges: edges,
                loaded_at: jiff::Timestamp::now().to_string(),
                loaded_unix: unix_now(),
            },
            engine: Engine::Model(Box::new(model)),
        })
    }
}
