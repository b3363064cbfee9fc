//! From arguments to a checked project, and on to concrete programs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::Invalid;
use super::bundle::{self, Charts, Unpacked};
use super::supply::{Builds, Supply};
use crate::checks::registry as check_registry;
use crate::cli::{Global, Selection};
use crate::diagnostic::{Diagnostic, Diagnostics, did_you_mean};
use crate::engine::{Program, compile, graph};
use crate::image::Sources;
use crate::project::{self, HostSpec, Known, Project, StageFile};
use crate::resources::registry;
use crate::secrets::{Identity, Redactor, Secret, Store, default_path};
use crate::ui::Ui;

/// The project's folder.
pub fn root(global: &Global) -> Result<PathBuf> {
    let here = std::env::current_dir().context("the current folder is gone")?;
    let root = match &global.project {
        Some(folder) => here.join(folder),
        None => project::find_root(&here).map_err(Invalid::from)?,
    };
    root.canonicalize().with_context(|| format!("cannot open the project {}", root.display()))
}

/// The chosen inventory, or the only one.
fn inventory(global: &Global, root: &Path) -> Result<PathBuf> {
    if let Some(path) = &global.inventory {
        return Ok(std::env::current_dir()?.join(path));
    }
    let mut found: Vec<_> = std::fs::read_dir(root.join("inventory"))
        .context("cannot read inventory/")?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "yml"))
        .filter(|path| !path.file_stem().is_some_and(|stem| stem == "defaults" || stem == "example"))
        .collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Invalid::from(
            Diagnostic::new("there is no inventory yet")
                .hint("copy inventory/example.yml and fill it in, or make a sandbox host: provision sandbox up"),
        )
        .into()),
        many => {
            let names: Vec<_> = many.iter().map(|path| project::relative(root, path)).collect();
            Err(Invalid::from(
                Diagnostic::new("there is more than one inventory")
                    .hint(format!("choose with -i: {}", names.join(", "))),
            )
            .into())
        }
    }
}

/// Reads and checks the project.
pub fn load(global: &Global) -> Result<Project> {
    let root = root(global)?;
    let inventory = inventory(global, &root)?;
    let kinds: Vec<_> = registry::KINDS.iter().map(|kind| kind.name).collect();
    let checks: Vec<_> = check_registry::KINDS.iter().map(|kind| kind.name).collect();
    let known = Known { resources: &kinds, checks: &checks };
    Ok(Project::load(&root, &inventory, &global.set, known).map_err(Invalid::from)?)
}

/// The stages of a selection.
pub fn select<'p>(project: &'p Project, selection: &Selection) -> Result<Vec<&'p StageFile>, Invalid> {
    for name in selection.only.iter().chain(&selection.skip).chain(&selection.from) {
        project.stage(name)?;
    }
    let enabled = project.enabled()?;
    let nodes: Vec<_> = enabled
        .iter()
        .map(|stage| (stage.name.clone(), stage.needs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()))
        .collect();
    let chosen = |stage: &&&StageFile| {
        let listed = selection.only.is_empty() || selection.only.contains(&stage.name);
        let after = selection
            .from
            .as_ref()
            .is_none_or(|from| graph::closure(&nodes, std::slice::from_ref(&stage.name)).contains(from));
        listed && after && !selection.skip.contains(&stage.name)
    };
    let stages: Vec<_> = enabled.iter().filter(chosen).copied().collect();
    if stages.is_empty() {
        let names: Vec<_> = enabled.iter().map(|stage| stage.name.as_str()).collect();
        let fault = Diagnostic::new("no stage is left to work on").hint(format!("enabled: {}", names.join(", ")));
        return Err(fault.into());
    }
    Ok(stages)
}

/// The hosts of a selection, by name.
pub fn hosts(project: &Project, names: &[String]) -> Result<Vec<(String, HostSpec)>, Invalid> {
    let known = &project.inventory.hosts;
    for name in names {
        if !known.contains_key(name) {
            let fault = Diagnostic::new(format!("the inventory has no host `{name}`"));
            let hint = did_you_mean(name, known.keys().map(String::as_str))
                .unwrap_or_else(|| format!("hosts: {}", known.keys().cloned().collect::<Vec<_>>().join(", ")));
            return Err(fault.hint(hint).into());
        }
    }
    let chosen = known.iter().filter(|(name, _)| names.is_empty() || names.contains(name));
    Ok(chosen.map(|(name, spec)| (name.clone(), spec.clone())).collect())
}

/// Path of the secrets file.
pub fn secrets_path(root: &Path) -> PathBuf {
    root.join("secrets/secrets.yml")
}

/// The secrets that `stages` ask for, decrypted; all missing ones are named at once.
fn secrets(project: &Project, stages: &[&StageFile]) -> Result<BTreeMap<String, Secret>> {
    let wanted = project.secrets_wanted(stages);
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let store = Store::load(&secrets_path(&project.root)).map_err(Invalid)?;
    let missing = wanted.iter().filter(|(name, _)| !store.contains(name)).map(|(name, place)| {
        Diagnostic::at(place.clone(), format!("the secret `{name}` is missing"))
            .hint(format!("provision secret set {name}, or provision secret init for a random value"))
    });
    Diagnostics(missing.collect()).into_result(()).map_err(Invalid::from)?;
    let identity = Identity::load(&default_path()).map_err(Invalid)?;
    wanted.keys().map(|name| Ok((name.clone(), store.get(name, &identity).map_err(Invalid)?))).collect()
}

