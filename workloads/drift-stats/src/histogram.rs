//! Histograms as Prometheus has them: upper bounds, integer counts, one open bucket on top.
//!
//! Such a histogram gives the distribution function exactly at its bounds and nothing in between. So a KS distance taken from
//! two histograms is an interval, and only histograms with the same bounds may be compared or added.

use crate::error::{StatError, check_finite};
use crate::ks::{Lattice, Method};

/// Counts of values per bucket. Bucket i holds `bounds[i-1] < v <= bounds[i]`; the last one holds `v > bounds.last()`.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    bounds: Vec<f64>,
    counts: Vec<u64>,
}

impl Histogram {
    /// An empty histogram (every bucket 0).
    ///
    /// # Errors
    /// Bounds that are not finite and strictly increasing. No bound at all is allowed: one bucket for everything.
    pub fn new(bounds: &[f64]) -> Result<Self, StatError> {
        let counts = vec![0; bounds.len() + 1];
        Self::from_counts(bounds, &counts)
    }

    /// From per-bucket counts: one more than there are bounds.
    ///
    /// # Errors
    /// Bad bounds, a wrong number of counts, or a total above 64 bits.
    pub fn from_counts(bounds: &[f64], counts: &[u64]) -> Result<Self, StatError> {
        for (index, &bound) in bounds.iter().enumerate() {
            let detail = if !bound.is_finite() {
                format!("{bound} is not finite (the open bucket needs no bound)")
            } else if index > 0 && bounds[index - 1] >= bound {
                format!("{bound} does not follow {} upwards", bounds[index - 1])
            } else {
                continue;
            };
            return Err(StatError::BadBounds { index, detail });
        }
        if counts.len() != bounds.len() + 1 {
            return Err(StatError::LengthMismatch {
                what: "histogram counts and bounds + 1",
                left: counts.len(),
                right: bounds.len() + 1,
            });
        }
        counts.iter().try_fold(0u64, |sum, &c| sum.checked_add(c)).ok_or(StatError::Overflow { what: "histogram" })?;
        Ok(Self { bounds: bounds.to_vec(), counts: counts.to_vec() })
    }

    /// From cumulative counts per upper bound, as scraped (`le`); the last bound must be `+Inf`.
    ///
    /// # Errors
    /// As [`Self::from_counts`]; also a missing `+Inf`, or counts that fall.
    pub fn from_cumulative(buckets: &[(f64, u64)]) -> Result<Self, StatError> {
        let Some((&(f64::INFINITY, _), _)) = buckets.split_last() else {
            return Err(StatError::BadBounds {
                index: buckets.len().saturating_sub(1),
                detail: "the last bucket must be +Inf, it carries the total".to_owned(),
            });
        };
        let mut before = 0;
        let mut counts = Vec::with_capacity(buckets.len());
        for (index, &(_, after)) in buckets.iter().enumerate() {
            let count = after.checked_sub(before).ok_or(StatError::CountsDecrease { index, before, after })?;
            counts.push(count);
            before = after;
        }
        let bounds: Vec<f64> = buckets[..buckets.len() - 1].iter().map(|b| b.0).collect();
        Self::from_counts(&bounds, &counts)
    }

    /// Counts the values of a sample.
    ///
    /// # Errors
    /// Bad bounds, an empty sample, a value that is not finite.
    pub fn from_values(bounds: &[f64], values: &[f64]) -> Result<Self, StatError> {
        check_finite("values", values)?;
        let mut histogram = Self::new(bounds)?;
        for &v in values {
            let bucket = histogram.bounds.partition_point(|&b| b < v);
            histogram.counts[bucket] += 1;
        }
        Ok(histogram)
    }

    /// Upper bounds, without the open bucket.
    #[must_use]
    pub fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    /// Counts per bucket (not cumulative), the open bucket last.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Number of values counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Number of values at or below each bound; the last one is the total.
    #[must_use]
    pub fn cumulative(&self) -> Vec<u64> {
        self.counts
            .iter()
            .scan(0, |sum, &c| {
                *sum += c;
                Some(*sum)
            })
            .collect()
    }

