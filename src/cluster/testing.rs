//! For tests: a host with a few files and a cluster, an API server that holds fixed objects, a PostgreSQL server.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};

use super::postgres::server_tools;
use super::{Reader, Unavailable, Writer};
use crate::host::{ArtifactPin, Cmd, Facts, Output, Owner, Query, ReadHost, Stat, WriteHost};

/// A host that has files, answers queries by their program, and has a cluster if it was given one.
pub struct TestHost {
    facts: Facts,
    files: BTreeMap<PathBuf, String>,
    answers: BTreeMap<String, String>,
    reader: Option<Reader>,
    progress: Mutex<Vec<String>>,
}

impl TestHost {
    #[expect(clippy::new_without_default)]
    pub fn new() -> Self {
        // Two TLS implementations are never linked, but the choice must be made once per process.
        rustls::crypto::ring::default_provider().install_default().ok();
        Self {
            facts: Facts::default(),
            files: BTreeMap::new(),
            answers: BTreeMap::new(),
            reader: None,
            progress: Mutex::default(),
        }
    }

    pub fn file(mut self, path: &str, content: &str) -> Self {
        self.files.insert(path.into(), content.into());
        self
    }

    pub fn answer(mut self, program: &str, stdout: &str) -> Self {
        self.answers.insert(program.into(), stdout.into());
        self
    }

    pub fn cluster(mut self, reader: Reader) -> Self {
        self.reader = Some(reader);
        self
    }

    pub fn progress_texts(&self) -> Vec<String> {
        self.progress.lock().unwrap().clone()
    }
}

#[async_trait]
impl ReadHost for TestHost {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn read_file(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        Ok(self.files.get(path).map(|text| text.clone().into_bytes()))
    }

    fn open(&self, path: &Path) -> Result<Option<Box<dyn std::io::Read + Send>>> {
        let content = self.read_file(path)?;
        Ok(content.map(|bytes| Box::new(std::io::Cursor::new(bytes)) as Box<dyn std::io::Read + Send>))
    }

    fn stat(&self, _: &Path) -> Result<Option<Stat>> {
        Ok(None)
    }

    fn read_link(&self, _: &Path) -> Result<Option<PathBuf>> {
        Ok(None)
    }

    fn list_dir(&self, _: &Path) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn sha256(&self, _: &Path) -> Result<Option<String>> {
        Ok(None)
    }

    async fn query(&self, query: &Query) -> Result<Output> {
        let known = self.answers.get(&query.argv()[0]);
        Ok(Output {
            status: if known.is_some() { 0 } else { 127 },
            stdout: known.cloned().unwrap_or_default(),
            stderr: String::new(),
        })
    }

    async fn peek(&self, _: &ArtifactPin) -> Result<Vec<u8>> {
        bail!("this host has no artifacts")
    }

    async fn cluster(&self) -> Result<Reader, Unavailable> {
        self.reader
            .clone()
            .ok_or_else(|| Unavailable { reason: "k3s is not installed yet (no /etc/rancher/k3s/k3s.yaml)".into() })
    }

    fn progress(&self, text: &str) {
        self.progress.lock().unwrap().push(text.to_owned());
    }
}

#[async_trait]
impl WriteHost for TestHost {
    fn as_read(&self) -> &dyn ReadHost {
        self
    }

    fn write_stream(&self, _: &Path, _: &mut dyn std::io::Read, _: u32, _: Owner) -> Result<()> {
        bail!("this host has no files to change")
    }

    fn create_dir(&self, _: &Path, _: u32) -> Result<()> {
        bail!("this host has no files to change")
    }

    fn set_mode(&self, _: &Path, _: u32) -> Result<()> {
        bail!("this host has no files to change")
    }

    fn set_owner(&self, _: &Path, _: Owner) -> Result<()> {
        bail!("this host has no files to change")
    }

    fn symlink(&self, _: &Path, _: &Path) -> Result<()> {
        bail!("this host has no files to change")
    }

    fn remove_file(&self, _: &Path) -> Result<()> {
        bail!("this host has no files to change")
    }

    fn remove_dir_all(&self, _: &Path) -> Result<()> {
        bail!("this host has no files to change")
    }

