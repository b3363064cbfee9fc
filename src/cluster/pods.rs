//! Why the pods of a workload do not start, read from their status. Pure.

use serde_json::Value;

use super::readiness::{condition, condition_status};

/// What is wrong with one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerTrouble {
    pub pod: String,
    pub container: String,
    /// `ErrImageNeverPull`, `CrashLoopBackOff`.
    pub reason: String,
    /// What kubelet says, or how the program ended.
    pub message: String,
    /// Waiting cannot help.
    pub fatal: bool,
    /// It has run and ended: its last lines tell why.
    pub has_run: bool,
}

impl std::fmt::Display for ContainerTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pod {}, container {}: {}", self.pod, self.container, self.reason)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

/// A program that crashed because what it needs was a moment late is started again and runs. This many restarts (about half
/// a minute of back-off) tell it from one that always crashes.
const RESTARTS_UNTIL_HOPELESS: i64 = 2;

/// What keeps a pod from being ready, the worst first.
pub fn trouble_in(pod: &Value) -> Option<ContainerTrouble> {
    let name = pod.pointer("/metadata/name")?.as_str()?;
    let mut found: Option<ContainerTrouble> = None;
    for list in ["initContainerStatuses", "containerStatuses"] {
        let statuses = pod.pointer(&format!("/status/{list}"));
        for status in statuses.and_then(Value::as_array).into_iter().flatten() {
            if let Some(trouble) = container_trouble(name, status)
                && found.as_ref().is_none_or(|known| trouble.fatal && !known.fatal)
            {
                found = Some(trouble);
            }
        }
    }
    found
}

/// Why a pod is not ready, in a few words, when no container has a trouble: it is not scheduled, or its probe fails.
pub fn waits_for(pod: &Value) -> Option<String> {
    let name = pod.pointer("/metadata/name")?.as_str()?;
    let message =
        |kind: &str| condition(pod, kind)?.get("message").and_then(Value::as_str).filter(|text| !text.is_empty());
    if condition_status(pod, "PodScheduled") == Some("False") {
        let why = message("PodScheduled").unwrap_or("no reason given");
        return Some(format!("pod {name} is not scheduled: {why}"));
    }
    if condition_status(pod, "Ready") == Some("True") {
        return None;
    }
    // A container that was ended and started again says more than "unready".
    let why = message("Ready").unwrap_or("not ready");
    Some(format!("pod {name}: {why}"))
}

fn container_trouble(pod: &str, status: &Value) -> Option<ContainerTrouble> {
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or("").trim().to_owned();
    let reason = text("/state/waiting/reason");
    let mut trouble = ContainerTrouble {
        pod: pod.to_owned(),
        container: text("/name"),
        message: text("/state/waiting/message"),
        reason,
        fatal: false,
        has_run: false,
    };
    match trouble.reason.as_str() {
        "ErrImageNeverPull" | "InvalidImageName" | "CreateContainerConfigError" => {
            trouble.fatal = true;
        }
        "ErrImagePull" | "ImagePullBackOff" => {
            // A registry that does not answer may answer later; one that says "not found" will not change its mind.
            trouble.fatal = says_not_found(&trouble.message);
        }
        "CrashLoopBackOff" => {
            let restarts = status.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
            trouble.has_run = true;
            trouble.fatal = restarts >= RESTARTS_UNTIL_HOPELESS;
            trouble.message = format!("{} ({restarts} restarts)", ending(status, "/lastState"));
        }
        "CreateContainerError" | "RunContainerError" => {}
        "" if status.pointer("/state/terminated").is_some_and(failed) => {
            trouble.has_run = true;
            trouble.reason = "terminated".into();
            trouble.message = ending(status, "/state");
        }
        // `ContainerCreating`, `PodInitializing`, running: nothing is wrong.
        _ => return None,
    }
    Some(trouble)
}

fn failed(terminated: &Value) -> bool {
    terminated.get("exitCode").and_then(Value::as_i64) != Some(0)
}

/// `exit code 1`, `exit code 137, OOMKilled`, with the termination message where the program left one.
fn ending(status: &Value, state: &str) -> String {
    let field = |name: &str| status.pointer(&format!("{state}/terminated/{name}"));
    let text = |name: &str| field(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let mut ending = match field("exitCode").and_then(Value::as_i64) {
        Some(code) => format!("exit code {code}"),
        None => "ended".into(),
    };
    if let Some(reason) = text("reason").filter(|reason| !matches!(*reason, "Error" | "Completed")) {
        ending.push_str(", ");
        ending.push_str(reason);
    }
    if let Some(message) = text("message") {
        ending.push_str(": ");
        ending.push_str(message);
    }
    ending
}

/// What registries and containerd say of an image that does not exist.
fn says_not_found(message: &str) -> bool {
    let message = message.to_lowercase();
    [": not found", "code = notfound", "manifest unknown", "repository does not exist", "name unknown"]
        .iter()
        .any(|sign| message.contains(sign))
}

/// Whether a pod belongs to the newest revision of its workload; pods of an older one are on their way out, whatever they do.
pub fn is_current(pod: &Value, label: Option<(&str, &str)>) -> bool {
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return false;
    }
    label.is_none_or(|(key, value)| {
        pod.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str) == Some(value)
    })
}

