//! How large a statistic gets when nothing has drifted.
//!
//! PSI is biased by (B-1)(1/N + 1/M): with 20 bins and 100 values, two samples of one distribution exceed 0.2 in half of all
//! windows. A threshold without the sample size is therefore no threshold. Three nulls, from cheap to faithful:
//! the chi-squared law, a simulation of independent draws, and chunks of real traffic (values of one engine are not independent).

use crate::edges::quantile_sorted;
use crate::error::{StatError, check_open_unit, total};
use crate::psi::{ZeroRule, psi};
use crate::rng::Rng;
use crate::special::chi2_quantile;

/// Quantile `q` of PSI without drift, for independent values: chi-squared with B-1 degrees of freedom times (1/N + 1/M).
///
/// Good once the smaller sample has about 20 values per bin; below that the true quantile is larger
/// (use [`psi_simulated`]).
///
/// # Errors
/// Fewer than two bins, an empty sample, or `q` outside (0, 1).
pub fn psi_chi2(bins: usize, reference_n: u64, current_n: u64, q: f64) -> Result<f64, StatError> {
    check_open_unit("quantile", q)?;
    if bins < 2 {
        return Err(StatError::BadParameter { name: "bins", detail: format!("{bins} bin cannot show a shift") });
    }
    for (n, what) in [(reference_n, "reference"), (current_n, "current")] {
        if n == 0 {
            return Err(StatError::Empty { what });
        }
    }
    let scale = 1.0 / reference_n as f64 + 1.0 / current_n as f64;
    Ok(chi2_quantile(q, (bins - 1) as f64) * scale)
}

/// Values of a statistic without drift, sorted.
#[derive(Debug, Clone, PartialEq)]
pub struct NullSample {
    sorted: Vec<f64>,
}

impl NullSample {
    pub(crate) fn new(mut values: Vec<f64>) -> Result<Self, StatError> {
        crate::error::check_ordered("null sample", &values)?;
        values.sort_unstable_by(f64::total_cmp);
        Ok(Self { sorted: values })
    }

    /// The value that a share `q` of drift-free windows stays below (linear interpolation; `q` is clamped to 0..=1).
    #[must_use]
    pub fn quantile(&self, q: f64) -> f64 {
        quantile_sorted(&self.sorted, q).unwrap_or(f64::INFINITY)
    }

    /// Mean over the drift-free windows.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sorted.iter().sum::<f64>() / self.sorted.len() as f64
    }

    /// Share of drift-free windows at or above `value`: the false-alarm rate of that threshold.
    #[must_use]
    pub fn exceedance(&self, value: f64) -> f64 {
        let below = self.sorted.partition_point(|&v| v < value);
        (self.sorted.len() - below) as f64 / self.sorted.len() as f64
    }

    /// All values, ascending.
    #[must_use]
    pub fn sorted(&self) -> &[f64] {
        &self.sorted
    }
}

/// PSI without drift by simulation: reference and current are both drawn from the reference's shares, independently.
///
/// Cost: `draws` x (reference total + `current_n`) steps. Deterministic in `seed`.
///
/// # Errors
/// No reference counts, `current_n` or `draws` of 0, a bad zero rule.
pub fn psi_simulated(
    reference: &[u64],
    current_n: u64,
    rule: ZeroRule,
    draws: usize,
    seed: u64,
) -> Result<NullSample, StatError> {
    let n = total("reference counts", reference)?;
    if current_n == 0 {
        return Err(StatError::Empty { what: "current" });
    }
    let cumulative: Vec<u64> = reference
        .iter()
        .scan(0, |sum, &c| {
            *sum += c;
            Some(*sum)
        })
        .collect();
    let mut rng = Rng::new(seed);
    let mut multinomial = |size: u64| {
        let mut counts = vec![0u64; reference.len()];
        for _ in 0..size {
            let ticket = rng.below(n as usize) as u64;
            counts[cumulative.partition_point(|&c| c <= ticket)] += 1;
        }
        counts
    };
    let values = (0..draws).map(|_| psi(&multinomial(n), &multinomial(current_n), rule)).collect::<Result<_, _>>()?;
    NullSample::new(values)
}

