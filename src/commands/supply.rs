//! Artifacts and images for the compiler: the real ones, or stand-ins where only the form of the project is looked at.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use serde_json::{Map, Value};

use super::Invalid;
use super::bundle::{Lacking, Unpacked};
use crate::artifacts::{Artifact, Lock, Source, Store};
use crate::engine::compile::Supplier;
use crate::hash;
use crate::host::ArtifactPin;
use crate::image::Sources;
use crate::project::Project;
use crate::project::render::lookup;
use crate::resources::{BuiltImage, DockerBuild, DockerSpec, ImageSource, Shipped};
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
    /// Where everything comes from, where there is no network.
    bundle: Option<Unpacked>,
    asked: Mutex<Asked>,
}

/// What was asked for, and what it was.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// By name.
    pub artifacts: BTreeMap<String, ArtifactPin>,
    /// By name of the artifact or path of the recipe.
    pub images: BTreeMap<String, ImageSource>,
    /// Images that the bundle does not have, by the reference that stands in for each, and why. Only one that is used is an
    /// error: images are looked up for all stages, also for those that were not chosen.
    pub lacking: BTreeMap<String, String>,
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
        Ok(Self { builds, sources: sources(project)?, bundle: None, asked: Mutex::default() })
    }

    /// From now on, everything comes from this bundle.
    #[must_use]
    pub fn with_bundle(self, bundle: Unpacked) -> Self {
        Self { bundle: Some(bundle), ..self }
    }

    /// The bundle that everything comes from.
    pub fn bundle(&self) -> Option<&Unpacked> {
        self.bundle.as_ref()
    }

    /// The artifacts of the project.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The version of each artifact by its name, for templates.
    pub fn versions(&self) -> Map<String, Value> {
        let of = |artifact: &Artifact| (artifact.name.clone(), Value::String(artifact.version.clone()));
        self.sources.lock().iter().map(of).collect()
    }

    /// What was asked for so far.
    pub fn asked(&self) -> Asked {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, note: impl FnOnce(&mut Asked)) {
        note(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What the bundle does not have is an error only where it is used.
    fn lacking(&self, what: &str, error: anyhow::Error) -> Result<BuiltImage> {
        let reason = error.downcast::<Lacking>()?.to_string();
        // Templates know a recipe's image by its own name.
        let name = self.sources.recipe_name(what).unwrap_or_else(|_| what.to_owned());
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_ascii_lowercase();
        let image = BuiltImage {
            reference: format!("provision.local/{name}:not-in-the-bundle"),
            digest: format!("sha256:{}", "0".repeat(64)),
            archive: ArtifactPin { name: what.to_owned(), version: String::new(), sha256: "0".repeat(64), url: None },
        };
        self.note(|asked| {
            asked.lacking.insert(image.reference.clone(), reason);
        });
        Ok(image)
    }

    /// The supplier for the compiler, telling its progress to `ui`.
    pub fn on<'a>(&'a self, ui: &'a Ui) -> Supplying<'a> {
        Supplying { supply: self, ui }
    }

    /// The archive with Helm that the project means, for this machine.
    ///
    /// # Errors
    /// When there is none, or the bundle does not have it.
    pub fn helm(&self, project: &Project, ui: &Ui) -> Result<ArtifactPin> {
        let context = project.context();
        let named = lookup(&context, "tools.helm").and_then(Value::as_str);
        self.on(ui).artifact(named.unwrap_or("helm"))
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

    /// Only its name is true, and that images of two recipes differ.
    fn built_stand_in(&self, name: &str, recipe: &str) -> BuiltImage {
        let reference = format!("provision.local/{name}:unbuilt");
        BuiltImage { reference, digest: format!("sha256:{}", hash::sha256(recipe)), archive: self.stand_in(name) }
    }
}

impl Supplier for Supplying<'_> {
    fn artifact(&mut self, name: &str) -> Result<ArtifactPin> {
        if self.pretends() {
            // An unknown name is an error here too.
            self.supply.sources.lock().get(name)?;
            return Ok(self.stand_in(name));
        }
        let pin = match &self.supply.bundle {
            Some(bundle) => bundle.artifact(&self.supply.sources, name)?,
            None => self.told(name, |sources, progress| sources.artifact(name, progress))?,
        };
        self.supply.note(|asked| {
            asked.artifacts.insert(name.to_owned(), pin.clone());
        });
        Ok(pin)
    }

    fn image(&mut self, recipe: &str) -> Result<BuiltImage> {
        if self.pretends() {
            return Ok(self.built_stand_in(&self.supply.sources.recipe_name(recipe)?, recipe));
        }
        let image = match &self.supply.bundle {
            Some(bundle) => {
                bundle.image(&self.supply.sources, recipe).or_else(|error| self.supply.lacking(recipe, error))?
            }
            None => self.told(recipe, |sources, progress| sources.image(recipe, progress))?,
        };
        self.supply.note(|asked| {
            asked.images.insert(recipe.to_owned(), ImageSource::Built(image.clone()));
        });
        Ok(image)
    }

    fn image_artifact(&mut self, name: &str) -> Result<ImageSource> {
        if self.pretends() {
            return match &self.supply.sources.lock().get(name)?.source {
                Source::Image(recipe) => self.image(recipe).map(ImageSource::Built),
                // Nothing is built of these.
                _ => self.supply.sources.image_artifact(name, &|_| {}),
            };
        }
        let image = match &self.supply.bundle {
            Some(bundle) => bundle
                .image_artifact(&self.supply.sources, name)
                .or_else(|error| self.supply.lacking(name, error).map(ImageSource::Built))?,
            None => self.told(name, |sources, progress| sources.image_artifact(name, progress))?,
        };
        self.supply.note(|asked| {
            asked.images.insert(name.to_owned(), image.clone());
        });
        Ok(image)
    }

    fn docker_build(&mut self, spec: &DockerSpec) -> Result<DockerBuild> {
        // Packing is quick, and says whether all is there.
        self.told(&spec.dockerfile, |sources, progress| sources.docker_build(spec, progress))
    }

    fn packages(&mut self) -> Option<Shipped> {
        self.supply.bundle.as_ref().and_then(Unpacked::packages)
    }
}
