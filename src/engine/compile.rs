//! From a project to a [`Program`]: control flow, interpolation, typed specs, everything from the project pulled in.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use super::images::{self, Wanted};
use super::{Probe, Program, Stage, Step, graph};
use crate::checks::registry as check_registry;
use crate::diagnostic::{Diagnostic, Diagnostics, Place};
use crate::host::ArtifactPin;
use crate::project::yaml::Node;
use crate::project::{Entry, Project, StageFile, explain, flag, render};
use crate::resources::{AnyResource, BuiltImage, DockerBuild, DockerSpec, ImageSource, Resolve, Shipped, registry};

/// Seconds that `up` waits for a check unless the stage says otherwise.
const WITHIN: u64 = 120;

/// What lies outside the project's own files: pinned and built things.
pub trait Supplier {
    /// A pinned artifact.
    ///
    /// # Errors
    /// When there is none of this name, or building it failed.
    fn artifact(&mut self, name: &str) -> Result<ArtifactPin>;

    /// An image from a recipe of the project.
    ///
    /// # Errors
    /// When the recipe is wrong or the build failed.
    fn image(&mut self, recipe: &str) -> Result<BuiltImage>;

    /// An image that is pinned by name.
    ///
    /// # Errors
    /// When there is none of this name, it is not an image, or building it failed.
    fn image_artifact(&mut self, name: &str) -> Result<ImageSource>;

    /// What a host needs to build the image of a Dockerfile.
    ///
    /// # Errors
    /// When the Dockerfile or its context is not there.
    fn docker_build(&mut self, spec: &DockerSpec) -> Result<DockerBuild> {
        anyhow::bail!("there is no {}", spec.dockerfile)
    }

    /// Debian packages that come along; `None`: hosts ask their mirrors.
    fn packages(&mut self) -> Option<Shipped> {
        None
    }
}

/// Makes the program for one host out of `stages`, in dependency order.
///
/// `context` is the root of all values (with `secret`). Images are resolved first, so that templates of any stage can name them
/// as `image.NAME`: by their own name or the artifact's.
///
/// # Errors
/// All faults at once, each with its place.
pub fn compile(
    project: &Project,
    stages: &[&StageFile],
    context: &Map<String, Value>,
    supplier: &mut dyn Supplier,
) -> Result<Program, Diagnostics> {
    let mut faults = Diagnostics::default();
    let order = order(stages, &mut faults);
    let mut context = context.clone();
    let images = images(project, &context, supplier, &mut faults);
    context.insert("image".into(), Value::Object(images::names(&images, &mut faults)));
    let mut program = Program::default();
    for stage in order {
        let mut compiler = Compiler { project, supplier, context: &context, images: &images, faults: &mut faults };
        program.stages.push(compiler.stage(stage));
    }
    faults.0.dedup();
    faults.into_result(program)
}

fn order<'a>(stages: &[&'a StageFile], faults: &mut Diagnostics) -> Vec<&'a StageFile> {
    let nodes: Vec<_> = stages
        .iter()
        .map(|stage| (stage.name.clone(), stage.needs.iter().map(|(name, _)| name.clone()).collect()))
        .collect();
    match graph::order(&nodes) {
        Ok(names) => names.iter().filter_map(|name| stages.iter().find(|stage| &stage.name == name).copied()).collect(),
        Err(cycle) => {
            let first = stages.iter().find(|stage| Some(&stage.name) == cycle.first());
            let place = first.and_then(|stage| stage.needs.iter().find(|(need, _)| Some(need) == cycle.get(1)));
            let message = format!("stages need each other in a circle: {}", cycle.join(" -> "));
            faults.0.push(Diagnostic {
                place: place.map(|(_, place)| place.clone()),
                message,
                hint: Some("remove one of these `needs`".into()),
            });
            stages.to_vec()
        }
    }
}

/// All images that the project's enabled stages name.
fn images(
    project: &Project,
    context: &Map<String, Value>,
    supplier: &mut dyn Supplier,
    faults: &mut Diagnostics,
) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let Ok(enabled) = project.enabled() else {
        return wanted;
    };
    for stage in enabled {
        let mut compiler = Compiler { project, supplier: &mut *supplier, context, images: &[], faults: &mut *faults };
        for entry in stage.resources.iter().filter(|entry| entry.kind == "image") {
            compiler.faults.0.extend(images::told_secrets(&entry.spec));
            for (resource, place) in compiler.entry(entry) {
                let spec = resource.spec().unwrap_or_default();
                let resolved = spec.get("resolved").cloned().unwrap_or_default();
                if let Ok(source) = serde_json::from_value::<ImageSource>(resolved) {
                    let is_artifact = spec.get("artifact").is_some();
                    wanted.push(Wanted { resource: resource.name(), is_artifact, source, place });
                }
            }
        }
    }
    wanted
}

