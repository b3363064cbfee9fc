//! Too much, too slow, too many, and plain rubbish.

use std::time::{Duration, Instant};

use crate::client::Server;
use crate::directories::{FEATURES, WINDOW, numbers, sequence};

fn window() -> String {
    sequence(&numbers(1, WINDOW * FEATURES))
}

#[test]
fn a_large_body_is_413_however_it_is_sent() {
    let server = Server::start(&[]);
    let large = " ".repeat((64 << 10) + 1);
    let reply = server.post("/predict", &large);
    assert_eq!(reply.status, 413);
    assert!(reply.text().contains("65536"), "{}", reply.text());

    let mut chunked = server.open();
    chunked.write(
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    let chunk = format!("10000\r\n{}\r\n1\r\n \r\n", " ".repeat(64 << 10));
    chunked.write(chunk.as_bytes());
    assert_eq!(chunked.read().unwrap().status, 413);

    // Claimed, never sent: refused before a byte of it is awaited.
    let mut claimed = server.open();
    claimed.begin("/predict", 1 << 40);
    assert_eq!(claimed.read().unwrap().status, 413);
    assert_eq!(server.metric("rul_refused_total{reason=\"too_large\"}"), 3.0);

    let padded = format!("{}{}", window(), " ".repeat(64 << 10));
    assert_eq!(server.post("/v1/models/cmapss-rul:predict", &padded).status, 400, "larger bodies are for batches");
}

#[test]
fn a_body_that_does_not_arrive_is_408() {
    let server = Server::start(&["--request-timeout", "0.2"]);
    let mut slow = server.open();
    slow.begin("/predict", 100);
    slow.write(b"{\"seq");
    let started = Instant::now();
    let reply = slow.read().unwrap();
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")));
    assert!(started.elapsed() >= Duration::from_millis(150), "{:?}", started.elapsed());
    assert!(slow.read().is_none(), "and the connection ends");
    assert_eq!(server.metric("rul_refused_total{reason=\"timeout\"}"), 1.0);
}

#[test]
fn more_than_the_limit_at_once_is_503_and_health_stays() {
    let server = Server::start(&["--concurrency", "16"]);
    let body = window();
    let mut held: Vec<_> = (0..16).map(|_| server.open()).collect();
    for connection in &mut held {
        connection.begin("/predict", body.len());
    }
    let end = Instant::now() + crate::client::PATIENCE;
    while server.metric("rul_inflight") < 16.0 {
        assert!(Instant::now() < end);
    }
    let reply = server.post("/predict", &body);
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.get("/readyz").status, 200);
    for connection in &mut held {
        connection.write(body.as_bytes());
        assert_eq!(connection.read().unwrap().status, 200, "those inside are not affected");
    }
    assert_eq!(server.post("/predict", &body).status, 200);
    assert_eq!(server.metric("rul_refused_total{reason=\"concurrency\"}"), 1.0);
    // A batch takes all 16 units here, so one that hangs keeps the others out.
    let mut batch = server.open();
    batch.begin("/v1/models/cmapss-rul:predict", 10);
    while server.metric("rul_inflight") < 1.0 {
        assert!(Instant::now() < end);
    }
    assert_eq!(server.post("/predict", &body).status, 503);
    drop(batch);
    while server.metric("rul_inflight") > 0.0 {
        assert!(Instant::now() < end, "a client that went away frees its place");
    }
    assert_eq!(server.post("/predict", &body).status, 200);
}

#[test]
fn rubbish_on_the_wire_hurts_nobody_else() {
    let server = Server::start(&[]);
    let mut good = server.open();
    let json = [("content-type", "application/json")];
    for seed in 0..200 {
        let bytes: Vec<u8> = numbers(seed, 300).iter().map(|x| (x * 127.0) as i8 as u8).collect();
        let mut bad = server.open();
        if seed % 2 == 0 {
            bad.begin("/predict", bytes.len());
        }
        bad.write(&bytes);
        if seed % 3 == 0 {
            let status = bad.read().map(|reply| reply.status);
            assert!(status.is_none_or(|status| (400..500).contains(&status)), "{status:?}");
        }
        assert_eq!(good.send("POST", "/predict", &json, window().as_bytes()).status, 200);
    }
    assert_eq!(server.metric("rul_refused_total{reason=\"failed\"}"), 0.0);
}

#[test]
fn two_requests_in_one_packet_get_two_answers() {
    let server = Server::start(&[]);
    let mut connection = server.open();
    let body = window();
    let one = format!("POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    connection.write(one.repeat(2).as_bytes());
    assert_eq!(connection.read().unwrap().status, 200);
    assert_eq!(connection.read().unwrap().status, 200);
}

#[test]
fn options_are_checked_before_anything_starts() {
    let run = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rul"));
        let output = command.arg("serve").args(args).env_clear().envs(env.iter().copied()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(&["--listen", "localhost:8000"], &[]);
    assert_eq!(code, Some(2), "{text}");
    for env in [("STUB_RUL", "many"), ("STUB_RUL", "NaN"), ("RUL_GRACE", "-1"), ("RUL_CONCURRENCY", "3")] {
        let (code, text) = run(&[], &[env]);
        assert_eq!(code, Some(2), "{env:?}: {text}");
    }
    let taken = Server::start(&[]);
    let (code, text) = run(&["--listen", &taken.address.to_string()], &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("cannot listen on") && text.contains("--listen"), "{text}");
    let (code, text) = run(&["--token-file", "/does/not/exist"], &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("/does/not/exist"), "{text}");
    let (code, text) = run(&[], &[("RUL_TOKEN", " ")]);
    assert_eq!(code, Some(1), "{text}");
}
