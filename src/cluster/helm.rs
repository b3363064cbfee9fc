//! Helm releases as the cluster has them, and what Helm makes of a chart.
//!
//! Releases are read from the Secrets in which Helm keeps them, not by asking `helm`: it is one request, the same for
//! Helm 3 and 4, holds all that is compared (values, manifest, labels), and needs no program that could write anything.

use std::collections::BTreeMap;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use kube::core::params::{Patch, PatchParams};
use kube::core::request::Request;
use kube::discovery::Scope;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Writer;
use super::error::{Error, Result};
use super::object::{ObjectRef, parse_manifest};
use super::read::{Reader, built};
use super::rollout::Rollout;

/// One revision of a release.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    pub number: u64,
    pub status: Status,
    /// When it was begun, RFC 3339.
    pub since: String,
    /// Name and version of its chart: `minio 5.4.0`.
    pub chart: String,
    /// The values that were given, without the chart's own.
    pub values: Value,
    /// Its objects, without hooks and definitions of the chart's `crds` folder, with their namespaces.
    pub objects: Vec<Value>,
    /// Labels of the record, without Helm's own.
    pub labels: BTreeMap<String, String>,
    /// Its objects were applied on the server's side.
    pub server_side: bool,
}

/// State of a revision, in Helm's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Unknown,
    Deployed,
    Uninstalled,
    Superseded,
    Failed,
    Uninstalling,
    PendingInstall,
    PendingUpgrade,
    PendingRollback,
}

impl Status {
    /// Helm was ended in the middle, or is at work.
    pub fn is_pending(self) -> bool {
        matches!(self, Self::Uninstalling | Self::PendingInstall | Self::PendingUpgrade | Self::PendingRollback)
    }

    /// Helm's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Deployed => "deployed",
            Self::Uninstalled => "uninstalled",
            Self::Superseded => "superseded",
            Self::Failed => "failed",
            Self::Uninstalling => "uninstalling",
            Self::PendingInstall => "pending-install",
            Self::PendingUpgrade => "pending-upgrade",
            Self::PendingRollback => "pending-rollback",
        }
    }
}

/// The revisions of a release that were not replaced by later ones, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History(pub Vec<Revision>);

impl History {
    /// The newest revision; `None` when there is no release (any more).
    pub fn latest(&self) -> Option<&Revision> {
        self.0.last().filter(|revision| revision.status != Status::Uninstalled)
    }

    /// The newest revision that was deployed, before `number`; else one that was at least tried.
    pub fn to_go_back_to(&self, number: u64) -> Option<&Revision> {
        let mut before =
            self.0.iter().rev().filter(|revision| revision.number < number && !revision.status.is_pending());
        before
            .clone()
            .find(|revision| revision.status == Status::Deployed)
            .or_else(|| before.find(|revision| revision.status != Status::Uninstalled))
    }
}

/// What Helm makes of a chart.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rendered {
    /// What is in the `crds` folders.
    pub definitions: Vec<Value>,
    /// The objects of the release.
    pub objects: Vec<Value>,
    /// Objects that Helm makes at certain moments only.
    pub hooks: Vec<Value>,
}

/// The record as Helm writes it, as far as it is used.
#[derive(Deserialize)]
struct Record {
    version: u64,
    info: Info,
    chart: Chart,
    #[serde(default)]
    config: Value,
    #[serde(default)]
    manifest: String,
    #[serde(default)]
    apply_method: String,
}

#[derive(Deserialize)]
struct Info {
    status: Status,
    #[serde(default)]
    last_deployed: String,
}

#[derive(Deserialize)]
struct Chart {
    metadata: ChartMetadata,
}

#[derive(Deserialize)]
struct ChartMetadata {
    name: String,
    version: String,
}

/// Labels that Helm sets itself.
const OWN_LABELS: &[&str] = &["name", "owner", "status", "version", "createdAt", "modifiedAt"];

impl Reader {
    /// What the cluster has of a release.
    ///
    /// # Errors
    /// When the server does not answer, or a record cannot be read.
    pub async fn helm_history(&self, namespace: &str, release: &str) -> Result<History> {
        let secrets = self.helm_records(namespace, release, "status!=superseded").await?;
        let mut history = Vec::new();
        for secret in &secrets {
            history.push(self.helm_revision(secret, namespace).await?);
        }
        history.sort_by_key(|revision| revision.number);
        Ok(History(history))
    }

    /// The newest revision that is or was deployed and whose record has these labels (`a=b`, `a!=b`); `None` when there is
    /// none.
    ///
    /// # Errors
    /// As [`Reader::helm_history`].
    pub async fn helm_newest_deployed(&self, namespace: &str, release: &str, labels: &str) -> Result<Option<Revision>> {
        let selector = format!("status in (deployed,superseded),{labels}");
        let secrets = self.helm_records(namespace, release, &selector).await?;
        let number = |secret: &&Value| {
            let text = secret.pointer("/metadata/labels/version").and_then(Value::as_str)?;
            text.parse::<u64>().ok()
        };
        match secrets.iter().max_by_key(number) {
            Some(secret) => Ok(Some(self.helm_revision(secret, namespace).await?)),
            None => Ok(None),
        }
    }

