//! Why a look failed.

use std::path::PathBuf;

use drift_stats::StatError;

use super::record::InputsError;
use crate::token::TokenError;

/// Every variant says where, why, and what would help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} at {address}: {reason}")]
    Unreachable { what: &'static str, address: String, reason: String },
    #[error("{what} at {address} answered {status}: {reason}")]
    Refused { what: &'static str, address: String, status: u16, reason: String },
    #[error("{what} at {address} answered something else than expected: {reason}")]
    Answer { what: &'static str, address: String, reason: String },
    #[error("{0}")]
    Usage(String),
    #[error("baseline {place}: {reason}")]
    Baseline { place: String, reason: String },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot keep the memory in {}: {reason}", path.display())]
    Memory { path: PathBuf, reason: String },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("cannot compare: {0}")]
    Statistics(#[from] StatError),
    #[error("cannot compare: {0}")]
    Inputs(#[from] InputsError),
    #[error("cannot start: {0}")]
    Start(String),
    #[error("{0}")]
    CouldNotLook(String),
}
