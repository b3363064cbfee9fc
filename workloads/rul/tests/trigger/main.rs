//! `rul trigger` as a process: real payloads in, runs out, and nothing lost when it dies in between.
//!
//! KFP is a stand-in here, with the paths, fields and status codes of its v2beta1 API as a running 2.17 gave them: a whole KFP takes
//! a cluster. The run is a real program.
#![allow(clippy::unwrap_used)]

mod kfp;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

struct Trigger {
    child: Child,
    url: String,
}

impl Drop for Trigger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Trigger {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rul"))
            .args(["trigger", "--listen", "127.0.0.1:0", "--pause", "1", "--state"])
            .arg(dir.join("state.json"))
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUL_TOKEN", "t0ken")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let address = lines
            .find_map(|line| {
                let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it said: {line}"));
                (event["event"] == "listening").then(|| event["address"].as_str().unwrap().to_owned())
            })
            .unwrap();
        // Whoever stops reading stops the writer.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url: format!("http://{address}") }
    }

    fn send(&self, body: &Value) -> (u16, Value) {
        self.send_as(Some("t0ken"), body.to_string())
    }

    fn send_as(&self, token: Option<&str>, body: String) -> (u16, Value) {
        runtime().block_on(async {
            let mut request = client().post(format!("{}/webhook/drift", self.url)).body(body);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json().await.unwrap())
        })
    }

    fn get(&self, path: &str) -> (u16, String) {
        runtime().block_on(async {
            let answer = client().get(format!("{}{path}", self.url)).bearer_auth("t0ken").send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        })
    }

    fn incident(&self) -> Value {
        let incidents: Value = serde_json::from_str(&self.get("/incidents").1).unwrap();
        incidents[0]["progress"].clone()
    }

    #[track_caller]
    fn wait_for(&self, is: &str) {
        let end = Instant::now() + PATIENCE;
        while self.incident()["is"] != is {
            assert!(Instant::now() < end, "still {} instead of {is}", self.incident());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().tls_certs_only([]).timeout(PATIENCE).build().unwrap()
}

/// What Alertmanager 0.28 sends for one alert.
fn payload(status: &str, starts_at: &str, cause: &str) -> Value {
    let labels = json!({"alertname": "ModelDriftDetected", "severity": "warning", "service": "fastapi", "model_name": "cmapss-rul", "baseline_version": "7", "cause": cause});
    json!({
        "version": "4", "status": status, "receiver": "model-drift", "groupKey": "{}:{}", "truncatedAlerts": 0,
        "groupLabels": {"alertname": "ModelDriftDetected"}, "commonLabels": labels, "commonAnnotations": {}, "externalURL": "http://x",
        "alerts": [{"status": status, "labels": labels, "annotations": {}, "startsAt": starts_at, "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "", "fingerprint": cause}],
    })
}

/// A run that notes that it ran.
fn runs(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("runs")).unwrap_or_default().lines().count()
}

fn note(dir: &Path, then: &str) -> String {
    format!("echo $RUL_TRIGGER_RUN $RUL_TRIGGER_CAUSE >> {}; {then}", dir.join("runs").display())
}

#[test]
fn one_alert_one_run_however_often_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let trigger = Trigger::start(dir, &["--exec", "sh", "-c", &note(dir, "true")]);
    let (status, answer) = trigger.send(&payload("firing", "2026-11-25T10:00:00Z", "regime"));
    assert_eq!((status, answer["decision"].as_str()), (200, Some("submitted")), "{answer}");
    assert!(answer["run_name"].as_str().unwrap().starts_with("drift-triggered-baseline-v7-"));
    trigger.wait_for("done");
    let (status, answer) = trigger.send(&payload("firing", "2026-11-25T10:00:00Z", "regime"));
    assert_eq!((status, answer["decision"].as_str()), (200, Some("skipped")));
    assert!(answer["reason"].as_str().unwrap().starts_with("debounced_duplicate"));
    // Fired anew within the cool-down: it waits, and resolved it is gone.
    let (status, answer) = trigger.send(&payload("firing", "2026-11-25T10:01:00Z", "regime"));
    assert_eq!((status, answer["decision"].as_str()), (200, Some("skipped")), "{answer}");
    assert_eq!(trigger.send(&payload("resolved", "2026-11-25T10:01:00Z", "regime")).0, 200);
    let (_, metrics) = trigger.get("/metrics");
    assert!(
        metrics.contains("\nrul_trigger_waiting 0\n") && metrics.contains("drift_webhook_kfp_runs_total 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("drift_webhook_events_total{result=\"submitted\"} 1"), "{metrics}");
    // Another cause needs no cool-down.
    assert_eq!(trigger.send(&payload("firing", "2026-11-25T10:02:00Z", "sensors")).1["decision"], "submitted");
    assert_eq!(runs(dir), 2);
}

#[test]
fn others_and_rubbish_are_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let trigger = Trigger::start(dir.path(), &["--exec", "true"]);
    for (token, body, expected) in [
        (None, payload("firing", "t", "regime").to_string(), 401),
        (Some("wrong"), payload("firing", "t", "regime").to_string(), 401),
        (Some("t0ken"), "{".to_owned(), 422),
        (Some("t0ken"), "[]".to_owned(), 422),
        (
            Some("t0ken"),
            payload("firing", "t", "regime").to_string().replace("\"version\":\"4\"", "\"version\":\"3\""),
            422,
        ),
        (Some("t0ken"), format!("{{\"version\":\"{}", "4".repeat(1 << 20)), 413),
    ] {
        let (status, answer) = trigger.send_as(token, body);
        assert_eq!(status, expected, "{answer}");
        assert!(answer["detail"].as_str().unwrap().len() > 10);
    }
    let mut other = payload("firing", "t", "regime");
    other["alerts"][0]["labels"]["alertname"] = "NodeDown".into();
    assert_eq!(trigger.send(&other).1["reason"], "alertname=NodeDown");
    assert_eq!(trigger.get("/incidents").1, "[]");
}

#[test]
fn a_run_that_fails_is_repeated_and_its_alert_is_not_debounced_away() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Fails the first time.
    let script = note(dir, &format!("[ $(wc -l < {}) -ge 2 ]", dir.join("runs").display()));
    let trigger = Trigger::start(dir, &["--exec", "sh", "-c", &script]);
    trigger.send(&payload("firing", "2026-11-25T10:00:00Z", "regime"));
    trigger.wait_for("done");
    assert_eq!(runs(dir), 2);
    let names: Vec<String> = std::fs::read_to_string(dir.join("runs")).unwrap().lines().map(str::to_owned).collect();
    assert_ne!(names[0], names[1], "a second attempt is another run");
}

