//! The model registry: registered models, their versions, aliases.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use crate::client::{Call, Client};
use crate::error::Error;
use crate::runs::{REQUEST_TAG, Tag, pairs};
use crate::send::random;

/// A name that versions are filed under.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RegisteredModel {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default, deserialize_with = "aliases")]
    pub aliases: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "tags")]
    pub tags: BTreeMap<String, String>,
}

/// One version of a registered model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ModelVersion {
    pub name: String,
    /// A whole number, as text.
    pub version: String,
    /// Where its artifacts are, as it was registered.
    pub source: String,
    #[serde(default)]
    pub run_id: String,
    /// `READY`, or why not.
    #[serde(default)]
    pub status: String,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub creation_timestamp: i64,
    #[serde(default, deserialize_with = "tags")]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    pub aliases: Vec<String>,
}

fn tags<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Vec::<Tag>::deserialize(deserializer)?.into_iter().map(|tag| (tag.key, tag.value)).collect())
}

fn aliases<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    struct Alias {
        alias: String,
        version: String,
    }
    Ok(Vec::<Alias>::deserialize(deserializer)?.into_iter().map(|a| (a.alias, a.version)).collect())
}

/// A version to be.
#[derive(Debug, Clone, Default)]
pub struct NewVersion {
    pub name: String,
    /// `runs:/..`, `mlflow-artifacts:/..`, `models:/m-..` or `s3://..`.
    pub source: String,
    /// Empty: none.
    pub run_id: String,
    pub tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Empty {}

#[derive(Deserialize)]
struct OneVersion {
    model_version: ModelVersion,
}

impl Client {
    /// `None` when there is no such model.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn registered_model(&self, name: &str) -> Result<Option<RegisteredModel>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            registered_model: RegisteredModel,
        }
        match self.call::<Answer>(Call::get("registered-models/get", &[("name", name)])).await {
            Ok(answer) => Ok(Some(answer.registered_model)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the registered model where it is absent.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn ensure_registered_model(&self, name: &str, description: &str) -> Result<(), Error> {
        if self.registered_model(name).await?.is_some() {
            return Ok(());
        }
        // That it is there is all that is asked for, so a second attempt does no harm.
        let body = json!({ "name": name, "description": description });
        match self.call::<serde_json::Value>(Call::set("registered-models/create", body)).await {
            Err(error) if !error.already_exists() => Err(error),
            _ => Ok(()),
        }
    }

    /// The version that an alias points to; `None` when the model or the alias is missing.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn alias(&self, name: &str, alias: &str) -> Result<Option<ModelVersion>, Error> {
        match self.call::<OneVersion>(Call::get("registered-models/alias", &[("name", name), ("alias", alias)])).await {
            Ok(answer) => Ok(Some(answer.model_version)),
            Err(error) if error.is_missing() => Ok(None),
            // A missing alias is not "missing" for MLflow but a wrong parameter.
            Err(Error::Refused { status: 400, message, .. })
                if message.contains("alias") && message.contains("not found") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Points an alias to a version, in one step also when it pointed elsewhere.
    ///
    /// # Errors
    /// No usable answer; an unknown version; a reserved name (`latest`, `v2`).
    pub async fn set_alias(&self, name: &str, alias: &str, version: &str) -> Result<(), Error> {
        let body = json!({ "name": name, "alias": alias, "version": version });
        self.call::<Empty>(Call::set("registered-models/alias", body)).await.map(|_| ())
    }

    /// Deletes an alias; one that is not there is no error.
    ///
    /// # Errors
    /// No usable answer; no such model.
    pub async fn delete_alias(&self, name: &str, alias: &str) -> Result<(), Error> {
        let body = json!({ "name": name, "alias": alias });
        self.call::<Empty>(Call::delete("registered-models/alias", body)).await.map(|_| ())
    }

    /// Registers a version.
    ///
    /// # Errors
    /// No usable answer; a source that MLflow does not take. Where it is not known whether the
    /// version was made, it is looked for first.
    pub async fn create_version(&self, new: &NewVersion) -> Result<ModelVersion, Error> {
        let mark = format!("{:016x}", random());
        let mut tags = pairs(&new.tags);
        tags.push(Tag { key: REQUEST_TAG.to_owned(), value: mark.clone() });
        let mut body = json!({ "name": new.name, "source": new.source, "tags": tags });
        if let Some(body) = body.as_object_mut().filter(|_| !new.run_id.is_empty()) {
            body.insert("run_id".to_owned(), json!(new.run_id));
        }
        let made = self
            .create::<OneVersion, _>("model-versions/create", &body, || async {
                let newest = self.versions(&new.name, 20).await?;
                let found = newest.into_iter().find(|v| v.tags.get(REQUEST_TAG) == Some(&mark));
                Ok(found.map(|model_version| OneVersion { model_version }))
            })
            .await?;
        Ok(made.model_version)
    }

    /// `None` when there is no such model or version.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn version(&self, name: &str, version: &str) -> Result<Option<ModelVersion>, Error> {
        // MLflow calls anything but a number a wrong parameter.
        if version.is_empty() || !version.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(None);
        }
        match self.call::<OneVersion>(Call::get("model-versions/get", &[("name", name), ("version", version)])).await {
            Ok(answer) => Ok(Some(answer.model_version)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Versions of a model, the newest first; none for an unknown model. They come without aliases.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn versions(&self, name: &str, most: u32) -> Result<Vec<ModelVersion>, Error> {
        self.search_versions(&format!("name='{}'", quoted(name)), most).await
    }

    /// Versions that a run made, the newest first.
    ///
    /// # Errors
    /// No usable answer.
    pub async fn versions_of_run(&self, run_id: &str, most: u32) -> Result<Vec<ModelVersion>, Error> {
        self.search_versions(&format!("run_id='{}'", quoted(run_id)), most).await
    }

    async fn search_versions(&self, filter: &str, most: u32) -> Result<Vec<ModelVersion>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            model_versions: Vec<ModelVersion>,
        }
        let most = most.to_string();
        let query = [("filter", filter), ("max_results", &most), ("order_by", "version_number DESC")];
        Ok(self.call::<Answer>(Call::get("model-versions/search", &query)).await?.model_versions)
    }

    /// # Errors
    /// No usable answer; no such version.
    pub async fn set_version_tag(&self, name: &str, version: &str, key: &str, value: &str) -> Result<(), Error> {
        let body = json!({ "name": name, "version": version, "key": key, "value": value });
        self.call::<Empty>(Call::set("model-versions/set-tag", body)).await.map(|_| ())
    }

    /// Where MLflow says that a version's artifacts are; give it to [`Client::resolve`].
    ///
    /// # Errors
    /// No usable answer; no such version.
    pub async fn download_uri(&self, name: &str, version: &str) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Answer {
            artifact_uri: String,
        }
        let query = [("name", name), ("version", version)];
        Ok(self.call::<Answer>(Call::get("model-versions/get-download-uri", &query)).await?.artifact_uri)
    }
}

/// A text inside the single quotes of MLflow's filters, which know no escape but for `'` itself.
fn quoted(text: &str) -> String {
    text.replace('\'', "\\'")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{ModelVersion, RegisteredModel};

    #[test]
    fn answers_as_mlflow_gives_them() {
        let version: ModelVersion = serde_json::from_str(
            r#"{"name":"m","version":"3","creation_timestamp":1795634791977,"current_stage":"None","source":"runs:/r/model",
                "run_id":"r","status":"READY","tags":[{"key":"a","value":"1"},{"key":"b"}],"aliases":["production"]}"#,
        )
        .unwrap();
        assert_eq!(version.tags.len(), 2);
        assert_eq!(version.aliases, ["production"]);
        let model: RegisteredModel = serde_json::from_str(
            r#"{"name":"m","aliases":[{"alias":"production","version":"3"}],"latest_versions":[]}"#,
        )
        .unwrap();
        assert_eq!(model.aliases.get("production").unwrap(), "3");
    }
}
