//! Which images Kubernetes objects name, wherever they name them: so that on a host without a registry the missing ones are known
//! before anything is applied.
//!
//! An `image` field is always one. Elsewhere (environment, arguments, files in ConfigMaps, fields of custom resources) a text with a
//! version is one when its key, flag or variable has the word "image" in its name, when its registry is a well-known one, or when
//! its repository is that of an image that is known. That is a guess: `not_images` of a stage is the way out.

mod text;

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use self::text::{Hint, says_image};
use super::reference::Reference;

/// Registries whose names are images wherever they stand.
const REGISTRIES: [&str; 12] = [
    "docker.io",
    "gcr.io",
    "ghcr.io",
    "k8s.gcr.io",
    "mcr.microsoft.com",
    "nvcr.io",
    "provision.local",
    "public.ecr.aws",
    "quay.io",
    "registry.k8s.io",
    "registry.gitlab.com",
    "cgr.dev",
];

/// Images that are there, or will be before they are needed.
#[derive(Debug, Clone, Default)]
pub struct Known {
    names: BTreeSet<String>,
    repositories: BTreeSet<String>,
}

impl Known {
    /// From full or short names.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut known = Self::default();
        for reference in names.into_iter().filter_map(Reference::parse) {
            known.names.insert(reference.stored_name());
            known.repositories.insert(reference.repository);
        }
        known
    }

    /// Whether a pod that asks for this finds it.
    pub fn has(&self, reference: &Reference) -> bool {
        self.names.contains(&reference.stored_name())
    }
}

/// An image that something names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub reference: Reference,
    /// Where: `Deployment mlops/inference: spec.template.spec.containers[0].image`.
    pub at: String,
    /// The registry is asked each time, whether it is there or not.
    pub always: bool,
}

/// All images that these objects name, in their order.
pub fn in_objects(objects: &[Value], known: &Known) -> Vec<Named> {
    let mut finder = Finder { known, object: String::new(), found: Vec::new() };
    let is_list = |object: &Value| object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    for object in objects {
        if let Some(items) = object["items"].as_array().filter(|_| is_list(object)) {
            finder.found.extend(in_objects(items, known));
            continue;
        }
        let kind = object["kind"].as_str().unwrap_or_default();
        // A definition describes fields, and a secret is not to be looked into.
        if matches!(kind, "CustomResourceDefinition" | "Secret") {
            continue;
        }
        let name = object["metadata"]["name"].as_str().or(object["metadata"]["generateName"].as_str());
        let name = name.unwrap_or_default();
        let namespace = object["metadata"]["namespace"].as_str();
        let name = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
        finder.object = format!("{kind} {name}: ");
        finder.value(object, "", Hint::None);
    }
    finder.found
}

/// All images that the texts of another thing (a unit file, a configuration) name.
pub fn in_value(value: &Value, known: &Known) -> Vec<Named> {
    let mut finder = Finder { known, object: String::new(), found: Vec::new() };
    finder.value(value, "", Hint::None);
    finder.found
}

struct Finder<'a> {
    known: &'a Known,
    object: String,
    found: Vec<Named>,
}

