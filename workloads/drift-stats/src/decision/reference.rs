//! The baseline of the decision: what the model's own training engines look like, by age, and how far drift-free traffic strays from it.

use super::Record;
use super::measure::{check_records, largest_distance, prediction_psi, thin};
use crate::error::StatError;
use crate::histogram::Histogram;
use crate::null::NullSample;
use crate::rng::Rng;

/// Quantiles of a statistic on drift-free traffic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Null {
    pub q95: f64,
    pub q99: f64,
}

/// The nulls for traffic of one shape: `engines` engines, each with `cycles` consecutive records.
#[derive(Debug, Clone, PartialEq)]
pub struct ShapeNull {
    pub engines: usize,
    pub cycles: usize,
    /// Of the prediction PSI.
    pub psi: Null,
    /// Of the largest sensor distance.
    pub sensor: Null,
}

/// The baseline, tied to one model version. Plain data; store it with the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    pub model_version: String,
    /// Names of the features of every record, in order.
    pub features: Vec<String>,
    /// Records per regime, and last those in none.
    pub regimes: Vec<u64>,
    /// Cycles per age group.
    pub age_width: u32,
    /// Predictions per age group (group i holds cycles `i * age_width ..`), all with the same bounds.
    pub predictions: Vec<Histogram>,
    /// Records to compare sensors with.
    pub records: Vec<Record>,
    /// Per age group: which of `records` belong to it.
    pub by_age: Vec<Vec<usize>>,
    /// By ascending number of engines.
    pub nulls: Vec<ShapeNull>,
}

/// How [`Reference::fit`] goes about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Upper bounds of the prediction histogram: the ones that the service uses.
    pub bounds: Vec<f64>,
    /// Number of known regimes.
    pub regimes: usize,
    /// Cycles per age group.
    pub age_width: u32,
    /// Every so many cycles of an engine one record is kept for the sensors.
    pub keep_every: usize,
    /// Traffic shapes (engines, consecutive cycles) to compute nulls for.
    pub shapes: Vec<(usize, usize)>,
    /// Drift-free windows to draw per shape.
    pub draws: usize,
    /// Fewest expected records per PSI bin, as in the policy.
    pub min_expected: f64,
    pub seed: u64,
}

impl Reference {
    /// Builds the baseline from the training engines' records, engine by engine in order of cycles.
    ///
    /// For the nulls, each draw splits the engines at random: one half plays the reference, the other the traffic. An engine
    /// is therefore never compared with itself, and the smaller reference makes the thresholds a little cautious.
    ///
    /// # Errors
    /// Fewer than two engines, bad bounds, a parameter of 0, or records that [`super::measure()`] would refuse.
    pub fn fit(
        model_version: &str,
        features: &[String],
        engines: &[Vec<Record>],
        fit: &Fit,
    ) -> Result<Self, StatError> {
        for (name, value) in [
            ("age_width", fit.age_width as usize),
            ("keep_every", fit.keep_every),
            ("regimes", fit.regimes),
            ("draws", fit.draws),
        ] {
            if value == 0 {
                return Err(StatError::BadParameter {
                    name,
                    detail: "must be at least 1".to_owned(),
                });
            }
        }
        if engines.iter().filter(|e| !e.is_empty()).count() < 2 {
            return Err(StatError::BadParameter {
                name: "engines",
                detail: "the nulls need at least two engines with records".to_owned(),
            });
        }
        for records in engines {
            check_records(records, features.len())?;
        }
        let all: Vec<&Vec<Record>> = engines.iter().filter(|e| !e.is_empty()).collect();
        let mut reference = Self::of(model_version, features, &all, fit)?;
        let mut shapes = fit.shapes.clone();
        shapes.sort_unstable();
        for (engines, cycles) in shapes {
            let shape = null_of_shape(&reference, &all, fit, engines, cycles)?;
            reference.nulls.push(shape);
        }
        Ok(reference)
    }

    fn of(
        model_version: &str,
        features: &[String],
        engines: &[&Vec<Record>],
        fit: &Fit,
    ) -> Result<Self, StatError> {
        let oldest = engines
            .iter()
            .flat_map(|e| e.iter())
            .filter_map(|r| r.cycle)
            .max()
            .unwrap_or(0);
        // A damaged cycle number must not make a table of billions of rows.
        let ages = (oldest / fit.age_width) as usize + 1;
        if ages > 10_000 {
            return Err(StatError::BadParameter {
                name: "cycle",
                detail: format!("{oldest} makes {ages} age groups of {}", fit.age_width),
            });
        }
        let mut reference = Self {
            model_version: model_version.to_owned(),
            features: features.to_vec(),
            regimes: vec![0; fit.regimes + 1],
            age_width: fit.age_width,
            predictions: vec![Histogram::new(&fit.bounds)?; ages],
            records: Vec::new(),
            by_age: vec![Vec::new(); ages],
            nulls: Vec::new(),
        };
        let mut predictions: Vec<Vec<f64>> = vec![Vec::new(); ages];
        for engine in engines {
            for (i, record) in engine.iter().enumerate() {
                let regime = record.regime.unwrap_or(fit.regimes).min(fit.regimes);
                reference.regimes[regime] += 1;
                let age = reference.age(record.cycle);
                predictions[age].push(record.prediction);
                if i % fit.keep_every == 0 && !record.features.is_empty() {
                    reference.by_age[age].push(reference.records.len());
                    reference.records.push(record.clone());
                }
            }
        }
        for (histogram, values) in reference.predictions.iter_mut().zip(predictions) {
            if !values.is_empty() {
                *histogram = Histogram::from_values(&fit.bounds, &values)?;
            }
        }
        Ok(reference)
    }

