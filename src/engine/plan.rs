//! `plan`: observe and diff everything, change nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use super::{Event, Failure, Outcome, Program, Step, Summary, event::Verb};
use crate::diff::Diff;
use crate::host::ReadHost;
use crate::resources::Planned;

/// Plans every resource of every stage, in order.
///
/// A resource that cannot be looked at is reported as a failed step; the plan goes on, so that all of it is seen at once.
pub async fn plan(program: &Program, host: &dyn ReadHost, emit: &(dyn Fn(Event) + Send + Sync)) -> Summary {
    let start = Instant::now();
    let mut summary = Summary::default();
    let mut will_change = BTreeSet::new();
    for stage in &program.stages {
        let count = stage.resources.len();
        emit(Event::StageStarted { stage: stage.name.clone(), resources: count, checks: stage.checks.len() });
        for step in &stage.resources {
            let planned = match step.resource() {
                Ok(resource) => resource.plan(host).await,
                Err(error) => Err(error),
            };
            let event = match planned {
                Ok(planned) => {
                    let planned = foreseen(step, planned, &will_change);
                    let plan = Verb::of(&planned);
                    if plan != Verb::None {
                        will_change.insert(PathBuf::from(&step.name));
                    }
                    let (diff, reason) = match planned {
                        Planned::InSync => (Diff::none(), None),
                        Planned::Change(diff) => (diff, None),
                        Planned::Pending(reason) => (Diff::none(), Some(reason)),
                    };
                    Event::Planned { stage: stage.name.clone(), resource: step.title(), plan, diff, reason }
                }
                Err(error) => Event::StepDone {
                    stage: stage.name.clone(),
                    resource: step.title(),
                    result: Outcome::Failed,
                    diff: Diff::none(),
                    seconds: 0.0,
                    failure: Some(Failure::of(&error, Some(&step.place))),
                    reason: None,
                },
            };
            summary.count(&event);
            emit(event);
        }
    }
    summary.seconds = start.elapsed().as_secs_f64();
    summary
}

/// A resource that is in sync now, but depends on a file that an earlier step will change, will change too: a unit restarts with
/// its new configuration. The plan says so beforehand.
fn foreseen(step: &Step, planned: Planned, will_change: &BTreeSet<PathBuf>) -> Planned {
    let Ok(resource) = step.resource() else { return planned };
    let inputs = resource.inputs();
    let Some(input) = inputs.iter().find(|input| will_change.contains(*input)) else { return planned };
    if planned != Planned::InSync {
        return planned;
    }
    let mut diff = Diff::none();
    diff.push("inputs", format!("{} will change -> restart", input.display()));
    Planned::Change(diff)
}
