//! Resource kinds: one file each, with its YAML spec, observe, diff, apply and its unit tests.
//!
//! The contract: [`Resource::observe`] looks, [`Resource::diff`] compares (pure), [`Resource::apply`] does exactly the diff.
//! The engine observes again after apply, and the second diff must be empty.

pub mod apt;
pub mod archive;
pub mod artifact;
pub mod bucket;
pub mod command;
pub mod directory;
pub mod download;
pub mod file;
pub mod helm;
pub mod hostname;
pub mod image;
pub mod kernel_module;
pub mod link;
pub mod manifest;
pub mod minio_user;
pub mod mode;
pub mod namespace;
pub mod path;
mod placement;
pub mod postgres_database;
pub mod postgres_role;
pub mod postgres_superuser;
#[cfg(test)]
mod promise_tests;
pub mod registry;
pub mod secret;
pub mod short_form;
pub mod swap;
pub mod sysctl;
pub mod systemd_unit;
#[cfg(test)]
pub mod testing;
pub mod timezone;
pub mod ufw;
pub mod user;

use std::path::PathBuf;

use anyhow::Result;
use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::diff::Diff;
use crate::host::{ArtifactPin, ReadHost, WriteHost};

pub use crate::artifacts::debian::Shipped;
pub use crate::image::dockerfile::{DockerBuild, DockerSpec};
pub use crate::image::{BuiltImage, ImageSource};

/// What observing found.
#[derive(Debug, Clone, PartialEq)]
pub enum Observed<S> {
    /// The state as it is.
    Known(S),
    /// It cannot be known yet: what an earlier, not yet applied step will provide is missing. Says what.
    Pending(String),
}

/// What a kind needs from the project before its spec is concrete. Runs on the controller, before anything connects.
pub trait Resolve {
    /// A template under `templates/`, rendered with the values of the stage. `path` is relative to that folder.
    ///
    /// # Errors
    /// When it does not exist or does not render; the error has file:line:col.
    fn template(&mut self, path: &str) -> Result<String>;

    /// A file of the project, verbatim. `path` is relative to the project.
    ///
    /// # Errors
    /// When it does not exist or lies outside the project.
    fn source(&mut self, path: &str) -> Result<Vec<u8>>;

    /// All files of a folder of the project, by their sorted paths relative to it. `path` is relative to the project.
    ///
    /// # Errors
    /// When it does not exist or lies outside the project.
    fn folder(&mut self, path: &str) -> Result<Vec<(String, Vec<u8>)>>;

    /// A pinned artifact by its name.
    ///
    /// # Errors
    /// When `artifacts.yml` has none of this name, with a suggestion.
    fn artifact(&mut self, name: &str) -> Result<ArtifactPin>;

    /// An image built from a recipe of the project (path relative to the project, e.g. `workloads/rul/image.yml`).
    ///
    /// # Errors
    /// When the recipe is wrong or the build fails.
    fn image(&mut self, recipe: &str) -> Result<BuiltImage>;

    /// A pinned image by its name in `artifacts.yml`: one of a registry, or built from the recipe that is laid over it.
    ///
    /// # Errors
    /// When there is none of this name (with a suggestion), it is not an image, or the build fails.
    fn image_artifact(&mut self, name: &str) -> Result<ImageSource>;

    /// What a host needs to build the image of a Dockerfile.
    ///
    /// # Errors
    /// When the Dockerfile or its context is not there.
    fn docker_build(&mut self, spec: &DockerSpec) -> Result<DockerBuild> {
        anyhow::bail!("there is no {}", spec.dockerfile)
    }

    /// Names (as containerd has them) of all images of the project that come from this repository.
    fn images_of(&mut self, _repository: &str) -> Vec<String> {
        Vec::new()
    }

    /// Debian packages that the controller brings along; `None`: hosts ask their mirrors.
    fn packages(&mut self) -> Option<Shipped> {
        None
    }
}

/// One thing in a desired state.
#[async_trait]
pub trait Resource: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The key in stage files.
    const KIND: &'static str;

    /// What is, as observed.
    type State: Send;

    /// What tells it apart from others of its kind in the stage: a path, a name. Never a secret.
    fn name(&self) -> String;

    /// Makes the spec concrete with what the project knows, and checks what the type cannot express.
    ///
    /// # Errors
    /// What is wrong with the spec; the caller adds the place.
    fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        let _ = project;
        Ok(())
    }

    /// Paths on the host that this one depends on: when an earlier resource will change one of them, this one will change
    /// too, although it cannot see that yet (a unit restarts with its new configuration). `plan` says so.
    fn inputs(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Looks, changing nothing.
    ///
    /// # Errors
    /// When looking failed in a way that no earlier step will mend.
    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<Self::State>>;

    /// Compares; pure. Must not contain secret values (the redactor is the second line, not the first).
    fn diff(&self, state: &Self::State) -> Diff;

    /// Does exactly `diff`.
    ///
    /// # Errors
    /// Why it could not be done.
    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()>;

    /// Waits until what is as it must be also works, changing nothing. `up` calls it where there is nothing to apply: a
    /// wait that failed, or was cut off, in an earlier run must not count as passed.
    ///
    /// # Errors
    /// What does not become ready, and why.
    async fn settle(&self, host: &dyn WriteHost) -> Result<()> {
        let _ = host;
        Ok(())
    }
}

/// What is to be done about one resource now.
#[derive(Debug, Clone, PartialEq)]
pub enum Planned {
    /// Nothing.
    InSync,
    /// This.
    Change(Diff),
    /// Not knowable yet, and why.
    Pending(String),
}

/// A resource whose kind is known only at run time.
#[async_trait]
pub trait AnyResource: Send + Sync {
    fn kind(&self) -> &'static str;
    fn name(&self) -> String;
    /// See [`Resource::resolve`].
    fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()>;
    /// See [`Resource::inputs`].
    fn inputs(&self) -> Vec<PathBuf>;
    /// Observe and diff.
    async fn plan(&self, host: &dyn ReadHost) -> Result<Planned>;
    /// See [`Resource::apply`].
    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()>;
    /// See [`Resource::settle`].
    async fn settle(&self, host: &dyn WriteHost) -> Result<()>;
    /// The spec, as it is sent to the agent.
    fn spec(&self) -> Result<serde_json::Value>;
}

#[async_trait]
impl<R: Resource> AnyResource for R {
    fn kind(&self) -> &'static str {
        R::KIND
    }

    fn name(&self) -> String {
        Resource::name(self)
    }

    fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        Resource::resolve(self, project)
    }

    fn inputs(&self) -> Vec<PathBuf> {
        Resource::inputs(self)
    }

    async fn plan(&self, host: &dyn ReadHost) -> Result<Planned> {
        Ok(match self.observe(host).await? {
            Observed::Pending(reason) => Planned::Pending(reason),
            Observed::Known(state) => {
                let diff = self.diff(&state);
                if diff.is_empty() { Planned::InSync } else { Planned::Change(diff) }
            }
        })
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        Resource::apply(self, host, diff).await
    }

    async fn settle(&self, host: &dyn WriteHost) -> Result<()> {
        Resource::settle(self, host).await
    }

    fn spec(&self) -> Result<serde_json::Value> {
        Ok(serde_json::to_value(self)?)
    }
}
