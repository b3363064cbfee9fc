//! `manifest`: the objects of a template are in the cluster, as the template says, and no others that once were in it.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::short_form::{ShortForm, short_form};
use super::{Observed, Resolve, Resource};
use crate::cluster::object::set_label;
use crate::cluster::{
    self, MANAGED_BY_LABEL, MANIFEST_LABEL, ObjectRef, ObjectState, Takeover, apply, diff_of, label_value,
    parse_manifest,
};
use crate::diff::Diff;
use crate::host::{ReadHost, WriteHost};

/// How long objects may take to become ready when the stage does not say: seconds.
const DEFAULT_WAIT: u64 = 300;

/// How long a CustomResourceDefinition may take to be established.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// Kubernetes objects from a template under `templates/`: `manifest: postgres/postgres.yml`, or with options.
///
/// Each object is applied on the server's side under the name `provision`: fields that the template does not set belong to
/// whoever sets them. A field of the template that was changed by hand (`kubectl edit`, `scale`, `patch`, k9s) is found and set
/// back. A field that a controller owns (an autoscaler's `spec.replicas`) is an error that names it, unless `force` is set.
/// Namespaces and CustomResourceDefinitions are applied first, the rest in the order of the file; then all of them must become
/// ready.
///
/// ```yaml
/// - manifest: postgres/postgres.yml
/// - manifest: { path: web/web.yml, wait: 120 }
/// ```
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = super::short_form::or_text)]
pub struct Manifest {
    /// The template, relative to `templates/`: `postgres/postgres.yml`. One or many YAML documents.
    pub path: String,
    /// What tells it apart when one template is used several times (with `for_each`); the path when not given. Objects
    /// remember it: a manifest under a new name takes over the objects it has, and what only the old one had stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The namespace of objects that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// How long the objects may take to become ready after a change, in seconds; 300 when not given, 0 to not wait. What
    /// waiting cannot mend (an image that is not there, a failed Job) ends the wait at once.
    #[serde(default = "default_wait")]
    pub wait: u64,
    /// Take fields over from other controllers too; `false` when not given.
    #[serde(default)]
    pub force: bool,
    /// Delete objects that were in the template and no longer are; `true` when not given. Namespaces, volumes, claims and
    /// CustomResourceDefinitions hold data and are never deleted.
    #[serde(default = "default_prune")]
    pub prune: bool,
    /// Filled with the rendered template on the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    content: Option<String>,
}

fn default_wait() -> u64 {
    DEFAULT_WAIT
}

fn default_prune() -> bool {
    true
}

short_form!(Manifest);

impl ShortForm for Manifest {
    const EXPECTING: &'static str = "the path of a template, or a mapping with `path`";

    fn full<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }

    fn from_text(path: String) -> Result<Self, String> {
        Ok(Self { path, name: None, namespace: None, wait: DEFAULT_WAIT, force: false, prune: true, content: None })
    }
}

impl Manifest {
    /// Value of the label that says which manifest an object came from.
    fn label(&self) -> String {
        label_value(self.name.as_deref().unwrap_or(&self.path))
    }

    fn takeover(&self) -> Takeover {
        if self.force { Takeover::Always } else { Takeover::ByHand }
    }

    /// The objects in the order of applying, labelled.
    fn objects(&self) -> Result<Vec<Value>> {
        let content =
            self.content.as_deref().with_context(|| format!("the template {} was not rendered", self.path))?;
        let mut objects =
            parse_manifest(content).map_err(|fault| anyhow!("template {}, as rendered: {fault}", self.path))?;
        let label = self.label();
        for object in &mut objects {
            set_label(object, MANAGED_BY_LABEL.0, MANAGED_BY_LABEL.1);
            set_label(object, MANIFEST_LABEL, &label);
        }
        Ok(objects)
    }

    /// The objects with their namespaces, which only the server can tell: it knows which kinds have one.
    async fn placed_objects(&self, reader: &cluster::Reader) -> Result<Vec<Value>, cluster::Error> {
        let mut objects = self.objects().map_err(|error| cluster::Error::Rejected {
            object: self.path.clone(),
            code: 400,
            message: format!("{error:#}"),
        })?;
        if let Some(namespace) = &self.namespace {
            let cluster_wide = cluster_wide_kinds(&objects);
            for object in &mut objects {
                place(object, namespace, &cluster_wide, reader).await?;
            }
        }
        objects.sort_by_key(|object| ObjectRef::of(object).map_or(2, |reference| apply::rank(&reference)));
        Ok(objects)
    }

    async fn wait_for(&self, host: &dyn WriteHost, writer: &cluster::Writer, objects: &[ObjectRef]) -> Result<()> {
        if self.wait > 0 {
            writer.wait_ready(host, objects, Duration::from_secs(self.wait)).await?;
        }
        Ok(())
    }
}

