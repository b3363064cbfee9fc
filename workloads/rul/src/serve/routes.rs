//! Paths and what answers them.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use super::infer::{self, Answer, INPUT, OUTPUT, Output};
use super::input;
use super::predict::{Allowance, Work, predict};
use super::reject::{Dialect, Reject, json as respond};
use super::service::{Checked, Service};

type Shared = State<Arc<Service>>;

/// Units of the concurrency limit that a request for many windows takes.
pub const BATCH_UNITS: u32 = 16;
const INFER_PATH: &str = "/v2/models/{name}/infer";
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
        .route("/v1/models", get(list))
        .route("/v1/models/{target}", get(model_status).post(predict_v1))
        .route("/v2", get(server))
        .route("/v2/health/live", get(server_live))
        .route("/v2/health/ready", get(server_ready))
        .route("/v2/models/{name}", get(metadata))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route(INFER_PATH, post(infer))
        .route("/v2/models/{name}/versions/{version}", get(metadata_of))
        .route("/v2/models/{name}/versions/{version}/ready", get(model_ready_of))
        .route("/v2/models/{name}/versions/{version}/infer", post(infer_of))
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
            let reason = service.source_error().unwrap_or_else(|| "no model directory is configured".to_owned());
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

fn batch(service: &Service) -> Allowance {
    Allowance { body: service.settings.batch_body_limit, units: BATCH_UNITS, larger: None }
}

