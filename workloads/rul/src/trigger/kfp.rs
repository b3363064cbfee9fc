//! Kubeflow Pipelines' REST API, version v2beta1
//! (<https://www.kubeflow.org/docs/components/pipelines/reference/api/kubeflow-pipeline-api-spec/>).

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Map, Value, json};

use super::alert::Firing;
use super::starter::{Going, Trouble};
use crate::http;

/// Newest runs among which one of the same name is looked for.
const LOOKED_THROUGH: &str = "100";
/// Longest answer that is read, in bytes: a hundred runs with their workflows have a few megabytes.
const LARGEST: usize = 64 << 20;

#[derive(Debug)]
pub struct Kfp {
    client: Client,
    base: String,
    pipeline: String,
    /// Given to every run beside what the alert says.
    parameters: Map<String, Value>,
}

impl Kfp {
    /// # Errors
    /// When there can be no HTTP client.
    pub fn new(base: &str, pipeline: &str, parameters: Map<String, Value>) -> Result<Self, String> {
        let client = http::client(Duration::from_secs(15))?;
        let base = base.trim_end_matches('/');
        let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
        Ok(Self { client, base, pipeline: pipeline.to_owned(), parameters })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Value>,
    ) -> Result<Value, Trouble> {
        let mut request = self.client.request(method, format!("{}/apis/v2beta1/{path}", self.base)).query(query);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let (status, body) = http::exchange(request, LARGEST)
            .await
            .map_err(|failure| Trouble::Unreachable(format!("KFP: {failure}")))?;
        let answer = serde_json::from_slice::<Value>(&body).ok();
        if (200..300).contains(&status) {
            return answer.ok_or_else(|| Trouble::Refused(format!("KFP: /{path} is no JSON")));
        }
        let message = answer.as_ref().and_then(|a| a["message"].as_str().or(a["error_message"].as_str()));
        let said = http::said(message.map_or(&body, str::as_bytes));
        let reason = format!("KFP: {status} to /{path}: {said}");
        // Its first answers after its database was away are 500.
        let passing = status >= 500 || status == 429;
        Err(if passing { Trouble::Unreachable(reason) } else { Trouble::Refused(reason) })
    }

    async fn version(&self) -> Result<(String, String), Trouble> {
        let pipeline = self.ask(Method::GET, &format!("pipelines/names/{}", self.pipeline), &[], None).await?;
        let id = text(&pipeline, "pipeline_id")?;
        let newest = [("sort_by", "created_at desc"), ("page_size", "1")];
        let versions = self.ask(Method::GET, &format!("pipelines/{id}/versions"), &newest, None).await?;
        let version = versions["pipeline_versions"].get(0).ok_or_else(|| {
            Trouble::Refused(format!("KFP: the pipeline {} has no version yet: upload one", self.pipeline))
        })?;
        Ok((id, text(version, "pipeline_version_id")?))
    }

    pub async fn start(&self, name: &str, firing: &Firing) -> Result<String, Trouble> {
        let newest = [("sort_by", "created_at desc"), ("page_size", LOOKED_THROUGH)];
        let runs = self.ask(Method::GET, "runs", &newest, None).await?;
        let same = runs["runs"].as_array().into_iter().flatten().find(|run| run["display_name"] == name);
        if let Some(run) = same {
            return text(run, "run_id");
        }
        let (pipeline_id, pipeline_version_id) = self.version().await?;
        let mut parameters = self.parameters.clone();
        parameters.insert("trigger_cause".into(), firing.cause.clone().into());
        parameters.insert("baseline_version".into(), firing.baseline_version.clone().into());
        let body = json!({
            "display_name": name,
            "description": format!("{} of model {} ({})", firing.cause, firing.model, firing.key),
            "pipeline_version_reference": {"pipeline_id": pipeline_id, "pipeline_version_id": pipeline_version_id},
            "runtime_config": {"parameters": parameters},
        });
        text(&self.ask(Method::POST, "runs", &[], Some(body)).await?, "run_id")
    }

    pub async fn look(&self, run: &str) -> Result<Going, Trouble> {
        let run = match self.ask(Method::GET, &format!("runs/{run}"), &[], None).await {
            Err(Trouble::Refused(reason)) => return Ok(Going::Failed(reason)),
            other => other?,
        };
        Ok(match run["state"].as_str().unwrap_or_default() {
            "SUCCEEDED" => Going::Succeeded,
            state @ ("FAILED" | "CANCELED" | "SKIPPED") => {
                let said = run["error"]["message"].as_str().unwrap_or("no reason given");
                Going::Failed(format!("the run is {state}: {said}"))
            }
            _ => Going::On,
        })
    }

    pub async fn reachable(&self) -> Result<(), Trouble> {
        self.ask(Method::GET, "pipelines", &[("page_size", "1")], None).await.map(|_| ())
    }
}

fn text(value: &Value, key: &str) -> Result<String, Trouble> {
    let found = value[key].as_str().map(str::to_owned);
    found.ok_or_else(|| Trouble::Refused(format!("KFP: an answer without {key}")))
}
