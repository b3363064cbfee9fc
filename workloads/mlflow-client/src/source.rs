//! Where artifacts are: the forms that a version's source has, and the place behind each.

use reqwest::Url;
use serde::Deserialize;
use serde_json::json;

use crate::client::{Call, Client};
use crate::error::Error;

/// A place that files can be listed in and downloaded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Through MLflow's artifact proxy; a path without slashes at its ends.
    Proxy { path: String },
    /// Directly in S3; a key without slashes at its ends.
    S3 { bucket: String, key: String },
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Proxy { path } => write!(f, "mlflow-artifacts:/{path}"),
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
        }
    }
}

impl Location {
    /// A file or folder below.
    #[must_use]
    pub fn join(&self, below: &str) -> Self {
        let join = |at: &str| match (at.is_empty(), below.is_empty()) {
            (_, true) => at.to_owned(),
            (true, false) => below.to_owned(),
            (false, false) => format!("{at}/{below}"),
        };
        match self {
            Self::Proxy { path } => Self::Proxy { path: join(path) },
            Self::S3 { bucket, key } => Self::S3 { bucket: bucket.clone(), key: join(key) },
        }
    }
}

/// A source, taken apart but not yet looked up.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Run { run_id: String, path: String },
    LoggedModel { id: String },
    Version { name: String, version: String },
    Alias { name: String, alias: String },
    Place(Location),
}

/// A copy of a version may point to a version, which may point on.
const MAX_STEPS: usize = 8;

fn parse(uri: &str, own_host: &str) -> Result<Source, Error> {
    let wrong = |reason: String| Error::Source { uri: shown(uri), reason };
    let (scheme, rest) = uri.split_once(':').ok_or_else(|| wrong(known_forms(&shown(uri))))?;
    let clean = |path: &str| -> Result<String, Error> {
        let path = path.trim_matches('/');
        if path.split('/').any(|part| matches!(part, "." | "..")) || path.contains('\\') || path.contains('\0') {
            return Err(wrong("a path with \"..\" in it".to_owned()));
        }
        Ok(path.to_owned())
    };
    match scheme {
        "runs" => {
            let rest = clean(rest)?;
            let (run_id, path) = rest.split_once('/').unwrap_or((&rest, ""));
            if run_id.is_empty() {
                return Err(wrong("no run id; the form is runs:/RUN_ID/model".to_owned()));
            }
            Ok(Source::Run { run_id: run_id.to_owned(), path: path.to_owned() })
        }
        "models" => {
            let rest = clean(rest)?;
            if let Some((name, alias)) = rest.rsplit_once('@') {
                return Ok(Source::Alias { name: name.to_owned(), alias: alias.to_owned() });
            }
            match rest.split_once('/') {
                Some((name, version)) if version.bytes().all(|b| b.is_ascii_digit()) && !version.is_empty() => {
                    Ok(Source::Version { name: name.to_owned(), version: version.to_owned() })
                }
                None if rest.starts_with("m-") => Ok(Source::LoggedModel { id: rest }),
                _ => Err(wrong("the forms are models:/m-ID, models:/NAME/VERSION and models:/NAME@ALIAS".to_owned())),
            }
        }
        "mlflow-artifacts" => {
            let path = match rest.strip_prefix("//") {
                // Names the server that proxies; ours is the only one that credentials go to.
                Some(rest) => {
                    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                    if !host.is_empty() && host != own_host {
                        return Err(wrong(format!("is kept by the server {host:?}, not by {own_host:?}")));
                    }
                    path
                }
                None => rest,
            };
            let path = clean(path)?;
            // Some versions write the address of the proxy's API into it.
            let path = path.strip_prefix("api/2.0/mlflow-artifacts/artifacts/").map_or(path.clone(), str::to_owned);
            Ok(Source::Place(Location::Proxy { path }))
        }
        "s3" => {
            let url = Url::parse(uri).map_err(|e| wrong(e.to_string()))?;
            let bucket = url.host_str().filter(|b| !b.is_empty()).ok_or_else(|| wrong("no bucket".to_owned()))?;
            if !url.username().is_empty() || url.password().is_some() {
                return Err(wrong("credentials do not belong here; set AWS_ACCESS_KEY_ID".to_owned()));
            }
            // Not the URL's path: that one is escaped.
            let key = rest.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
            Ok(Source::Place(Location::S3 { bucket: bucket.to_owned(), key: clean(key)? }))
        }
        _ => Err(wrong(known_forms(scheme))),
    }
}

fn known_forms(scheme: &str) -> String {
    if matches!(scheme, "file" | "") || scheme.starts_with('/') {
        return "is a path on the server's own disk; start MLflow with --serve-artifacts and --artifacts-destination, \
                so that new experiments keep their artifacts behind the server"
            .to_owned();
    }
    "not one of runs:/, models:/, mlflow-artifacts:/ and s3://".to_owned()
}

/// A URI for an error: without what stands before an `@` in its authority.
fn shown(uri: &str) -> String {
    match uri.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            format!("{scheme}://{}{path}", authority.rsplit_once('@').map_or(authority, |(_, host)| host))
        }
        None => uri.to_owned(),
    }
}

