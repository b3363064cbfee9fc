//! Follows the service's ring of recent predictions, for the report's histograms.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Client;

use crate::drift::service::{Entry, Service};
use crate::token::Token;

const PAUSE: Duration = Duration::from_millis(200);

/// A handle on the follower; it ends with the runtime.
#[derive(Debug, Clone)]
pub struct Follower {
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Follower {
    pub fn start(service: &str, token: &str, client: &Client) -> Self {
        let entries = Arc::new(Mutex::new(Vec::new()));
        let mut ring = Service::new(service, Some(Token::new(token)), client);
        let kept = Arc::clone(&entries);
        tokio::spawn(async move {
            loop {
                // A service that does not answer is seen by everybody else as well.
                if ring.follow(0.0).await.is_ok() {
                    *kept.lock().unwrap_or_else(PoisonError::into_inner) = ring.entries().cloned().collect();
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { entries }
    }

    /// All predictions so far, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether an answer of this version is among them.
    pub fn has_version(&self, version: &str) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().rev().any(|entry| entry.model_version == version)
    }
}
