//! `rollout`: a workload of the cluster runs in the version that was last asked for.

use anyhow::Result;
use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Check, Verdict};
use crate::cluster::{ObjectRef, Reader, Rollout as Progress, condition, since};
use crate::host::ReadHost;
use crate::resources::short_form::{ShortForm, short_form};

/// All pods of a workload are of its newest revision and ready: `rollout: { namespace: mlops, deployment: inference }`, or
/// `rollout: mlops/deployment/inference`. What cannot mend itself (an image that is not there, a program that always crashes)
/// fails at once.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = crate::resources::short_form::or_text)]
pub struct Rollout {
    /// Its namespace: `mlops`.
    pub namespace: String,
    /// Name of a Deployment. Exactly one of `deployment`, `statefulset` and `daemonset` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// Name of a StatefulSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statefulset: Option<String>,
    /// Name of a DaemonSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemonset: Option<String>,
}

short_form!(Rollout);

impl ShortForm for Rollout {
    const EXPECTING: &'static str =
        "`namespace/deployment/name` (or `statefulset`, `daemonset`), or a mapping with `namespace` and one of these";

    fn full<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let check = Self::deserialize(deserializer)?;
        let given = [&check.deployment, &check.statefulset, &check.daemonset];
        match given.iter().filter(|name| name.is_some()).count() {
            1 => Ok(check),
            _ => Err(serde::de::Error::custom("give exactly one of `deployment`, `statefulset` and `daemonset`")),
        }
    }

    fn from_text(text: String) -> Result<Self, String> {
        let wrong = || format!("found {text:?}, expected {}", Self::EXPECTING);
        let [namespace, kind, name] = text.split('/').collect::<Vec<_>>()[..] else {
            return Err(wrong());
        };
        if namespace.is_empty() || name.is_empty() {
            return Err(wrong());
        }
        let mut check = Self { namespace: namespace.to_owned(), deployment: None, statefulset: None, daemonset: None };
        let field = match kind.to_lowercase().as_str() {
            "deployment" => &mut check.deployment,
            "statefulset" => &mut check.statefulset,
            "daemonset" => &mut check.daemonset,
            _ => return Err(wrong()),
        };
        *field = Some(name.to_owned());
        Ok(check)
    }
}

impl Rollout {
    fn object(&self) -> ObjectRef {
        let (kind, name) =
            [("Deployment", &self.deployment), ("StatefulSet", &self.statefulset), ("DaemonSet", &self.daemonset)]
                .into_iter()
                .find_map(|(kind, name)| Some((kind, name.as_deref()?)))
                .unwrap_or(("Deployment", ""));
        ObjectRef::new("apps/v1", kind, Some(&self.namespace), name)
    }
}

#[async_trait]
impl Check for Rollout {
    const KIND: &'static str = "rollout";

    fn name(&self) -> String {
        self.object().to_string()
    }

    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict> {
        let reader = match host.cluster().await {
            Ok(reader) => reader,
            Err(unavailable) => return Ok(Verdict::fail(unavailable.reason)),
        };
        let object = self.object();
        Ok(match reader.rollout(&object).await {
            Ok(Progress::Ready) => Verdict::pass("all its pods are ready"),
            Ok(Progress::Waiting(reason)) => {
                Verdict::fail(format!("{reason}{}", unavailable_since(&reader, &object).await))
            }
            Ok(Progress::Hopeless(trouble)) => Verdict::fail(trouble.to_string()).terminal(),
            Err(error) => Verdict::fail(error.to_string()),
        })
    }
}

