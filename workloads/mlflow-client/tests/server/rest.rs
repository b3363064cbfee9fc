//! Every call, on one server.

use std::collections::BTreeMap;

use mlflow_client::{Batch, Client, Error, Metric, NewRun, NewVersion, RunStatus};

use crate::mlflow::Server;
use crate::{client, runtime};

#[test]
fn runs_artifacts_and_the_registry() {
    let Some(server) = Server::start() else { return };
    let mlflow = client(&server.uri());
    runtime().block_on(async {
        assert_eq!(mlflow.server_version().await.unwrap(), "3.17.2");
        let run_id = runs(&mlflow).await;
        artifacts(&mlflow, &run_id).await;
        registry(&mlflow, &run_id).await;
    });
}

async fn runs(mlflow: &Client) -> String {
    assert_eq!(mlflow.experiment("rul / ä").await.unwrap(), None);
    let id = mlflow.ensure_experiment("rul / ä").await.unwrap();
    assert_eq!(mlflow.ensure_experiment("rul / ä").await.unwrap(), id, "the second time finds the first");
    assert_eq!(mlflow.experiment("rul / ä").await.unwrap().unwrap().experiment_id, id);

    let tags = BTreeMap::from([("code".to_owned(), "abc".to_owned())]);
    let new = NewRun { experiment_id: id.clone(), name: "one".into(), start_time: 1_700_000_000_000, tags };
    let run = mlflow.create_run(&new).await.unwrap();
    assert_eq!((run.info.run_name.as_str(), run.info.status), ("one", RunStatus::Running));
    let run_id = run.info.run_id;

    // More than fit into one call.
    let metrics = (0..1500)
        .map(|step| Metric {
            key: "loss".into(),
            value: 1.0 / f64::from(step + 1),
            timestamp: 1,
            step: i64::from(step),
        })
        .chain([Metric { key: "bad".into(), value: f64::NAN, timestamp: 1, step: 0 }]);
    let batch = Batch {
        metrics: metrics.collect(),
        params: (0..150).map(|i| (format!("p{i}"), i.to_string())).collect(),
        tags: BTreeMap::from([("note".into(), "x".into())]),
    };
    mlflow.log_batch(&run_id, &batch).await.unwrap();
    mlflow.log_batch(&run_id, &batch).await.unwrap();
    mlflow.set_run_tag(&run_id, "note", "y").await.unwrap();
    mlflow.update_run(&run_id, RunStatus::Finished, Some(1_700_000_001_000)).await.unwrap();

    let run = mlflow.run(&run_id).await.unwrap().unwrap();
    assert_eq!((run.info.status, run.info.end_time), (RunStatus::Finished, Some(1_700_000_001_000)));
    assert_eq!(run.data.metric("loss"), Some(1.0 / 1500.0));
    assert!(run.data.metric("bad").unwrap().is_nan());
    assert_eq!(
        (run.data.param("p149"), run.data.tag("note"), run.data.tag("code")),
        (Some("149"), Some("y"), Some("abc"))
    );
    assert_eq!(mlflow.run("0123456789abcdef0123456789abcdef").await.unwrap(), None);

    mlflow
        .create_run(&NewRun { experiment_id: id.clone(), start_time: 1_700_000_002_000, ..NewRun::default() })
        .await
        .unwrap();
    let newest = mlflow.search_runs(&[&id], "", &["attributes.start_time DESC"], 10).await.unwrap();
    assert_eq!(newest.len(), 2);
    assert_eq!(newest[1].info.run_id, run_id);
    let good = mlflow.search_runs(&[&id], "metrics.loss < 0.5", &[], 10).await.unwrap();
    assert_eq!(good.len(), 1);
    let wrong = mlflow.search_runs(&[&id], "nonsense <", &[], 10).await.unwrap_err();
    assert!(matches!(wrong, Error::Refused { status: 400, .. }), "{wrong}");
    run_id
}

