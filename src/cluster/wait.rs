//! Waiting until objects are ready.

use std::time::Duration;

use tokio::time::Instant;

use super::Writer;
use super::error::{Error, Result};
use super::object::ObjectRef;
use super::rollout::{Rollout, Trouble};
use crate::host::WriteHost;

/// An object did not become ready.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotReady {
    /// Waiting longer cannot help.
    #[error("{object} cannot become ready: {trouble}")]
    Hopeless { object: ObjectRef, trouble: Trouble },
    /// The time is over.
    #[error("{object} is not ready after {waited} s: {reason}")]
    TimedOut {
        object: ObjectRef,
        /// Seconds.
        waited: u64,
        /// The last one seen.
        reason: String,
    },
    /// The server refused to say.
    #[error(transparent)]
    Refused(#[from] Error),
}

/// Looks often at first (most things take a second or two), then less so.
const FIRST_POLL: Duration = Duration::from_millis(200);
const LAST_POLL: Duration = Duration::from_secs(2);

impl Writer {
    /// Waits until all objects are ready, for `timeout` in total, saying through the host what for. Ends at once when one
    /// cannot become ready. A server that does not answer for a while is waited for as well.
    ///
    /// # Errors
    /// Which object is not ready, the last reason, and for what is hopeless its last log lines and events.
    pub async fn wait_ready(
        &self,
        host: &dyn WriteHost,
        objects: &[ObjectRef],
        timeout: Duration,
    ) -> Result<(), NotReady> {
        let started = Instant::now();
        for object in objects {
            self.wait_one(host, object, started, timeout).await?;
        }
        Ok(())
    }

    async fn wait_one(
        &self,
        host: &dyn WriteHost,
        object: &ObjectRef,
        started: Instant,
        timeout: Duration,
    ) -> Result<(), NotReady> {
        let mut poll = FIRST_POLL;
        loop {
            let reason = match self.reader().rollout(object).await {
                Ok(Rollout::Ready) => return Ok(()),
                Ok(Rollout::Waiting(reason)) => reason,
                Ok(Rollout::Hopeless(trouble)) => {
                    return Err(NotReady::Hopeless { object: object.clone(), trouble });
                }
                Err(error) if error.is_unreachable() => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            if started.elapsed() >= timeout {
                return Err(NotReady::TimedOut { object: object.clone(), waited: timeout.as_secs(), reason });
            }
            host.progress(&format!("waiting for {object}: {reason}"));
            host.sleep(poll.min(timeout)).await;
            poll = (poll * 2).min(LAST_POLL);
        }
    }
}
