//! The earlier system's rule on the same window, number for number, to be compared with.

use drift_stats::StatError;
use drift_stats::seed::seed_check;
use serde::Serialize;

/// Edges of that system's histogram, in cycles.
pub const EDGES: [f64; 13] = [0.0, 25.0, 50.0, 75.0, 100.0, 125.0, 150.0, 175.0, 200.0, 250.0, 300.0, 400.0, 500.0];

/// The part of a baseline that it reads.
#[derive(Debug, Clone, PartialEq)]
pub struct SeedBaseline {
    pub edges: Vec<f64>,
    pub counts: Vec<u64>,
}

/// Its limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub psi: f64,
    pub ks_p: f64,
}

/// What it says.
#[derive(Debug, Clone, Serialize)]
pub struct SeedReport {
    pub psi: f64,
    pub ks_statistic: f64,
    pub ks_pvalue: f64,
    pub psi_threshold: f64,
    pub ks_pvalue_threshold: f64,
    pub drift: bool,
    /// Predictions, perhaps a fraction: Prometheus extrapolates.
    pub n: f64,
    pub production_median: Option<f64>,
    pub source: &'static str,
}

/// Applies the rule to cumulative counts per upper bound.
///
/// # Errors
/// A baseline without counts, counts that are not finite.
pub fn check(
    baseline: &SeedBaseline,
    cumulative: &[(f64, f64)],
    limits: Limits,
    source: &'static str,
) -> Result<SeedReport, StatError> {
    let check = seed_check(&baseline.edges, &baseline.counts, cumulative)?;
    Ok(SeedReport {
        drift: check.psi > limits.psi || check.ks_p < limits.ks_p,
        n: check.production.iter().sum(),
        psi: check.psi,
        ks_statistic: check.ks_statistic,
        ks_pvalue: check.ks_p,
        psi_threshold: limits.psi,
        ks_pvalue_threshold: limits.ks_p,
        production_median: check.production_median,
        source,
    })
}

/// Cumulative counts of values, as the service's histogram would have them.
pub fn cumulative(values: &[f64], edges: &[f64]) -> Vec<(f64, f64)> {
    edges.iter().map(|&edge| (edge, values.iter().filter(|&&v| v <= edge).count() as f64)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_and_scraped_counts_give_the_same() {
        let baseline = SeedBaseline { edges: EDGES.to_vec(), counts: vec![10, 10, 10, 10, 10, 0, 0, 0, 0, 0, 0, 0] };
        let limits = Limits { psi: 0.2, ks_p: 0.05 };
        let values: Vec<f64> = (0..50).map(|i| 2.5 * f64::from(i) + 1.0).collect();
        let same = check(&baseline, &cumulative(&values, &EDGES), limits, "ring").unwrap();
        assert!(same.psi < 1e-9 && !same.drift && same.n == 50.0, "{same:?}");
        let low = check(&baseline, &cumulative(&[3.0; 20], &EDGES), limits, "ring").unwrap();
        // By hand: all in the first of five equal buckets; four empty ones at 1e-6.
        let want = (1.0f64 - 0.2) * 5f64.ln() + 4.0 * (0.2 - 1e-6) * (0.2f64 / 1e-6).ln();
        assert!((low.psi - want).abs() < 1e-9 && low.drift, "{low:?}");
    }
}
