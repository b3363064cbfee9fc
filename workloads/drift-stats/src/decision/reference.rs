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
    /// Training engines flew until they failed; engines in service have not. At equal age those are the healthier ones (the others
    /// have been taken out), which moves predictions and sensors without any drift, the more visibly the more engines there
    /// are. So in every other draw the lives of the traffic are cut at a random moment.
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
                return Err(StatError::BadParameter { name, detail: "must be at least 1".to_owned() });
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

    fn of(model_version: &str, features: &[String], engines: &[&Vec<Record>], fit: &Fit) -> Result<Self, StatError> {
        let oldest = engines.iter().flat_map(|e| e.iter()).filter_map(|r| r.cycle).max().unwrap_or(0);
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

    /// Whether the parts fit together: a stored baseline may have been edited or cut.
    ///
    /// # Errors
    /// The first part that does not fit, by name.
    pub fn check(&self) -> Result<(), StatError> {
        let bad = |detail: &str| {
            Err(StatError::BadParameter {
                name: "baseline",
                detail: format!("{detail}: make it anew from the model's training data"),
            })
        };
        if self.regimes.len() < 2 || self.regimes.iter().all(|&c| c == 0) {
            return bad("it counts no regimes");
        }
        if self.predictions.is_empty() || self.predictions.len() != self.by_age.len() {
            return bad("its age groups of predictions and of records differ");
        }
        if self.predictions.iter().any(|h| h.bounds() != self.bounds()) {
            return bad("its age groups have different histogram bounds");
        }
        if self.by_age.iter().flatten().any(|&i| i >= self.records.len()) {
            return bad("an age group names a record that is not there");
        }
        check_records(&self.records, self.features.len())
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
            .max_by(|a, b| a.engines.cmp(&b.engines).then(a.psi.q99.total_cmp(&b.psi.q99)))
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
    for draw in 0..fit.draws {
        for i in (1..order.len()).rev() {
            order.swap(i, rng.below(i + 1));
        }
        let (left, right) = order.split_at(order.len() / 2);
        let pick = |half: &[usize]| half.iter().map(|&i| all[i]).collect::<Vec<_>>();
        let reference = Reference::of(&whole.model_version, &whole.features, &pick(left), fit)?;
        let lives = if draw % 2 == 0 {
            pick(right).iter().map(|e| e.as_slice()).collect()
        } else {
            cut(&pick(right), &mut rng)
        };
        let mut traffic = Vec::new();
        for k in 0..engines {
            let life = if draw % 2 == 0 { lives[k % lives.len()] } else { at_a_random_time(&lives, &mut rng) };
            let take = cycles.min(life.len());
            let start = rng.below(life.len() - take + 1);
            traffic.extend(life[start..start + take].iter().map(|record| Record {
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
            return Ok(Null { q95: f64::INFINITY, q99: f64::INFINITY });
        }
        let sample = NullSample::new(values)?;
        Ok(Null { q95: sample.quantile(0.95), q99: sample.quantile(0.99) })
    };
    Ok(ShapeNull { engines, cycles, psi: quantiles(psi)?, sensor: quantiles(sensor)? })
}

/// Every life up to a random moment.
fn cut<'a>(engines: &[&'a Vec<Record>], rng: &mut Rng) -> Vec<&'a [Record]> {
    engines.iter().map(|engine| &engine[..1 + rng.below(engine.len())]).collect()
}

/// Whose record one comes upon when all of them fly: the longer it is, the likelier.
fn at_a_random_time<'a>(lives: &[&'a [Record]], rng: &mut Rng) -> &'a [Record] {
    let all: usize = lives.iter().map(|life| life.len()).sum();
    let mut at = rng.below(all);
    for life in lives {
        if at < life.len() {
            return life;
        }
        at -= life.len();
    }
    &[]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::decision::{Policy, Window, measure};

    fn engines(n: u64) -> Vec<Vec<Record>> {
        let record = |engine, cycle: u32| Record {
            engine: Some(engine),
            cycle: Some(cycle),
            regime: Some(0),
            features: vec![f64::from(cycle * 7 % 13)],
            prediction: f64::from(200 - cycle),
        };
        (0..n).map(|e| (30..150).map(|c| record(e, c)).collect()).collect()
    }

    fn fit() -> Fit {
        Fit {
            bounds: vec![75.0, 100.0, 125.0],
            regimes: 6,
            age_width: 25,
            keep_every: 10,
            shapes: vec![(20, 10), (5, 10)],
            draws: 10,
            min_expected: 5.0,
            seed: 3,
        }
    }

    fn reference() -> Reference {
        Reference::fit("1", &["s2".to_owned()], &engines(30), &fit()).unwrap()
    }

    #[test]
    fn the_nearest_smaller_shape_gives_the_null() {
        let reference = reference();
        reference.check().unwrap();
        assert_eq!(reference, self::reference(), "not deterministic");
        assert!(reference.null_for(4).is_none());
        assert_eq!(reference.null_for(19).unwrap().engines, 5);
        assert_eq!(reference.null_for(500).unwrap().engines, 20);
    }

    #[test]
    fn unusual_ages_take_the_nearest_group() {
        let reference = reference();
        for cycle in [None, Some(0), Some(40), Some(149), Some(u32::MAX)] {
            assert!(reference.predictions_at(cycle).unwrap().total() > 0);
            assert!(!reference.pool(cycle).unwrap().1.is_empty());
        }
    }

    #[test]
    fn a_damaged_baseline_is_refused_not_trusted() {
        let window = Window { model_version: "1".to_owned(), is_stub: false, records: engines(30).concat() };
        let policy = Policy::default();
        assert!(measure(&reference(), &window, &policy).is_ok());
        let damage: [fn(&mut Reference); 6] = [
            |r| r.regimes.clear(),
            |r| r.predictions.clear(),
            |r| r.by_age.truncate(1),
            |r| r.records.truncate(1),
            |r| r.predictions[0] = Histogram::new(&[1.0]).unwrap(),
            |r| r.records[0].features = vec![1.0, 2.0],
        ];
        for (i, damage) in damage.into_iter().enumerate() {
            let mut broken = reference();
            damage(&mut broken);
            assert!(measure(&broken, &window, &policy).is_err(), "damage {i}");
        }
        let mut window = window;
        window.records[3].prediction = f64::NAN;
        assert!(measure(&reference(), &window, &policy).is_err());
    }

    #[test]
    fn bad_fits_are_refused() {
        let features = ["s2".to_owned()];
        let with = |change: fn(&mut Fit)| {
            let mut fit = fit();
            change(&mut fit);
            Reference::fit("1", &features, &engines(4), &fit)
        };
        assert!(with(|_| ()).is_ok());
        assert!(with(|f| f.age_width = 0).is_err());
        assert!(with(|f| f.keep_every = 0).is_err());
        assert!(with(|f| f.draws = 0).is_err());
        assert!(with(|f| f.shapes = vec![(0, 5)]).is_err());
        assert!(with(|f| f.bounds = vec![2.0, 1.0]).is_err());
        assert!(Reference::fit("1", &features, &engines(1), &fit()).is_err());
        let mut odd = engines(4);
        odd[0][0].cycle = Some(u32::MAX);
        assert!(Reference::fit("1", &features, &odd, &fit()).is_err());
    }
}
