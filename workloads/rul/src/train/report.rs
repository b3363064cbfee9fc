//! What a training says: on the way to stderr, at its end to stdout.

use std::fmt::Write;

use serde::Serialize;

use super::Options;
use super::prepare::Prepared;
use crate::artifact::{Artifact, Metrics};
use crate::data::Data;
use crate::registry::Version;

/// Validation RMSE of the earlier system on FD001, in cycles.
const EARLIER_RMSE: f64 = 13.54;

/// The result; as JSON, [`Metrics`] with the model's whereabouts beside them.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    metrics: Metrics,
    /// `null` when the model is in the registry only.
    out: Option<String>,
    /// Of `model.onnx`.
    model_sha256: String,
    model_name: String,
    /// `null` without a registry.
    registered_version: Option<String>,
    #[serde(skip)]
    earlier_split: bool,
}

/// One line about what is trained on.
#[must_use]
pub fn data(data: &Data, prepared: &Prepared) -> String {
    let held: usize = prepared.val_engines.values().map(Vec::len).sum();
    let mut text = format!(
        "{} ({}): {} engines, {held} of them held out; {} windows to train on, {} to validate on",
        data.name(),
        data.origin,
        prepared.fleet.engines.len(),
        prepared.train.len(),
        prepared.validate.len()
    );
    let untested: Vec<&str> = data.sets.iter().filter(|s| s.test.is_none()).map(|s| s.name.as_str()).collect();
    if !untested.is_empty() {
        text += &format!("; no test engines of {}", untested.join(", "));
    }
    if prepared.windows.skipped > 0 {
        text += &format!("; {} engines are too short for a window", prepared.windows.skipped);
    }
    text
}

impl Report {
    #[must_use]
    pub fn new(
        options: &Options,
        artifact: Artifact,
        metrics: Metrics,
        earlier_split: bool,
        version: Option<Version>,
    ) -> Self {
        Self {
            // As they were written.
            metrics: artifact.metrics.unwrap_or(metrics),
            out: options.out().map(|out| out.display().to_string()),
            model_sha256: artifact.manifest.sha256,
            model_name: options.model.clone(),
            registered_version: version.map(|v| v.version),
            earlier_split,
        }
    }

    /// One line.
    #[must_use]
    pub fn json(&self) -> String {
        // Numbers and text only: nothing that JSON could refuse.
        serde_json::to_string(self).map(|line| line + "\n").unwrap_or_default()
    }

    /// For people.
    #[must_use]
    pub fn sentences(&self) -> String {
        let m = &self.metrics;
        let mut text = String::new();
        // Writing to a string cannot fail.
        for run in &m.seeds {
            let test = run.test_rmse.map(|rmse| format!(", test {rmse:.2}")).unwrap_or_default();
            let kept = if run.seed == m.seed { "  <- kept, best by validation" } else { "" };
            let _ = writeln!(
                text,
                "seed {:<4} epoch {:>2}, validation {:.2}{test}, {:.1} s{kept}",
                run.seed, run.epoch, run.val_rmse, run.seconds
            );
        }
        for (name, score) in &m.test {
            let _ = writeln!(
                text,
                "test {name}: RMSE {:.2} cycles (capped at {}: {:.2}), NASA score {:.0}; {} engines, last window each",
                score.rmse, m.cap, score.rmse_capped, score.nasa_score, score.engines
            );
        }
        let held: usize = m.val_engines.values().map(Vec::len).sum();
        let earlier = if self.earlier_split && m.data_origin == "real" {
            format!(", on the same engines as the earlier system's {EARLIER_RMSE}")
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "seed protocol (80/20 by engine, labels capped at {}, all windows): validation RMSE {:.2} cycles, {held} engines{earlier}",
            m.cap, m.val_rmse
        );
        if let Some(out) = &self.out {
            let _ = writeln!(text, "written: {out} (model.onnx {})", &self.model_sha256[..12]);
        }
        if let Some(version) = &self.registered_version {
            let _ = writeln!(text, "registered: {} version {version}, alias staging", self.model_name);
        }
        text
    }
}