    async fn helm_records(&self, namespace: &str, release: &str, selector: &str) -> Result<Vec<Value>> {
        self.list("v1", "Secret", Some(namespace), &format!("owner=helm,name={release},{selector}")).await
    }

    async fn helm_revision(&self, secret: &Value, namespace: &str) -> Result<Revision> {
        let mut revision = revision_in(secret).map_err(|reason| Error::Rejected {
            object: ObjectRef::of(secret).map_or_else(|_| "Secret".into(), |secret| secret.to_string()),
            code: 400,
            message: format!("is not a record of Helm that can be read: {reason}"),
        })?;
        self.place_all(&mut revision.objects, namespace, &[]).await?;
        Ok(revision)
    }

    /// Takes the output of `helm template --include-crds` apart. Objects without a namespace get that of the release.
    ///
    /// # Errors
    /// When it is not a manifest, or the server does not answer.
    pub async fn helm_rendered(&self, text: &str, namespace: &str) -> Result<Rendered> {
        let mut rendered = taken_apart(text).map_err(|message| Error::Rejected {
            object: "the chart, as rendered".into(),
            code: 400,
            message,
        })?;
        let definitions = rendered.definitions.clone();
        self.place_all(&mut rendered.definitions, namespace, &definitions).await?;
        self.place_all(&mut rendered.objects, namespace, &definitions).await?;
        self.place_all(&mut rendered.hooks, namespace, &definitions).await?;
        Ok(rendered)
    }

    /// Versions and kinds that the server serves, as charts ask for them: `apps/v1`, `apps/v1/Deployment`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn helm_capabilities(&self) -> Result<(String, Vec<String>)> {
        let version = match tokio::time::timeout(super::read::REQUEST_TIMEOUT, self.client().apiserver_version()).await
        {
            Ok(Ok(version)) => version.git_version,
            Ok(Err(error)) => return Err(Error::about_server(&error)),
            Err(_) => return Err(super::read::timed_out()),
        };
        let discovery = self.discovery(false).await?;
        let mut served = Vec::new();
        for group in discovery.groups() {
            for version in group.versions() {
                for (resource, _) in group.versioned_resources(version) {
                    served.push(format!("{}/{}", resource.api_version, resource.kind));
                    served.push(resource.api_version);
                }
            }
        }
        served.sort();
        served.dedup();
        Ok((version, served))
    }

    /// What of `objects` is not ready, and why: one text for each.
    pub async fn not_ready(&self, objects: &[ObjectRef]) -> Vec<(ObjectRef, String)> {
        let mut found = Vec::new();
        for object in objects {
            let why = match self.rollout(object).await {
                Ok(Rollout::Ready) => continue,
                Ok(Rollout::Waiting(reason)) => reason,
                Ok(Rollout::Hopeless(trouble)) => trouble.to_string(),
                Err(error) => error.to_string(),
            };
            found.push((object.clone(), why));
        }
        found
    }

    /// Puts `namespace` on those objects that name none and whose kind lives in namespaces.
    async fn place_all(&self, objects: &mut [Value], namespace: &str, definitions: &[Value]) -> Result<()> {
        for object in objects {
            let Ok(reference) = ObjectRef::of(object) else { continue };
            let namespaced = match self.resource(&reference.api_version, &reference.kind).await {
                Ok((_, scope)) => scope == Scope::Namespaced,
                Err(Error::UnknownKind { .. }) => !defined_cluster_wide(definitions, &reference),
                Err(error) => return Err(error),
            };
            let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
            if let (true, None, Some(metadata)) = (namespaced, &reference.namespace, metadata) {
                metadata.insert("namespace".into(), namespace.into());
            }
        }
        Ok(())
    }
}

impl Writer {
    /// Puts a label on Helm's record of a revision. Helm keeps it: it takes it over into the next revision, unless that is
    /// given another value.
    ///
    /// # Errors
    /// When the server does not answer, or there is no such record.
    pub async fn label_helm_record(
        &self,
        namespace: &str,
        release: &str,
        number: u64,
        (key, value): (&str, &str),
    ) -> Result<()> {
        let record =
            ObjectRef::new("v1", "Secret", Some(namespace), &format!("sh.helm.release.v1.{release}.v{number}"));
        let reader = self.reader();
        let (url, _) = reader.url(&record).await?;
        let patch = Patch::Merge(json!({"metadata": {"labels": {key: value}}}));
        let request = built(Request::new(url).patch(&record.name, &PatchParams::default(), &patch))?;
        reader.send(&record, reader.client().request::<Value>(request)).await?;
        Ok(())
    }
}

fn defined_cluster_wide(definitions: &[Value], object: &ObjectRef) -> bool {
    definitions.iter().any(|definition| {
        let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str);
        text("/spec/scope") == Some("Cluster")
            && text("/spec/group") == Some(object.group())
            && text("/spec/names/kind") == Some(&object.kind)
    })
}

