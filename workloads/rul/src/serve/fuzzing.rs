//! For fuzz targets: one request to a service without a model and without sockets.

use std::sync::{Arc, LazyLock};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use clap::Parser;
use tower::ServiceExt;

use super::routes::router;
use super::service::Service;
use super::{Options, settings};

#[derive(Debug, Parser)]
struct Defaults {
    #[command(flatten)]
    options: Options,
}

/// Status and body of the answer.
///
/// # Panics
/// When there is no answer: that is what fuzzing looks for.
#[allow(clippy::unwrap_used)]
pub fn post(path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    static SERVICE: LazyLock<Arc<Service>> = LazyLock::new(|| {
        let defaults = Defaults::parse_from(["serve"]);
        Arc::new(Service::new(settings(&defaults.options).unwrap()))
    });
    let request = Request::post(path).header("content-type", "application/json").body(Body::from(body.to_vec()));
    RUNTIME.block_on(async {
        let response = router(Arc::clone(&SERVICE)).oneshot(request.unwrap()).await.unwrap();
        let status = response.status().as_u16();
        (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
    })
}
