//! A real `mlflow server` of its own: SQLite, one worker, a free port of 127.0.0.1, a directory
//! that goes away with it.
//!
//! Python with MLflow comes from `MLFLOW_PYTHON`, else `scripts/venv-mlflow` finds or makes it.
//! Without one a test says so and passes, unless `PROVISION_REQUIRE_PEERS=1`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Its first start makes a database, which takes minutes on a busy machine.
const START: Duration = Duration::from_secs(300);

pub struct Server {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
    args: Vec<String>,
}

/// Python with MLflow, or `None` with a reason printed.
pub fn python() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("MLFLOW_PYTHON") {
        return Some(given.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/venv-mlflow");
    let made = Command::new(&script).output();
    let reason = match made {
        Ok(output) if output.status.success() => {
            return Some(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()));
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let required = std::env::var("PROVISION_REQUIRE_PEERS").is_ok_and(|v| v == "1");
    assert!(!required, "no MLflow: {}: {reason}", script.display());
    eprintln!("skipped: no MLflow ({}: {reason})", script.display());
    None
}

impl Server {
    /// `None` where there is no MLflow; the reason is printed.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// More arguments of `mlflow server`.
    pub fn start_with(args: &[&str]) -> Option<Self> {
        let python = python()?;
        let dir = tempfile::tempdir().unwrap();
        // Free now; whoever takes it in between makes the start fail, not the test lie.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let args: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
        let child = spawn(&python, dir.path(), port, &args);
        let mut server = Self { child, port, dir, args };
        server.wait();
        Some(server)
    }

    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn stop(&mut self) {
        // The server has a worker process, which ends with its parent's orderly end only.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let end = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// On the same port, with the same database.
    pub fn restart(&mut self) {
        self.child = spawn(&python().unwrap(), self.dir.path(), self.port, &self.args);
        self.wait();
    }

    fn wait(&mut self) {
        let end = Instant::now() + START;
        while !self.healthy() {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("mlflow server ended with {status}: {}", log());
            }
            assert!(Instant::now() < end, "mlflow server does not start: {}", log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") && answer.ends_with("OK"))
    }
}

fn spawn(python: &Path, dir: &Path, port: u16, args: &[String]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = Command::new(python);
    command
        .args(["-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", &port.to_string()])
        .arg("--backend-store-uri")
        .arg(format!("sqlite:///{}", dir.join("db.sqlite").display()))
        .arg("--artifacts-destination")
        .arg(dir.join("artifacts"))
        .args(args)
        .current_dir(dir)
        // Its worker is `python -m uvicorn`, looked up by name.
        .env("PATH", with_first(python.parent().unwrap()))
        .env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        .env("MLFLOW_DISABLE_TELEMETRY", "true")
        .env("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https")
        .env("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
        .env("MLFLOW_WEBHOOK_CACHE_TTL", "1")
        // Only for servers that ask for a login.
        .env("MLFLOW_AUTH_ADMIN_PASSWORD", "correct-horse-1")
        .env("MLFLOW_FLASK_SERVER_SECRET_KEY", "not a secret")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command.spawn().unwrap()
}

fn with_first(dir: &Path) -> std::ffi::OsString {
    let mut path = dir.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