struct Compiler<'a> {
    project: &'a Project,
    supplier: &'a mut dyn Supplier,
    context: &'a Map<String, Value>,
    /// Those of all enabled stages; none while they are collected.
    images: &'a [Wanted],
    faults: &'a mut Diagnostics,
}

impl Compiler<'_> {
    fn stage(&mut self, stage: &StageFile) -> Stage {
        let mut resources = Vec::new();
        for entry in &stage.resources {
            for (resource, place) in self.entry(entry) {
                match resource.spec() {
                    Ok(spec) => resources.push(Step { kind: entry.kind.clone(), name: resource.name(), place, spec }),
                    Err(error) => self.faults.0.push(Diagnostic::at(place, format!("{error:#}"))),
                }
            }
        }
        self.check_names(&resources);
        let checks = stage.checks.iter().flat_map(|entry| self.check(entry)).collect();
        let endpoints = stage.endpoints.iter().flat_map(|entry| self.endpoint(entry)).collect();
        let needs = stage.needs.iter().map(|(name, _)| name.clone()).collect();
        Stage { name: stage.name.clone(), layer: stage.layer.clone(), needs, resources, checks, endpoints }
    }

    fn endpoint(&mut self, entry: &Entry) -> Vec<(String, String)> {
        let rendered = self.rendered(entry);
        rendered.iter().filter_map(|(node, _)| Some((entry.kind.clone(), node.as_str()?.to_owned()))).collect()
    }

    /// Two resources of one kind and name in a stage would fight over the same thing.
    fn check_names(&mut self, steps: &[Step]) {
        for (index, step) in steps.iter().enumerate() {
            if let Some(first) = steps[..index].iter().find(|first| first.title() == step.title()) {
                let message = format!("`{}` is already in this stage, at {}", step.title(), first.place);
                self.faults.0.push(Diagnostic::at(step.place.clone(), message));
            }
        }
    }

    /// The rendered specs of an entry: none when `when` is false, one per item with `for_each`.
    fn rendered(&mut self, entry: &Entry) -> Vec<(Node, Map<String, Value>)> {
        match flag(self.context, entry.when.as_ref()) {
            Ok(true) => {}
            Ok(false) => return Vec::new(),
            Err(fault) => {
                self.faults.0.push(fault);
                return Vec::new();
            }
        }
        let mut rendered = Vec::new();
        for context in self.contexts(entry) {
            match self.project.renderer.node(&entry.spec, &context) {
                Ok(node) => rendered.push((node, context)),
                Err(faults) => self.faults.0.extend(faults),
            }
        }
        rendered
    }

    fn contexts(&mut self, entry: &Entry) -> Vec<Map<String, Value>> {
        let Some((path, place)) = &entry.for_each else {
            return vec![self.context.clone()];
        };
        let Some(Value::Array(items)) = render::lookup(self.context, path) else {
            let fault = Diagnostic::at(place.clone(), format!("`{path}` is not a list of the inventory"));
            self.faults.0.push(fault.hint("add it to inventory/defaults.yml"));
            return Vec::new();
        };
        items
            .iter()
            .map(|item| {
                let mut context = self.context.clone();
                context.insert("item".into(), item.clone());
                context
            })
            .collect()
    }

    fn entry(&mut self, entry: &Entry) -> Vec<(Box<dyn AnyResource>, Place)> {
        let Some(kind) = registry::kind(&entry.kind) else {
            return Vec::new();
        };
        let mut resources = Vec::new();
        for (node, context) in self.rendered(entry) {
            match coercing(&entry.spec, node, |spec| kind.parse(spec)) {
                Err(fault) => self.faults.0.push(fault),
                Ok(mut resource) => {
                    let mut resolver = Resolver {
                        project: self.project,
                        supplier: self.supplier,
                        context: &context,
                        images: self.images,
                    };
                    match resource.resolve(&mut resolver) {
                        Ok(()) => resources.push((resource, entry.place.clone())),
                        Err(error) => self.faults.0.push(placed(&error, &entry.place)),
                    }
                }
            }
        }
        resources
    }

    fn check(&mut self, entry: &Entry) -> Vec<Probe> {
        let Some(kind) = check_registry::kind(&entry.kind) else {
            return Vec::new();
        };
        let mut probes = Vec::new();
        for (node, _) in self.rendered(entry) {
            match coercing(&entry.spec, node, |spec| kind.parse(spec)) {
                Err(fault) => self.faults.0.push(fault),
                Ok(check) => match check.spec() {
                    Err(error) => self.faults.0.push(Diagnostic::at(entry.place.clone(), format!("{error:#}"))),
                    Ok(spec) => probes.push(Probe {
                        kind: entry.kind.clone(),
                        name: check.name(),
                        place: entry.place.clone(),
                        spec,
                        within: entry.within.unwrap_or(WITHIN),
                    }),
                },
            }
        }
        probes
    }
}

