//! Single looks: the states, what stops a look, the memory between looks.

use std::time::Duration;

use cmapss::synth::Flavour;
use serde_json::Value;

use crate::client::Server;
use crate::fixture::{TOKEN, artifacts, drift, look, publish, send, serve, traffic};
use crate::peers::until;

fn notes(line: &Value) -> String {
    format!("{} {}", line["evaluation"]["notes"], line["notes"])
}

#[test]
fn usual_traffic_is_ok_and_every_number_has_its_n() {
    let [artifact, _] = artifacts();
    let server = serve(artifact);
    let (code, line, _) = look(&mut drift(&server, artifact));
    assert_eq!((code, &line["evaluation"]["state"]), (0, &"insufficient_data".into()), "{line}");
    assert_eq!(line["evaluation"]["sentence"], "Not enough traffic to judge anything.");
    send(&server, &traffic(Flavour::Fd001, 40, 60, 10));
    let (code, line, stderr) = look(&mut drift(&server, artifact));
    let e = &line["evaluation"];
    assert_eq!((code, &e["state"], stderr.as_str()), (0, &"ok".into(), ""), "{line:#}");
    assert_eq!(
        (&e["window"]["records"], &e["window"]["engines"], &e["window"]["compared"]),
        (&400.into(), &40.into(), &120.into())
    );
    for cause in e["causes"].as_array().unwrap() {
        assert!(cause["value"].is_number() && cause["threshold"].is_number(), "{cause}");
        assert!(cause["n"].as_u64().unwrap() >= 120 && cause["over"] == false, "{cause}");
    }
    assert_eq!(
        (&e["crosscheck"]["ring"], &e["crosscheck"]["counted"], &e["crosscheck"]["agree"]),
        (&400.into(), &400.into(), &true.into())
    );
    assert_eq!(e["overall"]["n"], 400);
    assert!(notes(&line).contains("no --state-file"), "{line}");
}

#[test]
fn other_regimes_are_drift_in_one_look() {
    let [artifact, _] = artifacts();
    let server = serve(artifact);
    send(&server, &traffic(Flavour::Fd001, 20, 60, 10));
    send(&server, &traffic(Flavour::Fd002, 20, 60, 3));
    let (code, line, _) = look(&mut drift(&server, artifact));
    let e = &line["evaluation"];
    assert_eq!(
        (code, &e["state"], &e["cause"], &e["page"]),
        (0, &"drift".into(), &"regime".into(), &true.into()),
        "{line:#}"
    );
    // The newest 60 alone: in all 260 less than a quarter moved.
    assert_eq!(e["causes"][0]["n"], 60);
    assert!(e["sentence"].as_str().unwrap().contains("other operating regimes"), "{e}");
}

#[test]
fn a_stub_and_a_model_without_its_baseline_are_not_compared() {
    let [artifact, other] = artifacts();
    let stub = Server::start_with(&[], &[("RUL_TOKEN", TOKEN)]);
    send(&stub, &traffic(Flavour::Fd001, 20, 60, 20));
    let (code, line, _) = look(&mut drift(&stub, artifact));
    assert_eq!(
        (code, &line["evaluation"]["state"], &line["evaluation"]["page"]),
        (0, &"stub".into(), &false.into()),
        "{line}"
    );
    let nothing = Server::start_with(&["--no-stub"], &[("RUL_TOKEN", TOKEN)]);
    let (code, line, _) = look(&mut drift(&nothing, artifact));
    assert_eq!((code, &line["evaluation"]["state"]), (0, &"stub".into()), "{line}");
    assert!(line["evaluation"]["sentence"].as_str().unwrap().ends_with("the service has no model."), "{line}");

    let server = serve(artifact);
    send(&server, &traffic(Flavour::Fd002, 20, 60, 20));
    let (code, line, _) = look(&mut drift(&server, other));
    assert_eq!(
        (code, &line["evaluation"]["state"], &line["evaluation"]["page"]),
        (0, &"baseline_mismatch".into(), &false.into()),
        "{line}"
    );
    assert!(notes(&line).contains("refresh the baseline"), "{line}");
}

#[test]
fn the_registry_has_the_right_baseline_where_the_file_is_another_models() {
    let [artifact, other] = artifacts();
    let registry = tempfile::tempdir().unwrap();
    let uri = registry.path().to_str().unwrap();
    crate::peers::block_on(async {
        let client = rul::http::client(Duration::from_secs(5)).unwrap();
        let registry = rul::registry::Registry::open(uri, client).unwrap();
        let info = rul::registry::RunInfo::default();
        let version = registry.register("cmapss-rul", artifact, &info).await.unwrap();
        registry.set_alias("cmapss-rul", "production", &version.version).await.unwrap();
    });
    let server = serve(artifact);
    send(&server, &traffic(Flavour::Fd001, 40, 60, 10));
    let (code, line, _) = look(drift(&server, other).args(["--registry", uri]));
    assert_eq!((code, &line["evaluation"]["state"]), (0, &"ok".into()), "{line:#}");
    assert_eq!(line["evaluation"]["model"]["baseline_version"], "1");
    assert!(notes(&line).contains("the one in the registry is used"), "{line}");
}

#[test]
fn a_closed_ring_proves_nothing_but_shows_the_histogram() {
    let [artifact, _] = artifacts();
    let server = Server::start(&["--model-dir", artifact.to_str().unwrap()]);
    until("a model", || (server.get("/v1/model").status == 200).then_some(()));
    send(&server, &traffic(Flavour::Fd002, 20, 60, 20));
    let (code, line, _) = look(&mut drift(&server, artifact));
    let e = &line["evaluation"];
    assert_eq!((code, &e["state"]), (0, &"insufficient_data".into()), "{line:#}");
    assert_eq!((&e["overall"]["n"], &e["window"]["records"]), (&400.into(), &0.into()));
    assert!(notes(&line).contains("start the service with RUL_TOKEN"), "{line}");
}

