//! Stage files: `stages/*.yml`, read and checked, not yet rendered.

use std::path::Path;

use super::yaml::{self, Data, Node};
use crate::diagnostic::{Diagnostic, Place, did_you_mean};

/// A stage as written.
#[derive(Debug, Clone)]
pub struct StageFile {
    pub name: String,
    pub place: Place,
    pub summary: String,
    /// Group in `healthcheck`: `infra`, `storage`... The stage's name when not given.
    pub layer: String,
    /// Names of other stages, with the place of each.
    pub needs: Vec<(String, Place)>,
    /// The stage runs only when this value is true.
    pub when: Option<(String, Place)>,
    pub resources: Vec<Entry>,
    pub checks: Vec<Entry>,
    /// Addresses that the stage offers, shown at the end of `up`: `- inference: http://…`.
    pub endpoints: Vec<Entry>,
    /// Names that look like images in what the stage applies, and are none, with the place of each.
    pub not_images: Vec<(String, Place)>,
}

/// A resource or check as written: `kind: spec`, with its control flow.
#[derive(Debug, Clone)]
pub struct Entry {
    pub kind: String,
    pub place: Place,
    pub spec: Node,
    /// Only when this value is true.
    pub when: Option<(String, Place)>,
    /// Once for each item of this list, as `item`.
    pub for_each: Option<(String, Place)>,
    /// Checks: seconds until `up` gives up.
    pub within: Option<u64>,
}

const STAGE_KEYS: [&str; 9] =
    ["stage", "summary", "layer", "needs", "when", "resources", "checks", "endpoints", "not_images"];
const ENTRY_KEYS: [&str; 3] = ["when", "for_each", "within"];

impl StageFile {
    /// Reads a stage file. `kinds` and `checks` are the known kinds of resources and checks.
    ///
    /// # Errors
    /// Everything that is wrong with its form, at once.
    pub fn parse(file: &str, text: &str, kinds: &[&str], checks: &[&str]) -> Result<Self, Vec<Diagnostic>> {
        let tree = yaml::parse(file, text).map_err(|error| vec![error])?;
        let mut faults = Vec::new();
        let Data::Map(entries) = &tree.data else {
            return Err(vec![Diagnostic::at(
                tree.place.clone(),
                "a stage file is a map that starts with `stage: NAME`",
            )]);
        };
        for (key, _) in entries {
            if !STAGE_KEYS.contains(&key.name.as_str()) {
                faults.push(unknown("key", &key.name, &key.place, &STAGE_KEYS));
            }
        }
        let text_of = |key: &str, faults: &mut Vec<Diagnostic>| match tree.get(key) {
            None => None,
            Some(node) => node.as_str().map(str::to_owned).or_else(|| {
                faults.push(Diagnostic::at(node.place.clone(), format!("`{key}` is a string, not {}", node.kind())));
                None
            }),
        };
        let name = text_of("stage", &mut faults).unwrap_or_default();
        let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let place = tree.get("stage").map_or_else(|| tree.place.clone(), |node| node.place.clone());
        if name.is_empty() {
            faults.push(Diagnostic::at(place.clone(), "the stage has no name").hint(format!("write `stage: {stem}`")));
        } else if name != stem {
            faults.push(
                Diagnostic::at(place.clone(), format!("stage `{name}` is in the file {file}"))
                    .hint(format!("name the file {name}.yml, or the stage {stem}")),
            );
        }
        let summary = text_of("summary", &mut faults).unwrap_or_default();
        let layer = text_of("layer", &mut faults).unwrap_or_else(|| name.clone());
        let needs = strings(tree.get("needs"), "needs", &mut faults);
        let when = reference(tree.get("when"), "when", &mut faults);
        let resources = list(tree.get("resources"), "resources", Some(kinds), &mut faults);
        let checks = list(tree.get("checks"), "checks", Some(checks), &mut faults);
        let endpoints = list(tree.get("endpoints"), "endpoints", None, &mut faults);
        let not_images = strings(tree.get("not_images"), "not_images", &mut faults);
        if faults.is_empty() {
            Ok(Self { name, place, summary, layer, needs, when, resources, checks, endpoints, not_images })
        } else {
            Err(faults)
        }
    }
}

fn unknown(what: &str, name: &str, place: &Place, known: &[&str]) -> Diagnostic {
    let error = Diagnostic::at(place.clone(), format!("unknown {what} `{name}`"));
    let hint = did_you_mean(name, known.iter().copied()).unwrap_or_else(|| format!("known: {}", known.join(", ")));
    error.hint(hint)
}

fn strings(node: Option<&Node>, key: &str, faults: &mut Vec<Diagnostic>) -> Vec<(String, Place)> {
    let Some(node) = node else { return Vec::new() };
    let Data::List(items) = &node.data else {
        faults.push(Diagnostic::at(node.place.clone(), format!("`{key}` is a list, not {}", node.kind())));
        return Vec::new();
    };
    let mut strings = Vec::new();
    for item in items {
        match item.as_str() {
            Some(text) => strings.push((text.to_owned(), item.place.clone())),
            None => faults.push(Diagnostic::at(item.place.clone(), format!("expected a name, not {}", item.kind()))),
        }
    }
    strings
}