/// Reads a rendered spec. Where a text is expected and `{{ a.path }}` gave a number or a boolean, its text is taken; a bare
/// number in the stage file stays an error (`mode: 0644`).
fn coercing<T>(
    written: &Node,
    mut rendered: Node,
    parse: impl Fn(Value) -> Result<T, serde_path_to_error::Error<serde_json::Error>>,
) -> Result<T, Diagnostic> {
    loop {
        let error = match parse(rendered.to_json()) {
            Ok(parsed) => return Ok(parsed),
            Err(error) => error,
        };
        let from_template = written.follow(error.path()).is_some_and(|node| node.as_str().is_some());
        let wants_text = error.inner().to_string().contains("expected a string");
        let scalar = rendered.follow_mut(error.path()).filter(|_| from_template && wants_text);
        if !scalar.is_some_and(Node::make_text) {
            return Err(explain(&rendered, &error));
        }
    }
}

/// An error of a resource's `resolve`: its own diagnostic when it has one (a template's line), else at the entry.
fn placed(error: &anyhow::Error, place: &Place) -> Diagnostic {
    match error.downcast_ref::<Diagnostic>() {
        Some(own) if own.place.is_some() => own.clone(),
        Some(own) => Diagnostic { place: Some(place.clone()), ..own.clone() },
        None => Diagnostic::at(place.clone(), format!("{error:#}")),
    }
}

struct Resolver<'a> {
    project: &'a Project,
    supplier: &'a mut dyn Supplier,
    context: &'a Map<String, Value>,
    images: &'a [Wanted],
}

impl Resolver<'_> {
    /// Where a path of the project is.
    fn inside(&self, path: &str) -> Result<std::path::PathBuf> {
        let inside = !path.starts_with('/')
            && Path::new(path).components().all(|c| !matches!(c, std::path::Component::ParentDir));
        if !inside {
            return Err(Diagnostic::new(format!("`{path}` is not a path inside the project")).into());
        }
        Ok(self.project.root.join(path))
    }
}

impl Resolve for Resolver<'_> {
    fn template(&mut self, path: &str) -> Result<String> {
        let renderer = &self.project.renderer;
        if !renderer.has(path) {
            let names = renderer.names();
            let fault = Diagnostic::new(format!("there is no template templates/{path}"));
            let hint = crate::diagnostic::did_you_mean(path, names.iter().map(String::as_str));
            return Err(Diagnostic { hint, ..fault }.into());
        }
        Ok(renderer.template(path, self.context)?)
    }

    fn source(&mut self, path: &str) -> Result<Vec<u8>> {
        let full = self.inside(path)?;
        std::fs::read(&full).map_err(|error| Diagnostic::new(format!("cannot read {path}: {error}")).into())
    }

    fn folder(&mut self, path: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let full = self.inside(path)?;
        let unreadable = |error: std::io::Error| Diagnostic::new(format!("cannot read {path}: {error}"));
        let names = render::files_below(&full).map_err(unreadable)?;
        let read = names.into_iter().map(|name| {
            let content = std::fs::read(full.join(&name)).map_err(unreadable)?;
            Ok((name, content))
        });
        read.collect()
    }

    fn artifact(&mut self, name: &str) -> Result<ArtifactPin> {
        self.supplier.artifact(name)
    }

    fn image(&mut self, recipe: &str) -> Result<BuiltImage> {
        self.supplier.image(recipe)
    }

    fn image_artifact(&mut self, name: &str) -> Result<ImageSource> {
        self.supplier.image_artifact(name)
    }

    fn docker_build(&mut self, spec: &DockerSpec) -> Result<DockerBuild> {
        self.supplier.docker_build(spec)
    }

    fn images_of(&mut self, repository: &str) -> Vec<String> {
        let of = self.images.iter().filter(|image| image.repository() == repository);
        let mut names: Vec<_> = of.map(|image| image.source.stored_name()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn packages(&mut self) -> Option<Shipped> {
        self.supplier.packages()
    }
}
