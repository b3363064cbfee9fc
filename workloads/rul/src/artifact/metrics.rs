//! `metrics.json`: how good a model is, how it was made, and on which engines that was measured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `metrics.json`, and the last line of `rul train --json`. Errors are in cycles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    pub schema: u32,
    /// `FD001`, or several joined by `+`.
    pub dataset: String,
    /// Of all data files, lower-case hexadecimal.
    pub data_sha256: String,
    /// `real` (NASA's own files, by checksum), `given` (other files) or `generated`.
    pub data_origin: String,
    /// On the validation engines, all windows, labels capped; of the best seed.
    pub val_rmse: f64,
    pub val_mae: f64,
    pub val_bias: f64,
    /// On the test engines, last window each, labels as they are. `None` without a test set.
    pub test_rmse: Option<f64>,
    /// The same with labels capped.
    pub test_rmse_capped: Option<f64>,
    /// NASA's score on the test engines, labels as they are; late predictions weigh more.
    pub nasa_score: Option<f64>,
    /// Per data set of a mixture.
    pub test: BTreeMap<String, Score>,
    /// That validation chose, from 1.
    pub epoch: usize,
    /// The best seed, by validation.
    pub seed: u64,
    pub seeds: Vec<SeedRun>,
    /// Of all training, without reading data and writing files.
    pub seconds: f64,
    pub engines: usize,
    pub train_windows: usize,
    pub val_windows: usize,
    /// Engines that never trained a weight, per data set: fit for comparing models.
    pub val_engines: BTreeMap<String, Vec<u32>>,
    pub window: usize,
    pub cap: f64,
    pub parameters: usize,
    /// Largest difference between the trained network and the written file, run the way a service does.
    pub export_difference: f64,
    /// Of this program.
    pub code_version: String,
    /// Whether training began with an earlier model's weights.
    pub warm_start: bool,
}

/// On test engines, last window each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub engines: usize,
    pub rmse: f64,
    pub rmse_capped: f64,
    pub mae: f64,
    pub bias: f64,
    pub nasa_score: f64,
}

/// One seed's training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SeedRun {
    pub seed: u64,
    /// Best epoch, from 1.
    pub epoch: usize,
    pub val_rmse: f64,
    pub test_rmse: Option<f64>,
    pub seconds: f64,
}
