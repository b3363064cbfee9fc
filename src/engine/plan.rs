//! `plan`: observe and diff everything, change nothing.

use std::time::Instant;

use super::{Event, Failure, Outcome, Program, Summary, event::Verb};
use crate::diff::Diff;
use crate::host::ReadHost;
use crate::resources::Planned;

/// Plans every resource of every stage, in order.
///
/// A resource that cannot be looked at is reported as a failed step; the plan goes on, so that all of it is seen at once.
pub async fn plan(program: &Program, host: &dyn ReadHost, emit: &(dyn Fn(Event) + Send + Sync)) -> Summary {
    let start = Instant::now();
    let mut summary = Summary::default();
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
                    let plan = Verb::of(&planned);
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