/// A statistic without drift on traffic of the real shape: `engines` engines, each seen for `length` consecutive values at
/// a random moment of its life, drawn `draws` times from the reference engines. A shorter engine gives all it has.
///
/// This is what makes a threshold honest when a window holds few engines.
///
/// # Errors
/// No engine with values, a parameter of 0, or an error of `statistic`.
pub fn matched_chunks<T: Clone>(
    reference: &[Vec<T>],
    engines: usize,
    length: usize,
    draws: usize,
    seed: u64,
    mut statistic: impl FnMut(&[T]) -> Result<f64, StatError>,
) -> Result<NullSample, StatError> {
    let mut pool: Vec<&Vec<T>> = reference.iter().filter(|e| !e.is_empty()).collect();
    if pool.is_empty() {
        return Err(StatError::Empty { what: "reference engines" });
    }
    if engines == 0 || length == 0 {
        return Err(StatError::BadParameter {
            name: "chunk shape",
            detail: format!("{engines} engines x {length} values has nothing to draw"),
        });
    }
    let mut rng = Rng::new(seed);
    let mut values = Vec::with_capacity(draws);
    let mut window = Vec::new();
    for _ in 0..draws {
        window.clear();
        for k in 0..engines {
            // Without replacement while engines last, then round again.
            let slot = k % pool.len();
            let pick = slot + rng.below(pool.len() - slot);
            pool.swap(slot, pick);
            let engine = pool[slot];
            let take = length.min(engine.len());
            let start = rng.below(engine.len() - take + 1);
            window.extend_from_slice(&engine[start..start + take]);
        }
        values.push(statistic(&window)?);
    }
    NullSample::new(values)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ks::{Method, ks_test};

    /// Four standard deviations around the expected number of successes.
    fn binomial_bounds(trials: usize, rate: f64) -> (f64, f64) {
        let sd = (trials as f64 * rate * (1.0 - rate)).sqrt();
        let mean = trials as f64 * rate;
        (mean - 4.0 * sd, mean + 4.0 * sd)
    }

    #[test]
    fn chi2_law_matches_the_measured_table() {
        // Reference of 17,731: 95 % quantiles of the law for (bins, M).
        for (bins, m, want) in [(10, 100, 0.170), (10, 300, 0.057), (20, 100, 0.303), (30, 1000, 0.045)] {
            let got = psi_chi2(bins, 17_731, m, 0.95).unwrap();
            assert!((got - want).abs() < 0.0006, "{bins} {m}: {got}");
        }
    }

    #[test]
    fn simulation_matches_the_measured_table() {
        let reference = [1773u64; 10];
        let null = psi_simulated(&reference, 100, ZeroRule::AddHalf, 2000, 11).unwrap();
        // Published from 20,000 simulations: P(PSI >= 0.2) = 1.6 % at 10 bins and 100 values.
        let (low, high) = binomial_bounds(2000, 0.016);
        let seen = null.exceedance(0.2) * 2000.0;
        assert!((low..high).contains(&seen), "{seen} not in {low}..{high}");
        // And at 300 values the chi-squared law holds: its 95 % quantile is exceeded by 5 %.
        let null = psi_simulated(&reference, 300, ZeroRule::AddHalf, 2000, 12).unwrap();
        let (low, high) = binomial_bounds(2000, 0.05);
        let seen = null.exceedance(psi_chi2(10, 17_730, 300, 0.95).unwrap()) * 2000.0;
        assert!((low..high).contains(&seen), "{seen} not in {low}..{high}");
        assert!((null.mean() - 9.0 * (1.0 / 17_730.0 + 1.0 / 300.0)).abs() < 0.0015);
    }

    #[test]
    fn exact_ks_rejects_at_its_level() {
        let mut rng = Rng::new(3);
        let trials = 2000;
        let mut sample = |n: usize| (0..n).map(|_| rng.uniform()).collect::<Vec<_>>();
        let mut rejected = [0usize; 3];
        let alphas = [0.2, 0.05, 0.01];
        for _ in 0..trials {
            let p = ks_test(&sample(67), &sample(53), Method::Exact).unwrap().p;
            for (count, alpha) in rejected.iter_mut().zip(alphas) {
                *count += usize::from(p <= alpha);
            }
        }
        for (count, alpha) in rejected.into_iter().zip(alphas) {
            let (low, high) = binomial_bounds(trials, alpha);
            // D is discrete, so the level may be missed from below, by at most one lattice step (a few per cent here).
            assert!((low * 0.9..=high).contains(&(count as f64)), "{count} at {alpha}");
        }
    }

    #[test]
    fn few_engines_need_a_higher_threshold() {
        // Each engine runs down from 125 to 0: neighbouring values are nearly equal.
        let engines: Vec<Vec<f64>> =
            (0..40).map(|e| (0..150 + e).map(|c| f64::from(150 + e - c).min(125.0)).collect()).collect();
        let all: Vec<f64> = engines.concat();
        let bounds = crate::edges::deciles(&all).unwrap();
        let count = |v: &[f64]| crate::histogram::Histogram::from_values(&bounds, v);
        let reference = count(&all).unwrap();
        let mut statistic = |window: &[f64]| psi(reference.counts(), count(window)?.counts(), ZeroRule::AddHalf);
        let few = matched_chunks(&engines, 5, 60, 200, 1, &mut statistic).unwrap();
        let many = matched_chunks(&engines, 100, 3, 200, 1, &mut statistic).unwrap();
        assert!(few.quantile(0.5) > 4.0 * many.quantile(0.5));
        assert_eq!(few, matched_chunks(&engines, 5, 60, 200, 1, statistic).unwrap());
    }

    #[test]
    fn errors_are_typed() {
        assert!(psi_chi2(1, 10, 10, 0.95).is_err());
        assert!(psi_chi2(10, 0, 10, 0.95).is_err());
        assert!(psi_chi2(10, 10, 10, 1.0).is_err());
        assert!(psi_simulated(&[0], 10, ZeroRule::AddHalf, 10, 0).is_err());
        assert!(psi_simulated(&[5, 5], 0, ZeroRule::AddHalf, 10, 0).is_err());
        assert!(psi_simulated(&[5, 5], 5, ZeroRule::AddHalf, 0, 0).is_err());
        let none: [Vec<f64>; 2] = [vec![], vec![]];
        assert!(matched_chunks(&none, 1, 1, 1, 0, |_| Ok(0.0)).is_err());
        assert!(matched_chunks(&[vec![1.0]], 0, 1, 1, 0, |_| Ok(0.0)).is_err());
        assert!(matched_chunks(&[vec![1.0]], 1, 1, 1, 0, |_| Ok(f64::NAN)).is_err());
    }
}
