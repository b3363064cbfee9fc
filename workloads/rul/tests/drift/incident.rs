//! From end to end: traffic, drift, an alert that really arrives and is really resolved.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Instant;

use cmapss::synth::Flavour;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client::Server;
use crate::fixture::{artifacts, drift, publish, send, serve, traffic};
use crate::peers::{Running, Webhook, get, get_json, programs, until};

/// A watcher that goes on; ended when dropped.
struct Watch {
    url: String,
    child: Child,
}

impl Watch {
    fn start(server: &Server, baseline: &std::path::Path, args: &[&str]) -> Self {
        let mut command = drift(server, baseline);
        command.args(["--interval", "300ms", "--listen", "127.0.0.1:0"]).args(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url = loop {
            let line = lines.next().expect("the watcher says where it listens");
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if event["event"] == "listening" {
                break format!("http://{}", event["address"].as_str().unwrap());
            }
        };
        // Nobody stops reading: a full pipe would stop the watcher.
        std::thread::spawn(move || lines.for_each(drop));
        Self { url, child }
    }

    fn state(&self) -> Value {
        get_json(&self.url)["state"].clone()
    }

    fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = get(&format!("{}/metrics", self.url));
        text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' '))?.parse().ok()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_alert_arrives_is_renewed_and_is_resolved() {
    if programs().is_none() {
        return;
    }
    let [artifact, other] = artifacts();
    let dir = tempfile::tempdir().unwrap();
    let (models, baseline) = (dir.path().join("models"), dir.path().join("baseline.json"));
    publish(artifact, &models);
    std::fs::copy(artifact.join("baseline.json"), &baseline).unwrap();
    let server = serve(&models);
    let (webhook, gateway) = (Webhook::start(), Running::pushgateway());
    let manager = Running::alertmanager(&webhook.url);
    let mut watch = Watch::start(
        &server,
        &baseline,
        &["--alertmanager", &manager.url, "--pushgateway", &gateway.url, "--window", "30s", "--alert-ttl", "4s"],
    );
    until("a first look", || (watch.state() == "insufficient_data").then_some(()));
    send(&server, &traffic(Flavour::Fd001, 40, 60, 10));
    until("ok", || (watch.state() == "ok").then_some(()));
    assert!(manager.alerts().is_empty());
    assert_eq!(get(&format!("{}/readyz", watch.url)).0, 200);

    let started = Instant::now();
    send(&server, &traffic(Flavour::Fd002, 20, 60, 5));
    let alert = until("an alert", || manager.alerts().into_iter().next());
    eprintln!("drift to alert: {:.2} s", started.elapsed().as_secs_f64());
    let version = server.get("/v1/model").json()["version"].clone();
    let labels = &alert["labels"];
    for (name, value) in [
        ("alertname", "ModelDriftDetected"),
        ("severity", "warning"),
        ("service", "fastapi"),
        ("model_name", "cmapss-rul"),
        ("cause", "regime"),
    ] {
        assert_eq!(labels[name], value);
    }
    assert_eq!(labels["baseline_version"], version);
    let firing = until("the webhook", || webhook.notified("firing"));
    assert_eq!((&firing["version"], &firing["commonLabels"]["alertname"]), (&"4".into(), &"ModelDriftDetected".into()));
    assert!(firing["commonAnnotations"]["description"].as_str().unwrap().contains("other operating regimes"));
    until("the gauge", || {
        (gateway.gauge("drift_detected{instance=\"\",job=\"evidently_drift_check\"}") == Some(1.0)).then_some(())
    });
    assert_eq!(watch.metric("drift_state{state=\"drift\"}"), Some(1.0));
    // Longer than it lives without being renewed.
    let begun = alert["startsAt"].clone();
    std::thread::sleep(std::time::Duration::from_secs(5));
    let renewed = manager.alerts();
    assert_eq!((renewed.len(), &renewed[0]["startsAt"]), (1, &begun), "renewed, not raised anew");

    // A better model with its own baseline: what fired was about the old one.
    std::fs::copy(other.join("baseline.json"), &baseline).unwrap();
    publish(other, &models);
    until("resolved", || manager.alerts().is_empty().then_some(()));
    let resolved = until("the webhook", || webhook.notified("resolved"));
    assert_eq!(resolved["alerts"][0]["labels"]["baseline_version"], version);
    until("the new model watched", || (watch.state() == "insufficient_data").then_some(()));

    // The end: no number of a process that is gone stays behind, only when it last looked.
    kill_process(Pid::from_child(&watch.child), Signal::TERM).unwrap();
    assert!(watch.child.wait().unwrap().success());
    assert_eq!(gateway.gauge("drift_check_up{instance=\"\",job=\"evidently_drift_check\"}"), None);
    let success =
        "drift_last_success_timestamp_seconds{instance=\"\",job=\"evidently_drift_check\",of=\"last_success\"}";
    assert!(gateway.gauge(success).is_some());
}

#[test]
fn drift_that_ends_is_resolved_and_a_watcher_that_dies_lets_its_alert_go() {
    if programs().is_none() {
        return;
    }
    let [artifact, _] = artifacts();
    let server = serve(artifact);
    let webhook = Webhook::start();
    let manager = Running::alertmanager(&webhook.url);
    let args = ["--alertmanager", manager.url.as_str(), "--window", "2s", "--alert-ttl", "3s", "--cool-down", "1s"];
    let watch = Watch::start(&server, artifact, &args);
    send(&server, &traffic(Flavour::Fd002, 20, 60, 5));
    until("an alert", || manager.alerts().into_iter().next());
    // Clean windows, one after the other; regimes alone can be told from so few.
    let clean = traffic(Flavour::Fd001, 30, 60, 1);
    until("resolved", || {
        send(&server, &clean);
        std::thread::sleep(std::time::Duration::from_millis(200));
        manager.alerts().is_empty().then_some(())
    });
    assert_ne!(watch.state(), "drift");
    send(&server, &traffic(Flavour::Fd002, 20, 60, 5));
    until("another alert", || manager.alerts().into_iter().next());
    drop(watch);
    until("expired by itself", || manager.alerts().is_empty().then_some(()));
}

#[test]
fn a_watcher_that_cannot_look_says_so_and_goes_on() {
    let [artifact, _] = artifacts();
    let dir = tempfile::tempdir().unwrap();
    let server = serve(artifact);
    let address = server.address.to_string();
    let watch = Watch::start(&server, artifact, &["--state-file", dir.path().join("m.json").to_str().unwrap()]);
    until("a look", || (watch.metric("drift_check_up") == Some(1.0)).then_some(()));
    drop(server);
    until("blindness", || (watch.metric("drift_check_up") == Some(0.0)).then_some(()));
    assert_eq!(get(&format!("{}/readyz", watch.url)).0, 503);
    assert_eq!(watch.metric("drift_state{state=\"ok\"}"), None);
    assert!(watch.metric("drift_look_failures_total") > Some(0.0));
    assert!(watch.metric("drift_last_success_timestamp_seconds").is_some());
    let dir = artifact.to_str().unwrap();
    let again =
        Server::start_with(&["--model-dir", dir, "--listen", &address], &[("RUL_TOKEN", crate::fixture::TOKEN)]);
    until("sight", || (watch.metric("drift_check_up") == Some(1.0)).then_some(()));
    // A ring that begins anew is read from its beginning.
    send(&again, &traffic(Flavour::Fd002, 20, 60, 2));
    until("drift", || (watch.state() == "drift").then_some(()));
}
