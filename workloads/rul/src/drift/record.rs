//! From a raw row, as it was sent to the service, to a record that the drift decision compares.
//!
//! Training (which makes the baseline) and watching go through the same [`Inputs::record`], so that both see the same
//! regimes and the same normalisation.

use cmapss::regimes::{RegimeScaler, Regimes};
use cmapss::scale::Scaling;
use cmapss::{Column, FeatureSet, Fleet, Row};
use drift_stats::decision::Record;
use serde::{Deserialize, Serialize};

/// Operating settings of a row.
const SETTINGS: usize = cmapss::data::SETTINGS;

/// `inputs` of `baseline.json`: what the training rows looked like, in the units of the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// In the model's order.
    pub features: Vec<FeatureRange>,
    /// How far from its centre a point may lie, per operating setting (altitude in 1000 ft, Mach number, throttle angle).
    pub radius: [f64; SETTINGS],
    /// All known regimes, also those that were never trained on.
    pub regimes: Vec<KnownRegime>,
}

/// One feature, and where its training values lay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureRange {
    pub name: String,
    pub low: f64,
    pub high: f64,
}

/// One operating regime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownRegime {
    pub centre: [f64; SETTINGS],
    /// Of the training rows, 0..=1.
    pub share: f64,
    /// `(x - offset) * factor` per feature; absent where the regime had too few training rows.
    pub scale: Option<Vec<Scale>>,
}

/// `(x - offset) * factor`: zero mean and unit spread within a regime.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    pub offset: f64,
    pub factor: f64,
}

/// Why rows cannot be made comparable.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    #[error(transparent)]
    Data(#[from] cmapss::Error),
    #[error("baseline inputs: {0}: make the baseline anew from the model's training data")]
    Damaged(String),
    #[error("a row of {got} numbers, the baseline has {expected} features: the service runs another model")]
    RowLength { got: usize, expected: usize },
}

impl Inputs {
    /// Describes training rows. The model's features decide which settings are known later, so the regimes are told by those only.
    ///
    /// # Errors
    /// No rows, a row in no known regime, or no regime with enough rows.
    pub fn fit(features: &FeatureSet, train: &Fleet) -> Result<Self, InputsError> {
        if train.row_count() == 0 {
            return Err(cmapss::Error::Empty("the training fleet").into());
        }
        let regimes = seen_through(&Regimes::six(), features)?;
        // The scaler places rows by all three settings: blank those that the model does not see.
        let mut blanked = train.clone();
        let hidden = hidden_settings(features);
        for row in blanked.engines.iter_mut().flat_map(|e| &mut e.rows) {
            hidden.iter().for_each(|&k| row.values[k] = 0.0);
        }
        let scaler = RegimeScaler::fit(regimes.clone(), features.clone(), Scaling::ZScore, &blanked)?;
        let counts = regimes.counts(blanked.rows());
        let all = train.row_count() as f64;
        let range = |column: &Column| {
            let values = train.rows().map(|r| r.get(*column));
            let (low, high) =
                values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
            FeatureRange { name: column.to_string(), low, high }
        };
        Ok(Self {
            features: features.columns().iter().map(range).collect(),
            radius: regimes.radius,
            regimes: regimes
                .centres
                .iter()
                .enumerate()
                .map(|(i, &centre)| KnownRegime {
                    centre,
                    share: short(counts.get(i).map_or(0.0, |&c| c as f64 / all)),
                    scale: scaler.of_regime(i).map(|s| {
                        s.iter().map(|a| Scale { offset: short(a.offset), factor: short(a.factor) }).collect()
                    }),
                })
                .collect(),
        })
    }

    /// What turns rows into records.
    ///
    /// # Errors
    /// [`InputsError::Damaged`] when the parts do not fit together: a stored baseline may have been edited.
    pub fn recorder(&self) -> Result<Recorder, InputsError> {
        let damaged = |reason: String| InputsError::Damaged(reason);
        let features = FeatureSet::by_names(self.features.iter().map(|f| f.name.as_str()))
            .map_err(|e| damaged(format!("features: {e}")))?;
        let centres = self.regimes.iter().map(|r| r.centre).collect();
        let regimes = Regimes::new(centres, self.radius).map_err(|e| damaged(e.to_string()))?;
        for (i, regime) in self.regimes.iter().enumerate() {
            let Some(scale) = &regime.scale else { continue };
            if scale.len() != features.len() || scale.iter().any(|s| !(s.offset.is_finite() && s.factor.is_finite())) {
                return Err(damaged(format!("regime {i} does not have one finite scale per feature")));
            }
        }
        if self.regimes.iter().all(|r| r.scale.is_none()) {
            return Err(damaged("no regime was trained on".to_owned()));
        }
        let compared = compared(&features);
        Ok(Recorder {
            hidden: hidden_settings(&features),
            names: compared.iter().map(|&k| self.features[k].name.clone()).collect(),
            compared,
            features,
            regimes,
            scales: self.regimes.iter().map(|r| r.scale.clone()).collect(),
            ranges: self.features.clone(),
        })
    }
}