/// The ReplicaSet of a Deployment's newest revision.
pub fn newest_replica_set<'a>(deployment: &Value, sets: &'a [Value]) -> Option<&'a Value> {
    const REVISION: &str = "deployment.kubernetes.io/revision";
    let uid = deployment.pointer("/metadata/uid");
    let revision = |object: &Value| -> Option<u64> {
        object.pointer("/metadata/annotations")?.get(REVISION)?.as_str()?.parse().ok()
    };
    sets.iter()
        .filter(|set| {
            set.pointer("/metadata/ownerReferences")
                .and_then(Value::as_array)
                .is_some_and(|owners| owners.iter().any(|owner| owner.get("uid") == uid))
        })
        .max_by_key(|set| revision(set))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: Value) -> Value {
        json!({"metadata": {"name": "inference-7d9-x2"}, "status": status})
    }

    fn waiting(reason: &str, message: &str, restarts: i64) -> Value {
        pod(json!({"phase": "Pending", "containerStatuses": [{
            "name": "serve", "restartCount": restarts, "ready": false,
            "state": {"waiting": {"reason": reason, "message": message}},
            "lastState": {"terminated": {"exitCode": 101, "reason": "Error"}}
        }]}))
    }

    #[test]
    fn what_waiting_cannot_mend_is_fatal() {
        let missing = "Back-off pulling image \"nope:1\": ErrImagePull: rpc error: code = NotFound desc = failed to pull and \
                       unpack image \"docker.io/library/nope:1\": not found";
        let offline = "Back-off pulling image \"a:1\": ErrImagePull: failed to do request: dial tcp: lookup registry-1.docker.io: i/o timeout";
        for (reason, message, restarts, fatal) in [
            ("ErrImageNeverPull", "Container image \"rul:1\" is not present with pull policy of Never", 0, true),
            ("InvalidImageName", "Failed to apply default image tag", 0, true),
            ("CreateContainerConfigError", "secret \"postgres-credentials\" not found", 0, true),
            ("ImagePullBackOff", missing, 0, true),
            ("ImagePullBackOff", offline, 0, false),
            ("CrashLoopBackOff", "back-off 10s restarting", 1, false),
            ("CrashLoopBackOff", "back-off 20s restarting", 2, true),
            ("CreateContainerError", "context deadline exceeded", 0, false),
        ] {
            let trouble = trouble_in(&waiting(reason, message, restarts)).unwrap();
            assert_eq!(trouble.fatal, fatal, "{reason} {message}");
            assert_eq!(trouble.reason, reason);
        }
    }

    #[test]
    fn a_crash_says_how_the_program_ended() {
        let trouble = trouble_in(&waiting("CrashLoopBackOff", "back-off", 3)).unwrap();
        assert_eq!(
            trouble.to_string(),
            "pod inference-7d9-x2, container serve: CrashLoopBackOff: exit code 101 (3 restarts)"
        );
        assert!(trouble.has_run);
        let killed = trouble_in(&pod(json!({"containerStatuses": [{"name": "serve", "restartCount": 0, "state":
            {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "out of memory\n"}}}]})))
        .unwrap();
        assert_eq!(killed.message, "exit code 137, OOMKilled: out of memory");
        assert!(!killed.fatal);
    }

    #[test]
    fn starting_is_no_trouble_and_the_worst_comes_first() {
        assert_eq!(trouble_in(&waiting("ContainerCreating", "", 0)), None);
        let done = pod(json!({"initContainerStatuses": [{"name": "init", "state": {"terminated": {"exitCode": 0}}}]}));
        assert_eq!(trouble_in(&done), None);
        let both = pod(json!({
            "initContainerStatuses": [{"name": "init", "restartCount": 1, "state": {"terminated": {"exitCode": 1}}}],
            "containerStatuses": [{"name": "serve", "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "m"}}}]
        }));
        assert_eq!(trouble_in(&both).unwrap().container, "serve");
    }

    #[test]
    fn a_pod_without_a_node_says_why() {
        let unscheduled = pod(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient memory."}]}));
        assert_eq!(
            waits_for(&unscheduled).unwrap(),
            "pod inference-7d9-x2 is not scheduled: 0/1 nodes are available: 1 Insufficient memory."
        );
        assert_eq!(waits_for(&pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}))), None);
    }

    #[test]
    fn only_the_newest_revision_counts() {
        let deployment = json!({"metadata": {"uid": "d"}});
        let set = |uid: &str, revision: &str, owner: &str| {
            json!({"metadata": {"uid": uid, "annotations": {"deployment.kubernetes.io/revision": revision},
                "ownerReferences": [{"uid": owner}]}})
        };
        let sets = [set("a", "9", "d"), set("b", "10", "d"), set("c", "11", "other")];
        assert_eq!(newest_replica_set(&deployment, &sets).unwrap()["metadata"]["uid"], "b");
        let old = json!({"metadata": {"name": "p", "labels": {"pod-template-hash": "1"}}});
        assert!(!is_current(&old, Some(("pod-template-hash", "2"))));
        assert!(is_current(&old, Some(("pod-template-hash", "1"))));
        assert!(!is_current(&json!({"metadata": {"deletionTimestamp": "2026-11-25T14:00:00Z"}}), None));
    }
}
