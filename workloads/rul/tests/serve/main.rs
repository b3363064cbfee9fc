//! `rul serve` as a process, spoken to over TCP.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod client;
mod directories;
mod ending;
mod inputs;
mod limits;
mod load;
#[path = "../../../mlflow-client/tests/server/mlflow.rs"]
#[allow(dead_code)]
mod mlflow;
mod predicting;
mod registry;
mod reloading;
mod surface;
