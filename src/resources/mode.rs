//! Permission bits as stage files write them: a quoted octal string.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Permission bits: `"0644"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ModeVisitor)
    }
}

struct ModeVisitor;

impl Visitor<'_> for ModeVisitor {
    type Value = Mode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mode in quotes, such as \"0644\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Mode, E> {
        let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
        match u32::from_str_radix(text, 8) {
            Ok(mode) if octal => Ok(Mode(mode)),
            _ => Err(E::custom(format!("{text:?} is no mode: write 3 or 4 octal digits, such as \"0644\""))),
        }
    }

    // Without quotes YAML may read it as another number than was meant.
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Mode, E> {
        Err(E::custom(format!("the mode {number} is not in quotes: write it as a string, such as \"0644\"")))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Mode, E> {
        Err(E::custom(format!("the mode {number} is not in quotes: write it as a string, such as \"0644\"")))
    }
}

impl JsonSchema for Mode {
    fn schema_name() -> Cow<'static, str> {
        "Mode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Permission bits, octal and in quotes: `\"0644\"`.",
            "type": "string",
            "pattern": "^[0-7]{3,4}$",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_quoted_octal_digits() {
        let parse = |json: &str| serde_json::from_str::<Mode>(json).map_err(|it| it.to_string());
        assert_eq!(parse("\"0644\"").unwrap(), Mode(0o644));
        assert_eq!(parse("\"755\"").unwrap().to_string(), "0755");
        assert_eq!(parse("\"1777\"").unwrap(), Mode(0o1777));
        for (json, reason) in [
            ("420", "the mode 420 is not in quotes"),
            ("\"0648\"", "\"0648\" is no mode"),
            ("\"u+x\"", "\"u+x\" is no mode"),
            ("\"07777777\"", "\"07777777\" is no mode"),
            ("true", "a mode in quotes, such as \"0644\""),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
