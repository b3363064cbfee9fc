//! What can go wrong, with the way out.

use std::path::PathBuf;

/// An error of this client. No variant carries credentials or signed addresses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be used.
    #[error("MLflow's address {shown:?}: {reason}; it looks like http://mlflow:5000")]
    Address { shown: String, reason: String },
    /// No answer. `sent` tells whether the server may have seen the request.
    #[error("no answer from {server} to {call}: {reason}; is it running, and reachable from here?")]
    Unreachable { server: String, call: String, reason: String, sent: bool },
    /// MLflow's protection against DNS rebinding (since 3.5).
    #[error(
        "MLflow at {server} refuses requests for the host {host:?} ({call}): start it with --allowed-hosts (or \
         MLFLOW_SERVER_ALLOWED_HOSTS) that lists {host:?}. Entries are compared with the port, and giving the option \
         replaces the defaults; /health answers all the same"
    )]
    HostRefused { server: String, host: String, call: String },
    /// The server said no.
    #[error("{server} refused {call}: {status} {code}: {message}{}", hint(*status))]
    Refused { server: String, call: String, status: u16, code: String, message: String },
    /// The server said something else than this client understands.
    #[error("{server} answered {call} with {reason}; is it MLflow, of version 3?")]
    Answer { server: String, call: String, reason: String },
    /// A version's source that cannot be downloaded from.
    #[error("the artifact source {uri:?}: {reason}")]
    Source { uri: String, reason: String },
    /// Artifacts that are not as they should be.
    #[error("artifacts at {place}: {reason}")]
    Artifacts { place: String, reason: String },
    /// A file of this machine.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
}

fn hint(status: u16) -> &'static str {
    match status {
        401 => {
            "; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        }
        403 => "; the user may not do this",
        _ => "",
    }
}

impl Error {
    /// The server's word for what is missing: 404, or MLflow's `RESOURCE_DOES_NOT_EXIST`.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status, code, .. } if *status == 404 || code == "RESOURCE_DOES_NOT_EXIST")
    }

    /// It is there already.
    #[must_use]
    pub fn already_exists(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "RESOURCE_ALREADY_EXISTS")
    }

    /// Nobody answered, or somebody who could not work: another moment may be better.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Certainly not done: the request never reached the server.
    pub(crate) fn never_sent(&self) -> bool {
        matches!(self, Self::Unreachable { sent: false, .. } | Self::Refused { status: 429, .. })
    }
}
