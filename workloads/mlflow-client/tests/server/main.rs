//! Against a real `mlflow server`, and against Python's client on the other side.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod faults;
mod interop;
mod minio;
// Also part of the tests of `rul`, which restart it.
#[allow(dead_code)]
mod mlflow;
mod refusals;
mod rest;
mod s3;
mod webhooks;

use mlflow_client::{Client, S3};

pub fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// A client that takes nothing but the address from its surroundings.
pub fn client(uri: &str) -> Client {
    Client::new(http(), uri).unwrap().with_s3(S3::new(None, "us-east-1", None, None).unwrap())
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
