//! `POST /-/webhook`: the registry says that an alias moved.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use mlflow_client::webhook::{ID, Rejected, SIGNATURE, Signed, TIMESTAMP, verify};
use serde_json::json;

use super::metrics::{Delivered, unix_now};
use super::reject::{Dialect, Reject, json as respond};
use super::routes::Shared;
use super::service::Service;

/// MLflow's deliveries have a few hundred bytes.
const MAX_BODY: usize = 64 << 10;

pub async fn webhook(State(service): Shared, request: Request<Body>) -> Response<Body> {
    match receive(&service, request).await {
        Ok(result) => respond(StatusCode::OK, &json!({ "result": result })),
        Err(reject) => {
            service.metrics.delivered(Delivered::Rejected);
            reject.into_response(Dialect::Plain)
        }
    }
}

/// Checks a delivery; does not wait for what follows from it, for the registry would wait, too.
async fn receive(service: &Arc<Service>, request: Request<Body>) -> Result<&'static str, Reject> {
    let (Some(secret), Some(follow)) = (&service.settings.webhook_secret, &service.follow) else {
        return Err(Reject::new(
            StatusCode::FORBIDDEN,
            "switched off: the service follows no registry, or was started without MLFLOW_WEBHOOK_SECRET",
        ));
    };
    let (head, body) = request.into_parts();
    let timeout = service.settings.request_timeout;
    let body = tokio::time::timeout(timeout, to_bytes(body, MAX_BODY))
        .await
        .map_err(|_| Reject::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {timeout:?}")))?
        .map_err(|_| Reject::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {MAX_BODY} bytes")))?;
    let signed = Signed {
        id: text(&head.headers, ID),
        timestamp: text(&head.headers, TIMESTAMP),
        signature: text(&head.headers, SIGNATURE),
    };
    let delivery = verify(secret, signed, &body, unix_now() as u64).map_err(|error| {
        let status = if error == Rejected::Unreadable { StatusCode::BAD_REQUEST } else { StatusCode::UNAUTHORIZED };
        Reject::new(status, error.to_string())
    })?;
    let data = &delivery.data;
    let ours = [Some(&follow.alias), follow.shadow_alias.as_ref()].into_iter().flatten().any(|a| *a == data.alias);
    if data.name != service.settings.model_name || !ours {
        service.metrics.delivered(Delivered::Ignored);
        return Ok("ignored: another model or alias");
    }
    service.metrics.delivered(Delivered::Accepted);
    // What it says is not believed; the registry is asked.
    follow.wake.notify_one();
    Ok("looking")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
