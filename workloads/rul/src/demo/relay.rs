//! In Alertmanager's place: takes alerts as its API does (`/api/v2/alerts`) and sends them on as its webhook does (payload version 4,
//! without grouping or waiting), again until they are taken. So `rul drift` and `rul trigger` run as beside the real one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use reqwest::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::Error;

/// Between two looks at what is to be delivered.
const PAUSE: Duration = Duration::from_millis(100);

/// An alert as clients post it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    starts_at: Timestamp,
    ends_at: Timestamp,
}

impl Alert {
    fn status(&self) -> &'static str {
        if self.ends_at > Timestamp::now() { "firing" } else { "resolved" }
    }

    fn fingerprint(&self) -> String {
        let labels: String = self.labels.iter().map(|(name, value)| format!("{name}\0{value}\0")).collect();
        hex::encode(&Sha256::digest(labels.as_bytes())[..8])
    }

    /// The webhook's payload, a group of one.
    fn payload(&self) -> Value {
        let (status, fingerprint) = (self.status(), self.fingerprint());
        json!({
            "version": "4", "status": status, "receiver": "rul-trigger", "groupKey": format!("{{}}:{{{fingerprint}}}"),
            "truncatedAlerts": 0, "groupLabels": {}, "commonLabels": self.labels, "commonAnnotations": self.annotations,
            "externalURL": "", "alerts": [{
                "status": status, "labels": self.labels, "annotations": self.annotations,
                "startsAt": self.starts_at, "endsAt": self.ends_at, "generatorURL": "", "fingerprint": fingerprint,
            }],
        })
    }
}

/// One delivery to the trigger.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub at: Timestamp,
    pub status: &'static str,
    pub cause: String,
    pub summary: String,
    /// What the trigger answered.
    pub answer: Value,
}

#[derive(Debug, Default)]
struct Board {
    alerts: BTreeMap<String, Alert>,
    /// By fingerprint, the status that the trigger knows of.
    told: BTreeMap<String, &'static str>,
    deliveries: Vec<Delivery>,
}

/// A handle on the relay; it ends with the runtime.
#[derive(Debug, Clone)]
pub struct Relay {
    pub url: String,
    board: Arc<Mutex<Board>>,
}

impl Relay {
    /// Listens on a free port of the loopback and sends to `trigger` (`http://HOST:PORT`).
    ///
    /// # Errors
    /// No port.
    pub async fn start(trigger: &str, token: &str, client: Client) -> Result<Self, Error> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(Error::io("the relay of alerts"))?;
        let address = listener.local_addr().map_err(Error::io("the relay of alerts"))?;
        let board = Arc::new(Mutex::new(Board::default()));
        let router = Router::new().route("/api/v2/alerts", get(list).post(take)).with_state(Arc::clone(&board));
        // Both end with the runtime; a relay that ended earlier is noticed by the drift watch, which fails loudly.
        tokio::spawn(async move { axum::serve(listener, router).await });
        tokio::spawn(deliver(Arc::clone(&board), format!("{trigger}/webhook/drift"), token.to_owned(), client));
        Ok(Self { url: format!("http://{address}"), board })
    }

    pub fn deliveries(&self) -> Vec<Delivery> {
        locked(&self.board).deliveries.clone()
    }
}

fn locked(board: &Mutex<Board>) -> std::sync::MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What fires. There is one service and one model here, so the filters say nothing.
async fn list(State(board): State<Arc<Mutex<Board>>>) -> Json<Vec<Alert>> {
    Json(locked(&board).alerts.values().filter(|alert| alert.status() == "firing").cloned().collect())
}

async fn take(State(board): State<Arc<Mutex<Board>>>, Json(alerts): Json<Vec<Alert>>) {
    let mut board = locked(&board);
    for alert in alerts {
        board.alerts.insert(alert.fingerprint(), alert);
    }
}

async fn deliver(board: Arc<Mutex<Board>>, url: String, token: String, client: Client) {
    loop {
        let news: Vec<(String, Alert)> = {
            let board = locked(&board);
            let new = |(key, alert): &(&String, &Alert)| board.told.get(*key) != Some(&alert.status());
            board.alerts.iter().filter(new).map(|(key, alert)| (key.clone(), alert.clone())).collect()
        };
        for (key, alert) in news {
            let (at, status) = (Timestamp::now(), alert.status());
            let Ok(answer) = client.post(&url).bearer_auth(&token).json(&alert.payload()).send().await else {
                continue;
            };
            let taken = answer.status().is_success();
            let answer = answer.json().await.unwrap_or(Value::Null);
            let text = |from: &BTreeMap<String, String>, key: &str| from.get(key).cloned().unwrap_or_default();
            let (cause, summary) = (text(&alert.labels, "cause"), text(&alert.annotations, "summary"));
            let mut board = locked(&board);
            if taken {
                board.told.insert(key, status);
                board.deliveries.push(Delivery { at, status, cause, summary, answer });
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_what_alertmanager_sends() {
        let text = r#"{"labels":{"alertname":"ModelDriftDetected","cause":"regime"},"annotations":{"summary":"s"},"startsAt":"2026-11-25T10:00:00Z","endsAt":"2999-01-01T00:00:00Z"}"#;
        let alert: Alert = serde_json::from_str(text).unwrap();
        let payload = alert.payload();
        assert_eq!((payload["version"].as_str(), payload["status"].as_str()), (Some("4"), Some("firing")));
        assert_eq!(payload["alerts"][0]["startsAt"], "2026-11-25T10:00:00Z");
        assert_eq!(payload["alerts"][0]["fingerprint"].as_str().unwrap().len(), 16);
        let over = Alert { ends_at: alert.starts_at, ..alert.clone() };
        assert_eq!((over.status(), over.fingerprint()), ("resolved", alert.fingerprint()));
    }
}