impl Finder<'_> {
    fn push(&mut self, reference: Reference, at: &str, always: bool) {
        let at = format!("{}{at}", self.object);
        let stored = reference.stored_name();
        if !self.found.iter().any(|named| named.at == at && named.reference.stored_name() == stored) {
            self.found.push(Named { reference, at, always });
        }
    }

    /// `hint`: what the key or flag before it says.
    fn value(&mut self, value: &Value, at: &str, hint: Hint) {
        match value {
            Value::Object(map) => self.map(map, at, hint == Hint::Images),
            Value::Array(list) => {
                let mut of_flag = None;
                for (index, item) in list.iter().enumerate() {
                    self.value(item, &format!("{at}[{index}]"), of_flag.take().unwrap_or(hint));
                    // `--helper-image NAME` as two arguments.
                    let flag = item.as_str().filter(|text| text.starts_with('-') && !text.contains('='));
                    of_flag = flag.map(text::hint);
                }
            }
            Value::String(text) => self.text(text, at, hint != Hint::None),
            _ => {}
        }
    }

    /// `among_images`: all that is in it should be images.
    fn map(&mut self, map: &Map<String, Value>, at: &str, among_images: bool) {
        let below = |key: &str| match (at, key.contains(['.', '/'])) {
            (_, true) => format!("{at}[{key:?}]"),
            ("", false) => key.to_owned(),
            (at, false) => format!("{at}.{key}"),
        };
        let text = |key: &str| map.get(key).and_then(Value::as_str);
        let parts = Parts::of(map);
        if let Some(reference) = parts.as_ref().and_then(Parts::reference) {
            self.push(reference, at, false);
        }
        let mut done = Vec::new();
        if parts.is_some_and(|parts| parts.takes_image) {
            done.push("image");
        }
        // An entry of `env`.
        if let (Some(name), Some(value)) = (text("name"), text("value")) {
            self.text(value, &format!("{}, {name}", below("value")), says_image(name));
            done.extend(["name", "value"]);
        }
        for (key, value) in map.iter().filter(|(key, _)| !done.contains(&key.as_str())) {
            let at = below(key);
            match value {
                Value::String(image) if key == "image" => self.field(image, text("imagePullPolicy"), &at),
                // An image as a volume.
                Value::Object(source) if key == "image" && source.get("reference").is_some_and(Value::is_string) => {
                    let text = |key: &str| source.get(key).and_then(Value::as_str);
                    let reference = text("reference").unwrap_or_default();
                    self.field(reference, text("pullPolicy"), &format!("{at}.reference"));
                    self.map(source, &at, false);
                }
                _ if key == "kubectl.kubernetes.io/last-applied-configuration" => {}
                _ if among_images => self.value(value, &at, text::hint_among_images(key)),
                _ => self.value(value, &at, text::hint(key)),
            }
        }
    }

    /// What is an image whatever it looks like.
    fn field(&mut self, image: &str, policy: Option<&str>, at: &str) {
        if let Some(reference) = Reference::parse(image.trim()) {
            let always = policy.map_or(reference.is_latest(), |policy| policy == "Always");
            self.push(reference, at, always);
        }
    }

    fn text(&mut self, text: &str, at: &str, hinted: bool) {
        for (line, reference) in text::in_text(text, hinted, self.known) {
            let at = if line > 0 { format!("{at}, line {line}") } else { at.to_owned() };
            self.push(reference, &at, false);
        }
    }
}

/// An image that is written in parts, as values of charts and custom resources have it.
struct Parts<'a> {
    registry: &'a str,
    /// With all that stands before the tag.
    name: String,
    tag: String,
    digest: &'a str,
    /// The field `image` is one of the parts.
    takes_image: bool,
}

impl<'a> Parts<'a> {
    fn of(map: &'a Map<String, Value>) -> Option<Self> {
        let text = |key: &str| map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let number_or_text = |key: &str| match map.get(key) {
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => text(key).map(str::to_owned),
        };
        // `repository: https://charts.example.org` is something else.
        let repository = text("repository").filter(|repository| !repository.contains("://"));
        let plain = text("image").filter(|image| !image.contains([':', '@']));
        let mut tag = number_or_text("tag");
        let (name, takes_image) = match (repository, plain) {
            // `repository: nvcr.io/nvidia`, `image: driver`, `version: …`
            (Some(repository), Some(image)) if !image.contains('/') => {
                tag = tag.or_else(|| number_or_text("version"));
                (format!("{repository}/{image}"), true)
            }
            (Some(repository), _) => (repository.to_owned(), false),
            (None, Some(image)) if text("registry").is_some() || tag.is_some() => (image.to_owned(), true),
            _ => return None,
        };
        let registry = text("registry").unwrap_or_default();
        let digest = text("digest").unwrap_or_default();
        Some(Self { registry, name, tag: tag.unwrap_or_default(), digest, takes_image })
    }

    /// `None` where nothing says which version: then it is often the name of something else.
    fn reference(&self) -> Option<Reference> {
        let mut name = match self.registry {
            "" => self.name.clone(),
            registry => format!("{registry}/{}", self.name),
        };
        match (self.tag.as_str(), self.digest) {
            ("", "") => return None,
            (tag, _) if tag.starts_with("sha256:") => name = format!("{name}@{tag}"),
            (tag, digest) => {
                if !tag.is_empty() {
                    name = format!("{name}:{tag}");
                }
                if !digest.is_empty() {
                    name = format!("{name}@{digest}");
                }
            }
        }
        Reference::parse(&name)
    }
}

#[cfg(test)]
#[path = "discover_tests.rs"]
mod tests;
