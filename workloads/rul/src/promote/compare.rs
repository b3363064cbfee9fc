//! Two models on the same engines: by how much one is better, and how sure that is.

use cmapss::rng::Rng;
use serde::Serialize;

use super::engines::Score;

/// Resamples of the bootstrap. The bound's own noise is then about a hundredth of its width.
const RESAMPLES: usize = 4000;
/// Any; the same data must give the same decision.
const SEED: u64 = 20;

/// The numbers that a decision is made of. Improvements are shares of the champion's error.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub engines: usize,
    pub windows: usize,
    /// 1 - challenger / champion, of the RMSE.
    pub improvement: f64,
    /// The bootstrap's lower bound of it.
    pub improvement_low: f64,
    pub confidence: f64,
    /// Engine by engine: how many the challenger predicts better.
    pub engines_better: usize,
    pub champion_nasa: f64,
    pub challenger_nasa: f64,
    pub datasets: Vec<SetComparison>,
}

/// The same for one data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SetComparison {
    pub name: String,
    pub engines: usize,
    pub champion_rmse: f64,
    pub challenger_rmse: f64,
    pub champion_nasa: f64,
    pub challenger_nasa: f64,
}

/// 0 where neither errs.
fn improvement(champion: f64, challenger: f64) -> f64 {
    if champion > 0.0 {
        1.0 - challenger / champion
    } else if challenger > 0.0 {
        f64::MIN
    } else {
        0.0
    }
}

impl Comparison {
    /// Both scores are of the same held-out engines.
    pub fn of(champion: &Score, challenger: &Score, confidence: f64) -> Self {
        // Both models predict the same windows of an engine, so its two sums belong together.
        let pairs: Vec<(f64, f64)> =
            champion.engines().zip(challenger.engines()).map(|(old, new)| (old.squares, new.squares)).collect();
        let datasets: Vec<_> = champion
            .sets
            .iter()
            .zip(&challenger.sets)
            .map(|(old, new)| SetComparison {
                name: old.name.clone(),
                engines: old.engines.len(),
                champion_rmse: old.rmse(),
                challenger_rmse: new.rmse(),
                champion_nasa: old.nasa(),
                challenger_nasa: new.nasa(),
            })
            .collect();
        Self {
            engines: pairs.len(),
            windows: champion.windows(),
            improvement: improvement(champion.rmse(), challenger.rmse()),
            improvement_low: lower_bound(&pairs, 1.0 - confidence),
            confidence,
            engines_better: pairs.iter().filter(|(old, new)| new < old).count(),
            champion_nasa: datasets.iter().map(|d| d.champion_nasa).sum(),
            challenger_nasa: datasets.iter().map(|d| d.challenger_nasa).sum(),
            datasets,
        }
    }
}

/// The quantile `q` of the improvement when the engines are drawn again, with replacement: windows
/// of one engine err together, so engines are what there are many of.
fn lower_bound(pairs: &[(f64, f64)], q: f64) -> f64 {
    let mut rng = Rng::new(SEED);
    let mut all: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let (mut old, mut new) = (0.0, 0.0);
            for _ in pairs {
                if let Some((a, b)) = pairs.get(rng.below(pairs.len())) {
                    old += a;
                    new += b;
                }
            }
            improvement(old.sqrt(), new.sqrt())
        })
        .collect();
    all.sort_unstable_by(f64::total_cmp);
    let at = ((RESAMPLES as f64 * q) as usize).min(RESAMPLES - 1);
    all.get(at).copied().unwrap_or(f64::MIN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::promote::engines::{EngineScore, SetScore};

    fn score(errors: impl Iterator<Item = f64>) -> Score {
        let engines = errors.map(|e| EngineScore { squares: 10.0 * e * e, windows: 10, penalty: e }).collect();
        Score { sets: vec![SetScore { name: "FD001".into(), engines }] }
    }

    #[test]
    fn ten_percent_less_on_every_engine_is_certain() {
        let errors = (1..=50).map(f64::from);
        let comparison = Comparison::of(&score(errors.clone()), &score(errors.map(|e| 0.9 * e)), 0.95);
        assert!((comparison.improvement - 0.1).abs() < 1e-12);
        assert!((comparison.improvement_low - 0.1).abs() < 1e-9, "there is no draw in which it is less");
        assert_eq!((comparison.engines, comparison.windows, comparison.engines_better), (50, 500, 50));
    }

    #[test]
    fn ten_percent_that_hang_on_one_engine_are_not_certain() {
        let old = |i: i32| if i == 0 { 50.0 } else { 10.0 };
        let new = |i: i32| if i == 0 { 5.0 } else { 10.3 };
        let comparison = Comparison::of(&score((0..50).map(old)), &score((0..50).map(new)), 0.95);
        assert!(comparison.improvement > 0.1, "{comparison:?}");
        assert!(comparison.improvement_low < 0.0, "{comparison:?}");
    }

    #[test]
    fn the_bound_covers_as_often_as_it_says() {
        // Two models that err equally, many times over: the bound is above zero in about 5 of 100.
        let mut rng = Rng::new(7);
        let runs = 400;
        let wrong = (0..runs)
            .filter(|_| {
                let pairs: Vec<_> = (0..60).map(|_| (rng.normal().powi(2) + 1.0, rng.normal().powi(2) + 1.0)).collect();
                lower_bound(&pairs, 0.05) > 0.0
            })
            .count();
        // Three standard deviations of a binomial, and a little for the bootstrap's own bias.
        assert!((6..=38).contains(&wrong), "{wrong} of {runs}");
    }

    #[test]
    fn a_champion_without_error_is_never_beaten() {
        assert_eq!(improvement(0.0, 0.0), 0.0);
        assert!(improvement(0.0, 1.0) < -1e300);
        assert_eq!(lower_bound(&[], 0.05), 0.0);
    }
}
