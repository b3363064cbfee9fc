//! The held-out engines, and a model's errors on them.

use std::path::Path;

use cmapss::files::{TestSet, Text};
use cmapss::metrics::nasa_penalty;
use cmapss::scale::Unscaled;
use cmapss::windows::{Short, WindowSpec, Windows};
use cmapss::{Engine, FeatureSet, split};
use model::{Manifest, Model};
use sha2::{Digest, Sha256};

use super::{Error, Options};

/// Windows predicted in one go.
const BATCH: usize = 256;

/// Whose engines are held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Against {
    /// `test_NAME` and `RUL_NAME`.
    Test,
    /// A fifth of `train_NAME`.
    Validation,
}

/// Engines that no model was trained on.
#[derive(Debug)]
pub struct HeldOut {
    sets: Vec<(String, TestSet)>,
    /// Of the files, in the order of the data sets.
    pub sha256: String,
    cap: u32,
}

/// Errors of one model, engine by engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    pub sets: Vec<SetScore>,
}

/// Errors on one data set.
#[derive(Debug, Clone, PartialEq)]
pub struct SetScore {
    pub name: String,
    pub engines: Vec<EngineScore>,
}

/// Errors on one engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineScore {
    /// Sum of squared errors over its windows, true lives capped; cycles squared.
    pub squares: f64,
    pub windows: usize,
    /// NASA's penalty for its last window, true life not capped.
    pub penalty: f64,
}

impl HeldOut {
    /// # Errors
    /// A file that is missing or broken.
    pub fn read(dir: &Path, options: &Options) -> Result<Self, Error> {
        let mut hash = Sha256::new();
        let mut sets = Vec::new();
        for name in &options.dataset {
            let mut find = |stem: String| -> Result<Text, Error> {
                let text = Text::find(dir, &stem)?;
                hash.update(&text.sha256);
                Ok(text)
            };
            let set = match options.held_out {
                Against::Test => {
                    TestSet::new(find(format!("test_{name}"))?.fleet()?, find(format!("RUL_{name}"))?.rul()?)?
                }
                Against::Validation => {
                    let fleet = find(format!("train_{name}"))?.fleet()?;
                    let held = split::validation(&fleet, options.split_seed)?.validation;
                    let lives = vec![0; held.engines.len()];
                    TestSet::new(held, lives)?
                }
            };
            sets.push((name.clone(), set));
        }
        Ok(Self { sets, sha256: hex::encode(hash.finalize()), cap: options.cap })
    }

    /// # Errors
    /// A model with features that the data does not have, or that gives no numbers.
    pub fn score(&self, version: &str, (model, manifest): &(Model, Manifest)) -> Result<Score, Error> {
        let unusable = |reason: String| Error::Unusable { version: version.to_owned(), reason };
        let features = FeatureSet::by_names(manifest.features.iter().map(String::as_str))
            .map_err(|e| unusable(format!("its features are not those of the data: {e}")))?;
        let transform = Unscaled(features);
        let mut sets = Vec::with_capacity(self.sets.len());
        for (name, set) in &self.sets {
            let mut engines = Vec::with_capacity(set.fleet.engines.len());
            for (engine, &rul) in set.fleet.engines.iter().zip(&set.rul) {
                engines.extend(self.score_engine(model, &transform, engine, rul).map_err(|e| match e {
                    Error::Unusable { reason, .. } => unusable(format!("engine {} of {name}: {reason}", engine.id)),
                    other => other,
                })?);
            }
            sets.push(SetScore { name: name.clone(), engines });
        }
        Ok(Score { sets })
    }

    fn score_engine(
        &self,
        model: &Model,
        transform: &Unscaled,
        engine: &Engine,
        rul: u32,
    ) -> Result<Option<EngineScore>, Error> {
        let spec =
            WindowSpec { length: model.window(), stride: 1, short: Short::RepeatFirst, cap: None, last_only: false };
        let unusable = |reason: String| Error::Unusable { version: String::new(), reason };
        let windows = Windows::with_rul(std::slice::from_ref(engine), &[rul], transform, spec)?;
        let size = windows.length * windows.features;
        let cap = self.cap as f32;
        let (mut squares, mut last) = (0.0, None);
        for (values, labels) in windows.values.chunks(BATCH * size).zip(windows.labels.chunks(BATCH)) {
            let predictions = model.predict_all(values).map_err(|e| unusable(e.to_string()))?;
            for (prediction, truth) in predictions.iter().zip(labels) {
                if !prediction.is_finite() {
                    return Err(unusable(format!("it predicts {prediction}")));
                }
                squares += f64::from(prediction - truth.min(cap)).powi(2);
                last = Some(f64::from(prediction - truth));
            }
        }
        Ok(last.map(|d| EngineScore { squares, windows: windows.len(), penalty: nasa_penalty(d) }))
    }
}

impl Score {
    pub fn engines(&self) -> impl Iterator<Item = &EngineScore> {
        self.sets.iter().flat_map(|set| &set.engines)
    }

    /// Root of the mean square over all windows, cycles.
    pub fn rmse(&self) -> f64 {
        rmse(self.engines())
    }

    pub fn windows(&self) -> usize {
        self.engines().map(|e| e.windows).sum()
    }
}

impl SetScore {
    pub fn rmse(&self) -> f64 {
        rmse(self.engines.iter())
    }

    /// NASA's score: the sum of the penalties.
    pub fn nasa(&self) -> f64 {
        self.engines.iter().map(|e| e.penalty).sum()
    }
}

fn rmse<'a>(engines: impl Iterator<Item = &'a EngineScore>) -> f64 {
    let (squares, windows) = engines.fold((0.0, 0), |(s, n), e| (s + e.squares, n + e.windows));
    (squares / windows.max(1) as f64).sqrt()
}
