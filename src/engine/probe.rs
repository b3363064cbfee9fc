//! `healthcheck`: the checks of all stages, once each.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesOrdered;

use super::{Event, Probe, Program, Summary};
use crate::checks::Verdict;
use crate::host::ReadHost;

/// A probe that takes longer is a failed one: a promise that answers too late is broken.
const PROBE_DEADLINE: Duration = Duration::from_secs(30);

/// Runs all checks side by side and reports them in the order of the stages.
pub async fn probe(program: &Program, host: &dyn ReadHost, emit: &(dyn Fn(Event) + Send + Sync)) -> Summary {
    let start = Instant::now();
    let mut summary = Summary::default();
    let mut running = FuturesOrdered::new();
    for stage in &program.stages {
        for probe in &stage.checks {
            running.push_back(async move {
                let start = Instant::now();
                let verdict = once(probe, host).await;
                (stage, probe, verdict, start.elapsed().as_secs_f64())
            });
        }
    }
    while let Some((stage, probe, verdict, seconds)) = running.next().await {
        let event = Event::Check {
            stage: stage.name.clone(),
            layer: stage.layer.clone(),
            check: probe.title(),
            place: probe.place.clone(),
            status: verdict.status,
            detail: verdict.detail,
            seconds,
        };
        summary.count(&event);
        emit(event);
    }
    summary.seconds = start.elapsed().as_secs_f64();
    summary
}

/// One run of a check; trouble in making it is a failure of the check.
pub async fn once(probe: &Probe, host: &dyn ReadHost) -> Verdict {
    let check = match probe.check() {
        Ok(check) => check,
        Err(error) => return Verdict::fail(format!("{error:#}")).terminal(),
    };
    match tokio::time::timeout(PROBE_DEADLINE, check.run(host)).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => Verdict::fail(format!("{error:#}")),
        Err(_) => Verdict::fail(format!("no answer within {} s", PROBE_DEADLINE.as_secs())),
    }
}
