//! The files of a model directory: what they hash to, and what is asked of them before the model
//! is served.

use std::io;
use std::path::{Path, PathBuf};

use model::{MANIFEST_FILE, MODEL_FILE, Model};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::input::Shape;
use super::metrics::PREDICTION_EDGES;
use super::watched::Trained;
use crate::drift::record::Inputs;

/// Windows with the answers that the trainer got, beside the model. Optional unless the service is
/// told to insist.
pub const GOLDEN_FILE: &str = "golden.json";
/// The reference of the drift watch; the edges of the prediction histogram come from it. Optional.
pub const BASELINE_FILE: &str = "baseline.json";

/// Largest of the model directory's files, together.
const MAX_BYTES: u64 = 256 << 20;
const MAX_GOLDEN: usize = 1024;
const MAX_EDGES: usize = 256;
/// How far from a golden answer a prediction may be, in cycles, unless the file says otherwise.
const GOLDEN_TOLERANCE: f32 = 1e-2;

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

/// How many windows there were, and the largest difference in cycles.
///
/// # Errors
/// When an answer differs by more than the tolerance, or the file is broken or (with `require`) missing.
pub fn check_golden(dir: &Path, model: &Model, shape: Shape, require: bool) -> Result<(usize, Option<f32>), LoadError> {
    let path = dir.join(GOLDEN_FILE);
    let refuse = |reason: String| LoadError::Refused(format!("{}: {reason}", path.display()));
    let Some(bytes) = read_optional(&path)? else {
        if require {
            return Err(refuse("missing, and this service insists on it".to_owned()));
        }
        // Still one run, so that a model that cannot predict at all is not served.
        let warm = model.predict_all(&vec![0.5; shape.numbers()]);
        return match warm.as_deref() {
            Ok([value]) if value.is_finite() => Ok((0, None)),
            other => Err(refuse(format!("missing, and a trial window gave {other:?}"))),
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
    inputs: Option<Inputs>,
}

#[derive(Debug, Deserialize)]
struct BaselineHistogram {
    /// Edges in cycles.
    buckets: Vec<f64>,
}

/// What serving takes from a baseline.
#[derive(Debug)]
pub struct Reference {
    /// Edges of the prediction histogram, in cycles.
    pub edges: Vec<f64>,
    /// Absent in a baseline of an earlier form.
    pub inputs: Option<Trained>,
}

/// Reads `baseline.json`; without one there are the seed's edges.
///
/// # Errors
/// When there is a baseline without usable edges, or one of other features than the model's.
pub fn read_baseline(dir: &Path, features: &[String]) -> Result<Reference, LoadError> {
    let path = dir.join(BASELINE_FILE);
    let Some(bytes) = read_optional(&path)? else {
        return Ok(Reference { edges: PREDICTION_EDGES.to_vec(), inputs: None });
    };
    let refuse = |reason: String| LoadError::Refused(format!("{}: {reason}", path.display()));
    let baseline: Baseline = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
    let edges = baseline.histogram.buckets;
    let rising = edges.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
    if edges.is_empty() || edges.len() > MAX_EDGES || !rising || edges.iter().any(|e| !e.is_finite()) {
        return Err(refuse(format!("histogram.buckets are not 1 to {MAX_EDGES} rising edges")));
    }
    let inputs = baseline.inputs.map(|inputs| Trained::new(&inputs, features)).transpose().map_err(refuse)?;
    Ok(Reference { edges, inputs })
}
