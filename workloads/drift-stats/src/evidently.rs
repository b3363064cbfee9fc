//! The distances of evidently 0.7 for numeric columns, number for number, so that its users can compare.
//!
//! Its bins are equal-width over reference and current *together* (numpy's "sturges"), or one per distinct value when the
//! reference has at most 20 of them. The edges therefore move with every window and its PSI is not comparable
//! between windows: use [`crate::psi()`] with fixed edges to decide, and this module to compare.

use crate::edges::{NumpyRule, mean_and_sd, numpy_counts, numpy_edges};
use crate::error::{StatError, check_finite};
use crate::ks::{Lattice, Method, ks_test};
use crate::psi::psi_of_shares;

/// All of evidently's numeric drift scores for one column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// Population stability index; alarm there at 0.1.
    pub psi: f64,
    /// Jensen-Shannon distance, natural logarithm; alarm at 0.1.
    pub jensen_shannon: f64,
    /// First Wasserstein distance over the reference's standard deviation (at least 0.001); alarm at 0.1.
    pub wasserstein_normed: f64,
    /// Kullback-Leibler divergence of the reference from the current sample; alarm at 0.1.
    pub kl: f64,
    /// Hellinger distance; alarm at 0.1. Bins: "sturges" over the distinct values.
    pub hellinger: f64,
    /// p-value of the two-sample KS test, scipy's default method; alarm at 0.05.
    pub ks_p: f64,
    /// Number of bins that PSI, Jensen-Shannon and Kullback-Leibler used.
    pub bins: usize,
}

/// Distinct values in the reference up to which every value is its own bin.
const FEW_VALUES: usize = 20;

/// Computes every score of a numeric column.
///
/// # Errors
/// An empty sample, a value that is not finite, or a range too narrow for numpy's bins.
pub fn scores(reference: &[f64], current: &[f64]) -> Result<Scores, StatError> {
    check_finite("reference", reference)?;
    check_finite("current", current)?;
    let binned = Binned::new(reference, current)?;
    let (p, q) = (fill(&binned.reference), fill(&binned.current));
    Ok(Scores {
        psi: psi_of_shares(&p, &q),
        jensen_shannon: jensen_shannon(&binned.reference, &binned.current),
        wasserstein_normed: wasserstein(reference, current)? / mean_and_sd(reference).1.max(0.001),
        kl: kullback_leibler(&p, &q),
        hellinger: hellinger(reference, current)?,
        ks_p: ks_test(reference, current, Method::Auto)?.p,
        bins: p.len(),
    })
}

/// First Wasserstein (earth mover's) distance of two samples, in the unit of the values.
///
/// # Errors
/// An empty sample or a value that is not finite.
pub fn wasserstein(reference: &[f64], current: &[f64]) -> Result<f64, StatError> {
    check_finite("reference", reference)?;
    check_finite("current", current)?;
    let mut all: Vec<(f64, bool)> =
        reference.iter().map(|&v| (v, true)).chain(current.iter().map(|&v| (v, false))).collect();
    all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let lattice = Lattice::new(reference.len(), current.len());
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    for pair in all.windows(2) {
        if pair[0].1 {
            i += 1;
        } else {
            j += 1;
        }
        sum += lattice.statistic(lattice.gap(i, j)) * (pair[1].0 - pair[0].0);
    }
    Ok(sum)
}

/// Shares per bin, zeros kept.
struct Binned {
    reference: Vec<f64>,
    current: Vec<f64>,
}

impl Binned {
    fn new(reference: &[f64], current: &[f64]) -> Result<Self, StatError> {
        if distinct(reference).len() <= FEW_VALUES {
            let values = distinct(&[reference, current].concat());
            let count = |sample: &[f64]| {
                let mut counts = vec![0u64; values.len()];
                for &v in sample {
                    counts[values.partition_point(|&x| x < v)] += 1;
                }
                counts
            };
            return Ok(Self::from_counts((&count(reference), reference.len()), (&count(current), current.len())));
        }
        let edges = numpy_edges(&[reference, current].concat(), NumpyRule::Sturges)?;
        Ok(Self::from_counts(
            (&numpy_counts(reference, &edges), reference.len()),
            (&numpy_counts(current, &edges), current.len()),
        ))
    }

