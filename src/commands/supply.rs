//! Artifacts and images for the compiler: the real ones, or stand-ins where only the form of the project is looked at.

use std::path::PathBuf;

use anyhow::Result;

use super::Invalid;
use crate::artifacts::{Lock, Store};
use crate::engine::compile::Supplier;
use crate::host::ArtifactPin;
use crate::image::Sources;
use crate::project::Project;
use crate::resources::{BuiltImage, ImageSource};
use crate::ui::Ui;

/// Whether things are really fetched and built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builds {
    Real,
    /// Stand-ins: nothing is built.
    Pretend,
}

/// Where artifacts and images come from.
pub struct Supply {
    builds: Builds,
    sources: Sources,
}

/// The artifacts of a project: `artifacts.yml`, and what its inventory lays over it.
///
/// # Errors
/// What is wrong in these files.
pub fn sources(project: &Project) -> Result<Sources> {
    let folder = project.inventory_path.parent().unwrap_or(&project.root);
    let base = project.root.join("artifacts.yml");
    let overlays = project.inventory.artifacts.iter().map(|path| folder.join(path));
    let paths: Vec<_> = Some(base).filter(|path| path.exists()).into_iter().chain(overlays).collect();
    let lock = Lock::load(&paths).map_err(Invalid::from)?;
    Ok(Sources::new(lock, Store::open()?, &project.root))
}

impl Supply {
    /// # Errors
    /// As [`sources`].
    pub fn open(project: &Project, builds: Builds) -> Result<Self> {
        Ok(Self { builds, sources: sources(project)? })
    }

    /// The supplier for the compiler, telling its progress to `ui`.
    pub fn on<'a>(&'a self, ui: &'a Ui) -> Supplying<'a> {
        Supplying { supply: self, ui }
    }

    /// The file with this content, if the cache of this machine has it.
    pub fn blob(&self, sha256: &str) -> Option<PathBuf> {
        self.sources.store().get(sha256).ok().flatten()
    }
}

/// A supply with a place for its progress.
pub struct Supplying<'a> {
    supply: &'a Supply,
    ui: &'a Ui,
}

impl Supplying<'_> {
    /// Runs `work` with its progress shown under `name`.
    fn told<T>(
        &self,
        name: &str,
        work: impl FnOnce(&Sources, &(dyn Fn(&str) + Send + Sync)) -> Result<T>,
    ) -> Result<T> {
        let result = work(&self.supply.sources, &|text| self.ui.progress(name, text));
        self.ui.progress_done(name);
        result
    }

    fn pretends(&self) -> bool {
        self.supply.builds == Builds::Pretend
    }

    /// A pin for what is not built: only its name is true.
    fn stand_in(&self, name: &str) -> ArtifactPin {
        ArtifactPin { name: name.to_owned(), version: "unbuilt".into(), sha256: "0".repeat(64), url: None }
    }

    fn built_stand_in(&self, name: &str) -> BuiltImage {
        let reference = format!("provision.local/{name}:unbuilt");
        BuiltImage { reference, digest: format!("sha256:{}", "0".repeat(64)), archive: self.stand_in(name) }
    }
}

impl Supplier for Supplying<'_> {
    fn artifact(&mut self, name: &str) -> Result<ArtifactPin> {
        if self.pretends() {
            // An unknown name is an error here too.
            self.supply.sources.lock().get(name)?;
            return Ok(self.stand_in(name));
        }
        self.told(name, |sources, progress| sources.artifact(name, progress))
    }

    fn image(&mut self, recipe: &str) -> Result<BuiltImage> {
        if self.pretends() {
            return Ok(self.built_stand_in("image"));
        }
        self.told(recipe, |sources, progress| sources.image(recipe, progress))
    }

    fn image_artifact(&mut self, name: &str) -> Result<ImageSource> {
        if self.pretends() {
            self.supply.sources.lock().get(name)?;
            return Ok(ImageSource::Built(self.built_stand_in(name)));
        }
        self.told(name, |sources, progress| sources.image_artifact(name, progress))
    }
}
