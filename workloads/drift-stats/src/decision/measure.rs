//! One window against the reference: numbers, each with its sample size and its null.

use super::{Policy, Record, Reference, Window};
use crate::chi2::{Chi2Test, homogeneity};
use crate::error::StatError;
use crate::histogram::Histogram;
use crate::ks::{Method, ks_distance, ks_test};
use crate::multiple::benjamini_hochberg;
use crate::psi::psi_of_shares;
use std::collections::BTreeMap;

/// Records of one engine that count: neighbouring cycles say the same thing again.
pub(super) const PER_ENGINE: usize = 3;
/// Reference records of the same age that each counted record is compared with.
const MATCHES: usize = 5;

/// Outcome of [`measure`].
#[derive(Debug, Clone, PartialEq)]
pub enum Measurement {
    Stub,
    BaselineMismatch { baseline: String, serving: String },
    Compared(Box<Compared>),
}

/// What could be measured, and what could not.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    pub model_version: String,
    /// Records seen.
    pub records: usize,
    /// Engines seen (records without an engine are not counted).
    pub engines: usize,
    /// Records left after thinning.
    pub thinned: usize,
    pub regime: Option<RegimeShift>,
    pub sensors: Option<SensorShift>,
    pub prediction: Option<PredictionShift>,
    /// What was not measured, and what it lacks.
    pub missing: Vec<String>,
}

/// Shares of the operating regimes.
#[derive(Debug, Clone, PartialEq)]
pub struct RegimeShift {
    pub test: Chi2Test,
    /// Total variation between the shares, 0..=1.
    pub distance: f64,
    pub n: usize,
    /// Share of records in no known regime.
    pub unknown: f64,
}

/// One sensor against reference records of the same age.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureShift {
    pub name: String,
    pub d: f64,
    pub p: f64,
    /// Benjamini-Hochberg over all features.
    pub p_adjusted: f64,
}

/// All sensors.
#[derive(Debug, Clone, PartialEq)]
pub struct SensorShift {
    /// Largest distance first.
    pub features: Vec<FeatureShift>,
    pub n: usize,
    /// Quantiles of the largest distance on drift-free traffic of this shape.
    pub null_95: f64,
    pub null_99: f64,
}

/// Predictions against reference predictions of the same ages. Zero rule: add one half.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictionShift {
    pub psi: f64,
    pub bins: usize,
    pub n: usize,
    /// Quantiles of PSI on drift-free traffic of this shape.
    pub null_95: f64,
    pub null_99: f64,
}

/// One cause, judged by itself, without memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Over every threshold.
    pub over: bool,
    /// So far over that one window is enough.
    pub strong: bool,
    /// The numbers, in a sentence.
    pub reason: String,
}

impl RegimeShift {
    /// Judges the shares: far enough apart, and surely so.
    #[must_use]
    pub fn verdict(&self, policy: &Policy) -> Verdict {
        let over = self.distance >= policy.regime_distance && self.test.p <= policy.alpha;
        Verdict {
            over,
            strong: over && self.distance > policy.strong_distance,
            reason: format!(
                "regimes: {:.0} % of the traffic moved, {:.0} % in no known regime (n = {}, p = {:.2e})",
                self.distance * 100.0,
                self.unknown * 100.0,
                self.n,
                self.test.p
            ),
        }
    }
}

impl SensorShift {
    /// Judges the sensors: one that moved by enough, more than drift-free traffic strays, and surely so.
    #[must_use]
    pub fn verdict(&self, policy: &Policy) -> Verdict {
        let moved: Vec<&FeatureShift> = self
            .features
            .iter()
            .filter(|f| f.d >= policy.sensor_distance && f.d > self.null_99 && f.p_adjusted <= policy.alpha)
            .collect();
        let largest = self.features.first();
        let (name, d) = largest.map_or(("none", 0.0), |f| (f.name.as_str(), f.d));
        Verdict {
            over: !moved.is_empty(),
            strong: moved.iter().any(|f| f.d > policy.strong_distance),
            reason: format!(
                "sensors: {} of {} moved at equal age, most {name} by D = {d:.3} (n = {}, 99 % of drift-free traffic below {:.3})",
                moved.len(),
                self.features.len(),
                self.n,
                self.null_99
            ),
        }
    }
}

