//! Whether an object does what its spec says: the rules of kstatus, as one pure function.
//!
//! The generation comes first: a status that the controller has not renewed since the spec changed says nothing, and is
//! how a wait passes on the rollout before.

use serde_json::Value;

/// How far an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// Not yet, and why.
    InProgress(String),
    /// It will not become ready by waiting, and why.
    Failed(String),
}

use Readiness::{Failed, InProgress, Ready};

/// How far `object` is, judged by nothing but itself.
pub fn readiness(object: &Value) -> Readiness {
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        return InProgress("is being deleted".into());
    }
    let generation = number(object, "/metadata/generation");
    let observed = number(object, "/status/observedGeneration");
    if let (Some(generation), Some(observed)) = (generation, observed)
        && observed < generation
    {
        return InProgress(format!("its controller has not seen generation {generation} yet (last seen: {observed})"));
    }
    let group = object
        .get("apiVersion")
        .and_then(Value::as_str)
        .and_then(|version| version.split_once('/'))
        .map_or("", |(group, _)| group);
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or("");
    match (group, kind) {
        ("apps", "Deployment") => deployment(object),
        ("apps", "StatefulSet") => stateful_set(object),
        ("apps", "DaemonSet") => daemon_set(object),
        ("apps", "ReplicaSet") => replica_set(object),
        ("", "Pod") => pod(object),
        ("batch", "Job") => job(object),
        ("", "PersistentVolumeClaim") => claim(object),
        ("", "Service") => service(object),
        ("", "Namespace") => namespace(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(object),
        _ => by_condition(object),
    }
}

/// A condition of `status.conditions`.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object
        .pointer("/status/conditions")?
        .as_array()?
        .iter()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))
}

/// `True`, `False` or `Unknown` of a condition.
pub fn condition_status<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    condition(object, kind)?.get("status")?.as_str()
}

fn is_true(object: &Value, kind: &str) -> bool {
    condition_status(object, kind) == Some("True")
}

/// `message`, else `reason`, of a condition.
fn words(condition: &Value) -> String {
    ["message", "reason"]
        .into_iter()
        .filter_map(|key| condition.get(key).and_then(Value::as_str))
        .find(|text| !text.is_empty())
        .unwrap_or("no reason given")
        .to_owned()
}

fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

fn count(object: &Value, field: &str) -> i64 {
    number(object, &format!("/status/{field}")).unwrap_or(0)
}

/// `spec.replicas`, which is 1 when it is not set.
fn desired(object: &Value) -> i64 {
    number(object, "/spec/replicas").unwrap_or(1)
}

/// The controller has written no status at all: it has not seen the object.
fn unseen(object: &Value) -> Option<Readiness> {
    number(object, "/status/observedGeneration")
        .is_none()
        .then(|| InProgress("its controller has not seen it yet".into()))
}

fn deployment(object: &Value) -> Readiness {
    if let Some(unseen) = unseen(object) {
        return unseen;
    }
    if object.pointer("/spec/paused") == Some(&Value::Bool(true)) {
        return Failed("its rollout is paused (`spec.paused`)".into());
    }
    let desired = desired(object);
    if let Some(progressing) = condition(object, "Progressing")
        && progressing.get("reason").and_then(Value::as_str) == Some("ProgressDeadlineExceeded")
    {
        return Failed(words(progressing));
    }
    let available = count(object, "availableReplicas");
    if let Some(failure) = condition(object, "ReplicaFailure")
        && failure.get("status").and_then(Value::as_str) == Some("True")
    {
        return InProgress(format!("{available} of {desired} available: {}", words(failure)));
    }
    let updated = count(object, "updatedReplicas");
    if updated < desired {
        return InProgress(format!("{updated} of {desired} updated"));
    }
    let total = count(object, "replicas");
    if total > updated {
        return InProgress(format!("{} old pods are still there", total - updated));
    }
    let ready = count(object, "readyReplicas");
    if ready < desired {
        return InProgress(format!("{ready} of {desired} ready"));
    }
    if available < desired {
        return InProgress(format!("{available} of {desired} available"));
    }
    Ready
}

