//! The promises of the engine, on a machine in memory.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::cancel::Urgency;
use super::event::Verb;
use super::*;
use crate::diff::Diff;
use crate::host::WriteHost;
use crate::host::fake::FakeHost;

/// A ledger in memory, which can be told to fail.
#[derive(Default)]
struct Memory {
    lines: Mutex<Vec<String>>,
    broken: bool,
    /// Raised when the first intent is recorded: a crash or Ctrl-C in the middle.
    cancel: Option<(Cancel, Urgency)>,
}

impl Memory {
    fn write(&self, line: String) -> anyhow::Result<()> {
        if self.broken {
            anyhow::bail!("no space left on device");
        }
        self.lines.lock().unwrap().push(line);
        Ok(())
    }
}

impl up::Ledger for Memory {
    fn intent(&self, _stage: &str, resource: &str, _diff: &Diff) -> anyhow::Result<()> {
        if let Some((cancel, urgency)) = &self.cancel {
            cancel.raise(*urgency);
        }
        self.write(format!("intent {resource}"))
    }

    fn result(&self, _: &str, resource: &str, result: Outcome, _: f64, _: Option<&Failure>) -> anyhow::Result<()> {
        self.write(format!("{result:?} {resource}"))
    }

    fn stage(&self, stage: &str, result: Outcome, changed: usize, _: f64) -> anyhow::Result<()> {
        self.write(format!("stage {stage} {result:?} {changed}"))
    }
}

fn file(path: &str, content: &str) -> Step {
    let place = Place { file: "stages/x.yml".into(), line: 1, column: 1 };
    let spec = json!({"path": path, "content": content, "mode": "0644"});
    Step { kind: "file".into(), name: path.into(), place, spec }
}

fn stage(name: &str, needs: &[&str], resources: Vec<Step>) -> Stage {
    let needs = needs.iter().map(|need| (*need).to_owned()).collect();
    Stage { name: name.into(), layer: name.into(), needs, resources, checks: vec![], endpoints: vec![] }
}

fn host() -> Arc<FakeHost> {
    Arc::new(FakeHost::new().dir("/etc", 0o755))
}

async fn run(program: &Program, host: &Arc<FakeHost>, ledger: &Memory, cancel: &Cancel) -> (Summary, Vec<Event>) {
    let events = Mutex::new(Vec::new());
    let emit = |event| events.lock().unwrap().push(event);
    let host_of = |_: &str| -> Arc<dyn WriteHost> { host.clone() };
    let summary = up::up(program, &host_of, ledger, cancel, &emit).await;
    let events = std::mem::take(&mut *events.lock().unwrap());
    (summary, events)
}

async fn planned(program: &Program, host: &Arc<FakeHost>) -> Vec<(String, Verb)> {
    let plans = Mutex::new(Vec::new());
    let emit = |event| {
        if let Event::Planned { resource, plan, .. } = event {
            plans.lock().unwrap().push((resource, plan));
        }
    };
    plan::plan(program, host.as_ref(), &emit).await;
    plans.into_inner().unwrap()
}

#[tokio::test]
async fn up_does_what_plan_printed_and_then_nothing_is_left() {
    let host = host();
    let program = Program { stages: vec![stage("a", &[], vec![file("/etc/one", "1"), file("/etc/two", "2")])] };
    let before = planned(&program, &host).await;
    assert_eq!(before.iter().map(|(_, verb)| *verb).collect::<Vec<_>>(), [Verb::Create, Verb::Create]);
    assert!(host.changes().is_empty(), "plan changed something");
    let ledger = Memory::default();
    let (summary, events) = run(&program, &host, &ledger, &Cancel::default()).await;
    assert_eq!((summary.changed, summary.failed), (2, 0));
    let done: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::StepDone { resource, result: Outcome::Changed, .. } => Some(resource.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(done, before.into_iter().map(|(resource, _)| resource).collect::<Vec<_>>());
    assert!(planned(&program, &host).await.iter().all(|(_, verb)| *verb == Verb::None));
    let (again, _) = run(&program, &host, &Memory::default(), &Cancel::default()).await;
    assert_eq!((again.changed, again.unchanged), (0, 2));
    let expected = [
        "intent file /etc/one",
        "Changed file /etc/one",
        "intent file /etc/two",
        "Changed file /etc/two",
        "stage a Changed 2",
    ];
    assert_eq!(*ledger.lines.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_failure_skips_what_needs_it_and_nothing_else() {
    let host = host();
    // The parent directory is missing: applying fails.
    let broken = stage("broken", &[], vec![file("/nowhere/x", "1"), file("/etc/after", "1")]);
    let dependent = stage("dependent", &["broken"], vec![file("/etc/dependent", "1")]);
    let other = stage("other", &[], vec![file("/etc/other", "1")]);
    let program = Program { stages: vec![broken, dependent, other] };
    let (summary, events) = run(&program, &host, &Memory::default(), &Cancel::default()).await;
    assert_eq!((summary.changed, summary.failed, summary.skipped), (1, 1, 2));
    assert!(host.files().node("/etc/other").is_some() && host.files().node("/etc/dependent").is_none());
    let reason = events.iter().find_map(|event| match event {
        Event::StageDone { stage, reason, .. } if stage == "dependent" => reason.clone(),
        _ => None,
    });
    assert_eq!(reason.as_deref(), Some("needs broken"));
    let place = events.iter().find_map(|event| match event {
        Event::StepDone { failure: Some(failure), .. } => failure.place.clone(),
        _ => None,
    });
    assert_eq!(place.unwrap().to_string(), "stages/x.yml:1:1");
}

#[tokio::test]
async fn the_first_interruption_finishes_the_step_and_the_next_run_converges() {
    let host = host();
    let first = stage("a", &[], vec![file("/etc/one", "1"), file("/etc/two", "2")]);
    let program = Program { stages: vec![first, stage("b", &["a"], vec![file("/etc/three", "3")])] };
    let cancel = Cancel::default();
    let ledger = Memory { cancel: Some((cancel.clone(), Urgency::Finish)), ..Memory::default() };
    let (summary, _) = run(&program, &host, &ledger, &cancel).await;
    assert!(summary.interrupted && !summary.ok());
    assert_eq!((summary.changed, summary.skipped), (1, 2));
    let (next, _) = run(&program, &host, &Memory::default(), &Cancel::default()).await;
    assert_eq!((next.changed, next.unchanged, next.ok()), (2, 1, true));
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_stops_before_the_change() {
    let host = host();
    let program = Program { stages: vec![stage("a", &[], vec![file("/etc/one", "1")])] };
    let ledger = Memory { broken: true, ..Memory::default() };
    let (summary, events) = run(&program, &host, &ledger, &Cancel::default()).await;
    assert!(!summary.ok());
    assert!(host.changes().is_empty());
    assert!(format!("{events:?}").contains("no space left on device"));
}

#[tokio::test]
async fn a_command_that_does_not_reach_its_goal_fails() {
    let host = Arc::new(FakeHost::new().answer(&["make-it"], crate::host::fake::ok("")));
    let place = Place { file: "stages/x.yml".into(), line: 1, column: 1 };
    let spec = json!({"argv": ["make-it"], "creates": "/etc/made"});
    let step = Step { kind: "command".into(), name: "make-it".into(), place, spec };
    let program = Program { stages: vec![stage("a", &[], vec![step])] };
    let (summary, events) = run(&program, &host, &Memory::default(), &Cancel::default()).await;
    assert_eq!(summary.failed, 1);
    assert!(format!("{events:?}").contains("still differs"), "{events:?}");
}
