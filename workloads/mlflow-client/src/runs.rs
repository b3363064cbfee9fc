//! Experiments and runs.

use std::collections::BTreeMap;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;

use crate::client::{Call, Client};
use crate::error::Error;
use crate::send::random;

/// The tag by which a create that may have worked is found again.
pub(crate) const REQUEST_TAG: &str = "mlflow_client.request";
/// MLflow takes at most so many of each kind in one call.
const MAX_METRICS: usize = 1000;
const MAX_PARAMS: usize = 100;

/// An experiment: a named list of runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Experiment {
    pub experiment_id: String,
    pub name: String,
    pub artifact_location: String,
    /// `active` or `deleted`.
    pub lifecycle_stage: String,
}

/// A key with a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    pub key: String,
    #[serde(default)]
    pub value: String,
}

/// Pairs as MLflow writes them.
pub(crate) fn pairs<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> Vec<Tag> {
    map.into_iter().map(|(key, value)| Tag { key: key.clone(), value: value.clone() }).collect()
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    pub key: String,
    /// May be NaN or infinite; then it travels as text.
    #[serde(serialize_with = "write_number", deserialize_with = "read_number")]
    pub value: f64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    #[serde(default)]
    pub step: i64,
}

fn write_number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match *value {
        value if value.is_finite() => serializer.serialize_f64(value),
        value if value.is_nan() => serializer.serialize_str("NaN"),
        value => serializer.serialize_str(if value > 0.0 { "Infinity" } else { "-Infinity" }),
    }
}

fn read_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    struct Number;
    impl Visitor<'_> for Number {
        type Value = f64;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a number, \"NaN\" or \"Infinity\"")
        }
        fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<f64, E> {
            Ok(v)
        }
        fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<f64, E> {
            Ok(v as f64)
        }
        fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<f64, E> {
            Ok(v as f64)
        }
        fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<f64, E> {
            v.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Number)
}

/// How a run ended, or that it did not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RunStatus {
    Running,
    Scheduled,
    Finished,
    Failed,
    Killed,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Run {
    pub info: RunInfo,
    #[serde(default)]
    pub data: RunData,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RunInfo {
    pub run_id: String,
    pub experiment_id: String,
    #[serde(default)]
    pub run_name: String,
    pub status: RunStatus,
    /// Where its artifacts are; one of the forms that [`Client::resolve`] knows.
    pub artifact_uri: String,
    /// Milliseconds since 1970.
    pub start_time: Option<i64>,
    pub end_time: Option<i64>,
}

/// What was logged: of a metric only the last value.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RunData {
    pub metrics: Vec<Metric>,
    pub params: Vec<Tag>,
    pub tags: Vec<Tag>,
}

impl RunData {
    #[must_use]
    pub fn metric(&self, key: &str) -> Option<f64> {
        self.metrics.iter().find(|m| m.key == key).map(|m| m.value)
    }

    #[must_use]
    pub fn param(&self, key: &str) -> Option<&str> {
        self.params.iter().find(|p| p.key == key).map(|p| p.value.as_str())
    }

    #[must_use]
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|t| t.key == key).map(|t| t.value.as_str())
    }
}

/// A run to be.
#[derive(Debug, Clone, Default)]
pub struct NewRun {
    pub experiment_id: String,
    /// Empty: the server thinks of a name.
    pub name: String,
    /// Milliseconds since 1970.
    pub start_time: i64,
    pub tags: BTreeMap<String, String>,
}

/// What to log in one go; logging the same again changes nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub metrics: Vec<Metric>,
    pub params: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Empty {}

#[derive(Deserialize)]
struct OneRun {
    run: Run,
}