/// Puts `namespace` on an object that names none and whose kind lives in namespaces.
async fn place(
    object: &mut Value,
    namespace: &str,
    cluster_wide: &[(String, String)],
    reader: &cluster::Reader,
) -> Result<(), cluster::Error> {
    let Ok(reference) = ObjectRef::of(object) else {
        return Ok(());
    };
    if reference.namespace.is_some() {
        return Ok(());
    }
    let namespaced = match reader.resource(&reference.api_version, &reference.kind).await {
        Ok((_, scope)) => scope == kube::discovery::Scope::Namespaced,
        // Not served yet: the definition is in this file, or the manifest is pending anyway.
        Err(cluster::Error::UnknownKind { .. }) => {
            !cluster_wide.iter().any(|(group, kind)| group == reference.group() && *kind == reference.kind)
        }
        Err(error) => return Err(error),
    };
    if namespaced && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("namespace".into(), namespace.into());
    }
    Ok(())
}

/// Group and kind of what the definitions in a file say lives in no namespace.
fn cluster_wide_kinds(objects: &[Value]) -> Vec<(String, String)> {
    objects
        .iter()
        .filter(|object| object.pointer("/spec/scope").and_then(Value::as_str) == Some("Cluster"))
        .filter_map(|definition| {
            let text = |pointer: &str| definition.pointer(pointer)?.as_str().map(str::to_owned);
            Some((text("/spec/group")?, text("/spec/names/kind")?))
        })
        .collect()
}

#[async_trait]
impl Resource for Manifest {
    const KIND: &'static str = "manifest";

    type State = Vec<ObjectState>;

    fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.path.clone())
    }

    fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        ensure!(self.content.is_none(), "`content` cannot be given: objects come from the template that `path` names");
        ensure!(self.name.as_deref() != Some(""), "`name` is empty: leave it out, or give the manifest a name");
        self.content = Some(project.template(&self.path)?);
        let objects = self.objects()?;
        ensure!(!objects.is_empty(), "template {}, as rendered, holds no object", self.path);
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<Self::State>> {
        let reader = match host.cluster().await {
            Ok(reader) => reader,
            Err(unavailable) => return Ok(Observed::Pending(unavailable.reason)),
        };
        let looked = async {
            let objects = self.placed_objects(&reader).await?;
            let mut states = reader.look_at(&objects, self.takeover()).await?;
            if self.prune {
                let wanted: Vec<ObjectRef> = states.iter().map(|state| state.reference.clone()).collect();
                states.extend(apply::unwanted(&reader, &self.label(), &wanted).await?);
            }
            Ok(states)
        }
        .await;
        known_or_pending(looked)
    }

    fn diff(&self, state: &Self::State) -> Diff {
        diff_of(state)
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        let writer = host.cluster_mut().await?;
        let objects = self.placed_objects(writer.reader()).await?;
        let references: Vec<ObjectRef> = objects.iter().map(ObjectRef::of).collect::<Result<_, _>>()?;
        for (object, reference) in objects.iter().zip(&references) {
            if !diff.has(&reference.to_string()) {
                continue;
            }
            host.progress(&format!("applying {reference}"));
            writer.apply(host, object, self.takeover()).await?;
            if apply::rank(reference) == 1 {
                // Its objects may follow in this very file.
                let definition = std::slice::from_ref(reference);
                writer.wait_ready(host, definition, ESTABLISH_TIMEOUT).await?;
            }
        }
        if self.prune {
            for gone in apply::unwanted(writer.reader(), &self.label(), &references).await? {
                if diff.has(&gone.reference.to_string()) {
                    host.progress(&format!("deleting {}", gone.reference));
                    writer.delete(host, &gone.reference).await?;
                }
            }
        }
        // All of them, also those that did not change: a changed ConfigMap is only done when its Deployment still runs.
        self.wait_for(host, &writer, &references).await
    }

    async fn settle(&self, host: &dyn WriteHost) -> Result<()> {
        let writer = host.cluster_mut().await?;
        let objects = self.placed_objects(writer.reader()).await?;
        let references: Vec<ObjectRef> = objects.iter().map(ObjectRef::of).collect::<Result<_, _>>()?;
        self.wait_for(host, &writer, &references).await
    }
}

/// Looks at a few fixed objects, for kinds that stand for them.
pub(super) async fn observe_objects(
    host: &dyn ReadHost,
    objects: &[Value],
    takeover: Takeover,
) -> Result<Observed<Vec<ObjectState>>> {
    match host.cluster().await {
        Ok(reader) => known_or_pending(reader.look_at(objects, takeover).await),
        Err(unavailable) => Ok(Observed::Pending(unavailable.reason)),
    }
}

/// Applies those objects that differ, for kinds that stand for a few fixed objects.
pub(super) async fn apply_objects(
    host: &dyn WriteHost,
    objects: &[Value],
    diff: &Diff,
    takeover: Takeover,
) -> Result<()> {
    let writer = host.cluster_mut().await?;
    for object in objects {
        if diff.has(&ObjectRef::of(object)?.to_string()) {
            writer.apply(host, object, takeover).await?;
        }
    }
    Ok(())
}

/// What an earlier step will provide (the API server, a kind) is pending; everything else is an error now.
fn known_or_pending(looked: Result<Vec<ObjectState>, cluster::Error>) -> Result<Observed<Vec<ObjectState>>> {
    match looked {
        Ok(states) => Ok(Observed::Known(states)),
        Err(error @ (cluster::Error::Unreachable(_) | cluster::Error::UnknownKind { .. })) => {
            Ok(Observed::Pending(error.to_string()))
        }
        Err(error) => bail!(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
