//! Chi-squared tests on counts.

use crate::error::{StatError, total};
use crate::special::chi2_sf;

/// Result of a chi-squared test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chi2Test {
    /// Sum of (observed - expected)^2 / expected; infinite when something was seen that cannot happen.
    pub statistic: f64,
    /// Degrees of freedom; 0 when only one category is possible (then p is 1, or 0 for an impossible observation).
    pub df: usize,
    pub p: f64,
    /// Smallest expected count of a tested cell: below about 5 the p-value is only rough.
    pub smallest_expected: f64,
}

impl Chi2Test {
    fn new(statistic: f64, df: usize, smallest_expected: f64) -> Self {
        let p = if statistic == f64::INFINITY {
            0.0
        } else if df == 0 {
            1.0
        } else {
            chi2_sf(statistic, df as f64)
        };
        Self { statistic, df, p, smallest_expected }
    }
}

/// Do `observed` counts follow the shares of `expected` weights? The weights are scaled to the observed total.
///
/// A category with weight 0 and count 0 is left out.
///
/// # Errors
/// Different lengths, no counts, a weight that is negative or not finite.
pub fn goodness_of_fit(observed: &[u64], expected: &[f64]) -> Result<Chi2Test, StatError> {
    if observed.len() != expected.len() {
        return Err(StatError::LengthMismatch {
            what: "observed and expected categories",
            left: observed.len(),
            right: expected.len(),
        });
    }
    let n = total("observed counts", observed)? as f64;
    if let Some(index) = expected.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
        return Err(StatError::NotFinite { what: "expected weight", index, value: expected[index] });
    }
    let weight: f64 = expected.iter().sum();
    if !(weight > 0.0 && weight.is_finite()) {
        return Err(StatError::Empty { what: "expected weights" });
    }
    let (mut statistic, mut cells, mut smallest) = (0.0, 0usize, f64::INFINITY);
    for (&o, &w) in observed.iter().zip(expected) {
        let e = w / weight * n;
        if e > 0.0 {
            statistic += (o as f64 - e).powi(2) / e;
            cells += 1;
            smallest = smallest.min(e);
        } else if o > 0 {
            statistic = f64::INFINITY;
            smallest = 0.0;
        }
    }
    Ok(Chi2Test::new(statistic, cells.saturating_sub(1), smallest))
}

/// Do two sets of counts over the same categories come from one distribution? Both are samples, and both are noisy.
///
/// Categories empty on both sides are left out. No continuity correction.
///
/// # Errors
/// Different lengths, or a side without counts.
pub fn homogeneity(reference: &[u64], current: &[u64]) -> Result<Chi2Test, StatError> {
    if reference.len() != current.len() {
        return Err(StatError::LengthMismatch {
            what: "reference and current categories",
            left: reference.len(),
            right: current.len(),
        });
    }
    let n1 = total("reference counts", reference)? as f64;
    let n2 = total("current counts", current)? as f64;
    let all = n1 + n2;
    let (mut statistic, mut cells, mut smallest) = (0.0, 0usize, f64::INFINITY);
    for (&a, &b) in reference.iter().zip(current) {
        let column = a as f64 + b as f64;
        if column == 0.0 {
            continue;
        }
        cells += 1;
        for (count, n) in [(a, n1), (b, n2)] {
            let e = column * n / all;
            statistic += (count as f64 - e).powi(2) / e;
            smallest = smallest.min(e);
        }
    }
    Ok(Chi2Test::new(statistic, cells.saturating_sub(1), smallest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() <= 1e-9 * want.abs(), "{got:e} {want:e}");
    }

    #[test]
    fn against_scipy() {
        // scipy 1.17.1: chisquare and chi2_contingency(correction=False)
        let fit = goodness_of_fit(&[16, 18, 16, 14, 12, 12], &[1.0; 6]).unwrap();
        close(fit.statistic, 2.0);
        close(fit.p, 0.8491450360846096);
        let same = homogeneity(&[100, 120, 80, 0, 5], &[60, 140, 90, 0, 20]).unwrap();
        assert_eq!(same.df, 3);
        close(same.statistic, 21.087440268382508);
        close(same.p, 0.00010096468303781063);
        close(same.smallest_expected, 12.398373983739837);
    }

    #[test]
    fn impossible_and_trivial_cases() {
        let impossible = goodness_of_fit(&[5, 1], &[1.0, 0.0]).unwrap();
        assert_eq!((impossible.p, impossible.smallest_expected), (0.0, 0.0));
        assert_eq!(goodness_of_fit(&[5, 0], &[1.0, 0.0]).unwrap().p, 1.0);
        assert_eq!(homogeneity(&[3, 0], &[9, 0]).unwrap().p, 1.0);
    }

    #[test]
    fn errors_are_typed() {
        assert!(matches!(homogeneity(&[1], &[1, 2]), Err(StatError::LengthMismatch { .. })));
        assert!(matches!(homogeneity(&[0, 0], &[1, 2]), Err(StatError::Empty { .. })));
        assert!(matches!(homogeneity(&[u64::MAX, 1], &[1, 2]), Err(StatError::Overflow { .. })));
        assert!(goodness_of_fit(&[1, 2], &[1.0, f64::NAN]).is_err());
        assert!(goodness_of_fit(&[1, 2], &[1.0, -1.0]).is_err());
        assert!(goodness_of_fit(&[1, 2], &[0.0, 0.0]).is_err());
        assert!(goodness_of_fit(&[], &[]).is_err());
    }

    proptest! {
        #[test]
        fn symmetric_and_a_probability(
            pairs in prop::collection::vec((0u64..500, 0u64..500), 1..20),
        ) {
            let (a, b): (Vec<u64>, Vec<u64>) = pairs.into_iter().unzip();
            if let (Ok(x), Ok(y)) = (homogeneity(&a, &b), homogeneity(&b, &a)) {
                prop_assert!((0.0..=1.0).contains(&x.p));
                prop_assert!((x.statistic - y.statistic).abs() <= 1e-9 * x.statistic.max(1.0));
            }
        }
    }
}
