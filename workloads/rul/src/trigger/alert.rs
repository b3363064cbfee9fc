//! What Alertmanager sends: webhook payload of version 4
//! (<https://prometheus.io/docs/alerting/latest/configuration/#webhook_config>).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// As much of the payload as matters; other keys are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct Payload {
    pub version: String,
    pub alerts: Vec<Alert>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Alert {
    pub status: String,
    pub labels: BTreeMap<String, String>,
    /// RFC 3339: with the fingerprint it names one firing of the alert.
    #[serde(rename = "startsAt")]
    pub starts_at: String,
    #[serde(default)]
    pub fingerprint: String,
}

/// One firing of an alert.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Firing {
    /// The same for every repetition of this firing, and for no other.
    pub key: String,
    pub model: String,
    /// What drifted; alerts of the same cause share a cool-down.
    pub cause: String,
    /// Version whose baseline was left.
    pub baseline_version: String,
}

impl Alert {
    pub fn is_firing(&self) -> bool {
        self.status == "firing"
    }

    pub fn firing(&self) -> Firing {
        let label = |name: &str| self.labels.get(name).cloned().unwrap_or_default();
        let or = |text: String, otherwise: &str| if text.is_empty() { otherwise.to_owned() } else { text };
        // Old Alertmanagers and hand-made payloads have no fingerprint: the labels are what it is made of.
        let fingerprint = if self.fingerprint.is_empty() {
            let labels: String = self.labels.iter().map(|(name, value)| format!("{name}\0{value}\0")).collect();
            hex::encode(&Sha256::digest(labels.as_bytes())[..8])
        } else {
            self.fingerprint.clone()
        };
        Firing {
            key: format!("{fingerprint}@{}", self.starts_at),
            model: or(label("model_name"), "unknown"),
            cause: or(label("cause"), "drift"),
            baseline_version: label("baseline_version"),
        }
    }
}

impl Firing {
    /// A name for the run that answers this firing: who is asked twice gives the same, so a crash between starting a run and
    /// noting it down cannot start a second one. Fits a Kubernetes name.
    pub fn run_name(&self, attempt: u32) -> String {
        let hash = hex::encode(&Sha256::digest(format!("{}\0{attempt}", self.key).as_bytes())[..5]);
        let version: String = self.baseline_version.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        let version = if version.is_empty() { "none".to_owned() } else { version.to_ascii_lowercase() };
        format!("drift-triggered-baseline-v{version}-{hash}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn alert(text: &str) -> Alert {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_firing_keeps_its_name_and_the_next_one_has_another() {
        let text = r#"{"status":"firing","labels":{"model_name":"m","baseline_version":"7","cause":"regime"},"startsAt":"2026-11-25T10:00:00Z","fingerprint":"ab"}"#;
        let firing = alert(text).firing();
        assert_eq!((firing.model.as_str(), firing.cause.as_str()), ("m", "regime"));
        assert_eq!(firing.run_name(0), alert(text).firing().run_name(0));
        assert_ne!(firing.run_name(0), firing.run_name(1));
        assert_ne!(firing.run_name(0), alert(&text.replace("10:00", "11:00")).firing().run_name(0));
        assert!(firing.run_name(0).starts_with("drift-triggered-baseline-v7-") && firing.run_name(0).len() < 53);
    }

    #[test]
    fn labels_stand_in_for_a_missing_fingerprint() {
        let a = alert(r#"{"status":"firing","labels":{"a":"1"},"startsAt":"t"}"#).firing();
        let b = alert(r#"{"status":"firing","labels":{"a":"2"},"startsAt":"t"}"#).firing();
        assert_ne!(a.key, b.key);
        assert_eq!((a.model.as_str(), a.cause.as_str()), ("unknown", "drift"));
        let odd = Firing { baseline_version: "../Ä 1".into(), ..a };
        assert!(odd.run_name(0).chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
    }
}
