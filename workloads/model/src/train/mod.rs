//! Back-propagation through time with Adam. Deterministic: the same data, options, thread count and
//! instruction set give the same bits.

mod batch;
mod checks;
pub(crate) mod rng;
mod run;

pub use run::train;

use crate::Network;

/// Labelled windows, borrowed from the caller.
#[derive(Debug, Clone, Copy)]
pub struct Windows<'a> {
    /// `count x window x features`, row-major, in the units the model will be served with.
    pub inputs: &'a [f32],
    /// One per window, cycles (already capped, or capped here by [`Options::cap`]).
    pub targets: &'a [f32],
    /// Rows per window.
    pub window: usize,
    /// Columns per row.
    pub features: usize,
}

/// How the learning rate moves from its start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    Constant,
    /// Half a cosine down to `floor x learning_rate` over all epochs.
    Cosine {
        floor: f32,
    },
}

/// What is trained and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Units of each LSTM layer, first layer first.
    pub hidden: Vec<usize>,
    /// Targets above it count as it, predictions are clipped to it. Cycles. A prediction beyond the
    /// cap of a capped target is no error, here as in service.
    pub cap: f32,
    pub epochs: usize,
    /// Windows per step.
    pub batch: usize,
    pub learning_rate: f32,
    pub schedule: Schedule,
    /// Share of the units between layers, and before the head, that are silenced per window.
    pub dropout: f32,
    /// Standard deviation of Gaussian noise added to scaled inputs.
    pub input_noise: f32,
    /// Standard deviation of an offset added to a scaled feature, the same over a whole window: as if
    /// it came from an engine with another healthy level.
    pub input_offset: f32,
    /// Decoupled (AdamW), on weights, not on biases.
    pub weight_decay: f32,
    /// Largest norm of a step's gradient.
    pub clip_norm: f32,
    /// Decay per step of the running average of weights that is validated and kept; 0 keeps the
    /// raw weights.
    pub average: f32,
    /// Epochs without an improvement of at least `min_improvement` before stopping.
    pub patience: usize,
    /// Cycles of validation RMSE.
    pub min_improvement: f32,
    pub seed: u64,
    /// Threads that share each batch.
    pub threads: usize,
}

/// One epoch, as told to the caller while training runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochReport {
    /// From 1.
    pub epoch: usize,
    /// RMSE over the epoch's batches (dropout and noise on), cycles.
    pub train_rmse: f32,
    /// RMSE on the validation windows against capped targets, cycles.
    pub val_rmse: f32,
    /// Since the start of training.
    pub seconds: f64,
}

/// The epoch that validation chose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    pub epoch: usize,
    pub val_rmse: f32,
}

/// A finished training run.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Weights of the best epoch.
    pub network: Network,
    pub best: Best,
    pub history: Vec<EpochReport>,
    pub seconds: f64,
}

impl Default for Options {
    /// Chosen by five-fold cross-validation over the training engines of FD001 (the test set was not
    /// looked at): one layer beat two, and the offset was worth more than all else together.
    fn default() -> Self {
        Self {
            hidden: vec![64],
            cap: 125.0,
            epochs: 10,
            batch: 64,
            learning_rate: 5e-3,
            schedule: Schedule::Cosine { floor: 0.05 },
            dropout: 0.2,
            input_noise: 0.2,
            input_offset: 0.4,
            weight_decay: 0.3,
            clip_norm: 1.0,
            average: 0.99,
            patience: 5,
            min_improvement: 0.01,
            seed: 42,
            threads: 1,
        }
    }
}

#[cfg(test)]
mod tests;
