//! Kubernetes: reaching the API server, reading, applying, and waiting until things are ready.
//!
//! [`connect()`] finds the API server of the host; [`Reader`] looks (a server-side dry run is looking); [`Writer`] changes.
//! What an object needs to count as ready is in [`readiness()`], why its pods do not start in [`pods`], what an apply would
//! change in [`compare`].

pub mod apply;
pub mod compare;
mod connect;
mod error;
mod exec;
pub mod helm;
pub mod minio;
pub mod object;
mod owned;
pub mod pods;
pub mod postgres;
mod read;
mod readiness;
mod rollout;
pub mod s3;
mod scram;
#[cfg(test)]
pub mod testing;
mod wait;
pub mod yaml;

pub use apply::Takeover;
pub use compare::{Found, ObjectState, changed_fields, diff_of};
pub use connect::{Connector, KUBECONFIG, connect, since, unit_state};
pub use error::{Conflict, ContestedField, Error, Result};
pub use exec::Executed;
pub use object::{ObjectRef, parse_manifest};
pub use owned::{MANAGED_BY_LABEL, MANIFEST_LABEL, Owned, label_value};
pub use read::{Reader, ServiceAddress};
pub use readiness::{Readiness, condition, condition_status, failed_job, readiness};
pub use rollout::{Rollout, Trouble};
pub use wait::NotReady;

/// The API server cannot be asked, and why: `k3s is not installed`, `k3s.service is inactive`, `connection refused`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    pub reason: String,
}

/// Changes the cluster.
#[derive(Clone)]
pub struct Writer {
    reader: Reader,
}

impl Writer {
    pub fn new(reader: Reader) -> Self {
        Self { reader }
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }
}
