//! From what a service saw to one of six states.
//!
//! Inputs come first, predictions second: the age mix of a fleet *is* its prediction distribution, so predictions shift every
//! hour without any drift. Three things keep that from alarming: at most three records per engine count (neighbouring
//! cycles are no independent news); every comparison is made against reference records of the *same age*; and the
//! threshold is the 99 % quantile of the same statistic on drift-free traffic of the same shape, not a constant alone.
//!
//! [`Reference::fit`] makes the baseline, [`measure`] (or [`look`], for a sliding window) compares a window with it, [`decide`]
//! adds memory. All pure.

mod measure;
mod reference;

pub use measure::{
    Compared, FeatureShift, Measurement, PredictionShift, RegimeShift, SensorShift, Verdict, look, measure,
};
pub use reference::{Fit, Null, Reference, ShapeNull};

/// One served prediction, as the service's ring of recent requests keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Which engine; `None` where the client did not say. Such records count for the regimes only.
    pub engine: Option<u64>,
    /// Cycle of the window's last row.
    pub cycle: Option<u32>,
    /// Operating regime of the window's last row; `None` = unknown.
    pub regime: Option<usize>,
    /// The window's last row, normalised within its regime, in the order of [`Reference::features`]; empty when the regime is unknown
    /// or was never trained on.
    pub features: Vec<f64>,
    /// Predicted remaining life, cycles.
    pub prediction: f64,
}

/// What a service saw since the last evaluation, or in a sliding window.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    pub model_version: String,
    /// The service answers with a constant because it has no model.
    pub is_stub: bool,
    pub records: Vec<Record>,
}

/// Thresholds and sample floors.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Fewest records for the regime test.
    pub min_regime_records: usize,
    /// Newest records that [`look`] tests for another regime by themselves.
    pub newest_records: usize,
    /// Fewest records, before thinning, for sensors and predictions.
    pub min_records: usize,
    /// Fewest engines for sensors and predictions.
    pub min_engines: usize,
    /// Fewest expected records per PSI bin; neighbouring bins are merged until they have them.
    pub min_expected: f64,
    /// PSI below this is never drift, whatever the null says.
    pub psi: f64,
    /// PSI must be so many times its null's 99 % quantile. The null comes from the engines that the model has learnt; on others its
    /// predictions stray farther.
    pub psi_margin: f64,
    /// Total variation of regime shares below this is never drift.
    pub regime_distance: f64,
    /// KS distance of a sensor below this is never drift.
    pub sensor_distance: f64,
    /// Level of the regime test and of the sensor tests (Benjamini-Hochberg).
    pub alpha: f64,
    /// Input distance above which one window is enough.
    pub strong_distance: f64,
    /// Seconds between two looks that count as two windows. Looks in between overlap (a sliding window) and prove nothing
    /// twice; but a clean one among them still ends a row of bad ones. 0: every look is a window of its own.
    pub spacing_s: u64,
    /// Windows in a row that turn `suspect` into `drift`.
    pub windows_to_drift: u32,
    /// Clean windows in a row that end `drift`.
    pub windows_to_clear: u32,
    /// Seconds between two pages for the same model version and cause.
    pub cool_down_s: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min_regime_records: 30,
            newest_records: 60,
            min_records: 300,
            min_engines: 20,
            min_expected: 10.0,
            psi: 0.2,
            psi_margin: 1.5,
            regime_distance: 0.1,
            sensor_distance: 0.2,
            alpha: 0.01,
            strong_distance: 0.5,
            spacing_s: 0,
            windows_to_drift: 2,
            windows_to_clear: 2,
            cool_down_s: 3600,
        }
    }
}

/// What moved. The order is the order of blame: a regime shift moves sensors, and sensors move predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Regime,
    Sensors,
    Prediction,
}

impl Cause {
    /// All causes, most fundamental first.
    pub const ALL: [Self; 3] = [Self::Regime, Self::Sensors, Self::Prediction];

    /// `regime`, `sensors`, `prediction`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Regime => "regime",
            Self::Sensors => "sensors",
            Self::Prediction => "prediction",
        }
    }
}

/// The six answers. Only [`State::Drift`] may page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Too little traffic to say anything about predictions, and nothing wrong with the inputs as far as they were seen.
    InsufficientData,
    /// The service runs another model version than the one the baseline was made from.
    BaselineMismatch,
    /// The service has no model and answers a constant.
    Stub,
    Ok,
    /// Over the thresholds, but not for long enough yet.
    Suspect,
    Drift,
}

impl State {
    /// `insufficient_data`, `baseline_mismatch`, `stub`, `ok`, `suspect`, `drift`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InsufficientData => "insufficient_data",
            Self::BaselineMismatch => "baseline_mismatch",
            Self::Stub => "stub",
            Self::Ok => "ok",
            Self::Suspect => "suspect",
            Self::Drift => "drift",
        }
    }
}

