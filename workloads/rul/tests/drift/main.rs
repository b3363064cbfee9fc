//! `rul drift` as a process, against a running `rul serve` and against the real Alertmanager, Pushgateway and Prometheus.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

// The process and the plain HTTP of the tests of `rul serve`.
#[allow(dead_code)]
#[path = "../serve/client.rs"]
mod client;
mod fixture;
mod incident;
mod looks;
mod peers;
mod watching;
