//! A Kubernetes Job out of a (suspended) CronJob's template, as `kubectl create job --from` makes it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, Job as KubeJob};
use k8s_openapi::api::core::v1::EnvVar;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Config};

use super::alert::Firing;
use super::starter::{Going, Trouble, told};

const PATIENCE: Duration = Duration::from_secs(15);

pub struct Job {
    namespace: String,
    template: String,
    client: Client,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job from {}/{}", self.namespace, self.template)
    }
}

impl Job {
    /// `namespace/cronjob`, in the cluster that this runs in, else the one of KUBECONFIG.
    ///
    /// # Errors
    /// A sentence: no cluster is configured.
    pub async fn new(target: &str) -> Result<Self, String> {
        let (namespace, template) = target
            .split_once('/')
            .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
            .ok_or_else(|| format!("{target:?}: write NAMESPACE/CRONJOB"))?;
        let mut config = Config::infer().await.map_err(|error| format!("no cluster is configured: {error}"))?;
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        let client = Client::try_from(config).map_err(|error| format!("the cluster cannot be asked: {error}"))?;
        Ok(Self { namespace: namespace.to_owned(), template: template.to_owned(), client })
    }

    fn jobs(&self) -> Api<KubeJob> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn template(&self) -> Result<CronJob, Trouble> {
        let templates: Api<CronJob> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = templates.get_opt(&self.template).await.map_err(|error| trouble(&error))?;
        found.ok_or_else(|| Trouble::Refused(format!("there is no CronJob {}/{}", self.namespace, self.template)))
    }

    pub async fn start(&self, name: &str, firing: &Firing) -> Result<String, Trouble> {
        let job = from_template(name, firing, self.template().await?);
        match self.jobs().create(&PostParams::default(), &job).await {
            Ok(_) => Ok(name.to_owned()),
            // Started before a crash could be noted down.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(name.to_owned()),
            Err(error) => Err(trouble(&error)),
        }
    }

    pub async fn look(&self, run: &str) -> Result<Going, Trouble> {
        let Some(job) = self.jobs().get_opt(run).await.map_err(|error| trouble(&error))? else {
            return Ok(Going::Failed("the Job was deleted".into()));
        };
        let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
        let is = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
        if is("Complete").is_some() {
            return Ok(Going::Succeeded);
        }
        Ok(is("Failed").map_or(Going::On, |failed| {
            let (reason, message) = (failed.reason.clone(), failed.message.clone());
            Going::Failed(format!("{}: {}", reason.unwrap_or_default(), message.unwrap_or_default()))
        }))
    }

    pub async fn reachable(&self) -> Result<(), Trouble> {
        self.template().await.map(|_| ())
    }
}

fn from_template(name: &str, firing: &Firing, template: CronJob) -> KubeJob {
    let owner = template.metadata.name.unwrap_or_default();
    let job = template.spec.unwrap_or_default().job_template;
    let metadata = job.metadata.unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert("cronjob.kubernetes.io/instantiate".into(), "manual".into());
    annotations.insert("rul/alert".into(), firing.key.clone());
    let mut labels: BTreeMap<_, _> = metadata.labels.unwrap_or_default();
    labels.insert("rul/triggered-from".into(), owner);
    let mut spec = job.spec.unwrap_or_default();
    if let Some(pod) = &mut spec.template.spec {
        for container in &mut pod.containers {
            let env = container.env.get_or_insert_default();
            for (name, value) in told(name, firing) {
                env.retain(|known| known.name != name);
                env.push(EnvVar { name: name.into(), value: Some(value), ..EnvVar::default() });
            }
        }
    }
    let (annotations, labels) = (Some(annotations), Some(labels));
    let metadata = ObjectMeta { name: Some(name.to_owned()), annotations, labels, ..ObjectMeta::default() };
    KubeJob { metadata, spec: Some(spec), status: None }
}

fn trouble(error: &kube::Error) -> Trouble {
    match error {
        kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
            Trouble::Refused(format!("Kubernetes: {}", status.message))
        }
        other => Trouble::Unreachable(format!("Kubernetes: {other}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_kept_and_the_alert_is_told() {
        let template = serde_json::from_value(serde_json::json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "retrain", "namespace": "mlops"},
            "spec": {"schedule": "0 0 31 2 *", "suspend": true, "jobTemplate": {"metadata": {"labels": {"app": "retrain"}},
                "spec": {"backoffLimit": 1, "template": {"spec": {"restartPolicy": "Never", "containers": [
                    {"name": "train", "image": "rul:1", "env": [{"name": "A", "value": "1"}, {"name": "RUL_TRIGGER_CAUSE", "value": "old"}]}]}}}}}
        }));
        let firing =
            Firing { key: "f@t".into(), model: "m".into(), cause: "regime".into(), baseline_version: "7".into() };
        let job = from_template("run-1", &firing, template.unwrap());
        let spec = job.spec.unwrap();
        assert_eq!(spec.backoff_limit, Some(1));
        assert_eq!(job.metadata.labels.unwrap()["app"], "retrain");
        let pod = spec.template.spec.unwrap();
        let env = pod.containers[0].env.as_ref().unwrap();
        let value =
            |name: &str| env.iter().filter(|e| e.name == name).map(|e| e.value.clone().unwrap()).collect::<Vec<_>>();
        assert_eq!((value("A"), value("RUL_TRIGGER_CAUSE")), (vec!["1".to_owned()], vec!["regime".to_owned()]));
    }

    #[tokio::test]
    async fn a_target_names_both() {
        for wrong in ["", "retrain", "/retrain", "mlops/"] {
            assert!(Job::new(wrong).await.unwrap_err().contains("NAMESPACE/CRONJOB"), "{wrong}");
        }
    }
}
