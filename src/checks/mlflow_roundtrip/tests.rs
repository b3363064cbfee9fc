//! Against a real MLflow server with a real PostgreSQL and a real MinIO, and against answers that those do not give on demand.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::json;

use super::*;
use crate::checks::Status;
use crate::cluster::minio::testing::Minio;
use crate::cluster::testing::{FixedApi, Postgres, TestHost, missing_peer};

const PASSWORD: &str = "mlflow canary 7'";

/// The three servers; MLflow's is ended with the value.
struct World {
    mlflow: Child,
    port: u16,
    /// Held: they end with it.
    _postgres: Postgres,
    minio: Minio,
    dir: tempfile::TempDir,
    host: TestHost,
    /// A bucket that MLflow does not use.
    other: &'static str,
}

impl Drop for World {
    fn drop(&mut self) {
        // Its own process group: workers do not outlive it.
        Command::new("kill").args(["-KILL", "--", &format!("-{}", self.mlflow.id())]).status().ok();
        self.mlflow.wait().ok();
    }
}

fn python() -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/venv-mlflow-server");
    let output = Command::new("bash").arg(script).output().unwrap();
    if !output.status.success() {
        return missing_peer(&format!("no MLflow server: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A host in whose cluster the Services have these ports of this machine.
async fn host(services: &[(&str, u16)]) -> TestHost {
    let service = |(name, port): &(&str, u16)| {
        let path = format!("/api/v1/namespaces/mlops/services/{name}");
        (path, json!({"spec": {"clusterIP": "127.0.0.1", "ports": [{"port": port}]}}))
    };
    let (reader, _) = FixedApi::serve(services.iter().map(service)).await;
    TestHost::new().cluster(reader)
}

impl World {
    /// `None` where one of them cannot be had.
    async fn start(allowed: Option<&str>) -> Option<Self> {
        let python = python()?;
        let postgres = Postgres::start()?;
        let minio = Minio::start()?;
        let port = free_port();
        let host = host(&[("mlflow", port), ("postgres", postgres.port), ("minio", minio.port)]).await;
        let admin = Access {
            service: &"mlops/postgres".to_owned().try_into().unwrap(),
            user: "postgres",
            password: Some(Postgres::PASSWORD),
            secret: "",
            read_only: false,
        };
        let session = admin.connect(&host, "postgres").await.unwrap();
        let role = format!("create role mlflow login password {}", quote_text(PASSWORD));
        session.batch_execute(&role).await.unwrap();
        session.batch_execute("create database mlflow owner mlflow").await.unwrap();
        session.batch_execute("create database other owner mlflow").await.unwrap();
        let writer = minio.writer(&minio.host().await, None).await;
        for bucket in ["thesis-mlflow", "thesis-other"] {
            writer.create_bucket(bucket).await.unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        // As in the stage: no password in an argument, a URI or an environment.
        let services = format!(
            "[mlflow]\nhost=127.0.0.1\nport={}\ndbname=mlflow\nuser=mlflow\npassword={PASSWORD}\n",
            postgres.port
        );
        std::fs::write(dir.path().join("pg_service.conf"), services).unwrap();
        let names = ["mlflow", "mlflow.mlops", "mlflow.mlops.svc", "mlflow.mlops.svc.cluster.local"];
        let names = names.map(|name| format!("{name}:{port}")).join(",");
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("setsid");
        command
            .args([&python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--workers", "1"])
            .env("MLFLOW_BACKEND_STORE_URI", "postgresql+psycopg2:///?service=mlflow")
            .env("PGSERVICEFILE", dir.path().join("pg_service.conf"))
            .env("MLFLOW_ARTIFACTS_DESTINATION", "s3://thesis-mlflow")
            .env("MLFLOW_S3_ENDPOINT_URL", format!("http://127.0.0.1:{}", minio.port))
            .env("AWS_ACCESS_KEY_ID", Minio::ROOT_USER)
            .env("AWS_SECRET_ACCESS_KEY", Minio::ROOT_PASSWORD)
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("MLFLOW_SERVER_ALLOWED_HOSTS", allowed.unwrap_or(&names))
            .env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
            .env("MLFLOW_DISABLE_TELEMETRY", "true")
            .env("GIT_PYTHON_REFRESH", "quiet")
            .env("HOME", dir.path())
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mlflow = command.spawn().unwrap();
        let world = Self { mlflow, port, _postgres: postgres, minio, dir, host, other: "thesis-other" };
        world.wait().await;
        Some(world)
    }

    async fn wait(&self) {
        let started = Instant::now();
        let client = crate::host::http_client().no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{}/health", self.port);
        while !client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap();
            assert!(started.elapsed() < Duration::from_secs(180), "MLflow does not start:\n{}", log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn session(&self) -> Session {
        let service = "mlops/postgres".to_owned().try_into().unwrap();
        let access =
            Access { service: &service, user: "mlflow", password: Some(PASSWORD), secret: "", read_only: false };
        access.connect(&self.host, "mlflow").await.unwrap()
    }

    /// Rows of every table that a probe writes to, and objects.
    async fn residue(&self) -> Vec<String> {
        let session = self.session().await;
        let mut left = Vec::new();
        for table in [
            "experiments",
            "experiment_tags",
            "runs",
            "metrics",
            "latest_metrics",
            "params",
            "tags",
            "registered_models",
            "model_versions",
            "registered_model_aliases",
        ] {
            let count = rows(&session, &format!("select count(*) from {table}")).await.unwrap();
            // The experiment `Default` is MLflow's own.
            let own = i32::from(table == "experiments");
            let count: i32 = count[0][0].parse().unwrap();
            if count != own {
                left.push(format!("{count} in {table}"));
            }
        }
        let writer = self.minio.writer(&self.minio.host().await, None).await;
        left.extend(writer.list("thesis-mlflow", "").await.unwrap().into_iter().map(|object| object.key));
        left
    }
}

fn check(changes: &serde_json::Value) -> MlflowRoundtrip {
    let mut spec = json!({
        "service": "mlops/mlflow",
        "database": {"service": "mlops/postgres", "name": "mlflow", "user": "mlflow", "password": PASSWORD},
        "artifacts": {
            "service": "mlops/minio", "bucket": "thesis-mlflow",
            "access_key": Minio::ROOT_USER, "secret_key": Minio::ROOT_PASSWORD
        }
    });
    for (pointer, value) in changes.as_object().into_iter().flatten() {
        *spec.pointer_mut(pointer).unwrap() = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn against_real_servers_it_passes_leaves_nothing_and_names_what_is_wrong() {
    let Some(world) = World::start(None).await else {
        return;
    };
    // The first requests load what the server has not loaded yet.
    let warm = check(&json!({})).run(&world.host).await.unwrap();
    eprintln!("first: {warm:?}");
    let world = Arc::new(world);
    let probes = (0..3).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { check(&json!({})).run(&world.host).await.unwrap() })
    });
    for verdict in join_all(probes).await {
        let verdict = verdict.unwrap();
        assert_eq!(verdict.status, Status::Pass, "{}", verdict.detail);
    }
    assert_eq!(world.residue().await, Vec::<String>::new(), "probes at the same time leave nothing");

    // It breaks after all was made: another bucket, then another database. What was made goes all the same.
    let elsewhere = check(&json!({"/artifacts/bucket": world.other})).run(&world.host).await.unwrap();
    assert_eq!(elsewhere.status, Status::Fail);
    assert!(elsewhere.detail.contains("it keeps artifacts elsewhere"), "{}", elsewhere.detail);
    assert_eq!(world.residue().await, Vec::<String>::new());

    // What a killed probe left, as MLflow has it: found by its age and removed, and a younger one is let be.
    let api = Api::new("127.0.0.1", world.port, format!("mlflow:{}", world.port), None).unwrap();
    let session = world.session().await;
    for (name, age) in [("old", 11), ("young", 1)] {
        let name = format!("{PREFIX}{name}");
        let made = api.post("experiments/create", &json!({ "name": name })).await.unwrap();
        let run = json!({"experiment_id": made["experiment_id"], "run_name": "x", "start_time": 1});
        let run = api.post("runs/create", &run).await.unwrap();
        let path = format!(
            "{}/{}/artifacts/{FILE}",
            made["experiment_id"].as_str().unwrap(),
            run["run"]["info"]["run_id"].as_str().unwrap()
        );
        api.upload(&path, b"x").await.unwrap();
        api.post("registered-models/create", &json!({ "name": name })).await.unwrap();
        let back =
            format!("update experiments set creation_time = creation_time - {age} * 60000 where name = '{name}'");
        session.batch_execute(&back).await.unwrap();
    }
    let verdict = check(&json!({})).run(&world.host).await.unwrap();
    assert_eq!(verdict.status, Status::Pass, "{}", verdict.detail);
    let names = rows(&session, "select name from experiments order by 1").await.unwrap();
    assert_eq!(names, [["Default".to_owned()], [format!("{PREFIX}young")]]);
    let models = rows(&session, "select name from registered_models").await.unwrap();
    assert_eq!(models, [[format!("{PREFIX}young")]]);

    for secret in [PASSWORD, Minio::ROOT_PASSWORD] {
        assert!(!verdict.detail.contains(secret) && !elsewhere.detail.contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_the_default_list_of_hosts_is_explained_by_the_real_one() {
    // What MLflow allows when nobody says anything.
    let Some(world) = World::start(Some("localhost:*,127.0.0.1:*,10.*")).await else {
        return;
    };
    let verdict = check(&json!({})).run(&world.host).await.unwrap();
    assert_eq!(verdict.status, Status::Fail);
    let start = format!("MLflow refuses clients that ask for mlflow:{} (403 Invalid Host header)", world.port);
    assert!(verdict.detail.starts_with(&start), "{}", verdict.detail);
    assert!(verdict.detail.contains("MLFLOW_SERVER_ALLOWED_HOSTS"), "{}", verdict.detail);
    assert_eq!(world.residue().await, Vec::<String>::new(), "nothing was made");
}

/// A server that gives one answer to everything.
async fn answering(status: StatusCode, body: &'static str) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = axum::Router::new().fallback(move |_: Uri, _: HeaderMap| async move { (status, body) });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    port
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let missing = r#"{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No Experiment"}"#;
    for (status, body, expected) in [
        (401, "no", "basic-auth does not know this user and password"),
        (404, missing, "GET mlflow/experiments/get: 404 RESOURCE_DOES_NOT_EXIST: No Experiment"),
        (403, "Permission denied", "GET mlflow/experiments/get: 403 Permission denied"),
        (500, "", "GET mlflow/experiments/get: 500 (empty)"),
        (200, "<html>", "experiments/get answered no JSON: <html>"),
    ] {
        let port = answering(StatusCode::from_u16(status).unwrap(), body).await;
        TestHost::new();
        let api = Api::new("127.0.0.1", port, "mlflow:5000".into(), None).unwrap();
        let failure = api.get("experiments/get", &[]).await.unwrap_err();
        assert!(failure.to_string().contains(expected), "{failure}");
        assert_eq!(matches!(failure, Failure::Missing(_)), status == 404);
    }
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let verdict = check(&json!({})).run(&TestHost::new()).await.unwrap();
    assert_eq!(verdict.status, Status::Fail);
    assert!(verdict.detail.contains("k3s is not installed yet"), "{}", verdict.detail);
    let host = host(&[]).await;
    let verdict = check(&json!({})).run(&host).await.unwrap();
    assert!(verdict.detail.contains("the Service mlops/mlflow does not exist"), "{}", verdict.detail);
}

#[test]
fn the_names_are_those_that_pods_use() {
    assert_eq!(
        check(&json!({})).names(5000),
        ["mlflow:5000", "mlflow.mlops:5000", "mlflow.mlops.svc:5000", "mlflow.mlops.svc.cluster.local:5000"]
    );
}
