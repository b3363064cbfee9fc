//! Clients that ask without a pause while models change under them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::client::{Connection, Server};
use crate::directories::sequence;

const CLIENTS: usize = 4;

/// Ends the clients also when the test fails: they would be waited for otherwise.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does `moves` while clients ask for this window. No request fails, and each answer is to the last bit the one of the version
/// that its header names: `expected[version]`.
pub fn while_asked(server: &Server, window: &[f32], expected: &[f32], moves: impl FnOnce()) {
    let body = sequence(window);
    let address = server.address;
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let before = server.metric("rul_requests_total{status=\"ok\"}");
    let ask = || {
        let mut connection = Connection::open(address);
        while !stop.load(Ordering::Relaxed) {
            let reply = connection.send("POST", "/predict", &[("content-type", "application/json")], body.as_bytes());
            assert_eq!(reply.status, 200, "{}", reply.text());
            let named = reply.header("x-model-version").unwrap();
            let version: usize = named.parse().unwrap();
            let answer = reply.json();
            assert_eq!(answer["rul"].as_f64().unwrap() as f32, expected[version], "version {version}");
            assert_eq!(answer["model_version"], named);
            answered.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let stop = Stop(&stop);
        for _ in 0..CLIENTS {
            scope.spawn(ask);
        }
        moves();
        drop(stop);
    });
    let answered = answered.load(Ordering::Relaxed) as f64;
    assert!(answered > 100.0, "{answered}");
    assert_eq!(server.metric("rul_requests_total{status=\"ok\"}") - before, answered);
    assert_eq!(server.metric("rul_requests_total{status=\"error\"}"), 0.0);
}
