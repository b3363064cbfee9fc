//! How far an object is, with its pods looked at when it does not get on.

use std::fmt;

use serde_json::Value;

use super::error::Result;
use super::object::ObjectRef;
use super::pods::{ContainerTrouble, is_current, newest_replica_set, trouble_in, waits_for};
use super::read::Reader;
use super::readiness::{Readiness, readiness};

/// How far an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rollout {
    Ready,
    /// Not yet, and why.
    Waiting(String),
    /// It will not become ready by waiting.
    Hopeless(Trouble),
}

/// Why something cannot become ready, with what was found around it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trouble {
    /// One line: pod, container, what is wrong.
    pub reason: String,
    /// The last lines that the container printed.
    pub log: Vec<String>,
    /// The newest warnings of the cluster about it.
    pub events: Vec<String>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        for (title, lines) in [("last lines", &self.log), ("events", &self.events)] {
            if !lines.is_empty() {
                write!(f, "\n{title}:")?;
                for line in lines {
                    write!(f, "\n  {line}")?;
                }
            }
        }
        Ok(())
    }
}

/// Lines of a container's output in an error.
const LOG_LINES: u32 = 20;

impl Reader {
    /// How far an object is. For workloads that are not ready their pods are looked at: what will not mend itself (an image
    /// that is not there, a program that always crashes, a failed Job) is [`Rollout::Hopeless`].
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn rollout(&self, object: &ObjectRef) -> Result<Rollout> {
        let Some(live) = self.get(object).await? else {
            return Ok(Rollout::Waiting("it does not exist".into()));
        };
        let (reason, failed) = match readiness(&live) {
            Readiness::Ready => return Ok(Rollout::Ready),
            Readiness::InProgress(reason) => (reason, false),
            Readiness::Failed(reason) => (reason, true),
        };
        let pods = self.current_pods(&live).await?;
        let mut troubles: Vec<(ContainerTrouble, &Value)> =
            pods.iter().filter_map(|pod| Some((trouble_in(pod)?, pod))).collect();
        troubles.sort_by_key(|(trouble, _)| !trouble.fatal);
        match troubles.first() {
            Some((trouble, pod)) if failed || trouble.fatal => {
                let log = self.last_lines(pod, trouble).await;
                Ok(Rollout::Hopeless(Trouble {
                    reason: format!("{reason}: {trouble}"),
                    log,
                    events: self.events_of(pod).await.unwrap_or_default(),
                }))
            }
            _ if failed => Ok(Rollout::Hopeless(Trouble {
                reason,
                log: Vec::new(),
                events: self.events_of(&live).await.unwrap_or_default(),
            })),
            Some((trouble, _)) => Ok(Rollout::Waiting(format!("{reason}: {trouble}"))),
            None => Ok(Rollout::Waiting(self.why_waiting(&live, &pods, reason).await)),
        }
    }

    /// What else can be said: a pod that is not scheduled or not ready, else the newest warning about the object.
    async fn why_waiting(&self, live: &Value, pods: &[Value], reason: String) -> String {
        if let Some(why) = pods.iter().find_map(waits_for) {
            return format!("{reason}: {why}");
        }
        match self.events_of(live).await.unwrap_or_default().pop() {
            Some(warning) if pods.is_empty() => format!("{reason}: {warning}"),
            _ => reason,
        }
    }

    /// Not an error when there are none: the trouble itself matters more.
    async fn last_lines(&self, pod: &Value, trouble: &ContainerTrouble) -> Vec<String> {
        let namespace = pod.pointer("/metadata/namespace").and_then(Value::as_str);
        let Some(namespace) = namespace.filter(|_| trouble.has_run) else {
            return Vec::new();
        };
        let previous = trouble.reason == "CrashLoopBackOff";
        self.logs_of(namespace, &trouble.pod, &trouble.container, previous, LOG_LINES).await.unwrap_or_default()
    }

    /// The pods of a workload's newest revision; none for what has no pods.
    async fn current_pods(&self, workload: &Value) -> Result<Vec<Value>> {
        let text = |pointer: &str| workload.pointer(pointer).and_then(Value::as_str);
        let (Some(namespace), Some(kind)) = (text("/metadata/namespace"), text("/kind")) else {
            return Ok(Vec::new());
        };
        if kind == "Pod" {
            return Ok(vec![workload.clone()]);
        }
        let Some(selector) = selector_of(workload) else {
            return Ok(Vec::new());
        };
        let revision = match kind {
            "Deployment" => {
                let sets = self.list("apps/v1", "ReplicaSet", Some(namespace), &selector).await?;
                let Some(hash) = newest_replica_set(workload, &sets)
                    .and_then(|set| set.pointer("/metadata/labels/pod-template-hash"))
                    .and_then(Value::as_str)
                else {
                    return Ok(Vec::new());
                };
                Some(("pod-template-hash", hash.to_owned()))
            }
            "StatefulSet" => {
                text("/status/updateRevision").map(|revision| ("controller-revision-hash", revision.to_owned()))
            }
            "DaemonSet" | "ReplicaSet" | "Job" => None,
            _ => return Ok(Vec::new()),
        };
        let mut pods = self.list("v1", "Pod", Some(namespace), &selector).await?;
        let revision = revision.as_ref().map(|(label, value)| (*label, value.as_str()));
        pods.retain(|pod| is_current(pod, revision));
        Ok(pods)
    }
}

/// `spec.selector.matchLabels` as a query: `app=inference,tier=web`.
fn selector_of(workload: &Value) -> Option<String> {
    let labels = workload.pointer("/spec/selector/matchLabels")?.as_object()?;
    let parts: Vec<String> =
        labels.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    (!parts.is_empty()).then(|| parts.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn trouble_shows_its_evidence() {
        let trouble = Trouble {
            reason: "0 of 1 ready: pod a, container b: CrashLoopBackOff: exit code 1 (2 restarts)".into(),
            log: vec!["opening the model".into(), "no such file".into()],
            events: vec!["BackOff: Back-off restarting failed container".into()],
        };
        assert_eq!(
            trouble.to_string(),
            "0 of 1 ready: pod a, container b: CrashLoopBackOff: exit code 1 (2 restarts)\nlast lines:\n  opening the \
             model\n  no such file\nevents:\n  BackOff: Back-off restarting failed container"
        );
    }

    #[test]
    fn selectors_of_workloads() {
        assert_eq!(
            selector_of(&json!({"spec": {"selector": {"matchLabels": {"app": "a", "tier": "b"}}}})),
            Some("app=a,tier=b".into())
        );
        assert_eq!(selector_of(&json!({"spec": {}})), None);
    }
}
