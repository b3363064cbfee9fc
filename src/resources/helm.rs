//! `helm`: a chart is installed as a release, with these values.
//!
//! The rendered objects are what is compared, not only the release: `helm template` of the chart as it would be applied now,
//! against the live objects. Helm itself makes the change (hooks, history, ownership), this program waits and judges.
//! Chart, values and kubeconfig are handed to Helm as files in memory: a plan leaves nothing behind, and no value with a
//! secret in it is ever on the host's disk.

mod apply;
mod at_work;
mod chart;
mod compare;
mod look;
mod owner;

use anyhow::{Context, Result, anyhow, ensure};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::chart::Chart;
use self::look::Look;
use super::path::HostPath;
use super::{Observed, Resolve, Resource};
use crate::cluster::yaml;
use crate::diff::Diff;
use crate::host::{ReadHost, WriteHost};

/// Label of Helm's record of a release: which content its chart had.
const CHART_LABEL: &str = "provision.dev/chart";

/// Label of Helm's record of a revision: whether all of its objects were seen ready. A revision without it was made by hand.
const READY_LABEL: &str = "provision.dev/ready";

/// Values of [`READY_LABEL`]: waited for in vain or not yet, seen ready, nobody wants to know.
const NOT_YET: &str = "no";
const YES: &str = "yes";
const UNASKED: &str = "unasked";

/// A Helm chart, installed as a release with all of these values (never with values of an earlier revision). Needs `helm` on the
/// host (the stage `tools`), version 3 or 4.
///
/// The plan shows what changes in the chart, in the values and in the live objects, also what was changed by hand. What a
/// chart makes up anew each time (a random password) is no difference. Text in values and in Secrets is not shown.
///
/// Definitions in the chart's `crds` folder are applied first, also those that changed. After a change all objects must become
/// ready. If they do not, the reasons are collected first; then an upgrade goes back to the last good revision, while a
/// first install stays as it is, to be looked at. A revision that was not seen ready is a change of the next plan, so that it
/// is waited for again. A release that a killed `helm` left behind in the middle of something is repaired first: the plan
/// says how.
///
/// ```yaml
/// - helm: { release: minio, namespace: mlops, chart: { artifact: minio-chart }, template: minio/values.yml }
/// - helm:
///     release: demo
///     namespace: demo
///     create_namespace: true
///     chart: { path: charts/demo }
///     values: { replicas: 2 }
/// ```
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Helm {
    /// Its name in the namespace: `minio`.
    release: String,
    /// The namespace of the release, and of objects that name none.
    namespace: String,
    /// Make the namespace when it does not exist; `false` when not given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    create_namespace: bool,
    /// Where the chart comes from: `{ artifact: NAME }`, `{ path: FOLDER }`, `{ oci: oci://…, version: V }` or
    /// `{ repo: https://…, name: N, version: V }`. Only the first two work without a network and are fixed by their content.
    chart: Chart,
    /// A template under `templates/` that gives values as YAML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    template: Option<String>,
    /// Values; they come over those of `template`, key by key.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    values: Map<String, Value>,
    /// Apply the definitions of the chart's `crds` folder; `true` when not given.
    #[serde(default = "yes")]
    crds: bool,
    /// How long the objects may take to become ready after a change, in seconds; 300 when not given, 0 to not wait. What
    /// waiting cannot mend ends the wait at once.
    #[serde(default = "five_minutes")]
    wait: u64,
    /// How long Helm itself may take, with the chart's hooks, in seconds; 300 when not given.
    #[serde(default = "five_minutes")]
    timeout: u64,
    /// Go back to the last good revision when an upgrade fails; `true` when not given.
    #[serde(default = "yes")]
    rollback: bool,
    /// Remove a first install that failed, after its reasons were shown; `false` when not given: it stays, to be looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    uninstall_failed: bool,
    /// Take over objects of the chart that exist already and are not of this release; `false` when not given: they are an
    /// error of the plan.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    take_ownership: bool,
    /// Revisions that are kept; 10 when not given.
    #[serde(default = "ten")]
    history: u32,
    /// The program; `/usr/local/bin/helm` when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    helm: Option<HostPath>,
}

fn yes() -> bool {
    true
}

fn five_minutes() -> u64 {
    300
}

fn ten() -> u32 {
    10
}

impl Helm {
    fn program(&self) -> String {
        self.helm.as_ref().map_or_else(|| "/usr/local/bin/helm".into(), HostPath::to_string)
    }

    /// Labels that are put on Helm's record.
    fn labels(&self) -> String {
        let ready = if self.wait > 0 { NOT_YET } else { UNASKED };
        format!("{CHART_LABEL}={},{READY_LABEL}={ready}", self.chart.label())
    }

    /// Whether all revisions up to `newest` are kept.
    fn remembers(&self, newest: u64) -> bool {
        self.history == 0 || newest <= u64::from(self.history)
    }

    /// The values of the template with those of the spec over them.
    fn merged_values(&self, template: Option<&str>) -> Result<Map<String, Value>> {
        let Some(text) = template else {
            return Ok(self.values.clone());
        };
        let mut documents = yaml::read(text).map_err(|error| anyhow!("{error}"))?;
        let mut values = match (documents.pop(), documents.is_empty()) {
            (None | Some(Value::Null), true) => Map::new(),
            (Some(Value::Object(values)), true) => values,
            (_, true) => return Err(anyhow!("values must be a mapping")),
            (_, false) => return Err(anyhow!("values must be one document")),
        };
        compare::merge(&mut values, &self.values);
        Ok(values)
    }
}

#[async_trait]
impl Resource for Helm {
    const KIND: &'static str = "helm";

    type State = Look;

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.release)
    }

    fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        for (key, name, longest) in [("release", &self.release, 53), ("namespace", &self.namespace, 63)] {
            let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            let edges = !name.starts_with('-') && !name.ends_with('-');
            ensure!(
                !name.is_empty() && name.len() <= longest && plain && edges,
                "`{key}` {name:?} must be at most {longest} lower-case letters, digits and dashes, with none of these at its ends"
            );
        }
        ensure!(self.timeout > 0, "a `timeout` of 0 seconds ends Helm at once; give it more or leave it out");
        self.chart.resolve(project)?;
        if let Some(path) = self.template.take() {
            let text = project.template(&path)?;
            self.values = self.merged_values(Some(&text)).with_context(|| format!("template {path}, as rendered"))?;
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<Look>> {
        self.look(host).await
    }

    fn diff(&self, look: &Look) -> Diff {
        compare::diff(self, look)
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        apply::Apply::begin(self, host).await?.run(diff).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
