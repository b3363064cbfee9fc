//! The six operating regimes of FD002 and FD004 (FD001 and FD003 stay in the first), and normalisation within each.
//!
//! A sensor's level depends far more on altitude and speed than on wear: mixed regimes hide degradation, and a shift of the
//! mix looks like drift of every sensor. So the regime comes first.

use crate::data::{Column, FeatureSet, Fleet, Row, SETTINGS};
use crate::error::Error;
use crate::scale::{Affine, Scaling, Transform};

/// Nearest-centre classification of operating points.
#[derive(Debug, Clone, PartialEq)]
pub struct Regimes {
    /// Altitude (1000 ft), Mach number, throttle resolver angle of each regime.
    pub centres: Vec<[f64; SETTINGS]>,
    /// How far off-centre a setting may be, per setting: an ellipsoid around each centre.
    pub radius: [f64; SETTINGS],
}

/// Where an operating point belongs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// Index of the nearest centre.
    pub nearest: usize,
    /// Distance to it, in radii.
    pub distance: f64,
}

impl Placement {
    /// The regime, or `None` when the point is outside the radius of the nearest centre ("unknown").
    #[must_use]
    pub fn known(self) -> Option<usize> {
        (self.distance <= 1.0).then_some(self.nearest)
    }
}

impl Regimes {
    /// The six of C-MAPSS. In the real data no point is farther than 0.05 radii from its centre, and the nearest two
    /// centres are 7 radii apart.
    #[must_use]
    pub fn six() -> Self {
        Self {
            centres: vec![
                [0.0, 0.0, 100.0],
                [10.0, 0.25, 100.0],
                [20.0, 0.70, 100.0],
                [25.0, 0.62, 60.0],
                [35.0, 0.84, 100.0],
                [42.0, 0.84, 100.0],
            ],
            radius: [1.0, 0.05, 1.0],
        }
    }

    /// Own centres and radius.
    ///
    /// # Errors
    /// No centre, a centre that is not finite, or a radius that is not positive and finite.
    pub fn new(centres: Vec<[f64; SETTINGS]>, radius: [f64; SETTINGS]) -> Result<Self, Error> {
        if centres.is_empty() {
            return Err(Error::Empty("the list of regimes"));
        }
        for (index, centre) in centres.iter().enumerate() {
            if let Some(&value) = centre.iter().find(|v| !v.is_finite()) {
                return Err(Error::NotFinite { what: "regime centre", index, value });
            }
        }
        if let Some(bad) = radius.iter().find(|r| !(**r > 0.0 && r.is_finite())) {
            return Err(Error::BadParameter {
                name: "regime radius",
                value: bad.to_string(),
                reason: "must be positive and finite",
            });
        }
        Ok(Self { centres, radius })
    }

    /// The nearest centre of an operating point. A NaN is infinitely far from everything.
    #[must_use]
    pub fn place(&self, settings: [f64; SETTINGS]) -> Placement {
        let mut best = Placement { nearest: 0, distance: f64::INFINITY };
        for (nearest, centre) in self.centres.iter().enumerate() {
            let distance =
                (0..SETTINGS).map(|k| ((settings[k] - centre[k]) / self.radius[k]).powi(2)).sum::<f64>().sqrt();
            if distance < best.distance {
                best = Placement { nearest, distance };
            }
        }
        best
    }

    /// Rows per regime, and last the unknown ones.
    #[must_use]
    pub fn counts<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Vec<u64> {
        let mut counts = vec![0; self.centres.len() + 1];
        for row in rows {
            let slot = self.place(row.settings()).known();
            counts[slot.unwrap_or(self.centres.len())] += 1;
        }
        counts
    }
}

/// Normalises every feature by the mean and spread it has in the row's own regime.
#[derive(Debug, Clone, PartialEq)]
pub struct RegimeScaler {
    regimes: Regimes,
    features: FeatureSet,
    /// Per regime: the scaler, or how few rows there were.
    scalers: Vec<Result<Vec<Affine>, usize>>,
}

impl RegimeScaler {
    /// Rows that a regime needs before it is normalised by.
    pub const FEWEST_ROWS: usize = 30;

    /// Fits on training engines. Regimes with fewer than [`Self::FEWEST_ROWS`] rows stay unfitted.
    ///
    /// # Errors
    /// A row in no known regime, or no regime with enough rows.
    pub fn fit(regimes: Regimes, features: FeatureSet, scaling: Scaling, train: &Fleet) -> Result<Self, Error> {
        let mut rows: Vec<Vec<&Row>> = vec![Vec::new(); regimes.centres.len()];
        for row in train.rows() {
            rows[known(&regimes, row)?].push(row);
        }
        let scalers: Vec<_> = rows
            .iter()
            .map(|rows| {
                if rows.len() < Self::FEWEST_ROWS {
                    return Err(rows.len());
                }
                let fit = |column: &Column| Affine::fit(scaling, rows.iter().map(|r| r.get(*column)));
                Ok(features.columns().iter().map(fit).collect())
            })
            .collect();
        if scalers.iter().all(Result::is_err) {
            return Err(Error::Empty("the set of regimes with enough training rows"));
        }
        Ok(Self { regimes, features, scalers })
    }

