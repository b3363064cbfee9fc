//! Connections: accepting them, limits that protect against slow peers, and the orderly end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;

use super::log;
use super::service::Service;

/// How long a peer may take to send a request's head; also how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Breathing space when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How to end.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Between "not ready" and the closed door: the time that others need to notice.
    pub delay: Duration,
    /// For requests that are under way when the door closes.
    pub grace: Duration,
}

/// The two ways to be told to stop.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn install() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Which one came.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Serves until told to stop, then drains. A second signal ends the drain at once.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    service: Arc<Service>,
    mut signals: Signals,
    connections: usize,
    drain: Drain,
) {
    let door = Door { http: http(), graceful: GracefulShutdown::new(), slots: Arc::new(Semaphore::new(connections)) };
    let signal = tokio::select! {
        signal = signals.next() => signal,
        () = door.accept(&listener, &router) => return,
    };
    service.drain();
    let inflight = service.metrics.inflight.load(std::sync::atomic::Ordering::Relaxed);
    log::info("draining", json!({ "signal": signal, "connections": door.graceful.count(), "inflight": inflight }));
    // A person at a terminal has no load balancer that must notice first.
    let delay = if signal == "SIGINT" { Duration::ZERO } else { drain.delay };
    let impatient = tokio::select! {
        () = door.accept(&listener, &router) => false,
        () = tokio::time::sleep(delay) => false,
        _ = signals.next() => true,
    };
    drop(listener);
    let started = Instant::now();
    let left = door.graceful.count();
    let finished = !impatient
        && tokio::select! {
            () = door.graceful.shutdown() => true,
            () = tokio::time::sleep(drain.grace) => false,
            _ = signals.next() => false,
        };
    let seconds = started.elapsed().as_secs_f64();
    if finished {
        log::info("stopped", json!({ "connections": left, "seconds": seconds }));
    } else {
        log::warn("cut", json!({ "connections": left, "seconds": seconds }));
    }
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
    http
}

struct Door {
    http: http1::Builder,
    graceful: GracefulShutdown,
    slots: Arc<Semaphore>,
}

impl Door {
    /// Never returns.
    async fn accept(&self, listener: &TcpListener, router: &Router) {
        loop {
            // Without a free slot newcomers wait in the kernel's queue.
            let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = self.connection(stream, router.clone());
                    tokio::spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                // The peer is gone again, or there are no descriptors left: neither ends the service.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn connection(&self, stream: TcpStream, router: Router) -> impl Future<Output = ()> + Send + use<> {
        // Answers are single small segments; waiting to fill one only delays them.
        let _ = stream.set_nodelay(true);
        let connection = self.http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let connection = self.graceful.watch(connection);
        async move {
            // A broken connection is the peer's affair.
            let _ = connection.await;
        }
    }
}