#[test]
fn what_stops_a_look_is_an_exit_status_and_a_sentence() {
    let [artifact, _] = artifacts();
    let server = serve(artifact);
    let missing = artifact.join("no-such.json");
    let nowhere = "http://127.0.0.1:9";
    let cases: [(&[&str], &str); 5] = [
        (&["--service", nowhere], "the prediction service at http://127.0.0.1:9: "),
        (&["--baseline", missing.to_str().unwrap()], "cannot read "),
        (&["--alertmanager", nowhere], "Alertmanager at http://127.0.0.1:9: "),
        (&["--pushgateway", nowhere], "the Pushgateway at http://127.0.0.1:9: "),
        (&["--state-file", "/no/such/place/memory.json"], "cannot keep the memory in /no/such/place/memory.json: "),
    ];
    send(&server, &traffic(Flavour::Fd001, 40, 60, 10));
    for (args, reason) in cases {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rul"));
        command.env_clear().env("RUL_TOKEN", TOKEN).arg("drift").args(args);
        if !args.contains(&"--service") {
            command.arg("--service").arg(format!("http://{}", server.address));
        }
        if !args.contains(&"--baseline") {
            command.arg("--baseline").arg(artifact);
        }
        let (code, line, stderr) = look(&mut command);
        assert_eq!((code, &line["ok"]), (1, &false.into()), "{args:?}: {line}");
        assert!(stderr.starts_with(&format!("error: {reason}")), "{args:?}: {stderr}");
    }
    let wrong = server.address;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rul"));
    command.env_clear().env("RUL_TOKEN", "another").args(["drift", "--service", &format!("http://{wrong}")]);
    let (code, line, _) = look(command.arg("--baseline").arg(artifact));
    assert_eq!(code, 0);
    assert!(notes(&line).contains("it refused the token"), "{line}");
}

#[test]
fn a_small_shift_needs_two_windows_and_a_memory() {
    let [artifact, _] = artifacts();
    let server = serve(artifact);
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("memory.json");
    let state = state.to_str().unwrap();
    // A fifth of the flights, evenly.
    let shift = || {
        let (usual, other) = (traffic(Flavour::Fd001, 40, 60, 8), traffic(Flavour::Fd002, 10, 60, 12));
        let mut other = other.into_iter();
        for part in usual.chunks(4) {
            send(&server, part);
            send(&server, &other.by_ref().take(1).collect::<Vec<_>>());
        }
    };
    shift();
    let once = |more: &[&str]| look(drift(&server, artifact).args(["--window", "4s"]).args(more)).1;
    let without = once(&[]);
    assert_eq!(without["evaluation"]["state"], "suspect", "{without:#}");
    let first = once(&["--state-file", state]);
    assert_eq!(first["evaluation"]["state"], "suspect", "{first:#}");
    let again = once(&["--state-file", state]);
    assert_eq!(again["evaluation"]["state"], "suspect", "the same window again is no second one: {again:#}");
    std::thread::sleep(Duration::from_millis(3700));
    shift();
    let second = once(&["--state-file", state]);
    assert_eq!(
        (&second["evaluation"]["state"], &second["evaluation"]["cause"]),
        (&"drift".into(), &"regime".into()),
        "{second:#}"
    );
    assert_eq!(second["alert_firing"], true);
    let forgetful = once(&[]);
    assert_eq!(forgetful["evaluation"]["state"], "suspect", "{forgetful:#}");
    std::fs::write(state, "{").unwrap();
    let lost = once(&["--state-file", state]);
    assert!(notes(&lost).contains("the memory of earlier looks was lost"), "{lost}");
    assert_eq!(lost["evaluation"]["state"], "suspect");
}

#[test]
fn another_version_is_another_beginning() {
    let [artifact, other] = artifacts();
    let dir = tempfile::tempdir().unwrap();
    let models = dir.path().join("models");
    publish(artifact, &models);
    let server = serve(&models);
    let state = dir.path().join("memory.json");
    let state = state.to_str().unwrap();
    send(&server, &traffic(Flavour::Fd002, 20, 60, 20));
    let (_, line, _) = look(drift(&server, artifact).args(["--state-file", state]));
    assert_eq!((&line["evaluation"]["state"], &line["alert_firing"]), (&"drift".into(), &true.into()), "{line:#}");
    let before = server.get("/v1/model").json()["sha256"].clone();
    publish(other, &models);
    until("the other model", || (server.get("/v1/model").json()["sha256"] != before).then_some(()));
    // The old baseline is not compared with the new model, and the alert about the old one is over.
    let (_, line, _) = look(drift(&server, artifact).args(["--state-file", state]));
    assert_eq!(
        (&line["evaluation"]["state"], &line["alert_firing"]),
        (&"baseline_mismatch".into(), &false.into()),
        "{line:#}"
    );
    // With its own baseline it begins at nothing: the old version's predictions do not count.
    send(&server, &traffic(Flavour::Fd001, 40, 60, 10));
    let (_, line, _) = look(drift(&server, other).args(["--state-file", state]));
    assert_eq!(line["evaluation"]["state"], "ok", "{line:#}");
    assert_eq!(
        (&line["evaluation"]["window"]["records"], &line["evaluation"]["window"]["other_versions"]),
        (&400.into(), &400.into())
    );
}
