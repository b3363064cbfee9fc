//! What applying an object would change, field by field. Pure.

use serde_json::{Map, Value};

use super::object::ObjectRef;
use super::readiness::failed_job;
use crate::diff::{Action, Diff, unified};

/// An object as it is, and as it would be after applying.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectState {
    pub reference: ObjectRef,
    pub found: Found,
}

impl ObjectState {
    /// Whether it is a Job that has to go before another one can do its work.
    pub fn makes_room(&self) -> bool {
        match &self.found {
            Found::Outdated { .. } => true,
            Found::Present { live, .. } => failed_job(live).is_some(),
            Found::Absent | Found::Deleting | Found::Unwanted => false,
        }
    }
}

/// What is there now.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// The last one of this name, on its way out.
    Deleting,
    /// This, and what the server says it would become (from a dry run).
    Present { live: Value, predicted: Value },
    /// A Job that is not as desired: nothing of it can be changed, so a new one takes its place and runs.
    Outdated { live: Value, desired: Value },
    /// This, which must not be there.
    Unwanted,
}

/// The difference of several objects: each is one change, named by its kind and name.
pub fn diff_of(states: &[ObjectState]) -> Diff {
    let mut diff = Diff::none();
    let (mut created, mut deleted, mut changed) = (false, false, false);
    for state in states {
        let field = state.reference.to_string();
        match &state.found {
            Found::Absent => {
                created = true;
                diff.push(field, "create");
            }
            Found::Deleting => {
                created = true;
                diff.push(field, "create, once the one that is being deleted is gone");
            }
            Found::Outdated { live, desired } => {
                changed = true;
                let mut lines = vec!["is replaced and run again".to_owned()];
                lines.extend(changed_fields(&shaped_like(live, desired), desired));
                diff.push(field, lines.join("\n"));
            }
            Found::Unwanted => {
                deleted = true;
                diff.push(field, "delete (no longer in the manifest)");
            }
            Found::Present { live, predicted } => {
                let mut lines = changed_fields(live, predicted);
                if let Some(reason) = failed_job(live) {
                    lines.push(format!("failed ({reason}): is run again"));
                }
                if !lines.is_empty() {
                    changed = true;
                    diff.push(field, lines.join("\n"));
                }
            }
        }
    }
    diff.action = match (created, changed, deleted) {
        (false, false, false) => None,
        (true, false, false) => Some(Action::Create),
        (false, false, true) => Some(Action::Delete),
        _ => Some(Action::Change),
    };
    diff
}

/// One line for each field that differs between two states of one object: `spec.replicas: 1 -> 2`. Values of Secrets are
/// never shown.
pub fn changed_fields(before: &Value, after: &Value) -> Vec<String> {
    let secret = after.get("kind").and_then(Value::as_str) == Some("Secret");
    let mut lines = Vec::new();
    walk("", Some(&significant(before)), Some(&significant(after)), secret, &mut lines);
    lines
}

/// Of `live` only what `desired` speaks of too: the rest is the server's defaults, which only the server can tell.
fn shaped_like(live: &Value, desired: &Value) -> Value {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => {
            let common =
                desired.iter().filter_map(|(key, wanted)| Some((key.clone(), shaped_like(live.get(key)?, wanted))));
            Value::Object(common.collect())
        }
        (Value::Array(items), Value::Array(wanted)) => {
            let of = |index: usize, item: &Value| {
                let partner = match item.get("name") {
                    Some(name) => wanted.iter().find(|it| it.get("name") == Some(name)),
                    None => wanted.get(index),
                };
                partner.map_or_else(|| item.clone(), |partner| shaped_like(item, partner))
            };
            Value::Array(items.iter().enumerate().map(|(index, item)| of(index, item)).collect())
        }
        _ => live.clone(),
    }
}

/// The object without what the server keeps for itself and what controllers report.
fn significant(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.shift_remove("status");
        // The version an object is read in is a choice of the reader; it is stored once.
        map.shift_remove("apiVersion");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"] {
            metadata.shift_remove(key);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            // kubectl's copy of what it was last given: it may hold a whole Secret.
            annotations.shift_remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        for key in ["annotations", "labels"] {
            if metadata.get(key).and_then(Value::as_object).is_some_and(Map::is_empty) {
                metadata.shift_remove(key);
            }
        }
    }
    object
}

fn walk(path: &str, before: Option<&Value>, after: Option<&Value>, secret: bool, lines: &mut Vec<String>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            for key in keys(before, after) {
                walk(&join(path, key), before.get(key), after.get(key), secret, lines);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            walk_list(path, before, after, secret, lines);
        }
        // A map that appears or goes as a whole: its entries are the fields the user knows.
        (None, Some(Value::Object(map))) if !map.is_empty() => {
            for (key, value) in map {
                walk(&join(path, key), None, Some(value), secret, lines);
            }
        }
        (Some(Value::Object(map)), None) if !map.is_empty() => {
            for (key, value) in map {
                walk(&join(path, key), Some(value), None, secret, lines);
            }
        }
        _ => lines.push(line(path, before, after, secret)),
    }
}

