//! The alert: raised while there is drift, renewed at every look, taken back when it is over.
//!
//! Alertmanager forgets an alert when its `endsAt` passes; so a watcher that dies does not leave one firing for ever. What is
//! firing is asked from Alertmanager itself: a job without a memory, or one that lost it, still takes back what is no longer so.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Client, Method};
use serde::{Deserialize, Serialize};

use super::ask::Peer;
use super::error::Error;

pub const NAME: &str = "ModelDriftDetected";

/// What identifies and describes an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    pub service: String,
    pub model_name: String,
    pub baseline_version: String,
    pub cause: String,
    pub summary: String,
    pub description: String,
}

impl Drift {
    /// The earlier system's labels, and the cause.
    fn labels(&self) -> BTreeMap<String, String> {
        let label = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        [
            ("alertname", NAME),
            ("severity", "warning"),
            ("service", &self.service),
            ("model_name", &self.model_name),
            ("baseline_version", &self.baseline_version),
            ("cause", &self.cause),
        ]
        .map(label)
        .into()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    starts_at: String,
    ends_at: String,
}

/// Alertmanager; in a cluster of several, each member.
#[derive(Debug)]
pub struct Alertmanager {
    peers: Vec<Peer>,
}

impl Alertmanager {
    /// `addresses`: one, or several separated by commas.
    pub fn new(addresses: &str, client: &Client) -> Self {
        let addresses = addresses.split(',').map(str::trim).filter(|a| !a.is_empty());
        Self { peers: addresses.map(|a| Peer::new("Alertmanager", a, client)).collect() }
    }

    /// Makes exactly `wanted` fire for this service and model: renews it until `now + ttl`, and resolves every other one.
    /// `starts_at` is when it began. Gives how many were resolved. Alertmanager sends notifications for what changed only.
    ///
    /// # Errors
    /// When a member does not answer as it should; the others have been told all the same.
    pub async fn settle(
        &self,
        (service, model_name): (&str, &str),
        wanted: Option<(&Drift, &str)>,
        ttl: Duration,
    ) -> Result<usize, Error> {
        let mut failed = None;
        let mut most = 0;
        for peer in &self.peers {
            match settle_one(peer, (service, model_name), wanted, ttl).await {
                Ok(resolved) => most = most.max(resolved),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(most), Err)
    }
}

async fn settle_one(
    peer: &Peer,
    (service, model_name): (&str, &str),
    wanted: Option<(&Drift, &str)>,
    ttl: Duration,
) -> Result<usize, Error> {
    let path = "/api/v2/alerts";
    let now = Timestamp::now();
    // A silenced or inhibited one must be resolved as well.
    let filters = [
        ("filter", format!("alertname={}", quoted(NAME))),
        ("filter", format!("service={}", quoted(service))),
        ("filter", format!("model_name={}", quoted(model_name))),
    ];
    let body = peer.expect(peer.get(path).query(&filters)).await?;
    let firing: Vec<Alert> = peer.json(path, &body)?;
    let labels = wanted.map(|(drift, _)| drift.labels());
    let mut alerts: Vec<Alert> = firing
        .into_iter()
        .filter(|alert| Some(&alert.labels) != labels.as_ref())
        .map(|alert| Alert { ends_at: now.to_string(), ..alert })
        .collect();
    let resolved = alerts.len();
    if let (Some((drift, starts_at)), Some(labels)) = (wanted, labels) {
        let annotations = [("summary", &drift.summary), ("description", &drift.description)];
        alerts.push(Alert {
            labels,
            annotations: annotations.map(|(k, v)| (k.to_owned(), v.clone())).into(),
            starts_at: starts_at.to_owned(),
            ends_at: now.saturating_add(ttl).map_or_else(|_| now.to_string(), |end| end.to_string()),
        });
    }
    if !alerts.is_empty() {
        peer.expect(peer.request(Method::POST, path).json(&alerts)).await?;
    }
    Ok(resolved)
}

/// A matcher's value, quoted.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
