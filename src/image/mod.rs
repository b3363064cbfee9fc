//! OCI images without a daemon: a recipe (`image.yml`) in, an OCI layout archive out.
//!
//! Same input, same digest: entries are sorted, times are fixed, owners and modes come from the recipe. The tag of an image is
//! the start of the digest of its manifest, so what has the same content has the same name. Unchanged input is not built again.

pub mod archive;
mod base;
mod below;
mod build;
mod cargo;
mod debian;
pub mod discover;
pub mod dockerfile;
mod dockerignore;
mod layer;
mod layout;
mod links;
mod pip;
pub mod pull;
mod recipe;
pub mod reference;
mod script;
pub mod sources;

use serde::{Deserialize, Serialize};

use crate::host::ArtifactPin;

pub use base::Workshop;
pub use build::build;
pub use recipe::{Recipe, load};
#[cfg(test)]
pub(crate) use script::Script;
pub use sources::{ImageSource, Sources};

/// An image that the controller built or has in its cache: an OCI layout tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuiltImage {
    /// Full reference with the content hash as tag: `provision.local/rul:3f2a…`.
    pub reference: String,
    /// Digest of its manifest: `sha256:…`.
    pub digest: String,
    /// The archive.
    pub archive: ArtifactPin,
}
