//! The baseline that a look compares with, ready for use.

use drift_stats::decision::Reference;
use drift_stats::histogram::Histogram;

use super::error::Error;
use super::record::Recorder;
use super::seed::SeedBaseline;
use crate::artifact;

/// Everything that a comparison needs.
#[derive(Debug, Clone)]
pub struct Baseline {
    /// Where it was read, for errors and reports.
    pub place: String,
    /// Version in the registry, where the baseline knows it.
    pub version: Option<String>,
    /// SHA-256 of the `model.onnx` that it was made with: what ties it to a service.
    pub sha256: String,
    pub recorder: Recorder,
    pub reference: Reference,
    /// Training predictions of all ages.
    pub overall: Histogram,
    /// Median training prediction, cycles.
    pub median: f64,
    /// The same predictions on the earlier system's edges.
    pub seed: SeedBaseline,
}

impl Baseline {
    /// Unpacks a baseline that was read from `place`.
    ///
    /// # Errors
    /// [`Error::Baseline`] with the first part that does not fit the others.
    pub fn new(place: String, stored: &artifact::Baseline) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Baseline { place: place.clone(), reason };
        stored.check().map_err(refuse)?;
        Ok(Self {
            version: stored.model.version.clone().or_else(|| stored.model_version.clone()),
            sha256: stored.model.sha256.clone(),
            recorder: stored.inputs.recorder().map_err(|e| refuse(e.to_string()))?,
            reference: stored.reference().map_err(|e| refuse(e.to_string()))?,
            overall: stored.histogram.histogram().map_err(|e| refuse(e.to_string()))?,
            median: stored.prediction_stats.median,
            seed: SeedBaseline {
                edges: stored.seed_histogram.buckets.clone(),
                counts: stored.seed_histogram.counts.clone(),
            },
            place,
        })
    }
}

/// Enough of a hash to recognise it.
#[must_use]
pub fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}
