//! The Pushgateway: what is pushed stays there until it is replaced, so groups are replaced as a whole.

use reqwest::{Client, Method};

use super::ask::Peer;
use super::error::Error;

/// The job of the earlier system; dashboards look for it.
pub const JOB: &str = "evidently_drift_check";

/// A Pushgateway.
#[derive(Debug)]
pub struct Pushgateway {
    peer: Peer,
}

impl Pushgateway {
    pub fn new(address: &str, client: &Client) -> Self {
        Self { peer: Peer::new("the Pushgateway", address, client) }
    }

    fn group() -> String {
        format!("/metrics/job/{JOB}")
    }

    /// A group of its own: the time of the last success must outlive a look that fails and replaces the rest.
    fn success_group() -> String {
        format!("/metrics/job/{JOB}/of/last_success")
    }

    async fn put(&self, group: &str, text: String) -> Result<(), Error> {
        // PUT replaces the group; POST would leave what is not named again, a PSI of last week for example.
        self.peer.expect(self.peer.request(Method::PUT, group).body(text)).await.map(|_| ())
    }

    /// Replaces the numbers of the last look.
    ///
    /// # Errors
    /// When the gateway does not take them.
    pub async fn replace(&self, text: String) -> Result<(), Error> {
        self.put(&Self::group(), text).await
    }

    /// Replaces the time of the last success.
    ///
    /// # Errors
    /// When the gateway does not take it.
    pub async fn succeeded(&self, text: String) -> Result<(), Error> {
        self.put(&Self::success_group(), text).await
    }

    /// Takes the numbers back: a process that goes on looking and ends must not leave its last ones for ever. The time of
    /// the last success stays, so that the silence is noticed.
    ///
    /// # Errors
    /// When the gateway does not take it.
    pub async fn withdraw(&self) -> Result<(), Error> {
        self.peer.expect(self.peer.request(Method::DELETE, &Self::group())).await.map(|_| ())
    }
}
