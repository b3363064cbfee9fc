//! Promise 2: after a cut at any point the next run converges, and nothing of ours is left running.
//!
//! The agent runs in this process, on folders of the test; the connection is an in-memory pipe that is cut after frame n, for
//! every n.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use provision::agent::protocol::{self, Frame, Job, Reply, Request, Task};
use provision::agent::{Paths, serve};
use provision::diagnostic::Place;
use provision::engine::{Program, Stage, Step, Summary};
use serde_json::{Value, json};

fn step(kind: &str, name: &str, spec: Value) -> Step {
    let place = Place { file: "stages/t.yml".into(), line: 1, column: 1 };
    Step { kind: kind.into(), name: name.into(), place, spec }
}

/// A folder, files in it, and a program that takes a moment, on the real file system.
fn program(folder: &Path) -> Program {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let resources = vec![
        step("directory", "d", json!({"path": path("d"), "mode": "0755"})),
        step("file", "one", json!({"path": path("d/one"), "content": "1\n", "mode": "0644"})),
        step(
            "command",
            "slow",
            json!({"argv": ["sh", "-c", format!("sleep 0.3; touch {}", path("d/made"))], "creates": path("d/made")}),
        ),
        step("file", "two", json!({"path": path("d/two"), "content": "2\n", "mode": "0600"})),
    ];
    let stage = |name: &str, needs: Vec<String>, resources| Stage {
        name: name.into(),
        layer: name.into(),
        needs,
        resources,
        checks: vec![],
        endpoints: vec![],
    };
    let last = vec![step("link", "l", json!({"path": path("d/link"), "target": "one"}))];
    Program { stages: vec![stage("a", vec![], resources), stage("b", vec!["a".into()], last)] }
}

fn job(folder: &Path, task: Task) -> Job {
    Job { run_id: "r".into(), task, program: program(folder), secrets: vec![], by: "test".into() }
}

/// Runs a job, cutting the connection after `frames` frames of the agent. `None` when it was cut.
async fn run(folder: &Path, task: Task, frames: usize) -> (Option<Summary>, usize) {
    let paths = Paths { state: folder.join("state"), runtime: folder.join("run") };
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (input, output) = tokio::io::split(theirs);
    let agent = tokio::spawn(async move { serve(input, output, &paths).await });
    let (mut from, mut to) = tokio::io::split(ours);
    protocol::send(&mut to, &Request::Start(Box::new(job(folder, task)))).await.unwrap();
    let mut seen = 0;
    let mut summary = None;
    while seen < frames {
        match protocol::receive::<Reply>(&mut from).await {
            Ok(Some(Frame::Message(Reply::Done { summary: done }))) => summary = Some(done),
            Ok(Some(_)) => {}
            _ => break,
        }
        seen += 1;
        if summary.is_some() {
            break;
        }
    }
    drop((from, to));
    // The agent ends by itself, soon, whatever it was doing.
    tokio::time::timeout(Duration::from_secs(20), agent)
        .await
        .expect("the agent hangs after the cut")
        .unwrap()
        .unwrap();
    (summary, seen)
}

fn running_below(folder: &Path) -> Vec<String> {
    let marker = folder.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|b| b.is_ascii_digit()) || pid == std::process::id().to_string() {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&marker) {
            found.push(format!("{pid} {line}"));
        }
    }
    found
}

/// What still runs a second after the end: a killed process needs a moment to be gone.
async fn left_running(folder: &Path) -> Vec<String> {
    for _ in 0..20 {
        if running_below(folder).is_empty() {
            return Vec::new();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running_below(folder)
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_after_any_frame_is_mended_by_the_next_run() {
    if !root() {
        eprintln_skip();
        return;
    }
    let whole = tempfile::tempdir().unwrap();
    let (summary, frames) = run(whole.path(), Task::Up, usize::MAX).await;
    assert_eq!(summary.unwrap().changed, 5);
    assert!(frames > 10, "only {frames} frames: the cuts would prove little");
    for cut in 0..frames {
        let folder = tempfile::tempdir().unwrap();
        let (summary, _) = run(folder.path(), Task::Up, cut).await;
        assert!(summary.is_none());
        let left = left_running(folder.path()).await;
        assert!(left.is_empty(), "cut after frame {cut} left running: {left:?}");
        let (next, _) = run(folder.path(), Task::Up, usize::MAX).await;
        let next = next.unwrap_or_else(|| panic!("the run after cut {cut} did not end"));
        assert!(next.ok(), "the run after cut {cut} failed: {next:?}");
        let (plan, _) = run(folder.path(), Task::Plan, usize::MAX).await;
        assert_eq!(plan.unwrap().pending_changes(), 0, "after cut {cut}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_at_once_are_refused_by_name() {
    if !root() {
        eprintln_skip();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let holder =
        provision::agent::lock::Holder { run_id: "first".into(), pid: 1, by: "ann".into(), since: "today".into() };
    let _held = provision::agent::lock::Lock::take(&folder.path().join("run"), &holder).unwrap();
    let paths = Paths { state: folder.path().join("state"), runtime: folder.path().join("run") };
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (input, output) = tokio::io::split(theirs);
    let agent = tokio::spawn(async move { serve(input, output, &paths).await });
    let (mut from, mut to) = tokio::io::split(ours);
    protocol::send(&mut to, &Request::Start(Box::new(job(folder.path(), Task::Up)))).await.unwrap();
    let mut refused = None;
    while let Ok(Some(Frame::Message(reply))) = protocol::receive::<Reply>(&mut from).await {
        if let Reply::Refused { message } = reply {
            refused = Some(message);
        }
    }
    agent.await.unwrap().unwrap();
    assert!(refused.unwrap().contains("run first by ann"), "who holds the lock is not named");
}

#[allow(clippy::print_stderr)]
fn eprintln_skip() {
    eprintln!("skipped: the agent changes hosts only as root");
}