fn revision_in(secret: &Value) -> Result<Revision, String> {
    let data = secret.pointer("/data/release").and_then(Value::as_str).ok_or("it has no `release`")?;
    // Once by Kubernetes, once by Helm.
    let encoded = STANDARD.decode(data).map_err(|error| error.to_string())?;
    let mut bytes = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).map_err(|error| error.to_string())?;
        bytes = plain;
    }
    // Not shown: it holds values, and so may an error about them.
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|error| format!("line {} column {} does not fit", error.line(), error.column()))?;
    let labels = secret.pointer("/metadata/labels").and_then(Value::as_object);
    let labels = labels
        .into_iter()
        .flatten()
        .filter(|(key, _)| !OWN_LABELS.contains(&key.as_str()))
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    Ok(Revision {
        number: record.version,
        status: record.info.status,
        since: record.info.last_deployed,
        chart: format!("{} {}", record.chart.metadata.name, record.chart.metadata.version),
        values: if record.config.is_null() { Value::Object(serde_json::Map::new()) } else { record.config },
        objects: taken_apart(&record.manifest)?.objects,
        labels,
        server_side: record.apply_method == "ssa",
    })
}

/// Definitions, objects and hooks of a rendered chart.
///
/// # Errors
/// What cannot be read, never with the text around it (it may hold secrets).
fn taken_apart(text: &str) -> Result<Rendered, String> {
    let mut rendered = Rendered::default();
    let mut source = String::new();
    for document in documents(text) {
        // A file of definitions may hold many documents; only the first has Helm's line. One that was itself made by Helm
        // brings lines of another chart.
        let chart = |path: &str| path.split('/').next().map(str::to_owned);
        let mut lines = document.lines().filter_map(|line| line.strip_prefix("# Source: ").map(str::trim));
        if let Some(line) = lines.next().filter(|line| source.is_empty() || chart(line) == chart(&source)) {
            source = line.to_owned();
        }
        let is_hook = document.contains("helm.sh/hook");
        let objects = match parse_manifest(document) {
            Ok(objects) => objects,
            // One without a fixed name: nothing to look at afterwards.
            Err(_) if is_hook && document.contains("generateName:") => continue,
            Err(fault) => return Err(format!("{source}: {fault}")),
        };
        for object in objects {
            let annotations = object.pointer("/metadata/annotations");
            let hook = annotations.and_then(|annotations| annotations.get("helm.sh/hook")).is_some();
            if is_in_crds_folder(&source) {
                rendered.definitions.push(object);
            } else if hook {
                rendered.hooks.push(object);
            } else {
                rendered.objects.push(object);
            }
        }
    }
    Ok(rendered)
}

/// Whether a file is in the `crds` folder of a chart or of one of its subcharts: `web/crds/a.yaml`,
/// `web/charts/db/crds/a.yaml`. `web/templates/crds/a.yaml` is a template like any other.
fn is_in_crds_folder(source: &str) -> bool {
    let mut folders = source.split('/').skip(1);
    loop {
        match folders.next() {
            Some("crds") => return true,
            // The subchart's name.
            Some("charts") => drop(folders.next()),
            _ => return false,
        }
    }
}

/// The documents of a YAML text: a line that begins with `---` in its first column begins one, whatever is around it.
fn documents(text: &str) -> Vec<&str> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            starts.push(at);
        }
        at += line.len();
    }
    starts.push(text.len());
    starts.windows(2).map(|pair| &text[pair[0]..pair[1]]).filter(|document| !document.trim().is_empty()).collect()
}

/// `predicted` without what `before` had and `after` has no longer. A dry run as another manager does not see it: those
/// fields are Helm's, and Helm takes them away.
pub fn without_removed(predicted: &Value, before: &Value, after: &Value) -> Value {
    match (predicted, before, after) {
        (Value::Object(predicted), Value::Object(before), Value::Object(after)) => {
            let kept = predicted.iter().filter(|(key, _)| after.contains_key(*key) || !before.contains_key(*key));
            Value::Object(
                kept.map(|(key, value)| {
                    let value = match (before.get(key), after.get(key)) {
                        (Some(before), Some(after)) => without_removed(value, before, after),
                        _ => value.clone(),
                    };
                    (key.clone(), value)
                })
                .collect(),
            )
        }
        (Value::Array(predicted), Value::Array(before), Value::Array(after)) => {
            let named = |list: &[Value], item: &Value| -> Option<Value> {
                let name = item.get("name")?;
                list.iter().find(|other| other.get("name") == Some(name)).cloned()
            };
            let kept = predicted.iter().filter_map(|item| match (named(before, item), named(after, item)) {
                (Some(_), None) => None,
                (Some(before), Some(after)) => Some(without_removed(item, &before, &after)),
                _ => Some(item.clone()),
            });
            Value::Array(kept.collect())
        }
        _ => predicted.clone(),
    }
}

/// Whether Helm leaves an object alone when it is no longer in the chart.
pub fn is_kept(object: &Value) -> bool {
    object.pointer("/metadata/annotations").and_then(|a| a.get("helm.sh/resource-policy")).and_then(Value::as_str)
        == Some("keep")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
