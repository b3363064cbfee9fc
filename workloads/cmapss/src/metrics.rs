//! How good predictions of remaining life are.

use crate::error::Error;

/// Errors of predicted against true remaining life, d = predicted - true, in cycles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metrics {
    /// Root mean square of d.
    pub rmse: f64,
    /// Mean of |d|.
    pub mae: f64,
    /// Mean of d: positive means that failures come earlier than predicted.
    pub bias: f64,
    /// NASA's score, summed: exp(-d/13) - 1 for early predictions, exp(d/10) - 1 for late ones. Late is worse.
    pub nasa_score: f64,
    /// Number of predictions.
    pub n: usize,
}

impl Metrics {
    /// Compares predictions with the truth, pair by pair.
    ///
    /// # Errors
    /// Different lengths, no pairs, or a value that is not finite.
    pub fn new(predicted: &[f64], truth: &[f64]) -> Result<Self, Error> {
        if predicted.len() != truth.len() {
            return Err(Error::LengthMismatch {
                what: "predictions and true lives",
                left: predicted.len(),
                right: truth.len(),
            });
        }
        if predicted.is_empty() {
            return Err(Error::Empty("the list of predictions"));
        }
        let (mut squares, mut absolute, mut sum, mut score) = (0.0, 0.0, 0.0, 0.0);
        for (index, (&p, &t)) in predicted.iter().zip(truth).enumerate() {
            for (what, value) in [("prediction", p), ("true life", t)] {
                if !value.is_finite() {
                    return Err(Error::NotFinite { what, index, value });
                }
            }
            let d = p - t;
            squares += d * d;
            absolute += d.abs();
            sum += d;
            score += nasa_penalty(d);
        }
        let n = predicted.len() as f64;
        Ok(Self { rmse: (squares / n).sqrt(), mae: absolute / n, bias: sum / n, nasa_score: score, n: predicted.len() })
    }
}

/// NASA's penalty for one prediction that is off by `d` = predicted - true cycles.
#[must_use]
pub fn nasa_penalty(d: f64) -> f64 {
    if d < 0.0 { (-d / 13.0).exp_m1() } else { (d / 10.0).exp_m1() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let m = Metrics::new(&[100.0, 50.0, 30.0], &[90.0, 63.0, 30.0]).unwrap();
        assert_eq!(m.n, 3);
        assert!((m.rmse - (269.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((m.mae - 23.0 / 3.0).abs() < 1e-12);
        assert!((m.bias - -1.0).abs() < 1e-12);
        // One prediction 10 late, one 13 early: e - 1 each.
        assert!((m.nasa_score - 2.0 * (std::f64::consts::E - 1.0)).abs() < 1e-12);
    }

    #[test]
    fn errors_are_typed() {
        assert!(matches!(Metrics::new(&[], &[]), Err(Error::Empty(_))));
        assert!(matches!(Metrics::new(&[1.0], &[]), Err(Error::LengthMismatch { .. })));
        let nan = Metrics::new(&[1.0, f64::NAN], &[1.0, 1.0]).unwrap_err().to_string();
        assert_eq!(nan, "prediction at 1 is NaN: only finite numbers can be used");
    }
}
