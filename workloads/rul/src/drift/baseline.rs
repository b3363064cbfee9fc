//! The baseline that a look compares with, whoever wrote it.

use drift_stats::decision::Reference;
use drift_stats::histogram::Histogram;

use super::error::Error;
use super::record::{Inputs, Recorder};
use super::seed::{EDGES, SeedBaseline};

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
    pub median: Option<f64>,
    /// The same counts on the earlier system's edges, where the bounds have them.
    pub seed: Option<SeedBaseline>,
}

impl Baseline {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// [`Error::Baseline`] with the first part that does not.
    pub fn new(
        place: String,
        (version, sha256): (Option<String>, String),
        inputs: &Inputs,
        reference: Reference,
        median: Option<f64>,
    ) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Baseline { place: place.clone(), reason };
        let recorder = inputs.recorder().map_err(|e| refuse(e.to_string()))?;
        reference.check().map_err(|e| refuse(e.to_string()))?;
        if recorder.names() != reference.features {
            return Err(refuse("its inputs and its reference name different features: make it anew".to_owned()));
        }
        if recorder.regimes() + 1 != reference.regimes.len() {
            return Err(refuse("its inputs and its reference count different regimes: make it anew".to_owned()));
        }
        let mut overall = Histogram::new(reference.bounds()).map_err(|e| refuse(e.to_string()))?;
        for histogram in &reference.predictions {
            overall.merge(histogram).map_err(|e| refuse(e.to_string()))?;
        }
        let seed = on_seed_edges(&overall);
        Ok(Self { place, version, sha256, recorder, reference, overall, median, seed })
    }

    /// `7`, or the beginning of the hash where the version is not known.
    pub fn label(&self) -> String {
        self.version.clone().unwrap_or_else(|| format!("sha256 {}", short(&self.sha256)))
    }
}

/// Sums finer buckets; `None` where an edge falls inside one. What lies above the last bound is at the model's cap.
fn on_seed_edges(fine: &Histogram) -> Option<SeedBaseline> {
    let cumulative = fine.cumulative();
    let last = fine.bounds().last().copied()?;
    let at = |edge: f64| match fine.bounds().iter().position(|&b| b == edge) {
        Some(bucket) => cumulative.get(bucket).copied(),
        None => (edge > last).then(|| fine.total()),
    };
    let mut before = 0;
    let mut counts = Vec::new();
    // The lowest edge counts nothing: whatever is below the second is in the first bucket.
    for &edge in &EDGES[1..] {
        let now = at(edge)?;
        counts.push(now - before);
        before = now;
    }
    Some(SeedBaseline { edges: EDGES.to_vec(), counts })
}

/// Enough of a hash to recognise it.
pub fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}
