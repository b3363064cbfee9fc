//! Requests that get no prediction: a status, a reason, and the body in the caller's dialect.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::metrics::Refused;

/// Which API the caller speaks; they differ in the name of the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `{"detail": reason}`
    Plain,
    /// `{"error": reason}`: KServe V1 and Open Inference Protocol V2.
    Inference,
}

/// A refusal. `reason` says what was wrong and what is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub status: StatusCode,
    pub reason: String,
    /// What it is counted as.
    pub why: Refused,
    /// Seconds after which the same request may succeed.
    pub retry_after: Option<u64>,
}

impl Reject {
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        let why = match status {
            StatusCode::PAYLOAD_TOO_LARGE => Refused::TooLarge,
            StatusCode::REQUEST_TIMEOUT => Refused::Timeout,
            status if status.is_server_error() => Refused::Failed,
            _ => Refused::Invalid,
        };
        Self { status, reason: reason.into(), why, retry_after: None }
    }

    /// The request as a whole makes no sense.
    pub fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    /// The JSON is sound, its content is not.
    pub fn unprocessable(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason)
    }

    pub fn not_found(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, reason)
    }

    /// Too much work at once: a moment later there may be room.
    pub fn busy(reason: impl Into<String>) -> Self {
        let reject = Self::new(StatusCode::SERVICE_UNAVAILABLE, reason);
        Self { why: Refused::Concurrency, retry_after: Some(1), ..reject }
    }

    /// There is nothing to answer with yet; the directory is looked at every few seconds.
    pub fn no_model(reason: impl Into<String>) -> Self {
        let reject = Self::new(StatusCode::SERVICE_UNAVAILABLE, reason);
        Self { why: Refused::NoModel, retry_after: Some(5), ..reject }
    }

    pub fn into_response(self, dialect: Dialect) -> Response<Body> {
        let body = match dialect {
            Dialect::Plain => serde_json::json!({ "detail": self.reason }),
            Dialect::Inference => serde_json::json!({ "error": self.reason }),
        };
        let mut response = json(self.status, &body);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE || self.status == StatusCode::REQUEST_TIMEOUT {
            // The rest of the body is not read, so the connection cannot serve another request.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A JSON response.
pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Response<Body> {
    // Our own types always serialise; were one not to, the client gets an empty 500, not a panic.
    let (status, bytes) = serde_json::to_vec(body)
        .map_or_else(|_| (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()), |bytes| (status, bytes));
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