/// Twelve significant digits: a number that every JSON reader gives back to the last bit.
fn short(x: f64) -> f64 {
    format!("{x:.11e}").parse().unwrap_or(x)
}

/// Three decimals, for the same reason and for a small file. Sensors are coarse (many equal readings), and a rank statistic
/// takes equal readings that differ in the last bit, one stored and one computed, for a shift.
fn coarse(z: f64) -> f64 {
    (z * 1e3).round() / 1e3
}

/// Regimes as they look when only the settings among `features` can be seen.
fn seen_through(regimes: &Regimes, features: &FeatureSet) -> Result<Regimes, cmapss::Error> {
    let hidden = hidden_settings(features);
    let mut centres: Vec<[f64; SETTINGS]> = Vec::new();
    for centre in &regimes.centres {
        let mut centre = *centre;
        hidden.iter().for_each(|&k| centre[k] = 0.0);
        // Two regimes that differ in nothing visible are one.
        if !centres.contains(&centre) {
            centres.push(centre);
        }
    }
    Regimes::new(centres, regimes.radius)
}

/// Settings (0..3) that the features leave out.
fn hidden_settings(features: &FeatureSet) -> Vec<usize> {
    (0..SETTINGS).filter(|&k| !features.columns().iter().any(|c| c.index() == k)).collect()
}

/// Places in a row of the features that are compared: the sensors. Settings are what regimes are made of.
fn compared(features: &FeatureSet) -> Vec<usize> {
    let sensors = features.columns().iter().enumerate().filter(|(_, c)| c.index() >= SETTINGS);
    sensors.map(|(k, _)| k).collect()
}

/// Makes records of rows. See [`Inputs::recorder`].
#[derive(Debug, Clone)]
pub struct Recorder {
    features: FeatureSet,
    hidden: Vec<usize>,
    compared: Vec<usize>,
    names: Vec<String>,
    regimes: Regimes,
    scales: Vec<Option<Vec<Scale>>>,
    ranges: Vec<FeatureRange>,
}

impl Recorder {
    /// Names of [`Record::features`], in their order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Number of known regimes.
    #[must_use]
    pub fn regimes(&self) -> usize {
        self.regimes.centres.len()
    }

    /// One served prediction: `row` is the window's last row, raw, in the model's order of features; `engine` any stable number.
    ///
    /// # Errors
    /// A row of another length. A number that is not finite puts the row into no known regime.
    pub fn record(
        &self,
        row: &[f64],
        engine: Option<u64>,
        cycle: Option<u32>,
        prediction: f64,
    ) -> Result<Record, InputsError> {
        if row.len() != self.features.len() {
            return Err(InputsError::RowLength { got: row.len(), expected: self.features.len() });
        }
        // The service takes numbers as single precision and tells them in the fewest digits, so 21.61 comes back as another double
        // than the one that the model got: by little, but a sensor that hardly moves is normalised by a large factor.
        let row: Vec<f64> = row.iter().map(|&value| f64::from(value as f32)).collect();
        let mut settings = [0.0; SETTINGS];
        for (column, &value) in self.features.columns().iter().zip(&row) {
            if let Some(setting) = settings.get_mut(column.index()) {
                *setting = value;
            }
        }
        let finite = row.iter().all(|v| v.is_finite());
        let regime = finite.then(|| self.regimes.place(settings).known()).flatten();
        let scale = regime.and_then(|r| self.scales.get(r)?.as_ref());
        let features = scale.map_or_else(Vec::new, |scale| {
            self.compared.iter().map(|&k| coarse((row[k] - scale[k].offset) * scale[k].factor)).collect()
        });
        Ok(Record { engine, cycle, regime, features, prediction })
    }

