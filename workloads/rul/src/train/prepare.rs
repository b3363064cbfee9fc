//! From data sets to what a network is trained on: windows, a split by engine, a scaler.

use std::collections::{BTreeMap, BTreeSet};

use cmapss::files::TestSet;
use cmapss::metrics::Metrics as Errors;
use cmapss::regimes::Regimes;
use cmapss::scale::Unscaled;
use cmapss::windows::{Short, WindowSpec, Windows};
use cmapss::{Column, FeatureSet, Fleet, split};
use model::{Model, Scaler};

use super::Error;
use crate::artifact::Score;
use crate::data::Data;
use crate::drift::record::Inputs;

/// Fewer engines than that teach nothing: with a fifth held out, two are left to choose the epoch by.
const FEWEST_ENGINES: usize = 10;

/// Everything that training and judging needs.
#[derive(Debug)]
pub struct Prepared {
    pub features: FeatureSet,
    /// All training engines, numbered uniquely.
    pub fleet: Fleet,
    /// Of all of them, raw, labels capped.
    pub windows: Windows,
    /// Indices of windows.
    pub train: Vec<usize>,
    pub validate: Vec<usize>,
    pub scaler: Scaler,
    /// Per data set, by the numbers of its file.
    pub val_engines: BTreeMap<String, Vec<u32>>,
    /// Whether the validation engines are the earlier system's.
    pub earlier_split: bool,
    /// Per data set: the last window of each test engine, with its remaining life.
    tests: Vec<(String, Windows)>,
}

impl Prepared {
    /// # Errors
    /// Too few engines, none long enough for a window, rows in no known regime.
    pub fn new(data: &Data, split_seed: u64) -> Result<Self, Error> {
        let features = FeatureSet::served();
        let fleet = data.fleet();
        if fleet.engines.len() < FEWEST_ENGINES {
            return Err(Error::Data(format!(
                "{} has {} training engines, at least {FEWEST_ENGINES} are needed: give the whole file, or --dataset several",
                data.name(),
                fleet.engines.len()
            )));
        }
        // The baseline is made of the same rows, after training: what it refuses is better known now.
        Inputs::fit(&features, &fleet)?;
        let HeldOut { unique: held, by_set: val_engines } = hold_out(data, &fleet, split_seed)?;
        let spec = WindowSpec { short: Short::Skip, ..WindowSpec::training() };
        let windows = Windows::run_to_failure(&fleet.engines, &Unscaled(features.clone()), spec)?;
        let (validate, train): (Vec<usize>, Vec<usize>) =
            (0..windows.len()).partition(|&w| held.contains(&windows.origins[w].engine));
        for (side, indices) in [("training", &train), ("validation", &validate)] {
            if indices.is_empty() {
                return Err(Error::Data(format!(
                    "no {side} engine of {} has {} cycles, the length of a window",
                    data.name(),
                    spec.length
                )));
            }
        }
        let tests = data.sets.iter().filter_map(|set| Some((set.name.clone(), set.test.as_ref()?)));
        let tests =
            tests.map(|(name, test)| Ok((name, last_windows(&features, test)?))).collect::<Result<_, Error>>()?;
        let earlier: BTreeSet<u32> = split::EARLIER_VALIDATION.into();
        Ok(Self {
            scaler: scaler(&features, &fleet, &held)?,
            earlier_split: data.sets.len() == 1 && fleet.engines.len() == 100 && held == earlier,
            features,
            fleet,
            windows,
            train,
            validate,
            val_engines,
            tests,
        })
    }

