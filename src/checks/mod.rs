//! Checks: probes that prove a promise. One file per kind.

pub mod address;
pub mod command;
pub mod http;
pub mod mlflow_roundtrip;
pub mod nodes_ready;
pub mod registry;
pub mod rollout;
pub mod s3_newest;
pub mod s3_roundtrip;
pub mod sql;
pub mod tcp;

use anyhow::Result;
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::host::ReadHost;

/// Outcome of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Pass,
    Warn,
    Fail,
    Skip,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub status: Status,
    /// One line: what answered, or which promise is broken, why, and since when where that is known.
    pub detail: String,
    /// Waiting longer cannot help (an image that is not there, a failed Job): the wait of `up` ends at once.
    #[serde(default)]
    pub terminal: bool,
}

impl Verdict {
    pub fn pass(detail: impl Into<String>) -> Self {
        Self { status: Status::Pass, detail: detail.into(), terminal: false }
    }

    pub fn warn(detail: impl Into<String>) -> Self {
        Self { status: Status::Warn, detail: detail.into(), terminal: false }
    }

    pub fn fail(detail: impl Into<String>) -> Self {
        Self { status: Status::Fail, detail: detail.into(), terminal: false }
    }

    pub fn skip(detail: impl Into<String>) -> Self {
        Self { status: Status::Skip, detail: detail.into(), terminal: false }
    }

    /// Marks a failure that waiting cannot mend.
    #[must_use]
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }
}

/// A probe. Run once per `healthcheck`, repeated until its deadline by `up`. Every probe ends within about ten seconds.
#[async_trait]
pub trait Check: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The key in stage files.
    const KIND: &'static str;

    /// What is promised, in a few words: `GET http://mlops/inference:8000/readyz`. Never a secret.
    fn name(&self) -> String;

    /// Probes.
    ///
    /// # Errors
    /// Only when the probe itself could not be made; what the promise's holder does wrong is a [`Verdict`].
    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict>;
}

/// A check whose kind is known only at run time.
#[async_trait]
pub trait AnyCheck: Send + Sync {
    fn kind(&self) -> &'static str;
    fn name(&self) -> String;
    /// See [`Check::run`].
    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict>;
    fn spec(&self) -> Result<serde_json::Value>;
}

#[async_trait]
impl<C: Check> AnyCheck for C {
    fn kind(&self) -> &'static str {
        C::KIND
    }

    fn name(&self) -> String {
        Check::name(self)
    }

    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict> {
        Check::run(self, host).await
    }

    fn spec(&self) -> Result<serde_json::Value> {
        Ok(serde_json::to_value(self)?)
    }
}