    /// Adds the counts of another pod or scrape.
    ///
    /// # Errors
    /// Different bounds (nothing is added then), or a total above 64 bits.
    pub fn merge(&mut self, other: &Self) -> Result<(), StatError> {
        self.same_bounds(other)?;
        let overflow = StatError::Overflow { what: "histogram" };
        if self.total().checked_add(other.total()).is_none() {
            return Err(overflow);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        Ok(())
    }

    /// What was counted since an earlier reading of the same counter.
    ///
    /// # Errors
    /// Different bounds, or [`StatError::CountsDecrease`]: the counter was reset in between, and the caller must treat
    /// the readings on both sides of the reset apart.
    pub fn since(&self, earlier: &Self) -> Result<Self, StatError> {
        self.same_bounds(earlier)?;
        let mut counts = Vec::with_capacity(self.counts.len());
        for (index, (&after, &before)) in self.counts.iter().zip(&earlier.counts).enumerate() {
            counts.push(after.checked_sub(before).ok_or(StatError::CountsDecrease { index, before, after })?);
        }
        Self::from_counts(&self.bounds, &counts)
    }

    fn same_bounds(&self, other: &Self) -> Result<(), StatError> {
        if self.bounds.len() != other.bounds.len() {
            return Err(StatError::BoundsDiffer {
                detail: format!("{} against {} bounds", self.bounds.len(), other.bounds.len()),
            });
        }
        match self.bounds.iter().zip(&other.bounds).find(|(a, b)| a != b) {
            Some((a, b)) => Err(StatError::BoundsDiffer { detail: format!("{a} against {b}") }),
            None => Ok(()),
        }
    }
}

/// What two histograms say about the KS distance of the samples behind them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KsInterval {
    /// D is at least this: the largest gap at a bound.
    pub d_low: f64,
    /// D is at most this: as if the values inside each bucket lay as far apart as they can.
    pub d_up: f64,
    /// p-value of `d_up`: the true p is at least this.
    pub p_low: f64,
    /// p-value of `d_low`: the true p is at most this.
    pub p_up: f64,
    /// Values in the reference and the current histogram.
    pub n: (u64, u64),
    /// Whether the p-values are exact or asymptotic.
    pub method: Method,
}

