//! The data platform under MLflow on a blank sandbox host: with Python's own clients, through losses of pods and of the cluster,
//! through a changed key, and with basic-auth. Needs root and the release binary: `scripts/test` sets PROVISION_BIN; without it
//! this says so and passes.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

mod world;

use world::{World, both, named};

const HOST: &str = "e2e-mlflow";

const STAGES: &str = "system,k3s,images,minio,postgres,mlflow";

/// Runs Python in MLflow's pod: inside the cluster's network, with the pod's own key of the object store.
#[track_caller]
fn in_pod(world: &World, script: &str) -> String {
    let encoded = hex::encode(script);
    world.shell(&format!(
        "kubectl exec -n mlops deploy/mlflow -- python3 -c \"exec(bytes.fromhex('{encoded}').decode())\""
    ))
}

fn secret(world: &World, key: &str) -> String {
    String::from_utf8(world.command(&["secret", "get", key]).output().unwrap().stdout).unwrap().trim().to_owned()
}

/// Waits until all checks pass, helping with nothing.
#[track_caller]
fn heals(world: &World, what: &str) {
    let start = Instant::now();
    loop {
        let output = world.command(&["healthcheck", "--only", STAGES]).output().unwrap();
        if output.status.success() {
            eprintln!("-- {what}: healthy again after {:.0} s", start.elapsed().as_secs_f64());
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(300), "{what}: still broken:\n{}", both(&output));
        std::thread::sleep(Duration::from_secs(3));
    }
}

/// What a team does with MLflow; prints nothing, ends with an error when something is not as it should be.
const CLIENT: &str = r#"
import mlflow, os, sys, tempfile
mlflow.set_tracking_uri(URI)
mlflow.set_experiment("turbofan")
with mlflow.start_run(run_name=NAME) as run:
    mlflow.log_param("units", 64)
    mlflow.log_metric("rmse", 12.5)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.bin")
        open(path, "wb").write(bytes(range(256)) * 4096)
        mlflow.log_artifact(path, "model")
client = mlflow.MlflowClient()
try:
    client.create_registered_model("rul")
except mlflow.exceptions.MlflowException as error:
    assert error.error_code == "RESOURCE_ALREADY_EXISTS", error
version = client.create_model_version("rul", f"runs:/{run.info.run_id}/model", run.info.run_id)
client.set_registered_model_alias("rul", "production", version.version)
"#;

/// What must be there afterwards, for ever.
const READER: &str = r#"
import mlflow, sys
mlflow.set_tracking_uri(URI)
client = mlflow.MlflowClient()
version = client.get_model_version_by_alias("rul", "production")
run = client.get_run(version.run_id)
assert run.data.metrics == {"rmse": 12.5} and run.data.params == {"units": "64"}, run
path = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/model/model.bin")
assert open(path, "rb").read() == bytes(range(256)) * 4096
print("version", version.version)
"#;

/// Whose key opens what.
const KEYS: &str = r#"
import boto3, botocore, os
s3 = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
assert s3.list_objects_v2(Bucket="thesis-mlflow")["KeyCount"] > 0
for bucket in ("thesis-data", "thesis-models", "thesis-backup"):
    for ask in (lambda: s3.list_objects_v2(Bucket=bucket), lambda: s3.put_object(Bucket=bucket, Key="x", Body=b"x")):
        try:
            ask()
            raise SystemExit(f"{bucket} is open to MLflow's key")
        except botocore.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied", error
print("refused")
"#;

fn script(text: &str, uri: &str) -> String {
    format!("URI = {uri:?}\nNAME = 'e2e'\n{text}")
}

/// Runs Python outside of the cluster, with the packages of the server's lock file and the setting that docs/guide.md asks for.
#[track_caller]
fn outside(world: &World, text: &str, env: &[(&str, &str)]) -> (bool, String) {
    let python = Command::new("bash").arg("scripts/venv-mlflow-server").current_dir(&world.folder).output().unwrap();
    assert!(python.status.success(), "{}", both(&python));
    let python = String::from_utf8(python.stdout).unwrap();
    let mut command = Command::new(python.trim());
    command.arg("-").env("GIT_PYTHON_REFRESH", "quiet").env("MLFLOW_DISABLE_TELEMETRY", "true");
    command.env("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false").env("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false");
    command.envs(env.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), both(&output))
}

