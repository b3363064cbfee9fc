//! Kubernetes: reaching the API server, apply, readiness.

use kube::Client;

/// The API server cannot be asked, and why: `k3s is not installed`, `k3s.service is inactive`, `connection refused`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    pub reason: String,
}

/// Reads the cluster; nothing it offers changes a stored object (a server-side dry run is reading).
#[derive(Clone)]
pub struct Reader {
    client: Client,
}

/// Changes the cluster.
#[derive(Clone)]
pub struct Writer {
    reader: Reader,
}

impl Reader {
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Writer {
    pub fn new(reader: Reader) -> Self {
        Self { reader }
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }
}
