//! Objects and their names, and reading them from a manifest.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What names an object in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectRef {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// `None` for what lives in no namespace.
    pub namespace: Option<String>,
    pub name: String,
}

impl ObjectRef {
    pub fn new(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Self {
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        }
    }

    /// The name of `object`, as far as it has one.
    ///
    /// # Errors
    /// Which of `apiVersion`, `kind` and `metadata.name` is missing.
    pub fn of(object: &Value) -> Result<Self, Malformed> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
        let required = |pointer: &'static str, field: &'static str| {
            text(pointer).ok_or_else(|| Malformed {
                object: format!(
                    "{} {}",
                    text("/kind").unwrap_or("object"),
                    text("/metadata/name").unwrap_or("without a name")
                ),
                field,
            })
        };
        Ok(Self::new(
            required("/apiVersion", "apiVersion")?,
            required("/kind", "kind")?,
            text("/metadata/namespace"),
            required("/metadata/name", "metadata.name")?,
        ))
    }

    /// `apps` of `apps/v1`; empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// The same object under any version of its API: `apps/v1beta1` and `apps/v1` name one Deployment.
    pub fn is_same_object(&self, other: &Self) -> bool {
        self.group() == other.group()
            && self.kind == other.kind
            && self.namespace == other.namespace
            && self.name == other.name
    }

    /// `deployment inference -n mlops`, as kubectl wants it.
    pub fn kubectl_words(&self) -> String {
        let kind = self.kind.to_lowercase();
        match &self.namespace {
            Some(namespace) => format!("{kind} {} -n {namespace}", self.name),
            None => format!("{kind} {}", self.name),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// An object that has no complete name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: `{field}` is missing")]
pub struct Malformed {
    object: String,
    field: &'static str,
}

/// Reads a manifest: YAML of one or many documents, `List`s taken apart, in the order of the file.
///
/// # Errors
/// What is wrong, with line and column where the parser knows them, never with the text around it (it may hold secrets).
pub fn parse_manifest(text: &str) -> Result<Vec<Value>, String> {
    let documents = super::yaml::read(text)?;
    let mut objects = Vec::new();
    for document in documents {
        flatten(document, &mut objects)?;
    }
    let mut seen = BTreeSet::new();
    for object in &mut objects {
        let reference = ObjectRef::of(object).map_err(|error| error.to_string())?;
        if !seen.insert(reference.clone()) {
            return Err(format!("{reference} is in the file twice"));
        }
        if reference.kind == "Secret" && reference.group().is_empty() {
            encode_string_data(object).map_err(|error| format!("{reference}: {error}"))?;
        }
    }
    Ok(objects)
}

fn flatten(document: Value, into: &mut Vec<Value>) -> Result<(), String> {
    match document {
        Value::Null => Ok(()),
        Value::Object(mut map)
            if map.get("kind").and_then(Value::as_str) == Some("List")
                && map.get("items").is_some_and(Value::is_array) =>
        {
            if let Some(Value::Array(items)) = map.remove("items") {
                for item in items {
                    flatten(item, into)?;
                }
            }
            Ok(())
        }
        Value::Object(map) => {
            into.push(Value::Object(map));
            Ok(())
        }
        _ => Err("a document is not a Kubernetes object (a map with apiVersion and kind)".into()),
    }
}

/// Moves `stringData` into `data`, as the server would: with server-side apply the server keeps `stringData` under a
/// field ownership of its own, and a key that is taken out of it would stay in `data` for ever.
fn encode_string_data(secret: &mut Value) -> Result<(), String> {
    let Some(map) = secret.as_object_mut() else {
        return Ok(());
    };
    let Some(plain) = map.remove("stringData") else {
        return Ok(());
    };
    let plain: Map<String, Value> = match plain {
        Value::Object(plain) => plain,
        Value::Null => Map::new(),
        _ => return Err("`stringData` is not a map".into()),
    };
    let data = map.entry("data").or_insert_with(|| Value::Object(Map::new()));
    let Some(data) = data.as_object_mut() else {
        return Err("`data` is not a map".into());
    };
    for (key, value) in plain {
        // The value is not shown: it is a secret even when it has the wrong type.
        let Value::String(text) = value else {
            return Err(format!("`stringData.{key}` is not a string: quote it"));
        };
        data.insert(key, Value::String(base64_of(text.as_bytes())));
    }
    Ok(())
}

/// How `data` of a Secret holds bytes.
pub fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Sets a label on an object that has a `metadata` map.
pub fn set_label(object: &mut Value, key: &str, value: &str) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let labels = metadata.entry("labels").or_insert_with(|| Value::Object(Map::new()));
    if labels.is_null() {
        *labels = Value::Object(Map::new());
    }
    if let Some(labels) = labels.as_object_mut() {
        labels.insert(key.to_owned(), Value::String(value.to_owned()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn many_documents_and_lists_in_order() {
        let objects = parse_manifest(
            "# a comment only\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: mlops}\n---\n\
             apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a, namespace: mlops}\n\
             - apiVersion: apps/v1\n  kind: Deployment\n  metadata: {name: inference, namespace: mlops}\n---\n",
        )
        .unwrap();
        let names: Vec<String> = objects.iter().map(|object| ObjectRef::of(object).unwrap().to_string()).collect();
        assert_eq!(names, ["Namespace mlops", "ConfigMap mlops/a", "Deployment mlops/inference"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, expected) in [
            ("kind: Pod\nmetadata: {name: a}", "Pod a: `apiVersion` is missing"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}",
                "Pod without a name: `metadata.name` is missing",
            ),
            ("- a\n- b\n", "a document is not a Kubernetes object (a map with apiVersion and kind)"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
                "Pod a is in the file twice",
            ),
        ] {
            assert_eq!(parse_manifest(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_parse_error_has_a_place_and_shows_no_text() {
        let error = parse_manifest(
            "apiVersion: v1\nkind: Secret\nstringData:\n  PASSWORD: hunter2-canary\n  PASSWORD: hunter2-canary\n",
        )
        .unwrap_err();
        assert!(error.contains("line 5"), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }

    #[test]
    fn string_data_becomes_data_and_its_value_is_never_shown() {
        let objects = parse_manifest(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: b}\nstringData: {K: secret}\ndata: {L: bA==}\n",
        )
        .unwrap();
        assert_eq!(objects[0]["data"], json!({"L": "bA==", "K": "c2VjcmV0"}));
        assert!(objects[0].get("stringData").is_none());

        let error = parse_manifest("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {PIN: 482913}\n")
            .unwrap_err();
        assert_eq!(error, "Secret a: `stringData.PIN` is not a string: quote it");
    }

    #[test]
    fn a_mode_is_what_kubectl_takes_it_for() {
        let objects = parse_manifest("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {defaultMode: 0644}\n");
        assert_eq!(objects.unwrap()[0]["spec"]["defaultMode"].to_string(), "420");
    }

    #[test]
    fn large_definitions_are_read() {
        let mut text = String::from(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a}\nspec:\n",
        );
        for i in 0..60_000 {
            text.push_str(&format!("  field{i}: {{type: string, description: some words}}\n"));
        }
        assert_eq!(parse_manifest(&text).unwrap().len(), 1);
    }

    #[test]
    fn labels_are_added_where_there_were_none() {
        let mut object = json!({"metadata": {"name": "a", "labels": null}});
        set_label(&mut object, "k", "v");
        assert_eq!(object["metadata"]["labels"], json!({"k": "v"}));
    }

    #[test]
    fn versions_of_one_api_name_the_same_object() {
        let old = ObjectRef::new("apps/v1beta1", "Deployment", Some("a"), "b");
        let new = ObjectRef::new("apps/v1", "Deployment", Some("a"), "b");
        assert!(old.is_same_object(&new));
        assert!(!old.is_same_object(&ObjectRef::new("v1", "Deployment", Some("a"), "b")));
    }
}
