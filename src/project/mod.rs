//! The folder that describes a platform: inventory, stages, templates, values. Read and checked before anything connects.

mod filters;
pub mod inventory;
pub mod render;
pub mod stage;
mod typed;
pub mod values;
pub mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use inventory::{HostSpec, Inventory, TransportKind};
pub use stage::{Entry, StageFile};
pub use typed::{explain, typed};
pub use values::Values;

use crate::diagnostic::{Diagnostic, Diagnostics, Place, did_you_mean};
use render::Renderer;
use yaml::{Data, Node};

/// A project with one chosen inventory.
pub struct Project {
    /// Absolute.
    pub root: PathBuf,
    /// The inventory file, absolute.
    pub inventory_path: PathBuf,
    pub inventory: Inventory,
    pub values: Values,
    /// In the order of their files' names.
    pub stages: Vec<StageFile>,
    pub renderer: Renderer,
}

/// What is known to exist: kinds of resources and of checks.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub resources: &'a [&'a str],
    pub checks: &'a [&'a str],
}

/// The project that `start` lies in: the nearest folder upwards that has `stages/` and `inventory/`.
///
/// # Errors
/// When there is none.
pub fn find_root(start: &Path) -> Result<PathBuf, Diagnostic> {
    start
        .ancestors()
        .find(|folder| folder.join("stages").is_dir() && folder.join("inventory").is_dir())
        .map(Path::to_path_buf)
        .ok_or_else(|| {
            Diagnostic::new(format!(
                "{} is not in a project: no folder upwards has stages/ and inventory/",
                start.display()
            ))
            .hint("go to the project's folder, or name it with --project")
        })
}

impl Project {
    /// Reads everything.
    ///
    /// # Errors
    /// All that is wrong, at once, each with its place.
    pub fn load(root: &Path, inventory: &Path, set: &[String], known: Known<'_>) -> Result<Self, Diagnostics> {
        let mut faults = Vec::new();
        let defaults = read_tree(root, &root.join("inventory/defaults.yml"), &mut faults);
        let tree = read_tree(root, inventory, &mut faults);
        let arguments = values::from_arguments(set).map_err(|fault| faults.push(fault)).ok();
        let parsed = tree.as_ref().and_then(|tree| keep(Inventory::from_node(tree), &mut faults));
        let stages = read_stages(root, known, &mut faults);
        let renderer = keep(Renderer::load(&root.join("templates")), &mut faults);
        check_stage_names(&stages, parsed.as_ref(), tree.as_ref(), &mut faults);
        let (Some(inventory_parsed), Some(renderer), true) = (parsed, renderer, faults.is_empty()) else {
            return Err(Diagnostics(faults));
        };
        let own = tree.as_ref().and_then(|tree| tree.get("values")).cloned();
        let layers = [defaults, own, arguments].into_iter().flatten().collect();
        Ok(Self {
            root: root.to_path_buf(),
            inventory_path: inventory.to_path_buf(),
            inventory: inventory_parsed,
            values: Values::new(layers),
            stages,
            renderer,
        })
    }

    /// The stage of this name.
    ///
    /// # Errors
    /// When there is none, with a suggestion.
    pub fn stage(&self, name: &str) -> Result<&StageFile, Diagnostic> {
        self.stages.iter().find(|stage| stage.name == name).ok_or_else(|| {
            let known: Vec<_> = self.stages.iter().map(|stage| stage.name.as_str()).collect();
            let hint =
                did_you_mean(name, known.iter().copied()).unwrap_or_else(|| format!("stages: {}", known.join(", ")));
            Diagnostic::new(format!("there is no stage `{name}`")).hint(hint)
        })
    }

    /// Stages that this inventory enables, in dependency order of nothing: as their files are sorted.
    ///
    /// # Errors
    /// A `when` that names no boolean value.
    pub fn enabled(&self) -> Result<Vec<&StageFile>, Diagnostics> {
        let values = self.context();
        let mut faults = Diagnostics::default();
        let mut enabled = Vec::new();
        for stage in &self.stages {
            let listed = self.inventory.stages.as_ref().is_none_or(|names| names.contains(&stage.name));
            match flag(&values, stage.when.as_ref()) {
                Ok(true) if listed => enabled.push(stage),
                Ok(_) => {}
                Err(fault) => faults.0.push(fault),
            }
        }
        faults.into_result(enabled)
    }

