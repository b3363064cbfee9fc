//! Population stability index, with its zero rule stated.
//!
//! PSI = sum over bins of (p - q) ln(p / q). An empty bin makes it infinite, so every tool replaces zeros, and the value is then
//! mostly that replacement: the same 100 predictions give 1.06 with a floor of 1 % and 4.79 with 1e-10. Hence [`ZeroRule`]
//! is an argument, never a default.

use crate::error::{StatError, total};

/// What to do with an empty bin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ZeroRule {
    /// (count + 1/2) / (n + bins/2) for every bin: finite, bounded by the sample size, no constant to choose.
    AddHalf,
    /// Every share below this value is raised to it; not renormalised.
    Floor(f64),
}

impl ZeroRule {
    /// Shares of the bins after the rule.
    ///
    /// # Errors
    /// No counts, or a floor outside (0, 1).
    pub fn shares(self, what: &'static str, counts: &[u64]) -> Result<Vec<f64>, StatError> {
        let n = total(what, counts)? as f64;
        match self {
            Self::AddHalf => {
                let n = n + counts.len() as f64 / 2.0;
                Ok(counts.iter().map(|&c| (c as f64 + 0.5) / n).collect())
            }
            Self::Floor(floor) => {
                crate::error::check_open_unit("PSI floor", floor)?;
                Ok(counts.iter().map(|&c| (c as f64 / n).max(floor)).collect())
            }
        }
    }
}

/// PSI of two sets of counts over the same bins. Symmetric, and never negative.
///
/// # Errors
/// Different numbers of bins, a side without counts, a floor outside (0, 1).
pub fn psi(reference: &[u64], current: &[u64], rule: ZeroRule) -> Result<f64, StatError> {
    if reference.len() != current.len() {
        return Err(StatError::LengthMismatch { what: "PSI bins", left: reference.len(), right: current.len() });
    }
    let p = rule.shares("reference counts", reference)?;
    let q = rule.shares("current counts", current)?;
    Ok(psi_of_shares(&p, &q))
}

/// PSI of positive shares of equal length.
pub(crate) fn psi_of_shares(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(&p, &q)| (p - q) * (p / q).ln()).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn closed_form_of_four_bins() {
        let reference = [1000u64, 1500, 1200, 1300];
        let current = [800u64, 1400, 1600, 1200];
        // Written out term by term, n = 5000 + 2 on both sides.
        let term = |a: f64, b: f64| (a - b) / 5002.0 * (a / b).ln();
        let want = term(1000.5, 800.5) + term(1500.5, 1400.5) + term(1200.5, 1600.5) + term(1300.5, 1200.5);
        let got = psi(&reference, &current, ZeroRule::AddHalf).unwrap();
        assert!((got - want).abs() <= 1e-12 * want, "{got} {want}");
        let term = |a: f64, b: f64| (a - b) / 5000.0 * (a / b).ln();
        let want = term(1000.0, 800.0) + term(1500.0, 1400.0) + term(1200.0, 1600.0) + term(1300.0, 1200.0);
        let got = psi(&reference, &current, ZeroRule::Floor(1e-6)).unwrap();
        assert!((got - want).abs() <= 1e-12 * want, "{got} {want}");
    }

    #[test]
    fn the_floor_decides_the_value_of_an_empty_bin() {
        let at = |eps| psi(&[50, 50], &[100, 0], ZeroRule::Floor(eps)).unwrap();
        assert!(at(1e-2) < at(1e-4) && at(1e-4) < at(1e-10));
        let tail = 0.5 * 2.0f64.ln() + (0.5 - 1e-4) * (0.5 / 1e-4f64).ln();
        assert!((at(1e-4) - tail).abs() < 1e-12);
    }

    #[test]
    fn errors_are_typed() {
        let half = ZeroRule::AddHalf;
        assert!(matches!(psi(&[1], &[1, 1], half), Err(StatError::LengthMismatch { .. })));
        assert!(matches!(psi(&[0, 0], &[1, 1], half), Err(StatError::Empty { .. })));
        assert!(matches!(psi(&[], &[], half), Err(StatError::Empty { .. })));
        assert!(psi(&[1], &[1], ZeroRule::Floor(0.0)).is_err());
        assert!(psi(&[1], &[1], ZeroRule::Floor(f64::NAN)).is_err());
        assert!(psi(&[u64::MAX, 2], &[1, 1], half).is_err());
    }

    proptest! {
        #[test]
        fn symmetric_and_never_negative(
            pairs in prop::collection::vec((0u64..1000, 0u64..1000), 1..30),
            eps in 1e-12f64..0.01,
        ) {
            let (a, b): (Vec<u64>, Vec<u64>) = pairs.into_iter().unzip();
            prop_assume!(a.iter().sum::<u64>() > 0 && b.iter().sum::<u64>() > 0);
            for rule in [ZeroRule::AddHalf, ZeroRule::Floor(eps)] {
                let forth = psi(&a, &b, rule).unwrap();
                prop_assert!(forth >= 0.0);
                prop_assert!((forth - psi(&b, &a, rule).unwrap()).abs() <= 1e-12 * forth.max(1.0));
                prop_assert_eq!(psi(&a, &a, rule).unwrap(), 0.0);
            }
        }
    }
}
