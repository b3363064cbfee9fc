//! Sending a request: what counts as an answer, and when to try again.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use reqwest::{RequestBuilder, Response};

use crate::error::Error;

/// Attempts in all, unless the client is told otherwise.
pub const ATTEMPTS: u32 = 5;
/// First pause; each is twice as long as the one before, less a random part.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// May a request be made twice?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// The second time changes nothing more.
    Safe,
    /// Only when the first certainly did not arrive.
    OnlyUnsent,
}

/// Who is asked what; for errors.
#[derive(Debug, Clone)]
pub struct Place {
    pub server: String,
    pub call: String,
}

impl Place {
    pub fn unreachable(&self, error: &reqwest::Error) -> Error {
        Error::Unreachable {
            server: self.server.clone(),
            call: self.call.clone(),
            reason: reason(error),
            sent: !error.is_connect() && !error.is_builder(),
        }
    }

    pub fn answer(&self, reason: impl Into<String>) -> Error {
        Error::Answer { server: self.server.clone(), call: self.call.clone(), reason: reason.into() }
    }

    /// The error in a response that is not 2xx.
    pub async fn refused(&self, response: Response) -> Error {
        let status = response.status().as_u16();
        let body = response.bytes().await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        #[derive(serde::Deserialize)]
        struct Body {
            error_code: Option<String>,
            message: Option<String>,
        }
        let (code, message) = match serde_json::from_slice::<Body>(&body) {
            Ok(body) => (body.error_code.unwrap_or_default(), body.message.unwrap_or_default()),
            // S3 answers in XML.
            Err(_) => (
                between(&text, "<Code>", "</Code>").unwrap_or_default().to_owned(),
                between(&text, "<Message>", "</Message>").unwrap_or(&text).to_owned(),
            ),
        };
        let message = message.trim().chars().take(500).collect();
        Error::Refused { server: self.server.clone(), call: self.call.clone(), status, code, message }
    }
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    Some(text.split_once(from)?.1.split_once(to)?.0)
}

/// The innermost cause: the outer layers only say that a request was sent. Without the address,
/// which may be signed.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    // Only the outermost layer prints its address.
    if text.contains("://") { "the request failed".to_owned() } else { text }
}

/// Sends until there is an answer worth having: 2xx. `request` is made anew for each attempt.
///
/// # Errors
/// The last attempt's.
pub async fn send(
    place: &Place,
    attempts: u32,
    repeat: Repeat,
    mut request: impl FnMut() -> RequestBuilder,
) -> Result<Response, Error> {
    let mut attempt = 1;
    loop {
        let error = match request().send().await {
            Ok(response) if response.status().is_success() => return Ok(response),
            Ok(response) => place.refused(response).await,
            Err(error) => place.unreachable(&error),
        };
        let again = match repeat {
            Repeat::Safe => error.is_temporary(),
            Repeat::OnlyUnsent => error.never_sent(),
        };
        if !again || attempt >= attempts {
            return Err(error);
        }
        tokio::time::sleep(pause(attempt)).await;
        attempt += 1;
    }
}

/// The pause after attempt `attempt`, which counts from 1.
pub fn pause(attempt: u32) -> Duration {
    let full = PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    full.mul_f64(0.5 + 0.5 * (random() >> 11) as f64 / (1u64 << 53) as f64)
}

/// The standard library seeds its hash maps with numbers from the system.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_PAUSE, PAUSE, pause};

    #[test]
    fn pauses_grow_and_end() {
        for attempt in 1..40 {
            let (now, full) = (pause(attempt), PAUSE.saturating_mul(1 << (attempt - 1).min(10)).min(LONGEST_PAUSE));
            assert!(now <= full && now >= full / 2, "{attempt}: {now:?}");
        }
    }
}
