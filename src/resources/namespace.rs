//! `namespace`: a namespace of the cluster exists and has its labels.

use std::collections::BTreeMap;

use anyhow::Result;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::manifest::{apply_objects, observe_objects};
use super::short_form::{ShortForm, short_form};
use super::{Observed, Resource};
use crate::cluster::{MANAGED_BY_LABEL, ObjectState, Takeover, diff_of};
use crate::diff::Diff;
use crate::host::{ReadHost, WriteHost};

/// A namespace of the cluster: `namespace: mlops`, or with labels. It is never deleted.
///
/// ```yaml
/// - namespace: mlops
/// - namespace: { name: mlops, labels: { team: ml } }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = super::short_form::or_text)]
pub struct Namespace {
    /// Its name: `mlops`.
    pub name: String,
    /// Labels it must have; others that it has are left alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

short_form!(Namespace);

impl ShortForm for Namespace {
    const EXPECTING: &'static str = "the name of a namespace, or a mapping with `name` and `labels`";

    fn full<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }

    fn from_text(name: String) -> Result<Self, String> {
        Ok(Self { name, labels: BTreeMap::new() })
    }
}

impl Namespace {
    fn object(&self) -> Value {
        let mut labels = self.labels.clone();
        labels.insert(MANAGED_BY_LABEL.0.into(), MANAGED_BY_LABEL.1.into());
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}})
    }
}

#[async_trait]
impl Resource for Namespace {
    const KIND: &'static str = "namespace";

    type State = Vec<ObjectState>;

    fn name(&self) -> String {
        self.name.clone()
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
    fn both_forms_and_a_clear_error() {
        let short: Namespace = serde_json::from_value(json!("mlops")).unwrap();
        assert_eq!(short.name, "mlops");
        assert_eq!(serde_json::to_value(&short).unwrap(), json!({"name": "mlops"}));
        let full: Namespace = serde_json::from_value(json!({"name": "mlops", "labels": {"a": "b"}})).unwrap();
        assert_eq!(full.object()["metadata"]["labels"]["a"], "b");
        let error = serde_json::from_value::<Namespace>(json!({"nmae": "a"})).unwrap_err();
        assert!(error.to_string().contains("unknown field `nmae`"), "{error}");
        let error = serde_json::from_value::<Namespace>(json!(7)).unwrap_err();
        assert!(error.to_string().contains("the name of a namespace"), "{error}");
    }
}
