//! The reference of the drift decision as it is stored: columns instead of records, short numbers.

use drift_stats::StatError;
use drift_stats::decision::{Null, Record, Reference, ShapeNull};
use drift_stats::histogram::Histogram;
use serde::{Deserialize, Serialize};

use super::baseline::round;

/// `reference` of `baseline.json`: [`Reference`] without its version and bounds, which stand elsewhere in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredReference {
    /// Names of the features of every record, in order.
    pub features: Vec<String>,
    /// Training rows per regime, and last those in none.
    pub regimes: Vec<u64>,
    /// Cycles per age group.
    pub age_width: u32,
    /// Predictions per age group and bucket; buckets as in `histogram`.
    pub predictions: Vec<Vec<u64>>,
    pub records: StoredRecords,
    /// Per age group: which records belong to it.
    pub by_age: Vec<Vec<usize>>,
    /// By ascending number of engines.
    pub nulls: Vec<StoredNull>,
}

/// Training records to compare sensors with, one list per column.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StoredRecords {
    pub engine: Vec<Option<u64>>,
    /// Of the window's last row.
    pub cycle: Vec<Option<u32>>,
    pub regime: Vec<Option<usize>>,
    /// Cycles.
    pub prediction: Vec<f64>,
    /// Per record: normalised within its regime.
    pub features: Vec<Vec<f64>>,
}

/// How far traffic without drift strays, for `engines` engines with `cycles` consecutive records each. `null`: it was too little traffic to
/// measure, nothing may be judged by it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredNull {
    pub engines: usize,
    pub cycles: usize,
    pub psi_q95: Option<f64>,
    pub psi_q99: Option<f64>,
    pub sensor_q95: Option<f64>,
    pub sensor_q99: Option<f64>,
}

impl From<&Reference> for StoredReference {
    fn from(reference: &Reference) -> Self {
        let mut records = StoredRecords::default();
        for record in &reference.records {
            records.engine.push(record.engine);
            records.cycle.push(record.cycle);
            records.regime.push(record.regime);
            records.prediction.push(round(record.prediction, 2));
            // As coarse as `Inputs` makes them; rounded again they stay what they are.
            records.features.push(record.features.clone());
        }
        let finite = |x: f64| x.is_finite().then(|| round(x, 5));
        Self {
            features: reference.features.clone(),
            regimes: reference.regimes.clone(),
            age_width: reference.age_width,
            predictions: reference.predictions.iter().map(|h| h.counts().to_vec()).collect(),
            records,
            by_age: reference.by_age.clone(),
            nulls: reference
                .nulls
                .iter()
                .map(|null| StoredNull {
                    engines: null.engines,
                    cycles: null.cycles,
                    psi_q95: finite(null.psi.q95),
                    psi_q99: finite(null.psi.q99),
                    sensor_q95: finite(null.sensor.q95),
                    sensor_q99: finite(null.sensor.q99),
                })
                .collect(),
        }
    }
}

impl StoredReference {
    /// What the decision works with. `bounds` are the buckets of the file's `histogram`.
    ///
    /// # Errors
    /// Columns of different lengths, counts that do not fit the bounds. [`Reference::check`] finds the rest.
    pub fn reference(&self, model_version: &str, bounds: &[f64]) -> Result<Reference, StatError> {
        let columns = &self.records;
        let n = columns.engine.len();
        for length in [columns.cycle.len(), columns.regime.len(), columns.prediction.len(), columns.features.len()] {
            if length != n {
                return Err(StatError::LengthMismatch {
                    what: "columns of the stored records",
                    left: n,
                    right: length,
                });
            }
        }
        let records = (0..n)
            .map(|i| Record {
                engine: columns.engine[i],
                cycle: columns.cycle[i],
                regime: columns.regime[i],
                features: columns.features[i].clone(),
                prediction: columns.prediction[i],
            })
            .collect();
        let predictions =
            self.predictions.iter().map(|counts| Histogram::from_counts(bounds, counts)).collect::<Result<_, _>>()?;
        let number = |x: Option<f64>| x.unwrap_or(f64::INFINITY);
        Ok(Reference {
            model_version: model_version.to_owned(),
            features: self.features.clone(),
            regimes: self.regimes.clone(),
            age_width: self.age_width,
            predictions,
            records,
            by_age: self.by_age.clone(),
            nulls: self
                .nulls
                .iter()
                .map(|null| ShapeNull {
                    engines: null.engines,
                    cycles: null.cycles,
                    psi: Null { q95: number(null.psi_q95), q99: number(null.psi_q99) },
                    sensor: Null { q95: number(null.sensor_q95), q99: number(null.sensor_q99) },
                })
                .collect(),
        })
    }
}
