//! What is different between a release and its spec. Pure.

use serde_json::{Map, Value};

use super::look::Look;
use super::{CHART_LABEL, Helm, NOT_YET, READY_LABEL};
use crate::cluster::diff_of;
use crate::cluster::helm::{Revision, Status};
use crate::diff::{Action, Diff};

/// Fields of the diff that Helm is not needed for are named by these words; definitions by their name.
pub const NAMESPACE: &str = "namespace";

/// The field of a release that only has to be waited for.
pub const READINESS: &str = "readiness";

/// The difference; its changes are what `apply` does.
pub fn diff(spec: &Helm, look: &Look) -> Diff {
    let mut diff = Diff::none();
    if look.namespace_missing && spec.create_namespace {
        diff.push(NAMESPACE, format!("create {}", spec.namespace));
    }
    diff.changes.extend(diff_of(&look.definitions).changes);
    let before = diff.changes.len();
    match look.history.latest() {
        None => diff.push("release", format!("install {} with Helm {}", spec.chart.title(), look.version)),
        Some(latest) => {
            if let Some(text) = state(look, latest) {
                diff.push("release", text);
            }
            let base = base(look, latest);
            chart(spec, base, &mut diff);
            values("values", Some(&base.values), Some(&Value::Object(spec.values.clone())), &mut diff);
        }
    }
    for (object, owner) in &look.foreign {
        diff.push("ownership", format!("{object} is taken over; it is {owner}"));
    }
    diff.changes.extend(diff_of(&look.objects).changes);
    // An upgrade is waited for anyway.
    if let Some(latest) = look.history.latest().filter(|latest| spec.wait > 0 && was_not_seen_ready(latest))
        && diff.changes.len() == before
    {
        let text = format!("revision {} is deployed, but was not seen ready: is waited for", latest.number);
        diff.push(READINESS, text);
    }
    diff.action = match (diff.changes.is_empty(), look.history.latest()) {
        (true, _) => None,
        (false, None) => Some(Action::Create),
        (false, Some(_)) => Some(Action::Change),
    };
    diff
}

/// The revision that the spec is compared with: that which is deployed. What came after it and failed changes nothing about
/// where an upgrade starts from and may go back to.
fn base<'a>(look: &'a Look, latest: &'a Revision) -> &'a Revision {
    look.history.0.iter().rev().find(|revision| revision.status == Status::Deployed).unwrap_or(latest)
}

fn was_not_seen_ready(revision: &Revision) -> bool {
    revision.status == Status::Deployed && revision.labels.get(READY_LABEL).is_some_and(|ready| ready == NOT_YET)
}

/// What has to be said about a release that is not simply deployed.
fn state(look: &Look, latest: &Revision) -> Option<String> {
    let what = format!("{} since {} (revision {})", latest.status.word(), latest.since, latest.number);
    match latest.status {
        Status::Deployed => None,
        status if status.is_pending() => Some(match recovery(look, latest) {
            Recovery::GoBack(number) => {
                format!("{what}, left by a helm that was ended: goes back to revision {number} first")
            }
            Recovery::Uninstall => format!("{what}, left by a helm that was ended: is uninstalled first"),
        }),
        _ => Some(format!("{what}: is upgraded again")),
    }
}

/// What is done about a release that was left in the middle of something.
#[derive(Debug, PartialEq, Eq)]
pub enum Recovery {
    GoBack(u64),
    Uninstall,
}

/// See [`Recovery`].
pub fn recovery(look: &Look, latest: &Revision) -> Recovery {
    match look.history.to_go_back_to(latest.number) {
        Some(revision) if latest.status != Status::Uninstalling => Recovery::GoBack(revision.number),
        _ => Recovery::Uninstall,
    }
}

fn chart(spec: &Helm, latest: &Revision, diff: &mut Diff) {
    let short = |label: &str| label.get(..12).unwrap_or(label).to_owned();
    let (before, after) = (latest.labels.get(CHART_LABEL), spec.chart.label());
    if before == Some(&after) {
        return;
    }
    let before = before.map_or_else(|| "not from here".to_owned(), |label| format!("content {}", short(label)));
    diff.push("chart", format!("{} ({before}) -> {} (content {})", latest.chart, spec.chart.title(), short(&after)));
}

/// Numbers and switches are shown; text never, it may be a secret.
fn values(path: &str, before: Option<&Value>, after: Option<&Value>, diff: &mut Diff) {
    match (before, after) {
        (Some(before), Some(after)) if equal(before, after) => {}
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            for key in before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))) {
                values(&format!("{path}.{key}"), before.get(key), after.get(key), diff);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            for index in 0..before.len().max(after.len()) {
                values(&format!("{path}[{index}]"), before.get(index), after.get(index), diff);
            }
        }
        (None, Some(Value::Object(map))) if !map.is_empty() => {
            for (key, value) in map {
                values(&format!("{path}.{key}"), None, Some(value), diff);
            }
        }
        (Some(Value::Object(map)), None) if !map.is_empty() => {
            for (key, value) in map {
                values(&format!("{path}.{key}"), Some(value), None, diff);
            }
        }
        _ => {
            let plain = |value: Option<&Value>| match value {
                None => Some("(not given)".to_owned()),
                Some(value @ (Value::Bool(_) | Value::Number(_) | Value::Null)) => Some(value.to_string()),
                Some(_) => None,
            };
            let text = match (plain(before), plain(after)) {
                (Some(before), Some(after)) => format!("{before} -> {after}"),
                (_, Some(_)) if after.is_none() => "••• (removed)".into(),
                (Some(_), _) if before.is_none() => "••• (added)".into(),
                _ => "••• (changed)".into(),
            };
            diff.push(path, text);
        }
    }
}

