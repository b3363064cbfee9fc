//! From a tree with places to a typed value, with the place and a suggestion in every error.

use serde::de::DeserializeOwned;

use super::yaml::Node;
use crate::diagnostic::{Diagnostic, Place, did_you_mean};

/// Reads `tree` as a `T`.
///
/// # Errors
/// What does not fit, with its place and, for an unknown key, the nearest known one.
pub fn typed<T: DeserializeOwned>(tree: &Node) -> Result<T, Diagnostic> {
    serde_path_to_error::deserialize(tree.to_json()).map_err(|error| explain(tree, &error))
}

/// The diagnostic for a value of `tree` that did not fit its type.
pub fn explain(tree: &Node, error: &serde_path_to_error::Error<serde_json::Error>) -> Diagnostic {
    let message = error.inner().to_string();
    let place = tree.place_of(error.path()).clone();
    let Some((unknown, known)) = unknown_key(&message) else {
        return Diagnostic::at(place, in_our_words(&message));
    };
    let hint =
        did_you_mean(unknown, known.iter().copied()).unwrap_or_else(|| format!("known keys: {}", known.join(", ")));
    Diagnostic::at(key_place(tree, unknown).unwrap_or(place), format!("unknown key `{unknown}`")).hint(hint)
}

/// serde says: unknown field `a`, expected one of `b`, `c`.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (unknown, rest) = rest.split_once('`')?;
    Some((unknown, rest.split('`').skip(1).step_by(2).collect()))
}

/// The key of this name that stands nearest to the root: serde's path ends at the map, not at the key.
fn key_place(node: &Node, name: &str) -> Option<Place> {
    use super::yaml::Data;
    if let Some((key, _)) = node.entry(name) {
        return Some(key.place.clone());
    }
    match &node.data {
        Data::Map(entries) => entries.iter().find_map(|(_, value)| key_place(value, name)),
        Data::List(items) => items.iter().find_map(|item| key_place(item, name)),
        _ => None,
    }
}

fn in_our_words(message: &str) -> String {
    match message.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
        Some((key, _)) => format!("the key `{key}` is missing"),
        None => message.to_owned(),
    }
}