/// The interval of the KS distance that two histograms with the same bounds support.
///
/// # Errors
/// Different bounds, or a histogram without values.
pub fn ks_interval(reference: &Histogram, current: &Histogram, method: Method) -> Result<KsInterval, StatError> {
    reference.same_bounds(current)?;
    let n = (reference.total(), current.total());
    let size = |n: u64, what| match usize::try_from(n) {
        Ok(0) => Err(StatError::Empty { what }),
        Ok(n) => Ok(n),
        Err(_) => Err(StatError::Overflow { what }),
    };
    let lattice = Lattice::new(size(n.0, "reference histogram")?, size(n.1, "current histogram")?);
    let (mut low, mut up) = (0, 0);
    let (mut f_below, mut g_below) = (0, 0);
    for (f, g) in reference.cumulative().into_iter().zip(current.cumulative()) {
        low = low.max(lattice.gap(f, g));
        let widest = lattice.signed_gap(f, g_below).max(-lattice.signed_gap(f_below, g));
        up = up.max(widest.unsigned_abs());
        (f_below, g_below) = (f, g);
    }
    let (p_up, method) = lattice.p_value(low, method);
    let (p_low, _) = lattice.p_value(up, method);
    Ok(KsInterval { d_low: lattice.statistic(low), d_up: lattice.statistic(up), p_low, p_up, n, method })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ks::ks_test;
    use proptest::prelude::*;

    #[test]
    fn upper_bounds_are_inclusive_as_in_prometheus() {
        let h = Histogram::from_values(&[1.0, 2.0], &[0.5, 1.0, 1.5, 2.0, 2.5]).unwrap();
        assert_eq!(h.counts(), [2, 2, 1]);
        assert_eq!(h.cumulative(), [2, 4, 5]);
        let scraped = Histogram::from_cumulative(&[(1.0, 2), (2.0, 4), (f64::INFINITY, 5)]);
        assert_eq!(scraped.unwrap(), h);
    }

    #[test]
    fn merge_and_since_refuse_other_bounds() {
        let mut a = Histogram::from_counts(&[1.0, 2.0], &[1, 2, 3]).unwrap();
        let b = Histogram::from_counts(&[1.0, 2.5], &[1, 2, 3]).unwrap();
        let error = a.merge(&b).unwrap_err();
        assert!(error.to_string().contains("2 against 2.5"), "{error}");
        assert_eq!(a.counts(), [1, 2, 3]);
        let earlier = a.clone();
        a.merge(&earlier).unwrap();
        assert_eq!(a.counts(), [2, 4, 6]);
        assert_eq!(a.since(&earlier).unwrap(), earlier);
        assert!(matches!(earlier.since(&a), Err(StatError::CountsDecrease { index: 0, .. })));
        assert!(a.since(&Histogram::new(&[1.0]).unwrap()).is_err());
    }

    #[test]
    fn malformed_histograms_are_refused() {
        assert!(matches!(Histogram::new(&[1.0, 1.0]), Err(StatError::BadBounds { index: 1, .. })));
        assert!(Histogram::new(&[f64::INFINITY]).is_err());
        assert!(Histogram::from_counts(&[1.0], &[1]).is_err());
        assert!(Histogram::from_counts(&[1.0], &[u64::MAX, 1]).is_err());
        assert!(Histogram::from_cumulative(&[]).is_err());
        assert!(Histogram::from_cumulative(&[(1.0, 3)]).is_err());
        assert!(Histogram::from_cumulative(&[(1.0, 3), (f64::INFINITY, 2)]).is_err());
        let mut full = Histogram::from_counts(&[], &[u64::MAX]).unwrap();
        assert!(full.merge(&full.clone()).is_err());
    }

    #[test]
    fn one_bucket_knows_nothing() {
        let a = Histogram::from_counts(&[], &[50]).unwrap();
        let b = Histogram::from_counts(&[], &[30]).unwrap();
        let interval = ks_interval(&a, &b, Method::Auto).unwrap();
        assert_eq!((interval.d_low, interval.d_up), (0.0, 1.0));
        assert_eq!(interval.p_up, 1.0);
        assert!(interval.p_low < 1e-20);
        let empty = Histogram::new(&[]).unwrap();
        assert!(ks_interval(&a, &empty, Method::Auto).is_err());
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_true_distance(
            a in prop::collection::vec(0.0f64..125.0, 1..80),
            b in prop::collection::vec(0.0f64..125.0, 1..80),
            cap in 40.0f64..130.0,
            width in 1.0f64..60.0,
        ) {
            let a: Vec<f64> = a.into_iter().map(|v| v.min(cap)).collect();
            let b: Vec<f64> = b.into_iter().map(|v| v.min(cap)).collect();
            let bounds: Vec<f64> = (1..).map(|i| f64::from(i) * width).take_while(|&x| x < 125.0).collect();
            let truth = ks_test(&a, &b, Method::Auto).unwrap();
            let (ha, hb) = (
                Histogram::from_values(&bounds, &a).unwrap(),
                Histogram::from_values(&bounds, &b).unwrap(),
            );
            let interval = ks_interval(&ha, &hb, Method::Auto).unwrap();
            prop_assert!(interval.d_low <= truth.d && truth.d <= interval.d_up);
            prop_assert!(interval.p_low <= truth.p * (1.0 + 1e-12));
            prop_assert!(truth.p <= interval.p_up * (1.0 + 1e-12));
            // Bounds at every value: nothing is left to guess.
            let mut every: Vec<f64> = a.iter().chain(&b).copied().collect();
            every.sort_by(f64::total_cmp);
            every.dedup();
            let exact = ks_interval(
                &Histogram::from_values(&every, &a).unwrap(),
                &Histogram::from_values(&every, &b).unwrap(),
                Method::Auto,
            ).unwrap();
            prop_assert_eq!(exact.d_low, truth.d);
        }
    }
}
