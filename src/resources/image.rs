//! A container image in k3s's containerd, under its name, with its content, kept from image garbage collection.

mod build;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{DockerSpec, Observed, Resolve, Resource};
use crate::diff::{Action, Diff};
use crate::host::{Cmd, Output, Query, ReadHost, WriteHost};
use crate::image::{BuiltImage, ImageSource};

/// The label that keeps an image from the kubelet's garbage collection, and its value.
const PINNED: &str = "io.cri-containerd.pinned=pinned";

/// Where k3s writes what `registries.yaml` says about mirrors, in the form that containerd reads.
const HOSTS_DIR: &str = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d";

/// How images that no longer have a use are called in a diff.
const OLD: &str = "old image ";

/// An image that pods of this host can use without a registry: built from a recipe of the project, or pinned in
/// `artifacts.yml`. Templates name it `{{ image.NAME }}`. Short form: `image: PATH` is `image: { recipe: PATH }`.
///
/// It is pinned against image garbage collection. When a new build of a recipe comes, older ones that no container uses are
/// removed.
///
/// Who brings a Dockerfile gets it built by BuildKit on the host (the optional stage `buildkit`). It is built again when a file
/// of its context or an argument changes; version control (`.git`) does not count and is not in the context.
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
                Ok(Image { recipe: Some(recipe.to_owned()), artifact: None, docker: Docker::default(), resolved: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Image, A::Error> {
                let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
                let sources = [&fields.recipe, &fields.artifact, &fields.dockerfile];
                if sources.into_iter().filter(|source| source.is_some()).count() != 1 {
                    return Err(de::Error::custom("an image has one of `recipe`, `artifact` and `dockerfile`"));
                }
                let docker = Docker {
                    dockerfile: fields.dockerfile,
                    context: fields.context,
                    name: fields.name,
                    build_args: fields.build_args,
                    target: fields.target,
                };
                if docker.dockerfile.is_none() && docker != Docker::default() {
                    let keys = "`context`, `name`, `build_args` and `target` belong to a `dockerfile`";
                    return Err(de::Error::custom(keys));
                }
                Ok(Image { recipe: fields.recipe, artifact: fields.artifact, docker, resolved: fields.resolved })
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
    /// Other builds of the same recipe that no container uses; only looked for when the wanted one is missing.
    unused: Vec<String>,
}

/// One image of containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    name: String,
    digest: String,
    pinned: bool,
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
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let source = self.source()?;
        let images = match answer(host.query(&Query::k3s_images()).await?)? {
            Answer::Table(table) => parse_images(&table)?,
            Answer::NotYet(reason) => return Ok(Observed::Pending(reason)),
        };
        let name = source.stored_name();
        let present = images.iter().find(|image| image.name == name).cloned();
        let ours = matches!(source, ImageSource::Built(_) | ImageSource::Dockerfile(_));
        if present.is_none()
            && matches!(source, ImageSource::Dockerfile(_))
            && let Some(reason) = build::lacks_buildkit(host)?
        {
            return Ok(Observed::Pending(reason));
        }
        let mut unused = Vec::new();
        if let (None, true, Some((repository, _))) = (&present, ours, name.rsplit_once(':')) {
            let old = |image: &&Stored| image.name.rsplit_once(':').is_some_and(|(other, _)| other == repository);
            if images.iter().any(|image| old(&image)) {
                let containers = match answer(host.query(&Query::k3s_containers()).await?)? {
                    Answer::Table(table) => parse_containers(&table)?,
                    Answer::NotYet(reason) => return Ok(Observed::Pending(reason)),
                };
                // A container may name its image by any of the names of the same content.
                let used: Vec<&str> = images
                    .iter()
                    .filter(|image| containers.contains(&image.name))
                    .map(|image| image.digest.as_str())
                    .collect();
                unused = images
                    .iter()
                    .filter(old)
                    .filter(|image| !used.contains(&image.digest.as_str()))
                    .map(|image| image.name.clone())
                    .collect();
            }
        }
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
                    diff.push(format!("{OLD}{name}"), "removed, no container uses it");
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
                ImageSource::Built(BuiltImage { archive, .. })
                | ImageSource::Registry { archive: Some(archive), .. } => {
                    let archive = host.fetch(archive).await?;
                    host.progress(&format!("importing {name}"));
                    let archive = archive.display().to_string();
                    host.run(&ctr(["import", "--label", PINNED, &archive])).await?;
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
            let Answer::Table(table) = answer(host.query(&Query::k3s_images()).await?)? else {
                bail!("containerd does not answer any more");
            };
            for name in names_of(&old, &parse_images(&table)?) {
                host.run(&ctr(["rm", &name])).await?;
            }
        }
        Ok(())
    }
}

