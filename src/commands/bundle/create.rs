//! `provision bundle create`: everything that the chosen stages ask for, found by compiling them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Charts, presence};
use crate::artifacts::bundle::{
    self, BundledArtifact, BundledImage, Content, IMAGE_INDEX, Manifest, MemberKind, PACKAGE_INDEX, SecretKey, System,
    default_secret_key,
};
use crate::artifacts::debian::{self, Repository};
use crate::artifacts::{Store, download};
use crate::cli::{BundleCreate, Global};
use crate::commands::supply::Supply;
use crate::commands::{Exit, Invalid, load};
use crate::diagnostic::Diagnostic;
use crate::engine::{Program, Step};
use crate::host::Facts;
use crate::image::{ImageSource, Sources, archive, pull};
use crate::ui::Ui;

/// Archives in this folder are imported by k3s itself.
const PRELOADED: &str = "/var/lib/rancher/k3s/agent/images/";

pub async fn create(global: &Global, options: &BundleCreate, ui: &Ui) -> Result<Exit> {
    let secret_key = options.secret_key.clone().unwrap_or_else(default_secret_key);
    // First what fails fast.
    let key = SecretKey::load(&secret_key).map_err(Invalid)?;
    let project = load::load(global)?;
    let stages = load::select(&project, &options.selection)?;
    let programs = load::without_secrets(&project, &stages, &options.selection, ui)?;
    let supply = &programs.supply;
    let programs: Vec<&Program> = programs.hosts.iter().map(|(.., program)| program).collect();
    let store = supply.sources().store().clone();
    let work = store.work("bundle")?;
    let progress = |text: &str| ui.progress("bundle", text);
    let mut content = Contents::new(supply.sources(), &store, work.path(), &programs)?;
    let result = async {
        content.artifacts(supply, &progress).await?;
        content.images(supply, &progress).await?;
        content.packages(options, &progress)?;
        let names: Vec<_> = content.manifest.image_names().map(str::to_owned).collect();
        let charts = Charts::of(programs.iter().copied(), &store, || supply.helm(&project, ui))?;
        for archive in charts.archives() {
            download::fetch(archive, &store, &progress).await?;
        }
        let names = names.iter().map(String::as_str);
        presence::check(programs.iter().copied(), &stages, names, &charts, &store).map_err(Invalid::from)?;
        bundle::write(&options.file, content.manifest, content.sources, &key, &progress)
    };
    let result = result.await;
    ui.progress_done("bundle");
    let (manifest, size) = result?;
    report(&options.file, &manifest, size, &key, ui)?;
    Ok(Exit::Ok)
}

fn report(file: &Path, manifest: &Manifest, size: u64, key: &SecretKey, ui: &Ui) -> Result<()> {
    let (artifacts, images, packages) = (manifest.artifacts.len(), manifest.images.len(), manifest.packages.len());
    if ui.is_json() {
        ui.json_line(&json!({
            "type": "bundle_created", "file": file, "size": size, "artifacts": artifacts, "images": images,
            "packages": packages, "key": key.public()?.id(),
        }));
        return Ok(());
    }
    ui.data(&format!(
        "{}: {}, {artifacts} artifacts, {images} images, {packages} packages, signed by {}",
        file.display(),
        super::megabytes(size),
        key.public()?.id()
    ));
    ui.say(&format!(
        "next, where there is no network: provision up --bundle {} --public-key {}",
        file.display(),
        key.public()?.text()
    ));
    Ok(())
}

/// What goes into the bundle.
struct Contents<'a> {
    origin: &'a Sources,
    store: &'a Store,
    work: PathBuf,
    programs: &'a [&'a Program],
    manifest: Manifest,
    sources: Vec<bundle::Source>,
}

