//! What happens during a run, as data: terminal, JSON, log and ledger are its readers.

use serde::{Deserialize, Serialize};

use crate::checks::Status;
use crate::diagnostic::{Diagnostic, Place};
use crate::diff::{Action, Diff};
use crate::host::CommandFailed;
use crate::resources::Planned;

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    StageStarted {
        stage: String,
        resources: usize,
        checks: usize,
    },
    /// `plan`: what would be done.
    Planned {
        stage: String,
        resource: String,
        plan: Verb,
        diff: Diff,
        reason: Option<String>,
    },
    /// `up`: a step begins.
    StepStarted {
        stage: String,
        resource: String,
    },
    /// `up`: a step ended.
    StepDone {
        stage: String,
        resource: String,
        result: Outcome,
        diff: Diff,
        seconds: f64,
        #[serde(default)]
        failure: Option<Failure>,
        /// Why it was skipped.
        #[serde(default)]
        reason: Option<String>,
    },
    /// What is being waited for; kept nowhere.
    Progress {
        stage: String,
        text: String,
    },
    /// A line of a running program.
    Output {
        stage: String,
        line: String,
    },
    /// A check that did not pass yet, while `up` waits for it.
    CheckWaiting {
        stage: String,
        check: String,
        detail: String,
        seconds: f64,
    },
    Check {
        stage: String,
        layer: String,
        check: String,
        place: Place,
        status: Status,
        detail: String,
        seconds: f64,
    },
    StageDone {
        stage: String,
        result: Outcome,
        seconds: f64,
        changed: usize,
        reason: Option<String>,
    },
}

/// What `plan` says of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    Create,
    Change,
    Delete,
    Run,
    None,
    Pending,
}

impl Verb {
    /// The verb for a plan.
    pub fn of(planned: &Planned) -> Self {
        match planned {
            Planned::InSync => Self::None,
            Planned::Pending(_) => Self::Pending,
            Planned::Change(diff) => match diff.action {
                Some(Action::Create) => Self::Create,
                Some(Action::Delete) => Self::Delete,
                Some(Action::Run) => Self::Run,
                Some(Action::Change) => Self::Change,
                None => Self::None,
            },
        }
    }
}

/// How a step or stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Changed,
    Unchanged,
    Failed,
    Skipped,
}

/// Why a step failed, with all that is needed to act on it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Failure {
    pub place: Option<Place>,
    /// The chain of reasons on one line.
    pub message: String,
    /// What was tried, when a program failed.
    #[serde(default)]
    pub argv: Vec<String>,
    #[serde(default)]
    pub status: Option<i32>,
    /// The last 20 lines that it printed.
    #[serde(default)]
    pub tail: Vec<String>,
    #[serde(default)]
    pub hint: Option<String>,
}

impl Failure {
    /// Of an error: finds the failed program and the hint in its chain.
    pub fn of(error: &anyhow::Error, place: Option<&Place>) -> Self {
        let mut failure = Self { place: place.cloned(), message: format!("{error:#}"), ..Self::default() };
        // `downcast_ref` sees through contexts, which the chain does not.
        if let Some(command) = error.downcast_ref::<CommandFailed>() {
            failure.argv.clone_from(&command.argv);
            failure.status = command.status;
            failure.tail.clone_from(&command.tail);
        }
        if let Some(diagnostic) = error.downcast_ref::<Diagnostic>() {
            failure.hint.clone_from(&diagnostic.hint);
        }
        if let Some(hint) = &failure.hint {
            // The chain's text ends with the hint; say it once.
            failure.message = failure.message.replace(&format!("\n  hint: {hint}"), "");
        }
        failure
    }
}

/// The end of a run on one host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// plan
    pub create: usize,
    pub change: usize,
    pub delete: usize,
    pub run: usize,
    pub pending: usize,
    /// plan and up
    pub unchanged: usize,
    /// up
    pub changed: usize,
    pub failed: usize,
    pub skipped: usize,
    /// healthcheck, and the checks of up
    pub pass: usize,
    pub warn: usize,
    pub fail: usize,
    pub skip: usize,
    pub seconds: f64,
    pub interrupted: bool,
}

impl Summary {
    /// Counts an event.
    pub fn count(&mut self, event: &Event) {
        match event {
            Event::Planned { plan, .. } => match plan {
                Verb::Create => self.create += 1,
                Verb::Change => self.change += 1,
                Verb::Delete => self.delete += 1,
                Verb::Run => self.run += 1,
                Verb::Pending => self.pending += 1,
                Verb::None => self.unchanged += 1,
            },
            Event::StepDone { result, .. } => match result {
                Outcome::Changed => self.changed += 1,
                Outcome::Unchanged => self.unchanged += 1,
                Outcome::Failed => self.failed += 1,
                Outcome::Skipped => self.skipped += 1,
            },
            Event::Check { status, .. } => match status {
                Status::Pass => self.pass += 1,
                Status::Warn => self.warn += 1,
                Status::Fail => self.fail += 1,
                Status::Skip => self.skip += 1,
            },
            _ => {}
        }
    }

    /// Adds another host's or stage's counts; the time is the longer one.
    pub fn add(&mut self, other: &Self) {
        self.create += other.create;
        self.change += other.change;
        self.delete += other.delete;
        self.run += other.run;
        self.pending += other.pending;
        self.unchanged += other.unchanged;
        self.changed += other.changed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.pass += other.pass;
        self.warn += other.warn;
        self.fail += other.fail;
        self.skip += other.skip;
        self.seconds = self.seconds.max(other.seconds);
        self.interrupted |= other.interrupted;
    }

    /// What `plan` would do.
    pub fn pending_changes(&self) -> usize {
        self.create + self.change + self.delete + self.run + self.pending
    }

    /// Nothing failed and nothing was left out.
    pub fn ok(&self) -> bool {
        self.failed == 0 && self.fail == 0 && !self.interrupted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_and_hint_are_found_under_any_context() {
        let argv = vec!["apt-get".to_owned()];
        let command = CommandFailed {
            argv,
            reason: "ended with status 100".into(),
            status: Some(100),
            tail: vec!["E: x".into()],
        };
        let failure = Failure::of(&anyhow::Error::new(command).context("installing"), None);
        assert_eq!((failure.status, failure.tail.len()), (Some(100), 1));
        let hinted = anyhow::Error::new(Diagnostic::new("no").hint("do this")).context("while");
        let failure = Failure::of(&hinted, None);
        assert_eq!((failure.message.as_str(), failure.hint.as_deref()), ("while: no", Some("do this")));
    }
}