/// The names to remove for these images: their own, and the one by configuration (`sha256:…`) that the kubelet's interface keeps
/// beside, unless another image has the same content.
fn names_of(old: &[&str], images: &[Stored]) -> Vec<String> {
    let by_config = |image: &Stored| image.name.starts_with("sha256:");
    let mut names = Vec::new();
    for image in images.iter().filter(|image| old.contains(&image.name.as_str())) {
        let same: Vec<&Stored> = images.iter().filter(|other| other.digest == image.digest).collect();
        names.push(image.name.clone());
        if same.iter().all(|other| by_config(other) || old.contains(&other.name.as_str())) {
            names.extend(same.iter().filter(|other| by_config(other)).map(|other| other.name.clone()));
        }
    }
    names.sort();
    names.dedup();
    names
}

fn ctr<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Cmd {
    Cmd::new(["/usr/local/bin/k3s", "ctr", "-n", "k8s.io", "images"].into_iter().chain(arguments))
}

/// What containerd answered.
enum Answer {
    Table(String),
    /// It cannot be asked yet, and why.
    NotYet(String),
}

fn answer(output: Output) -> Result<Answer> {
    if output.success() {
        return Ok(Answer::Table(output.stdout));
    }
    if output.status == 127 {
        return Ok(Answer::NotYet("needs k3s".to_owned()));
    }
    let reason = output.stderr.trim();
    let not_running = ["no such file", "connection refused", "failed to dial", "deadline exceeded"];
    if not_running.iter().any(|text| reason.contains(text)) {
        return Ok(Answer::NotYet("needs k3s: its containerd does not run".to_owned()));
    }
    bail!("asking containerd ended with status {}: {reason}", output.status)
}

/// Rows of `ctr images ls`: REF TYPE DIGEST SIZE PLATFORMS LABELS. Only the size has a space in it.
fn parse_images(table: &str) -> Result<Vec<Stored>> {
    rows(table, "REF")?
        .map(|row| {
            let columns: Vec<&str> = row.split_whitespace().collect();
            let (Some(name), Some(digest), Some(labels)) = (columns.first(), columns.get(2), columns.last()) else {
                bail!("containerd's list of images has a line that does not fit: {row:?}");
            };
            Ok(Stored {
                name: (*name).to_owned(),
                digest: (*digest).to_owned(),
                pinned: labels.split(',').any(|label| label == PINNED),
            })
        })
        .collect()
}

/// The images in `ctr containers ls`: CONTAINER IMAGE RUNTIME.
fn parse_containers(table: &str) -> Result<Vec<String>> {
    Ok(rows(table, "CONTAINER")?.filter_map(|row| row.split_whitespace().nth(1).map(str::to_owned)).collect())
}

fn rows<'a>(table: &'a str, first_column: &str) -> Result<impl Iterator<Item = &'a str>> {
    let mut lines = table.lines();
    // An empty list has no heading in some versions.
    if let Some(heading) = lines.next()
        && heading.split_whitespace().next() != Some(first_column)
    {
        bail!("containerd's list starts with {heading:?} where {first_column} was expected");
    }
    Ok(lines.filter(|line| !line.trim().is_empty()))
}

#[cfg(test)]
mod tests;