    fn rename(&self, _: &Path, _: &Path) -> Result<()> {
        bail!("this host has no files to change")
    }

    async fn run(&self, _: &Cmd) -> Result<Output> {
        bail!("this host runs nothing")
    }

    async fn fetch(&self, _: &ArtifactPin) -> Result<PathBuf> {
        bail!("this host fetches nothing")
    }

    async fn cluster_mut(&self) -> Result<Writer, Unavailable> {
        self.cluster().await.map(Writer::new)
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A kubeconfig for a server on this machine that nothing has to trust.
pub fn kubeconfig(port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: default, cluster: {{server: \"https://127.0.0.1:{port}\", \
         insecure-skip-tls-verify: true}}}}]\nusers: [{{name: default, user: {{}}}}]\ncontexts: [{{name: default, context: \
         {{cluster: default, user: default}}}}]\ncurrent-context: default\n"
    )
}

/// What a test needs that is not on every machine: skipped with a word, or an error where everything must be there.
pub fn missing_peer<T>(what: &str) -> Option<T> {
    assert!(std::env::var("PROVISION_REQUIRE_PEERS").as_deref() != Ok("1"), "PROVISION_REQUIRE_PEERS=1, but {what}");
    eprintln!("skipped: {what}");
    None
}

/// A real API server, from the kubeconfig that `PROVISION_TEST_KUBECONFIG` names.
pub async fn real_cluster() -> Option<Reader> {
    let Ok(path) = std::env::var("PROVISION_TEST_KUBECONFIG") else {
        return missing_peer("PROVISION_TEST_KUBECONFIG names no kubeconfig of a test cluster");
    };
    let text = std::fs::read_to_string(&path).unwrap();
    let host = TestHost::new().file(super::KUBECONFIG, &text);
    Some(super::connect(&host).await.unwrap())
}

/// Helm of this major version, built once from its module like in the sandbox.
pub fn helm_program(major: u32) -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let archive = match major {
        3 => "helm-v3.22.0-linux-amd64.tar.gz",
        _ => "helm-v4.3.1-linux-amd64.tar.gz",
    };
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"), PathBuf::from);
    let folder = cache.join("provision/tools").join(archive.trim_end_matches(".tar.gz"));
    let program = folder.join("linux-amd64/helm");
    if program.exists() {
        return Some(program);
    }
    let packed = cache.join("provision/tools").join(archive);
    if !packed.exists() {
        if Command::new("go").arg("version").stdout(Stdio::null()).status().is_err() {
            return missing_peer(&format!("Helm {major} is not built, and Go is not installed"));
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/sandbox/tools/build.sh");
        let built = Command::new("bash").arg(script).arg(&packed).status().unwrap();
        assert!(built.success(), "{script} failed");
    }
    std::fs::create_dir_all(&folder).unwrap();
    let unpacked = Command::new("tar").arg("-xzf").arg(&packed).arg("-C").arg(&folder).status().unwrap();
    assert!(unpacked.success());
    Some(program)
}

/// An API server that holds fixed objects of a few kinds and answers only GET, by path.
///
/// It is for what needs a certain state of the cluster around it; that requests and answers have this form is proved
/// by the tests against a real one.
pub struct FixedApi {
    objects: Mutex<BTreeMap<String, Value>>,
}

impl FixedApi {
    /// Serves `objects` (path -> object or list) and returns a reader of them.
    pub async fn serve(objects: impl IntoIterator<Item = (String, Value)>) -> (Reader, Arc<Self>) {
        let api = Arc::new(Self { objects: Mutex::new(objects.into_iter().collect()) });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&api));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        rustls::crypto::ring::default_provider().install_default().ok();
        let config = kube::Config::new(format!("http://127.0.0.1:{port}").parse().unwrap());
        (Reader::new(kube::Client::try_from(config).unwrap()), api)
    }

    pub fn set(&self, path: &str, object: Value) {
        self.objects.lock().unwrap().insert(path.into(), object);
    }
}

/// Lists that are empty unless they were given.
const EMPTY: [&str; 8] =
    ["/events", "/pods", "/deployments", "/statefulsets", "/daemonsets", "/replicasets", "/jobs", "/cronjobs"];

async fn answer(State(api): State<Arc<FixedApi>>, uri: Uri) -> Response {
    let kind = |resource: &str, kind: &str| json!({"resource": resource, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": ["get", "list"]});
    let group = |name: &str, resources: Value| json!({"metadata": {"name": name}, "versions": [{"version": "v1", "resources": resources}]});
    match uri.path() {
        "/api" => {
            let mut node = kind("nodes", "Node");
            node["scope"] = json!("Cluster");
            let core = json!([
                kind("services", "Service"),
                kind("secrets", "Secret"),
                kind("pods", "Pod"),
                kind("events", "Event"),
                node
            ]);
            Json(json!({"items": [group("", core)]})).into_response()
        }
        "/apis" => Json(json!({"items": [
            group("apps", json!([kind("deployments", "Deployment"), kind("replicasets", "ReplicaSet"), kind("statefulsets", "StatefulSet"), kind("daemonsets", "DaemonSet")])),
            group("batch", json!([kind("jobs", "Job"), kind("cronjobs", "CronJob")])),
            group("coordination.k8s.io", json!([kind("leases", "Lease")]))
        ]}))
        .into_response(),
        path => match api.objects.lock().unwrap().get(path) {
            Some(object) => Json(object.clone()).into_response(),
            None if EMPTY.iter().any(|resource| path.ends_with(resource)) => {
                Json(json!({"items": []})).into_response()
            }
            None => (
                StatusCode::NOT_FOUND,
                Json(json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"})),
            )
                .into_response(),
        },
    }
}

/// A PostgreSQL server of its own on a free port, ended and removed with the value.
pub struct Postgres {
    bin: PathBuf,
    dir: tempfile::TempDir,
    pub port: u16,
}

impl Postgres {
    /// The administrator's password.
    pub const PASSWORD: &str = "admin-canary-7";

    /// Starts one that asks everybody for a SCRAM password and logs every statement; `None` where PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        let Some(bin) = server_tools() else {
            return missing_peer("PostgreSQL's server is not installed (apt-get install postgresql)");
        };
        let dir = tempfile::Builder::new().prefix("provision-pg").tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { bin, dir, port };
        // The server refuses to run as root.
        std::fs::write(server.dir.path().join("pw"), Self::PASSWORD).unwrap();
        let owner = Command::new("chown").args(["-R", "postgres"]).arg(server.dir.path()).status().unwrap();
        assert!(owner.success(), "the user postgres is missing");
        let dir = server.dir.path().display().to_string();
        server.run(
            "initdb",
            &[
                "-D",
                &format!("{dir}/data"),
                "-U",
                "postgres",
                "--auth=scram-sha-256",
                &format!("--pwfile={dir}/pw"),
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
            ],
        );
        server.run("pg_ctl", &[
            "-D", &format!("{dir}/data"), "-w", "-l", &format!("{dir}/log"), "-o",
            &format!("-p {port} -k {dir} -c listen_addresses=127.0.0.1 -c fsync=off -c log_statement=all -c log_connections=on"),
            "start",
        ]);
        Some(server)
    }

    fn run(&self, program: &str, args: &[&str]) {
        let output = Command::new("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
            .arg(self.bin.join(program))
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(output.success(), "{program} failed");
    }

    /// All that the server wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// A host in whose cluster `mlops/postgres` is this server, and `postgres-credentials` holds its password.
    pub async fn host(&self) -> TestHost {
        let (reader, _) = FixedApi::serve([
            (
                "/api/v1/namespaces/mlops/services/postgres".to_owned(),
                json!({"spec": {"clusterIP": "127.0.0.1", "ports": [{"port": self.port}]}}),
            ),
            (
                "/api/v1/namespaces/mlops/secrets/postgres-credentials".to_owned(),
                json!({"data": {"POSTGRES_PASSWORD": super::object::base64_of(Self::PASSWORD.as_bytes())}}),
            ),
        ])
        .await;
        TestHost::new().cluster(reader)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.dir.path().join("data");
        self.run("pg_ctl", &["-D", &data.display().to_string(), "-m", "immediate", "stop"]);
    }
}
