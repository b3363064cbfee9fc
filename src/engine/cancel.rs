//! Two-step interruption: first finish the current step, then stop at once.

use std::sync::Arc;

use tokio::sync::watch;

/// How urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Urgency {
    #[default]
    None,
    /// Finish the current step, start no other.
    Finish,
    /// Stop now: running programs are ended.
    Now,
}

/// Shared by everyone who works and everyone who may interrupt.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<watch::Sender<Urgency>>);

impl Default for Cancel {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Urgency::None)))
    }
}

impl Cancel {
    /// Raises the urgency; never lowers it.
    pub fn raise(&self, urgency: Urgency) {
        self.0.send_if_modified(|now| {
            let higher = urgency > *now;
            *now = urgency.max(*now);
            higher
        });
    }

    pub fn urgency(&self) -> Urgency {
        *self.0.borrow()
    }

    /// Whether no new step may start.
    pub fn is_cancelled(&self) -> bool {
        self.urgency() > Urgency::None
    }

    /// Returns once the urgency is at least `urgency`.
    pub async fn reached(&self, urgency: Urgency) {
        let mut receiver = self.0.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _ = receiver.wait_for(|now| *now >= urgency).await;
    }
}
