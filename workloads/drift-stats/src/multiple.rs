//! Many tests at once.

use crate::error::{StatError, check_finite};

/// Benjamini-Hochberg adjusted p-values, in the order of the input: rejecting where the result is <= alpha keeps the
/// expected share of false rejections among the rejections at most alpha.
///
/// # Errors
/// No p-value, or one that is not in 0..=1.
pub fn benjamini_hochberg(p: &[f64]) -> Result<Vec<f64>, StatError> {
    check_finite("p-values", p)?;
    if let Some(&bad) = p.iter().find(|v| !(0.0..=1.0).contains(*v)) {
        return Err(StatError::BadParameter { name: "p-values", detail: format!("{bad} is not between 0 and 1") });
    }
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut smallest = 1.0f64;
    for (rank, &index) in order.iter().enumerate().rev() {
        // In this order the factor of the largest p is exactly 1: nothing is ever adjusted below itself.
        smallest = smallest.min(p[index] * (p.len() as f64 / (rank + 1) as f64));
        adjusted[index] = smallest;
    }
    Ok(adjusted)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_1995() {
        // Benjamini and Hochberg (1995), table 1: at 0.05 the first four of fifteen are rejected.
        let p = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
            0.7590, 1.0,
        ];
        let adjusted = benjamini_hochberg(&p).unwrap();
        assert_eq!(adjusted.iter().filter(|&&q| q <= 0.05).count(), 4);
        assert!((adjusted[3] - 0.0095 * 15.0 / 4.0).abs() < 1e-15);
    }

    #[test]
    fn refuses_what_is_no_probability() {
        assert!(benjamini_hochberg(&[]).is_err());
        assert!(benjamini_hochberg(&[0.2, f64::NAN]).is_err());
        assert!(benjamini_hochberg(&[-0.1]).is_err());
        assert!(benjamini_hochberg(&[1.1]).is_err());
    }

    proptest! {
        #[test]
        fn monotone_and_never_below_p(p in prop::collection::vec(0.0f64..=1.0, 1..40)) {
            let q = benjamini_hochberg(&p).unwrap();
            for i in 0..p.len() {
                prop_assert!(q[i] >= p[i] && q[i] <= 1.0);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || q[i] <= q[j]);
                }
            }
        }
    }
}
