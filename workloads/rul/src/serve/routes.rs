//! Paths and what answers them.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::input;
use super::predict::{Allowance, Work, predict};
use super::protocol;
use super::reject::{Dialect, Reject, json as respond};
use super::service::{Checked, Service};
use super::webhook::webhook;

pub type Shared = State<Arc<Service>>;

const MAX_PAGE: usize = 10_000;

/// All of the API.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/predict", post(predict_one))
        .route("/v1/model", get(describe))
        .route("/v1/recent", get(recent))
        .route("/-/reload", post(reload))
        .route("/-/webhook", post(webhook))
        .route("/v1/models", get(protocol::list))
        .route("/v1/models/{target}", get(protocol::model_status).post(protocol::predict_v1))
        .route("/v2", get(protocol::server))
        .route("/v2/health/live", get(protocol::server_live))
        .route("/v2/health/ready", get(protocol::server_ready))
        .route("/v2/models/{name}", get(protocol::metadata))
        .route("/v2/models/{name}/ready", get(protocol::model_ready))
        .route("/v2/models/{name}/infer", post(protocol::infer))
        .route("/v2/models/{name}/versions/{version}", get(protocol::metadata_of))
        .route("/v2/models/{name}/versions/{version}/ready", get(protocol::model_ready_of))
        .route("/v2/models/{name}/versions/{version}/infer", post(protocol::infer_of))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(Arc::clone(&service), close_while_draining))
        .with_state(service)
}

/// Clients with open connections go elsewhere instead of waiting for the end.
async fn close_while_draining(State(service): Shared, request: Request<Body>, next: Next) -> Response<Body> {
    let mut response = next.run(request).await;
    if service.draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn no_such_path(request: Request<Body>) -> Response<Body> {
    let path = request.uri().path();
    Reject::not_found(format!("no such path: {path}; predictions are at POST /predict")).into_response(Dialect::Plain)
}

async fn no_such_method(request: Request<Body>) -> Response<Body> {
    let reason = format!("{} is not a method of {}", request.method(), request.uri().path());
    Reject::new(StatusCode::METHOD_NOT_ALLOWED, reason).into_response(Dialect::Plain)
}

async fn root(State(service): Shared) -> Response<Body> {
    let live = service.live();
    let settings = &service.settings;
    respond(
        StatusCode::OK,
        &json!({
            "service": "rul-inference",
            "model_name": settings.model_name,
            "model_stage": settings.model_stage,
            "model_version": live.as_ref().map(|live| &live.version),
            "is_stub": live.as_ref().is_some_and(|live| live.is_stub()),
            "mlflow_tracking_uri": settings.mlflow_tracking_uri,
        }),
    )
}

async fn healthz() -> Response<Body> {
    respond(StatusCode::OK, &json!({ "status": "ok" }))
}

async fn readyz(State(service): Shared) -> Response<Body> {
    let live = service.live();
    if service.draining() {
        return respond(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "draining" }));
    }
    match live {
        Some(live) => respond(StatusCode::OK, &json!({ "status": "ready", "is_stub": live.is_stub() })),
        None => {
            let reason = service
                .source_error()
                .unwrap_or_else(|| "neither a model directory nor a registry is configured".to_owned());
            respond(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({ "status": "no model", "is_stub": false, "detail": reason }),
            )
        }
    }
}

async fn metrics(State(service): Shared) -> Response<Body> {
    let mut response = Response::new(Body::from(service.metrics_text()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

fn single(service: &Service) -> Allowance {
    Allowance { body: service.settings.body_limit, units: 1, larger: Some("POST /v1/models/{name}:predict") }
}

async fn predict_one(State(service): Shared, request: Request<Body>) -> Response<Body> {
    let max = service.settings.max_batch;
    predict(&service, request, single(&service), Dialect::Plain, |body, live| {
        let windows = input::parse(body, live.shape, max)?;
        Ok(Work {
            numbers: windows.numbers,
            count: windows.count,
            origins: windows.origins,
            answer: Box::new(move |live, cycles| {
                let (version, is_stub) = (&live.version, live.is_stub());
                match cycles {
                    [rul] if !windows.batch => {
                        respond(StatusCode::OK, &Prediction { rul: *rul, model_version: version, is_stub })
                    }
                    _ => respond(StatusCode::OK, &Predictions { predictions: cycles, model_version: version, is_stub }),
                }
            }),
        })
    })
    .await
}

/// Fields in the order that the seed's service gave them.
#[derive(Serialize)]
struct Prediction<'a> {
    rul: f32,
    model_version: &'a str,
    is_stub: bool,
}

/// The answer to `instances`.
#[derive(Serialize)]
pub struct Predictions<'a> {
    pub predictions: &'a [f32],
    pub model_version: &'a str,
    pub is_stub: bool,
}

async fn describe(State(service): Shared) -> Response<Body> {
    let live = service.live();
    let mut body = match live.as_deref().map(|live| serde_json::to_value(&live.description)) {
        Some(Ok(serde_json::Value::Object(map))) => map,
        _ => serde_json::Map::new(),
    };
    body.insert("stage".into(), json!(service.settings.model_stage));
    if let Some(shadow) = &service.shadow {
        let challenger = shadow.live();
        let described = challenger.as_deref().map(|live| &live.description);
        let shown = described.map(|d| json!({ "version": d.version, "sha256": d.sha256, "loaded_at": d.loaded_at }));
        body.insert("shadow".into(), json!(shown));
    }
    body.insert("last_error".into(), json!(service.source_error()));
    let status = if live.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(status, &body)
}

#[derive(Debug, Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
    limit: Option<usize>,
}

async fn recent(
    State(service): Shared,
    headers: HeaderMap,
    query: Result<Query<Since>, QueryRejection>,
) -> Response<Body> {
    if let Err(reject) = authorise(&service, &headers) {
        return reject.into_response(Dialect::Plain);
    }
    let Ok(Query(query)) = query else {
        return Reject::bad_request("since and limit are whole numbers, as in ?since=0&limit=1000")
            .into_response(Dialect::Plain);
    };
    match &service.recent {
        Some(recent) => {
            respond(StatusCode::OK, &recent.after(query.since, query.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE)))
        }
        None => Reject::not_found("nothing is kept").into_response(Dialect::Plain),
    }
}

/// Looks where models come from now instead of at the next turn.
async fn reload(State(service): Shared, headers: HeaderMap) -> Response<Body> {
    if let Err(reject) = authorise(&service, &headers) {
        return reject.into_response(Dialect::Plain);
    }
    let checked = service.check(true).await;
    let version = service.live().map(|live| live.version.clone());
    let (status, result, reason) = match checked {
        Checked::Loaded => (StatusCode::OK, "loaded", None),
        Checked::Unchanged => (StatusCode::OK, "unchanged", None),
        Checked::NoSource => (StatusCode::CONFLICT, "neither a model directory nor a registry is configured", None),
        Checked::Failed(reason) => (StatusCode::CONFLICT, "kept the old one", Some(reason)),
    };
    respond(status, &json!({ "result": result, "detail": reason, "model_version": version }))
}

/// Is it somebody who may?
fn authorise(service: &Service, headers: &HeaderMap) -> Result<(), Reject> {
    let Some(token) = &service.settings.token else {
        return Err(Reject::new(StatusCode::FORBIDDEN, "switched off: the service was started without a token"));
    };
    if token.allows(headers) {
        return Ok(());
    }
    Err(Reject::new(StatusCode::UNAUTHORIZED, "send the header \"authorization: Bearer TOKEN\""))
}