fn stateful_set(object: &Value) -> Readiness {
    if let Some(unseen) = unseen(object) {
        return unseen;
    }
    let desired = desired(object);
    let ready = count(object, "readyReplicas");
    if ready < desired {
        return InProgress(format!("{ready} of {desired} ready"));
    }
    let total = count(object, "replicas");
    if total > desired {
        return InProgress(format!("{} pods too many", total - desired));
    }
    let strategy = object.pointer("/spec/updateStrategy/type").and_then(Value::as_str).unwrap_or("RollingUpdate");
    if strategy == "OnDelete" {
        return Ready;
    }
    let partition = number(object, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
    let updated = count(object, "updatedReplicas");
    if partition > 0 {
        let wanted = (desired - partition).max(0);
        return if updated < wanted { InProgress(format!("{updated} of {wanted} updated")) } else { Ready };
    }
    let revision = |field: &str| object.pointer(&format!("/status/{field}")).cloned();
    if revision("currentRevision") != revision("updateRevision") {
        return InProgress(format!("{updated} of {desired} updated"));
    }
    Ready
}

fn daemon_set(object: &Value) -> Readiness {
    if let Some(unseen) = unseen(object) {
        return unseen;
    }
    let Some(desired) = number(object, "/status/desiredNumberScheduled") else {
        return InProgress("it is not known yet how many nodes need it".into());
    };
    for (field, word) in [
        ("currentNumberScheduled", "scheduled"),
        ("updatedNumberScheduled", "updated"),
        ("numberReady", "ready"),
        ("numberAvailable", "available"),
    ] {
        let have = count(object, field);
        if have < desired {
            return InProgress(format!("{have} of {desired} {word}"));
        }
    }
    Ready
}

fn replica_set(object: &Value) -> Readiness {
    if let Some(unseen) = unseen(object) {
        return unseen;
    }
    let desired = desired(object);
    let available = count(object, "availableReplicas");
    if let Some(failure) = condition(object, "ReplicaFailure")
        && failure.get("status").and_then(Value::as_str) == Some("True")
    {
        return InProgress(format!("{available} of {desired} available: {}", words(failure)));
    }
    if available < desired {
        return InProgress(format!("{available} of {desired} available"));
    }
    if count(object, "replicas") > desired {
        return InProgress("it has pods too many".into());
    }
    Ready
}

fn pod(object: &Value) -> Readiness {
    match object.pointer("/status/phase").and_then(Value::as_str) {
        Some("Succeeded") => Ready,
        Some("Failed") => Failed(
            object
                .pointer("/status/message")
                .and_then(Value::as_str)
                .unwrap_or("its containers ended with an error")
                .to_owned(),
        ),
        Some("Running") if is_true(object, "Ready") => Ready,
        Some(phase) => InProgress(
            ["Ready", "PodScheduled"]
                .into_iter()
                .filter_map(|kind| condition(object, kind))
                .find(|condition| condition.get("status").and_then(Value::as_str) != Some("True"))
                .map_or_else(|| format!("phase {phase}"), words),
        ),
        None => InProgress("it has no status yet".into()),
    }
}

/// Why a Job has ended without having done its work, in the words of its controller. It never starts again by itself.
pub fn failed_job(object: &Value) -> Option<String> {
    let failed = condition(object, "Failed").filter(|_| object.get("kind").and_then(Value::as_str) == Some("Job"))?;
    (failed.get("status").and_then(Value::as_str) == Some("True")).then(|| words(failed))
}

fn job(object: &Value) -> Readiness {
    if is_true(object, "Complete") {
        return Ready;
    }
    if let Some(reason) = failed_job(object) {
        return Failed(format!("the Job failed: {reason}"));
    }
    if is_true(object, "Suspended") || object.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
        return Failed("the Job is suspended (`spec.suspend`)".into());
    }
    let wanted = number(object, "/spec/completions").unwrap_or(1);
    InProgress(format!(
        "{} of {wanted} completed, {} running, {} failed",
        count(object, "succeeded"),
        count(object, "active"),
        count(object, "failed")
    ))
}

