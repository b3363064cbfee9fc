//! What is known of every firing, on disk before anything is answered: a restart forgets nothing.
//!
//! Only a run that succeeded starts a cool-down. A firing that comes while another run is under way, or within a cool-down, waits.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::alert::Firing;

/// Seconds since 1970.
pub type Unix = u64;

/// Longest pause between two attempts.
const LONGEST_PAUSE: u64 = 3600;
/// Finished firings that are remembered, so that a late repetition is not taken for a new one.
const REMEMBERED: usize = 200;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Progress {
    /// Waits for its (next) attempt.
    Waiting {
        not_before: Unix,
        why: String,
    },
    Running {
        run: String,
        since: Unix,
    },
    /// A run answered it.
    Done {
        run: String,
        at: Unix,
    },
    /// All attempts failed; a new firing starts over.
    Failed {
        reason: String,
        at: Unix,
    },
    /// It stopped firing before a run began.
    Resolved {
        at: Unix,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    pub firing: Firing,
    pub received: Unix,
    /// Attempts that ended badly.
    pub failures: u32,
    pub progress: Progress,
}

/// Times and limits.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Seconds after a successful run in which the same cause starts no other.
    pub cool_down: u64,
    /// Seconds before the second attempt; doubled each time.
    pub pause: u64,
    pub attempts: u32,
}

/// All incidents, by the key of their firing.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State {
    pub incidents: BTreeMap<String, Incident>,
    /// End of the last successful run per model and cause.
    #[serde(default)]
    pub succeeded: BTreeMap<String, Unix>,
}

/// What a firing came to, for the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noted {
    New,
    /// This firing is known already; with the run that answers or answered it.
    Known(Option<String>),
}

fn cause_key(firing: &Firing) -> String {
    format!("{}/{}", firing.model, firing.cause)
}

impl State {
    /// Notes a firing down.
    pub fn note(&mut self, firing: Firing, now: Unix, policy: &Policy) -> Noted {
        match self.incidents.get(&firing.key).map(|incident| &incident.progress) {
            // It fires again, or goes on firing after every attempt failed.
            None | Some(Progress::Failed { .. } | Progress::Resolved { .. }) => {}
            Some(Progress::Running { run, .. } | Progress::Done { run, .. }) => return Noted::Known(Some(run.clone())),
            Some(Progress::Waiting { .. }) => return Noted::Known(None),
        }
        let cool_until = self.succeeded.get(&cause_key(&firing)).map_or(0, |at| at + policy.cool_down);
        let why = if cool_until > now { "the last run for this cause has just succeeded" } else { "it is new" };
        let progress = Progress::Waiting { not_before: now.max(cool_until), why: why.to_owned() };
        self.incidents.insert(firing.key.clone(), Incident { firing, received: now, failures: 0, progress });
        self.forget();
        Noted::New
    }

    /// The alert stopped: what has not begun need not begin.
    pub fn resolved(&mut self, firing: &Firing, now: Unix) {
        if let Some(incident) = self.incidents.get_mut(&firing.key)
            && matches!(incident.progress, Progress::Waiting { .. })
        {
            incident.progress = Progress::Resolved { at: now };
        }
    }

    /// The firing to answer next: the oldest that is due, of a model without a run.
    pub fn due(&self, now: Unix) -> Option<Firing> {
        let busy = |model: &str| {
            self.incidents
                .values()
                .any(|other| other.firing.model == model && matches!(other.progress, Progress::Running { .. }))
        };
        let due = |incident: &&Incident| {
            matches!(incident.progress, Progress::Waiting { not_before, .. } if not_before <= now)
                && !busy(&incident.firing.model)
        };
        let mut due: Vec<_> = self.incidents.values().filter(due).collect();
        due.sort_by_key(|incident| (incident.received, incident.firing.key.clone()));
        due.first().map(|incident| incident.firing.clone())
    }

