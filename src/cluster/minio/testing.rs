//! For tests: a MinIO server of its own on this machine, the same program that the sandbox's image has.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::artifacts::Store;
use crate::cluster::object::base64_of;
use crate::cluster::s3::{Access, Keys, Writer};
use crate::cluster::testing::{FixedApi, TestHost, missing_peer};
use crate::image::Script;

/// A server, ended and removed with the value.
pub struct Minio {
    server: Child,
    dir: tempfile::TempDir,
    pub port: u16,
    root_password: String,
}

/// The program, compiled by the recipe of the sandbox's image when the cache does not have it (minutes, once).
fn program() -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let store = Store::open().unwrap();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("sandbox/images/minio/server.sh");
    let built = match Script::at(recipe).build(&store, &|line| eprintln!("{line}")) {
        Ok(path) => path,
        Err(error) => return missing_peer(&format!("the MinIO server cannot be compiled: {error:#}")),
    };
    // What the cache holds is not executable.
    let folder = store.root().join("test-programs");
    let program = folder.join(format!("minio-{}", built.file_name().unwrap().to_string_lossy()));
    if !program.exists() {
        std::fs::create_dir_all(&folder).unwrap();
        let new = tempfile::NamedTempFile::new_in(&folder).unwrap().into_temp_path();
        std::fs::copy(&built, &new).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        new.persist(&program).unwrap();
    }
    Some(program)
}

impl Minio {
    pub const ROOT_USER: &str = "minio-admin";
    pub const ROOT_PASSWORD: &str = "root-canary-7";

    /// Starts one with nothing in it; `None` where it cannot be had.
    pub fn start() -> Option<Self> {
        let program = program()?;
        let dir = tempfile::Builder::new().prefix("provision-minio").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = run(&program, dir.path(), port, Self::ROOT_PASSWORD);
        Some(Self { server, dir, port, root_password: Self::ROOT_PASSWORD.into() })
    }

    /// Starts it again with the same data and another root password.
    pub fn restart(&mut self, root_password: &str) {
        self.stop();
        self.root_password = root_password.into();
        self.server = run(&program().unwrap(), self.dir.path(), self.port, root_password);
    }

    /// Ends it; its data stays.
    pub fn stop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }

    /// All that the server wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// A host in whose cluster `mlops/minio` is this server, and `minio-root` holds its root credentials.
    pub async fn host(&self) -> TestHost {
        let (reader, _) = FixedApi::serve([
            (
                "/api/v1/namespaces/mlops/services/minio".to_owned(),
                json!({"spec": {"clusterIP": "127.0.0.1", "ports": [{"name": "api", "port": self.port}]}}),
            ),
            (
                "/api/v1/namespaces/mlops/secrets/minio-root".to_owned(),
                json!({"data": {
                    "MINIO_ROOT_USER": base64_of(Self::ROOT_USER.as_bytes()),
                    "MINIO_ROOT_PASSWORD": base64_of(self.root_password.as_bytes())
                }}),
            ),
        ])
        .await;
        TestHost::new().cluster(reader)
    }

    /// Changes things as its administrator, or as somebody else.
    pub async fn writer(&self, host: &TestHost, keys: Option<(&str, &str)>) -> Writer {
        let service = "mlops/minio".to_owned().try_into().unwrap();
        let keys = keys
            .map_or(Keys::OfSecret("minio-root"), |(access_key, secret_key)| Keys::Given { access_key, secret_key });
        Writer::for_probe(Access { service: &service, keys }, host).await.unwrap()
    }
}

/// Python with boto3, in an environment of its own, made when it is not there.
pub fn python_with_boto3() -> Option<PathBuf> {
    const VERSION: &str = "1.44.8";
    let folder = Store::open().unwrap().root().join(format!("venv-boto3-{VERSION}"));
    let python = folder.join("bin/python");
    let has_it = || Command::new(&python).args(["-c", "import boto3"]).output().is_ok_and(|it| it.status.success());
    if has_it() {
        return Some(python);
    }
    let done = |command: &mut Command| command.stdin(Stdio::null()).output().is_ok_and(|it| it.status.success());
    let made = done(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))
        && done(Command::new(&python).args(["-m", "pip", "install", "--quiet", &format!("boto3=={VERSION}")]));
    if made && has_it() { Some(python) } else { missing_peer("python3 -m venv and pip cannot install boto3") }
}

fn run(program: &Path, dir: &Path, port: u16, root_password: &str) -> Child {
    let log = std::fs::File::options().append(true).create(true).open(dir.join("log")).unwrap();
    let server = Command::new(program)
        .args(["server", "--address", &format!("127.0.0.1:{port}"), "--console-address", "127.0.0.1:0"])
        .arg(dir.join("data"))
        .env("MINIO_ROOT_USER", Minio::ROOT_USER)
        .env("MINIO_ROOT_PASSWORD", root_password)
        .env("MINIO_BROWSER", "off")
        .env("HOME", dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "the server does not listen: {}", dir.join("log").display());
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

impl Drop for Minio {
    fn drop(&mut self) {
        self.stop();
    }
}