#[test]
fn killed_in_the_middle_it_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let fake = kfp::Kfp::start();
    let args = ["--kfp", &fake.address, "--pipeline", "cmapss-rul-retraining", "--parameter", "epochs=30"];
    let mut trigger = Trigger::start(dir, &args);
    let alert = payload("firing", "2026-11-25T10:00:00Z", "regime");
    let (status, answer) = trigger.send(&alert);
    assert_eq!((status, answer["run_id"].as_str()), (200, Some("run-1")), "{answer}");
    trigger.child.kill().unwrap();
    drop(trigger);
    let trigger = Trigger::start(dir, &args);
    assert_eq!(trigger.incident()["run"], "run-1");
    assert!(trigger.send(&alert).1["reason"].as_str().unwrap().contains("run-1"));
    fake.finish("run-1", "SUCCEEDED");
    trigger.wait_for("done");
    assert_eq!(fake.runs().len(), 1);
    let run = &fake.runs()[0];
    assert_eq!(
        run["runtime_config"]["parameters"],
        json!({"epochs": 30, "trigger_cause": "regime", "baseline_version": "7"})
    );
}

#[test]
fn a_run_that_was_started_but_not_noted_down_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let fake = kfp::Kfp::start();
    let args = ["--kfp", &fake.address, "--pipeline", "cmapss-rul-retraining"];
    let alert = payload("firing", "2026-11-25T10:00:00Z", "regime");
    let trigger = Trigger::start(dir, &args);
    trigger.send(&alert);
    drop(trigger);
    // As if the crash came before the run was written down.
    std::fs::remove_file(dir.join("state.json")).unwrap();
    let trigger = Trigger::start(dir, &args);
    assert_eq!(trigger.send(&alert).1["run_id"], "run-1");
    assert_eq!(fake.runs().len(), 1, "the same name, so the same run");
}

#[test]
fn while_kfp_is_down_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let fake = kfp::Kfp::start();
    fake.down(true);
    let args = ["--kfp", &fake.address, "--pipeline", "cmapss-rul-retraining"];
    let trigger = Trigger::start(dir, &args);
    let (status, answer) = trigger.send(&payload("firing", "2026-11-25T10:00:00Z", "regime"));
    assert_eq!((status, answer["decision"].as_str()), (503, Some("kept")), "{answer}");
    assert_eq!(trigger.get("/health").0, 503);
    drop(trigger);
    fake.down(false);
    // Nobody sends it again: it was written down.
    let trigger = Trigger::start(dir, &args);
    trigger.wait_for("running");
    fake.finish("run-1", "FAILED");
    let end = Instant::now() + PATIENCE;
    while fake.runs().len() < 2 {
        assert!(Instant::now() < end, "a failed run was not repeated: {}", trigger.incident());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(trigger.get("/health").0, 200);
}

#[test]
fn it_does_not_start_half() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rul")).arg("trigger").args(args).env_clear().output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let state = dir.path().join("s.json");
    let state = state.to_str().unwrap();
    assert!(run(&["--state", state, "--exec", "true"]).contains("RUL_TOKEN"));
    assert!(run(&["--state", state, "--no-token"]).contains("--exec"));
    assert!(run(&["--state", "/proc/nowhere/s.json", "--no-token", "--exec", "true"]).contains("/proc/nowhere"));
    std::fs::write(state, "rubbish").unwrap();
    assert!(run(&["--state", state, "--no-token", "--exec", "true"]).contains("move it away"));
}