/// A claim on a class with `volumeBindingMode: WaitForFirstConsumer` stays `Pending` until a pod uses it, by design, and the
/// claim itself does not show the mode of its class: `Pending` counts as ready. What never gets bound then shows as
/// a pod that is not scheduled, with the reason.
fn claim(object: &Value) -> Readiness {
    match object.pointer("/status/phase").and_then(Value::as_str) {
        Some("Lost") => Failed("the volume that it was bound to is lost".into()),
        _ => Ready,
    }
}

fn service(object: &Value) -> Readiness {
    let kind = object.pointer("/spec/type").and_then(Value::as_str);
    let address = object.pointer("/spec/clusterIP").and_then(Value::as_str);
    match kind {
        Some("ExternalName") => Ready,
        // A load balancer is ready for those inside with its cluster address; one outside may never come on a lone VM.
        _ if address.is_some_and(|address| !address.is_empty()) => Ready,
        _ => InProgress("it has no cluster address yet".into()),
    }
}

fn namespace(object: &Value) -> Readiness {
    match object.pointer("/status/phase").and_then(Value::as_str) {
        Some("Terminating") => InProgress("is being deleted".into()),
        _ => Ready,
    }
}

fn definition(object: &Value) -> Readiness {
    if let Some(accepted) = condition(object, "NamesAccepted")
        && accepted.get("status").and_then(Value::as_str) == Some("False")
    {
        return Failed(words(accepted));
    }
    if is_true(object, "Established") { Ready } else { InProgress("not established yet".into()) }
}

