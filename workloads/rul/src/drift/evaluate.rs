//! One look: what was seen, compared with the baseline, judged with the memory of earlier looks. No I/O.

use std::collections::BTreeMap;

use drift_stats::decision::{
    Cause, Compared, Decision, Measurement, Memory, Policy, Record, State, Verdict, Window, decide, look,
};
use drift_stats::histogram::{Histogram, ks_interval};
use drift_stats::ks::Method;
use serde::Serialize;

use super::baseline::{Baseline, short};
use super::error::Error;
use super::seed::SeedReport;
use super::service::{Entry, Serving};

/// What a look has seen.
#[derive(Debug)]
pub struct Seen<'a> {
    /// `None`: neither a model nor a stub.
    pub serving: Option<Serving>,
    /// Within the window, oldest first, of all versions.
    pub entries: Vec<&'a Entry>,
    /// Why there are no entries, where the ring cannot be read.
    pub closed: Option<String>,
    /// Entries overwritten before they were read.
    pub missed: u64,
    /// Counts of the served version's predictions, and where they are from: all there is when the ring is closed.
    pub counted: Option<(Histogram, &'static str)>,
    /// Whether the ring is a part of what the service counted.
    pub crosscheck: Option<Crosscheck>,
    /// What the earlier system's rule says.
    pub seed: Option<SeedReport>,
    pub window_s: u64,
}

/// The ring against the service's own histogram.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Crosscheck {
    /// Predictions in the ring, of the served version and the service's present run.
    pub ring: u64,
    /// Predictions counted by the histogram since that version was loaded.
    pub counted: u64,
    pub agree: bool,
    pub detail: String,
}

impl Crosscheck {
    /// Every bucket of the ring must be within the same bucket of the histogram, which was read later and forgets nothing.
    pub fn of(ring: &[f64], counted: &Histogram) -> Self {
        let mut check = Self { ring: ring.len() as u64, counted: counted.total(), agree: true, detail: String::new() };
        let seen = match Histogram::from_values(counted.bounds(), ring) {
            Ok(seen) => seen,
            Err(_) if ring.is_empty() => {
                check.detail = "nothing to compare".to_owned();
                return check;
            }
            Err(e) => {
                check.agree = false;
                check.detail = e.to_string();
                return check;
            }
        };
        let wrong = seen.counts().iter().zip(counted.counts()).position(|(ring, counted)| ring > counted);
        check.agree = wrong.is_none();
        check.detail = match wrong {
            None => "every bucket of the ring is within the histogram's".to_owned(),
            Some(bucket) => format!(
                "bucket {bucket}: {} in the ring, {} counted: are there several pods behind one address? give each its own --service",
                seen.counts()[bucket],
                counted.counts()[bucket]
            ),
        };
        check
    }
}

/// The outcome, as `--json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    pub state: &'static str,
    /// Of `suspect` or `drift`.
    pub cause: Option<&'static str>,
    /// Raise an alert now.
    pub page: bool,
    pub sentence: String,
    pub model: ModelSides,
    pub window: WindowCounts,
    pub causes: Vec<CauseReport>,
    /// Every sensor, most moved first.
    pub sensors: Vec<SensorReport>,
    /// All ages together; for information, since a fleet's age mix moves it without any drift.
    pub overall: Option<Overall>,
    /// The earlier system's rule on the same window, for comparison.
    pub seed: Option<SeedReport>,
    pub crosscheck: Option<Crosscheck>,
    /// What could not be measured and why; what each measurement says.
    pub notes: Vec<String>,
}

/// Which models face each other.
#[derive(Debug, Clone, Serialize)]
pub struct ModelSides {
    pub name: Option<String>,
    pub serving_version: Option<String>,
    pub serving_sha256: Option<String>,
    pub is_stub: bool,
    pub baseline_version: Option<String>,
    pub baseline_sha256: String,
    pub baseline: String,
}

/// How much was seen.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WindowCounts {
    pub seconds: u64,
    /// Of the served version.
    pub records: usize,
    /// Of other versions, left out.
    pub other_versions: usize,
    /// With a row that is not this model's, or without a number; left out.
    pub unusable: usize,
    pub engines: usize,
    /// Records without an engine: they count for the regimes only.
    pub without_engine: usize,
    /// At most three per engine.
    pub compared: usize,
    /// Overwritten by the service before they were read.
    pub missed: u64,
    /// Records with a feature far outside its training range, 0..=1.
    pub outside_share: f64,
    /// The feature that is outside most often.
    pub outside_most: Option<String>,
}