    /// Why a firing has no run yet.
    pub fn waiting(&self, key: &str, now: Unix) -> Option<String> {
        let incident = self.incidents.get(key)?;
        let Progress::Waiting { not_before, why } = &incident.progress else { return None };
        if *not_before > now {
            return Some(format!("{why}; next attempt in {} s", not_before - now));
        }
        let other = self.running().find(|other| other.firing.model == incident.firing.model)?;
        Some(format!("workflow_already_running: {}", other.firing.key))
    }

    pub fn running(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.values().filter(|incident| matches!(incident.progress, Progress::Running { .. }))
    }

    pub fn count(&self, of: impl Fn(&Progress) -> bool) -> usize {
        self.incidents.values().filter(|incident| of(&incident.progress)).count()
    }

    pub fn failures(&self, key: &str) -> u32 {
        self.incidents.get(key).map_or(0, |incident| incident.failures)
    }

    pub fn started(&mut self, key: &str, run: String, now: Unix) {
        self.set(key, Progress::Running { run, since: now });
    }

    /// The run succeeded. What waited for the same model and cause was fired by the same drift: it waits out the cool-down, and
    /// begins only if it still fires then.
    pub fn succeeded(&mut self, key: &str, run: String, now: Unix, policy: &Policy) {
        self.set(key, Progress::Done { run, at: now });
        let Some(cause) = self.incidents.get(key).map(|incident| cause_key(&incident.firing)) else { return };
        for incident in self.incidents.values_mut() {
            if cause_key(&incident.firing) == cause && matches!(incident.progress, Progress::Waiting { .. }) {
                let why = "the last run for this cause has just succeeded".to_owned();
                incident.progress = Progress::Waiting { not_before: now + policy.cool_down, why };
            }
        }
        self.succeeded.insert(cause, now);
    }

    /// An attempt failed, at starting or later.
    pub fn failed(&mut self, key: &str, reason: &str, now: Unix, policy: &Policy) {
        let Some(incident) = self.incidents.get_mut(key) else { return };
        incident.failures += 1;
        incident.progress = if incident.failures >= policy.attempts {
            Progress::Failed { reason: reason.to_owned(), at: now }
        } else {
            let doubled = policy.pause.saturating_mul(1 << (incident.failures - 1).min(16));
            Progress::Waiting { not_before: now + doubled.min(LONGEST_PAUSE), why: reason.to_owned() }
        };
    }

    /// Nothing was started because those who start things cannot be reached: that is no failed attempt.
    pub fn unreachable(&mut self, key: &str, reason: &str, now: Unix, policy: &Policy) {
        self.set(key, Progress::Waiting { not_before: now + policy.pause.min(15), why: reason.to_owned() });
    }

    fn set(&mut self, key: &str, progress: Progress) {
        if let Some(incident) = self.incidents.get_mut(key) {
            incident.progress = progress;
        }
    }

    fn forget(&mut self) {
        let ended = |progress: &Progress| match progress {
            Progress::Done { at, .. } | Progress::Failed { at, .. } | Progress::Resolved { at } => Some(*at),
            Progress::Waiting { .. } | Progress::Running { .. } => None,
        };
        let mut old: Vec<_> = self
            .incidents
            .iter()
            .filter_map(|(key, incident)| Some((ended(&incident.progress)?, key.clone())))
            .collect();
        old.sort();
        let excess = old.len().saturating_sub(REMEMBERED);
        for (_, key) in old.into_iter().take(excess) {
            self.incidents.remove(&key);
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}; it is not the state of a trigger: move it away, or choose another file", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
}

/// Reads the state; a missing file is an empty one.
///
/// # Errors
/// A file that cannot be read or is something else: starting without it would lose what it holds.
pub fn load(path: &Path) -> Result<State, StateError> {
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|source| StateError::Parse { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(State::default()),
        Err(source) => Err(StateError::Io { path: path.to_owned(), source }),
    }
}

/// Replaces the file at once, and only when it is safely on disk.
///
/// # Errors
/// When it cannot be written.
pub fn save(path: &Path, state: &State) -> Result<(), StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    serde_json::to_writer(&mut file, state).map_err(|error| io(error.into()))?;
    file.flush().and_then(|()| file.as_file().sync_all()).map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { cool_down: 300, pause: 10, attempts: 3 };

