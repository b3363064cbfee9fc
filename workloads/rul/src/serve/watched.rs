//! What comes in, counted against what the model was trained on: the operating regime of each
//! window's newest row, and features outside of the trained range.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cmapss::FeatureSet;

use super::metrics::Metrics;
use crate::drift::record::{Inputs, Recorder};

/// Label of rows in no regime that is known.
const UNKNOWN: &str = "unknown";

/// The counters of one model's inputs.
#[derive(Debug)]
pub struct Watched {
    recorder: Recorder,
    /// The last one is for [`UNKNOWN`].
    regimes: Vec<Arc<AtomicU64>>,
    outside: Vec<(String, Arc<AtomicU64>)>,
}

/// What `baseline.json` says about inputs, made ready, before any counter is shown.
#[derive(Debug)]
pub struct Trained {
    recorder: Recorder,
    features: Vec<String>,
}

impl Trained {
    /// # Errors
    /// Inputs that contradict themselves or the model's features.
    pub fn new(inputs: &Inputs, features: &[String]) -> Result<Self, String> {
        let recorder = inputs.recorder().map_err(|e| e.to_string())?;
        let named: Vec<_> = inputs.features.iter().map(|f| f.name.clone()).collect();
        // A column has several names.
        let columns = |names: &[String]| FeatureSet::by_names(names.iter().map(String::as_str)).ok();
        if columns(&named) != columns(features) {
            return Err(format!("inputs are of {named:?}, the model takes {features:?}"));
        }
        Ok(Self { recorder, features: named })
    }

    /// Shows the counters, at zero where they are new.
    pub fn watch(self, metrics: &Metrics) -> Watched {
        let regimes = (0..self.recorder.regimes()).map(|i| i.to_string()).chain([UNKNOWN.to_owned()]);
        Watched {
            regimes: regimes.map(|label| metrics.regime(&label)).collect(),
            outside: self.features.iter().map(|name| (name.clone(), metrics.out_of_range(name))).collect(),
            recorder: self.recorder,
        }
    }
}

impl Watched {
    /// The newest row of each window: the ones before it came with earlier windows.
    pub fn count(&self, windows: &[f32], size: usize, features: usize) {
        for window in windows.chunks_exact(size) {
            let row = window.get(size.saturating_sub(features)..).unwrap_or_default();
            let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
            let Ok(record) = self.recorder.record(&row, None, None, 0.0) else { continue };
            let regime = record.regime.unwrap_or(self.regimes.len().saturating_sub(1));
            if let Some(counter) = self.regimes.get(regime) {
                counter.fetch_add(1, Relaxed);
            }
            for name in self.recorder.outside(&row) {
                if let Some((_, counter)) = self.outside.iter().find(|(known, _)| known == name) {
                    counter.fetch_add(1, Relaxed);
                }
            }
        }
    }
}
