//! `rul demo` as its users run it: the whole loop, its report in a real browser, and the ways in which it can end early.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod browser;
mod page;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

/// Traffic is judged as it comes: two demos at once on two processors judge each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rul"));
    command.arg("demo").args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn run(args: &[&str]) -> Output {
    demo(args).output().unwrap()
}

/// The last line of standard output.
fn incident(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Command lines of processes that name a place.
fn processes_in(place: &Path) -> Vec<String> {
    let place = place.display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&place) && !line.contains("rul demo")).collect()
}

fn moments(incident: &Value) -> Vec<Timestamp> {
    ["t0", "t1", "t2", "t3", "t4", "t5"].iter().map(|name| incident[*name].as_str().unwrap().parse().unwrap()).collect()
}

/// What must be so whatever the data is.
#[track_caller]
fn recovered(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    let incident = incident(output);
    assert_eq!((&incident["type"], &incident["ok"]), (&"incident".into(), &true.into()));
    assert!(moments(&incident).is_sorted_by(|a, b| a < b), "{incident}");
    assert_eq!(incident["failed_requests"], 0);
    assert!(incident["requests"].as_u64().unwrap() > 1000, "{incident}");
    assert_eq!((&incident["champion_version"], &incident["promoted_version"]), (&"1".into(), &"2".into()));
    let number = |of: &Value| of.as_f64().unwrap();
    assert!(number(&incident["rmse_drifted_after"]) < number(&incident["rmse_drifted_before"]), "{incident}");
    let decision = &incident["decision"];
    assert_eq!(decision["promoted"], true);
    // The report's own reckoning and that of `rul promote` are of the same engines.
    for whose in ["champion_rmse", "challenger_rmse"] {
        assert!((number(&incident[whose]) - number(&decision[whose])).abs() < 1e-6, "{whose}: {incident}");
    }
    let states: Vec<&str> = incident["states"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let first = states.iter().position(|state| *state == "drift").unwrap();
    let last = states.iter().rposition(|state| *state == "drift").unwrap();
    assert!(states[..first].contains(&"ok") && states[last..].contains(&"ok"), "{states:?}");
    let told = stderr(output);
    for moment in ["T0 ", "T1 ", "T2 ", "T3 ", "T4 ", "T5 ", "relay"] {
        assert!(told.contains(moment), "{moment}: {told}");
    }
    incident
}

#[test]
fn the_whole_loop_with_its_report() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (work, report) = (dir.path().join("work"), dir.path().join("rul-demo.html"));
    let output = run(&["--json", "--out", work.to_str().unwrap(), "--report", report.to_str().unwrap()]);
    let incident = recovered(&output);
    assert_eq!(incident["generated_data"], true);
    assert_eq!(processes_in(&work), Vec::<String>::new());
    // What the aliases say now is what the incident says.
    let alias = |name: &str| std::fs::read_to_string(work.join("registry/cmapss-rul/aliases").join(name)).unwrap();
    assert_eq!((alias("production").trim(), alias("previous").trim()), ("2", "1"));

    let html = std::fs::read_to_string(&report).unwrap();
    page::is_well_formed(&html);
    page::loads_nothing(&html);
    assert_eq!(html.matches("<svg ").count(), 6);
    for hash in ["champion_sha256", "challenger_sha256"] {
        assert!(html.contains(incident[hash].as_str().unwrap()), "{hash}");
    }
    let Some(browser) = browser::Browser::find() else { return };
    let dom = browser.dom(&report);
    assert!(dom.contains("recovered") && dom.contains("no request of"), "the verdict is missing");
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../screenshots");
    std::fs::create_dir_all(&pictures).unwrap();
    let light = browser.picture(&report, false, &pictures.join("rul-demo.png"));
    let dark = browser.picture(&report, true, &pictures.join("rul-demo-dark.png"));
    // A page of paper has one colour; a rendered report has text in many shades and curves.
    assert!(light.colours > 300 && dark.colours > 300, "{light:?} {dark:?}");
    assert!(light.brightness > 0.8 && dark.brightness < 0.3, "{light:?} {dark:?}");
}

/// NASA's files, where they are: `CMAPSS_DIR`, or `shared/data/cmapss` beside the project or above it.
fn real() -> Option<PathBuf> {
    let beside = || {
        let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        above.find_map(|dir| Some(dir.join("shared/data/cmapss")).filter(|d| d.is_dir()))
    };
    std::env::var_os("CMAPSS_DIR").map(PathBuf::from).or_else(beside)
}

#[test]
fn the_whole_loop_on_real_engines() {
    let _alone = alone();
    let has =
        |dir: &Path, name: &str| ["", ".gz"].iter().any(|end| dir.join(format!("train_{name}.txt{end}")).is_file());
    let names = ["FD002", "FD002_first85"];
    let found = real().and_then(|dir| Some((dir.clone(), names.into_iter().find(|name| has(&dir, name))?)));
    let Some((data, name)) = found else {
        eprintln!("left out: no C-MAPSS files (set CMAPSS_DIR)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("real.html");
    let output =
        run(&["--json", "--data", data.to_str().unwrap(), "--new-dataset", name, "--report", report.to_str().unwrap()]);
    let incident = recovered(&output);
    assert_eq!(incident["generated_data"], false);
    page::is_well_formed(&std::fs::read_to_string(&report).unwrap());
}

/// The quickest demo that gets as far as serving.
const QUICK: [&str; 6] = ["--engines", "20", "--epochs", "1", "--retrain-epochs", "1"];

#[test]
fn new_engines_that_come_too_early_are_a_clear_failure() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (work, report) = (dir.path().join("work"), dir.path().join("none.html"));
    let more = ["--calm", "0s", "--json", "--out", work.to_str().unwrap(), "--report", report.to_str().unwrap()];
    let output = run(&[&QUICK[..], &more[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains("error: T0 usual traffic: the new engines came before") && told.contains("--calm"), "{told}");
    assert!(told.contains("last lines of rul drift:"), "{told}");
    let incident = incident(&output);
    assert_eq!(incident["ok"], false);
    assert!(incident["reason"].as_str().unwrap().contains("--calm"), "{incident}");
    assert!(!report.exists());
    assert_eq!(processes_in(&work), Vec::<String>::new());
}

#[test]
fn ctrl_c_stops_everybody() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    let more = ["--out", work.to_str().unwrap(), "--report", "/dev/null/never.html"];
    let mut child = demo(&[&QUICK[..], &more[..]].concat()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("T0 serving") {
        line.clear();
        assert_ne!(told.read_line(&mut line).unwrap(), 0, "it ended early");
    }
    // Service, trigger, traffic and watch; each has something in the work directory.
    let end = Instant::now() + Duration::from_secs(60);
    while processes_in(&work).len() < 4 {
        assert!(Instant::now() < end, "{:?}", processes_in(&work));
        std::thread::sleep(Duration::from_millis(50));
    }
    let id = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("interrupted: everything that was started has been stopped"), "{rest}");
    assert_eq!(processes_in(&work), Vec::<String>::new());
}

#[test]
fn what_cannot_be_is_said_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    for (args, reason) in [
        (&["--dataset", "FD009"][..], "only FD001, FD002 and FD003 can be generated"),
        (&["--new-dataset", "FD001"], "must be of another data set"),
        (&["--data", place], "train_FD001"),
        (&["--data", "/nonexistent"], "/nonexistent"),
        (&["--out", env!("CARGO_MANIFEST_DIR")], "choose a new or an empty directory"),
    ] {
        let output = run(args);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
        assert!(told.contains(reason), "{args:?}: {told}");
        assert!(!told.contains("trained on"), "{told}");
    }
}
