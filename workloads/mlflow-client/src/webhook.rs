//! MLflow's webhooks: subscribing to them, and telling a real delivery from a made-up one.
//!
//! Deliveries are best effort (kept in memory, three attempts), so whoever listens must poll too.
//! A server takes `http` addresses and addresses inside a private network only when started with
//! `MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https` and `MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true`.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{Call, Client};
use crate::error::Error;

/// Header with the delivery's id.
pub const ID: &str = "x-mlflow-delivery-id";
/// Header with the time of sending, in seconds since 1970.
pub const TIMESTAMP: &str = "x-mlflow-timestamp";
/// Header with `v1,` and the signature in base64.
pub const SIGNATURE: &str = "x-mlflow-signature";
/// How old (or how far ahead) a delivery may be.
pub const WINDOW: Duration = Duration::from_secs(300);

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Webhook {
    pub webhook_id: String,
    pub name: String,
    pub url: String,
    #[serde(default)]
    pub events: Vec<Event>,
    /// `ACTIVE` or `DISABLED`.
    #[serde(default)]
    pub status: String,
}

/// What a subscription is for, such as `MODEL_VERSION_ALIAS` and `CREATED` (which is also what
/// moving an alias is).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub entity: String,
    pub action: String,
}

impl Event {
    /// An alias was set or moved.
    #[must_use]
    pub fn alias_set() -> Self {
        Self { entity: "MODEL_VERSION_ALIAS".to_owned(), action: "CREATED".to_owned() }
    }

    /// An alias was deleted.
    #[must_use]
    pub fn alias_deleted() -> Self {
        Self { entity: "MODEL_VERSION_ALIAS".to_owned(), action: "DELETED".to_owned() }
    }
}

/// What arrives.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Delivery {
    pub entity: String,
    pub action: String,
    #[serde(default)]
    pub data: DeliveryData,
}

/// The part of the payload that aliases have; empty for other events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DeliveryData {
    pub name: String,
    pub alias: String,
    pub version: String,
}

/// The headers that a delivery is signed with.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    pub id: &'a str,
    pub timestamp: &'a str,
    pub signature: &'a str,
}

/// Why a delivery is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("the headers {ID}, {TIMESTAMP} and {SIGNATURE} are not all there")]
    Unsigned,
    #[error("{TIMESTAMP} is not within {} s of this machine's clock", WINDOW.as_secs())]
    Stale,
    #[error("the signature is not that of this body with the secret known here")]
    Forged,
    #[error("the body is no delivery of MLflow")]
    Unreadable,
}