/// What is remembered about one cause between evaluations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CauseMemory {
    /// Windows in a row over the threshold.
    pub hits: u32,
    /// Windows in a row under it.
    pub clean: u32,
    /// When the last of these was counted (seconds on the caller's clock).
    pub counted_at: Option<u64>,
    /// Whether this cause is in drift.
    pub active: bool,
    /// When it paged last (seconds on the caller's clock).
    pub paged_at: Option<u64>,
}

impl CauseMemory {
    /// One more look. Only the first of a row and those `spacing_s` after the last counted one count.
    fn count(&mut self, over: bool, spacing_s: u64, now_s: u64) {
        let (row, other) = if over { (&mut self.hits, &mut self.clean) } else { (&mut self.clean, &mut self.hits) };
        *other = 0;
        if *row == 0 || self.counted_at.is_none_or(|at| now_s.saturating_sub(at) >= spacing_s) {
            *row = row.saturating_add(1);
            self.counted_at = Some(now_s);
        }
    }
}

/// What is remembered between evaluations: plain data, to be stored by the caller. Start with the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// The version that the rest is about; a new version starts afresh.
    pub model_version: String,
    /// In the order of [`Cause::ALL`].
    pub causes: [CauseMemory; 3],
}

/// The outcome of one evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub state: State,
    /// The most fundamental cause of `suspect` or `drift`.
    pub cause: Option<Cause>,
    /// Whether to send an alert now: drift, and none sent for this version and cause within the cool-down.
    pub page: bool,
    /// Why, in words and numbers.
    pub reasons: Vec<String>,
}