    fn from_counts(reference: (&[u64], usize), current: (&[u64], usize)) -> Self {
        let shares =
            |(counts, n): (&[u64], usize)| -> Vec<f64> { counts.iter().map(|&c| c as f64 / n as f64).collect() };
        Self { reference: shares(reference), current: shares(current) }
    }
}

/// The values without repetition, ascending. Negative zero counts as zero.
fn distinct(values: &[f64]) -> Vec<f64> {
    let mut v: Vec<f64> = values.iter().map(|x| x + 0.0).collect();
    v.sort_unstable_by(f64::total_cmp);
    v.dedup();
    v
}

/// evidently's zero rule: an empty bin becomes 1e-4, or a millionth of the smallest share where that is at most 1e-4.
fn fill(shares: &[f64]) -> Vec<f64> {
    let smallest = shares.iter().filter(|&&s| s > 0.0).fold(f64::INFINITY, |m, &s| m.min(s));
    let replacement = if smallest <= 1e-4 { smallest / 1e6 } else { 1e-4 };
    shares.iter().map(|&s| if s == 0.0 { replacement } else { s }).collect()
}

fn normalised(shares: &[f64]) -> Vec<f64> {
    let sum: f64 = shares.iter().sum();
    shares.iter().map(|s| s / sum).collect()
}

fn kullback_leibler(p: &[f64], q: &[f64]) -> f64 {
    normalised(p).iter().zip(normalised(q)).map(|(&p, q)| p * (p / q).ln()).sum()
}

fn jensen_shannon(p: &[f64], q: &[f64]) -> f64 {
    let relative_entropy = |x: f64, m: f64| if x > 0.0 { x * (x / m).ln() } else { 0.0 };
    let sum: f64 = normalised(p)
        .iter()
        .zip(normalised(q))
        .map(|(&p, q)| {
            let m = f64::midpoint(p, q);
            relative_entropy(p, m) + relative_entropy(q, m)
        })
        .sum();
    (sum.max(0.0) / 2.0).sqrt()
}

fn hellinger(reference: &[f64], current: &[f64]) -> Result<f64, StatError> {
    let edges = numpy_edges(&distinct(&[reference, current].concat()), NumpyRule::Sturges)?;
    let (a, b) = (numpy_counts(reference, &edges), numpy_counts(current, &edges));
    let (n, m) = (reference.len() as f64, current.len() as f64);
    let overlap: f64 = a.iter().zip(b).map(|(&a, b)| (a as f64 / n * (b as f64 / m)).sqrt()).sum();
    Ok((1.0 - overlap.clamp(0.0, 1.0)).sqrt())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zero_rule() {
        assert_eq!(fill(&[0.5, 0.0, 0.5]), [0.5, 1e-4, 0.5]);
        assert_eq!(fill(&[0.999_95, 0.0, 5e-5]), [0.999_95, 5e-11, 5e-5]);
    }

    #[test]
    fn errors_are_typed() {
        assert!(scores(&[], &[1.0]).is_err());
        assert!(scores(&[1.0], &[f64::INFINITY]).is_err());
        assert!(wasserstein(&[1.0], &[]).is_err());
    }

    #[test]
    fn constants_compare() {
        let same = scores(&[125.0; 5], &[125.0; 9]).unwrap();
        assert_eq!((same.psi, same.hellinger, same.ks_p), (0.0, 0.0, 1.0));
        let other = scores(&[125.0; 5], &[25.0; 9]).unwrap();
        assert!(other.psi > 10.0);
        assert_eq!(other.hellinger, 1.0);
        assert_eq!(other.wasserstein_normed, 100.0 / 0.001);
    }

    proptest! {
        #[test]
        fn distances_are_distances(
            a in prop::collection::vec(-9.0f64..9.0, 1..90),
            b in prop::collection::vec(-9.0f64..9.0, 1..90),
        ) {
            let s = scores(&a, &b).unwrap();
            for v in [s.psi, s.jensen_shannon, s.wasserstein_normed, s.hellinger] {
                prop_assert!(v >= 0.0 && v.is_finite());
            }
            prop_assert!(s.hellinger <= 1.0 && s.jensen_shannon <= 2f64.ln().sqrt() + 1e-12);
            let forth = wasserstein(&a, &b).unwrap();
            prop_assert!((forth - wasserstein(&b, &a).unwrap()).abs() < 1e-12);
        }
    }
}