/// One cause and everything that its verdict stands on.
#[derive(Debug, Clone, Serialize)]
pub struct CauseReport {
    pub cause: &'static str,
    pub statistic: &'static str,
    /// Absent where it could not be measured.
    pub value: Option<f64>,
    pub n: usize,
    /// The value must reach this to count.
    pub threshold: Option<f64>,
    /// Beyond this one window is enough.
    pub strong: Option<f64>,
    /// Quantiles on drift-free traffic of this shape.
    pub null_95: Option<f64>,
    pub null_99: Option<f64>,
    pub p: Option<f64>,
    pub bins: Option<usize>,
    pub over: bool,
    /// Windows in a row over the threshold, and whether it is in drift.
    pub windows: u32,
    pub active: bool,
}

/// One sensor at equal age.
#[derive(Debug, Clone, Serialize)]
pub struct SensorReport {
    pub name: String,
    pub d: f64,
    pub p: f64,
    pub p_adjusted: f64,
}

/// Predictions of all ages.
#[derive(Debug, Clone, Serialize)]
pub struct Overall {
    pub n: u64,
    pub d_low: f64,
    pub d_up: f64,
    pub p_low: f64,
    pub p_up: f64,
    pub baseline_median: Option<f64>,
    pub production_median: Option<f64>,
    pub source: &'static str,
}

/// Compares and judges. `now_s` is seconds since 1970.
///
/// # Errors
/// A baseline that does not hold together.
pub fn evaluate(
    baseline: &Baseline,
    seen: &Seen<'_>,
    policy: &Policy,
    memory: &Memory,
    now_s: u64,
) -> Result<(Evaluation, Memory), Error> {
    let mut counts = WindowCounts { seconds: seen.window_s, missed: seen.missed, ..WindowCounts::default() };
    let mut notes = Vec::new();
    if let Some(reason) = &seen.closed {
        notes.push(format!(
            "{reason}; without it neither engines nor ages are known, and predictions alone prove nothing"
        ));
    }
    if seen.missed > 0 {
        notes.push(format!(
            "{} predictions were overwritten before they were read: a larger RUL_RECENT holds more",
            seen.missed
        ));
    }
    let serving = seen.serving.as_ref();
    let records = serving.map_or_else(Vec::new, |s| records(baseline, s, &seen.entries, &mut counts));
    let mut baseline_key = baseline.reference.clone();
    let measurement = match serving {
        None => Measurement::Stub,
        Some(serving) => {
            let same = serving.sha256.as_deref() == Some(baseline.sha256.as_str());
            let key = format!("{} (sha256 {})", serving.version, serving.sha256.as_deref().map_or("unknown", short));
            baseline_key.model_version = if same {
                key.clone()
            } else {
                let version = baseline.version.as_deref().unwrap_or("unregistered");
                format!("{version} (sha256 {})", short(&baseline.sha256))
            };
            let window = Window { model_version: key, is_stub: serving.is_stub, records };
            look(&baseline_key, &window, policy)?
        }
    };
    let (decision, next) = decide(policy, &measurement, memory, now_s);
    let compared = match &measurement {
        Measurement::Compared(found) => Some(&**found),
        Measurement::Stub | Measurement::BaselineMismatch { .. } => None,
    };
    if let Some(found) = compared {
        (counts.engines, counts.compared) = (found.engines, found.thinned);
    }
    let causes = causes(compared, policy, &next);
    let overall = compared.and_then(|_| overall(baseline, serving, seen));
    notes.extend(decision.reasons.iter().cloned());
    if let Some(check) = seen.crosscheck.as_ref().filter(|c| !c.agree) {
        notes.push(format!("the ring is not what the service counted: {}", check.detail));
    }
    let sensors = compared.and_then(|f| f.sensors.as_ref()).map_or_else(Vec::new, |shift| {
        let report = |f: &drift_stats::decision::FeatureShift| SensorReport {
            name: f.name.clone(),
            d: f.d,
            p: f.p,
            p_adjusted: f.p_adjusted,
        };
        shift.features.iter().map(report).collect()
    });
    let evaluation = Evaluation {
        state: decision.state.name(),
        cause: decision.cause.map(Cause::name),
        page: decision.page,
        sentence: sentence(&decision, &causes, policy, serving),
        model: ModelSides {
            name: serving.map(|s| s.name.clone()),
            serving_version: serving.map(|s| s.version.clone()),
            serving_sha256: serving.and_then(|s| s.sha256.clone()),
            is_stub: serving.is_some_and(|s| s.is_stub),
            baseline_version: baseline.version.clone(),
            baseline_sha256: baseline.sha256.clone(),
            baseline: baseline.place.clone(),
        },
        window: counts,
        causes,
        sensors,
        overall,
        seed: seen.seed.clone(),
        crosscheck: seen.crosscheck.clone(),
        notes,
    };
    Ok((evaluation, next))
}