    fn firing(key: &str, cause: &str) -> Firing {
        Firing { key: key.into(), model: "m".into(), cause: cause.into(), baseline_version: "1".into() }
    }

    #[test]
    fn one_run_per_firing_and_one_at_a_time() {
        let mut state = State::default();
        assert_eq!(state.note(firing("a", "regime"), 100, &POLICY), Noted::New);
        assert_eq!(state.note(firing("b", "sensors"), 101, &POLICY), Noted::New);
        assert_eq!(state.due(101).unwrap().key, "a");
        state.started("a", "run-1".into(), 101);
        assert_eq!(state.due(200), None, "one run per model");
        assert!(state.waiting("b", 200).unwrap().contains("already_running"));
        assert_eq!(state.note(firing("a", "regime"), 150, &POLICY), Noted::Known(Some("run-1".into())));
        state.succeeded("a", "run-1".into(), 200, &POLICY);
        assert_eq!(state.due(200).unwrap().key, "b", "another cause needs no cool-down");
    }

    #[test]
    fn only_success_starts_a_cool_down_and_a_firing_within_it_waits() {
        let mut state = State::default();
        state.note(firing("a", "regime"), 100, &POLICY);
        state.failed("a", "KFP said 503", 100, &POLICY);
        assert_eq!(state.due(109), None);
        assert_eq!(state.due(110).unwrap().key, "a", "a failed attempt is repeated");
        state.started("a", "run-1".into(), 110);
        state.note(firing("b", "regime"), 120, &POLICY);
        state.succeeded("a", "run-1".into(), 130, &POLICY);
        state.note(firing("c", "regime"), 131, &POLICY);
        assert_eq!(state.due(429), None);
        assert_eq!(state.due(430).unwrap().key, "b", "still firing after the cool-down: not lost");
        state.resolved(&firing("b", "regime"), 431);
        assert_eq!(state.due(431).unwrap().key, "c");
    }

    #[test]
    fn attempts_end_and_a_firing_that_goes_on_starts_over() {
        let mut state = State::default();
        state.note(firing("a", "regime"), 0, &POLICY);
        for _ in 0..3 {
            state.failed("a", "no", 0, &POLICY);
        }
        assert!(matches!(state.incidents["a"].progress, Progress::Failed { .. }));
        assert_eq!(state.due(9999), None);
        assert_eq!(state.note(firing("a", "regime"), 9999, &POLICY), Noted::New);
        state.unreachable("a", "refused", 9999, &POLICY);
        assert_eq!((state.due(10_008), state.failures("a")), (None, 0));
        assert!(state.due(10_009).is_some());
    }

    #[test]
    fn a_state_survives_and_rubbish_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/state.json");
        let mut state = load(&path).unwrap();
        state.note(firing("a", "regime"), 1, &POLICY);
        state.started("a", "run".into(), 2);
        save(&path, &state).unwrap();
        assert_eq!(load(&path).unwrap().incidents, state.incidents);
        std::fs::write(&path, "{").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("move it away"));
    }

    #[test]
    fn old_incidents_are_forgotten_open_ones_never() {
        let mut state = State::default();
        state.note(firing("open", "x"), 0, &POLICY);
        for index in 0..300 {
            let key = format!("k{index:03}");
            state.note(firing(&key, "y"), index, &POLICY);
            state.succeeded(&key, "r".into(), index, &POLICY);
        }
        assert!(state.incidents.contains_key("open") && !state.incidents.contains_key("k000"));
        assert!(state.incidents.len() <= REMEMBERED + 2);
    }
}