fn keys<'a>(before: &'a Map<String, Value>, after: &'a Map<String, Value>) -> Vec<&'a str> {
    before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))).map(String::as_str).collect()
}

/// Lists whose items all have a name of their own (containers, volumes, env, ports) are compared by it, others by position.
fn walk_list(path: &str, before: &[Value], after: &[Value], secret: bool, lines: &mut Vec<String>) {
    if let (Some(old), Some(new)) = (named(before), named(after)) {
        for (name, value) in &old {
            let other = new.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
            walk(&format!("{path}[{name}]"), Some(value), other, secret, lines);
        }
        for (name, value) in &new {
            if !old.iter().any(|(n, _)| n == name) {
                walk(&format!("{path}[{name}]"), None, Some(value), secret, lines);
            }
        }
        return;
    }
    for i in 0..before.len().max(after.len()) {
        walk(&format!("{path}[{i}]"), before.get(i), after.get(i), secret, lines);
    }
}

fn named(items: &[Value]) -> Option<Vec<(&str, &Value)>> {
    let named: Vec<(&str, &Value)> =
        items.iter().map(|item| Some((item.get("name")?.as_str()?, item))).collect::<Option<_>>()?;
    let mut names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    (names.len() == named.len()).then_some(named)
}

/// `spec.template`; keys that hold a dot of their own are quoted, so that the path can be read.
fn join(path: &str, key: &str) -> String {
    let key = if key.contains('.') { format!("{key:?}") } else { key.to_owned() };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

fn line(path: &str, before: Option<&Value>, after: Option<&Value>, secret: bool) -> String {
    if secret && (path.starts_with("data") || path.starts_with("stringData")) {
        let how = match (before, after) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        return format!("{path}: ••• ({how})");
    }
    if let (Some(Value::String(before)), Some(Value::String(after))) = (before, after)
        && (before.contains('\n') || after.contains('\n'))
    {
        return format!("{path}:\n{}", unified(before, after));
    }
    format!("{path}: {} -> {}", shown(before), shown(after))
}

/// A value in one line of bearable length.
fn shown(value: Option<&Value>) -> String {
    const LONGEST: usize = 160;
    let text = match value {
        None => return "(absent)".into(),
        Some(Value::String(text)) if !text.is_empty() && !text.contains('\n') => text.clone(),
        Some(value) => value.to_string(),
    };
    if text.chars().count() > LONGEST {
        let head: String = text.chars().take(LONGEST).collect();
        format!("{head}…")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(spec: Value) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "inference", "namespace": "mlops", "uid": "1", "resourceVersion": "10", "generation": 1,
                "creationTimestamp": "2026-11-25T14:00:00Z", "managedFields": [{"manager": "provision"}]
            },
            "spec": spec, "status": {"replicas": 1}
        })
    }

    #[test]
    fn what_the_server_keeps_for_itself_is_no_difference() {
        let before = deployment(json!({"replicas": 1}));
        let mut after = before.clone();
        after["metadata"]["resourceVersion"] = json!("11");
        after["metadata"]["generation"] = json!(2);
        after["metadata"]["managedFields"] = json!([]);
        after["metadata"]["annotations"] = json!({});
        after["status"] = json!({"replicas": 3});
        assert!(changed_fields(&before, &after).is_empty());
    }

    #[test]
    fn fields_are_named_by_their_path() {
        let before = deployment(json!({
            "replicas": 1,
            "template": {"metadata": {"labels": {"app.kubernetes.io/name": "a"}}, "spec": {"containers": [
                {"name": "serve", "image": "rul:1", "args": ["a", "b"]},
                {"name": "old", "image": "x"}
            ]}}
        }));
        let after = deployment(json!({
            "replicas": 2,
            "template": {"metadata": {"labels": {"app.kubernetes.io/name": "b"}}, "spec": {"containers": [
                {"name": "new", "image": "y"},
                {"name": "serve", "image": "rul:2", "args": ["a"], "env": [{"name": "K", "value": ""}]}
            ]}}
        }));
        assert_eq!(
            changed_fields(&before, &after),
            [
                "spec.replicas: 1 -> 2",
                "spec.template.metadata.labels.\"app.kubernetes.io/name\": a -> b",
                "spec.template.spec.containers[serve].image: rul:1 -> rul:2",
                "spec.template.spec.containers[serve].args[1]: b -> (absent)",
                "spec.template.spec.containers[serve].env: (absent) -> [{\"name\":\"K\",\"value\":\"\"}]",
                "spec.template.spec.containers[old].name: old -> (absent)",
                "spec.template.spec.containers[old].image: x -> (absent)",
                "spec.template.spec.containers[new].name: (absent) -> new",
                "spec.template.spec.containers[new].image: (absent) -> y",
            ]
        );
    }

    #[test]
    fn values_of_secrets_are_never_shown() {
        let secret = |data: Value, annotation: &str| {
            json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data, "metadata": {"name": "a",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": annotation}}})
        };
        let before = secret(json!({"A": "Y2FuYXJ5MQ==", "B": "Y2FuYXJ5Mg=="}), "canary3");
        let after = secret(json!({"A": "Y2FuYXJ5NA==", "C": "Y2FuYXJ5NQ=="}), "canary6");
        let lines = changed_fields(&before, &after);
        assert_eq!(lines, ["data.A: ••• (changed)", "data.B: ••• (removed)", "data.C: ••• (added)"]);
        let all_new = changed_fields(&json!({"kind": "Secret"}), &after);
        assert!(!all_new.join(" ").contains("Y2FuYXJ5"), "{all_new:?}");
    }

    #[test]
    fn texts_of_several_lines_are_shown_as_a_diff() {
        let before = json!({"kind": "ConfigMap", "data": {"app.yml": "a: 1\nb: 2\n"}});
        let after = json!({"kind": "ConfigMap", "data": {"app.yml": "a: 1\nb: 3\n"}});
        assert_eq!(changed_fields(&before, &after), ["data.\"app.yml\":\n@@ -1,2 +1,2 @@\n a: 1\n-b: 2\n+b: 3"]);
    }

    #[test]
    fn long_values_are_cut() {
        let before = json!({"kind": "ConfigMap", "data": {"k": "x"}});
        let after = json!({"kind": "ConfigMap", "data": {"k": "é".repeat(1000)}});
        assert!(changed_fields(&before, &after)[0].chars().count() < 200);
    }

    #[test]
    fn the_action_is_what_happens_to_the_objects() {
        let state = |found| ObjectState { reference: ObjectRef::new("v1", "ConfigMap", Some("mlops"), "a"), found };
        let present = |before: Value, after: Value| Found::Present { live: before, predicted: after };
        assert!(diff_of(&[]).is_empty());
        assert!(diff_of(&[state(present(json!({"data": 1}), json!({"data": 1})))]).is_empty());
        assert_eq!(diff_of(&[state(Found::Absent)]).action, Some(Action::Create));
        assert_eq!(diff_of(&[state(Found::Unwanted)]).action, Some(Action::Delete));
        let mixed = diff_of(&[
            state(Found::Deleting),
            state(present(json!({"data": {"a": "1"}}), json!({"data": {"a": "2"}}))),
        ]);
        assert_eq!(mixed.action, Some(Action::Change));
        assert_eq!(mixed.changes[0].field, "ConfigMap mlops/a");
        assert_eq!(mixed.changes[1].detail, "data.a: 1 -> 2");
    }

    #[test]
    fn a_job_that_failed_is_a_difference_and_one_that_runs_is_none() {
        let of = |kind: &str, condition: &str, status: &str| {
            let live = json!({"apiVersion": "batch/v1", "kind": kind, "metadata": {}, "status": {"conditions": [
                {"type": condition, "status": status, "reason": "BackoffLimitExceeded", "message": "too often"}]}});
            let reference = ObjectRef::new("batch/v1", kind, Some("mlops"), "migrate");
            let found = Found::Present { live: live.clone(), predicted: live };
            diff_of(&[ObjectState { reference, found }])
                .changes
                .into_iter()
                .map(|change| change.detail)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("Job", "Failed", "True"), ["failed (too often): is run again"]);
        assert!(of("Job", "Failed", "False").is_empty());
        assert!(of("Job", "Complete", "True").is_empty());
        assert!(of("Pod", "Failed", "True").is_empty());
    }

    #[test]
    fn a_job_that_cannot_be_changed_is_replaced_and_only_what_was_asked_for_is_shown() {
        let job = |memory: &str| {
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "migrate"}, "spec": {"template": {"spec": {
                "containers": [{"name": "upgrade", "image": "mlflow:1", "args": ["db"], "resources": {"limits": {"memory": memory}}}]}}}})
        };
        let mut live = job("1Gi");
        live["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "1"}});
        live["spec"]["template"]["spec"]["dnsPolicy"] = json!("ClusterFirst");
        live["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
        let reference = ObjectRef::new("batch/v1", "Job", Some("mlops"), "migrate");
        let diff = diff_of(&[ObjectState { reference, found: Found::Outdated { live, desired: job("2Gi") } }]);
        assert_eq!(diff.action, Some(Action::Change));
        assert_eq!(
            diff.changes[0].detail,
            "is replaced and run again\nspec.template.spec.containers[upgrade].resources.limits.memory: 1Gi -> 2Gi"
        );
    }
}
