//! The real peers on free ports of 127.0.0.1, ended when dropped.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub const PATIENCE: Duration = Duration::from_secs(40);

/// Where the programs are; `None` (and said why) where they cannot be had.
pub fn programs() -> Option<&'static Path> {
    static PROGRAMS: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAMS.get_or_init(find).as_deref()
}

fn find() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/drift-peers");
    let out = Command::new(script).stderr(Stdio::inherit()).output();
    if let Ok(out) = out
        && out.status.success()
    {
        return Some(PathBuf::from(String::from_utf8(out.stdout).unwrap().trim()));
    }
    let required = std::env::var_os("PROVISION_REQUIRE_PEERS").is_some_and(|v| v == "1");
    assert!(!required, "scripts/drift-peers failed, and PROVISION_REQUIRE_PEERS=1");
    eprintln!("skipped: no Alertmanager, Pushgateway and Prometheus (scripts/drift-peers failed)");
    None
}

/// One runtime per call: tests are plain functions.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn http() -> reqwest::Client {
    rul::http::client(Duration::from_secs(10)).unwrap()
}

/// Status and text; 0 where nobody answers.
pub fn get(url: &str) -> (u16, String) {
    block_on(async {
        match http().get(url).send().await {
            Ok(response) => (response.status().as_u16(), response.text().await.unwrap_or_default()),
            Err(_) => (0, String::new()),
        }
    })
}

pub fn get_json(url: &str) -> Value {
    let (status, text) = get(url);
    assert_eq!(status, 200, "{url}: {text}");
    serde_json::from_str(&text).unwrap()
}

pub fn post(url: &str, body: Value) -> Value {
    block_on(async {
        let response = http().post(url).json(&body).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{url}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    })
}

/// Polls until it is so; says what never was.
pub fn until<T>(what: &str, mut met: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = met() {
            return found;
        }
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A peer that runs.
pub struct Running {
    pub url: String,
    child: Child,
    _dir: TempDir,
}

impl Running {
    fn start(program: &str, args: impl FnOnce(&Path, u16) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let child = Command::new(programs().unwrap().join(program))
            .args(args(dir.path(), port))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let running = Self { url: format!("http://127.0.0.1:{port}"), child, _dir: dir };
        until(&format!("{program} ready"), || (get(&format!("{}/-/ready", running.url)).0 == 200).then_some(()));
        running
    }

    pub fn pushgateway() -> Self {
        Self::start("prometheus-pushgateway", |_, port| vec![format!("--web.listen-address=127.0.0.1:{port}")])
    }

    /// Sends what fires to `webhook`, at once.
    pub fn alertmanager(webhook: &str) -> Self {
        Self::start("alertmanager", |dir, port| {
            let config = dir.join("config.yml");
            let text = format!(
                "route:\n  receiver: model-drift\n  group_by: [alertname, model_name, baseline_version, service, cause]\n  \
                 group_wait: 0s\n  group_interval: 1s\n  repeat_interval: 1h\n\
                 receivers:\n  - name: model-drift\n    webhook_configs:\n      - url: {webhook}\n        send_resolved: true\n"
            );
            std::fs::write(&config, text).unwrap();
            vec![
                format!("--config.file={}", config.display()),
                format!("--storage.path={}", dir.join("data").display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
                "--cluster.listen-address=".to_owned(),
            ]
        })
    }

    /// Scrapes `target` every second.
    pub fn prometheus(target: SocketAddr) -> Self {
        Self::start("prometheus", |dir, port| {
            let config = dir.join("prometheus.yml");
            let text = format!(
                "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: fastapi\n    static_configs:\n      - targets: ['{target}']\n"
            );
            std::fs::write(&config, text).unwrap();
            vec![
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", dir.join("data").display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
            ]
        })
    }

    /// The gauge of one series at the Pushgateway.
    pub fn gauge(&self, series: &str) -> Option<f64> {
        let (_, text) = get(&format!("{}/metrics", self.url));
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// Our alerts that fire now.
    pub fn alerts(&self) -> Vec<Value> {
        let url = format!("{}/api/v2/alerts?filter=alertname%3D%22ModelDriftDetected%22", self.url);
        get_json(&url).as_array().unwrap().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Receives webhooks and keeps their bodies.
pub struct Webhook {
    pub url: String,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/webhook/drift", listener.local_addr().unwrap());
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bodies);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut bytes = Vec::new();
                let mut buffer = [0; 4096];
                loop {
                    let n = stream.read(&mut buffer).unwrap_or(0);
                    bytes.extend_from_slice(&buffer[..n]);
                    let text = String::from_utf8_lossy(&bytes);
                    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                    if let Ok(body) = serde_json::from_str(body) {
                        kept.lock().unwrap().push(body);
                        break;
                    }
                    if n == 0 {
                        break;
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        Self { url, bodies }
    }

    /// The first notification with this status.
    pub fn notified(&self, status: &str) -> Option<Value> {
        self.bodies.lock().unwrap().iter().find(|body| body["status"] == status).cloned()
    }
}
