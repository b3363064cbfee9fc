//! A trained model in the registry, and what Python makes of it there.

use std::process::Command;

use rul::artifact::{Artifact, Golden};
use rul::registry::{PRODUCTION, Registry, STAGING};

use crate::mlflow;
use crate::program::{line, rul, stderr, write_data};

/// Loads what the alias points to, as MLflow's users do, and asks it for the golden answers.
const PREDICT: &str = r#"
import json, sys
import mlflow, numpy as np
uri, golden = sys.argv[1], json.load(open(sys.argv[2]))
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model("models:/cmapss-rul@staging")
answer = model.predict(np.array(golden["windows"], dtype=np.float32))
answer = np.asarray(answer["output"] if hasattr(answer, "keys") else answer, dtype=np.float64).reshape(-1)
worst = np.abs(answer - np.array(golden["expected"])).max()
assert len(answer) == len(golden["expected"]) == 8, answer
assert worst <= golden["tolerance"], (worst, answer, golden["expected"])
run = mlflow.MlflowClient(uri).get_run(sys.argv[3])
assert run.info.status == "FINISHED" and run.data.params["dataset"] == "FD001", run
history = mlflow.MlflowClient(uri).get_metric_history(sys.argv[3], "val_rmse")
assert [m.step for m in history] == [1, 2], history
assert mlflow.get_experiment(run.info.experiment_id).name == "trials"
print("RESULT", run.data.tags["trigger.cause"], run.data.params["data_sha256"], run.data.tags["code.version"])
"#;

fn registered(uri: &str) -> (tempfile::TempDir, serde_json::Value) {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    write_data(&data, 50);
    let said = line(
        rul(&[
            "train",
            "--json",
            "--epochs",
            "2",
            "--seeds",
            "2",
            "--registry",
            uri,
            "--experiment",
            "trials",
            "--model",
            "cmapss-rul",
        ])
        .arg("--data")
        .arg(&data)
        .arg("--out")
        .arg(home.path().join("model"))
        .env("RUL_TRIGGER_CAUSE", "regime"),
    );
    assert_eq!(said["registered_version"], "1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let registry = Registry::open(uri, rul::http::unhurried().unwrap()).unwrap();
        assert_eq!(registry.alias("cmapss-rul", PRODUCTION).await.unwrap(), None, "only promotion serves a model");
        let version = registry.alias("cmapss-rul", STAGING).await.unwrap().unwrap();
        assert_eq!(version.tags["trigger.cause"], "regime");
        assert_eq!(said["data_sha256"], version.tags["data.sha256"].as_str());
        let metrics = registry.metrics(&version).await.unwrap();
        assert_eq!(Some(metrics["best_val_rmse"]), said["val_rmse"].as_f64());
        assert_eq!(Some(metrics["test_rmse"]), said["test_rmse"].as_f64());
        assert!(metrics.contains_key("seed_123/val_rmse") && metrics.contains_key("val_rmse"), "{metrics:?}");
        let back = home.path().join("back");
        registry.download(&version, &back).await.unwrap();
        assert_eq!(said["model_sha256"], Artifact::read(&back).unwrap().manifest.sha256.as_str());
    });
    // The next step of the loop takes it as it is.
    let promoted = line(rul(&["promote", "--registry", uri, "--data"]).arg(&data));
    assert_eq!((promoted["decision"].as_str(), promoted["new_version"].as_str()), (Some("first_model"), Some("1")));
    (home, said)
}

#[test]
fn in_a_directory() {
    let registry = tempfile::tempdir().unwrap();
    registered(registry.path().to_str().unwrap());
}

#[test]
fn the_registry_alone_is_place_enough() {
    let home = tempfile::tempdir().unwrap();
    let uri = format!("file://{}", home.path().join("registry").display());
    let said = line(&mut rul(&[
        "train",
        "--json",
        "--generate",
        "--engines",
        "12",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--registry",
        &uri,
    ]));
    assert_eq!((&said["out"], said["registered_version"].as_str()), (&serde_json::Value::Null, Some("1")));
}

#[test]
fn in_a_real_mlflow_where_python_predicts_the_golden_answers() {
    let Some(server) = mlflow::Server::start() else { return };
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("model");
    let said = line(
        rul(&[
            "train",
            "--json",
            "--generate",
            "--engines",
            "20",
            "--epochs",
            "2",
            "--seeds",
            "1",
            "--experiment",
            "trials",
        ])
        .args(["--registry", &server.uri(), "--out"])
        .arg(&out)
        .env("RUL_TRIGGER_CAUSE", "regime"),
    );
    let golden: Golden = serde_json::from_slice(&std::fs::read(out.join("golden.json")).unwrap()).unwrap();
    assert_eq!(golden.windows.len(), 8);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = runtime.block_on(async {
        let registry = Registry::open(&server.uri(), rul::http::unhurried().unwrap()).unwrap();
        registry.alias("cmapss-rul", STAGING).await.unwrap().unwrap().run_id.unwrap()
    });
    let output = Command::new(mlflow::python().unwrap())
        .args(["-c", PREDICT, &server.uri(), out.join("golden.json").to_str().unwrap(), &run])
        .env("MLFLOW_DISABLE_TELEMETRY", "true")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", stderr(&output));
    let result = text.lines().find_map(|line| line.strip_prefix("RESULT ")).unwrap();
    let words: Vec<&str> = result.split(' ').collect();
    assert_eq!(words[0], "regime");
    assert_eq!(said["data_sha256"], words[1]);
    assert_eq!(said["code_version"], words[2]);
    assert!(words[2].contains("+sha256."), "{result}");
}
