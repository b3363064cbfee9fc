//! New content of the model directory: served when it passes, refused with a reason when not.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{PATIENCE, Server};
use crate::directories::{FEATURES, WINDOW, numbers, replace, sequence, write, write_golden, write_with};
use crate::load::while_asked;

fn version(server: &Server) -> String {
    server.get("/v1/model").json()["version"].as_str().unwrap_or_default().to_owned()
}

/// Polls until the service says something.
fn until(what: &str, mut met: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !met() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn start(dir: &Path, more: &[&str]) -> Server {
    let dir = dir.to_str().unwrap();
    Server::start(&[&["--model-dir", dir], more].concat())
}

#[test]
fn without_model_and_stub_it_is_not_ready_until_a_model_appears() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("later");
    let server = start(&dir, &["--no-stub"]);
    let ready = server.get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("model.json"), "{}", ready.text());
    let body = sequence(&numbers(1, WINDOW * FEATURES));
    let reply = server.post("/predict", &body);
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
    assert_eq!(server.get("/v1/model").status, 503);
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.metric("rul_ready"), 0.0);
    assert_eq!(server.metric("rul_stub"), 0.0);
    write(&dir, 3, "1");
    until("ready", || server.get("/readyz").status == 200);
    assert_eq!(server.post("/predict", &body).json()["model_version"], "1");
}

#[test]
fn a_stub_gives_way_to_a_model_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    assert_eq!(version(&server), "stub");
    write(dir.path(), 3, "1");
    until("version 1", || version(&server) == "1");
    assert_eq!(server.metric("rul_stub"), 0.0);
}

#[test]
fn what_fails_a_check_is_not_served_and_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &["--reload-interval", "0.02"]);
    let first = write(dir.path(), 3, "1");
    until("version 1", || version(&server) == "1");
    let at = |name: &str| dir.path().join(name);
    let good = |version: &str| {
        let model = write(dir.path(), 3, version);
        write_golden(dir.path(), &model, 0.0);
    };
    type Break<'a> = (&'a str, Box<dyn Fn() + 'a>, &'a str);
    let breaks: [Break<'_>; 7] = [
        ("wrong answers", Box::new(|| write_golden(dir.path(), &first, 0.5)), "golden.json: window 0"),
        ("golden is not JSON", Box::new(|| replace(dir.path(), "golden.json", "{")), "golden.json: EOF"),
        ("flipped bytes", Box::new(|| replace(dir.path(), "model.onnx", "rubbish")), "sha256"),
        ("manifest is not JSON", Box::new(|| replace(dir.path(), "model.json", "rubbish")), "model.json"),
        ("no manifest", Box::new(|| std::fs::remove_file(at("model.json")).unwrap()), "model.json"),
        (
            "falling edges",
            Box::new(|| replace(dir.path(), "baseline.json", r#"{"histogram":{"buckets":[2,1]}}"#)),
            "rising",
        ),
        ("the stub's name", Box::new(|| good("stub")), "not usable"),
    ];
    for (i, (what, damage, reason)) in breaks.iter().enumerate() {
        damage();
        until(what, || server.get("/v1/model").json()["last_error"].as_str().is_some_and(|e| e.contains(reason)));
        assert!(version(&server).starts_with(['1', 'g']), "{what}: still the last good one");
        let _ = std::fs::remove_file(at("baseline.json"));
        let next = format!("g{i}");
        good(&next);
        until(what, || version(&server) == next);
        until(what, || server.get("/v1/model").json()["last_error"].is_null());
    }
    // Several turns have passed over every one of them: at least seven, but not one per turn. (A
    // directory seen in the middle of being written adds a few.)
    let failures = server.metric("rul_model_reload_total{result=\"rejected\"}")
        + server.metric("rul_model_reload_total{result=\"unreadable\"}");
    assert!((7.0..40.0).contains(&failures), "{failures}");
    let settled = failures;
    replace(dir.path(), "model.onnx", "rubbish");
    until("one more", || server.get("/v1/model").json()["last_error"].is_string());
    std::thread::sleep(Duration::from_millis(300));
    let after = server.metric("rul_model_reload_total{result=\"rejected\"}")
        + server.metric("rul_model_reload_total{result=\"unreadable\"}");
    assert_eq!(after, settled + 1.0, "the same content is refused once, however often it is looked at");
}

#[test]
fn another_shape_needs_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 3, "1");
    let server = start(dir.path(), &[]);
    write_with(dir.path(), 3, "2", 14);
    until("refused", || server.get("/v1/model").json()["last_error"].as_str().is_some_and(|e| e.contains("30 x 14")));
    assert_eq!(version(&server), "1");
    assert!(!server.get("/metrics").text().contains("model_version=\"2\""), "a refused version leaves no series");
    drop(server);
    let server = start(dir.path(), &[]);
    assert_eq!(version(&server), "2");
    let reply = server.post("/predict", &json!({ "features": vec![0.5; 16] }).to_string());
    assert_eq!(reply.text(), r#"{"detail":"features: 16 numbers, expected 14"}"#);
}

#[test]
fn golden_answers_can_be_insisted_on() {
    let dir = tempfile::tempdir().unwrap();
    let model = write(dir.path(), 3, "1");
    let server = start(dir.path(), &["--require-golden"]);
    assert_eq!(version(&server), "stub");
    write_golden(dir.path(), &model, 0.0);
    until("version 1", || version(&server) == "1");
}

#[test]
fn reload_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 3, "1");
    let path = dir.path().to_str().unwrap();
    let server = Server::start_with(&["--model-dir", path, "--reload-interval", "0"], &[("RUL_TOKEN", "t")]);
    let reload = || server.open().send("POST", "/-/reload", &[("authorization", "Bearer t")], b"");
    assert_eq!(server.post("/-/reload", "").status, 401);
    assert_eq!(reload().json(), json!({ "result": "unchanged", "detail": null, "model_version": "1" }));
    write(dir.path(), 4, "2");
    assert_eq!(version(&server), "1", "no polling here");
    assert_eq!(reload().json(), json!({ "result": "loaded", "detail": null, "model_version": "2" }));
    replace(dir.path(), "model.onnx", "rubbish");
    let kept = reload();
    assert_eq!((kept.status, &kept.json()["model_version"]), (409, &json!("2")));
}

#[test]
fn ten_reloads_under_load_fail_nobody_and_mix_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let window = numbers(1, WINDOW * FEATURES);
    let scratch = tempfile::tempdir().unwrap();
    let expected: Vec<f32> =
        (0..=10).map(|i| write(scratch.path(), 100 + i, "x").predict_all(&window).unwrap()[0]).collect();
    write(dir.path(), 100, "0");
    let server = start(dir.path(), &["--reload-interval", "0.02"]);
    while_asked(&server, &window, &expected, || {
        for i in 1..=10 {
            write(dir.path(), 100 + i, &i.to_string());
            let wanted = i.to_string();
            until("the next version", || version(&server) == wanted);
        }
    });
    assert_eq!(server.metric("rul_model_reload_total{result=\"ok\"}"), 11.0);
    let series = server.get("/metrics").text().matches("rul_prediction_count{").count();
    assert_eq!(series, 8, "old versions go, the number of series stays");
}
