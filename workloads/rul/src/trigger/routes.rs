//! The HTTP surface.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::alert::Payload;
use super::desk::{Decision, Desk};
use crate::token::Token;

/// Alertmanager's groups are small; this is a thousand alerts.
const BODY_LIMIT: usize = 1 << 20;

pub struct Front {
    pub desk: Desk,
    /// `None`: everybody may trigger.
    pub token: Option<Token>,
    /// The alert that starts a run.
    pub alertname: String,
    pub events: Events,
}

/// Requests by what they came to.
#[derive(Debug, Default)]
pub struct Events {
    submitted: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicU64,
    requests: AtomicU64,
    /// Microseconds in all requests.
    busy: AtomicU64,
}

pub fn router(front: Arc<Front>) -> Router {
    Router::new()
        .route("/webhook/drift", post(webhook))
        .route("/healthz", get(async || "ok\n"))
        .route("/health", get(health))
        .route("/incidents", get(incidents))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(front)
}

/// A request that was not taken, and why.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, axum::Json(json!({ "detail": self.1 }))).into_response()
    }
}

fn authorise(front: &Front, headers: &HeaderMap) -> Result<(), Refusal> {
    if front.token.as_ref().is_none_or(|token| token.allows(headers)) {
        return Ok(());
    }
    Err(Refusal(StatusCode::UNAUTHORIZED, "send the header \"authorization: Bearer TOKEN\"".to_owned()))
}

async fn webhook(State(front): State<Arc<Front>>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let begin = Instant::now();
    let response = match body {
        Ok(body) => answer(&front, &headers, &body).await.unwrap_or_else(IntoResponse::into_response),
        Err(rejection) => Refusal(rejection.status(), rejection.body_text()).into_response(),
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        front.events.failed.fetch_add(1, Ordering::Relaxed);
    }
    front.events.requests.fetch_add(1, Ordering::Relaxed);
    let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    front.events.busy.fetch_add(micros, Ordering::Relaxed);
    response
}

async fn answer(front: &Front, headers: &HeaderMap, body: &[u8]) -> Result<Response, Refusal> {
    authorise(front, headers)?;
    let payload: Payload = serde_json::from_slice(body).map_err(|error| {
        Refusal(StatusCode::UNPROCESSABLE_ENTITY, format!("no webhook payload of Alertmanager: {error}"))
    })?;
    if payload.version != "4" {
        let reason = format!("payload version {:?}, expected \"4\"", payload.version);
        return Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, reason));
    }
    let mut decisions = Vec::new();
    for alert in &payload.alerts {
        let name = alert.labels.get("alertname").map(String::as_str).unwrap_or_default();
        let decision = if name != front.alertname {
            Decision::Skipped { reason: format!("alertname={name}") }
        } else if alert.is_firing() {
            front.desk.take(&alert.firing()).await.map_err(not_noted)?
        } else {
            front.desk.resolved(&alert.firing()).await.map_err(not_noted)?;
            Decision::Skipped { reason: format!("status={}", alert.status) }
        };
        decisions.push((alert.firing().baseline_version, decision));
    }
    Ok(reply(front, &decisions))
}

fn not_noted(error: super::state::StateError) -> Refusal {
    // Alertmanager sends it again.
    Refusal(StatusCode::SERVICE_UNAVAILABLE, format!("the alert cannot be written down: {error}"))
}

/// One decision for the whole group: a run beats trouble, trouble beats nothing to do. All are listed.
fn reply(front: &Front, decisions: &[(String, Decision)]) -> Response {
    let listed: Vec<Value> = decisions.iter().map(|(version, decision)| shown(version, decision)).collect();
    let submitted = decisions.iter().position(|(_, decision)| matches!(decision, Decision::Submitted { .. }));
    let kept = decisions.iter().position(|(_, decision)| matches!(decision, Decision::Kept { .. }));
    let Some(index) = kept.or(submitted).or((!decisions.is_empty()).then_some(0)) else {
        front.events.skipped.fetch_add(1, Ordering::Relaxed);
        return axum::Json(json!({"decision": "skipped", "reason": "no alerts"})).into_response();
    };
    let mut answer = listed[index].clone();
    answer["alerts"] = listed.into();
    if kept.is_some() {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "15")], axum::Json(answer)).into_response();
    }
    let counter = if submitted.is_some() { &front.events.submitted } else { &front.events.skipped };
    counter.fetch_add(1, Ordering::Relaxed);
    axum::Json(answer).into_response()
}

fn shown(version: &str, decision: &Decision) -> Value {
    match decision {
        Decision::Submitted { run, name } => {
            json!({"decision": "submitted", "run_id": run, "run_name": name, "baseline_version_in_alert": version})
        }
        Decision::Skipped { reason } => json!({"decision": "skipped", "reason": reason}),
        Decision::Kept { reason } => json!({"decision": "kept", "reason": reason, "detail": reason}),
    }
}

async fn health(State(front): State<Arc<Front>>) -> Response {
    let reachable = front.desk.reachable().await;
    let status = if reachable.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let reason = reachable.as_ref().err().map(ToString::to_string);
    let body = json!({"status": if reachable.is_ok() { "ok" } else { "degraded" }, "kfp_reachable": reachable.is_ok(), "reason": reason});
    (status, axum::Json(body)).into_response()
}

async fn incidents(State(front): State<Arc<Front>>, headers: HeaderMap) -> Response {
    match authorise(&front, &headers) {
        Ok(()) => axum::Json(front.desk.incidents().await).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn metrics(State(front): State<Arc<Front>>) -> Response {
    let (events, counts) = (&front.events, front.desk.counts().await);
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, values: &[(&str, f64)]| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let results = [
        ("{result=\"submitted\"}", of(&events.submitted)),
        ("{result=\"skipped\"}", of(&events.skipped)),
        ("{result=\"failed\"}", of(&events.failed)),
    ];
    family("drift_webhook_events_total", "counter", "Webhook requests by what they came to.", &results);
    family("drift_webhook_kfp_runs_total", "counter", "Runs started.", &[("", counts.runs_started as f64)]);
    let durations = [("_sum", of(&events.busy) / 1e6), ("_count", of(&events.requests))];
    family("drift_webhook_request_duration_seconds", "summary", "Time of webhook requests.", &durations);
    family("rul_trigger_waiting", "gauge", "Firings that wait for a run.", &[("", counts.waiting as f64)]);
    family("rul_trigger_running", "gauge", "Runs under way.", &[("", counts.running as f64)]);
    family("rul_trigger_failed", "gauge", "Firings whose attempts all failed.", &[("", counts.failed as f64)]);
    let last = [("", counts.last_success as f64)];
    family("rul_trigger_last_success_timestamp_seconds", "gauge", "End of the last run that succeeded.", &last);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
