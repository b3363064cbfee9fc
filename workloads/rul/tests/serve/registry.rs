//! Following the registry: the same expectations of a directory and of a real MLflow.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use rul::registry::{PRODUCTION, Registry, RunInfo, STAGING, Version};
use serde_json::json;

use crate::client::{PATIENCE, Reply, Server};
use crate::directories::{FEATURES, WINDOW, numbers, sequence, write, write_golden, write_with};
use crate::load::while_asked;
use crate::mlflow;

const MODEL: &str = "cmapss-rul";

fn until(what: &str, mut met: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !met() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A registry, models to put into it, a cache for the service.
struct Bench {
    dir: tempfile::TempDir,
    uri: String,
    registry: Registry,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(uri: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let uri = uri.unwrap_or_else(|| format!("file://{}", dir.path().join("registry").display()));
        let registry = Registry::open(&uri, rul::http::unhurried().unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { dir, uri, registry, runtime }
    }

    fn artifact(&self, seed: u64) -> std::path::PathBuf {
        let dir = self.dir.path().join(format!("artifact-{seed}"));
        // The version in the manifest is training's; the registry's number is the one to show.
        let model = write(&dir, seed, "from training");
        write_golden(&dir, &model, 0.0);
        dir
    }

    fn register(&self, artifact: &Path) -> Version {
        self.runtime.block_on(self.registry.register(MODEL, artifact, &RunInfo::default())).unwrap()
    }

    fn point(&self, alias: &str, version: &str) {
        self.runtime.block_on(self.registry.set_alias(MODEL, alias, version)).unwrap();
    }

    fn start(&self, more: &[&str], env: &[(&str, &str)]) -> Server {
        let cache = self.dir.path().join("cache");
        let all = [("MLFLOW_TRACKING_URI", self.uri.as_str()), ("RUL_CACHE_DIR", cache.to_str().unwrap())];
        Server::start_with(more, &[&all, env].concat())
    }
}

fn model(server: &Server) -> serde_json::Value {
    server.get("/v1/model").json()
}

fn version(server: &Server) -> String {
    model(server)["version"].as_str().unwrap_or_default().to_owned()
}

fn last_error(server: &Server) -> String {
    model(server)["last_error"].as_str().unwrap_or_default().to_owned()
}

/// Eleven versions; what each of them answers to the window, by its number.
fn eleven_versions(bench: &Bench, window: &[f32]) -> Vec<f32> {
    let mut expected = vec![f32::NAN];
    for seed in 0..=10 {
        let artifact = bench.artifact(seed);
        expected.push(write(&artifact, seed, "from training").predict_all(window).unwrap()[0]);
        bench.register(&artifact);
    }
    expected
}

/// Ten times the alias moves while clients ask without a pause.
fn ten_moves_under_load(bench: &Bench) {
    let window = numbers(1, WINDOW * FEATURES);
    let expected = eleven_versions(bench, &window);
    bench.point(PRODUCTION, "1");
    let server = bench.start(&[], &[]);
    until("the first version", || version(&server) == "1");
    while_asked(&server, &window, &expected, || {
        for next in 2..=11 {
            bench.point(PRODUCTION, &next.to_string());
            until("the next version", || version(&server) == next.to_string());
        }
    });
    assert_eq!(server.metric("rul_model_reload_total{result=\"ok\"}"), 11.0);
    let shown = model(&server);
    assert_eq!(shown["registered"]["version"], "11");
    assert_eq!(shown["registered"]["registry"], bench.registry.shown());
    assert_eq!((&shown["golden_windows"], &shown["last_error"]), (&json!(2), &json!(null)));
    // After the exchange, so that nobody waits for it.
    until("old versions leave the disk", || {
        let kept = std::fs::read_dir(bench.dir.path().join("cache").join(MODEL)).unwrap().flatten();
        kept.filter(|e| e.path().is_dir()).count() == 4
    });
}

#[test]
fn ten_moves_of_an_alias_in_a_directory() {
    ten_moves_under_load(&Bench::new(None));
}

#[test]
fn a_real_mlflow_that_moves_its_alias_tells_us_and_goes_away() {
    let Some(mut mlflow) = mlflow::Server::start() else { return };
    let bench = Bench::new(Some(mlflow.uri()));
    ten_moves_under_load(&bench);

    // A delivery comes long before the next look would.
    let hour = ["--reload-interval", "3600"];
    let server = bench.start(&hour, &[("MLFLOW_WEBHOOK_SECRET", "a secret of tests")]);
    until("the newest version", || version(&server) == "11");
    let client = mlflow_client::Client::new(rul::http::unhurried().unwrap(), &bench.uri).unwrap();
    let url = format!("http://{}/-/webhook", server.address);
    let events = [mlflow_client::webhook::Event::alias_set()];
    bench.runtime.block_on(client.create_webhook("rul", &url, &events, "a secret of tests")).unwrap();
    // MLflow reads its subscriptions anew every second here.
    std::thread::sleep(Duration::from_millis(1500));
    let moved = Instant::now();
    bench.point(PRODUCTION, "3");
    until("the delivery's version", || version(&server) == "3");
    assert!(moved.elapsed() < Duration::from_secs(15), "{:?}", moved.elapsed());
    assert_eq!(server.metric("rul_webhook_total{result=\"accepted\"}"), 1.0);
    bench.point("other", "3");
    until("a delivery about another alias", || server.metric("rul_webhook_total{result=\"ignored\"}") == 1.0);
    drop(server);

    // Without MLflow: a running service goes on, a new one starts from its disk.
    let server = bench.start(&["--reload-interval", "0.2"], &[]);
    until("version 3", || version(&server) == "3");
    mlflow.stop();
    until("the trouble is told", || last_error(&server).contains("no answer"));
    let body = sequence(&numbers(1, WINDOW * FEATURES));
    assert_eq!(server.post("/predict", &body).json()["model_version"], "3");
    drop(server);
    let server = bench.start(&["--reload-interval", "0.2"], &[]);
    assert_eq!(server.wait_for("model_not_loaded")["still_serving"], "3", "loaded before it listened");
    assert_eq!(server.post("/predict", &body).json()["model_version"], "3");
    assert_eq!(server.get("/readyz").json()["is_stub"], false);
    let checked = server.metric("rul_model_last_check_timestamp_seconds");
    assert_eq!(checked, 0.0, "the registry never answered this process");

    mlflow.restart();
    bench.point(PRODUCTION, "4");
    until("it is back", || version(&server) == "4");
    assert_eq!(last_error(&server), "");
}

#[test]
fn a_stub_until_there_is_an_alias_and_never_again() {
    let bench = Bench::new(None);
    let server = bench.start(&[], &[]);
    assert_eq!(version(&server), "stub");
    until("the reason", || last_error(&server).contains("no alias \"production\""));
    assert_eq!(server.metric("rul_model_reload_total{result=\"unreadable\"}"), 0.0, "waiting is no failure");
    bench.register(&bench.artifact(1));
    bench.point(PRODUCTION, "1");
    until("version 1", || version(&server) == "1");
    bench.runtime.block_on(bench.registry.delete_alias(MODEL, PRODUCTION)).unwrap();
    until("the reason", || last_error(&server).contains("no alias"));
    assert_eq!(version(&server), "1", "what works goes on");
}

#[test]
fn a_bad_version_is_refused_once_and_the_old_one_stays() {
    let bench = Bench::new(None);
    bench.register(&bench.artifact(1));
    bench.point(PRODUCTION, "1");
    let server = bench.start(&["--reload-interval", "0.02"], &[("RUL_TOKEN", "t")]);
    until("version 1", || version(&server) == "1");
    let refused = |version: &str, reason: &str| {
        let before = server.metric("rul_model_reload_total{result=\"rejected\"}");
        bench.point(PRODUCTION, version);
        until(reason, || last_error(&server).contains(reason));
        assert!(last_error(&server).contains(&format!("version {version}")), "{}", last_error(&server));
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(server.metric("rul_model_reload_total{result=\"rejected\"}"), before + 1.0);
        assert_eq!(self::version(&server), "1");
    };

    // Golden answers that the model does not give.
    let wrong = bench.artifact(2);
    let other = write(&bench.dir.path().join("scratch"), 9, "x");
    write_golden(&wrong, &other, 3.0);
    bench.register(&wrong);
    refused("2", "golden.json");
    // Another shape.
    let shape = bench.dir.path().join("shape");
    write_with(&shape, 3, "x", 14);
    bench.register(&shape);
    refused("3", "30 x 14");
    // Something else than was registered.
    bench.register(&bench.artifact(4));
    let stored = bench.dir.path().join("registry/cmapss-rul/versions/4/artifact");
    write(&stored, 5, "swapped");
    refused("4", "SHA-256");

    // Repaired: asked for explicitly, it gets another look.
    let reload = || server.open().send("POST", "/-/reload", &[("authorization", "Bearer t")], b"");
    assert_eq!(reload().status, 409);
    write(&stored, 4, "from training");
    let again = reload();
    assert_eq!((again.status, again.json()["model_version"].as_str()), (200, Some("4")), "{}", again.text());
    // A copy on our disk that rotted is fetched again.
    bench.register(&bench.artifact(6));
    bench.point(PRODUCTION, "5");
    until("version 5", || version(&server) == "5");
    let cached = std::fs::read_dir(bench.dir.path().join("cache").join(MODEL)).unwrap().flatten();
    let four = cached.map(|e| e.path()).find(|p| p.file_name().unwrap().to_str().unwrap().starts_with("4-")).unwrap();
    std::fs::write(four.join("model.onnx"), "rot").unwrap();
    bench.point(PRODUCTION, "4");
    until("version 4", || version(&server) == "4");
}

#[test]
fn a_cache_that_cannot_be_written_says_what_to_do() {
    let bench = Bench::new(None);
    bench.register(&bench.artifact(1));
    bench.point(PRODUCTION, "1");
    std::fs::write(bench.dir.path().join("cache"), "a file").unwrap();
    let server = bench.start(&[], &[]);
    until("the reason", || last_error(&server).contains("RUL_CACHE_DIR"));
    assert_eq!(version(&server), "stub");
}

/// What MLflow delivers when an alias was moved.
fn moved(alias: &str, model: &str) -> String {
    json!({ "entity": "model_version_alias", "action": "created", "timestamp": "2026-01-01T00:00:00Z",
            "data": { "name": model, "alias": alias, "version": "1" } })
    .to_string()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Delivers as MLflow does, signed with `secret` at `time`.
fn deliver(server: &Server, secret: &str, time: u64, body: &str) -> Reply {
    let time = time.to_string();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, format!("d.{time}.{body}").as_bytes());
    let signature = format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(tag));
    let headers = [
        ("x-mlflow-delivery-id", "d"),
        ("x-mlflow-timestamp", time.as_str()),
        ("x-mlflow-signature", signature.as_str()),
    ];
    server.open().send("POST", "/-/webhook", &headers, body.as_bytes())
}

#[test]
fn ten_moves_told_by_signed_deliveries() {
    let bench = Bench::new(None);
    let window = numbers(1, WINDOW * FEATURES);
    let expected = eleven_versions(&bench, &window);
    bench.point(PRODUCTION, "1");
    // Nobody looks by the clock.
    let server = bench.start(&["--reload-interval", "3600"], &[("MLFLOW_WEBHOOK_SECRET", "s3cret")]);
    until("the first version", || version(&server) == "1");
    while_asked(&server, &window, &expected, || {
        for next in 2..=11 {
            bench.point(PRODUCTION, &next.to_string());
            assert_eq!(deliver(&server, "s3cret", now(), &moved(PRODUCTION, MODEL)).status, 200);
            until("the version that was told", || version(&server) == next.to_string());
        }
    });
    assert_eq!(server.metric("rul_webhook_total{result=\"accepted\"}"), 10.0);
    assert_eq!(server.metric("rul_model_reload_total{result=\"ok\"}"), 11.0);
}

#[test]
fn only_signed_and_fresh_deliveries_are_believed() {
    let bench = Bench::new(None);
    let server = bench.start(&["--reload-interval", "3600"], &[("MLFLOW_WEBHOOK_SECRET", "s3cret")]);
    until("the first look", || last_error(&server).contains("no alias"));
    let now = now();
    let send = |secret: &str, time: u64, body: &str| deliver(&server, secret, time, body);
    bench.register(&bench.artifact(1));
    bench.point(PRODUCTION, "1");
    let ours = moved("production", MODEL);
    assert_eq!(server.open().send("POST", "/-/webhook", &[], ours.as_bytes()).status, 401);
    assert_eq!(send("wrong", now, &ours).status, 401);
    assert_eq!(send("s3cret", now - 3600, &ours).status, 401);
    assert_eq!(send("s3cret", now, "{}").status, 400);
    assert_eq!(server.open().send("POST", "/-/webhook", &[], &[b'x'; 70_000]).status, 413);
    for other in [moved("staging", MODEL), moved("production", "other")] {
        assert_eq!(send("s3cret", now, &other).status, 200);
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(version(&server), "stub", "nobody looked");
    assert_eq!(server.metric("rul_webhook_total{result=\"rejected\"}"), 5.0);
    assert_eq!(server.metric("rul_webhook_total{result=\"ignored\"}"), 2.0);
    let accepted = send("s3cret", now, &ours);
    assert_eq!((accepted.status, accepted.text().as_str()), (200, r#"{"result":"looking"}"#));
    until("version 1", || version(&server) == "1");
    drop(server);

    let server = bench.start(&[], &[]);
    let off = server.open().send("POST", "/-/webhook", &[], ours.as_bytes());
    assert_eq!(off.status, 403);
    assert!(off.text().contains("MLFLOW_WEBHOOK_SECRET"), "{}", off.text());
}

#[test]
fn a_challenger_in_the_shadow_predicts_beside_and_answers_nobody() {
    let bench = Bench::new(None);
    for seed in 1..=3 {
        bench.register(&bench.artifact(seed));
    }
    bench.point(PRODUCTION, "1");
    bench.point(STAGING, "2");
    let server = bench.start(&["--shadow-alias", "staging", "--shadow-share", "1"], &[]);
    until("the challenger", || model(&server)["shadow"]["version"] == "2");
    let window = numbers(1, WINDOW * FEATURES);
    let predicted = |seed| write(&bench.dir.path().join("scratch"), seed, "x").predict_all(&window).unwrap()[0];
    for _ in 0..20 {
        let reply = server.post("/predict", &sequence(&window)).json();
        let rul = reply["rul"].as_f64().unwrap() as f32;
        assert_eq!((reply["model_version"].as_str(), rul), (Some("1"), predicted(1)));
        // One at a time: the queue is short on purpose.
        std::thread::sleep(Duration::from_millis(2));
    }
    let done = "rul_shadow_total{result=\"predicted\"}";
    let dropped = "rul_shadow_total{result=\"dropped\"}";
    until("all predicted", || server.metric(done) + server.metric(dropped) == 20.0);
    let count = server.metric(done);
    assert!(count > 0.0);
    let series = |name: &str, version: u32| format!("{name}{{model=\"cmapss-rul\",model_version=\"{version}\"}}");
    assert_eq!(server.metric(&series("rul_shadow_prediction_count", 2)), count);
    let sum = server.metric(&series("rul_shadow_prediction_sum", 2));
    assert!((sum / count - f64::from(predicted(2))).abs() < 1e-3, "{sum} of {count}");
    assert_eq!(server.metric(&series("rul_prediction_count", 1)), 20.0);
    let text = server.get("/metrics").text();
    assert!(!text.contains(&series("rul_prediction_count", 2)), "the shadow is no answer");
    assert!(text.contains("rul_shadow_info{model=\"cmapss-rul\",version=\"2\"} 1"), "{text}");
    let difference = server.metric("rul_shadow_difference_cycles_sum") / count;
    assert!((difference - f64::from((predicted(1) - predicted(2)).abs())).abs() < 1e-3, "{difference}");

    // Promoted, the challenger leaves the shadow and counts from zero as what it is now.
    bench.point(PRODUCTION, "2");
    until("no challenger", || version(&server) == "2" && model(&server)["shadow"].is_null());
    assert_eq!(server.metric(&series("rul_prediction_count", 2)), 0.0);
    bench.point(STAGING, "3");
    until("the next challenger", || model(&server)["shadow"]["version"] == "3");
    drop(server);

    let status = std::process::Command::new(env!("CARGO_BIN_EXE_rul"))
        .args(["serve", "--listen", "127.0.0.1:0", "--shadow-alias", "staging"])
        .env_clear()
        .output()
        .unwrap();
    assert!(!status.status.success());
    assert!(String::from_utf8_lossy(&status.stderr).contains("--shadow-alias needs a registry"));
}
