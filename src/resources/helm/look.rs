//! What is there, and what Helm would make of the chart now.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::Helm;
use super::owner::foreign;
use crate::cluster::helm::{History, Rendered, is_kept, without_removed};
use crate::cluster::{Found, KUBECONFIG, ObjectRef, ObjectState, Reader, Takeover, changed_fields};
use crate::host::{HelmChart, HelmTemplate, MemoryFile, Query, ReadHost};
use crate::resources::Observed;

/// What was found.
pub struct Look {
    /// Helm's version: `v4.3.1`.
    pub version: String,
    pub namespace_missing: bool,
    pub history: History,
    pub rendered: Rendered,
    /// Definitions of the `crds` folder.
    pub definitions: Vec<ObjectState>,
    /// Objects of the chart, and those that it no longer has.
    pub objects: Vec<ObjectState>,
    /// The objects of the chart without what it makes up anew each time; as many as the first of `objects`.
    pub steady: Vec<Value>,
    /// Objects of the chart that exist and are not of this release, and whose they are.
    pub foreign: Vec<(ObjectRef, String)>,
}

/// Files in memory that Helm is given.
pub struct Given {
    pub chart: HelmChart,
    pub values: MemoryFile,
    pub kubeconfig: MemoryFile,
    /// Read by `chart`.
    _archive: Option<MemoryFile>,
}

impl Helm {
    pub async fn look(&self, host: &dyn ReadHost) -> Result<Observed<Look>> {
        let reader = match host.cluster().await {
            Ok(reader) => reader,
            Err(unavailable) => return Ok(Observed::Pending(unavailable.reason)),
        };
        let program = self.program();
        let answer = host.query(&Query::helm_version(&program)).await?;
        let version = match answer.status {
            127 => return Ok(Observed::Pending(format!("Helm is not installed yet (no {program})"))),
            0 => answer.stdout.trim().to_owned(),
            _ => bail!("`{program} version` failed: {}", last_line(&answer.stderr)),
        };
        let looked = self.look_with(host, &reader, version).await;
        match looked {
            Err(error) if error.downcast_ref::<crate::cluster::Error>().is_some_and(is_passing) => {
                Ok(Observed::Pending(format!("{error:#}")))
            }
            other => other.map(Observed::Known),
        }
    }

    async fn look_with(&self, host: &dyn ReadHost, reader: &Reader, version: String) -> Result<Look> {
        let history = reader.helm_history(&self.namespace, &self.release).await?;
        if let Some(latest) = history.latest() {
            self.ensure_alone(host, latest)?;
        }
        let namespace = ObjectRef::new("v1", "Namespace", None, &self.namespace);
        let namespace_missing = reader.get(&namespace).await?.is_none();
        let given = self.given(host).await?;
        let upgrade = history.latest().is_some();
        let rendered = self.render(host, reader, &given, upgrade).await?;
        let mut steady = rendered.objects.clone();
        let (definitions, mut objects) = self.compare(reader, &rendered, &steady, &history).await?;
        if upgrade && objects.iter().any(differs) {
            // What differs between two renderings is made up each time.
            let again = self.render(host, reader, &given, upgrade).await?;
            if again.objects != rendered.objects {
                steady = without_made_up(&rendered.objects, &again.objects);
                (_, objects) = self.compare(reader, &rendered, &steady, &history).await?;
            }
        }
        let known = history.latest().map_or(&[][..], |latest| &latest.objects);
        let foreign = foreign(&objects, known, &self.namespace, &self.release);
        if !self.take_ownership {
            self.refuse(&foreign)?;
        }
        Ok(Look { version, namespace_missing, history, rendered, definitions, objects, steady, foreign })
    }

    /// Chart, values and kubeconfig for Helm.
    pub async fn given(&self, host: &dyn ReadHost) -> Result<Given> {
        let kubeconfig = host.read_file(Path::new(KUBECONFIG))?.with_context(|| format!("{KUBECONFIG} has gone"))?;
        let content = match &self.chart.artifact {
            Some(artifact) => Some(host.peek(artifact.pin()?).await?),
            None => self.chart.content()?,
        };
        let file = content.map(|content| MemoryFile::new(&content)).transpose()?;
        let chart = match (self.chart.remote(), &file) {
            (Some(remote), _) => remote,
            (None, Some(file)) => HelmChart::Path(file.path()),
            (None, None) => bail!("the chart was not resolved"),
        };
        Ok(Given {
            chart,
            // JSON is YAML.
            values: MemoryFile::new(&serde_json::to_vec(&self.values)?)?,
            kubeconfig: MemoryFile::new(&kubeconfig)?,
            _archive: file,
        })
    }

    async fn render(&self, host: &dyn ReadHost, reader: &Reader, given: &Given, upgrade: bool) -> Result<Rendered> {
        let (kube_version, api_versions) = reader.helm_capabilities().await?;
        let (program, values, kubeconfig) = (self.program(), given.values.path(), given.kubeconfig.path());
        let mut fault = String::new();
        // With a look at the cluster, charts find what they made up before. That also asks for every kind, and fails
        // where one is defined by the chart itself and not there yet.
        for lookup in [true, false] {
            let question = HelmTemplate {
                program: &program,
                release: &self.release,
                namespace: &self.namespace,
                chart: &given.chart,
                values: &values,
                kubeconfig: &kubeconfig,
                kube_version: &kube_version,
                api_versions: &api_versions,
                upgrade,
                lookup,
            };
            if lookup && !upgrade {
                continue;
            }
            let answer =
                host.query(&Query::helm_template(&question)).await.with_context(|| match self.chart.remote() {
                    Some(_) => format!(
                        "the chart {} is brought from the network at every look; an `artifact` is brought once",
                        self.chart.title()
                    ),
                    None => format!("the chart {}", self.chart.title()),
                })?;
            if answer.success() {
                return Ok(reader.helm_rendered(&answer.stdout, &self.namespace).await?);
            }
            fault = said(&answer.stderr);
        }
        bail!("the chart {} cannot be rendered with these values: {fault}", self.chart.title())
    }

