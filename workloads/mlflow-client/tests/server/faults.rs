//! A network that breaks between this client and a real server: a forwarder that loses the answers
//! of chosen requests after they were carried out, or the requests themselves.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlflow_client::{NewRun, NewVersion};

use crate::mlflow::Server;
use crate::{client, runtime};

/// What to lose next: a part of the request's first line, and when.
#[derive(Clone, Debug)]
enum Lose {
    /// The server gets it and answers; the answer is lost.
    Answer(&'static str),
    /// The server never gets it.
    Request(&'static str),
}

struct Forwarder {
    port: u16,
    plan: Arc<Mutex<Vec<Lose>>>,
}

impl Forwarder {
    fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&plan);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let plan = Arc::clone(&shared);
                std::thread::spawn(move || forward(stream, to, &plan));
            }
        });
        Self { port, plan }
    }

    fn lose(&self, what: &[Lose]) {
        self.plan.lock().unwrap().extend_from_slice(what);
    }

    fn all_lost(&self) -> bool {
        self.plan.lock().unwrap().is_empty()
    }
}

/// One request per connection: the answer says so.
fn forward(mut client: TcpStream, to: u16, plan: &Mutex<Vec<Lose>>) {
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let Some(request) = read_message(&mut client) else { return };
    let text = String::from_utf8_lossy(&request);
    let line = text.lines().next().unwrap_or_default().to_owned();
    let lost = {
        let mut plan = plan.lock().unwrap();
        let hit = |lose: &Lose| matches!(lose, Lose::Answer(part) | Lose::Request(part) if line.contains(part));
        plan.iter().position(hit).map(|at| plan.remove(at))
    };
    if let Some(Lose::Request(_)) = lost {
        return;
    }
    let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
    let close = text.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    server.write_all(close.as_bytes()).unwrap();
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).unwrap();
    if lost.is_none() {
        let _ = client.write_all(&answer);
    }
}

fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(head) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&all[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if all.len() >= head + 4 + length {
                return Some(all);
            }
        }
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => all.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
    }
}

#[test]
fn what_is_created_is_created_once_whatever_gets_lost() {
    let Some(server) = Server::start() else { return };
    let net = Forwarder::start(server.port());
    let mlflow = client(&format!("http://127.0.0.1:{}", net.port));
    runtime().block_on(async {
        net.lose(&[Lose::Answer("experiments/create"), Lose::Request("get-by-name")]);
        let id = mlflow.ensure_experiment("x").await.unwrap();
        net.lose(&[Lose::Request("runs/create"), Lose::Answer("runs/create")]);
        let run = mlflow.create_run(&NewRun { experiment_id: id.clone(), ..NewRun::default() }).await.unwrap();
        assert_eq!(mlflow.search_runs(&[&id], "", &[], 10).await.unwrap().len(), 1);
        net.lose(&[Lose::Answer("registered-models/create")]);
        mlflow.ensure_registered_model("m", "").await.unwrap();
        net.lose(&[Lose::Answer("model-versions/create"), Lose::Answer("model-versions/search")]);
        let new = NewVersion {
            name: "m".into(),
            source: "s3://b/k".into(),
            run_id: run.info.run_id,
            ..NewVersion::default()
        };
        assert_eq!(mlflow.create_version(&new).await.unwrap().version, "1");
        net.lose(&[Lose::Request("model-versions/create"), Lose::Answer("model-versions/create")]);
        assert_eq!(mlflow.create_version(&new).await.unwrap().version, "2");
        assert_eq!(mlflow.versions("m", 10).await.unwrap().len(), 2);
        net.lose(&[Lose::Answer("registered-models/alias"), Lose::Request("registered-models/alias")]);
        mlflow.set_alias("m", "production", "2").await.unwrap();
        assert_eq!(mlflow.alias("m", "production").await.unwrap().unwrap().version, "2");
        assert!(net.all_lost(), "every loss was met: {:?}", net.plan.lock().unwrap());
    });
}

#[test]
fn a_server_that_is_not_there_is_given_up_on_with_its_place() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mlflow = client(&format!("http://u:hunter2@127.0.0.1:{port}")).with_patience(2, Duration::from_secs(1));
    let error = runtime().block_on(mlflow.alias("m", "production")).unwrap_err();
    let text = error.to_string();
    assert!(error.is_temporary() && text.contains(&port.to_string()) && text.contains("refused"), "{text}");
    assert!(!format!("{text} {error:?}").contains("hunter2"), "{text}");
}

#[test]
fn a_server_that_falls_silent_is_given_up_on() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let mlflow = client(&format!("http://127.0.0.1:{port}")).with_patience(1, Duration::from_millis(200));
    let started = std::time::Instant::now();
    let error = runtime().block_on(mlflow.download_bytes(&mlflow_client::Location::Proxy { path: "1/x".into() }, 10));
    assert!(error.unwrap_err().to_string().contains("too long"));
    assert!(started.elapsed() < Duration::from_secs(5));
}
