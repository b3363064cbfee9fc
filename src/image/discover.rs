//! Which images Kubernetes objects name, wherever they name them: so that on a host without a registry the missing ones are known
//! before anything is applied.
//!
//! An `image` field is always one. Elsewhere (environment, arguments, files in ConfigMaps, fields of custom resources) a text is
//! one when its key, flag or variable has "image" in its name, when its registry is a well-known one, or when its repository is
//! that of an image that is known.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

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
    for object in objects {
        let kind = object["kind"].as_str().unwrap_or_default();
        // A definition describes fields, and a secret is not to be looked into.
        if matches!(kind, "CustomResourceDefinition" | "Secret") {
            continue;
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let namespace = object["metadata"]["namespace"].as_str();
        let name = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
        finder.object = format!("{kind} {name}: ");
        finder.value(object, "", false);
    }
    finder.found
}

/// All images that the texts of another thing (a unit file, a configuration) name.
pub fn in_value(value: &Value, known: &Known) -> Vec<Named> {
    let mut finder = Finder { known, object: String::new(), found: Vec::new() };
    finder.value(value, "", false);
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

    /// `hinted`: the key or flag before it says that it is an image.
    fn value(&mut self, value: &Value, at: &str, hinted: bool) {
        match value {
            Value::Object(map) => self.map(map, at),
            Value::Array(list) => {
                let mut hinted = hinted;
                for (index, item) in list.iter().enumerate() {
                    self.value(item, &format!("{at}[{index}]"), hinted);
                    // `--helper-image NAME` as two arguments.
                    hinted = item
                        .as_str()
                        .is_some_and(|text| text.starts_with('-') && !text.contains('=') && says_image(text));
                }
            }
            Value::String(text) => self.text(text, at, hinted),
            _ => {}
        }
    }

    fn map(&mut self, map: &Map<String, Value>, at: &str) {
        let below = |key: &str| match (at, key.contains(['.', '/'])) {
            (_, true) => format!("{at}[{key:?}]"),
            ("", false) => key.to_owned(),
            (at, false) => format!("{at}.{key}"),
        };
        let text = |key: &str| map.get(key).and_then(Value::as_str);
        // Two ways of writing one in parts: values of charts, and custom resources.
        if let Some(repository) = text("repository")
            && let Some(reference) = composed(repository, text("registry"), map.get("tag"), text("digest"))
        {
            self.push(reference, at, false);
            return;
        }
        // An entry of `env`.
        if let (Some(name), Some(value)) = (text("name"), text("value")) {
            self.text(value, &format!("{}, {name}", below("value")), says_image(name));
            return;
        }
        for (key, value) in map {
            let at = below(key);
            match value {
                Value::String(image) if key == "image" => {
                    if let Some(reference) = Reference::parse(image.trim()) {
                        let policy = text("imagePullPolicy");
                        let always = policy.map_or(reference.is_latest(), |policy| policy == "Always");
                        self.push(reference, &at, always);
                    }
                }
                _ if key == "kubectl.kubernetes.io/last-applied-configuration" => {}
                _ => self.value(value, &at, says_image(key)),
            }
        }
    }

    fn text(&mut self, text: &str, at: &str, hinted: bool) {
        if hinted {
            if let Some(reference) = likely(text.trim()) {
                self.push(reference, at, false);
            }
            return;
        }
        for (index, line) in text.lines().enumerate() {
            let at = if text.contains('\n') { format!("{at}, line {}", index + 1) } else { at.to_owned() };
            let line = line.trim_start();
            if line.starts_with('#') {
                continue;
            }
            for reference in fields(line) {
                self.push(reference, &at, false);
            }
            self.words(line, &at);
        }
    }

    fn words(&mut self, line: &str, at: &str) {
        let splits = |c: char| c.is_whitespace() || "\"'`,;()[]{}|<>".contains(c);
        let mut hinted = false;
        for word in line.split(splits).filter(|word| !word.is_empty()) {
            let (key, value) = word.split_once('=').map_or(("", word), |(key, value)| (key, value));
            let after_flag =
                std::mem::replace(&mut hinted, word.starts_with('-') && !word.contains('=') && says_image(word));
            if word.contains("://") {
                continue;
            }
            let value = value.trim_end_matches(['.', ':']);
            let reference = if after_flag || says_image(key) { likely(value) } else { self.told_by_its_name(value) };
            if let Some(reference) = reference {
                self.push(reference, at, false);
            }
        }
    }

    /// A word without a hint: fixed to a version, and of a registry or repository that is known.
    fn told_by_its_name(&self, word: &str) -> Option<Reference> {
        let reference = Reference::parse(word)?;
        let port = |tag: &String| tag.parse::<u16>().is_ok();
        let fixed = reference.digest.is_some() || reference.tag.is_some();
        let known = self.known.repositories.contains(&reference.repository);
        let told = if reference.qualified {
            known || REGISTRIES.contains(&reference.registry())
        } else {
            // `postgres:5432` is an address.
            known && !reference.tag.as_ref().is_some_and(port)
        };
        (fixed && told).then_some(reference)
    }
}

/// Whether a key, flag or variable is about an image (and not about how or with what it is pulled).
fn says_image(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace(['_', '-'], "");
    key.contains("image")
        && !["policy", "secret", "tag", "gc", "size", "digest"].iter().any(|other| key.contains(other))
}

/// A text that should be an image: more than a single plain word, which could mean anything.
fn likely(text: &str) -> Option<Reference> {
    let marked = text.contains(['/', ':', '@']) && !text.starts_with('/');
    Reference::parse(text).filter(|_| marked && !text.contains("://"))
}

fn composed(repository: &str, registry: Option<&str>, tag: Option<&Value>, digest: Option<&str>) -> Option<Reference> {
    let mut name = match registry.filter(|registry| !registry.is_empty()) {
        Some(registry) => format!("{registry}/{repository}"),
        None => repository.to_owned(),
    };
    let tag = match tag {
        Some(Value::String(tag)) => tag.clone(),
        Some(Value::Number(tag)) => tag.to_string(),
        _ => String::new(),
    };
    if !tag.is_empty() {
        name = format!("{name}:{tag}");
    }
    if let Some(digest) = digest.filter(|digest| !digest.is_empty()) {
        name = format!("{name}@{digest}");
    }
    // `repository: https://charts.example.org` is something else.
    Reference::parse(&name)
}

/// The values of `image: VALUE`, `"image": "VALUE"`, `image = "VALUE"` in a line of YAML, JSON or the like.
fn fields(line: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("image") {
        let starts = line[..at].chars().next_back().is_none_or(|c| c.is_whitespace() || "\"'{,-".contains(c));
        let rest = line[at + "image".len()..].trim_start_matches(['"', '\'']).trim_start();
        let Some(rest) = rest.strip_prefix([':', '=']).filter(|_| starts) else {
            continue;
        };
        let rest = rest.trim_start();
        let value = match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => rest[1..].split(quote).next(),
            // Without quotes it is the whole value, not the first word of a sentence.
            Some(_) => rest
                .split([',', '}'])
                .next()
                .map(|value| value.split(" #").next().unwrap_or(value).trim_end())
                .filter(|value| !value.contains(char::is_whitespace)),
            None => None,
        };
        found.extend(value.and_then(Reference::parse));
    }
    found
}

#[cfg(test)]
#[path = "discover_tests.rs"]
mod tests;
