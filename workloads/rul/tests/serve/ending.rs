//! SIGTERM, SIGINT and those who are still inside.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client::Server;
use crate::directories::{FEATURES, WINDOW, numbers, sequence};

#[test]
fn not_ready_first_then_the_request_under_way_then_the_end() {
    let mut server = Server::start(&["--drain-delay", "0.7"]);
    let body = sequence(&numbers(1, WINDOW * FEATURES));
    let mut inside = server.open();
    inside.begin("/predict", body.len());
    inside.write(&body.as_bytes()[..100]);
    let mut idle = server.open();
    assert_eq!(idle.send("GET", "/readyz", &[], b"").status, 200);

    server.signal(Signal::TERM);
    server.wait_for("draining");
    let ready = server.get("/readyz");
    assert_eq!((ready.status, ready.text().as_str()), (503, r#"{"status":"draining"}"#));
    let late = server.post("/predict", &body);
    assert_eq!((late.status, late.header("connection")), (200, Some("close")), "still served, once");
    assert_eq!(server.get("/healthz").status, 200);

    // The door closes after the delay; the one inside still gets an answer.
    let end = Instant::now() + crate::client::PATIENCE;
    while TcpStream::connect(server.address).is_ok() {
        assert!(Instant::now() < end, "the door never closes");
        std::thread::sleep(Duration::from_millis(20));
    }
    inside.write(&body.as_bytes()[100..]);
    assert_eq!(inside.read().unwrap().status, 200);
    assert!(idle.read().is_none(), "an idle connection is closed");
    assert!(server.wait().success());
    server.wait_for("stopped");
}

#[test]
fn whoever_does_not_finish_in_the_grace_period_is_cut() {
    let mut server = Server::start(&["--grace", "0.3"]);
    let mut stuck = server.open();
    stuck.begin("/predict", 100);
    while server.metric("rul_inflight") < 1.0 {}
    server.signal(Signal::TERM);
    let cut = server.wait_for("cut");
    assert!(cut["connections"].as_u64() >= Some(1), "{cut}");
    assert!(server.wait().success());
    assert!(stuck.read().is_none());
}

#[test]
fn interrupt_does_not_wait_for_a_load_balancer() {
    let mut server = Server::start(&["--drain-delay", "60"]);
    server.signal(Signal::INT);
    let started = Instant::now();
    assert!(server.wait().success());
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_second_signal_ends_the_wait() {
    let mut server = Server::start(&["--drain-delay", "60", "--grace", "60"]);
    let mut stuck = server.open();
    stuck.begin("/predict", 100);
    while server.metric("rul_inflight") < 1.0 {}
    server.signal(Signal::TERM);
    server.wait_for("draining");
    server.signal(Signal::TERM);
    server.wait_for("cut");
    assert!(server.wait().success());
}
