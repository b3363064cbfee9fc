//! `nodes_ready`: the nodes of the cluster are ready and alive.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Check, Verdict};
use crate::cluster::{condition, condition_status, since};
use crate::host::ReadHost;

/// Kubelet renews its lease every 10 s; the cluster itself notices a dead node only after 40 s or more, and never when its
/// controllers are dead too.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// So many nodes of the cluster are ready, and gave a sign of life within the last minute.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodesReady {
    /// How many at least; 1 when not given.
    #[serde(default = "one")]
    pub count: usize,
}

fn one() -> usize {
    1
}

#[async_trait]
impl Check for NodesReady {
    const KIND: &'static str = "nodes_ready";

    fn name(&self) -> String {
        match self.count {
            1 => "a node is ready".into(),
            count => format!("{count} nodes are ready"),
        }
    }

    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict> {
        let reader = match host.cluster().await {
            Ok(reader) => reader,
            Err(unavailable) => return Ok(Verdict::fail(unavailable.reason)),
        };
        let looked = tokio::try_join!(
            reader.list("v1", "Node", None, ""),
            reader.list("coordination.k8s.io/v1", "Lease", Some("kube-node-lease"), ""),
        );
        Ok(match looked {
            Ok((nodes, leases)) => judge(&nodes, &leases, self.count, Timestamp::now()),
            Err(error) => Verdict::fail(error.to_string()),
        })
    }
}

fn judge(nodes: &[Value], leases: &[Value], count: usize, now: Timestamp) -> Verdict {
    let mut ready = Vec::new();
    let mut faults = Vec::new();
    for node in nodes {
        let name = name_of(node);
        match fault(node, leases, now) {
            None => ready.push(name),
            Some(fault) => faults.push(format!("node {name}: {fault}")),
        }
    }
    let summary = format!("{} of {} nodes ready", ready.len(), nodes.len());
    if ready.len() < count {
        faults.insert(0, format!("{summary}, {count} needed"));
        return Verdict::fail(faults.join("; "));
    }
    if faults.is_empty() {
        Verdict::pass(format!("{summary} ({})", ready.join(", ")))
    } else {
        Verdict::warn(format!("{summary}; {}", faults.join("; ")))
    }
}

fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("?")
}

fn fault(node: &Value, leases: &[Value], now: Timestamp) -> Option<String> {
    let name = name_of(node);
    if condition_status(node, "Ready") != Some("True") {
        let ready = condition(node, "Ready");
        let text = |key: &str| ready.and_then(|ready| ready.get(key)?.as_str());
        let why = text("message").unwrap_or("it has not said that it is ready");
        let when = text("lastTransitionTime")
            .and_then(|time| ago(time, now))
            .map_or_else(String::new, |ago| format!(" since {}", since(now, ago)));
        return Some(format!("not ready{when}: {why}"));
    }
    let renewed = leases
        .iter()
        .find(|lease| name_of(lease) == name)
        .and_then(|lease| lease.pointer("/spec/renewTime")?.as_str())
        .and_then(|time| ago(time, now));
    match renewed {
        None => Some("it has never given a sign of life (no lease)".into()),
        Some(silent) if silent > STALE_AFTER => Some(format!("no sign of life since {}", since(now, silent))),
        Some(_) => None,
    }
}

/// How long ago a time was; zero for one that the clocks of two machines put into the future.
fn ago(time: &str, now: Timestamp) -> Option<Duration> {
    let time: Timestamp = time.parse().ok()?;
    Some(Duration::try_from(now.duration_since(time)).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::Status;
    use crate::cluster::testing::{FixedApi, TestHost};

    fn node(name: &str, status: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"conditions": [
            {"type": "MemoryPressure", "status": "False"},
            {"type": "Ready", "status": status, "reason": "KubeletNotReady", "message": "container runtime network not ready",
             "lastTransitionTime": "2026-11-25T14:00:00Z"}]}})
    }

    fn lease(name: &str, renewed: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"renewTime": renewed}})
    }

    fn judged(nodes: &[Value], leases: &[Value], count: usize) -> (Status, String) {
        let verdict = judge(nodes, leases, count, "2026-11-25T14:02:00Z".parse().unwrap());
        (verdict.status, verdict.detail)
    }

    #[test]
    fn ready_and_alive() {
        let leases = [lease("a", "2026-11-25T14:01:55.123456Z"), lease("b", "2026-11-25T14:00:59Z")];
        assert_eq!(judged(&[node("a", "True")], &leases, 1), (Status::Pass, "1 of 1 nodes ready (a)".into()));
        assert_eq!(judged(&[node("a", "True")], &leases, 2), (Status::Fail, "1 of 1 nodes ready, 2 needed".into()));
        // "Ready" is what the node said last; that it is silent shows in the lease.
        assert_eq!(
            judged(&[node("b", "True")], &leases, 1),
            (Status::Fail, "0 of 1 nodes ready, 1 needed; node b: no sign of life since 14:00:59 UTC (61 s)".into())
        );
        assert_eq!(
            judged(&[node("a", "True"), node("b", "True")], &leases, 1),
            (Status::Warn, "1 of 2 nodes ready; node b: no sign of life since 14:00:59 UTC (61 s)".into())
        );
        assert_eq!(
            judged(&[node("a", "False")], &leases, 1),
            (
                Status::Fail,
                "0 of 1 nodes ready, 1 needed; node a: not ready since 14:00:00 UTC (2 min): container runtime network not \
                 ready"
                    .into()
            )
        );
        assert_eq!(
            judged(&[node("c", "True")], &leases, 1).1,
            "0 of 1 nodes ready, 1 needed; node c: it has never given a sign of life (no lease)"
        );
        assert_eq!(judged(&[], &[], 1), (Status::Fail, "0 of 0 nodes ready, 1 needed".into()));
    }

    #[tokio::test]
    async fn asks_the_cluster_and_says_when_there_is_none() {
        let check: NodesReady = serde_json::from_value(json!({})).unwrap();
        let verdict = check.run(&TestHost::new()).await.unwrap();
        assert_eq!(verdict.status, Status::Fail);
        assert!(verdict.detail.starts_with("k3s is not installed yet"));

        let (reader, api) = FixedApi::serve([
            ("/api/v1/nodes".to_owned(), json!({"items": [node("a", "True")]})),
            (
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases".to_owned(),
                json!({"items": [lease("a", &Timestamp::now().to_string())]}),
            ),
        ])
        .await;
        let host = TestHost::new().cluster(reader);
        assert_eq!(check.run(&host).await.unwrap().status, Status::Pass);
        api.set(
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
            json!({"items": [lease("a", "2026-01-01T00:00:00Z")]}),
        );
        assert_eq!(check.run(&host).await.unwrap().status, Status::Fail);
    }
}