/// Records of the served version; what does not fit is counted and left out.
fn records(baseline: &Baseline, serving: &Serving, entries: &[&Entry], counts: &mut WindowCounts) -> Vec<Record> {
    let mut records = Vec::with_capacity(entries.len());
    let mut outside: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rows_outside = 0usize;
    for entry in entries {
        if entry.model_version != serving.version {
            counts.other_versions += 1;
            continue;
        }
        let engine = entry.engine.as_deref().and_then(|e| e.parse().ok());
        let Some(record) = entry
            .rul
            .filter(|rul| rul.is_finite())
            .and_then(|rul| baseline.recorder.record(&entry.row, engine, entry.cycle, rul).ok())
        else {
            counts.unusable += 1;
            continue;
        };
        let mut any = false;
        for name in baseline.recorder.outside(&entry.row) {
            *outside.entry(name).or_default() += 1;
            any = true;
        }
        rows_outside += usize::from(any);
        counts.without_engine += usize::from(engine.is_none());
        records.push(record);
    }
    counts.records = records.len();
    if !records.is_empty() {
        counts.outside_share = rows_outside as f64 / records.len() as f64;
    }
    counts.outside_most = outside.into_iter().max_by_key(|(_, n)| *n).map(|(name, _)| name.to_owned());
    records
}

fn causes(found: Option<&Compared>, policy: &Policy, memory: &Memory) -> Vec<CauseReport> {
    let judged = |verdict: Option<Verdict>| verdict.is_some_and(|v| v.over);
    Cause::ALL
        .into_iter()
        .zip(memory.causes)
        .map(|(cause, memory)| {
            let mut report = CauseReport {
                cause: cause.name(),
                statistic: match cause {
                    Cause::Regime => "share of the traffic that moved",
                    Cause::Sensors => "largest KS distance at equal age",
                    Cause::Prediction => "PSI at equal age",
                },
                value: None,
                n: 0,
                threshold: None,
                strong: None,
                null_95: None,
                null_99: None,
                p: None,
                bins: None,
                over: false,
                windows: memory.hits,
                active: memory.active,
            };
            let Some(found) = found else { return report };
            match cause {
                Cause::Regime => {
                    let Some(shift) = &found.regime else { return report };
                    report.value = Some(shift.distance);
                    report.n = shift.n;
                    report.threshold = Some(policy.regime_distance);
                    report.strong = Some(policy.strong_distance);
                    report.p = Some(shift.test.p);
                    report.over = judged(Some(shift.verdict(policy)));
                }
                Cause::Sensors => {
                    let Some(shift) = &found.sensors else { return report };
                    report.value = shift.features.first().map(|f| f.d);
                    report.n = shift.n;
                    report.threshold = Some(policy.sensor_distance.max(shift.null_99));
                    report.strong = Some(policy.strong_distance.max(shift.null_99));
                    (report.null_95, report.null_99) = (Some(shift.null_95), Some(shift.null_99));
                    report.p = shift.features.first().map(|f| f.p_adjusted);
                    report.over = judged(Some(shift.verdict(policy)));
                }
                Cause::Prediction => {
                    let Some(shift) = &found.prediction else { return report };
                    report.value = Some(shift.psi);
                    report.n = shift.n;
                    report.threshold = Some(shift.threshold(policy));
                    (report.null_95, report.null_99) = (Some(shift.null_95), Some(shift.null_99));
                    report.bins = Some(shift.bins);
                    report.over = judged(Some(shift.verdict(policy)));
                }
            }
            report
        })
        .collect()
}

