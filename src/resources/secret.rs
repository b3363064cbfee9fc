//! `secret`: a Secret of the cluster has its values.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::manifest::{apply_objects, observe_objects};
use super::{Observed, Resolve, Resource};
use crate::cluster::object::base64_of;
use crate::cluster::{MANAGED_BY_LABEL, ObjectState, Takeover, diff_of};
use crate::diff::Diff;
use crate::host::{ReadHost, WriteHost};

/// A Secret of the cluster. Its values are never shown, not even in a difference.
///
/// ```yaml
/// - secret: { name: app, namespace: mlops, data: { PASSWORD: "{{ secret.app.password }}" } }
/// ```
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Its name: `postgres-credentials`.
    pub name: String,
    /// The namespace it lives in: `mlops`.
    pub namespace: String,
    /// Values in clear, by key: `POSTGRES_PASSWORD: "{{ secret.postgres.password }}"`. Keys that are taken out here are
    /// taken out of the cluster as well.
    pub data: BTreeMap<String, String>,
    /// Its type; `Opaque` when not given. The cluster does not let it be changed later.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Labels it must have; others that it has are left alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Secret {
    fn object(&self) -> Value {
        let mut labels = self.labels.clone();
        labels.insert(MANAGED_BY_LABEL.0.into(), MANAGED_BY_LABEL.1.into());
        let data: BTreeMap<&str, String> =
            self.data.iter().map(|(key, value)| (key.as_str(), base64_of(value.as_bytes()))).collect();
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels},
            "type": self.kind.as_deref().unwrap_or("Opaque"),
            "data": data
        })
    }
}

#[async_trait]
impl Resource for Secret {
    const KIND: &'static str = "secret";

    type State = Vec<ObjectState>;

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn resolve(&mut self, _: &mut dyn Resolve) -> Result<()> {
        for key in self.data.keys() {
            let fits =
                !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
            ensure!(fits, "the key {key:?} in `data` may only have letters, digits, `-`, `_` and `.`");
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<Self::State>> {
        observe_objects(host, &[self.object()], Takeover::ByHand).await
    }

    fn diff(&self, state: &Self::State) -> Diff {
        diff_of(state)
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        apply_objects(host, &[self.object()], diff, Takeover::ByHand).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_and_the_type_is_named() {
        let secret: Secret = serde_json::from_value(json!({
            "name": "a", "namespace": "b", "type": "kubernetes.io/basic-auth", "data": {"password": "hunter2"}
        }))
        .unwrap();
        let object = secret.object();
        assert_eq!(object["data"], json!({"password": "aHVudGVyMg=="}));
        assert_eq!(object["type"], "kubernetes.io/basic-auth");
        assert_eq!(secret.name(), "b/a");
    }
}
