//! `rul train` as its users run it: the program, data that is real or looks like it, registries.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../../../mlflow-client/tests/server/minio.rs"]
mod minio;
#[path = "../../../mlflow-client/tests/server/mlflow.rs"]
#[allow(dead_code)]
mod mlflow;

mod bucket;
mod learning;
mod program;
mod refusals;
mod registering;