    /// Bounds of the prediction histograms.
    #[must_use]
    pub fn bounds(&self) -> &[f64] {
        self.predictions.first().map_or(&[], Histogram::bounds)
    }

    /// Number of age groups.
    pub(super) fn ages(&self) -> usize {
        self.predictions.len()
    }

    fn age(&self, cycle: Option<u32>) -> usize {
        let group = cycle.unwrap_or(0) / self.age_width.max(1);
        (group as usize).min(self.ages().saturating_sub(1))
    }

    /// The age group nearest to a cycle that `has` something, looking down before up.
    fn nearest(&self, cycle: Option<u32>, has: impl Fn(usize) -> bool) -> Option<usize> {
        let age = self.age(cycle);
        (0..self.ages())
            .flat_map(|step| [age.checked_sub(step), Some(age + step)])
            .flatten()
            .find(|&a| a < self.ages() && has(a))
    }

    /// Reference predictions of engines of this age.
    pub(super) fn predictions_at(&self, cycle: Option<u32>) -> Option<&Histogram> {
        let age = self.nearest(cycle, |a| self.predictions[a].total() > 0)?;
        self.predictions.get(age)
    }

    /// Reference records of engines of this age: the age group, and indices into `records`.
    pub(super) fn pool(&self, cycle: Option<u32>) -> Option<(usize, &[usize])> {
        let has = |a: usize| self.by_age.get(a).is_some_and(|p| !p.is_empty());
        let age = self.nearest(cycle, has)?;
        Some((age, self.by_age.get(age)?))
    }

    /// The nulls of the largest stored number of engines that is not above the seen one: fewer engines stray farther, so this
    /// errs on the quiet side. Among shapes with as many engines, the one that strays farthest.
    #[must_use]
    pub fn null_for(&self, engines: usize) -> Option<&ShapeNull> {
        self.nulls
            .iter()
            .filter(|n| n.engines <= engines)
            .max_by(|a, b| {
                a.engines
                    .cmp(&b.engines)
                    .then(a.psi.q99.total_cmp(&b.psi.q99))
            })
    }
}

fn null_of_shape(
    whole: &Reference,
    all: &[&Vec<Record>],
    fit: &Fit,
    engines: usize,
    cycles: usize,
) -> Result<ShapeNull, StatError> {
    if engines == 0 || cycles == 0 {
        return Err(StatError::BadParameter {
            name: "shapes",
            detail: format!("{engines} engines x {cycles} cycles is no traffic"),
        });
    }
    let mut rng = Rng::new(fit.seed ^ ((engines as u64) << 32) ^ cycles as u64);
    let (mut psi, mut sensor) = (Vec::new(), Vec::new());
    let mut order: Vec<usize> = (0..all.len()).collect();
    for _ in 0..fit.draws {
        for i in (1..order.len()).rev() {
            order.swap(i, rng.below(i + 1));
        }
        let (left, right) = order.split_at(order.len() / 2);
        let pick = |half: &[usize]| half.iter().map(|&i| all[i]).collect::<Vec<_>>();
        let reference = Reference::of(&whole.model_version, &whole.features, &pick(left), fit)?;
        let mut traffic = Vec::new();
        for k in 0..engines {
            let engine = all[right[k % right.len()]];
            let take = cycles.min(engine.len());
            let start = rng.below(engine.len() - take + 1);
            traffic.extend(engine[start..start + take].iter().map(|record| Record {
                // An engine drawn again, at another moment, counts as one more engine.
                engine: Some(k as u64),
                ..record.clone()
            }));
        }
        let (thinned, _) = thin(&traffic);
        if let Some((value, _)) = prediction_psi(&reference, &thinned, fit.min_expected)? {
            psi.push(value);
        }
        sensor.push(largest_distance(&reference, &thinned)?);
    }
    let quantiles = |values: Vec<f64>| {
        // Traffic too small for any bin has no PSI, so no PSI may be judged by it either.
        if values.is_empty() {
            return Ok(Null {
                q95: f64::INFINITY,
                q99: f64::INFINITY,
            });
        }
        let sample = NullSample::new(values)?;
        Ok(Null {
            q95: sample.quantile(0.95),
            q99: sample.quantile(0.99),
        })
    };
    Ok(ShapeNull {
        engines,
        cycles,
        psi: quantiles(psi)?,
        sensor: quantiles(sensor)?,
    })
}