#[test]
fn mlflow_keeps_what_it_is_given() {
    let Some(world) = World::new(HOST) else { return };
    let exposed = "mlflow.expose=true";
    world.expect(0, &["up", "--only", STAGES, "--set", exposed]);
    let again = world.json(0, &["up", "--only", STAGES, "--set", exposed]);
    assert_eq!(again.last().unwrap()["changed"], 0, "the second run changes nothing");

    clients_in_and_outside_of_the_cluster(&world);
    let tunnel = Tunnel::open(&world);
    pages_render(&tunnel);
    losses_heal_and_nothing_is_lost(&world);
    // Every pod behind it was replaced meanwhile.
    pages_render(&tunnel);
    drop(tunnel);
    a_new_key_restarts_who_reads_it_and_nobody_else(&world);
    three_changes_are_named_and_nothing_else_restarts(&world);
    pages_of_others_change_nothing(&world);
    a_backup_brings_back_what_was_lost(&world);
    basic_auth_asks_for_a_password(&world);
    world.expect(0, &["sandbox", "down", HOST]);
}

fn clients_in_and_outside_of_the_cluster(world: &World) {
    in_pod(world, &script(CLIENT, "http://mlflow:5000"));
    assert_eq!(in_pod(world, &script(READER, "http://mlflow.mlops.svc.cluster.local:5000")), "version 1");
    assert_eq!(in_pod(world, KEYS), "refused");
    let address = world.expect(0, &["sandbox", "address", HOST]);
    let uri = format!("http://{}:30500", address.trim());
    let (ok, text) = outside(world, &script(CLIENT, &uri), &[]);
    assert!(ok, "{text}");
    let (ok, text) = outside(world, &script(READER, &uri), &[]);
    assert!(ok && text.contains("version 2"), "{text}");
}

