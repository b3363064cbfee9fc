//! `baseline.json`: what the model was trained on and what its predictions looked like there.

use std::path::Path;

use drift_stats::StatError;
use drift_stats::decision::Reference;
use drift_stats::edges::quantile_sorted;
use drift_stats::histogram::Histogram;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reference::StoredReference;
use super::{Error, optional};
use crate::drift::record::Inputs;

/// Raised when a reader of the older form would be misled. New keys alone do not raise it.
pub const BASELINE_SCHEMA: u32 = 1;

/// `baseline.json`. Keys that are not known here are ignored, so that an older program can read a newer file of the same schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    pub schema: u32,
    pub model: BaselineModel,
    /// The version in the registry as the earlier system's readers expect it; `null` in a file from training.
    pub model_version: Option<String>,
    /// `FD001`, or several joined by `+`.
    pub dataset: String,
    /// Of all data files, lower-case hexadecimal.
    pub data_sha256: String,
    pub generated_at: Timestamp,
    /// Which program wrote it.
    pub generator: String,
    /// Windows that the distribution below is made of: all engines of the training files.
    pub training_set_size: u64,
    pub prediction_stats: PredictionStats,
    /// Predictions per bucket. `buckets` are upper bounds (inclusive), `counts` has one more: what is above the last.
    pub histogram: BucketCounts,
    /// The same in the buckets of the earlier system: `buckets` are edges from 0 to 500, `counts` one per gap.
    pub seed_histogram: BucketCounts,
    pub inputs: Inputs,
    pub reference: StoredReference,
}

/// Which model a baseline belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineModel {
    pub name: String,
    /// In the registry; `null` until the model is registered there.
    pub version: Option<String>,
    /// Of `model.onnx`: what ties the baseline to a service.
    pub sha256: String,
}

/// Cycles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PredictionStats {
    pub mean: f64,
    pub std: f64,
    pub min: f64,
    pub max: f64,
    pub median: f64,
    pub q25: f64,
    pub q75: f64,
}

/// Bucket bounds in cycles, and integer counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BucketCounts {
    pub buckets: Vec<f64>,
    pub counts: Vec<u64>,
}

impl PredictionStats {
    /// Of a sample that is not empty; NaN in an empty one.
    #[must_use]
    pub fn of(predictions: &[f64]) -> Self {
        let mut sorted = predictions.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let n = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / n;
        let variance = sorted.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / n;
        let quantile = |q| round(quantile_sorted(&sorted, q).unwrap_or(f64::NAN), 4);
        Self {
            mean: round(mean, 4),
            std: round(variance.sqrt(), 4),
            min: quantile(0.0),
            max: quantile(1.0),
            median: quantile(0.5),
            q25: quantile(0.25),
            q75: quantile(0.75),
        }
    }
}

impl BucketCounts {
    /// As a histogram of drift-stats.
    ///
    /// # Errors
    /// Bounds that do not rise, or not one count more than bounds.
    pub fn histogram(&self) -> Result<Histogram, StatError> {
        Histogram::from_counts(&self.buckets, &self.counts)
    }

    /// Predictions in the buckets of the earlier system.
    ///
    /// # Errors
    /// A prediction that is not finite.
    pub fn seed(predictions: &[f64]) -> Result<Self, StatError> {
        const EDGES: [f64; 13] = [0.0, 25.0, 50.0, 75.0, 100.0, 125.0, 150.0, 175.0, 200.0, 250.0, 300.0, 400.0, 500.0];
        // There the first bucket takes all that is below it, and what is above the last is dropped.
        let counts = Histogram::from_values(&EDGES[1..], predictions)?.counts()[..EDGES.len() - 1].to_vec();
        Ok(Self { buckets: EDGES.to_vec(), counts })
    }
}

impl From<&Histogram> for BucketCounts {
    fn from(histogram: &Histogram) -> Self {
        Self { buckets: histogram.bounds().to_vec(), counts: histogram.counts().to_vec() }
    }
}

impl Baseline {
    /// Reads and checks `baseline.json`, wherever it lies; `None` when it is not there.
    ///
    /// # Errors
    /// A file that cannot be read, understood, or does not hold together.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let baseline: Option<Self> = optional(path)?;
        if let Some(baseline) = &baseline {
            baseline.check().map_err(|reason| Error::Refused { path: path.to_owned(), reason })?;
        }
        Ok(baseline)
    }

    /// The reference of the drift decision. It carries the registry's version, or the model's hash where there is none yet: whoever knows the
    /// served version better sets `model_version`.
    ///
    /// # Errors
    /// Parts that do not fit together.
    pub fn reference(&self) -> Result<Reference, StatError> {
        let version = self.model.version.as_ref().or(self.model_version.as_ref()).unwrap_or(&self.model.sha256);
        let reference = self.reference.reference(version, &self.histogram.buckets)?;
        reference.check()?;
        Ok(reference)
    }

    /// Says which version of the registry this is.
    pub fn set_version(&mut self, version: &str) {
        self.model.version = Some(version.to_owned());
        self.model_version = Some(version.to_owned());
    }

    /// Whether the parts fit together; a stored file may have been edited or cut.
    ///
    /// # Errors
    /// The first part that does not, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.schema != BASELINE_SCHEMA {
            return Err(format!(
                "schema {}, this program reads {BASELINE_SCHEMA}: use the program of the same release",
                self.schema
            ));
        }
        let total = self.histogram.histogram().map_err(|e| format!("histogram: {e}"))?.total();
        if total != self.training_set_size {
            return Err(format!("histogram counts {total} windows, training_set_size is {}", self.training_set_size));
        }
        let recorder = self.inputs.recorder().map_err(|e| e.to_string())?;
        let reference = self.reference().map_err(|e| format!("reference: {e}"))?;
        if recorder.names() != reference.features {
            return Err("inputs and reference name different features".to_owned());
        }
        if recorder.regimes() + 1 != reference.regimes.len() {
            return Err("inputs and reference count different regimes".to_owned());
        }
        Ok(())
    }
}

/// So many decimals: a number that every reader gives back, and a smaller file.
pub(super) fn round(x: f64, decimals: i32) -> f64 {
    let factor = 10f64.powi(decimals);
    (x * factor).round() / factor
}
