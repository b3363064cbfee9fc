//! Specs that may be written shorter than a mapping: `hostname: node-1`, `apt: [curl, jq]`.
//!
//! A kind derives its full form with `#[serde(remote = "Self", deny_unknown_fields)]`, implements [`ShortForm`] and calls
//! [`short_form!`]. An untagged enum would do the same, but its errors do not say which key is wrong.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A spec with a short form. What is not overridden is an error that says [`ShortForm::EXPECTING`].
pub trait ShortForm: Sized {
    /// What may stand here: `a host name`.
    const EXPECTING: &'static str;

    /// The full form.
    ///
    /// # Errors
    /// What the deserializer says.
    fn full<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;

    /// From a single word.
    ///
    /// # Errors
    /// Why it cannot be.
    fn from_text(text: String) -> Result<Self, String> {
        Err(unexpected::<Self>(&format!("{text:?}")))
    }

    /// From a list of words.
    ///
    /// # Errors
    /// Why it cannot be.
    fn from_list(_list: Vec<String>) -> Result<Self, String> {
        Err(unexpected::<Self>("a list"))
    }

    /// From `true` or `false`, which is how some write `on` and `off`.
    ///
    /// # Errors
    /// Why it cannot be.
    fn from_bool(value: bool) -> Result<Self, String> {
        Err(unexpected::<Self>(&value.to_string()))
    }
}

fn unexpected<T: ShortForm>(found: &str) -> String {
    format!("found {found}, expected {}", T::EXPECTING)
}

/// Reads either form.
///
/// # Errors
/// What does not fit.
pub fn deserialize<'de, T: ShortForm, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Either(PhantomData))
}

struct Either<T>(PhantomData<T>);

impl<'de, T: ShortForm> Visitor<'de> for Either<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTING)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text.to_owned()).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        T::from_bool(value).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<T, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        T::from_list(list).map_err(A::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::full(MapAccessDeserializer::new(map))
    }
}

/// One word or a list of words, for a field: `name: overlay`, `name: [overlay, br_netfilter]`.
///
/// # Errors
/// What is neither.
pub fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a word or a list of words")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(word) => vec![word],
        OneOrMany::Many(words) => words,
    })
}

/// Adds the single word to a schema that has only the full form.
pub fn or_text(schema: &mut schemars::Schema) {
    or(schema, &["string"]);
}

/// Adds the single word and the list of words to a schema that has only the full form.
pub fn or_text_or_list(schema: &mut schemars::Schema) {
    or(schema, &["string", "array"]);
}

fn or(schema: &mut schemars::Schema, types: &[&str]) {
    let mut full = schema.as_value().clone();
    let description = full.as_object_mut().and_then(|object| object.shift_remove("description"));
    let forms = types
        .iter()
        .map(|&form| match form {
            "array" => serde_json::json!({ "type": "array", "items": { "type": "string" } }),
            form => serde_json::json!({ "type": form }),
        })
        .chain([full]);
    let mut either = serde_json::Map::new();
    either.extend(description.map(|text| ("description".to_owned(), text)));
    either.insert("anyOf".to_owned(), forms.collect());
    *schema = either.into();
}

/// Implements `Serialize` (always the full form) and `Deserialize` (either form).
macro_rules! short_form {
    ($kind:ty) => {
        impl<'de> serde::Deserialize<'de> for $kind {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                $crate::resources::short_form::deserialize(deserializer)
            }
        }

        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }
    };
}
pub(crate) use short_form;
