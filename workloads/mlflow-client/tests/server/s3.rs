//! Artifacts directly in S3: a real MLflow server that only knows where, a real MinIO that keeps
//! them and checks the signatures.

use mlflow_client::{Client, Error, NewRun, NewVersion};

use crate::minio::{Minio, SECRET, make_bucket};
use crate::mlflow::Server;
use crate::{http, runtime};

#[test]
fn artifacts_that_only_s3_has() {
    let Some(minio) = Minio::start() else { return };
    let Some(server) = Server::start_with(&["--no-serve-artifacts", "--default-artifact-root", "s3://models/runs"])
    else {
        return;
    };
    let mlflow = Client::new(http(), &server.uri()).unwrap().with_s3(minio.settings(SECRET));
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    std::fs::create_dir_all(from.join("a b")).unwrap();
    // More than one page of a listing.
    for i in 0..1005 {
        std::fs::write(from.join(format!("a b/{i:04}+ä.txt")), i.to_string()).unwrap();
    }
    let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i * 11) as u8).collect();
    std::fs::write(from.join("model.onnx"), &bytes).unwrap();
    runtime().block_on(async {
        make_bucket(&http(), &minio.endpoint, "models").await;
        let new = NewRun { experiment_id: mlflow.ensure_experiment("x").await.unwrap(), ..NewRun::default() };
        let run = mlflow.create_run(&new).await.unwrap().info;
        assert!(run.artifact_uri.starts_with("s3://models/runs/"), "{}", run.artifact_uri);
        let place = mlflow.resolve(&format!("runs:/{}/model", run.run_id)).await.unwrap();
        assert_eq!(place.to_string(), format!("{}/model", run.artifact_uri));
        mlflow.upload(&from, &place).await.unwrap();
        mlflow.ensure_registered_model("m", "").await.unwrap();
        let source = place.to_string();
        mlflow.create_version(&NewVersion { name: "m".into(), source, ..NewVersion::default() }).await.unwrap();

        let found = mlflow.resolve("models:/m/1").await.unwrap();
        let to = dir.path().join("to");
        assert_eq!(mlflow.download(&found, &to).await.unwrap().len(), 1006);
        assert_eq!(std::fs::read(to.join("model.onnx")).unwrap(), bytes);
        assert_eq!(std::fs::read_to_string(to.join("a b/1004+ä.txt")).unwrap(), "1004");

        let stranger = mlflow.clone().with_s3(minio.settings("hunter2 hunter2"));
        for error in [
            stranger.list(&found).await.unwrap_err(),
            stranger.download_bytes(&found.join("model.onnx"), 10).await.unwrap_err(),
            stranger.upload_bytes(vec![1], &found.join("x")).await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::Refused { status: 403, .. }), "{error}");
            let text = format!("{error} {error:?}");
            assert!(text.contains(&minio.endpoint) && text.contains("SignatureDoesNotMatch"), "{text}");
            assert!(!text.contains("hunter2") && !text.contains("X-Amz"), "{text}");
        }
        let missing = mlflow.download_bytes(&found.join("absent"), 10).await.unwrap_err();
        assert!(missing.is_missing(), "{missing}");
    });
}
