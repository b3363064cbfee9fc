//! Objects of a chart that somebody else made: Helm refuses to take them over, in the middle of the change.

use anyhow::{Result, bail};
use serde_json::Value;

use super::Helm;
use super::look::same;
use crate::cluster::{Found, MANIFEST_LABEL, ObjectRef, ObjectState};

impl Helm {
    /// # Errors
    /// When there is one in `foreign`: which, whose, and the ways out.
    pub(super) fn refuse(&self, foreign: &[(ObjectRef, String)]) -> Result<()> {
        if foreign.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> =
            foreign.iter().map(|(object, owner)| format!("{object} exists already; it is {owner}")).collect();
        bail!(
            "{}\n  hint: Helm does not take over what is not of the release {}/{}: remove it, give it another name, or say \
             `take_ownership: true`",
            lines.join("\n"),
            self.namespace,
            self.release
        );
    }
}

/// Those of `objects` that exist, are not in `known` (the objects of the release), and do not name the release as theirs;
/// with whose they are.
pub fn foreign(objects: &[ObjectState], known: &[Value], namespace: &str, release: &str) -> Vec<(ObjectRef, String)> {
    let unknown = objects.iter().filter(|state| !known.iter().any(|object| same(object, &state.reference)));
    unknown
        .filter_map(|state| match &state.found {
            Found::Present { live, .. } => Some((state.reference.clone(), owner(live, namespace, release)?)),
            _ => None,
        })
        .collect()
}

/// Whose an object is, as Helm judges; `None` when it is the release's.
fn owner(live: &Value, namespace: &str, release: &str) -> Option<String> {
    let text = |map: &str, key: &str| live.pointer(map)?.get(key)?.as_str();
    let by = text("/metadata/annotations", "meta.helm.sh/release-name");
    let of = text("/metadata/annotations", "meta.helm.sh/release-namespace");
    let manager = text("/metadata/labels", "app.kubernetes.io/managed-by");
    match (by, of) {
        (Some(by), Some(of)) if (by, of, manager) == (release, namespace, Some("Helm")) => None,
        (Some(by), Some(of)) if (by, of) != (release, namespace) => Some(format!("of the release {of}/{by}")),
        _ => Some(match (text("/metadata/labels", MANIFEST_LABEL), written_by(live)) {
            (Some(manifest), _) => format!("of the manifest {manifest}"),
            (None, Some(by)) => format!("written by {by}"),
            (None, None) => "of nobody that says so".into(),
        }),
    }
}

fn written_by(live: &Value) -> Option<&str> {
    live.pointer("/metadata/managedFields/0/manager")?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(live: Value) -> ObjectState {
        let reference = ObjectRef::new("v1", "ConfigMap", Some("a"), "x");
        ObjectState { reference, found: Found::Present { predicted: live.clone(), live } }
    }

    #[test]
    fn an_object_is_whose_its_marks_say() {
        let marked = |name: &str, namespace: &str, manager: &str| {
            json!({"metadata": {
                "annotations": {"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace},
                "labels": {"app.kubernetes.io/managed-by": manager}, "managedFields": [{"manager": "helm"}]}})
        };
        for (live, expected) in [
            (marked("demo", "a", "Helm"), None),
            (marked("demo", "b", "Helm"), Some("of the release b/demo")),
            (marked("other", "a", "Helm"), Some("of the release a/other")),
            (marked("demo", "a", "provision"), Some("written by helm")),
            (json!({"metadata": {"labels": {MANIFEST_LABEL: "web.yml"}}}), Some("of the manifest web.yml")),
            (json!({"metadata": {}}), Some("of nobody that says so")),
        ] {
            let found = foreign(&[state(live.clone())], &[], "a", "demo");
            assert_eq!(found.first().map(|(_, owner)| owner.as_str()), expected, "{live}");
        }
        // What the release already has is its own whatever was done to its marks.
        let known = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "a"}});
        assert!(foreign(&[state(json!({"metadata": {}}))], &[known], "a", "demo").is_empty());
    }
}