/// `provision tunnel` to the pages that people open.
struct Tunnel {
    child: Child,
    mlflow: String,
    minio: String,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tunnel {
    fn open(world: &World) -> Self {
        let mut command = world.command(&["tunnel", "mlflow", "mlops/minio:console", "--json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(2);
        let urls: Vec<String> = lines
            .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["url"].as_str().unwrap().to_owned())
            .collect();
        let [mlflow, minio] = urls.try_into().unwrap();
        Self { child, mlflow, minio }
    }
}

/// Both pages in a browser, as people see them; pictures are kept in `target/screenshots`.
fn pages_render(tunnel: &Tunnel) {
    page(&tunnel.mlflow, "mlflow", &["Experiments", "turbofan"]);
    page(&format!("{}/login", tunnel.minio), "minio-console", &["Username", "Password", "Login"]);
}

/// Opens a page, keeps its picture and finds the words in what its scripts made of it.
#[track_caller]
fn page(url: &str, name: &str, words: &[&str]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    let picture = folder.join(format!("{name}.png"));
    let _ = std::fs::remove_file(&picture);
    let profile = tempfile::tempdir().unwrap();
    let Some(browser) =
        ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| which::which(name).is_ok())
    else {
        eprintln!("-- no browser is here to open {url}: scripts/install-deps says which");
        return;
    };
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--hide-scrollbars", "--window-size=1280,900", "--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(url)
        .output()
        .unwrap();
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in words {
        assert!(
            seen.contains(word),
            "{url} does not show {word:?}:\n{seen}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let size = std::fs::metadata(&picture).unwrap().len();
    // An empty page of this size is a picture of some 5 kB.
    assert!(size > 12_000, "{} has {size} bytes: an empty page?", picture.display());
}

fn losses_heal_and_nothing_is_lost(world: &World) {
    let read = || in_pod(world, &script(READER, "http://mlflow:5000"));
    world.shell("kubectl delete pod -n mlops -l app=mlflow --wait=false");
    heals(world, "MLflow's pod was deleted");
    assert_eq!(read(), "version 2");
    world.shell("kubectl delete pod -n mlops postgres-0 --wait=false");
    heals(world, "PostgreSQL's pod was deleted");
    assert_eq!(read(), "version 2");
    world.shell("kubectl delete pod -n mlops minio-0 --wait=false");
    heals(world, "MinIO's pod was deleted");
    assert_eq!(read(), "version 2");
    world.shell(
        "node=$(kubectl get nodes -o name) && kubectl drain $node --ignore-daemonsets --delete-emptydir-data --force --timeout=120s \
         && systemctl restart k3s && kubectl uncordon $node",
    );
    heals(world, "the node was drained and k3s restarted");
    assert_eq!(read(), "version 2");
    // What broke meanwhile is what `up` would find.
    let lines = world.json(0, &["plan", "--only", STAGES, "--set", "mlflow.expose=true"]);
    assert_eq!(lines.last().unwrap()["change"], 0);
}

/// Running pods: label `app` and identity.
fn pods(world: &World) -> Vec<String> {
    let uid = "kubectl get pods -n mlops --field-selector=status.phase=Running -o \
               jsonpath='{range .items[*]}{.metadata.labels.app} {.metadata.uid}{\"\\n\"}{end}'";
    world.shell(uid).lines().map(str::to_owned).collect()
}

fn set_secret(world: &World, key: &str, value: &str) {
    let mut set = world.command(&["secret", "set", key]).stdin(Stdio::piped()).spawn().unwrap();
    set.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    assert!(set.wait().unwrap().success());
}

/// A bucket's versioning, a role's password, an image's file.
fn three_changes_are_named_and_nothing_else_restarts(world: &World) {
    let edit = |name: &str, from: &str, to: &str| {
        let path = world.folder.path().join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    let before = pods(world);
    edit("stages/minio.yml", "buckets.mlflow }}\" }", "buckets.mlflow }}\", versioning: true }");
    set_secret(world, "postgres.kfp_password", "another-password-of-kfp-0123456789");
    edit("sandbox/images/mc/image.yml", "MC_UPDATE: \"off\"", "MC_UPDATE: \"off\"\n  MC_NO_COLOR: \"1\"");
    let arguments = ["--only", STAGES, "--set", "mlflow.expose=true"];
    let expected = [
        "images/image mc",
        "minio/bucket mlops/minio/thesis-mlflow",
        "postgres/manifest postgres/backup.yml",
        "postgres/postgres_database mlops/postgres/kfp",
    ];
    let planned = world.json(3, &[&["plan"], &arguments[..]].concat());
    assert_eq!(named(&planned, |line| line["action"] != "none"), expected);
    let done = world.json(0, &[&["up"], &arguments[..]].concat());
    assert_eq!(named(&done, |line| line["result"] == "changed"), expected);
    assert_eq!(pods(world), before, "something restarted");
    world.expect(0, &[&["plan"], &arguments[..]].concat());
}

fn a_new_key_restarts_who_reads_it_and_nobody_else(world: &World) {
    let before = pods(world);
    set_secret(world, "minio.mlflow_secret_key", "another-key-of-mlflow-0123456789");
    let arguments = ["--only", STAGES, "--set", "mlflow.expose=true"];
    let expected = [
        "minio/minio_user mlops/minio/mlflow",
        "mlflow/manifest mlflow/mlflow.yml",
        "mlflow/secret mlops/mlflow-credentials",
    ];
    let planned = world.json(3, &[&["plan"], &arguments[..]].concat());
    assert_eq!(named(&planned, |line| line["action"] == "change"), expected);
    let done = world.json(0, &[&["up"], &arguments[..]].concat());
    assert_eq!(named(&done, |line| line["result"] == "changed"), expected);
    let after = pods(world);
    for app in ["postgres", "minio", "mlflow"] {
        let of = |pods: &[String]| pods.iter().filter(|pod| pod.starts_with(app)).cloned().collect::<Vec<_>>();
        assert_eq!(of(&before) == of(&after), app != "mlflow", "{app}: {before:?} {after:?}");
    }
    assert_eq!(in_pod(world, &script(READER, "http://mlflow:5000")), "version 2");
    assert_eq!(
        world.shell("kubectl get jobs -n mlops -o name | grep -c mlflow-migrate"),
        "1",
        "one migration per version"
    );
}

fn basic_auth_asks_for_a_password(world: &World) {
    let arguments = ["--only", STAGES, "--set", "mlflow.expose=true", "--set", "mlflow.basic_auth=true"];
    world.expect(0, &[&["up"], &arguments[..]].concat());
    world.expect(0, &[&["healthcheck"], &arguments[..]].concat());
    let address = world.expect(0, &["sandbox", "address", HOST]);
    let uri = format!("http://{}:30500", address.trim());
    let (ok, text) = outside(world, &script(READER, &uri), &[]);
    assert!(!ok && text.contains("401"), "nobody needs a password: {text}");
    let password = secret(world, "mlflow.admin_password");
    let login = [("MLFLOW_TRACKING_USERNAME", "admin"), ("MLFLOW_TRACKING_PASSWORD", password.as_str())];
    let (ok, text) = outside(world, &script(READER, &uri), &login);
    assert!(ok && text.contains("version 2"), "{text}");

    // A changed password is set in the server; the old one is worth nothing.
    set_secret(world, "mlflow.admin_password", "another-password-of-the-admin-0123456789");
    world.expect(0, &[&["up"], &arguments[..]].concat());
    let (ok, text) = outside(world, &script(READER, &uri), &login);
    assert!(!ok && text.contains("401"), "the old password still opens: {text}");
    world.expect(0, &[&["plan"], &arguments[..]].concat());
}

/// A browser says which page a request comes from: MLflow's own may change things, others may not.
fn pages_of_others_change_nothing(world: &World) {
    let address = world.expect(0, &["sandbox", "address", HOST]);
    let own = format!("http://{}:30500", address.trim());
    let post = |origin: &str| {
        let url = format!("{own}/ajax-api/2.0/mlflow/experiments/search");
        let origin = format!("Origin: {origin}");
        let json = "Content-Type: application/json";
        let arguments = [
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-H",
            &origin,
            "-H",
            json,
            "-d",
            "{\"max_results\": 1}",
            &url,
        ];
        String::from_utf8(Command::new("curl").args(arguments).output().unwrap().stdout).unwrap()
    };
    assert_eq!(post(&own), "200");
    assert_eq!(post("http://elsewhere.example"), "403");
}

/// The commands of docs/guide.md: a backup now, a loss, and the way back. Then a backup that cannot be whole says so.
fn a_backup_brings_back_what_was_lost(world: &World) {
    let sql = |text: &str| {
        world.shell(&format!(
            "kubectl exec -n mlops postgres-0 -- psql -U postgres -v ON_ERROR_STOP=1 -At mlflow -c \"{text}\""
        ))
    };
    let arguments = ["--only", STAGES, "--set", "mlflow.expose=true"];
    world.shell(
        "kubectl create job -n mlops backup-now --from cronjob/postgres-backup && \
         kubectl wait -n mlops --for=condition=complete --timeout=180s job/backup-now",
    );
    let log = world.shell("kubectl logs -n mlops job/backup-now -c result");
    assert!(log.contains("mlflow.dump") && log.contains("globals.sql"), "{log}");
    let newest = newest_backup(world, "pass");
    let backup = newest.split('/').nth(1).unwrap().to_owned();
    assert!(newest.starts_with(&format!("postgres/{backup}/complete")), "{newest}");

    sql("UPDATE experiments SET name = 'lost' WHERE name = 'turbofan'");
    world.shell(
        "kubectl scale -n mlops deployment mlflow --replicas 0 && kubectl delete job -n mlops -l app=mlflow-migrate",
    );
    world.shell(&format!(
        "kubectl create job -n mlops restore --from cronjob/postgres-restore --dry-run=client -o yaml | \
         kubectl set env --local -f - -o yaml DATABASE=mlflow BACKUP={backup} | kubectl create -f - && \
         kubectl wait -n mlops --for=condition=complete --timeout=180s job/restore"
    ));
    assert!(world.shell("kubectl logs -n mlops job/restore -c list").contains(&backup));
    world.expect(0, &[&["up"], &arguments[..]].concat());
    assert_eq!(sql("SELECT count(*) FROM experiments WHERE name = 'turbofan'"), "1");
    assert_eq!(in_pod(world, &script(READER, "http://mlflow:5000")), "version 2");

    sql("CREATE DATABASE stranger");
    sql("REVOKE CONNECT ON DATABASE stranger FROM PUBLIC");
    world.shell(
        "kubectl create job -n mlops backup-part --from cronjob/postgres-backup && \
         kubectl wait -n mlops --for=condition=failed --timeout=240s job/backup-part",
    );
    let told = newest_backup(world, "warn");
    assert!(told.starts_with(&format!("postgres/{backup}/complete")), "a backup that is not whole counts: {told}");
    assert!(told.contains("not in this backup: stranger"), "{told}");
    sql("DROP DATABASE stranger");
    world.shell("kubectl delete job -n mlops backup-now backup-part restore");
}

/// What the health check says of the newest backup.
fn newest_backup(world: &World, status: &str) -> String {
    let lines = world.json(0, &["healthcheck", "--only", STAGES]);
    let check =
        lines.iter().find(|line| line["check"].as_str().is_some_and(|name| name.starts_with("s3_newest"))).unwrap();
    assert_eq!(check["status"], status, "{check}");
    check["detail"].as_str().unwrap().to_owned()
}
