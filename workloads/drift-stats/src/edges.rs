//! Bin edges: fixed on a reference by quantiles, or numpy's automatic rules.

use crate::error::{StatError, check_finite};

/// Quantile `q` (0..=1) of values already sorted, with numpy's default linear interpolation. `None` for no values.
#[must_use]
pub fn quantile_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let low = sorted[below.min(last)];
    let high = sorted[(below + 1).min(last)];
    if low == high {
        return Some(low);
    }
    Some(low + (high - low) * (position - below as f64))
}

/// Inner edges that cut the reference into (up to) `bins` parts of equal mass: at most `bins - 1` values, strictly
/// increasing. Ties (a capped prediction) make equal quantiles; those are merged, so fewer bins come out.
///
/// # Errors
/// An empty reference, a value that is not finite, or `bins` = 0.
pub fn quantile_edges(reference: &[f64], bins: usize) -> Result<Vec<f64>, StatError> {
    check_finite("reference", reference)?;
    if bins == 0 {
        return Err(StatError::BadParameter { name: "bins", detail: "at least one bin is needed".to_owned() });
    }
    let mut sorted = reference.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let mut edges: Vec<f64> = (1..bins).filter_map(|i| quantile_sorted(&sorted, i as f64 / bins as f64)).collect();
    edges.dedup();
    // Buckets include their upper bound, so an edge at the maximum would leave an overflow bucket that is empty by construction.
    let largest = sorted[sorted.len() - 1];
    edges.retain(|&e| e < largest);
    Ok(edges)
}

/// The nine inner decile edges, fewer when there are ties. See [`quantile_edges`].
///
/// # Errors
/// As [`quantile_edges`].
pub fn deciles(reference: &[f64]) -> Result<Vec<f64>, StatError> {
    quantile_edges(reference, 10)
}

/// numpy's automatic rules for the number of equal-width bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumpyRule {
    /// log2(n) + 1 bins.
    Sturges,
    /// Sturges plus a term for skewness.
    Doane,
}

/// Edges as `numpy.histogram_bin_edges(values, bins="sturges" | "doane")` for float data: first and last included.
///
/// # Errors
/// No values, a value that is not finite, or a range too narrow for its bins (numpy refuses that too).
pub fn numpy_edges(values: &[f64], rule: NumpyRule) -> Result<Vec<f64>, StatError> {
    check_finite("values", values)?;
    let n = values.len() as f64;
    let low = values.iter().fold(f64::INFINITY, |m, &v| m.min(v));
    let high = values.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v));
    let range = high - low;
    if !range.is_finite() {
        return Err(StatError::BadParameter {
            name: "values",
            detail: format!("the range {low}..{high} is wider than a 64-bit float"),
        });
    }
    let width = match rule {
        NumpyRule::Sturges => range / (n.log2() + 1.0),
        NumpyRule::Doane => doane_width(values, range),
    };
    // A zero range becomes one unit wide around the value, as in numpy.
    let (first, last) = if range == 0.0 { (low - 0.5, high + 0.5) } else { (low, high) };
    let bins = if width > 0.0 { ((last - first) / width).ceil().max(1.0) } else { 1.0 };
    let step = (last - first) / bins;
    let mut edges: Vec<f64> = (0..bins as usize).map(|i| i as f64 * step + first).collect();
    edges.push(last);
    if edges.windows(2).any(|w| w[0] >= w[1]) {
        return Err(StatError::BadParameter {
            name: "values",
            detail: format!("the range {first}..{last} is too narrow for {bins} bins"),
        });
    }
    Ok(edges)
}

fn doane_width(values: &[f64], range: f64) -> f64 {
    let n = values.len() as f64;
    if values.len() <= 2 {
        return 0.0;
    }
    let (mean, sigma) = mean_and_sd(values);
    if sigma <= 0.0 {
        return 0.0;
    }
    let skew = values.iter().map(|v| ((v - mean) / sigma).powi(3)).sum::<f64>() / n;
    let skew_sd = (6.0 * (n - 2.0) / ((n + 1.0) * (n + 3.0))).sqrt();
    range / (1.0 + n.log2() + (1.0 + skew.abs() / skew_sd).log2())
}