/// Helm reads all numbers as floating point, and writes them back as it likes.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| equal(value, other)))
        }
        _ => one == other,
    }
}

/// Puts `over` over `base`, key by key; lists and everything else are replaced.
pub fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}

/// Whether going back to a revision would undo something: it has other values or another chart than the spec.
pub fn is_another(spec: &Helm, revision: &Revision) -> bool {
    revision.labels.get(CHART_LABEL) != Some(&spec.chart.label())
        || !equal(&revision.values, &Value::Object(spec.values.clone()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::cluster::helm::{History, Rendered};
    use crate::resources::helm::{UNASKED, YES};

    fn spec(wait: u64) -> Helm {
        let chart = json!({"repo": "https://a", "name": "web", "version": "1.0.0"});
        serde_json::from_value(
            json!({"release": "web", "namespace": "a", "chart": chart, "values": {"n": 2}, "wait": wait}),
        )
        .unwrap()
    }

    fn revision(number: u64, status: Status, n: u64, ready: &str) -> Revision {
        let labels = [(CHART_LABEL.to_owned(), spec(1).chart.label()), (READY_LABEL.to_owned(), ready.to_owned())];
        Revision {
            number,
            status,
            since: "2026".into(),
            chart: "web 1.0.0".into(),
            values: json!({"n": n}),
            objects: Vec::new(),
            labels: labels.into_iter().filter(|(_, value)| !value.is_empty()).collect::<BTreeMap<_, _>>(),
            server_side: true,
        }
    }

    fn lines(wait: u64, history: Vec<Revision>) -> Vec<String> {
        let look = Look {
            version: "v4.3.1".into(),
            namespace_missing: false,
            history: History(history),
            rendered: Rendered::default(),
            definitions: Vec::new(),
            objects: Vec::new(),
            steady: Vec::new(),
            foreign: Vec::new(),
        };
        let diff = diff(&spec(wait), &look);
        assert_eq!(diff.is_empty(), diff.changes.is_empty());
        diff.changes.iter().map(|change| format!("{}: {}", change.field, change.detail)).collect()
    }

    #[test]
    fn a_revision_that_was_not_seen_ready_is_waited_for() {
        let waits = ["readiness: revision 3 is deployed, but was not seen ready: is waited for"];
        assert_eq!(lines(1, vec![revision(3, Status::Deployed, 2, NOT_YET)]), waits);
        assert_eq!(lines(0, vec![revision(3, Status::Deployed, 2, NOT_YET)]), [""; 0]);
        for ready in [YES, UNASKED, ""] {
            assert_eq!(lines(1, vec![revision(3, Status::Deployed, 2, ready)]), [""; 0], "{ready}");
        }
        // An upgrade is waited for anyway.
        assert_eq!(lines(1, vec![revision(3, Status::Deployed, 1, NOT_YET)]), ["values.n: 1 -> 2"]);
    }

    #[test]
    fn what_failed_is_compared_with_what_is_deployed() {
        let history = || vec![revision(3, Status::Deployed, 1, YES), revision(4, Status::Failed, 2, NOT_YET)];
        let expected = ["release: failed since 2026 (revision 4): is upgraded again", "values.n: 1 -> 2"];
        assert_eq!(lines(1, history()), expected);
        assert!(is_another(&spec(1), &history()[0]));
        assert!(!is_another(&spec(1), &history()[1]));
        assert_eq!(lines(1, history()[1..].to_vec()), expected[..1]);
    }

    #[test]
    fn values_are_named_and_text_is_hidden() {
        let mut diff = Diff::none();
        let before =
            json!({"replicas": 1.0, "image": {"tag": "1"}, "list": [1, "canary"], "old": {"a": "canary"}, "on": true});
        let after = json!({"replicas": 1, "image": {"tag": "canary"}, "list": [2], "new": "canary", "on": null});
        values("values", Some(&before), Some(&after), &mut diff);
        let lines: Vec<_> = diff.changes.iter().map(|change| format!("{}: {}", change.field, change.detail)).collect();
        assert_eq!(
            lines,
            [
                "values.image.tag: ••• (changed)",
                "values.list[0]: 1 -> 2",
                "values.list[1]: ••• (removed)",
                "values.old.a: ••• (removed)",
                "values.on: true -> null",
                "values.new: ••• (added)"
            ]
        );
    }

    #[test]
    fn values_of_the_spec_come_over_those_of_the_template() {
        let (mut base, over) = (json!({"a": {"x": 1, "y": [1, 2]}, "b": 1}), json!({"a": {"y": [3]}, "c": 2}));
        if let (Some(base), Some(over)) = (base.as_object_mut(), over.as_object()) {
            merge(base, over);
        }
        assert_eq!(base, json!({"a": {"x": 1, "y": [3]}, "b": 1, "c": 2}));
    }
}