    /// The same from a row of a file.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn of_row(&self, row: &Row, engine: u64, prediction: f64) -> Result<Record, InputsError> {
        let raw: Vec<f64> = self.features.columns().iter().map(|&c| row.get(c)).collect();
        self.record(&raw, Some(engine), Some(row.cycle), prediction)
    }

    /// Features whose value lies outside what training saw, by more than a tenth of the range.
    pub fn outside<'a>(&'a self, row: &'a [f64]) -> impl Iterator<Item = &'a str> {
        self.ranges.iter().zip(row).filter_map(|(range, &value)| {
            // Some features never change, and the service takes numbers as single precision.
            let rounding = f64::from(f32::EPSILON) * range.low.abs().max(range.high.abs());
            let slack = 0.1 * (range.high - range.low) + rounding;
            let inside = value >= range.low - slack && value <= range.high + slack;
            (!inside).then_some(range.name.as_str())
        })
    }

    /// Settings that the model does not see, by number from 1; the regimes are told by the others.
    pub fn unseen_settings(&self) -> impl Iterator<Item = usize> + '_ {
        self.hidden.iter().map(|k| k + 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use cmapss::synth::{Flavour, Generator};

    fn fleet(flavour: Flavour) -> Fleet {
        Generator::new(flavour).train(12, 1).unwrap()
    }

    fn recorder(flavour: Flavour) -> Recorder {
        Inputs::fit(&FeatureSet::served(), &fleet(flavour)).unwrap().recorder().unwrap()
    }

    #[test]
    fn only_altitude_tells_the_six_regimes_apart() {
        let recorder = recorder(Flavour::Fd001);
        assert_eq!(recorder.unseen_settings().collect::<Vec<_>>(), [2, 3]);
        assert_eq!((recorder.regimes(), recorder.names().len()), (6, 15));
        let six = Regimes::six();
        for row in fleet(Flavour::Fd002).rows() {
            let record = recorder.of_row(row, 1, 50.0).unwrap();
            assert_eq!(record.regime, six.place(row.settings()).known());
            // Only the first regime was trained on: nothing else can be normalised.
            assert_eq!(record.features.is_empty(), record.regime != Some(0));
        }
    }

    #[test]
    fn sensors_are_normalised_within_their_regime() {
        let recorder = recorder(Flavour::Fd002);
        let fleet = fleet(Flavour::Fd002);
        let mut by_regime = vec![(0.0, 0.0); 6];
        for row in fleet.rows() {
            let record = recorder.of_row(row, 1, 50.0).unwrap();
            let cell = &mut by_regime[record.regime.unwrap()];
            cell.0 += 1.0;
            cell.1 += record.features[1];
        }
        for (n, sum) in by_regime {
            assert!(n > 30.0 && f64::abs(sum / n) < 1e-3, "{sum} of {n}");
        }
    }

    #[test]
    fn a_row_told_by_the_service_is_the_row_of_the_baseline() {
        let (recorder, features) = (recorder(Flavour::Fd001), FeatureSet::served());
        for row in fleet(Flavour::Fd001).rows() {
            let sent: Vec<f32> = features.columns().iter().map(|&c| row.get(c) as f32).collect();
            let widened: Vec<f64> = sent.iter().map(|&v| f64::from(v)).collect();
            let told: Vec<f64> = serde_json::from_str(&serde_json::to_string(&sent).unwrap()).unwrap();
            let trained = recorder.of_row(row, 1, 50.0).unwrap();
            for raw in [widened, told] {
                assert_eq!(recorder.record(&raw, Some(1), Some(row.cycle), 50.0).unwrap(), trained);
            }
        }
    }

    #[test]
    fn strange_rows_are_unknown_not_wrong() {
        let recorder = recorder(Flavour::Fd001);
        let row = fleet(Flavour::Fd001).engines[0].rows[40];
        let mut raw: Vec<f64> = FeatureSet::served().columns().iter().map(|&c| row.get(c)).collect();
        assert_eq!(recorder.record(&raw, None, None, 1.0).unwrap().regime, Some(0));
        assert_eq!(recorder.outside(&raw).count(), 0);
        raw[1] *= 2.0;
        assert_eq!(recorder.outside(&raw).collect::<Vec<_>>(), ["sensor_02"]);
        raw[0] = 5.0;
        assert_eq!(recorder.record(&raw, None, None, 1.0).unwrap().regime, None);
        raw[1] = f64::NAN;
        raw[0] = 0.0;
        assert_eq!(recorder.record(&raw, None, None, 1.0).unwrap().regime, None);
        assert!(matches!(
            recorder.record(&raw[1..], None, None, 1.0),
            Err(InputsError::RowLength { got: 15, expected: 16 })
        ));
    }

    #[test]
    fn a_stored_description_comes_back_and_a_damaged_one_is_refused() {
        let inputs = Inputs::fit(&FeatureSet::served(), &fleet(Flavour::Fd001)).unwrap();
        let text = serde_json::to_string(&inputs).unwrap();
        let again = serde_json::from_str::<Inputs>(&text).unwrap();
        assert_eq!(again, inputs);
        let (before, after) = (inputs.recorder().unwrap(), again.recorder().unwrap());
        for row in fleet(Flavour::Fd001).rows() {
            let record = before.of_row(row, 1, 50.0).unwrap();
            assert_eq!(record, after.of_row(row, 1, 50.0).unwrap());
            // Readings stay equal also when they are stored.
            let stored: Vec<f64> = serde_json::from_str(&serde_json::to_string(&record.features).unwrap()).unwrap();
            assert_eq!(stored, record.features);
        }
        let damage: [fn(&mut Inputs); 5] = [
            |i| i.features[0].name = "sensor_99".to_owned(),
            |i| i.radius[0] = 0.0,
            |i| i.regimes.clear(),
            |i| i.regimes[0].scale = Some(Vec::new()),
            |i| i.regimes[0].scale = None,
        ];
        for damage in damage {
            let mut broken = inputs.clone();
            damage(&mut broken);
            let error = broken.recorder().unwrap_err();
            assert!(error.to_string().contains("make the baseline anew"), "{error}");
        }
        assert!(Inputs::fit(&FeatureSet::served(), &Fleet::default()).is_err());
    }
}
