//! `up`: for every resource observe, diff, apply, observe again; then the checks of the stage. Stages whose needs are met
//! run side by side.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::cancel::Urgency;
use super::probe::once;
use super::{Cancel, Event, Failure, Outcome, Probe, Program, Stage, Step, Summary};
use crate::checks::{Status, Verdict};
use crate::diff::{Action, Diff};
use crate::host::WriteHost;
use crate::resources::{AnyResource, Planned};

/// How long a resource may stay unknowable although all before it is done: an API server that is just restarting.
const PENDING_DEADLINE: Duration = Duration::from_secs(60);

/// How long a step may take to end after the second interruption: a program has five seconds from TERM to KILL.
const GRACE: Duration = Duration::from_secs(7);

/// Where intents and results are recorded. A record that cannot be written fails the step: evidence is not optional.
pub trait Ledger: Send + Sync {
    /// Before a change.
    ///
    /// # Errors
    /// When it could not be written and synced.
    fn intent(&self, stage: &str, resource: &str, diff: &Diff) -> Result<()>;

    /// After a change or a failure.
    ///
    /// # Errors
    /// As [`Ledger::intent`].
    fn result(
        &self,
        stage: &str,
        resource: &str,
        result: Outcome,
        seconds: f64,
        failure: Option<&Failure>,
    ) -> Result<()>;

    /// A stage has ended.
    ///
    /// # Errors
    /// As [`Ledger::intent`].
    fn stage(&self, stage: &str, result: Outcome, changed: usize, seconds: f64) -> Result<()>;
}

/// Gives the host to a stage: what happens below is told under the stage's name.
pub type HostOf<'a> = &'a (dyn Fn(&str) -> Arc<dyn WriteHost> + Send + Sync);

/// Everything a stage needs while it runs.
struct Run<'a> {
    host: Arc<dyn WriteHost>,
    ledger: &'a dyn Ledger,
    cancel: &'a Cancel,
    emit: &'a (dyn Fn(Event) + Send + Sync),
}

/// Brings the host to what `program` says.
pub async fn up(
    program: &Program,
    host_of: HostOf<'_>,
    ledger: &dyn Ledger,
    cancel: &Cancel,
    emit: &(dyn Fn(Event) + Send + Sync),
) -> Summary {
    let start = Instant::now();
    let run = |stage: &str| Run { host: host_of(stage), ledger, cancel, emit };
    let mut summary = Summary::default();
    let mut ended: BTreeMap<&str, Outcome> = BTreeMap::new();
    let mut waiting: Vec<&Stage> = program.stages.iter().collect();
    let mut running = FuturesUnordered::new();
    loop {
        let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|stage| {
            stage.needs.iter().all(|need| ended.contains_key(need.as_str()) || !has_stage(program, need))
        });
        waiting = rest;
        let any_ready = !ready.is_empty();
        for stage in ready {
            match blocked(stage, &ended, cancel) {
                Some(reason) => {
                    ended.insert(&stage.name, Outcome::Skipped);
                    summary.add(&run(&stage.name).skip(stage, &stage.resources, reason));
                }
                None => running.push(run(&stage.name).stage(stage)),
            }
        }
        match running.next().await {
            Some((name, outcome, counts)) => {
                ended.insert(name, outcome);
                summary.add(&counts);
            }
            None if any_ready => {}
            None => break,
        }
    }
    summary.seconds = start.elapsed().as_secs_f64();
    summary.interrupted = cancel.is_cancelled();
    summary
}

fn has_stage(program: &Program, name: &str) -> bool {
    program.stages.iter().any(|stage| stage.name == name)
}

fn blocked(stage: &Stage, ended: &BTreeMap<&str, Outcome>, cancel: &Cancel) -> Option<String> {
    if cancel.is_cancelled() {
        return Some("interrupted".into());
    }
    let broken = |need: &&String| matches!(ended.get(need.as_str()), Some(Outcome::Failed | Outcome::Skipped));
    stage.needs.iter().find(broken).map(|need| format!("needs {need}"))
}