/// ` (since 14:02:11 UTC (3 min))` when the object says since when it is not available.
async fn unavailable_since(reader: &Reader, object: &ObjectRef) -> String {
    let live = reader.get(object).await.ok().flatten();
    let time = live
        .as_ref()
        .and_then(|live| condition(live, "Available"))
        .filter(|available| available.get("status").and_then(Value::as_str) == Some("False"))
        .and_then(|available| available.get("lastTransitionTime")?.as_str())
        .and_then(|time| time.parse::<Timestamp>().ok());
    let now = Timestamp::now();
    time.and_then(|time| std::time::Duration::try_from(now.duration_since(time)).ok())
        .map_or_else(String::new, |ago| format!("; not available since {}", since(now, ago)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checks::Status;
    use crate::cluster::testing::{FixedApi, TestHost};

    #[test]
    fn forms_and_faults() {
        let parse = |value: Value| serde_json::from_value::<Rollout>(value);
        assert_eq!(parse(json!("mlops/deployment/inference")).unwrap().name(), "Deployment mlops/inference");
        assert_eq!(
            parse(json!({"namespace": "mlops", "statefulset": "postgres"})).unwrap().name(),
            "StatefulSet mlops/postgres"
        );
        for (spec, expected) in [
            (json!({"namespace": "a"}), "give exactly one of"),
            (json!({"namespace": "a", "deployment": "b", "daemonset": "c"}), "give exactly one of"),
            (json!("deployment/inference"), "expected `namespace/deployment/name`"),
            (json!("a/pod/b"), "expected `namespace/deployment/name`"),
            (json!({"namespace": "a", "deplyoment": "b"}), "unknown field `deplyoment`"),
        ] {
            let error = parse(spec.clone()).unwrap_err().to_string();
            assert!(error.contains(expected), "{spec}: {error}");
        }
        let spec = serde_json::to_value(parse(json!("a/daemonset/b")).unwrap()).unwrap();
        assert_eq!(spec, json!({"namespace": "a", "daemonset": "b"}));
    }

    #[tokio::test]
    async fn follows_the_workload_and_its_pods() {
        const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/mlops/deployments/inference";
        let deployment = |ready: i64| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "inference", "namespace": "mlops", "uid": "d", "generation": 1},
                "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "inference"}}},
                "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": ready, "availableReplicas": ready,
                    "conditions": [{"type": "Available", "status": if ready == 1 {"True"} else {"False"}, "lastTransitionTime": "2026-01-01T10:00:00Z"}]}})
        };
        let (reader, api) = FixedApi::serve([]).await;
        let host = TestHost::new().cluster(reader);
        let check: Rollout = serde_json::from_value(json!("mlops/deployment/inference")).unwrap();
        assert_eq!(check.run(&host).await.unwrap(), Verdict::fail("it does not exist"));

        api.set(DEPLOYMENT, deployment(1));
        assert_eq!(check.run(&host).await.unwrap().status, Status::Pass);

        api.set(DEPLOYMENT, deployment(0));
        api.set(
            "/apis/apps/v1/namespaces/mlops/replicasets",
            json!({"items": [{"metadata": {"name": "inference-1",
            "ownerReferences": [{"uid": "d"}], "labels": {"pod-template-hash": "1"}}}]}),
        );
        let verdict = check.run(&host).await.unwrap();
        assert!(
            verdict.detail.starts_with("0 of 1 ready; not available since 2026-01-01 10:00 UTC ("),
            "{}",
            verdict.detail
        );
        assert!(!verdict.terminal);

        let pods = json!({"items": [{"metadata": {"name": "p", "namespace": "mlops", "uid": "p", "labels": {"pod-template-hash": "1"}},
            "status": {"containerStatuses": [{"name": "serve", "restartCount": 4,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                "lastState": {"terminated": {"exitCode": 2}}}]}}]});
        api.set("/api/v1/namespaces/mlops/pods", pods);
        api.set("/api/v1/namespaces/mlops/pods/p/log", json!("cannot open the model"));
        let verdict = check.run(&host).await.unwrap();
        assert!(verdict.terminal);
        assert_eq!(
            verdict.detail,
            "0 of 1 ready: pod p, container serve: CrashLoopBackOff: exit code 2 (4 restarts)\nlast lines:\n  \"cannot open the model\""
        );
    }

    #[tokio::test]
    async fn without_a_cluster_it_fails_with_the_reason() {
        let check: Rollout = serde_json::from_value(json!("mlops/deployment/inference")).unwrap();
        let verdict = check.run(&TestHost::new()).await.unwrap();
        assert_eq!(verdict.detail, "k3s is not installed yet (no /etc/rancher/k3s/k3s.yaml)");
    }
}
