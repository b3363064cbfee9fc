//! The registry on an MLflow server.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use mlflow_client::{Batch, Client, Metric, ModelVersion, NewRun, NewVersion, RunStatus};

use super::{Error, RunInfo, Version};

/// Folder of the run that the artifact goes into; the seed's pipelines call it so too.
const FOLDER: &str = "model";
const MOST_VERSIONS: u32 = 100;

/// See [`super::Registry`].
#[derive(Debug, Clone)]
pub struct MlflowRegistry {
    client: Client,
}

impl From<ModelVersion> for Version {
    fn from(version: ModelVersion) -> Self {
        Self {
            model: version.name,
            version: version.version,
            source: version.source,
            run_id: Some(version.run_id).filter(|id| !id.is_empty()),
            created_at: version.creation_timestamp,
            tags: version.tags,
        }
    }
}

impl MlflowRegistry {
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn impatient(self, each: Duration) -> Self {
        Self { client: self.client.with_patience(1, each) }
    }

    pub(super) async fn alias(&self, model: &str, alias: &str) -> Result<Option<Version>, Error> {
        Ok(self.client.alias(model, alias).await?.map(Into::into))
    }

    pub(super) async fn set_alias(&self, model: &str, alias: &str, version: &str) -> Result<(), Error> {
        Ok(self.client.set_alias(model, alias, version).await?)
    }

    pub(super) async fn delete_alias(&self, model: &str, alias: &str) -> Result<(), Error> {
        Ok(self.client.delete_alias(model, alias).await?)
    }

    pub(super) async fn version(&self, model: &str, version: &str) -> Result<Option<Version>, Error> {
        Ok(self.client.version(model, version).await?.map(Into::into))
    }

    pub(super) async fn versions(&self, model: &str) -> Result<Vec<Version>, Error> {
        Ok(self.client.versions(model, MOST_VERSIONS).await?.into_iter().map(Into::into).collect())
    }

    /// Newest version that a run made.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn version_of_run(&self, model: &str, run_id: &str) -> Result<Option<Version>, Error> {
        let versions = self.client.versions_of_run(run_id, MOST_VERSIONS).await?;
        Ok(versions.into_iter().find(|v| v.name == model).map(Into::into))
    }

    pub(super) async fn set_tag(&self, version: &Version, key: &str, value: &str) -> Result<(), Error> {
        Ok(self.client.set_version_tag(&version.model, &version.version, key, value).await?)
    }

    pub(super) async fn metrics(&self, version: &Version) -> Result<BTreeMap<String, f64>, Error> {
        let Some(run_id) = &version.run_id else {
            return Ok(BTreeMap::new());
        };
        let run = self.client.run(run_id).await?;
        Ok(run.map(|run| run.data.metrics.into_iter().map(|m| (m.key, m.value)).collect()).unwrap_or_default())
    }

    pub(super) async fn register(&self, model: &str, artifact: &Path, info: &RunInfo) -> Result<Version, Error> {
        let client = &self.client;
        client.ensure_registered_model(model, "").await?;
        let experiment = if info.experiment.is_empty() { model } else { &info.experiment };
        let new = NewRun {
            experiment_id: client.ensure_experiment(experiment).await?,
            name: info.name.clone(),
            start_time: now(),
            tags: info.tags.clone(),
        };
        let run = client.create_run(&new).await?;
        let run_id = &run.info.run_id;
        let filled = self.fill(&run.info, artifact, info).await;
        let status = if filled.is_ok() { RunStatus::Finished } else { RunStatus::Failed };
        let ended = client.update_run(run_id, status, Some(now())).await;
        // The first failure is the one to tell.
        filled?;
        ended?;
        let new = NewVersion {
            name: model.to_owned(),
            source: format!("runs:/{run_id}/{FOLDER}"),
            run_id: run_id.clone(),
            tags: info.version_tags.clone(),
        };
        Ok(client.create_version(&new).await?.into())
    }

    async fn fill(&self, run: &mlflow_client::RunInfo, artifact: &Path, info: &RunInfo) -> Result<(), Error> {
        let metrics = info
            .metrics
            .iter()
            .map(|m| Metric { key: m.key.clone(), value: m.value, timestamp: m.at, step: m.step })
            .collect();
        let batch = Batch { metrics, params: info.params.clone(), tags: BTreeMap::new() };
        self.client.log_batch(&run.run_id, &batch).await?;
        let root = self.client.resolve(&run.artifact_uri).await?;
        self.client.upload(artifact, &root.join(FOLDER)).await?;
        Ok(())
    }

    pub(super) async fn download(&self, version: &Version, dest: &Path) -> Result<(), Error> {
        let uri = self.client.download_uri(&version.model, &version.version).await?;
        let place = self.client.resolve(&uri).await?;
        self.client.download(&place, dest).await?;
        Ok(())
    }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