/// A dotted path to a value: conditions are code, so nothing but a path is allowed.
fn reference(node: Option<&Node>, key: &str, faults: &mut Vec<Diagnostic>) -> Option<(String, Place)> {
    let node = node?;
    let path = node.as_str().filter(|text| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
    });
    if path.is_none() {
        faults.push(
            Diagnostic::at(node.place.clone(), format!("`{key}` is the path of a value, like `ufw.enabled`"))
                .hint("there are no expressions in stage files; set a value in the inventory instead"),
        );
    }
    path.map(|path| (path.to_owned(), node.place.clone()))
}

fn list(node: Option<&Node>, key: &str, kinds: Option<&[&str]>, faults: &mut Vec<Diagnostic>) -> Vec<Entry> {
    let Some(node) = node else { return Vec::new() };
    let Data::List(items) = &node.data else {
        faults.push(Diagnostic::at(node.place.clone(), format!("`{key}` is a list, not {}", node.kind())));
        return Vec::new();
    };
    items.iter().filter_map(|item| entry(item, key, kinds, faults)).collect()
}

fn entry(item: &Node, list: &str, kinds: Option<&[&str]>, faults: &mut Vec<Diagnostic>) -> Option<Entry> {
    let Data::Map(fields) = &item.data else {
        faults.push(Diagnostic::at(
            item.place.clone(),
            format!("an entry of `{list}` is `kind: …`, not {}", item.kind()),
        ));
        return None;
    };
    let mut found: Vec<_> = fields.iter().filter(|(key, _)| !ENTRY_KEYS.contains(&key.name.as_str())).collect();
    let when = reference(item.get("when"), "when", faults);
    let for_each = reference(item.get("for_each"), "for_each", faults);
    let within = match item.get("within").map(|node| (node, &node.data)) {
        Some((_, Data::Number(n))) if n.as_u64().is_some() && list == "checks" => n.as_u64(),
        Some((node, _)) => {
            faults.push(Diagnostic::at(node.place.clone(), "`within` is a number of seconds, and belongs to checks"));
            None
        }
        None => None,
    };
    let known = kinds.unwrap_or_default();
    if found.len() != 1 {
        let message = if found.is_empty() { "the entry names no kind" } else { "the entry names more than one kind" };
        let place = found.get(1).map_or(&item.place, |(key, _)| &key.place);
        faults.push(Diagnostic::at(place.clone(), message).hint(format!("known kinds: {}", known.join(", "))));
        return None;
    }
    let (key, spec) = found.remove(0);
    if kinds.is_some_and(|kinds| !kinds.contains(&key.name.as_str())) {
        faults.push(unknown("kind", &key.name, &key.place, known));
        return None;
    }
    Some(Entry { kind: key.name.clone(), place: key.place.clone(), spec: spec.clone(), when, for_each, within })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        StageFile::parse("stages/k3s.yml", text, &["file", "apt"], &["http"])
            .map(|_| Vec::new())
            .unwrap_or_else(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_good_file() {
        let text = "stage: k3s\nneeds: [system]\nresources:\n  - file: { path: /a }\n    when: x.y\nchecks:\n  - http: {}\n    within: 9\nnot_images: [a/b:v1]\n";
        let stage = StageFile::parse("stages/k3s.yml", text, &["file"], &["http"]).unwrap();
        assert_eq!(stage.needs[0].0, "system");
        assert_eq!(stage.resources[0].when.as_ref().unwrap().0, "x.y");
        assert_eq!(stage.resources[0].place.to_string(), "stages/k3s.yml:4:5");
        assert_eq!(stage.checks[0].within, Some(9));
        assert_eq!(stage.not_images[0].0, "a/b:v1");
    }

    #[test]
    fn every_fault_at_once_with_its_place() {
        let text = "stage: k3x\nneed: [a]\nresources:\n  - flie: {}\n  - file: {}\n    apt: {}\n  - file: {}\n    when: a == b\n";
        assert_eq!(
            faults(text),
            [
                "stages/k3s.yml:2:1: unknown key `need`\n  hint: did you mean \"needs\"?",
                "stages/k3s.yml:1:8: stage `k3x` is in the file stages/k3s.yml\n  hint: name the file k3x.yml, or the stage k3s",
                "stages/k3s.yml:4:5: unknown kind `flie`\n  hint: did you mean \"file\"?",
                "stages/k3s.yml:6:5: the entry names more than one kind\n  hint: known kinds: file, apt",
                "stages/k3s.yml:8:11: `when` is the path of a value, like `ufw.enabled`\n  hint: there are no expressions in stage files; set a value in the inventory instead",
            ]
        );
    }
}