impl PredictionShift {
    /// PSI from which a window is bad: large, and clearly larger than on drift-free traffic.
    #[must_use]
    pub fn threshold(&self, policy: &Policy) -> f64 {
        policy.psi.max(policy.psi_margin * self.null_99)
    }

    /// Judges the PSI.
    #[must_use]
    pub fn verdict(&self, policy: &Policy) -> Verdict {
        Verdict {
            over: self.psi >= self.threshold(policy),
            // Predictions alone never page at once: only inputs do.
            strong: false,
            reason: format!(
                "predictions: PSI {:.3} at equal age in {} bins (n = {}, 99 % of drift-free traffic below {:.3})",
                self.psi, self.bins, self.n, self.null_99
            ),
        }
    }
}

/// Compares a window with the reference.
///
/// # Errors
/// A baseline that does not hold together ([`Reference::check`]), a prediction or feature that is not finite, or a record with a wrong number of features. Too little data is no error: see
/// [`Compared::missing`].
pub fn measure(reference: &Reference, window: &Window, policy: &Policy) -> Result<Measurement, StatError> {
    if window.is_stub {
        return Ok(Measurement::Stub);
    }
    if window.model_version != reference.model_version {
        return Ok(Measurement::BaselineMismatch {
            baseline: reference.model_version.clone(),
            serving: window.model_version.clone(),
        });
    }
    reference.check()?;
    check_records(&window.records, reference.features.len())?;
    let (thinned, engines) = thin(&window.records);
    let mut found = Compared {
        model_version: window.model_version.clone(),
        records: window.records.len(),
        engines,
        thinned: thinned.len(),
        regime: None,
        sensors: None,
        prediction: None,
        missing: Vec::new(),
    };
    if window.records.len() >= policy.min_regime_records {
        found.regime = Some(regime_shift(reference, &window.records)?);
    } else {
        found.missing.push(format!(
            "{} records are too few to compare regimes (at least {})",
            window.records.len(),
            policy.min_regime_records
        ));
    }
    let null = reference.null_for(engines);
    match null {
        Some(null) if window.records.len() >= policy.min_records && engines >= policy.min_engines => {
            found.sensors = sensor_shift(reference, &thinned, null, policy)?;
            if found.sensors.is_none() {
                found.missing.push(format!(
                    "fewer than {} engines in a regime that the model was trained on: sensors not compared",
                    policy.min_engines
                ));
            }
            found.prediction = prediction_psi(reference, &thinned, policy.min_expected)?.map(|(psi, bins)| {
                PredictionShift { psi, bins, n: thinned.len(), null_95: null.psi.q95, null_99: null.psi.q99 }
            });
            if found.prediction.is_none() {
                found.missing.push(format!(
                    "{} records after thinning do not fill two bins with {} each",
                    thinned.len(),
                    policy.min_expected
                ));
            }
        }
        _ => found.missing.push(format!(
            "{} records of {engines} engines are too few to judge sensors and predictions (at least {} of {}{})",
            window.records.len(),
            policy.min_records,
            policy.min_engines,
            if null.is_none() { ", and a null for that shape in the baseline" } else { "" }
        )),
    }
    Ok(Measurement::Compared(Box::new(found)))
}

/// [`measure`] for a sliding window, its records in order of arrival: the newest records are looked at once more by themselves, and
/// where their inputs moved so far that one window is enough, that is the measurement. In the whole window the older
/// records would dilute it, for up to half the window's length.
///
/// # Errors
/// As [`measure`].
pub fn look(reference: &Reference, window: &Window, policy: &Policy) -> Result<Measurement, StatError> {
    let mut measurement = measure(reference, window, policy)?;
    let Measurement::Compared(found) = &mut measurement else {
        return Ok(measurement);
    };
    let all = &window.records;
    let newest = &all[all.len().saturating_sub(policy.newest_records.max(policy.min_regime_records))..];
    if newest.len() < all.len() && newest.len() >= policy.min_regime_records {
        let shift = regime_shift(reference, newest)?;
        if shift.verdict(policy).strong {
            found.regime = Some(shift);
        }
    }
    let newest = &all[newest_with(all, policy.min_records, policy.min_engines)..];
    let (thinned, engines) = thin(newest);
    if newest.len() < all.len()
        && engines >= policy.min_engines
        && let Some(null) = reference.null_for(engines)
        && let Some(shift) = sensor_shift(reference, &thinned, null, policy)?
        && shift.verdict(policy).strong
    {
        found.sensors = Some(shift);
    }
    Ok(measurement)
}

