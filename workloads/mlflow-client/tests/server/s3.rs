//! Artifacts directly in S3: a real MLflow server that only knows where, a real MinIO that keeps
//! them and checks the signatures.
//!
//! MinIO is `MINIO_BIN`, else the one that `provision`'s own tests build into the cache.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mlflow_client::{Client, Error, NewRun, NewVersion, S3};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};

use crate::mlflow::Server;
use crate::{http, runtime};

const KEY: &str = "tester-key";
const SECRET: &str = "a secret of tests";

fn minio() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("MINIO_BIN") {
        return Some(given.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let programs = std::fs::read_dir(cache.join("provision/test-programs")).into_iter().flatten().flatten();
    let found = programs
        .map(|e| e.path())
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("minio-")) && p.extension().is_none());
    if found.is_none() {
        let required = std::env::var("PROVISION_REQUIRE_PEERS").is_ok_and(|v| v == "1");
        assert!(!required, "no MinIO (set MINIO_BIN, or run the tests of provision first)");
        eprintln!("skipped: no MinIO (set MINIO_BIN, or run the tests of provision first)");
    }
    found
}

struct Minio {
    child: Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl Minio {
    fn start(program: PathBuf) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (address, console) = (free(), free());
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .args(["server", "--quiet", "--address", &address.to_string(), "--console-address", &console.to_string()])
            .arg(dir.path().join("data"))
            .env("HOME", dir.path())
            .env("MINIO_ROOT_USER", KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < end, "MinIO does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { child, endpoint: format!("http://{address}"), _dir: dir }
    }

    fn settings(&self, secret: &str) -> S3 {
        S3::new(Some(&self.endpoint), "us-east-1", Some((KEY.into(), secret.into())), None).unwrap()
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn artifacts_that_only_s3_has() {
    let Some(program) = minio() else { return };
    let Some(server) = Server::start_with(&["--no-serve-artifacts", "--default-artifact-root", "s3://models/runs"])
    else {
        return;
    };
    let minio = Minio::start(program);
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
        make_bucket(&minio.endpoint).await;
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

async fn make_bucket(endpoint: &str) {
    let bucket = Bucket::new(endpoint.parse().unwrap(), UrlStyle::Path, "models", "us-east-1").unwrap();
    let credentials = Credentials::new(KEY, SECRET);
    let url = bucket.create_bucket(&credentials).sign(Duration::from_secs(60));
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        // For a moment after its port is open it says that it is not ready.
        let answer = http().put(url.clone()).send().await;
        if answer.is_ok_and(|a| a.status().is_success()) {
            return;
        }
        assert!(Instant::now() < end, "MinIO makes no bucket");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