impl<'a> Contents<'a> {
    fn new(origin: &'a Sources, store: &'a Store, work: &Path, programs: &'a [&'a Program]) -> Result<Self> {
        let stages = programs.first().map(|program| program.stages.iter().map(|stage| stage.name.clone()).collect());
        let manifest = Manifest {
            provision: env!("CARGO_PKG_VERSION").to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            stages: stages.unwrap_or_default(),
            ..Manifest::default()
        };
        let work = work.to_owned();
        Ok(Self { origin, store, work, programs, manifest, sources: Vec::new() })
    }

    fn steps(&self) -> impl Iterator<Item = &'a Step> {
        self.programs.iter().flat_map(|program| &program.stages).flat_map(|stage| &stage.resources)
    }

    fn add(&mut self, path: String, kind: MemberKind, content: Content) {
        self.sources.push(bundle::Source { path, kind, content });
    }

    async fn artifacts(&mut self, supply: &Supply, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<()> {
        for (name, pin) in supply.asked().artifacts {
            let users: Vec<&Step> = self.steps().filter(|step| mentions(&step.spec, &pin.sha256)).collect();
            if users.is_empty() {
                continue;
            }
            let file = download::fetch(&pin, self.store, progress).await?;
            let artifact = self.origin.lock().get(&name)?;
            let mut targets: Vec<_> = users.iter().map(|step| step.title()).collect();
            targets.sort();
            targets.dedup();
            let preloaded = users.iter().any(|step| step.kind == "download" && step.name.starts_with(PRELOADED));
            let images = if preloaded { archive::names(&file)? } else { Vec::new() };
            let source = match (&pin.url, self.origin.inputs(artifact)?) {
                (Some(url), _) => url.clone(),
                (None, _) => format!("recipe of {name}"),
            };
            self.manifest.artifacts.push(BundledArtifact {
                version: artifact.version.clone(),
                kind: artifact.kind,
                sha256: pin.sha256.clone(),
                size: std::fs::metadata(&file)?.len(),
                source,
                inputs: self.origin.inputs(artifact)?,
                targets,
                images,
                license: artifact.license.clone(),
                name,
            });
            self.add(format!("artifacts/{}", pin.sha256), MemberKind::Artifact, Content::File(file));
        }
        Ok(())
    }

    async fn images(&mut self, supply: &Supply, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<()> {
        let blobs = self.work.join("blobs");
        std::fs::create_dir(&blobs)?;
        for (name, image) in supply.asked().images {
            // Those of Dockerfiles are built on the host, from a context that comes with the project.
            let Some(digest) = image.digest().map(str::to_owned) else {
                continue;
            };
            let used = |step: &Step| mentions(&step.spec, &digest) || mentions(&step.spec, &image.reference());
            if !self.steps().any(used) {
                continue;
            }
            progress(&format!("adding the image {}", image.reference()));
            let mut names = vec![image.stored_name()];
            let reference = match &image {
                ImageSource::Built(built) => {
                    let file = self.store.get(&built.archive.sha256)?;
                    let file = file.with_context(|| format!("the archive of {} went away", built.reference))?;
                    archive::split(&file, &blobs)?;
                    built.reference.clone()
                }
                ImageSource::Dockerfile(_) => continue,
                ImageSource::Registry { reference, .. } => {
                    pull::pull(reference, &digest, self.store, &blobs, progress).await?;
                    // Objects of others name it by its tag alone.
                    names.push(reference.clone());
                    reference.clone()
                }
            };
            let artifact = self.origin.lock().get(&name);
            let inputs = match artifact {
                Ok(artifact) => self.origin.inputs(artifact)?,
                Err(_) => Some(self.origin.recipe_inputs(&name)?),
            };
            self.manifest.images.push(BundledImage { name, reference, digest, names, inputs });
        }
        if self.manifest.images.is_empty() {
            return Ok(());
        }
        let digests: Vec<_> = self.manifest.images.iter().map(|image| image.digest.clone()).collect();
        for (sha256, path) in archive::all_blobs(&blobs, &digests)? {
            self.add(format!("images/blobs/sha256/{sha256}"), MemberKind::Image, Content::File(path));
        }
        let named = |image: &BundledImage| {
            let names = image.names.iter().map(|name| (name.clone(), image.digest.clone()));
            names.collect::<Vec<_>>()
        };
        let named: Vec<_> = self.manifest.images.iter().flat_map(named).collect();
        let index = archive::index(&blobs, &named)?;
        self.add("images/oci-layout".into(), MemberKind::Image, Content::Text(archive::LAYOUT.to_vec()));
        self.add(IMAGE_INDEX.into(), MemberKind::Image, Content::Text(index));
        Ok(())
    }

    fn packages(&mut self, options: &BundleCreate, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<()> {
        let apt = self.steps().filter(|step| step.kind == "apt");
        let names = apt.filter_map(|step| step.spec["packages"].as_array());
        let mut names: Vec<_> = names.flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Ok(());
        }
        let system = system(options)?;
        let work = self.work.join("apt");
        std::fs::create_dir(&work)?;
        let etc = options.apt.as_deref().map(std::path::absolute).transpose()?;
        let Repository { folder, index, packages } =
            debian::repository(&names, etc.as_deref(), &work, self.store, progress)?;
        for package in &packages {
            let content = Content::File(folder.join(&package.file));
            self.add(format!("packages/{}", package.file), MemberKind::Package, content);
        }
        self.add(PACKAGE_INDEX.into(), MemberKind::Package, Content::Text(index.into_bytes()));
        self.manifest.system = Some(system);
        self.manifest.packages = packages;
        Ok(())
    }
}

/// The system that the packages are for: this machine's, unless said otherwise.
fn system(options: &BundleCreate) -> Result<System> {
    let facts = Facts::gather()?;
    let here = System { os: facts.os, version: facts.os_version };
    let Some(text) = &options.system else {
        return Ok(here);
    };
    let Some((os, version)) = text.split_once('-') else {
        let fault = Diagnostic::new(format!("{text:?} is no system")).hint("write it like ubuntu-22.04 or debian-12");
        return Err(Invalid::from(fault).into());
    };
    let wanted = System { os: os.to_owned(), version: version.to_owned() };
    if wanted != here && options.apt.is_none() {
        let fault = Diagnostic::new(format!("packages for {wanted} cannot be had with the APT sources of {here}")).hint(
            "make the bundle on a machine of that system, or give a copy of its /etc/apt with --apt DIR (with the keys that its sources name)",
        );
        return Err(Invalid::from(fault).into());
    }
    Ok(wanted)
}

/// Whether a text occurs anywhere in a spec.
fn mentions(spec: &Value, text: &str) -> bool {
    match spec {
        Value::String(value) => value.contains(text),
        Value::Array(list) => list.iter().any(|value| mentions(value, text)),
        Value::Object(map) => map.values().any(|value| mentions(value, text)),
        _ => false,
    }
}