/// Checks who sent a delivery and when, and reads it. `now` is in seconds since 1970. The
/// comparison takes as long for a wrong first byte as for a wrong last one.
///
/// # Errors
/// See [`Rejected`].
pub fn verify(secret: &str, signed: Signed<'_>, body: &[u8], now: u64) -> Result<Delivery, Rejected> {
    if signed.id.is_empty() || signed.timestamp.is_empty() || signed.signature.is_empty() {
        return Err(Rejected::Unsigned);
    }
    let sent: u64 = signed.timestamp.parse().map_err(|_| Rejected::Stale)?;
    if now.abs_diff(sent) > WINDOW.as_secs() {
        return Err(Rejected::Stale);
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let message = [signed.id.as_bytes(), b".", signed.timestamp.as_bytes(), b".", body].concat();
    // While a secret is being changed there may be several, separated by spaces.
    let genuine = signed.signature.split(' ').any(|one| {
        one.strip_prefix("v1,")
            .and_then(|text| STANDARD.decode(text).ok())
            .is_some_and(|tag| hmac::verify(&key, &message, &tag).is_ok())
    });
    if !genuine {
        return Err(Rejected::Forged);
    }
    serde_json::from_slice(body).map_err(|_| Rejected::Unreadable)
}

impl Client {
    /// Subscribes; the server signs its deliveries with `secret`.
    ///
    /// # Errors
    /// No usable answer; an address that the server does not deliver to (see the module).
    pub async fn create_webhook(
        &self,
        name: &str,
        url: &str,
        events: &[Event],
        secret: &str,
    ) -> Result<Webhook, Error> {
        #[derive(Deserialize)]
        struct Answer {
            webhook: Webhook,
        }
        let body = json!({ "name": name, "url": url, "events": events, "secret": secret });
        let made = self
            .create::<Answer, _>("webhooks", &body, || async {
                let all = self.webhooks().await?;
                Ok(all.into_iter().find(|w| w.name == name && w.url == url).map(|webhook| Answer { webhook }))
            })
            .await;
        match made {
            Ok(answer) => Ok(answer.webhook),
            Err(Error::Refused { server, call, status: 400, code, message })
                if message.contains("webhook URL") || message.contains("public IP") =>
            {
                let message = format!(
                    "{message} Start the server with MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https and \
                     MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true to have it deliver inside a cluster"
                );
                Err(Error::Refused { server, call, status: 400, code, message })
            }
            Err(error) => Err(error),
        }
    }

    /// All subscriptions; secrets are not told.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            webhooks: Vec<Webhook>,
            #[serde(default)]
            next_page_token: Option<String>,
        }
        let (mut all, mut page) = (Vec::new(), String::new());
        loop {
            let query = [("max_results", "100"), ("page_token", page.as_str())];
            let query = if page.is_empty() { &query[..1] } else { &query[..] };
            let answer: Answer = self.call(Call::get("webhooks", query)).await?;
            all.extend(answer.webhooks);
            match answer.next_page_token {
                Some(next) if !next.is_empty() && next != page => page = next,
                _ => return Ok(all),
            }
        }
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// No usable answer; no such subscription.
    pub async fn delete_webhook(&self, webhook_id: &str) -> Result<(), Error> {
        let path = format!("webhooks/{webhook_id}");
        self.call::<serde_json::Value>(Call::delete(&path, json!({}))).await.map(|_| ())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Rejected, Signed, verify};
    use base64::Engine;

    const BODY: &[u8] = br#"{"entity":"model_version_alias","action":"created","timestamp":"2026-01-01T00:00:00Z","data":{"name":"m","alias":"production","version":"7"}}"#;
    const NOW: u64 = 1_795_634_791;

    fn sign(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> String {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let tag = ring::hmac::sign(&key, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat());
        format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(tag))
    }

    #[test]
    fn a_delivery_is_believed_once_everything_fits() {
        let timestamp = NOW.to_string();
        let good = sign("s", "d1", &timestamp, BODY);
        let signed = Signed { id: "d1", timestamp: &timestamp, signature: &good };
        let delivery = verify("s", signed, BODY, NOW + 299).unwrap();
        assert_eq!((delivery.data.alias.as_str(), delivery.data.version.as_str()), ("production", "7"));
        let two = format!("v1,AAAA {good}");
        verify("s", Signed { signature: &two, ..signed }, BODY, NOW).unwrap();

        let refused = |signed, body: &[u8], secret, now| verify(secret, signed, body, now).unwrap_err();
        assert_eq!(refused(signed, BODY, "other", NOW), Rejected::Forged);
        assert_eq!(refused(Signed { id: "d2", ..signed }, BODY, "s", NOW), Rejected::Forged);
        assert_eq!(refused(signed, &[BODY, b" "].concat(), "s", NOW), Rejected::Forged);
        assert_eq!(refused(signed, BODY, "s", NOW + 301), Rejected::Stale);
        assert_eq!(refused(signed, BODY, "s", NOW - 301), Rejected::Stale);
        assert_eq!(refused(Signed { timestamp: "soon", ..signed }, BODY, "s", NOW), Rejected::Stale);
        for signature in ["v1,", "v1,!!", "v2,AAAA", "AAAA"] {
            assert_eq!(refused(Signed { signature, ..signed }, BODY, "s", NOW), Rejected::Forged);
        }
        assert_eq!(refused(Signed { signature: "", ..signed }, BODY, "s", NOW), Rejected::Unsigned);
        let rubbish = sign("s", "d1", &timestamp, b"[]");
        assert_eq!(refused(Signed { signature: &rubbish, ..signed }, b"[]", "s", NOW), Rejected::Unreadable);
    }
}
