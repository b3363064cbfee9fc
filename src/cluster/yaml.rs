//! YAML as the programs of Kubernetes read it: kubectl and Helm, 3 and 4, all through one Go library (sigs.k8s.io/yaml).
//!
//! It is YAML 1.1 in parts: `0644` is 420, `yes` and `on` are booleans, also as keys, where they become `true`. A number
//! without a fraction is an integer however it is written: `2.0`, `1e3`. Read otherwise, an object differs from what the
//! cluster has for ever, or is another one.
//!
//! Not the same, because the parser does not tell: `tRue` is a boolean here and a string there; `1__0`, `1_` and `0O17`
//! are strings here and numbers there.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads all documents of a text.
///
/// # Errors
/// What is wrong, with line and column where the parser knows them, never with the text around it (it may hold secrets).
pub fn read(text: &str) -> Result<Vec<Value>, String> {
    // The parser's limits are made for untrusted input; a bundle of CustomResourceDefinitions is larger than they are.
    let options = serde_yaml::options! { budget: None, legacy_octal_numbers: true };
    let documents: Vec<Document> =
        serde_yaml::from_multiple_with_options(text, options).map_err(|error| error.without_snippet().to_string())?;
    Ok(documents.into_iter().map(|document| document.0).collect())
}

struct Document(Value);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor).map(Self)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        number(value).map(Value::Number).ok_or_else(|| E::custom("a number that JSON cannot hold"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Document>()? {
            list.push(item.0);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<Document>()? {
            let key = match key.0 {
                Value::String(text) => text,
                key @ (Value::Bool(_) | Value::Number(_)) => key.to_string(),
                _ => return Err(de::Error::custom("a key that is not a text")),
            };
            // The parser itself finds two that are written the same.
            if map.insert(key, entries.next_value::<Document>()?.0).is_some() {
                return Err(de::Error::custom("a key that is there already, written otherwise"));
            }
        }
        Ok(map.into())
    }
}

/// Without a fraction if it has none.
#[expect(clippy::cast_possible_truncation, reason = "the bound is below that of an i64")]
fn number(value: f64) -> Option<Number> {
    const WHOLE: f64 = 9.0e18;
    if value.fract() == 0.0 && value.abs() < WHOLE { Some((value as i64).into()) } else { Number::from_f64(value) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use serde_json::json;

    use super::*;
    use crate::cluster::testing::helm_program;

    /// Words, and what they are. The answers are those of Helm, see below.
    fn words() -> Vec<(&'static str, Value)> {
        vec![
            ("0644", json!(420)),
            ("-0644", json!(-420)),
            ("0_644", json!(420)),
            ("0o644", json!(420)),
            ("00", json!(0)),
            ("08", json!(8)),
            ("0644.5", json!(644.5)),
            ("\"0644\"", json!("0644")),
            ("0x1F", json!(31)),
            ("0b101", json!(5)),
            ("0o9", json!("0o9")),
            ("1_000", json!(1000)),
            (".5", json!(0.5)),
            ("5.", json!(5)),
            ("2.0", json!(2)),
            ("1e3", json!(1000)),
            ("1.5e3", json!(1500)),
            ("1e-7", json!(1e-7)),
            ("+1", json!(1)),
            ("4503599627370497", json!(4503599627370497_u64)),
            ("y", json!(true)),
            ("yes", json!(true)),
            ("On", json!(true)),
            ("TRUE", json!(true)),
            ("n", json!(false)),
            ("NO", json!(false)),
            ("off", json!(false)),
            ("'yes'", json!("yes")),
            ("~", Value::Null),
            ("Null", Value::Null),
            ("", Value::Null),
            ("2001-01-01", json!("2001-01-01")),
            ("2001-12-14t21:59:43.10-05:00", json!("2001-12-14t21:59:43.10-05:00")),
            ("12:30:45", json!("12:30:45")),
            ("1.2.3", json!("1.2.3")),
            ("inf", json!("inf")),
            ("[1.0, 0600]", json!([1, 384])),
        ]
    }

    /// Keys, and what they become.
    const KEYS: &[(&str, &str)] =
        &[("y", "true"), ("off", "false"), ("0644", "420"), ("1", "1"), ("'on'", "on"), ("1.5", "1.5"), ("a", "a")];

    fn texts() -> Vec<(String, Value)> {
        let values = words().into_iter().map(|(word, value)| (format!("k: {word}\n"), json!({"k": value})));
        let keys = KEYS.iter().map(|(word, key)| (format!("{word}: 1\n"), json!({*key: 1})));
        values.chain(keys).collect()
    }

    #[test]
    fn words_are_what_they_are_to_helm_and_kubectl() {
        for (text, expected) in texts() {
            assert_eq!(read(&text).unwrap(), [expected], "{text}");
        }
        assert_eq!(read("a: 1\n---\n# nothing\n---\n- b\n").unwrap(), [json!({"a": 1}), json!(["b"])]);
        for (text, expected) in [
            ("k: .inf\n", "line 1"),
            ("~: 1\n", "a key that is not a text"),
            ("[a]: 1\n", "a key that is not a text"),
            ("y: 1\nyes: 2\n", "a key that is there already"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    /// Real Helm reads the same texts.
    #[test]
    fn helm_gives_the_same_answers() {
        for major in [3, 4] {
            let Some(helm) = helm_program(major) else { return };
            let chart = tempfile::tempdir().unwrap();
            let write = |name: &str, text: &str| std::fs::write(chart.path().join(name), text).unwrap();
            for folder in ["templates", "in"] {
                std::fs::create_dir(chart.path().join(folder)).unwrap();
            }
            write("Chart.yaml", "apiVersion: v2\nname: demo\nversion: 0.1.0\n");
            write(
                "templates/all.yaml",
                "{{ range $path, $_ := .Files.Glob \"in/*\" }}\n{{ $path | quote }}: {{ $.Files.Get $path | fromYaml | toJson }}\n{{ end }}",
            );
            for (number, (text, _)) in texts().iter().enumerate() {
                write(&format!("in/{number}"), text);
            }
            let output = Command::new(helm).arg("template").arg("demo").arg(chart.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let answers: Value = serde_yaml::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap();
            for (number, (text, expected)) in texts().iter().enumerate() {
                assert_eq!(&answers[format!("in/{number}")], expected, "Helm {major}: {text}");
            }
        }
    }
}
