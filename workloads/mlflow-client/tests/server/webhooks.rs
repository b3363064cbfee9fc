//! A delivery of the real server is believed, and a changed one is not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::time::{SystemTime, UNIX_EPOCH};

use mlflow_client::NewVersion;
use mlflow_client::webhook::{Event, ID, Rejected, SIGNATURE, Signed, TIMESTAMP, verify};

use crate::mlflow::Server;
use crate::{client, runtime};

#[test]
fn moving_an_alias_is_delivered_and_signed() {
    let Some(server) = Server::start() else { return };
    let mlflow = client(&server.uri());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/-/webhook", listener.local_addr().unwrap());
    let received = std::thread::spawn(move || receive(&listener));
    runtime().block_on(async {
        mlflow.ensure_registered_model("m", "").await.unwrap();
        mlflow
            .create_version(&NewVersion { name: "m".into(), source: "s3://b/k".into(), ..NewVersion::default() })
            .await
            .unwrap();
        let events = [Event::alias_set(), Event::alias_deleted()];
        let made = mlflow.create_webhook("reload", &url, &events, "a secret of some length").await.unwrap();
        let all = mlflow.webhooks().await.unwrap();
        assert_eq!(all.iter().map(|w| (&w.webhook_id, w.events.len())).collect::<Vec<_>>(), [(&made.webhook_id, 2)]);
        mlflow.set_alias("m", "production", "1").await.unwrap();
    });
    let (headers, body) = received.join().unwrap();
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap();
    let signed = Signed { id: header(ID), timestamp: header(TIMESTAMP), signature: header(SIGNATURE) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let delivery = verify("a secret of some length", signed, &body, now).unwrap();
    assert_eq!((delivery.entity.as_str(), delivery.action.as_str()), ("model_version_alias", "created"));
    assert_eq!(
        (delivery.data.name.as_str(), delivery.data.alias.as_str(), delivery.data.version.as_str()),
        ("m", "production", "1")
    );
    let mut changed = body.clone();
    let at = changed.len() / 2;
    changed[at] ^= 1;
    assert_eq!(verify("a secret of some length", signed, &changed, now), Err(Rejected::Forged));
    assert_eq!(verify("another secret", signed, &body, now), Err(Rejected::Forged));
    runtime().block_on(async {
        for hook in mlflow.webhooks().await.unwrap() {
            mlflow.delete_webhook(&hook.webhook_id).await.unwrap();
        }
        assert_eq!(mlflow.webhooks().await.unwrap(), []);
    });
}

/// One request, answered with 200.
fn receive(listener: &TcpListener) -> (Vec<(String, String)>, Vec<u8>) {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let mut reader = BufReader::new(stream);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.trim_end().split_once(": ") {
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }
    let length = headers.iter().find(|(n, _)| n == "content-length").unwrap().1.parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    (headers, body)
}