/// Kinds without rules of their own: by the conditions that kstatus standardises and by `Ready`; without them, ready.
fn by_condition(object: &Value) -> Readiness {
    if let Some(stalled) = condition(object, "Stalled")
        && stalled.get("status").and_then(Value::as_str) == Some("True")
    {
        return Failed(words(stalled));
    }
    if let Some(reconciling) = condition(object, "Reconciling")
        && reconciling.get("status").and_then(Value::as_str) == Some("True")
    {
        return InProgress(words(reconciling));
    }
    // An APIService has `Available` and no `Ready`.
    for kind in ["Ready", "Available"] {
        if let Some(condition) = condition(object, kind) {
            return match condition.get("status").and_then(Value::as_str) {
                Some("True") => Ready,
                _ => InProgress(words(condition)),
            };
        }
    }
    Ready
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment_with(generation: i64, spec: Value, status: Value) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "inference", "namespace": "mlops", "generation": generation},
            "spec": spec, "status": status
        })
    }

    fn in_progress(text: &str) -> Readiness {
        InProgress(text.to_owned())
    }

    fn failed(text: &str) -> Readiness {
        Failed(text.to_owned())
    }

    fn check(cases: Vec<(&str, Value, Readiness)>) {
        for (what, object, expected) in cases {
            assert_eq!(readiness(&object), expected, "{what}");
        }
    }

    #[test]
    fn deployments() {
        let complete = json!({
            "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
            "conditions": [
                {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
            ]
        });
        let two = json!({"replicas": 2});
        check(vec![
            ("complete", deployment_with(2, two.clone(), complete.clone()), Ready),
            (
                "complete, but of the generation before",
                deployment_with(3, two.clone(), complete),
                in_progress("its controller has not seen generation 3 yet (last seen: 2)"),
            ),
            (
                "just created",
                deployment_with(1, two.clone(), json!({})),
                in_progress("its controller has not seen it yet"),
            ),
            (
                "half updated",
                deployment_with(
                    2,
                    two.clone(),
                    json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "readyReplicas": 2, "availableReplicas": 2}),
                ),
                in_progress("1 of 2 updated"),
            ),
            (
                "old pods linger",
                deployment_with(
                    2,
                    two.clone(),
                    json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "readyReplicas": 3, "availableReplicas": 3}),
                ),
                in_progress("1 old pods are still there"),
            ),
            (
                "not ready",
                deployment_with(
                    2,
                    two.clone(),
                    json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 0}),
                ),
                in_progress("0 of 2 ready"),
            ),
            (
                "deadline exceeded",
                deployment_with(
                    2,
                    two.clone(),
                    json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "conditions": [
                        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
                         "message": "ReplicaSet \"inference-7d9\" has timed out progressing."}]}),
                ),
                failed("ReplicaSet \"inference-7d9\" has timed out progressing."),
            ),
            (
                "pods cannot be created",
                deployment_with(
                    2,
                    two,
                    json!({"observedGeneration": 2, "conditions": [
                        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                         "message": "pods \"inference-\" is forbidden: exceeded quota: q"}]}),
                ),
                in_progress("0 of 2 available: pods \"inference-\" is forbidden: exceeded quota: q"),
            ),
            ("scaled to zero", deployment_with(2, json!({"replicas": 0}), json!({"observedGeneration": 2})), Ready),
            (
                "no replicas given means one",
                deployment_with(1, json!({}), json!({"observedGeneration": 1, "updatedReplicas": 1, "replicas": 1})),
                in_progress("0 of 1 ready"),
            ),
            (
                "paused",
                deployment_with(1, json!({"paused": true}), json!({"observedGeneration": 1})),
                failed("its rollout is paused (`spec.paused`)"),
            ),
        ]);
    }

    fn stateful_set_with(spec: Value, status: Value) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "postgres", "generation": 1},
            "spec": spec, "status": status
        })
    }

    #[test]
    fn stateful_sets() {
        check(vec![
            (
                "complete",
                stateful_set_with(
                    json!({"replicas": 1}),
                    json!({"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1,
                           "currentRevision": "postgres-5c", "updateRevision": "postgres-5c"}),
                ),
                Ready,
            ),
            (
                "old revision is ready",
                stateful_set_with(
                    json!({"replicas": 1}),
                    json!({"observedGeneration": 1, "replicas": 1, "readyReplicas": 1,
                           "currentRevision": "postgres-5c", "updateRevision": "postgres-6d"}),
                ),
                in_progress("0 of 1 updated"),
            ),
            (
                "partitioned",
                stateful_set_with(
                    json!({"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}),
                    json!({"observedGeneration": 1, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 1,
                           "currentRevision": "a", "updateRevision": "b"}),
                ),
                Ready,
            ),
            (
                "on delete",
                stateful_set_with(
                    json!({"replicas": 1, "updateStrategy": {"type": "OnDelete"}}),
                    json!({"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "currentRevision": "a", "updateRevision": "b"}),
                ),
                Ready,
            ),
            (
                "none ready",
                stateful_set_with(json!({}), json!({"observedGeneration": 1, "replicas": 1})),
                in_progress("0 of 1 ready"),
            ),
        ]);
    }

    #[test]
    fn daemon_sets() {
        let with = |status: Value| json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"generation": 1}, "status": status});
        check(vec![
            (
                "no numbers yet",
                with(json!({"observedGeneration": 1})),
                in_progress("it is not known yet how many nodes need it"),
            ),
            (
                "one of two ready",
                with(json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
                            "updatedNumberScheduled": 2, "numberReady": 1, "numberAvailable": 1})),
                in_progress("1 of 2 ready"),
            ),
            ("no node matches", with(json!({"observedGeneration": 1, "desiredNumberScheduled": 0})), Ready),
        ]);
    }

    #[test]
    fn jobs_end_one_way_or_the_other() {
        let with = |status: Value| json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"generation": 1}, "spec": {"completions": 1}, "status": status});
        check(vec![
            (
                "complete",
                with(json!({"succeeded": 1, "conditions": [
                    {"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}]})),
                Ready,
            ),
            (
                "failed",
                with(json!({"failed": 3, "conditions": [{"type": "Failed", "status": "True",
                    "reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}]})),
                failed("the Job failed: Job has reached the specified backoff limit"),
            ),
            ("running", with(json!({"active": 1, "ready": 1})), in_progress("0 of 1 completed, 1 running, 0 failed")),
        ]);
    }

    #[test]
    fn the_rest() {
        let object = |api: &str, kind: &str, spec: Value, status: Value| json!({"apiVersion": api, "kind": kind, "metadata": {"name": "a", "generation": 1}, "spec": spec, "status": status});
        check(vec![
            (
                "claim that waits for its consumer",
                object("v1", "PersistentVolumeClaim", json!({}), json!({"phase": "Pending"})),
                Ready,
            ),
            (
                "lost claim",
                object("v1", "PersistentVolumeClaim", json!({}), json!({"phase": "Lost"})),
                failed("the volume that it was bound to is lost"),
            ),
            (
                "established definition",
                object(
                    "apiextensions.k8s.io/v1",
                    "CustomResourceDefinition",
                    json!({}),
                    json!({"conditions": [{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]}),
                ),
                Ready,
            ),
            (
                "definition whose names are taken",
                object(
                    "apiextensions.k8s.io/v1",
                    "CustomResourceDefinition",
                    json!({}),
                    json!({"conditions": [{"type": "NamesAccepted", "status": "False", "message": "\"apps\" is already in use"}]}),
                ),
                failed("\"apps\" is already in use"),
            ),
            (
                "new definition",
                object("apiextensions.k8s.io/v1", "CustomResourceDefinition", json!({}), json!({})),
                in_progress("not established yet"),
            ),
            (
                "running pod that is not ready",
                object(
                    "v1",
                    "Pod",
                    json!({}),
                    json!({"phase": "Running", "conditions": [
                    {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "containers with unready status: [serve]"}]}),
                ),
                in_progress("containers with unready status: [serve]"),
            ),
            (
                "pod that no node takes",
                object(
                    "v1",
                    "Pod",
                    json!({}),
                    json!({"phase": "Pending", "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}]}),
                ),
                in_progress("0/1 nodes are available: 1 Insufficient cpu."),
            ),
            ("finished pod", object("v1", "Pod", json!({}), json!({"phase": "Succeeded"})), Ready),
            ("headless service", object("v1", "Service", json!({"clusterIP": "None"}), json!({})), Ready),
            (
                "service without an address",
                object("v1", "Service", json!({"type": "ClusterIP"}), json!({})),
                in_progress("it has no cluster address yet"),
            ),
            (
                "namespace on its way out",
                object("v1", "Namespace", json!({}), json!({"phase": "Terminating"})),
                in_progress("is being deleted"),
            ),
            ("no status at all", object("v1", "ConfigMap", json!({}), Value::Null), Ready),
            (
                "custom kind with a Ready condition",
                object(
                    "example.dev/v1",
                    "Widget",
                    json!({}),
                    json!({"conditions": [{"type": "Ready", "status": "False", "message": "no gears"}]}),
                ),
                in_progress("no gears"),
            ),
            (
                "a kind of the same name in another group has no rules of its own",
                object("example.dev/v1", "Deployment", json!({}), json!({})),
                Ready,
            ),
            (
                "unavailable API service",
                object(
                    "apiregistration.k8s.io/v1",
                    "APIService",
                    json!({}),
                    json!({"conditions": [
                    {"type": "Available", "status": "False", "message": "endpoints for service/metrics-server have no addresses"}]}),
                ),
                in_progress("endpoints for service/metrics-server have no addresses"),
            ),
        ]);
    }

    #[test]
    fn deletion_is_not_ready() {
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"deletionTimestamp": "2026-11-25T14:02:11Z"}});
        assert_eq!(readiness(&object), in_progress("is being deleted"));
    }
}