    /// The values as the root of the template context.
    pub fn context(&self) -> Map<String, Value> {
        match self.values.merged().to_json() {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// Secrets that the stages and their templates ask for, with the first place that does.
    pub fn secrets_wanted(&self, stages: &[&StageFile]) -> BTreeMap<String, Place> {
        let mut wanted = BTreeMap::new();
        for stage in stages {
            for entry in stage.resources.iter().chain(&stage.checks) {
                self.scan(&entry.spec, &mut wanted);
            }
        }
        wanted
    }

    fn scan(&self, node: &Node, wanted: &mut BTreeMap<String, Place>) {
        match &node.data {
            Data::String(text) => {
                for name in render::secrets_in(text) {
                    wanted.entry(name).or_insert_with(|| node.place.clone());
                }
                if self.renderer.has(text) {
                    self.scan_template(text, wanted);
                }
            }
            Data::List(items) => items.iter().for_each(|item| self.scan(item, wanted)),
            Data::Map(entries) => entries.iter().for_each(|(_, value)| self.scan(value, wanted)),
            _ => {}
        }
    }

    fn scan_template(&self, name: &str, wanted: &mut BTreeMap<String, Place>) {
        let Ok(text) = std::fs::read_to_string(self.root.join("templates").join(name)) else {
            return;
        };
        for (index, line) in text.lines().enumerate() {
            for secret in render::secrets_in(line) {
                let column = line.find(&secret).unwrap_or_default() as u32 + 1;
                let place = Place { file: format!("templates/{name}"), line: index as u32 + 1, column };
                wanted.entry(secret).or_insert(place);
            }
        }
    }
}

/// The truth of a `when`; no `when` is true.
///
/// # Errors
/// When the path names nothing, or something other than a boolean.
pub fn flag(context: &Map<String, Value>, when: Option<&(String, Place)>) -> Result<bool, Diagnostic> {
    let Some((path, place)) = when else {
        return Ok(true);
    };
    match render::lookup(context, path) {
        Some(Value::Bool(truth)) => Ok(*truth),
        Some(other) => Err(Diagnostic::at(place.clone(), format!("`{path}` is {other}, not true or false"))),
        None => Err(Diagnostic::at(place.clone(), format!("there is no value `{path}`"))
            .hint("add it to inventory/defaults.yml")),
    }
}

/// A file's name relative to the project, for messages.
pub fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

fn keep<T>(result: Result<T, Vec<Diagnostic>>, faults: &mut Vec<Diagnostic>) -> Option<T> {
    result.map_err(|more| faults.extend(more)).ok()
}

fn read_tree(root: &Path, path: &Path, faults: &mut Vec<Diagnostic>) -> Option<Node> {
    let name = relative(root, path);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let fault = Diagnostic::new(format!("cannot read {name}: {error}"));
            faults.push(if error.kind() == std::io::ErrorKind::NotFound {
                fault.hint("inventory/example.yml shows the form; `provision sandbox up` writes inventory/sandbox.yml")
            } else {
                fault
            });
            return None;
        }
    };
    yaml::parse(&name, &text).map_err(|fault| faults.push(fault)).ok()
}

fn read_stages(root: &Path, known: Known<'_>, faults: &mut Vec<Diagnostic>) -> Vec<StageFile> {
    let folder = root.join("stages");
    let mut paths: Vec<_> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect(),
        Err(error) => {
            faults.push(Diagnostic::new(format!("cannot read stages/: {error}")));
            return Vec::new();
        }
    };
    paths.retain(|path| path.extension().is_some_and(|end| end == "yml" || end == "yaml"));
    paths.sort();
    let mut stages = Vec::new();
    for path in paths {
        let name = relative(root, &path);
        match std::fs::read_to_string(&path) {
            Ok(text) => stages.extend(keep(StageFile::parse(&name, &text, known.resources, known.checks), faults)),
            Err(error) => faults.push(Diagnostic::new(format!("cannot read {name}: {error}"))),
        }
    }
    stages
}

fn check_stage_names(
    stages: &[StageFile],
    inventory: Option<&Inventory>,
    tree: Option<&Node>,
    faults: &mut Vec<Diagnostic>,
) {
    let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
    let unknown = |name: &str, place: Place| {
        let fault = Diagnostic::at(place, format!("there is no stage `{name}`"));
        let hint = did_you_mean(name, names.iter().copied()).unwrap_or_else(|| format!("stages: {}", names.join(", ")));
        fault.hint(hint)
    };
    for (name, place) in stages.iter().flat_map(|stage| &stage.needs) {
        if !names.contains(&name.as_str()) {
            faults.push(unknown(name, place.clone()));
        }
    }
    for (index, name) in inventory.and_then(|inventory| inventory.stages.as_ref()).into_iter().flatten().enumerate() {
        if !names.contains(&name.as_str()) {
            let place = match tree.and_then(|tree| tree.get("stages")).map(|node| &node.data) {
                Some(Data::List(items)) => items[index].place.clone(),
                _ => Place { file: "inventory".into(), line: 1, column: 1 },
            };
            faults.push(unknown(name, place));
        }
    }
}
