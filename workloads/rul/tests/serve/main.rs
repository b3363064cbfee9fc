//! `rul serve` as a process, spoken to over TCP.
#![allow(clippy::unwrap_used)]

mod client;
mod directories;
mod ending;
mod limits;
mod predicting;
mod reloading;
mod surface;
