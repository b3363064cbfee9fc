//! Values in three layers: `inventory/defaults.yml` < the chosen inventory < `--set`.

use serde_json::Value;

use super::yaml::{self, Data, Key, Node};
use crate::diagnostic::{Diagnostic, Place, did_you_mean};

/// The layers, lowest first, and what they come to.
#[derive(Debug, Clone)]
pub struct Values {
    layers: Vec<Node>,
    merged: Node,
}

/// One layer's word on a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Voice {
    pub place: Place,
    pub value: Value,
    /// Whether this one counts.
    pub won: bool,
}

impl Values {
    /// Merges the layers: maps deeply, everything else (lists too) as a whole.
    pub fn new(layers: Vec<Node>) -> Self {
        let empty = Node { place: Place { file: "(none)".into(), line: 1, column: 1 }, data: Data::Map(Vec::new()) };
        let merged = layers.iter().fold(empty, merge);
        Self { layers, merged }
    }

    /// The result.
    pub fn merged(&self) -> &Node {
        &self.merged
    }

    /// Who says what about `key`, lowest layer first.
    ///
    /// # Errors
    /// When no layer has the key, with a suggestion.
    pub fn explain(&self, key: &str) -> Result<Vec<Voice>, Diagnostic> {
        let Some(winner) = self.merged.at(key) else {
            let known = self.keys();
            let error = Diagnostic::new(format!("no value has the key `{key}`"));
            return Err(match did_you_mean(key, known.iter().map(String::as_str)) {
                Some(hint) => error.hint(hint),
                None => error.hint("`provision config explain` without a key lists all keys"),
            });
        };
        Ok(self
            .layers
            .iter()
            .filter_map(|layer| layer.at(key))
            .map(|node| Voice {
                place: node.place.clone(),
                value: node.to_json(),
                won: node.place == winner.place || matches!(winner.data, Data::Map(_)),
            })
            .collect())
    }

    /// Every dotted key that holds something other than a map.
    pub fn keys(&self) -> Vec<String> {
        fn walk(prefix: &str, node: &Node, keys: &mut Vec<String>) {
            match &node.data {
                Data::Map(entries) if !entries.is_empty() => {
                    for (key, value) in entries {
                        let path = if prefix.is_empty() { key.name.clone() } else { format!("{prefix}.{}", key.name) };
                        walk(&path, value, keys);
                    }
                }
                _ => keys.push(prefix.to_owned()),
            }
        }
        let mut keys = Vec::new();
        walk("", &self.merged, &mut keys);
        keys
    }
}

fn merge(below: Node, above: &Node) -> Node {
    match (below.data, &above.data) {
        (Data::Map(mut entries), Data::Map(over)) => {
            for (key, value) in over {
                match entries.iter_mut().find(|(have, _)| have.name == key.name) {
                    Some((have, node)) => {
                        *have = key.clone();
                        *node = merge(node.clone(), value);
                    }
                    None => entries.push((key.clone(), value.clone())),
                }
            }
            Node { place: above.place.clone(), data: Data::Map(entries) }
        }
        _ => above.clone(),
    }
}

/// Reads the `--set key.path=value` arguments as a layer. Values are read as YAML: `3` is a number, `"3"` a string.
///
/// # Errors
/// An argument without `=`, with an empty key, or with a value that is not YAML.
pub fn from_arguments(arguments: &[String]) -> Result<Node, Diagnostic> {
    let mut layer = Node { place: set_place(0), data: Data::Map(Vec::new()) };
    for (index, argument) in arguments.iter().enumerate() {
        let place = set_place(index);
        let (key, text) = argument.split_once('=').ok_or_else(|| {
            Diagnostic::at(place.clone(), format!("`--set {argument}` has no `=`")).hint("write --set key.path=value")
        })?;
        if key.split('.').any(|part| part.trim().is_empty()) {
            return Err(Diagnostic::at(place, format!("`--set {argument}` has an empty key")));
        }
        let value = match text {
            "" => Value::String(String::new()),
            _ => yaml::parse("--set", text).map_err(|error| Diagnostic::at(place.clone(), error.message))?.to_json(),
        };
        let leaf = Node::from_json(&value, &place);
        let nested = key.rsplit('.').fold(leaf, |inner, name| Node {
            place: place.clone(),
            data: Data::Map(vec![(Key { place: place.clone(), name: name.to_owned() }, inner)]),
        });
        layer = merge(layer, &nested);
    }
    Ok(layer)
}

fn set_place(index: usize) -> Place {
    Place { file: "--set".into(), line: index as u32 + 1, column: 1 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn layers() -> Values {
        let defaults = yaml::parse("defaults.yml", "k3s:\n  version: v1\n  disable: [a, b]\nname: x\n").unwrap();
        let inventory = yaml::parse("prod.yml", "k3s:\n  disable: [c]\n").unwrap();
        let set = from_arguments(&["k3s.version=v2".into(), "deep.er=3".into()]).unwrap();
        Values::new(vec![defaults, inventory, set])
    }

    #[test]
    fn maps_merge_and_lists_replace() {
        let expected = serde_json::json!({"k3s": {"version": "v2", "disable": ["c"]}, "name": "x", "deep": {"er": 3}});
        assert_eq!(layers().merged().to_json(), expected);
    }

    #[test]
    fn explain_names_winner_and_losers() {
        let voices = layers().explain("k3s.version").unwrap();
        let told: Vec<_> = voices.iter().map(|v| (v.place.to_string(), v.won)).collect();
        assert_eq!(told, [("defaults.yml:2:12".to_owned(), false), ("--set:1:1".to_owned(), true)]);
        let error = layers().explain("k3s.versoin").unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("did you mean \"k3s.version\"?"));
    }

    #[test]
    fn bad_arguments() {
        assert!(from_arguments(&["novalue".into()]).unwrap_err().message.contains("has no `=`"));
        assert!(from_arguments(&["a..b=1".into()]).unwrap_err().message.contains("empty key"));
    }
}