impl Client {
    /// The place behind a source, in any of its forms; asks the server where the form only names
    /// a run, a logged model or a version.
    ///
    /// # Errors
    /// A form that is none, something that does not exist, or no usable answer.
    pub async fn resolve(&self, uri: &str) -> Result<Location, Error> {
        let mut at = uri.to_owned();
        let mut below = String::new();
        for _ in 0..MAX_STEPS {
            let missing = |what: String| Error::Source { uri: shown(uri), reason: what };
            at = match parse(&at, &self.address.host())? {
                Source::Place(location) => return Ok(location.join(&below)),
                Source::LoggedModel { id } => self.logged_model_uri(&id).await?,
                Source::Version { name, version } => self.download_uri(&name, &version).await?,
                Source::Alias { name, alias } => {
                    let found = self.alias(&name, &alias).await?;
                    let version = found.ok_or_else(|| missing(format!("the model {name:?} has no alias {alias:?}")))?;
                    self.download_uri(&version.name, &version.version).await?
                }
                Source::Run { run_id, path } => {
                    let run = self.run(&run_id).await?.ok_or_else(|| missing(format!("there is no run {run_id:?}")))?;
                    // What Python logs as "model" since MLflow 3 is a logged model beside the run.
                    let logged = match self.logged_model_of_run(&run.info.experiment_id, &run_id, &path).await? {
                        Some(uri) if !self.run_has(&run_id, &path).await? => Some(uri),
                        _ => None,
                    };
                    if logged.is_none() {
                        below = path;
                    }
                    logged.unwrap_or(run.info.artifact_uri)
                }
            };
        }
        Err(Error::Source {
            uri: shown(uri),
            reason: format!("points from place to place more than {MAX_STEPS} times"),
        })
    }

    /// The artifact URI of a logged model, `m-..`.
    ///
    /// # Errors
    /// No usable answer, no such model.
    pub async fn logged_model_uri(&self, id: &str) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Answer {
            model: Logged,
        }
        let path = format!("logged-models/{id}");
        Ok(self.call::<Answer>(Call::get(&path, &[])).await?.model.info.artifact_uri)
    }

    async fn logged_model_of_run(&self, experiment: &str, run_id: &str, name: &str) -> Result<Option<String>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            models: Vec<Logged>,
        }
        if name.is_empty() || name.contains('/') {
            return Ok(None);
        }
        let filter = format!("source_run_id = '{}' AND name = '{}'", run_id.replace('\'', ""), name.replace('\'', ""));
        let body = json!({ "experiment_ids": [experiment], "filter": filter, "max_results": 1 });
        let found = self.call::<Answer>(Call::set("logged-models/search", body)).await?.models;
        Ok(found.into_iter().next().map(|model| model.info.artifact_uri))
    }

    /// Does the run itself keep anything at this path?
    async fn run_has(&self, run_id: &str, path: &str) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            files: Vec<serde_json::Value>,
        }
        let query = [("run_id", run_id), ("path", path)];
        Ok(!self.call::<Answer>(Call::get("artifacts/list", &query)).await?.files.is_empty())
    }
}

#[derive(Deserialize)]
struct Logged {
    info: LoggedInfo,
}

#[derive(Deserialize)]
struct LoggedInfo {
    artifact_uri: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Location, Source, parse};

    #[test]
    fn every_form() {
        let proxy = |path: &str| Source::Place(Location::Proxy { path: path.into() });
        for (uri, expected) in [
            ("runs:/abc/model", Source::Run { run_id: "abc".into(), path: "model".into() }),
            ("runs:/abc", Source::Run { run_id: "abc".into(), path: String::new() }),
            ("models:/m-1f", Source::LoggedModel { id: "m-1f".into() }),
            ("models:/cmapss-rul/12", Source::Version { name: "cmapss-rul".into(), version: "12".into() }),
            ("models:/cmapss-rul@production", Source::Alias { name: "cmapss-rul".into(), alias: "production".into() }),
            ("mlflow-artifacts:/1/r/artifacts/model", proxy("1/r/artifacts/model")),
            ("mlflow-artifacts://h:1/1/r", proxy("1/r")),
            ("mlflow-artifacts://h:1/api/2.0/mlflow-artifacts/artifacts/1/r", proxy("1/r")),
            ("s3://b/a%20b/c d/", Source::Place(Location::S3 { bucket: "b".into(), key: "a%20b/c d".into() })),
            ("s3://b", Source::Place(Location::S3 { bucket: "b".into(), key: String::new() })),
        ] {
            assert_eq!(parse(uri, "h:1").unwrap(), expected, "{uri}");
        }
    }

    #[test]
    fn every_other_form_says_why() {
        for (uri, word) in [
            ("runs:/", "run id"),
            ("runs:/a/../b", "\"..\""),
            ("mlflow-artifacts:/1/../../etc", "\"..\""),
            ("mlflow-artifacts://other/1", "other"),
            ("models:/name", "models:/NAME/VERSION"),
            ("models:/name/Production", "models:/NAME/VERSION"),
            ("s3:///k", "bucket"),
            ("s3://u:p@b/k", "AWS_ACCESS_KEY_ID"),
            ("file:///mlruns/1", "--serve-artifacts"),
            ("/mlruns/1", "--serve-artifacts"),
            ("gs://b/k", "s3://"),
            ("", "--serve-artifacts"),
        ] {
            let error = parse(uri, "h:1").unwrap_err().to_string();
            assert!(error.contains(word), "{uri}: {error}");
            assert!(!error.contains("u:p@"), "{error}");
        }
    }

    #[test]
    fn joining() {
        let root = Location::S3 { bucket: "b".into(), key: String::new() };
        assert_eq!(root.join("x").join("").join("y").to_string(), "s3://b/x/y");
    }
}