/// Where the shortest newest part begins that has so many records and engines; 0 when there is none.
fn newest_with(records: &[Record], least: usize, engines: usize) -> usize {
    let mut seen = std::collections::BTreeSet::new();
    for (start, record) in records.iter().enumerate().rev() {
        seen.extend(record.engine);
        if records.len() - start >= least && seen.len() >= engines {
            return start;
        }
    }
    0
}

/// Refuses what cannot be compared, naming the record.
pub(super) fn check_records(records: &[Record], features: usize) -> Result<(), StatError> {
    for (index, record) in records.iter().enumerate() {
        if !record.features.is_empty() && record.features.len() != features {
            return Err(StatError::LengthMismatch {
                what: "features of a record and of the baseline",
                left: record.features.len(),
                right: features,
            });
        }
        for (what, value) in
            std::iter::once(("prediction", record.prediction)).chain(record.features.iter().map(|&v| ("feature", v)))
        {
            if !value.is_finite() {
                return Err(StatError::NotFinite { what, index, value });
            }
        }
    }
    Ok(())
}

/// At most [`PER_ENGINE`] records of each engine: its first, its last, and evenly between. Also the number of engines.
pub(super) fn thin(records: &[Record]) -> (Vec<&Record>, usize) {
    let mut by_engine: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
    for record in records {
        if let Some(engine) = record.engine {
            by_engine.entry(engine).or_default().push(record);
        }
    }
    let mut kept = Vec::with_capacity(by_engine.len() * PER_ENGINE);
    for records in by_engine.values_mut() {
        records.sort_by_key(|r| r.cycle);
        if records.len() <= PER_ENGINE {
            kept.extend(records.iter().copied());
        } else {
            let last = records.len() - 1;
            kept.extend((0..PER_ENGINE).map(|i| records[i * last / (PER_ENGINE - 1)]));
        }
    }
    (kept, by_engine.len())
}

fn regime_shift(reference: &Reference, records: &[Record]) -> Result<RegimeShift, StatError> {
    let unknown = reference.regimes.len().saturating_sub(1);
    let mut counts = vec![0u64; reference.regimes.len()];
    for record in records {
        counts[record.regime.unwrap_or(unknown).min(unknown)] += 1;
    }
    let test = homogeneity(&reference.regimes, &counts)?;
    let n = records.len() as f64;
    let all = reference.regimes.iter().map(|&c| c as f64).sum::<f64>();
    let distance =
        reference.regimes.iter().zip(&counts).map(|(&r, &c)| (r as f64 / all - c as f64 / n).abs()).sum::<f64>() / 2.0;
    Ok(RegimeShift { test, distance, n: records.len(), unknown: counts[unknown] as f64 / n })
}

/// Per feature: the current values, and reference values of the same ages. `None` without comparable records.
fn matched(reference: &Reference, thinned: &[&Record]) -> Option<Vec<(Vec<f64>, Vec<f64>)>> {
    let mut pairs = vec![(Vec::new(), Vec::new()); reference.features.len()];
    let mut turn = vec![0usize; reference.ages()];
    for record in thinned.iter().filter(|r| !r.features.is_empty()) {
        let (age, pool) = reference.pool(record.cycle)?;
        for (pair, &value) in pairs.iter_mut().zip(&record.features) {
            pair.0.push(value);
        }
        for _ in 0..MATCHES.min(pool.len()) {
            // Round robin, so that no reference record is favoured.
            let partner = &reference.records[pool[turn[age] % pool.len()]];
            turn[age] += 1;
            for (pair, &value) in pairs.iter_mut().zip(&partner.features) {
                pair.1.push(value);
            }
        }
    }
    pairs.first().is_some_and(|p| !p.0.is_empty() && !p.1.is_empty()).then_some(pairs)
}

/// The largest sensor distance: the statistic whose null the reference stores.
pub(super) fn largest_distance(reference: &Reference, thinned: &[&Record]) -> Result<f64, StatError> {
    let mut largest = 0.0f64;
    for (current, partners) in matched(reference, thinned).unwrap_or_default() {
        largest = largest.max(ks_distance(&partners, &current)?);
    }
    Ok(largest)
}

