//! For fuzz targets: one request to a service without a model and without sockets.

use std::sync::{Arc, LazyLock};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::http::header::HeaderValue;
use clap::Parser;
use mlflow_client::webhook::{ID, SIGNATURE, TIMESTAMP};
use tower::ServiceExt;

use super::routes::router;
use super::service::Service;
use super::{Options, follow, settings};

#[derive(Debug, Parser)]
struct Defaults {
    #[command(flatten)]
    options: Options,
}

/// What deliveries to [`webhook`] are signed with.
pub const SECRET: &str = "a secret of fuzzing";

/// Status and body of the answer.
///
/// # Panics
/// When there is no answer: that is what fuzzing looks for.
#[must_use]
pub fn post(path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    static SERVICE: LazyLock<Arc<Service>> = LazyLock::new(|| service(&["serve"]));
    send(&SERVICE, path, &[("content-type", b"application/json")], body)
}

/// The same of a delivery to a service that follows a registry. Headers that HTTP itself does not allow are left out.
///
/// # Panics
/// As [`post`].
#[must_use]
pub fn webhook(id: &[u8], timestamp: &[u8], signature: &[u8], body: &[u8]) -> (u16, Vec<u8>) {
    static SERVICE: LazyLock<Arc<Service>> = LazyLock::new(|| {
        let nowhere = ["--mlflow-tracking-uri", "file:///nonexistent/registry", "--cache-dir", "/nonexistent/cache"];
        service(&[&["serve"][..], &nowhere].concat())
    });
    send(&SERVICE, "/-/webhook", &[(ID, id), (TIMESTAMP, timestamp), (SIGNATURE, signature)], body)
}

#[allow(clippy::unwrap_used)]
fn service(arguments: &[&str]) -> Arc<Service> {
    let options = Defaults::parse_from(arguments).options;
    let mut settings = settings(&options).unwrap();
    settings.webhook_secret = Some(SECRET.to_owned());
    let follow = follow(&options, &settings).unwrap();
    Arc::new(Service::new(settings, follow, None))
}

#[allow(clippy::unwrap_used)]
fn send(service: &Arc<Service>, path: &str, headers: &[(&str, &[u8])], body: &[u8]) -> (u16, Vec<u8>) {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let mut request = Request::post(path);
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request = request.header(*name, value);
        }
    }
    let request = request.body(Body::from(body.to_vec())).unwrap();
    RUNTIME.block_on(async {
        let response = router(Arc::clone(service)).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use base64::Engine;
    use ring::hmac;

    use super::{SECRET, webhook};

    #[test]
    fn what_fuzzing_begins_with_is_answered() {
        let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/registry_webhook");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
        for (name, said) in [("ours", "looking"), ("another", "ignored")] {
            // The first byte is the target's.
            let body = std::fs::read(seeds.join(name)).unwrap().split_off(1);
            let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
            let tag = hmac::sign(&key, &[b"id.", now.as_bytes(), b".", &body].concat());
            let signature = format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(tag));
            let (status, answer) = webhook(b"id", now.as_bytes(), signature.as_bytes(), &body);
            let answer = String::from_utf8(answer).unwrap();
            assert!(status == 200 && answer.contains(said), "{name}: {status} {answer}");
        }
        let (status, _) = webhook(b"id\n", b"1", b"v1,AAAA", b"{}");
        assert_eq!(status, 401);
    }
}
