//! The way of every prediction request: a place in the queue, the body, the model, the counters.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};

use super::live::Live;
use super::metrics::unix_now;
use super::origin::Origins;
use super::reject::{Dialect, Reject};
use super::service::Service;

const MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");

/// How much a request may take.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Bytes of body.
    pub body: usize,
    /// Units of the concurrency limit; a batch counts for many.
    pub units: u32,
    /// Where to send what is too large.
    pub larger: Option<&'static str>,
}

/// Makes the response of what the model said.
pub type Answer = Box<dyn FnOnce(&Live, &[f32]) -> Response<Body> + Send>;

/// Windows to predict, and what to make of the answers.
pub struct Work {
    /// `count` windows of the live model's shape.
    pub numbers: Vec<f32>,
    pub count: usize,
    pub origins: Origins,
    pub answer: Answer,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("count", &self.count).finish_non_exhaustive()
    }
}

/// Handles one request; `parse` gets the body and the model that will answer.
pub async fn predict(
    service: &Service,
    request: Request<Body>,
    allowance: Allowance,
    dialect: Dialect,
    parse: impl FnOnce(&[u8], &Live) -> Result<Work, Reject>,
) -> Response<Body> {
    let started = Instant::now();
    let _inflight = Inflight::enter(service);
    match answer(service, request, allowance, parse).await {
        Ok(response) => {
            service.metrics.answered(started.elapsed());
            response
        }
        Err(reject) => {
            service.metrics.refused(reject.why, started.elapsed());
            reject.into_response(dialect)
        }
    }
}

async fn answer(
    service: &Service,
    request: Request<Body>,
    allowance: Allowance,
    parse: impl FnOnce(&[u8], &Live) -> Result<Work, Reject>,
) -> Result<Response<Body>, Reject> {
    let _permit = service.permits.try_acquire_many(allowance.units).map_err(|_| {
        let limit = service.settings.concurrency;
        Reject::busy(format!("busy: at most {limit} units of work at once; try again"))
    })?;
    content_type(request.headers())?;
    let timeout = service.settings.request_timeout;
    let body = tokio::time::timeout(timeout, read_body(request, allowance)).await.map_err(|_| {
        Reject::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {timeout:?}"))
    })??;
    // Taken after the body, so that a slow sender does not get yesterday's model.
    let live: Arc<Live> = service
        .live()
        .ok_or_else(|| Reject::no_model("no model is loaded, and answering without one is switched off"))?;
    let work = parse(&body, &live)?;
    let cycles = live
        .predict(&work.numbers, work.count)
        .map_err(|e| Reject::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    if let Some(window) = cycles.iter().position(|value| !value.is_finite()) {
        return Err(Reject::unprocessable(format!(
            "window {window}: the model gives no number for it; its values are far outside of what sensors send"
        )));
    }
    service.metrics.predicted(&live.histogram, &cycles);
    if let Some(watched) = &live.watched {
        watched.count(&work.numbers, live.shape.numbers(), live.shape.features);
    }
    if let Some(recent) = &service.recent {
        recent.record(unix_now(), &live.version, &work.numbers, live.shape.features, &cycles, &work.origins);
    }
    let mut response = (work.answer)(&live, &cycles);
    if let Some(shadow) = &service.shadow {
        shadow.offer(work.numbers, &cycles);
    }
    response.headers_mut().insert(MODEL_VERSION, live.header.clone());
    Ok(response)
}

fn content_type(headers: &HeaderMap) -> Result<(), Reject> {
    if headers.contains_key("inference-header-content-length") {
        return Err(Reject::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "tensors as binary after the JSON are not supported; send them as \"data\"",
        ));
    }
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        return Err(Reject::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("content-encoding {encoding:?} is not supported; send the JSON as it is"),
        ));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let kind = value.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json")) {
        return Ok(());
    }
    Err(Reject::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("content-type {value:?}: send application/json")))
}

async fn read_body(request: Request<Body>, allowance: Allowance) -> Result<Vec<u8>, Reject> {
    let limit = allowance.body;
    let too_large = || {
        let larger = allowance.larger.map(|path| format!("; larger batches go to {path}")).unwrap_or_default();
        Reject::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {limit} bytes{larger}"))
    };
    let mut body = request.into_body();
    let hint = body.size_hint();
    if hint.lower() > limit as u64 {
        return Err(too_large());
    }
    let mut all = Vec::with_capacity(usize::try_from(hint.lower()).unwrap_or_default());
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|e| Reject::bad_request(format!("the body broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > limit {
            return Err(too_large());
        }
        all.extend_from_slice(&data);
    }
    Ok(all)
}

/// Counts down when the request is over, also when the client went away in the middle.
struct Inflight<'a>(&'a Service);

impl<'a> Inflight<'a> {
    fn enter(service: &'a Service) -> Self {
        service.metrics.inflight.fetch_add(1, Relaxed);
        Self(service)
    }
}

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        self.0.metrics.inflight.fetch_sub(1, Relaxed);
    }
}