async fn predict_one(State(service): Shared, request: Request<Body>) -> Response<Body> {
    let max = service.settings.max_batch;
    predict(&service, request, single(&service), Dialect::Plain, |body, live| {
        let windows = input::parse(body, live.shape, max)?;
        Ok(Work {
            numbers: windows.numbers,
            count: windows.count,
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
#[derive(serde::Serialize)]
struct Prediction<'a> {
    rul: f32,
    model_version: &'a str,
    is_stub: bool,
}

#[derive(serde::Serialize)]
struct Predictions<'a> {
    predictions: &'a [f32],
    model_version: &'a str,
    is_stub: bool,
}

async fn describe(State(service): Shared) -> Response<Body> {
    let live = service.live();
    let mut body = match live.as_deref().map(|live| serde_json::to_value(&live.description)) {
        Some(Ok(serde_json::Value::Object(map))) => map,
        _ => serde_json::Map::new(),
    };
    body.insert("stage".into(), json!(service.settings.model_stage));
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
        return reject;
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

type QueryRejection = axum::extract::rejection::QueryRejection;

/// Looks at the model directory now instead of at the next turn.
async fn reload(State(service): Shared, headers: HeaderMap) -> Response<Body> {
    if let Err(reject) = authorise(&service, &headers) {
        return reject;
    }
    let checking = Arc::clone(&service);
    let checked = tokio::task::spawn_blocking(move || checking.check_source()).await;
    let version = service.live().map(|live| live.version.clone());
    let (status, result, reason) = match checked {
        Ok(Checked::Loaded) => (StatusCode::OK, "loaded", None),
        Ok(Checked::Unchanged) => (StatusCode::OK, "unchanged", None),
        Ok(Checked::NoSource) => (StatusCode::CONFLICT, "no model directory is configured", None),
        Ok(Checked::Failed(reason)) => (StatusCode::CONFLICT, "kept the old one", Some(reason)),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the check itself failed", None),
    };
    respond(status, &json!({ "result": result, "detail": reason, "model_version": version }))
}

/// `Err` is the answer for whoever has no business here.
fn authorise(service: &Service, headers: &HeaderMap) -> Result<(), Response<Body>> {
    let Some(token) = &service.settings.token else {
        let reject = Reject::new(StatusCode::FORBIDDEN, "switched off: the service was started without a token");
        return Err(reject.into_response(Dialect::Plain));
    };
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let given = given.split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    if given.is_some_and(|(_, given)| same(given.trim().as_bytes(), token.as_bytes())) {
        return Ok(());
    }
    let mut response = Reject::new(StatusCode::UNAUTHORIZED, "send the header \"authorization: Bearer TOKEN\"")
        .into_response(Dialect::Plain);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Err(response)
}

/// Takes as long for a wrong first byte as for a wrong last one.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}

async fn list(State(service): Shared) -> Response<Body> {
    respond(StatusCode::OK, &json!({ "models": [service.settings.model_name] }))
}

async fn model_status(State(service): Shared, Path(name): Path<String>) -> Response<Body> {
    match known(&service, &name, None) {
        Ok(()) => respond(StatusCode::OK, &json!({ "name": name, "ready": service.ready() })),
        Err(reject) => reject.into_response(Dialect::Inference),
    }
}

async fn predict_v1(State(service): Shared, Path(target): Path<String>, request: Request<Body>) -> Response<Body> {
    let named = target
        .strip_suffix(":predict")
        .ok_or_else(|| Reject::not_found(format!("POST /v1/models/{target}: only {{name}}:predict takes requests")))
        .and_then(|name| known(&service, name, None));
    if let Err(reject) = named {
        return reject.into_response(Dialect::Inference);
    }
    let max = service.settings.max_batch;
    predict(&service, request, batch(&service), Dialect::Inference, |body, live| {
        let windows = input::parse(body, live.shape, max)?;
        if !windows.batch {
            return Err(Reject::bad_request("this endpoint takes \"instances\"; single windows go to POST /predict"));
        }
        Ok(Work {
            numbers: windows.numbers,
            count: windows.count,
            answer: Box::new(|live, cycles| {
                let is_stub = live.is_stub();
                respond(StatusCode::OK, &Predictions { predictions: cycles, model_version: &live.version, is_stub })
            }),
        })
    })
    .await
}

/// Is this the model, and the version, that is served here?
fn known(service: &Service, name: &str, version: Option<&str>) -> Result<(), Reject> {
    if name != service.settings.model_name {
        let reason = format!("no model \"{name}\" here; this service has \"{}\"", service.settings.model_name);
        return Err(Reject::not_found(reason));
    }
    let Some(version) = version else { return Ok(()) };
    match service.live() {
        Some(live) if *live.version == *version => Ok(()),
        Some(live) => {
            Err(Reject::not_found(format!("version \"{version}\" is not served here; version \"{}\" is", live.version)))
        }
        None => Err(Reject::unavailable("no model is loaded", 5)),
    }
}

async fn server() -> Response<Body> {
    let version = env!("CARGO_PKG_VERSION");
    respond(StatusCode::OK, &json!({ "name": "rul", "version": version, "extensions": [] }))
}

async fn server_live() -> Response<Body> {
    respond(StatusCode::OK, &json!({ "live": true }))
}

fn readiness(ready: bool, body: &serde_json::Value) -> Response<Body> {
    respond(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

async fn server_ready(State(service): Shared) -> Response<Body> {
    let ready = service.ready();
    readiness(ready, &json!({ "ready": ready }))
}

async fn model_ready(State(service): Shared, Path(name): Path<String>) -> Response<Body> {
    ready_of(&service, &name, None)
}

async fn model_ready_of(State(service): Shared, Path((name, version)): Path<(String, String)>) -> Response<Body> {
    ready_of(&service, &name, Some(&version))
}

fn ready_of(service: &Service, name: &str, version: Option<&str>) -> Response<Body> {
    match known(service, name, version) {
        Ok(()) => {
            let ready = service.ready();
            readiness(ready, &json!({ "name": name, "ready": ready }))
        }
        Err(reject) => reject.into_response(Dialect::Inference),
    }
}

async fn metadata(State(service): Shared, Path(name): Path<String>) -> Response<Body> {
    metadata_for(&service, &name, None)
}

async fn metadata_of(State(service): Shared, Path((name, version)): Path<(String, String)>) -> Response<Body> {
    metadata_for(&service, &name, Some(&version))
}

fn metadata_for(service: &Service, name: &str, version: Option<&str>) -> Response<Body> {
    let described = known(service, name, version)
        .and_then(|()| service.live().ok_or_else(|| Reject::unavailable("no model is loaded", 5)));
    match described {
        Ok(live) => respond(
            StatusCode::OK,
            &json!({
                "name": name,
                "versions": [live.version],
                "platform": "onnx_rul",
                "inputs": [{ "name": INPUT, "datatype": "FP32", "shape": [-1, live.shape.window, live.shape.features] }],
                "outputs": [{ "name": OUTPUT, "datatype": "FP32", "shape": [-1] }],
            }),
        ),
        Err(reject) => reject.into_response(Dialect::Inference),
    }
}

async fn infer(State(service): Shared, Path(name): Path<String>, request: Request<Body>) -> Response<Body> {
    infer_on(&service, &name, None, request).await
}

async fn infer_of(
    State(service): Shared,
    Path((name, version)): Path<(String, String)>,
    request: Request<Body>,
) -> Response<Body> {
    infer_on(&service, &name, Some(version), request).await
}

async fn infer_on(service: &Service, name: &str, version: Option<String>, request: Request<Body>) -> Response<Body> {
    if let Err(reject) = known(service, name, version.as_deref()) {
        return reject.into_response(Dialect::Inference);
    }
    let model_name = service.settings.model_name.clone();
    let max = service.settings.max_batch;
    predict(service, request, batch(service), Dialect::Inference, |body, live| {
        // The model may have been replaced while the body came in.
        if version.as_deref().is_some_and(|version| version != &*live.version) {
            return Err(Reject::not_found(format!("version \"{}\" is served now", live.version)));
        }
        let parsed = infer::parse(body, live.shape, max)?;
        Ok(Work {
            numbers: parsed.numbers,
            count: parsed.count,
            answer: Box::new(move |live, cycles| {
                respond(
                    StatusCode::OK,
                    &Answer {
                        model_name: &model_name,
                        model_version: &live.version,
                        id: parsed.id,
                        outputs: [Output { name: OUTPUT, datatype: "FP32", shape: [cycles.len()], data: cycles }],
                    },
                )
            }),
        })
    })
    .await
}
