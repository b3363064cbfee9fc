//! Scalers. They are fitted on training engines; everything else is only transformed, and may fall outside the fitted range.

use crate::data::{FeatureSet, Fleet, Row};
use crate::error::Error;

/// Turns rows into model inputs.
pub trait Transform {
    /// The features, in the order of the output.
    fn features(&self) -> &FeatureSet;

    /// Appends one value per feature.
    ///
    /// # Errors
    /// A row that the transform has no rule for.
    fn transform(&self, row: &Row, out: &mut Vec<f32>) -> Result<(), Error>;
}

/// How to scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// The fitted minimum becomes 0, the maximum 1.
    MinMax,
    /// The fitted mean becomes 0, the population standard deviation 1.
    ZScore,
}

/// `(x - offset) * factor`. A feature that was constant has factor 1, so it becomes 0 and a later change stays visible.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    pub offset: f64,
    pub factor: f64,
}

impl Affine {
    /// Fits on values; none at all give the identity.
    pub(crate) fn fit(scaling: Scaling, values: impl Iterator<Item = f64> + Clone) -> Self {
        let (mut n, mut low, mut high, mut sum) = (0.0, f64::INFINITY, f64::NEG_INFINITY, 0.0);
        for v in values.clone() {
            n += 1.0;
            low = v.min(low);
            high = v.max(high);
            sum += v;
        }
        if n == 0.0 {
            return Self { offset: 0.0, factor: 1.0 };
        }
        // A constant is recognised by its range: the rounding noise of a variance would blow it up.
        let (offset, spread) = if low == high {
            (low, 1.0)
        } else if scaling == Scaling::MinMax {
            (low, high - low)
        } else {
            let mean = sum / n;
            let variance = values.map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            (mean, variance.sqrt())
        };
        Self { offset, factor: 1.0 / spread }
    }

    /// Scales one value.
    #[must_use]
    pub fn apply(self, x: f64) -> f64 {
        (x - self.offset) * self.factor
    }
}

/// One scaler for all rows, whatever their regime.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaler {
    features: FeatureSet,
    affine: Vec<Affine>,
}

impl Scaler {
    /// Fits on the training engines.
    ///
    /// # Errors
    /// A fleet without rows.
    pub fn fit(features: FeatureSet, scaling: Scaling, train: &Fleet) -> Result<Self, Error> {
        if train.row_count() == 0 {
            return Err(Error::Empty("the training fleet"));
        }
        let affine = features
            .columns()
            .iter()
            .map(|&column| Affine::fit(scaling, train.rows().map(move |r| r.get(column))))
            .collect();
        Ok(Self { features, affine })
    }

    /// From stored numbers, one pair per feature.
    ///
    /// # Errors
    /// A wrong number of pairs, or one that is not finite.
    pub fn from_parts(features: FeatureSet, affine: Vec<Affine>) -> Result<Self, Error> {
        if features.len() != affine.len() {
            return Err(Error::LengthMismatch {
                what: "features and scaler entries",
                left: features.len(),
                right: affine.len(),
            });
        }
        for (index, a) in affine.iter().enumerate() {
            if let Some(value) = [a.offset, a.factor].into_iter().find(|v| !v.is_finite()) {
                return Err(Error::NotFinite { what: "scaler entry", index, value });
            }
        }
        Ok(Self { features, affine })
    }

    /// Offset and factor per feature, to be stored with the model.
    #[must_use]
    pub fn affine(&self) -> &[Affine] {
        &self.affine
    }
}

impl Transform for Scaler {
    fn features(&self) -> &FeatureSet {
        &self.features
    }

    fn transform(&self, row: &Row, out: &mut Vec<f32>) -> Result<(), Error> {
        for (column, affine) in self.features.columns().iter().zip(&self.affine) {
            out.push(affine.apply(row.get(*column)) as f32);
        }
        Ok(())
    }
}

/// No scaling: for models that carry their scaler inside.
#[derive(Debug, Clone, PartialEq)]
pub struct Unscaled(pub FeatureSet);

impl Transform for Unscaled {
    fn features(&self) -> &FeatureSet {
        &self.0
    }

    fn transform(&self, row: &Row, out: &mut Vec<f32>) -> Result<(), Error> {
        out.extend(self.0.columns().iter().map(|&c| row.get(c) as f32));
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{COLUMNS, Engine};

    fn fleet(column: &[f64]) -> Fleet {
        let rows = column
            .iter()
            .zip(1..)
            .map(|(&v, cycle)| {
                let mut values = [0.1; COLUMNS];
                values[4] = v;
                Row { cycle, values }
            })
            .collect();
        Fleet { engines: vec![Engine { id: 1, rows }] }
    }

    fn scaled(scaling: Scaling, train: &[f64], value: f64) -> Vec<f32> {
        let features = FeatureSet::by_names(["s2", "s3"]).unwrap();
        let scaler = Scaler::fit(features, scaling, &fleet(train)).unwrap();
        let mut out = Vec::new();
        scaler.transform(&fleet(&[value]).engines[0].rows[0], &mut out).unwrap();
        out
    }

    #[test]
    fn by_hand() {
        assert_eq!(scaled(Scaling::MinMax, &[10.0, 30.0], 15.0), [0.25, 0.0]);
        assert_eq!(scaled(Scaling::MinMax, &[10.0, 30.0], 50.0), [2.0, 0.0]);
        assert_eq!(scaled(Scaling::ZScore, &[10.0, 30.0], 40.0), [2.0, 0.0]);
    }

    #[test]
    fn a_constant_becomes_zero_and_its_change_stays_visible() {
        // 0.1 summed thirty times is not 3: a variance would come out as noise, not as zero.
        let train = [0.1; 30];
        for scaling in [Scaling::MinMax, Scaling::ZScore] {
            assert_eq!(scaled(scaling, &train, 0.1), [0.0, 0.0]);
            assert_eq!(scaled(scaling, &train, 2.1), [2.0, 0.0]);
        }
    }

    #[test]
    fn bad_parts_are_refused() {
        let features = || FeatureSet::by_names(["s2"]).unwrap();
        let entry = |factor| Affine { offset: 0.0, factor };
        assert!(Scaler::fit(features(), Scaling::MinMax, &Fleet::default()).is_err());
        assert!(Scaler::from_parts(features(), vec![]).is_err());
        assert!(Scaler::from_parts(features(), vec![entry(f64::INFINITY)]).is_err());
        assert!(Scaler::from_parts(features(), vec![entry(2.0)]).is_ok());
    }
}
