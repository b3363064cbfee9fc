//! Those who start a retraining run and say how it goes.

use std::collections::BTreeMap;

use super::alert::Firing;
use super::exec::Exec;
use super::job::Job;
use super::kfp::Kfp;

/// How a run goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Going {
    On,
    Succeeded,
    Failed(String),
}

/// Why nothing was started or learned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody answers, or says that it is not ready: later it may.
    #[error("{0}")]
    Unreachable(String),
    /// The answer is no; asking again as before gives the same.
    #[error("{0}")]
    Refused(String),
}

#[derive(Debug)]
pub enum Starter {
    Kfp(Kfp),
    Job(Box<Job>),
    Exec(Exec),
}

impl Starter {
    /// Starts a run of this name, or finds it started already. Gives what [`Self::look`] takes.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn start(&mut self, name: &str, firing: &Firing) -> Result<String, Trouble> {
        match self {
            Self::Kfp(kfp) => kfp.start(name, firing).await,
            Self::Job(job) => job.start(name, firing).await,
            Self::Exec(exec) => exec.start(name, firing),
        }
    }

    /// # Errors
    /// [`Trouble`]; of a run that nobody knows any more, [`Going::Failed`] tells.
    pub async fn look(&mut self, run: &str) -> Result<Going, Trouble> {
        match self {
            Self::Kfp(kfp) => kfp.look(run).await,
            Self::Job(job) => job.look(run).await,
            Self::Exec(exec) => Ok(exec.look(run)),
        }
    }

    /// # Errors
    /// Why nothing could be started now.
    pub async fn reachable(&self) -> Result<(), Trouble> {
        match self {
            Self::Kfp(kfp) => kfp.reachable().await,
            Self::Job(job) => job.reachable().await,
            Self::Exec(_) => Ok(()),
        }
    }
}

/// What a run is told about the alert.
pub fn told(name: &str, firing: &Firing) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("RUL_TRIGGER_RUN", name.to_owned()),
        ("RUL_TRIGGER_MODEL", firing.model.clone()),
        ("RUL_TRIGGER_CAUSE", firing.cause.clone()),
        ("RUL_TRIGGER_BASELINE_VERSION", firing.baseline_version.clone()),
    ])
}