    /// For the trainer.
    #[must_use]
    pub fn set(&self) -> model::Windows<'_> {
        model::Windows {
            inputs: &self.windows.values,
            targets: &self.windows.labels,
            window: self.windows.length,
            features: self.windows.features,
        }
    }

    /// Errors on the validation windows, labels capped.
    ///
    /// # Errors
    /// A prediction that is no number.
    pub fn validation(&self, model: &Model) -> Result<Errors, Error> {
        let inputs: Vec<f32> = self.validate.iter().filter_map(|&w| self.windows.get(w)).flatten().copied().collect();
        let truth: Vec<f64> = self.validate.iter().map(|&w| f64::from(self.windows.labels[w])).collect();
        Ok(Errors::new(&wide(&model.predict_all(&inputs)?), &truth)?)
    }

    /// Scores per data set that has test engines, and of all of them together. Chooses nothing: it is asked when all is chosen.
    ///
    /// # Errors
    /// A prediction that is no number.
    pub fn test(&self, model: &Model) -> Result<(BTreeMap<String, Score>, Option<Score>), Error> {
        let mut each = BTreeMap::new();
        let (mut predicted, mut truth) = (Vec::new(), Vec::new());
        for (name, windows) in &self.tests {
            let (p, t) = (wide(&model.predict_all(&windows.values)?), wide(&windows.labels));
            each.insert(name.clone(), score(&p, &t, f64::from(model.cap()))?);
            predicted.extend(p);
            truth.extend(t);
        }
        let all = (!truth.is_empty()).then(|| score(&predicted, &truth, f64::from(model.cap()))).transpose()?;
        Ok((each, all))
    }
}

/// The validation engines.
struct HeldOut {
    /// By the numbers of the whole fleet.
    unique: BTreeSet<u32>,
    /// Per data set, by those of its file.
    by_set: BTreeMap<String, Vec<u32>>,
}

fn hold_out(data: &Data, fleet: &Fleet, seed: u64) -> Result<HeldOut, Error> {
    let (mut held, mut by_set) = (BTreeSet::new(), BTreeMap::new());
    let mut numbered = fleet.engines.iter();
    for set in &data.sets {
        // Each set is split alone, so that each is validated and that others can make the same split.
        let ids: BTreeSet<u32> = split::validation(&set.train, seed)?.validation.engines.iter().map(|e| e.id).collect();
        for (engine, unique) in set.train.engines.iter().zip(numbered.by_ref()) {
            if ids.contains(&engine.id) {
                held.insert(unique.id);
            }
        }
        by_set.insert(set.name.clone(), ids.into_iter().collect());
    }
    Ok(HeldOut { unique: held, by_set })
}

/// Of the training side's rows, within regimes where there are several: they are told apart by altitude.
fn scaler(features: &FeatureSet, fleet: &Fleet, held: &BTreeSet<u32>) -> Result<Scaler, Error> {
    let engines = fleet.engines.iter().filter(|e| !held.contains(&e.id));
    let rows: Vec<f32> = engines
        .flat_map(|e| &e.rows)
        .flat_map(|row| features.columns().iter().map(|&column| row.get(column) as f32))
        .collect();
    let altitude = Column::setting(1).and_then(|a| features.columns().iter().position(|c| *c == a));
    let centres: Vec<f32> = Regimes::six().centres.iter().map(|centre| centre[0] as f32).collect();
    Ok(match altitude {
        Some(column) => Scaler::fit_regimes(&rows, features.len(), column, &centres)?,
        None => Scaler::fit(&rows, features.len())?,
    })
}

fn last_windows(features: &FeatureSet, test: &TestSet) -> Result<Windows, Error> {
    let transform = Unscaled(features.clone());
    Ok(Windows::with_rul(&test.fleet.engines, &test.rul, &transform, WindowSpec::scoring())?)
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}

fn score(predicted: &[f64], truth: &[f64], cap: f64) -> Result<Score, Error> {
    let errors = Errors::new(predicted, truth)?;
    let capped: Vec<f64> = truth.iter().map(|t| t.min(cap)).collect();
    Ok(Score {
        engines: errors.n,
        rmse: errors.rmse,
        rmse_capped: Errors::new(predicted, &capped)?.rmse,
        mae: errors.mae,
        bias: errors.bias,
        nasa_score: errors.nasa_score,
    })
}
