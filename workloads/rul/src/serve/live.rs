//! What answers: a model, or a constant that says it is one. Loading checks everything before
//! anything is served.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderValue;
use model::{Backend, MANIFEST_FILE, MODEL_FILE, Model, Scratch};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::input::Shape;
use super::metrics::{Histogram, Metrics, PREDICTION_EDGES, unix_now};

/// Windows with the answers that the trainer got, beside the model. Optional unless the service is
/// told to insist.
pub const GOLDEN_FILE: &str = "golden.json";
/// The reference of the drift watch; the edges of the prediction histogram come from it. Optional.
pub const BASELINE_FILE: &str = "baseline.json";

/// What the stub takes, that of the seed's model.
pub const STUB_SHAPE: Shape = Shape { window: 30, features: 16 };
/// `model_version` of the stub.
pub const STUB_VERSION: &str = "stub";

/// Largest of the model directory's files, together.
const MAX_BYTES: u64 = 256 << 20;
const MAX_GOLDEN: usize = 1024;
const MAX_EDGES: usize = 256;
/// How far from a golden answer a prediction may be, in cycles, unless the file says otherwise.
const GOLDEN_TOLERANCE: f32 = 1e-2;

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
    pub description: Description,
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
            description: Description {
                name: name.to_owned(),
                version: STUB_VERSION.to_owned(),
                is_stub: true,
                source: None,
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
    /// `name` is what the service is called by its clients; the manifest's own name is not compared
    /// with it, since a registry may file one artifact under several names.
    ///
    /// # Errors
    /// A sentence that says which file is wrong and why.
    pub fn load(dir: &Path, name: &str, require_golden: bool, metrics: &Metrics) -> Result<Self, LoadError> {
        let content = fingerprint(dir)?;
        let (model, manifest) = Model::load_dir(dir).map_err(|e| LoadError::Refused(e.to_string()))?;
        let shape = Shape { window: model.window(), features: model.features() };
        let refuse = |reason: String| Err(LoadError::Refused(reason));
        let version = manifest.version.as_str();
        let Ok(header) = HeaderValue::from_str(version) else {
            return refuse(format!("{MANIFEST_FILE}: version {version:?} has control characters"));
        };
        if version.is_empty() || version.len() > 128 || version == STUB_VERSION {
            return refuse(format!(
                "{MANIFEST_FILE}: version {version:?} is not usable (1 to 128 characters, not \"{STUB_VERSION}\")"
            ));
        }
        let (golden_windows, golden_difference) = check_golden(dir, &model, shape, require_golden)?;
        let edges = read_edges(dir)?;
        if fingerprint(dir)? != content {
            return refuse("the directory changed while it was read".to_owned());
        }
        Ok(Self {
            shape,
            version: version.into(),
            header,
            histogram: metrics.version(name, version, &edges),
            description: Description {
                name: name.to_owned(),
                version: version.to_owned(),
                is_stub: false,
                source: Some(dir.to_owned()),
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

/// Why a directory gave no model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not there, or not readable: may change without anybody's doing.
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// Read, and not to be served.
    #[error("{0}")]
    Refused(String),
}

/// A hash over all files of a model directory. Reading 0.2 MB every few seconds costs a
/// millisecond, and unlike times and inodes it cannot be fooled.
///
/// # Errors
/// When there is no manifest or a file cannot be read.
pub fn fingerprint(dir: &Path) -> Result<String, LoadError> {
    let mut hash = Sha256::new();
    let mut left = MAX_BYTES;
    for name in [MANIFEST_FILE, MODEL_FILE, GOLDEN_FILE, BASELINE_FILE] {
        let path = dir.join(name);
        let size = match std::fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound && name != MANIFEST_FILE => {
                hash.update([0]);
                continue;
            }
            Err(source) => return Err(LoadError::Unreadable { path, source }),
        };
        left = left
            .checked_sub(size)
            .ok_or_else(|| LoadError::Refused(format!("{}: more than {MAX_BYTES} bytes of model", dir.display())))?;
        let bytes = read(&path)?;
        hash.update([1]);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    Ok(hex::encode(hash.finalize()))
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(LoadError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(other) => Err(other),
    }
}

/// `golden.json`.
#[derive(Debug, Deserialize)]
struct Golden {
    /// Windows of rows.
    windows: Vec<Vec<Vec<f32>>>,
    /// Cycles, one per window.
    expected: Vec<f32>,
    /// Cycles.
    #[serde(default)]
    tolerance: Option<f32>,
}

/// How many windows, and the largest difference.
fn check_golden(dir: &Path, model: &Model, shape: Shape, require: bool) -> Result<(usize, Option<f32>), LoadError> {
    let path = dir.join(GOLDEN_FILE);
    let refuse = |reason: String| LoadError::Refused(format!("{}: {reason}", path.display()));
    let Some(bytes) = read_optional(&path)? else {
        if require {
            return Err(refuse("missing, and this service insists on it".to_owned()));
        }
        // Still one run, so that a model that cannot predict at all is not served.
        let started = Instant::now();
        let warm = model.predict_all(&vec![0.5; shape.numbers()]);
        return match warm.as_deref() {
            Ok([value]) if value.is_finite() => Ok((0, None)),
            other => Err(refuse(format!("missing, and a trial window gave {other:?} after {:?}", started.elapsed()))),
        };
    };
    let golden: Golden = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
    let count = golden.windows.len();
    if count == 0 || count > MAX_GOLDEN || golden.expected.len() != count {
        return Err(refuse(format!(
            "{count} windows and {} expected answers; as many of each, 1 to {MAX_GOLDEN}",
            golden.expected.len()
        )));
    }
    let tolerance = golden.tolerance.unwrap_or(GOLDEN_TOLERANCE);
    if !(0.0..=1.0).contains(&tolerance) {
        return Err(refuse(format!("tolerance {tolerance} is not within 0 to 1 cycles")));
    }
    let mut worst = 0.0f32;
    for (i, (window, expected)) in golden.windows.iter().zip(&golden.expected).enumerate() {
        if window.len() != shape.window || window.iter().any(|row| row.len() != shape.features) {
            return Err(refuse(format!(
                "window {i} is not {} rows of {} numbers, which the model takes",
                shape.window, shape.features
            )));
        }
        let got = model.predict_all(&window.concat()).map_err(|e| refuse(e.to_string()))?;
        let got = got.first().copied().unwrap_or(f32::NAN);
        let difference = (got - expected).abs();
        // Not "difference > tolerance": what is not a number must fail too.
        if !difference.le(&tolerance) {
            return Err(refuse(format!(
                "window {i}: the model says {got}, expected {expected} (tolerance {tolerance} cycles)"
            )));
        }
        worst = worst.max(difference);
    }
    Ok((count, Some(worst)))
}

/// The part of `baseline.json` that serving needs.
#[derive(Debug, Deserialize)]
struct Baseline {
    histogram: BaselineHistogram,
}

#[derive(Debug, Deserialize)]
struct BaselineHistogram {
    /// Edges in cycles.
    buckets: Vec<f64>,
}

fn read_edges(dir: &Path) -> Result<Vec<f64>, LoadError> {
    let path = dir.join(BASELINE_FILE);
    let Some(bytes) = read_optional(&path)? else {
        return Ok(PREDICTION_EDGES.to_vec());
    };
    let refuse = |reason: String| LoadError::Refused(format!("{}: {reason}", path.display()));
    let baseline: Baseline = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
    let edges = baseline.histogram.buckets;
    let rising = edges.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
    if edges.is_empty() || edges.len() > MAX_EDGES || !rising || edges.iter().any(|e| !e.is_finite()) {
        return Err(refuse(format!("histogram.buckets are not 1 to {MAX_EDGES} rising edges")));
    }
    Ok(edges)
}