impl Run<'_> {
    fn skip(&self, stage: &Stage, steps: &[Step], reason: String) -> Summary {
        let mut summary = Summary::default();
        for step in steps {
            let event = Event::StepDone {
                stage: stage.name.clone(),
                resource: step.title(),
                result: Outcome::Skipped,
                diff: Diff::none(),
                seconds: 0.0,
                failure: None,
                reason: Some(reason.clone()),
            };
            summary.count(&event);
            (self.emit)(event);
        }
        if steps.len() == stage.resources.len() {
            let stage = stage.name.clone();
            (self.emit)(Event::StageDone {
                stage,
                result: Outcome::Skipped,
                seconds: 0.0,
                changed: 0,
                reason: Some(reason),
            });
        }
        summary
    }

    async fn stage(self, stage: &Stage) -> (&str, Outcome, Summary) {
        let start = Instant::now();
        let mut summary = Summary::default();
        let (resources, checks) = (stage.resources.len(), stage.checks.len());
        (self.emit)(Event::StageStarted { stage: stage.name.clone(), resources, checks });
        let mut outcome = Outcome::Unchanged;
        let mut reason = None;
        for (index, step) in stage.resources.iter().enumerate() {
            if self.cancel.is_cancelled() {
                reason = Some("interrupted".to_owned());
                outcome = Outcome::Skipped;
                summary.add(&self.skip(stage, &stage.resources[index..], "interrupted".into()));
                break;
            }
            match self.step(stage, step, &mut summary).await {
                Outcome::Failed => {
                    outcome = Outcome::Failed;
                    reason = Some(format!("{} failed", step.title()));
                    let rest = &stage.resources[index + 1..];
                    summary.add(&self.skip(stage, rest, format!("{} failed", step.title())));
                    break;
                }
                Outcome::Changed => outcome = Outcome::Changed,
                Outcome::Unchanged | Outcome::Skipped => {}
            }
        }
        if matches!(outcome, Outcome::Changed | Outcome::Unchanged)
            && let Some(broken) = self.checks(stage, &mut summary).await
        {
            outcome = Outcome::Failed;
            reason = Some(broken);
        }
        let seconds = start.elapsed().as_secs_f64();
        if let Err(error) = self.ledger.stage(&stage.name, outcome, summary.changed, seconds) {
            outcome = Outcome::Failed;
            reason = Some(format!("{error:#}"));
            summary.failed += 1;
        }
        let changed = summary.changed;
        (self.emit)(Event::StageDone { stage: stage.name.clone(), result: outcome, seconds, changed, reason });
        (&stage.name, outcome, summary)
    }

    async fn step(&self, stage: &Stage, step: &Step, summary: &mut Summary) -> Outcome {
        let start = Instant::now();
        (self.emit)(Event::StepStarted { stage: stage.name.clone(), resource: step.title() });
        let (result, diff, failure) = match self.converge(stage, step).await {
            Ok(diff) if diff.is_empty() => (Outcome::Unchanged, diff, None),
            Ok(diff) => (Outcome::Changed, diff, None),
            Err(error) => (Outcome::Failed, Diff::none(), Some(Failure::of(&error, Some(&step.place)))),
        };
        let seconds = start.elapsed().as_secs_f64();
        let (mut result, mut failure) = (result, failure);
        if result != Outcome::Unchanged
            && let Err(error) = self.ledger.result(&stage.name, &step.title(), result, seconds, failure.as_ref())
        {
            result = Outcome::Failed;
            failure = failure.or_else(|| Some(Failure::of(&error, Some(&step.place))));
        }
        let event = Event::StepDone {
            stage: stage.name.clone(),
            resource: step.title(),
            result,
            diff,
            seconds,
            failure,
            reason: None,
        };
        summary.count(&event);
        (self.emit)(event);
        result
    }

    /// The state machine of a resource. Returns what was changed.
    async fn converge(&self, stage: &Stage, step: &Step) -> Result<Diff> {
        let resource = step.resource()?;
        let work = async {
            let diff = match self.known(resource.as_ref()).await? {
                Planned::Change(diff) => diff,
                Planned::InSync | Planned::Pending(_) => {
                    resource.settle(self.host.as_ref()).await?;
                    return Ok(Diff::none());
                }
            };
            self.ledger.intent(&stage.name, &step.title(), &diff)?;
            resource.apply(self.host.as_ref(), &diff).await?;
            if diff.action != Some(Action::Run) {
                self.verify(resource.as_ref()).await?;
            }
            Ok(diff)
        };
        tokio::pin!(work);
        tokio::select! {
            result = &mut work => return result,
            () = self.cancel.reached(Urgency::Now) => {}
        }
        // Running programs have been asked to end; one that is killed in the middle (dpkg) leaves more to mend.
        let _ = tokio::time::timeout(GRACE, work).await;
        bail!("interrupted in the middle of this step; the next `up` will finish it")
    }

    /// The plan of a resource, once it can be made.
    async fn known(&self, resource: &dyn AnyResource) -> Result<Planned> {
        let start = Instant::now();
        loop {
            match resource.plan(self.host.as_read()).await? {
                Planned::Pending(reason) if start.elapsed() < PENDING_DEADLINE => {
                    if self.cancel.is_cancelled() {
                        bail!("interrupted while waiting: {reason}");
                    }
                    self.host.progress(&format!("waiting: {reason}"));
                    self.host.sleep(Duration::from_millis(500)).await;
                }
                Planned::Pending(reason) => {
                    bail!("gave up after {} s: {reason}", PENDING_DEADLINE.as_secs())
                }
                known => return Ok(known),
            }
        }
    }

    async fn verify(&self, resource: &dyn AnyResource) -> Result<()> {
        match self.known(resource).await? {
            Planned::Change(left) => {
                let left: Vec<_> = left.changes.iter().map(|c| format!("{}: {}", c.field, c.detail)).collect();
                bail!("it was applied without an error, but still differs: {}", left.join("; "))
            }
            Planned::InSync | Planned::Pending(_) => Ok(()),
        }
    }

    /// Runs the checks of a stage until each passes or its time is up. Returns the first broken promise.
    async fn checks(&self, stage: &Stage, summary: &mut Summary) -> Option<String> {
        let mut broken = None;
        let mut running: FuturesUnordered<_> = stage.checks.iter().map(|probe| self.check(stage, probe)).collect();
        while let Some(event) = running.next().await {
            summary.count(&event);
            if let Event::Check { status: Status::Fail, check, detail, .. } = &event {
                broken.get_or_insert_with(|| format!("check {check}: {detail}"));
            }
            (self.emit)(event);
        }
        broken
    }

    async fn check(&self, stage: &Stage, probe: &Probe) -> Event {
        let start = Instant::now();
        let deadline = Duration::from_secs(probe.within);
        let mut pause = Duration::from_millis(100);
        let verdict = loop {
            let verdict = once(probe, self.host.as_read()).await;
            let seconds = start.elapsed().as_secs_f64();
            if verdict.status != Status::Fail || verdict.terminal {
                break verdict;
            }
            if self.cancel.is_cancelled() {
                break Verdict::fail(format!("interrupted; last answer: {}", verdict.detail));
            }
            if start.elapsed() >= deadline {
                break Verdict::fail(format!("not within {} s; last answer: {}", probe.within, verdict.detail));
            }
            let (stage, check) = (stage.name.clone(), probe.title());
            (self.emit)(Event::CheckWaiting { stage, check, detail: verdict.detail, seconds });
            self.host.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        };
        Event::Check {
            stage: stage.name.clone(),
            layer: stage.layer.clone(),
            check: probe.title(),
            place: probe.place.clone(),
            status: verdict.status,
            detail: verdict.detail,
            seconds: start.elapsed().as_secs_f64(),
        }
    }
}