    /// The regimes it was fitted for.
    #[must_use]
    pub fn regimes(&self) -> &Regimes {
        &self.regimes
    }

    /// Offset and factor of every feature in one regime; `None` where the regime was not fitted.
    #[must_use]
    pub fn of_regime(&self, regime: usize) -> Option<&[Affine]> {
        self.scalers.get(regime)?.as_deref().ok()
    }
}

impl Transform for RegimeScaler {
    fn features(&self) -> &FeatureSet {
        &self.features
    }

    fn transform(&self, row: &Row, out: &mut Vec<f32>) -> Result<(), Error> {
        let regime = known(&self.regimes, row)?;
        match &self.scalers[regime] {
            Ok(scalers) => {
                for (column, affine) in self.features.columns().iter().zip(scalers) {
                    out.push(affine.apply(row.get(*column)) as f32);
                }
                Ok(())
            }
            Err(rows) => Err(Error::UnfittedRegime { regime, rows: *rows }),
        }
    }
}

fn known(regimes: &Regimes, row: &Row) -> Result<usize, Error> {
    let place = regimes.place(row.settings());
    place.known().ok_or(Error::UnknownRegime {
        settings: row.settings(),
        nearest: place.nearest,
        distance: place.distance,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::synth::{Flavour, Generator};

    #[test]
    fn centres_find_themselves_and_strangers_are_unknown() {
        let six = Regimes::six();
        for (i, &centre) in six.centres.iter().enumerate() {
            assert_eq!(six.place(centre).known(), Some(i));
        }
        let stranger = six.place([30.0, 0.5, 80.0]);
        assert_eq!(stranger.known(), None);
        assert!(stranger.distance > 1.0);
        assert_eq!(six.place([f64::NAN, 0.0, 100.0]).known(), None);
        assert_eq!(six.place([f64::INFINITY, 0.0, 100.0]).known(), None);
    }

    #[test]
    fn normalised_sensors_look_alike_in_every_regime() {
        let fleet = Generator::new(Flavour::Fd002).train(20, 1).unwrap();
        let features = FeatureSet::literature();
        let scaler = RegimeScaler::fit(Regimes::six(), features, Scaling::ZScore, &fleet).unwrap();
        let mut sums = vec![[0.0f64; 3]; 6 * 14];
        for row in fleet.rows() {
            let regime = Regimes::six().place(row.settings()).known().unwrap();
            let mut out = Vec::new();
            scaler.transform(row, &mut out).unwrap();
            for (k, x) in out.into_iter().enumerate() {
                let x = f64::from(x);
                let cell = &mut sums[regime * 14 + k];
                *cell = [cell[0] + 1.0, cell[1] + x, cell[2] + x * x];
            }
        }
        for [n, sum, squares] in sums {
            assert!((sum / n).abs() < 1e-4 && (squares / n - 1.0).abs() < 1e-4);
        }
    }

    #[test]
    fn unknown_and_unfitted_regimes_are_told_apart() {
        let fd001 = Generator::new(Flavour::Fd001).train(3, 1).unwrap();
        let scaler = RegimeScaler::fit(Regimes::six(), FeatureSet::served(), Scaling::MinMax, &fd001).unwrap();
        assert!(scaler.of_regime(0).is_some() && scaler.of_regime(3).is_none());
        let mut row = fd001.engines[0].rows[0];
        let mut out = Vec::new();
        scaler.transform(&row, &mut out).unwrap();
        assert_eq!(out.len(), 16);
        row.values[..3].copy_from_slice(&[42.0, 0.84, 100.0]);
        let error = scaler.transform(&row, &mut out).unwrap_err();
        assert!(matches!(error, Error::UnfittedRegime { regime: 5, rows: 0 }), "{error}");
        row.values[0] = 39.0;
        let error = scaler.transform(&row, &mut out).unwrap_err();
        assert!(matches!(error, Error::UnknownRegime { nearest: 5, .. }), "{error}");
    }

    #[test]
    fn bad_parameters_are_refused() {
        assert!(Regimes::new(vec![], [1.0; 3]).is_err());
        assert!(Regimes::new(vec![[0.0, f64::NAN, 0.0]], [1.0; 3]).is_err());
        assert!(Regimes::new(vec![[0.0; 3]], [1.0, 0.0, 1.0]).is_err());
    }
}
