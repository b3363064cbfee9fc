//! Everything from outside: what is pinned ([`Lock`]), where it is kept ([`Store`]), how it is brought ([`download`]) or built
//! ([`script`]).
//!
//! A thing is named in `artifacts.yml` and fixed by the SHA-256 of its content. In the sandbox, `sandbox/artifacts.yml` lays
//! recipes over the same names: then the content is what the recipe builds, once per content of the recipe.

pub mod bundle;
pub mod debian;
pub mod document;
pub mod download;
pub mod inputs;
pub mod lock;
pub mod script;
pub mod store;
pub mod tree;

pub use inputs::Inputs;
pub use lock::{Artifact, Kind, Lock, Source};
pub use store::{Built, Store};

/// Takes what is worth showing while something is built or brought: one line, without a line break.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);
