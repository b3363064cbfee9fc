//! Notes firings down, starts runs, watches them. Everything that changes is on disk before it is told.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::sync::Mutex;

use super::alert::Firing;
use super::starter::{Going, Starter, Trouble};
use super::state::{self, Noted, Policy, Progress, State, StateError, Unix};
use crate::serve::log;

/// How often runs under way are asked for, and whether something is due.
const BEAT: Duration = Duration::from_secs(2);

/// The answer to one firing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Submitted {
        run: String,
        name: String,
    },
    Skipped {
        reason: String,
    },
    /// Nothing could be started; the firing is kept and tried again.
    Kept {
        reason: String,
    },
}

pub struct Desk {
    path: PathBuf,
    policy: Policy,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    starter: Starter,
    runs_started: u64,
}

/// Numbers for `/metrics`.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    pub waiting: usize,
    pub running: usize,
    pub failed: usize,
    pub runs_started: u64,
    pub last_success: Unix,
}

impl Desk {
    pub fn new(path: PathBuf, policy: Policy, state: State, starter: Starter) -> Self {
        Self { path, policy, inner: Mutex::new(Inner { state, starter, runs_started: 0 }) }
    }

    /// Takes a firing: it is on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written down: the sender must send it again.
    pub async fn take(&self, firing: &Firing) -> Result<Decision, StateError> {
        let mut inner = self.inner.lock().await;
        let noted = inner.state.note(firing.clone(), now(), &self.policy);
        self.save(&inner)?;
        if let Noted::Known(Some(run)) = noted {
            return Ok(Decision::Skipped { reason: format!("debounced_duplicate: run {run} answers it") });
        }
        self.start_due(&mut inner).await?;
        let decision = match inner.state.incidents.get(&firing.key).map(|incident| &incident.progress) {
            Some(Progress::Running { run, .. }) => {
                let name = firing.run_name(inner.state.failures(&firing.key));
                Decision::Submitted { run: run.clone(), name }
            }
            Some(Progress::Failed { reason, .. }) => Decision::Kept { reason: reason.clone() },
            _ => {
                let reason = inner.state.waiting(&firing.key, now()).unwrap_or_else(|| "it waits for its turn".into());
                let skipped =
                    reason.starts_with("workflow_already_running") || reason.starts_with("the last run for this cause");
                if skipped { Decision::Skipped { reason } } else { Decision::Kept { reason } }
            }
        };
        Ok(decision)
    }

    /// # Errors
    /// When it cannot be written down.
    pub async fn resolved(&self, firing: &Firing) -> Result<(), StateError> {
        let mut inner = self.inner.lock().await;
        inner.state.resolved(firing, now());
        self.save(&inner)
    }

    pub async fn counts(&self) -> Counts {
        let inner = self.inner.lock().await;
        let state = &inner.state;
        Counts {
            waiting: state.count(|progress| matches!(progress, Progress::Waiting { .. })),
            running: state.running().count(),
            failed: state.count(|progress| matches!(progress, Progress::Failed { .. })),
            runs_started: inner.runs_started,
            last_success: state.succeeded.values().copied().max().unwrap_or_default(),
        }
    }

    pub async fn incidents(&self) -> serde_json::Value {
        json!(self.inner.lock().await.state.incidents.values().collect::<Vec<_>>())
    }

    /// # Errors
    /// Why no run could be started now.
    pub async fn reachable(&self) -> Result<(), Trouble> {
        self.inner.lock().await.starter.reachable().await
    }

    /// Watches for ever.
    pub async fn work(&self) {
        loop {
            tokio::time::sleep(BEAT).await;
            let mut inner = self.inner.lock().await;
            if let Err(error) = self.look(&mut inner).await {
                log::warn("state_not_written", json!({ "reason": error.to_string() }));
            }
        }
    }

    async fn look(&self, inner: &mut Inner) -> Result<(), StateError> {
        let running: Vec<_> = inner.state.running().cloned().collect();
        for incident in running {
            let Progress::Running { run, .. } = incident.progress else { continue };
            let key = &incident.firing.key;
            match inner.starter.look(&run).await {
                Ok(Going::On) => continue,
                Ok(Going::Succeeded) => {
                    log::info("run_succeeded", json!({ "run": run, "alert": key }));
                    inner.state.succeeded(key, run, now(), &self.policy);
                }
                Ok(Going::Failed(reason)) => {
                    log::warn("run_failed", json!({ "run": run, "alert": key, "reason": reason }));
                    inner.state.failed(key, &reason, now(), &self.policy);
                }
                Err(trouble) => {
                    log::warn("run_not_seen", json!({ "run": run, "reason": trouble.to_string() }));
                    continue;
                }
            }
            self.save(inner)?;
        }
        self.start_due(inner).await
    }

    async fn start_due(&self, inner: &mut Inner) -> Result<(), StateError> {
        while let Some(firing) = inner.state.due(now()) {
            let name = firing.run_name(inner.state.failures(&firing.key));
            match inner.starter.start(&name, &firing).await {
                Ok(run) => {
                    log::info(
                        "run_started",
                        json!({ "run": run, "name": name, "alert": firing.key, "cause": firing.cause }),
                    );
                    inner.runs_started += 1;
                    inner.state.started(&firing.key, run, now());
                }
                Err(Trouble::Unreachable(reason)) => {
                    log::warn("not_started", json!({ "alert": firing.key, "reason": reason }));
                    inner.state.unreachable(&firing.key, &reason, now(), &self.policy);
                }
                Err(Trouble::Refused(reason)) => {
                    log::warn("not_started", json!({ "alert": firing.key, "reason": reason }));
                    inner.state.failed(&firing.key, &reason, now(), &self.policy);
                }
            }
            self.save(inner)?;
        }
        Ok(())
    }

    fn save(&self, inner: &Inner) -> Result<(), StateError> {
        state::save(&self.path, &inner.state)
    }
}

fn now() -> Unix {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