/// Programs of all hosts, concrete, and what must be masked.
pub struct Prepared {
    pub hosts: Vec<(String, HostSpec, Program)>,
    pub secrets: Vec<String>,
    pub supply: Supply,
}

/// Everything up to the point where hosts are contacted.
///
/// # Errors
/// Faults of the project ([`Invalid`]), or an artifact or image that could not be had.
pub fn prepare(global: &Global, selection: &Selection, builds: Builds, ui: &Ui) -> Result<Prepared> {
    let project = load(global)?;
    let stages = select(&project, selection)?;
    let secrets = match builds {
        Builds::Pretend => placeholders(&project, &stages),
        Builds::Real => {
            let enabled = project.enabled().map_err(Invalid::from)?;
            // Images of other stages may be named by the chosen ones, so their secrets count too where they are there.
            secrets(&project, if selection.only.is_empty() { &enabled } else { &stages })?
        }
    };
    let mut supply = Supply::open(&project, builds)?;
    if let Some(file) = global.bundle.as_deref().filter(|_| builds == Builds::Real) {
        let unpacked = unpack(global, file, supply.sources(), ui)?;
        supply = supply.with_bundle(unpacked);
    }
    let prepared = compile_all(&project, &stages, selection, secrets, builds, supply, ui)?;
    if let Some(bundle) = prepared.supply.bundle() {
        let programs = || prepared.hosts.iter().map(|(.., program)| program);
        let store = prepared.supply.sources().store();
        let charts = Charts::of(programs(), store, || prepared.supply.helm(&project, ui))?;
        complete(&prepared).map_err(Invalid::from)?;
        bundle::check_images(programs(), &stages, bundle.image_names(), &charts, store).map_err(Invalid::from)?;
    }
    Ok(prepared)
}

/// Verifies the bundle and unpacks it.
fn unpack(global: &Global, file: &Path, sources: &Sources, ui: &Ui) -> Result<Unpacked> {
    let key = bundle::public_key(global)?;
    let unpacked = Unpacked::open(file, &key, sources.store(), &|text| ui.progress("bundle", text));
    ui.progress_done("bundle");
    unpacked
}

/// Whether the bundle has all images that the project makes or pins.
fn complete(prepared: &Prepared) -> Result<(), Diagnostics> {
    let lacking = prepared.supply.asked().lacking;
    let mut faults = Diagnostics::default();
    let steps = prepared.hosts.iter().flat_map(|(.., program)| &program.stages).flat_map(|stage| &stage.resources);
    for step in steps {
        let spec = step.spec.to_string();
        for (reference, reason) in &lacking {
            if spec.contains(reference.as_str()) {
                faults.0.push(Diagnostic::at(step.place.clone(), reason.clone()));
            }
        }
    }
    faults.0.dedup();
    faults.into_result(())
}

/// The programs of all chosen hosts without the project's secrets, as far as their content goes: what they need from outside
/// does not depend on secrets.
///
/// # Errors
/// As [`prepare`].
pub fn without_secrets(project: &Project, stages: &[&StageFile], selection: &Selection, ui: &Ui) -> Result<Prepared> {
    let secrets = placeholders(project, stages);
    compile_all(project, stages, selection, secrets, Builds::Real, Supply::open(project, Builds::Real)?, ui)
}

fn compile_all(
    project: &Project,
    stages: &[&StageFile],
    selection: &Selection,
    secrets: BTreeMap<String, Secret>,
    builds: Builds,
    supply: Supply,
    ui: &Ui,
) -> Result<Prepared> {
    let hosts = hosts(project, &selection.hosts)?;
    let exposed: Vec<_> = secrets.values().map(|secret| secret.expose().to_owned()).collect();
    if builds == Builds::Real {
        ui.redact_with(Redactor::new(&exposed));
    }
    let mut programs = Vec::new();
    for (name, spec) in hosts {
        let mut context = context(project, &name, &spec, &secrets);
        context.insert("artifact".into(), Value::Object(supply.versions()));
        let program = compile::compile(project, stages, &context, &mut supply.on(ui)).map_err(Invalid::from)?;
        programs.push((name, spec, program));
    }
    Ok(Prepared { hosts: programs, secrets: exposed, supply })
}

/// Stand-ins for secrets where only the form of the project is looked at.
fn placeholders(project: &Project, stages: &[&StageFile]) -> BTreeMap<String, Secret> {
    project.secrets_wanted(stages).into_keys().map(|name| (name, Secret::new("placeholder"))).collect()
}

fn context(project: &Project, name: &str, spec: &HostSpec, secrets: &BTreeMap<String, Secret>) -> Map<String, Value> {
    let mut context = project.context();
    let address = spec.address.as_deref().unwrap_or("127.0.0.1");
    context.insert("host".into(), json!({"name": name, "address": address, "port": spec.port.unwrap_or(22)}));
    let mut tree = Map::new();
    for (key, secret) in secrets {
        insert(&mut tree, key, secret.expose());
    }
    context.insert("secret".into(), Value::Object(tree));
    context
}

fn insert(tree: &mut Map<String, Value>, key: &str, value: &str) {
    match key.split_once('.') {
        None => {
            tree.insert(key.to_owned(), Value::String(value.to_owned()));
        }
        Some((first, rest)) => {
            let below = tree.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(below) = below {
                insert(below, rest, value);
            }
        }
    }
}

/// Names of secrets that all stages of the project ask for, enabled or not.
pub fn all_wanted(project: &Project) -> BTreeSet<String> {
    let stages: Vec<_> = project.stages.iter().collect();
    project.secrets_wanted(&stages).into_keys().collect()
}
