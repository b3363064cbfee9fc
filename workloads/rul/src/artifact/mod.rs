//! A model as training leaves it and the registry keeps it: one directory, self-consistent, written at once.
//!
//! | file | what |
//! |---|---|
//! | `model.onnx`, `model.json` | the graph with scaler and cap inside, and what it is (crate `model`) |
//! | `baseline.json` | what it was trained on and how its predictions are spread: [`Baseline`] |
//! | `golden.json` | windows with the answers they must give: [`Golden`] |
//! | `metrics.json` | how good it is: [`Metrics`] |
//! | `MLmodel`, `requirements.txt`, `conda.yaml`, `python_env.yaml` | makes `mlflow.pyfunc.load_model` work |
//!
//! The model takes raw physical units, in the features and the window that `model.json` names.

mod baseline;
mod golden;
mod metrics;
mod mlmodel;
mod place;
mod prediction;
mod reference;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

use model::{MODEL_FILE, Manifest, Model};
use serde::de::DeserializeOwned;

pub use baseline::{BASELINE_SCHEMA, Baseline, BaselineModel, BucketCounts, PredictionStats};
pub use golden::Golden;
pub use metrics::{Metrics, Score, SeedRun};
pub use place::check_free;
pub use prediction::{bounds, predict_engines};
pub use reference::{StoredNull, StoredRecords, StoredReference};
pub use write::{Draft, Origin, fit_baseline, write};

pub const BASELINE_FILE: &str = "baseline.json";
/// The same where `rul baseline` publishes it, beside the earlier system's form, which has the name above there.
pub const PUBLISHED_FILE: &str = "rul-baseline.json";
pub const GOLDEN_FILE: &str = "golden.json";
pub const METRICS_FILE: &str = "metrics.json";
pub const MLMODEL_FILE: &str = "MLmodel";

/// Nothing of ours is larger; what is, is not ours.
const MAX_JSON: u64 = 16 << 20;

/// What is wrong with an artifact.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A file contradicts another one, or cannot be understood.
    #[error("{}: {reason}", path.display())]
    Refused { path: PathBuf, reason: String },
    /// Something that is not an artifact lies where one should be written.
    #[error("{} has files that no model directory has ({found}): choose an empty or a new directory", path.display())]
    Occupied { path: PathBuf, found: String },
    #[error(transparent)]
    Model(#[from] model::Error),
    #[error(transparent)]
    Data(#[from] cmapss::Error),
    #[error(transparent)]
    Inputs(#[from] crate::drift::record::InputsError),
    #[error("baseline: {0}")]
    Statistics(#[from] drift_stats::StatError),
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// An artifact that was read back, every part checked against the others.
#[derive(Debug)]
pub struct Artifact {
    pub dir: PathBuf,
    pub model: Model,
    pub manifest: Manifest,
    /// `None` in a directory of an earlier time or of somebody else.
    pub baseline: Option<Baseline>,
    pub golden: Option<Golden>,
    pub metrics: Option<Metrics>,
}

impl Artifact {
    /// Reads a directory: the model and its hash, the golden answers, the baseline's tie to the model.
    ///
    /// # Errors
    /// A file that is missing (the model), cannot be understood, or contradicts the model.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let (model, manifest) = Model::load_dir(dir)?;
        let baseline: Option<Baseline> = optional(&dir.join(BASELINE_FILE))?;
        if let Some(baseline) = &baseline {
            let refuse = |reason| Error::Refused { path: dir.join(BASELINE_FILE), reason };
            if baseline.model.sha256 != manifest.sha256 {
                return Err(refuse(format!(
                    "it belongs to a model with sha256 {}, {MODEL_FILE} has {}",
                    baseline.model.sha256, manifest.sha256
                )));
            }
            baseline.check().map_err(refuse)?;
        }
        let golden: Option<Golden> = optional(&dir.join(GOLDEN_FILE))?;
        if let Some(golden) = &golden {
            golden.check(&model).map_err(|reason| Error::Refused { path: dir.join(GOLDEN_FILE), reason })?;
        }
        let metrics = optional(&dir.join(METRICS_FILE))?;
        Ok(Self { dir: dir.to_owned(), model, manifest, baseline, golden, metrics })
    }
}

/// Reads one JSON file; `None` when it is not there.
///
/// # Errors
/// When it cannot be read, is too large, or is not the JSON that is expected.
pub fn optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    use std::io::Read;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path)(e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_JSON + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    let refuse = |reason: String| Error::Refused { path: path.to_owned(), reason };
    if bytes.len() as u64 > MAX_JSON {
        return Err(refuse(format!("more than {MAX_JSON} bytes")));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|e| refuse(e.to_string()))
}
