//! The drift rule of the earlier Python system, kept only to be compared with.
//!
//! It alarms when PSI > 0.2 or KS p < 0.05, on whatever one hour of a cumulative histogram holds. Kept as it was, faults included:
//! an empty bin becomes 1e-6; D is taken at the bucket edges; p uses the square root of the effective sample size, so it
//! almost never rejects; a bucket missing from the scrape reads as 0, and the next bucket then takes its whole cumulative count.

use crate::error::{StatError, check_finite};
use crate::kstwo::kstwo_sf;

/// PSI above this is drift there.
pub const PSI_THRESHOLD: f64 = 0.2;
/// A KS p-value below this is drift there.
pub const KS_P_THRESHOLD: f64 = 0.05;

/// What the earlier system pushed as `drift_psi`, `drift_ks_statistic`, `drift_ks_pvalue`, `drift_detected`.
#[derive(Debug, Clone, PartialEq)]
pub struct SeedCheck {
    pub psi: f64,
    pub ks_statistic: f64,
    pub ks_p: f64,
    pub drift: bool,
    /// Lower edge of the bucket where half of the production counts is reached; `None` without traffic.
    pub production_median: Option<f64>,
    /// Production counts per baseline bucket.
    pub production: Vec<f64>,
}

/// Compares a baseline (`edges` b0..bN with N `counts`) with scraped cumulative counts per `le`.
///
/// The counts may be fractional: `increase()` extrapolates. Without traffic the result is "no drift", as it was.
///
/// # Errors
/// No baseline counts, fewer edges than counts, a value that is not finite (`+Inf` as `le` is ignored) or negative.
pub fn seed_check(edges: &[f64], counts: &[u64], cumulative: &[(f64, f64)]) -> Result<SeedCheck, StatError> {
    check_finite("baseline edges", edges)?;
    if counts.is_empty() {
        return Err(StatError::Empty { what: "baseline counts" });
    }
    if edges.len() < counts.len() {
        return Err(StatError::LengthMismatch {
            what: "baseline edges and counts",
            left: edges.len(),
            right: counts.len(),
        });
    }
    if let Some(index) = cumulative.iter().position(|&(le, c)| le.is_nan() || !(c.is_finite() && c >= 0.0)) {
        return Err(StatError::NotFinite { what: "cumulative counts", index, value: cumulative[index].1 });
    }
    let at = |edge: f64| cumulative.iter().filter(|(le, _)| *le == edge).map(|(_, count)| count).sum::<f64>();
    let mut before = 0.0;
    let mut production: Vec<f64> = edges[1..]
        .iter()
        .map(|&edge| {
            let now = at(edge);
            let count = (now - before).max(0.0);
            before = now;
            count
        })
        .collect();
    production.resize(counts.len(), 0.0);
    let total: f64 = production.iter().sum();
    if total <= 0.0 {
        return Ok(SeedCheck {
            psi: 0.0,
            ks_statistic: 0.0,
            ks_p: 1.0,
            drift: false,
            production_median: None,
            production,
        });
    }
    let baseline_total = counts.iter().map(|&c| c as f64).sum::<f64>();
    let share = |count: f64, n: f64| match count / n.max(1.0) {
        0.0 => 1e-6,
        share => share,
    };
    let (mut psi, mut ks_statistic) = (0.0, 0.0f64);
    let (mut below_base, mut below_prod) = (0.0, 0.0);
    let mut production_median = None;
    for ((&base, &prod), &edge) in counts.iter().zip(&production).zip(edges) {
        let (p, q) = (share(prod, total), share(base as f64, baseline_total));
        psi += (p - q) * (p / q).ln();
        below_base += base as f64;
        below_prod += prod;
        let gap = below_prod / total - below_base / baseline_total.max(1.0);
        ks_statistic = ks_statistic.max(gap.abs());
        if production_median.is_none() && below_prod >= total / 2.0 {
            production_median = Some(edge);
        }
    }
    let n = (baseline_total * total / (baseline_total + total)).sqrt().round_ties_even();
    let ks_p = if n >= 1.0 { kstwo_sf(n as u64, ks_statistic).unwrap_or(1.0) } else { 1.0 };
    Ok(SeedCheck {
        psi,
        ks_statistic,
        ks_p,
        drift: psi > PSI_THRESHOLD || ks_p < KS_P_THRESHOLD,
        production_median,
        production,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const EDGES: [f64; 13] = [0.0, 25.0, 50.0, 75.0, 100.0, 125.0, 150.0, 175.0, 200.0, 250.0, 300.0, 400.0, 500.0];
    /// A published baseline of that system.
    const COUNTS: [u64; 12] = [1980, 1958, 1551, 1881, 6660, 429, 0, 0, 0, 0, 0, 0];

    fn cumulative(counts: &[f64]) -> Vec<(f64, f64)> {
        let mut sum = 0.0;
        counts
            .iter()
            .zip(&EDGES[1..])
            .map(|(c, &edge)| {
                sum += c;
                (edge, sum)
            })
            .chain([(f64::INFINITY, 1e9)])
            .collect()
    }

    #[test]
    fn its_p_value_hardly_ever_rejects() {
        // 23 % of the mass moved. With the right sample size p is about 3e-14; its own rule says 0.28.
        let total: u64 = COUNTS.iter().sum();
        let mut moved: Vec<f64> = COUNTS.iter().map(|&c| c as f64 / total as f64 * 300.0).collect();
        moved[4] -= 0.23 * 300.0;
        moved[0] += 0.23 * 300.0;
        let check = seed_check(&EDGES, &COUNTS, &cumulative(&moved)).unwrap();
        assert!((check.ks_statistic - 0.23).abs() < 1e-9);
        assert!((0.25..0.35).contains(&check.ks_p), "{}", check.ks_p);
        let right = kstwo_sf(294, check.ks_statistic).unwrap();
        assert!(right < 1e-13, "{right:e}");
        assert!(check.drift && check.psi > 0.2);
    }

    #[test]
    fn identical_shares_are_zero_and_the_overflow_is_dropped() {
        let same: Vec<f64> = COUNTS.iter().map(|&c| c as f64).collect();
        let check = seed_check(&EDGES, &COUNTS, &cumulative(&same)).unwrap();
        assert_eq!((check.psi, check.ks_statistic, check.ks_p), (0.0, 0.0, 1.0));
        assert_eq!(check.production_median, Some(75.0));
        assert!(!check.drift);
    }

    #[test]
    fn everything_in_one_bucket() {
        let mut all = vec![0.0; 12];
        all[4] = 100.0;
        let check = seed_check(&EDGES, &COUNTS, &cumulative(&all)).unwrap();
        // By hand: the filled bucket plus five emptied ones at 1e-6; six are empty on both sides.
        let total: f64 = COUNTS.iter().sum::<u64>() as f64;
        let mut want = 0.0;
        for (i, &c) in COUNTS.iter().take(6).enumerate() {
            let q = c as f64 / total;
            let p: f64 = if i == 4 { 1.0 } else { 1e-6 };
            want += (p - q) * (p / q).ln();
        }
        assert!((check.psi - want).abs() < 1e-12);
    }

    #[test]
    fn a_missing_bucket_shifts_its_mass_up() {
        let mut scraped = cumulative(&[10.0, 10.0, 10.0]);
        scraped.retain(|&(le, _)| le != 50.0);
        let check = seed_check(&EDGES, &COUNTS, &scraped).unwrap();
        assert_eq!(check.production[..3], [10.0, 0.0, 30.0]);
    }

    #[test]
    fn no_traffic_is_no_drift_and_bad_input_is_an_error() {
        let silent = seed_check(&EDGES, &COUNTS, &[]).unwrap();
        assert!(!silent.drift && silent.production_median.is_none());
        assert!(seed_check(&EDGES, &[], &[]).is_err());
        assert!(seed_check(&EDGES[..3], &COUNTS, &[]).is_err());
        assert!(seed_check(&EDGES, &COUNTS, &[(25.0, f64::NAN)]).is_err());
        // The shorter baseline of that system (12 edges, 12 counts) is padded.
        let padded = seed_check(&EDGES[..12], &COUNTS, &cumulative(&[1.0; 12])).unwrap();
        assert_eq!(padded.production[11], 0.0);
    }
}
