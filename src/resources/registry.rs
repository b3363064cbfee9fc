//! Every kind of resource by its key in stage files.

use anyhow::Result;
use serde_json::Value;

use super::{AnyResource, Resource};

/// A spec that was read, or what does not fit and where in it.
type Parsed = Result<Box<dyn AnyResource>, serde_path_to_error::Error<serde_json::Error>>;

/// One kind.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The key in stage files.
    pub name: &'static str,
    parse: fn(Value) -> Parsed,
    schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

impl Kind {
    const fn of<R: Resource + schemars::JsonSchema>() -> Self {
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

fn parse<R: Resource>(spec: Value) -> Parsed {
    Ok(Box::new(serde_path_to_error::deserialize::<_, R>(spec)?))
}

fn schema<R: schemars::JsonSchema>(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    generator.subschema_for::<R>()
}

/// All kinds, in the order of the reference.
pub const KINDS: &[Kind] = &[
    Kind::of::<super::apt::Apt>(),
    Kind::of::<super::directory::Directory>(),
    Kind::of::<super::file::File>(),
    Kind::of::<super::link::Link>(),
    Kind::of::<super::download::Download>(),
    Kind::of::<super::archive::Archive>(),
    Kind::of::<super::hostname::Hostname>(),
    Kind::of::<super::timezone::Timezone>(),
    Kind::of::<super::swap::Swap>(),
    Kind::of::<super::kernel_module::KernelModule>(),
    Kind::of::<super::sysctl::Sysctl>(),
    Kind::of::<super::ufw::Ufw>(),
    Kind::of::<super::systemd_unit::SystemdUnit>(),
    Kind::of::<super::user::User>(),
    Kind::of::<super::command::Command>(),
    Kind::of::<super::namespace::Namespace>(),
    Kind::of::<super::secret::Secret>(),
    Kind::of::<super::manifest::Manifest>(),
    Kind::of::<super::helm::Helm>(),
    Kind::of::<super::image::Image>(),
    Kind::of::<super::postgres_superuser::PostgresSuperuser>(),
    Kind::of::<super::postgres_role::PostgresRole>(),
    Kind::of::<super::postgres_database::PostgresDatabase>(),
    Kind::of::<super::bucket::Bucket>(),
    Kind::of::<super::minio_user::MinioUser>(),
];

/// The kind of this name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}