/// Predictions of all ages: from the ring where there is one, else from the histogram, if it has the baseline's bounds.
fn overall(baseline: &Baseline, serving: Option<&Serving>, seen: &Seen<'_>) -> Option<Overall> {
    let version = &serving?.version;
    let mut values: Vec<f64> = seen
        .entries
        .iter()
        .filter(|e| e.model_version == *version)
        .filter_map(|e| e.rul)
        .filter(|rul| rul.is_finite())
        .collect();
    let (current, source, median) = if values.is_empty() {
        let (counted, source) = seen.counted.as_ref()?;
        (counted.clone(), *source, half(counted))
    } else {
        values.sort_by(f64::total_cmp);
        let median = values.get(values.len() / 2).copied();
        (Histogram::from_values(baseline.overall.bounds(), &values).ok()?, "ring", median)
    };
    let interval = ks_interval(&baseline.overall, &current, Method::Auto).ok()?;
    Some(Overall {
        n: current.total(),
        d_low: interval.d_low,
        d_up: interval.d_up,
        p_low: interval.p_low,
        p_up: interval.p_up,
        baseline_median: Some(baseline.median),
        production_median: median,
        source,
    })
}

/// Upper bound of the bucket in which half of the values is reached.
fn half(histogram: &Histogram) -> Option<f64> {
    let total = histogram.total();
    let bucket = histogram.cumulative().iter().position(|&c| total > 0 && 2 * c >= total)?;
    histogram.bounds().get(bucket).or(histogram.bounds().last()).copied()
}

fn sentence(decision: &Decision, causes: &[CauseReport], policy: &Policy, serving: Option<&Serving>) -> String {
    let number = |x: Option<f64>| x.map_or_else(|| "?".to_owned(), |x| format!("{x:.3}"));
    let of = |cause: Option<Cause>| causes.iter().find(|c| Some(c.cause) == cause.map(Cause::name));
    let moved = |cause: Option<Cause>| match (cause, of(cause)) {
        (Some(Cause::Regime), Some(c)) => {
            let share = c.value.map_or_else(|| "part".to_owned(), |v| format!("{:.0} %", v * 100.0));
            format!("{share} of the traffic flies in other operating regimes than the training engines did")
        }
        (Some(Cause::Sensors), Some(c)) => format!(
            "a sensor reads otherwise than on training engines of the same age (D = {}, threshold {})",
            number(c.value),
            number(c.threshold)
        ),
        (_, Some(c)) => format!(
            "predictions differ from those for training engines of the same age (PSI {}, threshold {})",
            number(c.value),
            number(c.threshold)
        ),
        _ => "something moved".to_owned(),
    };
    match decision.state {
        State::Ok => "No drift: inputs and predictions are what training engines of the same age give.".to_owned(),
        State::Suspect => format!(
            "Suspect: {}. If that stays so for {} windows in a row, it is drift.",
            moved(decision.cause),
            policy.windows_to_drift
        ),
        State::Drift if of(decision.cause).is_some_and(|c| c.over) => format!("Drift: {}.", moved(decision.cause)),
        State::Drift => {
            let cause = decision.cause.map_or("a cause", Cause::name);
            format!(
                "Drift ({cause}), not over the threshold now: it ends after {} clean windows.",
                policy.windows_to_clear
            )
        }
        State::InsufficientData if causes.iter().all(|c| c.value.is_none()) => {
            "Not enough traffic to judge anything.".to_owned()
        }
        State::InsufficientData => {
            "Not enough traffic to judge predictions; the inputs, as far as they were seen, are as in training."
                .to_owned()
        }
        State::BaselineMismatch => {
            "Not compared: the baseline belongs to another model than the one served.".to_owned()
        }
        State::Stub if serving.is_none() => "Not compared: the service has no model.".to_owned(),
        State::Stub => "Not compared: the service has no model and answers a constant.".to_owned(),
    }
}
