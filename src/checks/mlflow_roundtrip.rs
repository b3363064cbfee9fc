//! `mlflow_roundtrip`: MLflow keeps what clients give it, in PostgreSQL and in the object store.

mod api;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use futures::future::join_all;
use jiff::Timestamp;
use rand::Rng as _;
use reqwest::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_postgres::SimpleQueryMessage;

use self::api::{Api, Failure};
use super::address::locate;
use super::{Check, Verdict};
use crate::cluster::postgres::{Access, ServiceName, Session, quote_text, sql_error};
use crate::cluster::s3;
use crate::host::ReadHost;

/// How long making and looking may take: some dozen requests, of a Python server that may have just started on a busy machine.
/// Together with cleaning up less than what ends every probe.
const WORK: Duration = Duration::from_secs(20);

/// How long cleaning up may take.
const CLEANUP: Duration = Duration::from_secs(7);

/// What the names of our experiments and models begin with.
const PREFIX: &str = "provision-check-";

/// What is older was left behind by a probe that was killed. Milliseconds.
const LEFT_BEHIND: i64 = 10 * 60 * 1000;

/// A client's whole way through MLflow, from the host, under the names that pods use for the Service: it makes an experiment,
/// logs a parameter and a metric, uploads an artifact, registers a model, gives it an alias and resolves that; the rows must be in
/// PostgreSQL and the object in the object store. Then it removes all of it, also when something failed, and for good (rows that
/// MLflow only marks as deleted, too). What stays is gaps in the numbers of experiments and, where the bucket keeps versions, old
/// versions of one small object.
///
/// ```yaml
/// - mlflow_roundtrip:
///     service: mlops/mlflow
///     database: { service: mlops/postgres, name: mlflow, user: mlflow, password: "{{ secret.postgres.mlflow_password }}" }
///     artifacts:
///       service: mlops/minio
///       bucket: thesis-mlflow
///       access_key: mlflow
///       secret_key: "{{ secret.minio.mlflow_secret_key }}"
/// ```
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MlflowRoundtrip {
    /// MLflow's Service: `mlops/mlflow`.
    pub service: super::address::ServiceName,
    /// Who asks, where the server wants basic-auth; others do not look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The password of `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Where MLflow keeps its rows.
    pub database: Database,
    /// Where MLflow keeps its artifacts.
    pub artifacts: Artifacts,
}

/// MLflow's database in PostgreSQL.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The server's Service: `mlops/postgres`.
    pub service: ServiceName,
    /// The database: `mlflow`.
    pub name: String,
    /// Whom to connect as: `mlflow`.
    pub user: String,
    /// Its password: `"{{ secret.postgres.mlflow_password }}"`.
    pub password: String,
}

/// MLflow's bucket in the object store.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Artifacts {
    /// The server's Service: `mlops/minio`.
    pub service: ServiceName,
    /// The bucket: `thesis-mlflow`.
    pub bucket: String,
    /// Whose key: `mlflow`.
    pub access_key: String,
    /// `"{{ secret.minio.mlflow_secret_key }}"`.
    pub secret_key: String,
}

/// Everything that is asked.
struct Peers {
    api: Api,
    rows: Session,
    objects: s3::Client,
}

/// What was made, as far as it is known.
#[derive(Default)]
struct Made {
    experiment: Option<String>,
    run: Option<String>,
}

impl Made {
    /// Folder of the run in the bucket.
    fn folder(&self) -> Option<String> {
        Some(format!("{}/{}/artifacts", self.experiment.as_ref()?, self.run.as_ref()?))
    }
}

const FILE: &str = "model/proof.bin";