/// Mean and population standard deviation (ddof 0) of a sample that is not empty.
pub(crate) fn mean_and_sd(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

/// Counts per bin `[e_i, e_i+1)`, the last bin closed, values outside left out: `numpy.histogram(values, edges)`.
pub(crate) fn numpy_counts(values: &[f64], edges: &[f64]) -> Vec<u64> {
    let mut counts = vec![0; edges.len().saturating_sub(1)];
    let (Some(&first), Some(&last)) = (edges.first(), edges.last()) else {
        return counts;
    };
    for &v in values {
        if v < first || v > last || counts.is_empty() {
            continue;
        }
        let bin = edges.partition_point(|&e| e <= v).saturating_sub(1);
        let bin = bin.min(counts.len() - 1);
        counts[bin] += 1;
    }
    counts
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seq(n: u32, a: f64, b: f64) -> Vec<f64> {
        (1..=n)
            .map(|i| {
                let u = (f64::from(i) * 0.618_033_988_749_894_9) % 1.0;
                a + b * u * u
            })
            .collect()
    }

    fn check(rule: NumpyRule, values: &[f64], bins: usize, second: f64, last: f64) {
        let edges = numpy_edges(values, rule).unwrap();
        assert_eq!(edges.len(), bins + 1);
        assert!((edges[1] - second).abs() <= 1e-9 * second.abs(), "{edges:?}");
        assert!((edges[bins] - last).abs() <= 1e-9 * last.abs(), "{edges:?}");
    }

    #[test]
    fn edges_against_numpy() {
        // numpy 2.4.6: number of bins, edges[1], edges[-1]
        check(NumpyRule::Sturges, &seq(1000, 10.0, 115.0), 11, 20.4451298034161, 124.89580972350225);
        check(NumpyRule::Sturges, &seq(50, 10.0, 115.0), 7, 25.75367015609416, 120.15627260517762);
        check(NumpyRule::Sturges, &seq(3, 0.0, 1.0), 3, 0.28031544958442006, 0.7294901687515776);
        check(NumpyRule::Sturges, &seq(17731, 0.0, 125.0), 16, 7.812105659804261, 124.99368742704078);
        check(NumpyRule::Sturges, &seq(64, -3.0, 9.0), 7, -1.7337729114684837, 5.854243825048151);
        check(NumpyRule::Doane, &seq(1000, 10.0, 115.0), 15, 17.65977833888047, 124.89580972350225);
        check(NumpyRule::Doane, &seq(50, 10.0, 115.0), 9, 22.25727747279477, 120.15627260517762);
        check(NumpyRule::Doane, &seq(3, 0.0, 1.0), 3, 0.28031544958442006, 0.7294901687515776);
        check(NumpyRule::Doane, &seq(17731, 0.0, 125.0), 21, 5.952080552387808, 124.99368742704078);
        check(NumpyRule::Doane, &seq(64, -3.0, 9.0), 9, -2.014810568376507, 5.854243825048151);
        check(NumpyRule::Doane, &[3.0, 3.0, 3.0], 1, 3.5, 3.5);
        check(NumpyRule::Sturges, &[7.0], 1, 7.5, 7.5);
    }

    #[test]
    fn capped_predictions_merge_their_edges() {
        let mut values: Vec<f64> = (0..60).map(f64::from).collect();
        values.extend([125.0; 40]);
        let edges = deciles(&values).unwrap();
        assert_eq!(edges.len(), 6, "{edges:?}");
        assert!(edges.windows(2).all(|w| w[0] < w[1]));
        assert!(edges.iter().all(|&e| e < 125.0));
        assert_eq!(deciles(&[4.0; 9]).unwrap(), Vec::<f64>::new());
    }

    #[test]
    fn errors_are_typed() {
        assert!(quantile_edges(&[], 10).is_err());
        assert!(quantile_edges(&[1.0], 0).is_err());
        assert!(numpy_edges(&[f64::NAN], NumpyRule::Doane).is_err());
        assert!(numpy_edges(&[1e308, -1e308], NumpyRule::Sturges).is_err());
        let narrow: Vec<f64> = (0..64).map(|i| if i == 0 { 1.0 } else { 1.0 + f64::EPSILON }).collect();
        assert!(numpy_edges(&narrow, NumpyRule::Sturges).is_err());
    }

    proptest! {
        #[test]
        fn every_value_is_counted_once(values in prop::collection::vec(-1e3f64..1e3, 1..200)) {
            let edges = numpy_edges(&values, NumpyRule::Sturges).unwrap();
            let counts = numpy_counts(&values, &edges);
            prop_assert_eq!(counts.iter().sum::<u64>(), values.len() as u64);
        }
    }
}
