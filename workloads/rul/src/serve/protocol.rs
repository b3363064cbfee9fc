//! The paths of KServe's V1 protocol (batches) and of the Open Inference Protocol, version 2.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, Response, StatusCode};
use serde_json::json;

use super::infer::{self, Answer, INPUT, OUTPUT, Output};
use super::input;
use super::origin::Origins;
use super::predict::{Allowance, Work, predict};
use super::reject::{Dialect, Reject, json as respond};
use super::routes::{Predictions, Shared};
use super::service::Service;

/// Units of the concurrency limit that a request for many windows takes.
const BATCH_UNITS: u32 = 16;

fn batch(service: &Service) -> Allowance {
    Allowance { body: service.settings.batch_body_limit, units: BATCH_UNITS, larger: None }
}

pub async fn list(State(service): Shared) -> Response<Body> {
    respond(StatusCode::OK, &json!({ "models": [service.settings.model_name] }))
}

pub async fn model_status(State(service): Shared, Path(name): Path<String>) -> Response<Body> {
    match known(&service, &name, None) {
        Ok(()) => respond(StatusCode::OK, &json!({ "name": name, "ready": service.ready() })),
        Err(reject) => reject.into_response(Dialect::Inference),
    }
}

pub async fn predict_v1(State(service): Shared, Path(target): Path<String>, request: Request<Body>) -> Response<Body> {
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
            origins: windows.origins,
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
        None => Err(Reject::no_model("no model is loaded")),
    }
}

pub async fn server() -> Response<Body> {
    let version = env!("CARGO_PKG_VERSION");
    respond(StatusCode::OK, &json!({ "name": "rul", "version": version, "extensions": [] }))
}

pub async fn server_live() -> Response<Body> {
    respond(StatusCode::OK, &json!({ "live": true }))
}

fn readiness(ready: bool, body: &serde_json::Value) -> Response<Body> {
    respond(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

pub async fn server_ready(State(service): Shared) -> Response<Body> {
    let ready = service.ready();
    readiness(ready, &json!({ "ready": ready }))
}

pub async fn model_ready(State(service): Shared, Path(name): Path<String>) -> Response<Body> {
    ready_of(&service, &name, None)
}

pub async fn model_ready_of(State(service): Shared, Path((name, version)): Path<(String, String)>) -> Response<Body> {
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

pub async fn metadata(State(service): Shared, Path(name): Path<String>) -> Response<Body> {
    metadata_for(&service, &name, None)
}

pub async fn metadata_of(State(service): Shared, Path((name, version)): Path<(String, String)>) -> Response<Body> {
    metadata_for(&service, &name, Some(&version))
}

fn metadata_for(service: &Service, name: &str, version: Option<&str>) -> Response<Body> {
    let described = known(service, name, version)
        .and_then(|()| service.live().ok_or_else(|| Reject::no_model("no model is loaded")));
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

pub async fn infer(State(service): Shared, Path(name): Path<String>, request: Request<Body>) -> Response<Body> {
    infer_on(&service, &name, None, request).await
}

pub async fn infer_of(
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
            origins: Origins::default(),
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
