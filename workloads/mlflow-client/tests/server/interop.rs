//! What Python logs, this client finds; what this client writes, Python reads.

use std::collections::BTreeMap;
use std::process::Command;

use mlflow_client::{Batch, Metric, NewRun, NewVersion, RunStatus};

use crate::mlflow::{Server, python};
use crate::{client, runtime};

/// Logs an ONNX model as MLflow's users do. Prints the run's id, and the model's bytes in hex.
const LOG: &str = r#"
import mlflow, onnx, sys
from onnx import TensorProto, helper
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("python")
tensor = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2])
graph = helper.make_graph([helper.make_node("Relu", ["input"], ["output"])], "g", [tensor("input")], [tensor("output")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
with mlflow.start_run() as run:
    mlflow.log_metric("val_rmse", 13.5)
    mlflow.onnx.log_model(model, name="model", registered_model_name="py", save_as_external_data=False)
    mlflow.log_text("beside", "notes/a.txt")
print("RESULT", run.info.run_id, model.SerializeToString().hex())
"#;

/// Reads what this client wrote, through Python's client only.
const READ: &str = r#"
import mlflow, pathlib, sys
from mlflow import MlflowClient
uri, run_id = sys.argv[1:]
mlflow.set_tracking_uri(uri)
c = MlflowClient(uri)
run = c.get_run(run_id)
assert run.info.status == "FINISHED", run.info.status
assert run.data.metrics == {"val_rmse": 13.25}, run.data.metrics
assert [(m.step, m.value) for m in c.get_metric_history(run_id, "val_rmse")] == [(1, 14.0), (2, 13.25)]
assert run.data.params == {"epochs": "8"}, run.data.params
assert run.data.tags["code"] == "abc", run.data.tags
v = c.get_model_version_by_alias("rust", "production")
assert (v.version, v.run_id, v.tags["decision"]) == ("1", run_id, "promoted"), v
for where in (f"runs:/{run_id}/model", "models:/rust@production", v.source):
    path = pathlib.Path(mlflow.artifacts.download_artifacts(where))
    assert (path / "model.onnx").read_bytes() == bytes(range(256)), where
    assert (path / "deep" / "er.json").read_text() == "{}", where
print("RESULT ok")
"#;

fn run_python(program: &str, args: &[&str]) -> Vec<String> {
    let output = Command::new(python().unwrap())
        .args(["-c", program])
        .args(args)
        .env("MLFLOW_DISABLE_TELEMETRY", "true")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let line = out.lines().find_map(|line| line.strip_prefix("RESULT ")).expect(&out);
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn what_python_logs_is_found_and_what_we_write_python_reads() {
    let Some(server) = Server::start() else { return };
    let mlflow = client(&server.uri());
    let from_python = run_python(LOG, &[&server.uri()]);
    let [run_id, model] = from_python.as_slice() else { panic!("{from_python:?}") };
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        // Python files it as a logged model: the source is models:/m-..
        let version = mlflow.version("py", "1").await.unwrap().unwrap();
        assert!(version.source.starts_with("models:/m-"), "{}", version.source);
        let download_uri = mlflow.download_uri("py", "1").await.unwrap();
        // The run itself has no folder "model"; the logged model of that name is found beside it.
        for (i, uri) in
            [&version.source, &download_uri, &format!("runs:/{run_id}/model"), "models:/py/1"].into_iter().enumerate()
        {
            let to = dir.path().join(i.to_string());
            let place = mlflow.resolve(uri).await.unwrap();
            let files = mlflow.download(&place, &to).await.unwrap();
            assert!(files.iter().any(|f| f.path == "MLmodel"), "{uri}: {files:?}");
            assert_eq!(hex::encode(std::fs::read(to.join("model.onnx")).unwrap()), *model, "{uri}");
        }
        let notes = mlflow.resolve(&format!("runs:/{run_id}/notes")).await.unwrap();
        assert_eq!(mlflow.download_bytes(&notes.join("a.txt"), 100).await.unwrap(), b"beside");
        assert_eq!(mlflow.run(run_id).await.unwrap().unwrap().data.metric("val_rmse"), Some(13.5));
        assert_eq!(mlflow.versions_of_run(run_id, 5).await.unwrap()[0].name, "py");

        let from = dir.path().join("ours");
        std::fs::create_dir_all(from.join("deep")).unwrap();
        std::fs::write(from.join("model.onnx"), (0..=255).collect::<Vec<u8>>()).unwrap();
        std::fs::write(from.join("deep/er.json"), "{}").unwrap();
        let new = NewRun {
            experiment_id: mlflow.ensure_experiment("python").await.unwrap(),
            start_time: 1_700_000_000_000,
            tags: BTreeMap::from([("code".into(), "abc".into())]),
            ..NewRun::default()
        };
        let ours = mlflow.create_run(&new).await.unwrap().info.run_id;
        let value = |step, value| Metric { key: "val_rmse".into(), value, timestamp: 1_700_000_000_000 + step, step };
        let batch = Batch {
            metrics: vec![value(1, 14.0), value(2, 13.25)],
            params: BTreeMap::from([("epochs".into(), "8".into())]),
            tags: BTreeMap::new(),
        };
        mlflow.log_batch(&ours, &batch).await.unwrap();
        let root = mlflow.resolve(&format!("runs:/{ours}/model")).await.unwrap();
        mlflow.upload(&from, &root).await.unwrap();
        mlflow.update_run(&ours, RunStatus::Finished, Some(1_700_000_001_000)).await.unwrap();
        mlflow.ensure_registered_model("rust", "").await.unwrap();
        let source = format!("runs:/{ours}/model");
        mlflow
            .create_version(&NewVersion { name: "rust".into(), source, run_id: ours.clone(), ..NewVersion::default() })
            .await
            .unwrap();
        mlflow.set_alias("rust", "production", "1").await.unwrap();
        mlflow.set_version_tag("rust", "1", "decision", "promoted").await.unwrap();
        assert_eq!(run_python(READ, &[&server.uri(), &ours]), ["ok"]);
    });
}