impl Client {
    /// `None` when there is none of this name.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn experiment(&self, name: &str) -> Result<Option<Experiment>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            experiment: Experiment,
        }
        match self.call::<Answer>(Call::get("experiments/get-by-name", &[("experiment_name", name)])).await {
            Ok(answer) => Ok(Some(answer.experiment)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The experiment of this name, made when absent. Its id.
    ///
    /// # Errors
    /// No usable answer, or the experiment is deleted.
    pub async fn ensure_experiment(&self, name: &str) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Made {
            experiment_id: String,
        }
        if self.experiment(name).await?.is_none() {
            let made = self
                .create::<Made, _>("experiments/create", &json!({ "name": name }), || async {
                    let found = self.experiment(name).await?;
                    Ok(found.map(|e| Made { experiment_id: e.experiment_id }))
                })
                .await;
            match made {
                Ok(made) => return Ok(made.experiment_id),
                // Somebody else was faster.
                Err(error) if error.already_exists() => {}
                Err(error) => return Err(error),
            }
        }
        match self.experiment(name).await? {
            Some(found) if found.lifecycle_stage == "active" => Ok(found.experiment_id),
            _ => Err(Error::Refused {
                server: self.address.shown().to_owned(),
                call: "experiments/create".to_owned(),
                status: 400,
                code: "INVALID_STATE".to_owned(),
                message: format!("the experiment {name:?} is deleted; restore it or choose another name"),
            }),
        }
    }

    /// Starts a run.
    ///
    /// # Errors
    /// No usable answer. Where it is not known whether the run was made, it is looked for first.
    pub async fn create_run(&self, new: &NewRun) -> Result<Run, Error> {
        let mark = format!("{:016x}", random());
        let mut tags = pairs(&new.tags);
        tags.push(Tag { key: REQUEST_TAG.to_owned(), value: mark.clone() });
        let mut body = json!({ "experiment_id": new.experiment_id, "start_time": new.start_time, "tags": tags });
        if let Some(body) = body.as_object_mut().filter(|_| !new.name.is_empty()) {
            body.insert("run_name".to_owned(), json!(new.name));
        }
        let filter = format!("tags.`{REQUEST_TAG}` = '{mark}'");
        let made = self
            .create::<OneRun, _>("runs/create", &body, || async {
                let found = self.search_runs(&[&new.experiment_id], &filter, &[], 1).await?;
                Ok(found.into_iter().next().map(|run| OneRun { run }))
            })
            .await?;
        Ok(made.run)
    }

    /// A run by its id; `None` when there is none.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn run(&self, run_id: &str) -> Result<Option<Run>, Error> {
        match self.call::<OneRun>(Call::get("runs/get", &[("run_id", run_id)])).await {
            Ok(answer) => Ok(Some(answer.run)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Logs metrics, parameters and tags, in as many calls as MLflow's limits ask for.
    ///
    /// # Errors
    /// No usable answer; a parameter that has another value already.
    pub async fn log_batch(&self, run_id: &str, batch: &Batch) -> Result<(), Error> {
        let (params, tags) = (pairs(&batch.params), pairs(&batch.tags));
        let (mut metrics, mut params, mut tags) = (&batch.metrics[..], &params[..], &tags[..]);
        while !(metrics.is_empty() && params.is_empty() && tags.is_empty()) {
            let (now_params, later_params) = params.split_at(params.len().min(MAX_PARAMS));
            let (now_tags, later_tags) = tags.split_at(tags.len().min(MAX_PARAMS));
            // 1000 of all kinds together.
            let room = MAX_METRICS - now_params.len() - now_tags.len();
            let (now_metrics, later_metrics) = metrics.split_at(metrics.len().min(room));
            let body = json!({ "run_id": run_id, "metrics": now_metrics, "params": now_params, "tags": now_tags });
            self.call::<Empty>(Call::set("runs/log-batch", body)).await?;
            (metrics, params, tags) = (later_metrics, later_params, later_tags);
        }
        Ok(())
    }

    /// Sets the status; for an ended run also when it ended, in milliseconds since 1970.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn update_run(&self, run_id: &str, status: RunStatus, end_time: Option<i64>) -> Result<(), Error> {
        let body = json!({ "run_id": run_id, "status": status, "end_time": end_time });
        self.call::<Empty>(Call::set("runs/update", body)).await.map(|_| ())
    }

    /// # Errors
    /// No usable answer.
    pub async fn set_run_tag(&self, run_id: &str, key: &str, value: &str) -> Result<(), Error> {
        let body = json!({ "run_id": run_id, "key": key, "value": value });
        self.call::<Empty>(Call::set("runs/set-tag", body)).await.map(|_| ())
    }

    /// Runs of experiments; `filter` and `order_by` in MLflow's words (`metrics.val_rmse < 14`,
    /// `attributes.start_time DESC`).
    ///
    /// # Errors
    /// No usable answer, or a filter that MLflow does not understand.
    pub async fn search_runs(
        &self,
        experiment_ids: &[&str],
        filter: &str,
        order_by: &[&str],
        most: u32,
    ) -> Result<Vec<Run>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            runs: Vec<Run>,
        }
        let body =
            json!({ "experiment_ids": experiment_ids, "filter": filter, "order_by": order_by, "max_results": most });
        Ok(self.call::<Answer>(Call::set("runs/search", body)).await?.runs)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Metric;

    #[test]
    fn numbers_that_json_does_not_have_travel_as_text() {
        for value in [1.5, -3.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let text = serde_json::to_string(&Metric { key: "k".into(), value, timestamp: 1, step: 0 }).unwrap();
            let back: Metric = serde_json::from_str(&text).unwrap();
            assert!(back.value == value || (back.value.is_nan() && value.is_nan()), "{text}");
        }
        let whole: Metric = serde_json::from_str(r#"{"key":"k","value":3,"timestamp":1}"#).unwrap();
        assert_eq!((whole.value, whole.step), (3.0, 0));
    }
}
