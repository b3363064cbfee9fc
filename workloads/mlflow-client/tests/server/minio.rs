//! A real MinIO of its own: free ports of 127.0.0.1, a directory that goes away with it.
//!
//! MinIO is `MINIO_BIN`, else the one that `provision`'s own tests build into the cache.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mlflow_client::S3;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};

pub const KEY: &str = "tester-key";
pub const SECRET: &str = "a secret of tests";

fn program() -> Option<PathBuf> {
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

pub struct Minio {
    child: Child,
    pub endpoint: String,
    _dir: tempfile::TempDir,
}

impl Minio {
    /// `None` where there is no MinIO; the reason is printed.
    pub fn start() -> Option<Self> {
        let program = program()?;
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
        Some(Self { child, endpoint: format!("http://{address}"), _dir: dir })
    }

    pub fn settings(&self, secret: &str) -> S3 {
        S3::new(Some(&self.endpoint), "us-east-1", Some((KEY.into(), secret.into())), None).unwrap()
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a bucket.
pub async fn make_bucket(http: &reqwest::Client, endpoint: &str, name: &'static str) {
    let bucket = Bucket::new(endpoint.parse().unwrap(), UrlStyle::Path, name, "us-east-1").unwrap();
    let credentials = Credentials::new(KEY, SECRET);
    let url = bucket.create_bucket(&credentials).sign(Duration::from_secs(60));
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        // For a moment after its port is open it says that it is not ready.
        let answer = http.put(url.clone()).send().await;
        if answer.is_ok_and(|a| a.status().is_success()) {
            return;
        }
        assert!(Instant::now() < end, "MinIO makes no bucket");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
