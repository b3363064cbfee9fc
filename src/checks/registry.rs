//! Every kind of check by its key in stage files.

use anyhow::Result;
use serde_json::Value;

use super::{AnyCheck, Check};

/// A spec that was read, or what does not fit and where in it.
type Parsed = Result<Box<dyn AnyCheck>, serde_path_to_error::Error<serde_json::Error>>;

/// One kind.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The key in stage files.
    pub name: &'static str,
    parse: fn(Value) -> Parsed,
    schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

impl Kind {
    const fn of<R: Check + schemars::JsonSchema>() -> Self {
        Self { name: R::KIND, parse: parse::<R>, schema: schema::<R> }
    }

    /// Reads a spec.
    ///
    /// # Errors
    /// What does not fit, with the path inside the spec.
    pub fn parse(&self, spec: Value) -> Parsed {
        (self.parse)(spec)
    }

    /// JSON Schema of the spec.
    pub fn schema(&self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        (self.schema)(generator)
    }
}

fn parse<R: Check>(spec: Value) -> Parsed {
    Ok(Box::new(serde_path_to_error::deserialize::<_, R>(spec)?))
}

fn schema<R: schemars::JsonSchema>(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<R>()
}

/// All kinds, in the order of the reference.
pub const KINDS: &[Kind] = &[
    Kind::of::<super::http::Http>(),
    Kind::of::<super::tcp::Tcp>(),
    Kind::of::<super::command::Command>(),
    Kind::of::<super::rollout::Rollout>(),
    Kind::of::<super::nodes_ready::NodesReady>(),
    Kind::of::<super::sql::Sql>(),
    Kind::of::<super::s3_roundtrip::S3Roundtrip>(),
    Kind::of::<super::s3_newest::S3Newest>(),
    Kind::of::<super::mlflow_roundtrip::MlflowRoundtrip>(),
];

/// The kind of this name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}