fn sensor_shift(
    reference: &Reference,
    thinned: &[&Record],
    null: &super::ShapeNull,
    policy: &Policy,
) -> Result<Option<SensorShift>, StatError> {
    let comparable: std::collections::BTreeSet<_> =
        thinned.iter().filter(|r| !r.features.is_empty()).filter_map(|r| r.engine).collect();
    if comparable.len() < policy.min_engines {
        return Ok(None);
    }
    let Some(pairs) = matched(reference, thinned) else {
        return Ok(None);
    };
    let n = pairs[0].0.len();
    let tests = pairs
        .iter()
        .map(|(current, partners)| ks_test(partners, current, Method::Auto))
        .collect::<Result<Vec<_>, _>>()?;
    let p: Vec<f64> = tests.iter().map(|t| t.p).collect();
    let adjusted = benjamini_hochberg(&p)?;
    let mut features: Vec<FeatureShift> = reference
        .features
        .iter()
        .zip(tests)
        .zip(adjusted)
        .map(|((name, test), p_adjusted)| FeatureShift { name: name.clone(), d: test.d, p: test.p, p_adjusted })
        .collect();
    features.sort_by(|a, b| b.d.total_cmp(&a.d));
    Ok(Some(SensorShift { features, n, null_95: null.sensor.q95, null_99: null.sensor.q99 }))
}

/// PSI of the predictions against what the reference predicts for engines of the same ages, and the number of bins. `None` when
/// not even two bins expect `min_expected` records.
pub(super) fn prediction_psi(
    reference: &Reference,
    thinned: &[&Record],
    min_expected: f64,
) -> Result<Option<(f64, usize)>, StatError> {
    if thinned.is_empty() {
        return Ok(None);
    }
    let n = thinned.len() as f64;
    let mut expected = vec![0.0; reference.bounds().len() + 1];
    for record in thinned {
        let Some(histogram) = reference.predictions_at(record.cycle) else {
            return Ok(None);
        };
        let total = histogram.total() as f64;
        for (e, &count) in expected.iter_mut().zip(histogram.counts()) {
            *e += count as f64 / total;
        }
    }
    let values: Vec<f64> = thinned.iter().map(|r| r.prediction).collect();
    let seen = Histogram::from_values(reference.bounds(), &values)?;
    let bins = merge_bins(&expected, seen.counts(), min_expected);
    if bins.len() < 2 {
        return Ok(None);
    }
    let half = bins.len() as f64 / 2.0;
    let share = |count: f64| (count + 0.5) / (n + half);
    let p: Vec<f64> = bins.iter().map(|b| share(b.0)).collect();
    let q: Vec<f64> = bins.iter().map(|b| share(b.1)).collect();
    Ok(Some((psi_of_shares(&p, &q), bins.len())))
}

/// Merges neighbouring bins until each expects at least `min_expected`: (expected, seen) per bin.
fn merge_bins(expected: &[f64], seen: &[u64], min_expected: f64) -> Vec<(f64, f64)> {
    let mut bins: Vec<(f64, f64)> = Vec::new();
    let mut open = (0.0, 0.0);
    for (&e, &s) in expected.iter().zip(seen) {
        open = (open.0 + e, open.1 + s as f64);
        if open.0 >= min_expected {
            bins.push(open);
            open = (0.0, 0.0);
        }
    }
    // What is left over at the top belongs to the last full bin.
    if let Some(last) = bins.last_mut() {
        *last = (last.0 + open.0, last.1 + open.1);
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_ends_and_middle() {
        let record = |engine, cycle| Record {
            engine,
            cycle: Some(cycle),
            regime: Some(0),
            features: vec![],
            prediction: f64::from(cycle),
        };
        let mut records: Vec<Record> = (0..60).rev().map(|c| record(Some(7), c)).collect();
        records.push(record(Some(3), 5));
        records.push(record(None, 5));
        let (kept, engines) = thin(&records);
        let cycles: Vec<f64> = kept.iter().map(|r| r.prediction).collect();
        assert_eq!((cycles, engines), (vec![5.0, 0.0, 29.0, 59.0], 2));
    }

    #[test]
    fn bins_are_merged_until_they_expect_enough() {
        let bins = merge_bins(&[4.0, 7.0, 12.0, 3.0, 2.0], &[1, 1, 1, 1, 1], 10.0);
        assert_eq!(bins, [(11.0, 2.0), (17.0, 3.0)]);
        assert!(merge_bins(&[4.0, 5.0], &[1, 1], 10.0).is_empty());
    }
}
