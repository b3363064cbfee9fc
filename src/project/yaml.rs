//! YAML as a tree in which every value and key knows its place.
//!
//! Errors found long after parsing (an unknown stage, a wrong type in a spec) can so still name file, line and column.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_path_to_error::Segment;
use serde_yaml::Spanned;

use crate::diagnostic::{Diagnostic, Place};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub place: Place,
    pub data: Data,
}

/// A key and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub place: Place,
    pub name: String,
}

/// What YAML can say.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

impl Node {
    /// The entry of a map.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entry(name).map(|(_, node)| node)
    }

    /// The entry of a map with its key.
    pub fn entry(&self, name: &str) -> Option<&(Key, Node)> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|(key, _)| key.name == name),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.data {
            Data::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value at a dotted path of map keys.
    pub fn at(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(self, |node, name| node.get(name))
    }

    /// Without places.
    pub fn to_json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(b) => Value::Bool(*b),
            Data::Number(n) => Value::Number(n.clone()),
            Data::String(s) => Value::String(s.clone()),
            Data::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Data::Map(entries) => Value::Object(
                entries.iter().map(|(key, node)| (key.name.clone(), node.to_json())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// What a JSON value would be if it stood at `place`.
    pub fn from_json(value: &Value, place: &Place) -> Node {
        let data = match value {
            Value::Null => Data::Null,
            Value::Bool(b) => Data::Bool(*b),
            Value::Number(n) => Data::Number(n.clone()),
            Value::String(s) => Data::String(s.clone()),
            Value::Array(items) => Data::List(items.iter().map(|item| Node::from_json(item, place)).collect()),
            Value::Object(entries) => Data::Map(
                entries
                    .iter()
                    .map(|(name, value)| {
                        (Key { place: place.clone(), name: name.clone() }, Node::from_json(value, place))
                    })
                    .collect(),
            ),
        };
        Node { place: place.clone(), data }
    }

    /// The place of what a `serde_path_to_error` path points at; the deepest part that exists.
    pub fn place_of(&self, path: &serde_path_to_error::Path) -> &Place {
        let mut node = self;
        for segment in path.iter() {
            match node.child(segment) {
                Some(next) => node = next,
                None => break,
            }
        }
        &node.place
    }

    /// What a `serde_path_to_error` path points at.
    pub fn follow(&self, path: &serde_path_to_error::Path) -> Option<&Node> {
        path.iter().try_fold(self, |node, segment| node.child(segment))
    }

    /// As [`Node::follow`], to change it.
    pub fn follow_mut(&mut self, path: &serde_path_to_error::Path) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, segment| match (segment, &mut node.data) {
            (Segment::Map { key }, Data::Map(entries)) => {
                entries.iter_mut().find(|(have, _)| have.name == *key).map(|(_, node)| node)
            }
            (Segment::Seq { index }, Data::List(items)) => items.get_mut(*index),
            _ => None,
        })
    }

    fn child(&self, segment: &Segment) -> Option<&Node> {
        match (segment, &self.data) {
            (Segment::Map { key }, _) => self.get(key),
            (Segment::Seq { index }, Data::List(items)) => items.get(*index),
            _ => None,
        }
    }

    /// Makes a number or boolean its text; `false` when this is something else.
    pub fn make_text(&mut self) -> bool {
        let text = match &self.data {
            Data::Number(number) => number.to_string(),
            Data::Bool(truth) => truth.to_string(),
            _ => return false,
        };
        self.data = Data::String(text);
        true
    }

    /// The word for what this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Bool(_) => "a boolean",
            Data::Number(_) => "a number",
            Data::String(_) => "a string",
            Data::List(_) => "a list",
            Data::Map(_) => "a map",
        }
    }
}

/// Reads one document. An empty file is an empty map.
///
/// # Errors
/// Syntax errors and repeated keys, with their place.
pub fn parse(file: &str, text: &str) -> Result<Node, Diagnostic> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim() == "---") {
        return Ok(Node { place: Place { file: file.into(), line: 1, column: 1 }, data: Data::Map(Vec::new()) });
    }
    let options = serde_yaml::options! { strict_booleans: true };
    let raw: Spanned<Raw> = serde_yaml::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map_or((1, 1), |at| (at.line() as u32, at.column() as u32));
        let place = Place { file: file.into(), line: place.0.max(1), column: place.1.max(1) };
        Diagnostic::at(place, first_line(&error.without_snippet().to_string()))
    })?;
    Ok(node(file, raw))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn place(file: &str, location: serde_yaml::Location) -> Place {
    Place { file: file.into(), line: location.line().max(1) as u32, column: location.column().max(1) as u32 }
}

fn node(file: &str, raw: Spanned<Raw>) -> Node {
    let data = match raw.value {
        Raw::Null => Data::Null,
        Raw::Bool(b) => Data::Bool(b),
        Raw::Number(n) => Data::Number(n),
        Raw::String(s) => Data::String(s),
        Raw::List(items) => Data::List(items.into_iter().map(|item| node(file, item)).collect()),
        Raw::Map(entries) => Data::Map(
            entries
                .into_iter()
                .map(|(key, value)| (Key { place: place(file, key.referenced), name: key.value }, node(file, value)))
                .collect(),
        ),
    };
    Node { place: place(file, raw.referenced), data }
}

/// The tree as the deserializer gives it.
enum Raw {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Number::from_f64(value).map(Raw::Number).ok_or_else(|| E::custom("infinity and NaN cannot be used here"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_of_keys_and_values() {
        let tree = parse("a.yml", "stage: k3s\nneeds:\n  - system\n  - x: 1\n").unwrap();
        let (key, value) = tree.entry("stage").unwrap();
        assert_eq!((key.place.line, key.place.column), (1, 1));
        assert_eq!((value.place.line, value.place.column), (1, 8));
        let Data::List(items) = &tree.get("needs").unwrap().data else { panic!("not a list") };
        assert_eq!((items[0].place.line, items[0].place.column), (3, 5));
        assert_eq!(items[1].to_json(), serde_json::json!({"x": 1}));
    }

    #[test]
    fn traps_of_yaml() {
        let tree = parse("a.yml", "a: no\nb: \"0644\"\nc: 1.10\nd: ~\ne: true\nf:\n").unwrap();
        assert_eq!(
            tree.to_json(),
            serde_json::json!({"a": "no", "b": "0644", "c": 1.1, "d": null, "e": true, "f": null})
        );
    }

    #[test]
    fn errors_have_a_place() {
        let duplicate = parse("a.yml", "a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(duplicate.place.unwrap().line, 3);
        let syntax = parse("a.yml", "a: [1\nb: 2\n").unwrap_err();
        assert!(syntax.place.unwrap().line >= 1);
        assert!(parse("a.yml", "# nothing\n").unwrap().to_json().is_object());
    }
}
