//! The run of a program over a host: graph, plan, run loop, outcome. No I/O of its own: it sees a host only through traits.

pub mod cancel;
pub mod compile;
pub mod event;
pub mod graph;
mod images;
pub mod plan;
pub mod probe;
pub mod up;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use cancel::Cancel;
pub use event::{Event, Failure, Outcome, Summary};

use crate::checks::{AnyCheck, registry as check_registry};
use crate::diagnostic::Place;
use crate::resources::{AnyResource, registry};

/// Everything one host is to be, concrete: what the controller sends to the agent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Program {
    pub stages: Vec<Stage>,
}

/// A stage, concrete.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    pub layer: String,
    /// Other stages of the program that must be done first.
    pub needs: Vec<String>,
    pub resources: Vec<Step>,
    pub checks: Vec<Probe>,
    /// Name and address of what the stage offers.
    #[serde(default)]
    pub endpoints: Vec<(String, String)>,
}

/// One resource of a stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    pub kind: String,
    pub name: String,
    pub place: Place,
    pub spec: Value,
}

/// One check of a stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    pub kind: String,
    pub name: String,
    pub place: Place,
    pub spec: Value,
    /// Seconds that `up` waits for it to pass.
    pub within: u64,
}

impl Step {
    /// How it is called in all output: `file /etc/hosts`.
    pub fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }

    /// The resource behind it.
    ///
    /// # Errors
    /// Only when controller and agent disagree on the kind, which one binary cannot.
    pub fn resource(&self) -> Result<Box<dyn AnyResource>> {
        let kind = registry::kind(&self.kind).ok_or_else(|| anyhow!("unknown kind `{}`", self.kind))?;
        kind.parse(self.spec.clone()).with_context(|| format!("{}: spec of {}", self.place, self.title()))
    }
}

impl Probe {
    /// How it is called in all output: `http GET http://…`.
    pub fn title(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }

    /// The check behind it.
    ///
    /// # Errors
    /// As [`Step::resource`].
    pub fn check(&self) -> Result<Box<dyn AnyCheck>> {
        let kind = check_registry::kind(&self.kind).ok_or_else(|| anyhow!("unknown check `{}`", self.kind))?;
        kind.parse(self.spec.clone()).with_context(|| format!("{}: spec of {}", self.place, self.title()))
    }
}

#[cfg(test)]
mod tests;