impl MlflowRoundtrip {
    async fn peers(&self, host: &dyn ReadHost) -> Result<Result<Peers, String>> {
        let (address, port) = match locate(host, &self.service, None).await? {
            Ok(found) => found,
            Err(reason) => return Ok(Err(reason)),
        };
        let name = self.names(port).pop().unwrap_or_default();
        let api = match Api::new(&address, port, name, self.user.clone().zip(self.password.clone())) {
            Ok(api) => api,
            Err(reason) => return Ok(Err(reason)),
        };
        let database = Access {
            service: &self.database.service,
            user: &self.database.user,
            password: Some(&self.database.password),
            secret: "",
            // Rows that MLflow only marks are removed for good.
            read_only: false,
        };
        let rows = match database.connect(host, &self.database.name).await {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let keys = s3::Keys::Given { access_key: &self.artifacts.access_key, secret_key: &self.artifacts.secret_key };
        let objects = match (s3::Access { service: &self.artifacts.service, keys }).connect(host).await {
            Ok(objects) => objects,
            Err(error) => return Ok(Err(error.to_string())),
        };
        Ok(Ok(Peers { api, rows, objects }))
    }

    /// What pods call the server, the full name last.
    fn names(&self, port: u16) -> Vec<String> {
        let (name, namespace) = (&self.service.name, &self.service.namespace);
        ["", ".NS", ".NS.svc", ".NS.svc.cluster.local"]
            .iter()
            .map(|rest| format!("{name}{}:{port}", rest.replace("NS", namespace)))
            .collect()
    }

    /// The whole way; an error says at which step it broke.
    async fn work(&self, peers: &Peers, name: &str, made: &mut Made) -> Result<(), String> {
        let port = peers.api.port();
        let greetings = self.names(port).into_iter().map(|name| {
            let api = peers.api.named(name);
            async move { api.get("experiments/search", &[("max_results", "1")]).await }
        });
        for greeting in join_all(greetings).await {
            greeting.map_err(|failure| failure.to_string())?;
        }
        let api = &peers.api;
        let step = |what: &'static str| move |failure: Failure| format!("cannot {what}: {failure}");

        let created =
            api.post("experiments/create", &json!({ "name": name })).await.map_err(step("make an experiment"))?;
        let experiment = text(&created, "/experiment_id")?;
        made.experiment = Some(experiment.clone());
        let query = [("experiment_id", experiment.as_str())];
        let found = api.get("experiments/get", &query).await.map_err(step("read the experiment"))?;
        let place = text(&found, "/experiment/artifact_location")?;
        if !place.starts_with("mlflow-artifacts:") {
            return Err(format!(
                "new experiments keep their artifacts at {place}: clients would need keys of their own\n  hint: start the \
                 server with --artifacts-destination and without --default-artifact-root"
            ));
        }
        let now = Timestamp::now().as_millisecond();
        let run = json!({ "experiment_id": experiment, "run_name": name, "start_time": now });
        let created = api.post("runs/create", &run).await.map_err(step("make a run"))?;
        let run = text(&created, "/run/info/run_id")?;
        made.run = Some(run.clone());
        let content: [u8; 256] = rand::rng().random();
        let proof = hex::encode(&content[..8]);
        let batch = json!({
            "run_id": run,
            "params": [{ "key": "proof", "value": proof }],
            "metrics": [{ "key": "rmse", "value": 12.5, "timestamp": now, "step": 1 }],
        });
        api.post("runs/log-batch", &batch).await.map_err(step("log"))?;
        let folder = made.folder().unwrap_or_default();
        let path = format!("{folder}/{FILE}");
        api.upload(&path, &content).await.map_err(step("upload an artifact"))?;
        if api.download(&path).await.map_err(step("download the artifact"))? != content {
            return Err("the artifact that was downloaded is not what was uploaded".into());
        }
        let ended = json!({ "run_id": run, "status": "FINISHED", "end_time": now });
        api.post("runs/update", &ended).await.map_err(step("end the run"))?;

        api.post("registered-models/create", &json!({ "name": name })).await.map_err(step("register a model"))?;
        let source = format!("mlflow-artifacts:/{folder}/model");
        let version = json!({ "name": name, "source": source, "run_id": run });
        let created = api.post("model-versions/create", &version).await.map_err(step("make a version"))?;
        let version = text(&created, "/model_version/version")?;
        let alias = json!({ "name": name, "alias": "proof", "version": version });
        api.post("registered-models/alias", &alias).await.map_err(step("set an alias"))?;
        let query = [("name", name), ("alias", "proof")];
        let resolved = api.get("registered-models/alias", &query).await.map_err(step("resolve the alias"))?;
        if text(&resolved, "/model_version/version")? != version {
            return Err(format!("the alias leads to another version: {resolved}"));
        }

        self.look_at_rows(peers, name, &run, &proof).await?;
        let key = path.as_str();
        let object = peers.objects.read(&self.artifacts.bucket, key).await;
        match object {
            Ok(found) if found == content => Ok(()),
            Ok(_) => Err(format!("{key} in {} is not what was uploaded", self.artifacts.bucket)),
            Err(error) if error.code() == Some("NoSuchKey") => Err(format!(
                "MLflow took the artifact, but {}/{} has no {key}: it keeps artifacts elsewhere",
                self.artifacts.service, self.artifacts.bucket
            )),
            Err(error) => Err(format!("cannot look for the artifact: {error}")),
        }
    }

    async fn look_at_rows(&self, peers: &Peers, name: &str, run: &str, proof: &str) -> Result<(), String> {
        let query = format!(
            "select p.value, m.value, v.version from experiments e join runs r using (experiment_id) \
             join params p on p.run_uuid = r.run_uuid join latest_metrics m on m.run_uuid = r.run_uuid \
             join model_versions v on v.run_id = r.run_uuid where e.name = {} and r.run_uuid = {}",
            quote_text(name),
            quote_text(run)
        );
        let found = rows(&peers.rows, &query).await.map_err(|error| format!("cannot look for the rows: {error:#}"))?;
        let wanted = vec![proof.to_owned(), "12.5".to_owned(), "1".to_owned()];
        match found.as_slice() {
            [row] if *row == wanted => Ok(()),
            [] => Err(format!(
                "MLflow took it all, but {}/{} has no row of it: the server uses another database",
                self.database.service, self.database.name
            )),
            other => Err(format!("the rows in {} are not what was logged: {other:?}", self.database.name)),
        }
    }

    /// Removes what a probe of this name made. Says what could not be removed.
    async fn clean_up(&self, peers: &Peers, name: &str, made: &Made) -> Result<(), String> {
        let api = &peers.api;
        let mut left = Vec::new();
        let mut note = |what: &str, outcome: Result<(), Failure>| match outcome {
            Ok(()) | Err(Failure::Missing(_)) => {}
            Err(failure) => left.push(format!("{what} ({failure})")),
        };
        let gone = api.change(Method::DELETE, "registered-models/delete", &json!({ "name": name })).await;
        note(&format!("model {name}"), gone.map(|_| ()));
        let mut experiment = made.experiment.clone();
        if experiment.is_none() {
            // The answer that had the number may have come too late.
            match api.get("experiments/get-by-name", &[("experiment_name", name)]).await {
                Ok(found) => experiment = text(&found, "/experiment/experiment_id").ok(),
                Err(failure) => note(&format!("experiment {name}"), Err(failure)),
            }
        }
        if let Some(folder) = made.folder() {
            note(&format!("artifact {folder}/{FILE}"), api.remove_artifact(&format!("{folder}/{FILE}")).await);
        }
        if let Some(experiment) = experiment {
            let body = json!({ "experiment_id": experiment });
            note(&format!("experiment {name}"), api.post("experiments/delete", &body).await.map(|_| ()));
            let removed = remove_rows(&peers.rows, name).await;
            note(&format!("rows of {name}"), removed.map_err(|error| Failure::Other(format!("{error:#}"))));
        }
        if let Some(folder) = made.folder() {
            match peers.objects.list(&self.artifacts.bucket, &folder).await {
                Ok(objects) => left.extend(objects.into_iter().map(|object| format!("object {}", object.key))),
                Err(error) => left.push(format!("perhaps objects below {folder} ({error})")),
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    }

    /// Removes what probes left behind that were killed, a few at a time.
    async fn sweep(&self, peers: &Peers) -> Result<(), String> {
        let before = Timestamp::now().as_millisecond() - LEFT_BEHIND;
        let query = format!(
            "select e.name, e.experiment_id, min(r.run_uuid) from experiments e left join runs r using (experiment_id) \
             where e.name like '{PREFIX}%' and e.creation_time < {before} group by e.name, e.experiment_id limit 3"
        );
        let found = rows(&peers.rows, &query).await.map_err(|error| format!("{error:#}"))?;
        for row in found {
            let [name, experiment, run] = row.as_slice() else { continue };
            let run = Some(run.clone()).filter(|run| !run.is_empty());
            let made = Made { experiment: Some(experiment.clone()), run };
            self.clean_up(peers, name, &made).await?;
        }
        Ok(())
    }
}

/// Rows of an answer as texts; NULL is empty.
async fn rows(session: &Session, query: &str) -> Result<Vec<Vec<String>>> {
    let answer = session.simple_query(query).await.map_err(|error| sql_error("the query failed", &error))?;
    let rows = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

/// Removes the rows of an experiment that MLflow has marked as deleted, as `mlflow gc` does: no request of its interface can.
async fn remove_rows(session: &Session, name: &str) -> Result<()> {
    let runs = format!(
        "(select run_uuid from runs join experiments using (experiment_id) where experiments.name = {0} and \
         experiments.lifecycle_stage = 'deleted')",
        quote_text(name)
    );
    let experiment = format!("name = {} and lifecycle_stage = 'deleted'", quote_text(name));
    let mut statements = vec!["begin".to_owned()];
    for table in ["metrics", "latest_metrics", "params", "tags"] {
        statements.push(format!("delete from {table} where run_uuid in {runs}"));
    }
    statements.push(format!("delete from runs where run_uuid in {runs}"));
    statements.push(format!(
        "delete from experiment_tags where experiment_id in (select experiment_id from experiments where {experiment})"
    ));
    statements.push(format!("delete from experiments where {experiment}"));
    statements.push("commit".to_owned());
    session.batch_execute(&statements.join("; ")).await.map_err(|error| sql_error("removing them failed", &error))
}

/// The text at a place of an answer.
fn text(answer: &Value, pointer: &str) -> Result<String, String> {
    let found = answer.pointer(pointer).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| format!("MLflow's answer has no {pointer}: {answer}"))
}

#[async_trait]
impl Check for MlflowRoundtrip {
    const KIND: &'static str = "mlflow_roundtrip";

    fn name(&self) -> String {
        format!("{} with {} and {}", self.service, self.database.service, self.artifacts.service)
    }

    async fn run(&self, host: &dyn ReadHost) -> Result<Verdict> {
        let start = Instant::now();
        let peers = match tokio::time::timeout(WORK, self.peers(host)).await {
            Ok(peers) => match peers? {
                Ok(peers) => peers,
                Err(reason) => return Ok(Verdict::fail(reason)),
            },
            Err(_) => return Ok(Verdict::fail(format!("no answer within {} s", WORK.as_secs()))),
        };
        // Nobody else has this name, so probes at the same time do not meet.
        let name = format!("{PREFIX}{:016x}", rand::rng().random::<u64>());
        let mut made = Made::default();
        let remaining = WORK.saturating_sub(start.elapsed());
        let worked = tokio::time::timeout(remaining, self.work(&peers, &name, &mut made)).await;
        let cleanup = async {
            let own = self.clean_up(&peers, &name, &made).await;
            own.and(self.sweep(&peers).await)
        };
        let cleaned = match tokio::time::timeout(CLEANUP, cleanup).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("what belongs to {name} (not done within {} s)", CLEANUP.as_secs())),
        };
        let worked = worked.unwrap_or_else(|_| Err(format!("not done within {} s", WORK.as_secs())));
        Ok(match (worked, cleaned) {
            (Ok(()), Ok(())) => Verdict::pass(format!(
                "logged, stored, registered and resolved under {} names; rows in {}/{}, object in {}/{}; all removed",
                self.names(0).len(),
                self.database.service,
                self.database.name,
                self.artifacts.service,
                self.artifacts.bucket
            )),
            (Ok(()), Err(left)) => Verdict::warn(format!("all of it works, but what was made stays: {left}")),
            (Err(reason), Ok(())) => Verdict::fail(reason),
            (Err(reason), Err(left)) => Verdict::fail(format!("{reason}; and this stays: {left}")),
        })
    }
}
