//! Which objects came from which manifest: a label on each, so that what is taken out of a manifest is also taken out of the
//! cluster. There is no record of it elsewhere that could be lost or be wrong.

use futures::stream::{self, StreamExt as _};
use kube::core::discovery::verbs;
use kube::core::params::ListParams;
use kube::core::request::Request;
use kube::core::{DynamicObject, Resource as _};
use serde_json::Value;

use super::error::{Error, Result};
use super::object::ObjectRef;
use super::read::{Reader, built};
use crate::hash::sha256;

/// On every object that this program makes.
pub const MANAGED_BY_LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "provision");

/// On every object of a manifest: which one (see [`label_value`]).
pub const MANIFEST_LABEL: &str = "provision.dev/manifest";

/// Requests at the same time.
const CONCURRENCY: usize = 16;

/// An object that carries [`MANIFEST_LABEL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    pub object: ObjectRef,
    /// Value of the label.
    pub manifest: String,
}

/// Kinds that are never asked for: none of ours, and controllers copy the labels of a Service to some of them.
const NEVER: &[(&str, &str)] = &[
    ("", "Endpoints"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("", "Event"),
    ("events.k8s.io", "Event"),
    ("", "Node"),
    ("coordination.k8s.io", "Lease"),
    ("apps", "ControllerRevision"),
    ("", "ComponentStatus"),
];

/// Kinds that hold what cannot be made again: they are never deleted because a manifest no longer has them.
const KEPT: &[(&str, &str)] = &[
    ("", "Namespace"),
    ("", "PersistentVolume"),
    ("", "PersistentVolumeClaim"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
];

/// Whether pruning leaves objects of this kind alone: namespaces, volumes, claims and definitions hold data.
pub fn is_kept(object: &ObjectRef) -> bool {
    KEPT.contains(&(object.group(), object.kind.as_str()))
}

/// The value of [`MANIFEST_LABEL`] for a manifest: its path in the form that labels allow (63 characters of a small
/// alphabet). Two paths never get the same value: what had to be changed is followed by a piece of its hash.
pub fn label_value(identity: &str) -> String {
    let plain = identity.replace('/', "__");
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if plain.len() <= 63
        && !identity.contains("__")
        && plain.chars().all(allowed)
        && edge(plain.chars().next())
        && edge(plain.chars().last())
    {
        return plain;
    }
    let readable: String = plain.chars().map(|c| if allowed(c) { c } else { '-' }).take(44).collect();
    let hash = &sha256(identity)[..16];
    format!("x{readable}-{hash}")
}

impl Reader {
    /// All objects that carry [`MANIFEST_LABEL`] with this value, as the first look of this reader (or of one of its
    /// clones) found them, kept up to date with what its [`super::Writer`] did since. One look asks for every kind, which
    /// would be too much for every manifest; nobody else sets this label during a run (the host is locked).
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn owned_by(&self, manifest: &str) -> Result<Vec<ObjectRef>> {
        let mut cached = self.owned_cache().lock().await;
        if cached.is_none() {
            *cached = Some(self.look_for_owned().await?);
        }
        Ok(cached
            .iter()
            .flatten()
            .filter(|owned| owned.manifest == manifest)
            .map(|owned| owned.object.clone())
            .collect())
    }

    /// Records what was applied.
    pub(super) async fn note_applied(&self, object: &ObjectRef, desired: &Value) {
        let mut cached = self.owned_cache().lock().await;
        let Some(owned) = cached.as_mut() else { return };
        owned.retain(|known| !known.object.is_same_object(object));
        if let Some(manifest) = manifest_of(desired) {
            owned.push(Owned { object: object.clone(), manifest });
        }
    }

    /// Records what was deleted.
    pub(super) async fn note_deleted(&self, object: &ObjectRef) {
        if let Some(owned) = self.owned_cache().lock().await.as_mut() {
            owned.retain(|known| !known.object.is_same_object(object));
        }
    }

    async fn look_for_owned(&self) -> Result<Vec<Owned>> {
        let discovery = self.discovery(false).await?;
        let kinds: Vec<_> = discovery
            .groups()
            // Metrics are computed, and slow or down when metrics-server is.
            .filter(|group| !group.name().ends_with("metrics.k8s.io"))
            .flat_map(kube::discovery::ApiGroup::recommended_resources)
            .filter(|(resource, can)| {
                can.supports_operation(verbs::LIST)
                    && can.supports_operation(verbs::DELETE)
                    && !NEVER.contains(&(resource.group.as_str(), resource.kind.as_str()))
            })
            .map(|(resource, _)| resource)
            .collect();
        let lists: Vec<Result<Vec<Owned>>> = stream::iter(kinds)
            .map(|resource| async move {
                let what = ObjectRef::new(&resource.api_version, &resource.kind, None, "(list)");
                let url = DynamicObject::url_path(&resource, None);
                let params = ListParams::default().labels(MANIFEST_LABEL);
                let request = built(Request::new(url).list_metadata(&params))?;
                match self.send(&what, self.client().request::<Value>(request)).await {
                    Ok(list) => Ok(owned_in(&list, &resource.api_version, &resource.kind)),
                    // An extension server that is down, or a kind that went away meanwhile, holds nothing of ours.
                    Err(Error::Rejected { code: 403..=405, .. }) if !is_builtin(&resource.group) => Ok(Vec::new()),
                    Err(Error::Unreachable(_)) if !is_builtin(&resource.group) => Ok(Vec::new()),
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        let mut all = Vec::new();
        for list in lists {
            all.extend(list?);
        }
        all.sort_by(|a, b| a.object.cmp(&b.object));
        Ok(all)
    }
}

/// Groups that the API server itself serves: `apps`, `batch`, `networking.k8s.io`, but not `argoproj.io`.
fn is_builtin(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

fn manifest_of(object: &Value) -> Option<String> {
    object.pointer("/metadata/labels")?.get(MANIFEST_LABEL)?.as_str().map(str::to_owned)
}

/// Those of a list that nobody else owns: what a controller made carries the labels of its maker.
fn owned_in(list: &Value, api_version: &str, kind: &str) -> Vec<Owned> {
    list.get("items")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|item| item.pointer("/metadata/ownerReferences").and_then(Value::as_array).is_none_or(Vec::is_empty))
        .filter_map(|item| {
            let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str);
            Some(Owned {
                object: ObjectRef::new(api_version, kind, text("/metadata/namespace"), text("/metadata/name")?),
                manifest: manifest_of(item)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_values_are_readable_valid_and_distinct() {
        assert_eq!(label_value("postgres/postgres.yml"), "postgres__postgres.yml");
        let long = "a/".repeat(60) + "manifest.yml";
        let odd = ["a__b.yml", "über/x.yml", long.as_str(), "-a.yml", "a b", "a@b", "", "_"];
        let mut values: Vec<String> = odd.iter().map(|path| label_value(path)).collect();
        for value in &values {
            assert!(value.len() <= 63, "{value}");
            assert!(value.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)), "{value}");
            let ends = [value.chars().next(), value.chars().last()];
            assert!(ends.iter().flatten().all(char::is_ascii_alphanumeric), "{value}");
        }
        values.sort();
        values.dedup();
        assert_eq!(values.len(), odd.len());
        assert_ne!(label_value("a__b.yml"), label_value("a/b.yml"));
    }

    #[test]
    fn what_a_controller_made_is_not_ours() {
        let list = json!({"items": [
            {"metadata": {"name": "a", "namespace": "mlops", "labels": {MANIFEST_LABEL: "x.yml"}}},
            {"metadata": {"name": "b", "namespace": "mlops", "labels": {MANIFEST_LABEL: "x.yml"},
             "ownerReferences": [{"kind": "Deployment", "name": "a"}]}}
        ]});
        let owned = owned_in(&list, "apps/v1", "ReplicaSet");
        assert_eq!(owned.len(), 1);
        assert_eq!(owned[0].object.to_string(), "ReplicaSet mlops/a");
        assert_eq!(owned[0].manifest, "x.yml");
    }

    #[test]
    fn what_holds_data_is_kept() {
        assert!(is_kept(&ObjectRef::new("v1", "PersistentVolumeClaim", Some("a"), "b")));
        assert!(is_kept(&ObjectRef::new("v1", "Namespace", None, "b")));
        assert!(!is_kept(&ObjectRef::new("apps/v1", "Deployment", Some("a"), "b")));
    }
}