    /// Definitions and objects as they are and as they would be. `steady` is what is compared of the objects.
    async fn compare(
        &self,
        reader: &Reader,
        rendered: &Rendered,
        steady: &[Value],
        history: &History,
    ) -> Result<(Vec<ObjectState>, Vec<ObjectState>)> {
        let definitions: &[Value] = if self.crds { &rendered.definitions } else { &[] };
        let desired: Vec<Value> = definitions.iter().chain(steady).cloned().collect();
        let mut objects = reader.look_at(&desired, Takeover::Always).await?;
        let definitions = objects.drain(..definitions.len()).collect();
        let Some(latest) = history.latest() else {
            return Ok((definitions, objects));
        };
        for (state, after) in objects.iter_mut().zip(&rendered.objects) {
            let before = latest.objects.iter().find(|before| same(before, &state.reference));
            if let (Found::Present { predicted, .. }, Some(before)) = (&mut state.found, before) {
                *predicted = without_removed(predicted, before, after);
            }
        }
        for before in &latest.objects {
            let reference = ObjectRef::of(before)?;
            let stays = objects.iter().any(|state| state.reference.is_same_object(&reference));
            if !stays && !is_kept(before) && reader.get(&reference).await?.is_some() {
                objects.push(ObjectState { reference, found: Found::Unwanted });
            }
        }
        Ok((definitions, objects))
    }
}

/// What an earlier step will provide.
fn is_passing(error: &crate::cluster::Error) -> bool {
    use crate::cluster::Error;
    matches!(error, Error::Unreachable(_) | Error::UnknownKind { .. })
}

pub fn same(object: &Value, reference: &ObjectRef) -> bool {
    ObjectRef::of(object).is_ok_and(|other| other.is_same_object(reference))
}

pub fn differs(state: &ObjectState) -> bool {
    matches!(&state.found, Found::Present { live, predicted } if !changed_fields(live, predicted).is_empty())
}

/// The objects of a rendering without what another rendering has differently.
fn without_made_up(objects: &[Value], again: &[Value]) -> Vec<Value> {
    let twin = |object: &Value| {
        let reference = ObjectRef::of(object).ok()?;
        again.iter().find(|other| same(other, &reference))
    };
    objects.iter().map(|object| twin(object).map_or_else(|| object.clone(), |twin| common(object, twin))).collect()
}

fn common(one: &Value, other: &Value) -> Value {
    let agree = |one: &Value, other: &Value| one == other || (one.is_object() && other.is_object());
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let mut kept = Map::new();
            for (key, value) in one {
                match other.get(key) {
                    Some(twin) if agree(value, twin) => drop(kept.insert(key.clone(), common(value, twin))),
                    Some(Value::Array(twins)) if value.as_array().is_some_and(|list| list.len() == twins.len()) => {
                        let list = value.as_array().into_iter().flatten().zip(twins);
                        // A list is taken as a whole unless its items are objects.
                        if list.clone().all(|(item, twin)| agree(item, twin)) {
                            let list = list.map(|(item, twin)| common(item, twin)).collect();
                            kept.insert(key.clone(), Value::Array(list));
                        }
                    }
                    _ => {}
                }
            }
            Value::Object(kept)
        }
        _ => one.clone(),
    }
}

fn last_line(text: &str) -> &str {
    text.trim().lines().last().unwrap_or("it says nothing")
}

/// What Helm says is wrong, without its warnings and hints.
fn said(stderr: &str) -> String {
    let error = stderr.split_once("Error: ").map_or(stderr, |(_, error)| error);
    let lines: Vec<&str> = error.lines().map(str::trim_end).filter(|line| !line.is_empty()).take(20).collect();
    let lines: Vec<&str> = lines.into_iter().filter(|line| !line.starts_with("Use --debug flag")).collect();
    if lines.is_empty() { "Helm says nothing".into() } else { lines.join("\n  ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_made_up_each_time_is_left_out() {
        let object = |password: &str| {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"password": password, "user": "u"},
                "spec": {"containers": [{"name": "x", "args": ["--p", password], "image": "i"}]}})
        };
        let steady = without_made_up(&[object("one"), json!({"kind": "odd"})], &[object("two")]);
        assert_eq!(
            steady[0],
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"user": "u"},
                "spec": {"containers": [{"name": "x", "image": "i"}]}})
        );
        assert_eq!(steady[1], json!({"kind": "odd"}));
    }

    #[test]
    fn only_the_fault_is_said() {
        let stderr = "level=WARN msg=x\nError: execution error at (web/templates/a.yaml:3:4): port is needed\n\nUse --debug flag to render out invalid YAML\n";
        assert_eq!(said(stderr), "execution error at (web/templates/a.yaml:3:4): port is needed");
        assert_eq!(said(""), "Helm says nothing");
    }
}
