//! `provision` brings a blank Ubuntu VM to a running, self-healing MLOps platform. See `docs/` for users.

pub mod agent;
pub mod artifacts;
pub mod checks;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod diagnostic;
pub mod diff;
pub mod engine;
pub mod hash;
pub mod host;
pub mod image;
pub mod project;
pub mod resources;
pub mod sandbox;
pub mod secrets;
pub mod transport;
pub mod ui;