async fn artifacts(mlflow: &Client, run_id: &str) {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir_all(from.join("a/b c")).unwrap();
    let large: Vec<u8> = (0..2_000_000u32).map(|i| (i * 7) as u8).collect();
    // MLflow itself refuses "#" in names.
    for (name, bytes) in [("model.onnx", &large[..]), ("a/ü+&?=.txt", b"x"), ("a/b c/empty", b"")] {
        std::fs::write(from.join(name), bytes).unwrap();
    }
    let root = mlflow.resolve(&format!("runs:/{run_id}")).await.unwrap();
    mlflow.upload(&from, &root.join("model")).await.unwrap();
    let model = mlflow.resolve(&format!("runs:/{run_id}/model")).await.unwrap();
    let names: Vec<_> = mlflow.list(&model).await.unwrap().into_iter().map(|f| (f.path, f.size)).collect();
    let expected = [("a/b c/empty", 0), ("a/ü+&?=.txt", 1), ("model.onnx", 2_000_000)];
    assert_eq!(names, expected.map(|(name, size)| (name.to_owned(), size)));

    let to = dir.path().join("to");
    mlflow.download(&model, &to).await.unwrap();
    assert_eq!(std::fs::read(to.join("model.onnx")).unwrap(), large);
    assert_eq!(std::fs::read(to.join("a/ü+&?=.txt")).unwrap(), b"x");
    assert_eq!(std::fs::read(to.join("a/b c/empty")).unwrap(), b"");
    assert_eq!(mlflow.download_bytes(&model.join("model.onnx"), 2_000_000).await.unwrap(), large);
    let small = mlflow.download_bytes(&model.join("model.onnx"), 1_999_999).await.unwrap_err();
    assert!(small.to_string().contains("larger"), "{small}");
    let nothing = mlflow.download(&model.join("absent"), &to).await.unwrap_err();
    assert!(nothing.to_string().contains("nothing is there"), "{nothing}");
}

async fn registry(mlflow: &Client, run_id: &str) {
    assert_eq!(mlflow.registered_model("m").await.unwrap(), None);
    assert_eq!(mlflow.alias("m", "production").await.unwrap(), None, "the model is missing: 404");
    mlflow.ensure_registered_model("m", "text").await.unwrap();
    mlflow.ensure_registered_model("m", "text").await.unwrap();
    assert_eq!(mlflow.alias("m", "production").await.unwrap(), None, "the alias is missing: 400");

    let new = |source: String| NewVersion {
        name: "m".into(),
        source,
        run_id: run_id.into(),
        tags: BTreeMap::from([("a".into(), "1".into())]),
    };
    let one = mlflow.create_version(&new(format!("runs:/{run_id}/model"))).await.unwrap();
    let root = mlflow.resolve(&format!("runs:/{run_id}/model")).await.unwrap();
    let two = mlflow.create_version(&new(root.to_string())).await.unwrap();
    let three = mlflow.create_version(&new("s3://bucket/a/key".into())).await.unwrap();
    assert_eq!([one.version.as_str(), &two.version, &three.version], ["1", "2", "3"]);
    for version in ["1", "2"] {
        let uri = mlflow.download_uri("m", version).await.unwrap();
        assert_eq!(mlflow.resolve(&uri).await.unwrap(), root, "{uri}");
        assert_eq!(mlflow.resolve(&format!("models:/m/{version}")).await.unwrap(), root);
    }
    assert_eq!(mlflow.resolve("models:/m/3").await.unwrap().to_string(), "s3://bucket/a/key");

    mlflow.set_alias("m", "production", "1").await.unwrap();
    mlflow.set_alias("m", "production", "2").await.unwrap();
    let found = mlflow.alias("m", "production").await.unwrap().unwrap();
    assert_eq!((found.version.as_str(), found.aliases.as_slice()), ("2", &["production".to_owned()][..]));
    assert_eq!(mlflow.resolve("models:/m@production").await.unwrap(), root);
    assert_eq!(mlflow.registered_model("m").await.unwrap().unwrap().aliases.get("production").unwrap(), "2");
    mlflow.delete_alias("m", "production").await.unwrap();
    mlflow.delete_alias("m", "production").await.unwrap();
    assert_eq!(mlflow.alias("m", "production").await.unwrap(), None);
    for reserved in ["latest", "v2"] {
        let error = mlflow.set_alias("m", reserved, "1").await.unwrap_err();
        assert!(matches!(error, Error::Refused { status: 400, .. }), "{error}");
    }
    assert!(mlflow.set_alias("m", "production", "99").await.unwrap_err().is_missing());

    mlflow.set_version_tag("m", "1", "a", "ä\n").await.unwrap();
    assert_eq!(mlflow.version("m", "1").await.unwrap().unwrap().tags.get("a").unwrap(), "ä\n");
    for unknown in ["99", "abc", "", "-1"] {
        assert_eq!(mlflow.version("m", unknown).await.unwrap(), None, "{unknown}");
    }
    let newest: Vec<_> = mlflow.versions("m", 10).await.unwrap().into_iter().map(|v| v.version).collect();
    assert_eq!(newest, ["3", "2", "1"]);
    assert_eq!(mlflow.versions("o'brien", 10).await.unwrap(), []);
    assert_eq!(mlflow.versions_of_run(run_id, 10).await.unwrap().len(), 3);
    for (uri, word) in [("runs:/0123456789abcdef0123456789abcdef/model", "no run"), ("models:/m@nobody", "no alias")] {
        let error = mlflow.resolve(uri).await.unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    assert!(mlflow.resolve("models:/m-0123").await.unwrap_err().is_missing());
}