/// Turns a measurement into a decision. `now_s` is any clock in seconds that does not run backwards between calls.
///
/// A cause that could not be measured keeps its memory: silence is neither a hit nor clean.
#[must_use]
pub fn decide(policy: &Policy, measurement: &Measurement, memory: &Memory, now_s: u64) -> (Decision, Memory) {
    let plain = |state, reason: String| Decision { state, cause: None, page: false, reasons: vec![reason] };
    let found = match measurement {
        Measurement::Stub => {
            let reason = "the service has no model and answers a constant".to_owned();
            return (plain(State::Stub, reason), memory.clone());
        }
        Measurement::BaselineMismatch { baseline, serving } => {
            let reason = format!(
                "the baseline belongs to model version {baseline}, the service runs {serving}: refresh the baseline"
            );
            return (plain(State::BaselineMismatch, reason), memory.clone());
        }
        Measurement::Compared(found) => found,
    };
    let mut next = if memory.model_version == found.model_version {
        memory.clone()
    } else {
        Memory { model_version: found.model_version.clone(), ..Memory::default() }
    };
    let verdicts = [
        found.regime.as_ref().map(|r| r.verdict(policy)),
        found.sensors.as_ref().map(|s| s.verdict(policy)),
        found.prediction.as_ref().map(|p| p.verdict(policy)),
    ];
    let mut reasons = found.missing.clone();
    let mut pages = false;
    for (memory, verdict) in next.causes.iter_mut().zip(verdicts) {
        let Some(verdict) = verdict else { continue };
        reasons.push(verdict.reason);
        memory.count(verdict.over, policy.spacing_s, now_s);
        if verdict.over {
            memory.active |= verdict.strong || memory.hits >= policy.windows_to_drift;
        } else {
            memory.active &= memory.clean < policy.windows_to_clear;
        }
        let rested = memory.paged_at.is_none_or(|at| now_s.saturating_sub(at) >= policy.cool_down_s);
        // A cause on its way out keeps the state but sends nothing new.
        if memory.active && verdict.over && rested {
            memory.paged_at = Some(now_s);
            pages = true;
        }
    }
    let first = |keep: fn(&CauseMemory) -> bool| {
        let index = next.causes.iter().position(keep)?;
        Cause::ALL.get(index).copied()
    };
    let (state, cause) = if let Some(cause) = first(|c| c.active) {
        (State::Drift, Some(cause))
    } else if let Some(cause) = first(|c| c.hits > 0) {
        (State::Suspect, Some(cause))
    } else if found.prediction.is_none() {
        (State::InsufficientData, None)
    } else {
        (State::Ok, None)
    };
    let decision = Decision { state, cause, page: pages, reasons };
    (decision, next)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chi2::homogeneity;

    /// A measurement whose only news is the PSI (null 99 % at 0.5) and the distance of regime shares.
    fn found(psi: Option<f64>, moved: f64) -> Measurement {
        let current = [(1000.0 * (1.0 - moved)) as u64, (1000.0 * moved) as u64];
        Measurement::Compared(Box::new(Compared {
            model_version: "3".to_owned(),
            records: 1000,
            engines: 100,
            thinned: 300,
            regime: Some(RegimeShift {
                test: homogeneity(&[1000, 0], &current).unwrap(),
                distance: moved,
                n: 1000,
                unknown: 0.0,
            }),
            sensors: None,
            prediction: psi.map(|psi| PredictionShift { psi, bins: 10, n: 300, null_95: 0.4, null_99: 0.5 }),
            missing: Vec::new(),
        }))
    }

    /// Feeds measurements one minute apart; gives state and page of each.
    fn run(measurements: &[Measurement]) -> Vec<(State, bool)> {
        let mut memory = Memory::default();
        let mut out = Vec::new();
        for (measurement, minute) in measurements.iter().zip(0..) {
            let (decision, next) = decide(&Policy::default(), measurement, &memory, minute * 60);
            memory = next;
            out.push((decision.state, decision.page));
        }
        out
    }

    #[test]
    fn a_constant_threshold_is_not_enough() {
        // 0.45 is over 0.2, but drift-free traffic gets there too.
        assert_eq!(run(&[found(Some(0.45), 0.0), found(Some(0.45), 0.0)]), [(State::Ok, false); 2]);
    }

    #[test]
    fn one_bad_window_is_suspect_two_in_a_row_are_drift() {
        let (bad, good) = (found(Some(0.9), 0.0), found(Some(0.1), 0.0));
        let suspect = (State::Suspect, false);
        assert_eq!(
            run(&[bad.clone(), good.clone(), bad.clone(), bad.clone(), bad]),
            [suspect, (State::Ok, false), suspect, (State::Drift, true), (State::Drift, false)]
        );
        assert_eq!(run(&[good]), [(State::Ok, false)]);
    }

    #[test]
    fn drift_ends_after_two_clean_windows_and_pages_again_after_the_cool_down() {
        let (bad, good) = (found(Some(0.1), 0.9), found(Some(0.1), 0.0));
        let mut hour = vec![bad.clone()];
        hour.extend(std::iter::repeat_n(good.clone(), 3));
        hour.extend(std::iter::repeat_n(bad, 58));
        let out = run(&hour);
        assert_eq!(out[..4], [(State::Drift, true), (State::Drift, false), (State::Ok, false), (State::Ok, false),]);
        let pages: Vec<usize> = (0..out.len()).filter(|&i| out[i].1).collect();
        assert_eq!(pages, [0, 60], "one page an hour");
    }

    #[test]
    fn clean_windows_count_only_in_a_row() {
        let (bad, good) = (found(Some(0.1), 0.9), found(Some(0.1), 0.0));
        let out = run(&[bad.clone(), good.clone(), bad, good]);
        assert!(out.iter().all(|o| o.0 == State::Drift), "{out:?}");
    }

    #[test]
    fn looks_at_an_overlapping_window_count_once() {
        let (bad, good) = (found(Some(0.9), 0.0), found(Some(0.1), 0.0));
        let policy = Policy { spacing_s: 1800, ..Policy::default() };
        let states = |looks: &[(u64, &Measurement)]| {
            let mut memory = Memory::default();
            let mut out = Vec::new();
            for (now, look) in looks {
                let (decision, next) = decide(&policy, look, &memory, *now);
                memory = next;
                out.push(decision.state);
            }
            out
        };
        use State::{Drift, Ok, Suspect};
        assert_eq!(states(&[(0, &bad), (15, &bad), (1799, &bad), (1800, &bad)]), [Suspect, Suspect, Suspect, Drift]);
        // One clean look in between, and the row begins anew.
        assert_eq!(
            states(&[(0, &bad), (900, &good), (1800, &bad), (3599, &bad), (3600, &bad)])[1..],
            [Ok, Suspect, Suspect, Drift]
        );
        // What is strong does not wait, and what ends waits as long as what begins.
        let strong = found(Some(0.1), 0.9);
        assert_eq!(states(&[(0, &strong), (15, &good), (30, &good), (1815, &good)]), [Drift, Drift, Drift, Ok]);
    }

    #[test]
    fn small_input_shifts_wait_large_ones_do_not() {
        let states = run(&[found(Some(0.1), 0.3), found(Some(0.1), 0.3)]);
        assert_eq!(states, [(State::Suspect, false), (State::Drift, true)]);
        assert_eq!(run(&[found(None, 0.6)]), [(State::Drift, true)]);
        assert_eq!(run(&[found(None, 0.0)]), [(State::InsufficientData, false)]);
    }

    #[test]
    fn silence_changes_nothing_and_a_new_version_forgets() {
        let bad = found(Some(0.9), 0.0);
        let states = run(&[bad.clone(), found(None, 0.0), Measurement::Stub, bad.clone()]);
        assert_eq!(states[1].0, State::Suspect);
        assert_eq!(states[3], (State::Drift, true));
        let (_, memory) = decide(&Policy::default(), &bad, &Memory::default(), 0);
        let old = Memory { model_version: "2".to_owned(), ..memory };
        let (decision, memory) = decide(&Policy::default(), &bad, &old, 60);
        assert_eq!(decision.state, State::Suspect);
        assert_eq!((memory.model_version.as_str(), memory.causes[2].hits), ("3", 1));
    }

    #[test]
    fn the_most_fundamental_cause_is_named() {
        let both = found(Some(0.9), 0.9);
        let (decision, _) = decide(&Policy::default(), &both, &Memory::default(), 0);
        assert_eq!(decision.cause, Some(Cause::Regime));
        assert!(decision.reasons[0].starts_with("regimes: 90 % of the traffic moved"), "{decision:?}");
        assert_eq!((Cause::Regime.name(), decision.state.name()), ("regime", "drift"));
    }
}
