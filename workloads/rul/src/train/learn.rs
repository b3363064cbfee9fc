//! The runs: one per seed, the best by validation is kept.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use model::{Model, Network, Options as Hyper, Trained};

use super::interrupt::Interrupt;
use super::prepare::Prepared;
use super::{Error, Options};
use crate::artifact::{Artifact, Metrics, SeedRun};
use crate::data::Data;

/// A model to begin with.
#[derive(Debug)]
pub struct Start {
    pub network: Network,
    /// Of its `model.onnx`.
    pub sha256: String,
    /// Where it comes from, as far as it says.
    metrics: Option<Metrics>,
}

impl Start {
    /// # Errors
    /// No model of ours there, or one for other rows.
    pub fn read(dir: &Path, prepared: &Prepared) -> Result<Self, Error> {
        let artifact = Artifact::read(dir)?;
        let wrong = |reason: String| Error::Usage(format!("--warm-start {}: {reason}", dir.display()));
        let network = artifact.model.network().ok_or_else(|| wrong("not a network of this program".to_owned()))?;
        if artifact.manifest.features != prepared.features.names() || network.window != prepared.windows.length {
            return Err(wrong("it takes other features or another window: train without it".to_owned()));
        }
        Ok(Self { network: network.clone(), sha256: artifact.manifest.sha256, metrics: artifact.metrics })
    }

    /// How many of the held-out engines it was trained on, by its own account. Sets of the same name and origin are the same engines.
    #[must_use]
    pub fn seen(&self, data: &Data, prepared: &Prepared) -> usize {
        let Some(metrics) = self.metrics.as_ref().filter(|m| m.data_origin == data.origin) else { return 0 };
        let both = prepared.val_engines.iter().filter_map(|(set, held)| Some((held, metrics.val_engines.get(set)?)));
        both.map(|(held, spared)| held.iter().filter(|engine| !spared.contains(engine)).count()).sum()
    }
}

/// What the trainer is told, but for the seed.
#[must_use]
pub fn hyper(options: &Options, start: Option<&Start>) -> Hyper {
    let usual = Hyper::default();
    let hidden = start.map_or(usual.hidden, |s| s.network.layers.iter().map(|l| l.hidden).collect());
    Hyper {
        hidden,
        epochs: options.epochs.map_or(usual.epochs, usize::from),
        threads: usize::from(options.threads),
        ..Hyper::default()
    }
}

/// One finished run.
#[derive(Debug)]
pub struct Run {
    pub seed: u64,
    pub trained: Trained,
}

/// Trains once per seed. One line per epoch goes to stderr.
///
/// # Errors
/// Training that fails; [`Error::Interrupted`].
pub fn runs(
    options: &Options,
    prepared: &Prepared,
    hyper: &Hyper,
    start: Option<&Start>,
    interrupt: &Interrupt,
) -> Result<Vec<Run>, Error> {
    let set = prepared.set();
    let from = start.map(|s| &s.network);
    let mut runs = Vec::new();
    for (number, seed) in (1..).zip(options.run_seeds()) {
        let mut err = std::io::stderr();
        let mut progress = |e: &model::EpochReport| {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(
                err,
                "seed {seed} ({number} of {}), epoch {} of {}: validation {:.2} cycles, training {:.2}, {:.1} s",
                options.seeds, e.epoch, hyper.epochs, e.val_rmse, e.train_rmse, e.seconds
            );
            if interrupt.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let hyper = Hyper { seed, ..hyper.clone() };
        let (train, validate) = (&prepared.train, &prepared.validate);
        let trained = model::train(&set, train, validate, &prepared.scaler, &hyper, from, &mut progress)?;
        if interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        runs.push(Run { seed, trained });
    }
    Ok(runs)
}

/// The best by validation; of equals the first.
#[must_use]
pub fn best(runs: &[Run]) -> Option<&Run> {
    runs.iter().reduce(|a, b| if b.trained.best.val_rmse < a.trained.best.val_rmse { b } else { a })
}

/// Judges the runs. `metrics.json`, but for what writing finds out.
///
/// # Errors
/// A model that gives no numbers.
pub fn metrics(data: &Data, prepared: &Prepared, runs: &[Run], best: &Run, code: &str) -> Result<Metrics, Error> {
    let model = Model::new(best.trained.network.clone())?;
    let validation = prepared.validation(&model)?;
    let (test, all) = prepared.test(&model)?;
    let mut seeds = Vec::with_capacity(runs.len());
    for run in runs {
        let model = Model::new(run.trained.network.clone())?;
        seeds.push(SeedRun {
            seed: run.seed,
            epoch: run.trained.best.epoch,
            val_rmse: prepared.validation(&model)?.rmse,
            test_rmse: prepared.test(&model)?.1.map(|score| score.rmse),
            seconds: run.trained.seconds,
        });
    }
    Ok(Metrics {
        schema: 1,
        dataset: data.name(),
        data_sha256: data.sha256.clone(),
        data_origin: data.origin.to_owned(),
        val_rmse: validation.rmse,
        val_mae: validation.mae,
        val_bias: validation.bias,
        test_rmse: all.map(|score| score.rmse),
        test_rmse_capped: all.map(|score| score.rmse_capped),
        nasa_score: all.map(|score| score.nasa_score),
        test,
        epoch: best.trained.best.epoch,
        seed: best.seed,
        seconds: seeds.iter().map(|run| run.seconds).sum(),
        seeds,
        engines: prepared.fleet.engines.len(),
        train_windows: prepared.train.len(),
        val_windows: prepared.validate.len(),
        val_engines: prepared.val_engines.clone(),
        window: prepared.windows.length,
        cap: f64::from(best.trained.network.cap),
        parameters: best.trained.network.parameters(),
        export_difference: 0.0,
        code_version: code.to_owned(),
        warm_start: false,
    })
}
