//! A container image in k3s's containerd, under its name, with its content, kept from image garbage collection.

mod build;
mod containerd;
mod old;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{DockerSpec, Observed, Resolve, Resource};
use crate::diff::{Action, Diff};
use crate::host::{ArtifactPin, ReadHost, WriteHost};
use crate::image::{BuiltImage, ImageSource};
use containerd::{PINNED, Stored, ctr, names_of};

/// Where k3s writes what `registries.yaml` says about mirrors, in the form that containerd reads.
const HOSTS_DIR: &str = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d";

/// How images that no longer have a use are called in a diff.
const OLD: &str = "old image ";

/// An image that pods of this host can use without a registry: built from a recipe of the project, or pinned in
/// `artifacts.yml`. Templates name it `{{ image.NAME }}`. Short form: `image: PATH` is `image: { recipe: PATH }`.
///
/// It is pinned against image garbage collection. When a new build or version comes, older ones that nothing uses are removed: no
/// container has them, and no Deployment, CronJob or the like of the cluster names them. What is still in use then goes with the
/// build after it.
///
/// Who brings a Dockerfile gets it built by BuildKit on the host (the optional stage `buildkit`). It is built again when a file
/// of its context or an argument changes; version control (`.git`) and what `.dockerignore` leaves out do not count and do not leave this machine.
///
/// ```yaml
/// - image: workloads/rul/image.yml
/// - image: { artifact: postgres }
/// - image: { dockerfile: apps/web/Dockerfile, build_args: { VERSION: "3" } }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
#[schemars(with = "Shape")]
pub struct Image {
    #[serde(skip_serializing_if = "Option::is_none")]
    recipe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact: Option<String>,
    #[serde(flatten)]
    docker: Docker,
    /// Known after `resolve`.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<ImageSource>,
    /// Names of other images of the project from the same repository: no old versions of this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    keep: Vec<String>,
}

/// The keys of an image that a Dockerfile describes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Docker {
    #[serde(skip_serializing_if = "Option::is_none")]
    dockerfile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    build_args: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// What a stage file may say.
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum Shape {
    /// Path of a recipe, relative to the project.
    Short(String),
    Full(ShapeFields),
}

