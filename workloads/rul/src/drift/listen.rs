//! `/metrics` of a watcher that goes on.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::error::Error;

/// What the last look left for others to read.
#[derive(Debug, Default)]
pub struct Shown {
    pub metrics: String,
    /// The evaluation; `null` before the first one.
    pub json: Option<String>,
    /// The last look succeeded.
    pub up: bool,
}

/// Shared by the watcher and its readers.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Shown>>);

impl Board {
    pub fn show(&self, shown: Shown) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    fn read<T>(&self, of: impl FnOnce(&Shown) -> T) -> T {
        of(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Listens; gives the address, and serves until the runtime ends.
///
/// # Errors
/// When the address cannot be had.
pub async fn listen(address: SocketAddr, board: Board) -> Result<SocketAddr, Error> {
    let fail =
        |e: std::io::Error| Error::Start(format!("cannot listen on {address}: {e}; choose another with --listen"));
    let listener = tokio::net::TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/", get(last))
        .with_state(board);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(bound)
}

async fn metrics(State(board): State<Board>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], board.read(|s| s.metrics.clone()))
}

async fn ready(State(board): State<Board>) -> impl IntoResponse {
    if board.read(|s| s.up) {
        (StatusCode::OK, "the last look succeeded\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the last look failed, or there was none yet\n")
    }
}

async fn last(State(board): State<Board>) -> impl IntoResponse {
    let json = board.read(|s| s.json.clone()).unwrap_or_else(|| "null".to_owned());
    ([(header::CONTENT_TYPE, "application/json")], json)
}