/// An image of a recipe, an artifact or a Dockerfile.
#[derive(schemars::JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct ShapeFields {
    /// Path of a recipe, relative to the project: `workloads/rul/image.yml`.
    recipe: Option<String>,
    /// Name of an artifact of kind `image` in `artifacts.yml`: `postgres`.
    artifact: Option<String>,
    /// Path of a Dockerfile, relative to the project.
    dockerfile: Option<String>,
    /// The folder that it is built from, relative to the project. Default: the folder of the Dockerfile.
    context: Option<String>,
    /// Name of the image. Default: the name of the context's folder.
    name: Option<String>,
    /// Values for `ARG`. They are in the image's history: no place for secrets.
    build_args: Option<BTreeMap<String, String>>,
    /// The stage of the Dockerfile to build. Default: the last.
    target: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    recipe: Option<String>,
    artifact: Option<String>,
    dockerfile: Option<String>,
    context: Option<String>,
    name: Option<String>,
    #[serde(default)]
    build_args: BTreeMap<String, String>,
    target: Option<String>,
    resolved: Option<ImageSource>,
    #[serde(default)]
    keep: Vec<String>,
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = Image;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a recipe, { recipe: PATH }, { artifact: NAME } or { dockerfile: PATH }")
            }

            fn visit_str<E: de::Error>(self, recipe: &str) -> Result<Image, E> {
                let docker = Docker::default();
                Ok(Image { recipe: Some(recipe.to_owned()), artifact: None, docker, resolved: None, keep: Vec::new() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Image, A::Error> {
                let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
                let sources = [&fields.recipe, &fields.artifact, &fields.dockerfile];
                if sources.into_iter().filter(|source| source.is_some()).count() != 1 {
                    return Err(de::Error::custom("an image has one of `recipe`, `artifact` and `dockerfile`"));
                }
                let Fields { recipe, artifact, resolved, keep, dockerfile, context, name, build_args, target } = fields;
                let docker = Docker { dockerfile, context, name, build_args, target };
                if docker.dockerfile.is_none() && docker != Docker::default() {
                    let keys = "`context`, `name`, `build_args` and `target` belong to a `dockerfile`";
                    return Err(de::Error::custom(keys));
                }
                Ok(Image { recipe, artifact, docker, resolved, keep })
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

/// What is of it on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The image under the wanted name.
    present: Option<Stored>,
    /// Other builds or versions of it that nothing uses; only looked for when the wanted one is missing.
    unused: Vec<String>,
}

impl Image {
    fn source(&self) -> Result<&ImageSource> {
        self.resolved.as_ref().with_context(|| format!("image {} was not resolved", Resource::name(self)))
    }
}

#[async_trait]
impl Resource for Image {
    const KIND: &'static str = "image";

    type State = State;

    fn name(&self) -> String {
        let docker = self.docker.dockerfile.as_ref();
        self.artifact.as_ref().or(self.recipe.as_ref()).or(docker).cloned().unwrap_or_default()
    }

    fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        self.resolved = match (&self.recipe, &self.artifact) {
            (Some(recipe), _) => Some(ImageSource::Built(project.image(recipe)?)),
            (None, Some(artifact)) => Some(project.image_artifact(artifact)?),
            (None, None) => match &self.docker.dockerfile {
                Some(dockerfile) => {
                    let docker = self.docker.clone();
                    let spec = DockerSpec {
                        dockerfile: dockerfile.clone(),
                        context: docker.context,
                        name: docker.name,
                        build_args: docker.build_args,
                        target: docker.target,
                    };
                    Some(ImageSource::Dockerfile(project.docker_build(&spec)?))
                }
                None => None,
            },
        };
        if let Some(source @ ImageSource::Registry { .. }) = &self.resolved {
            self.keep = project.images_of(source.repository());
            self.keep.retain(|name| *name != source.stored_name());
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let source = self.source()?;
        let images = match containerd::images(host).await? {
            Ok(images) => images,
            Err(reason) => return Ok(Observed::Pending(reason)),
        };
        let name = source.stored_name();
        let present = images.iter().find(|image| image.name == name).cloned();
        if present.is_none()
            && matches!(source, ImageSource::Dockerfile(_))
            && let Some(reason) = build::lacks_buildkit(host)?
        {
            return Ok(Observed::Pending(reason));
        }
        let unused = if present.is_none() { old::unused(host, source, &self.keep, &images).await? } else { Vec::new() };
        Ok(Observed::Known(State { present, unused }))
    }

    fn diff(&self, state: &State) -> Diff {
        let Some(source) = &self.resolved else {
            return Diff::none();
        };
        let mut diff = Diff::none();
        match &state.present {
            None => {
                diff = Diff::new(Action::Create);
                let how = match source {
                    ImageSource::Built(_) | ImageSource::Registry { archive: Some(_), .. } => "imported",
                    ImageSource::Registry { archive: None, .. } => "pulled",
                    ImageSource::Dockerfile(_) => "built",
                };
                diff.push("image", format!("{} {how}", source.stored_name()));
                for name in &state.unused {
                    diff.push(format!("{OLD}{name}"), "removed, nothing uses it");
                }
            }
            Some(stored) => {
                if let Some(digest) = source.digest() {
                    diff.compare("digest", &stored.digest, digest);
                }
                if !stored.pinned {
                    diff.push("pinned", "not pinned -> pinned against image garbage collection");
                }
            }
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        let source = self.source()?;
        let name = source.stored_name();
        if diff.has("image") || diff.has("digest") {
            match source {
                ImageSource::Built(BuiltImage { archive, digest, .. })
                | ImageSource::Registry { archive: Some(archive), digest, .. } => {
                    import(host, archive, &name, digest).await?;
                }
                ImageSource::Dockerfile(docker) => {
                    build::build(host, docker).await?;
                    host.run(&ctr(["label", &name, PINNED])).await?;
                }
                ImageSource::Registry { archive: None, .. } => {
                    host.progress(&format!("pulling {name}"));
                    let mut argv = vec!["pull", "--label", PINNED];
                    if host.stat(Path::new(HOSTS_DIR))?.is_some() {
                        argv.extend(["--hosts-dir", HOSTS_DIR]);
                    }
                    argv.push(&name);
                    host.run(&ctr(argv).timeout(Duration::from_secs(3600))).await?;
                }
            }
        } else if diff.has("pinned") {
            host.run(&ctr(["label", &name, PINNED])).await?;
        }
        let old: Vec<&str> = diff.changes.iter().filter_map(|change| change.field.strip_prefix(OLD)).collect();
        if !old.is_empty() {
            let images = containerd::images(host.as_read()).await?;
            let images = images.map_err(|reason| anyhow!("containerd does not answer any more: {reason}"))?;
            for name in names_of(&old, &images) {
                host.run(&ctr(["rm", &name])).await?;
            }
        }
        Ok(())
    }
}

/// Imports an archive and, when containerd really has the image, removes it: the host would keep everything twice.
async fn import(host: &dyn WriteHost, archive: &ArtifactPin, name: &str, digest: &str) -> Result<()> {
    // A stage beside this one may bring the same archive, and must not find it removed.
    static ALONE: Mutex<()> = Mutex::const_new(());
    let _alone = ALONE.lock().await;
    let file = host.fetch(archive).await?;
    host.progress(&format!("importing {name}"));
    host.run(&ctr(["import", "--label", PINNED, &file.display().to_string()])).await?;
    let has = |image: &Stored| image.name == name && image.digest == digest;
    if containerd::images(host.as_read()).await?.is_ok_and(|images| images.iter().any(has)) {
        host.remove_file(&file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
