//! Everything that the chosen stages need in one signed file, for hosts and controllers without a network.
//!
//! The file is a `.tar.zst` in which every member is a zstd frame of its own: `tar --zstd -xf` unpacks it, and a damaged byte
//! belongs to exactly one member. The order is fixed: `manifest.json`, its signature `manifest.json.minisig`, then the members as
//! the manifest lists them. Times, owners and modes are fixed too, so the same content makes the same bytes.
//!
//! | path | what |
//! |---|---|
//! | `artifacts/SHA256` | programs, archives, charts |
//! | `images/` | one OCI image layout; layers that images share are in it once |
//! | `packages/` | Debian packages with all that they depend on, and the index `Packages` of an APT repository |

mod key;
mod read;
mod write;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::hash;

pub use key::{PublicKey, SecretKey, default_secret_key, public_beside};
pub use read::{Take, read, read_manifest};
pub use write::{Content, Source, write};

/// The form of bundles that this program writes and reads.
pub const FORMAT: u32 = 1;

/// Path of the manifest in the bundle.
pub const MANIFEST: &str = "manifest.json";
/// Path of its signature.
pub const SIGNATURE: &str = "manifest.json.minisig";
/// Path of the index of the image layout.
pub const IMAGE_INDEX: &str = "images/index.json";
/// Path of the index of the package repository.
pub const PACKAGE_INDEX: &str = "packages/Packages";

/// What is in a bundle. Its signature covers everything: each member is fixed here by size and SHA-256.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program that made it.
    pub provision: String,
    /// Processor of the hosts: `x86_64`, `aarch64`.
    pub arch: String,
    /// The stages it was made for, in their order.
    pub stages: Vec<String>,
    /// The system that the packages are for; none when no stage installs any.
    pub system: Option<System>,
    pub artifacts: Vec<BundledArtifact>,
    pub images: Vec<BundledImage>,
    pub packages: Vec<BundledPackage>,
    /// All files but the manifest and its signature, in the order of the file.
    pub members: Vec<Member>,
}

/// `ID` and `VERSION_ID` of /etc/os-release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// `ubuntu`, `debian`.
    pub os: String,
    /// `22.04`, `12`.
    pub version: String,
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.os, self.version)
    }
}

/// A file of `artifacts.yml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledArtifact {
    pub name: String,
    pub version: String,
    pub kind: Kind,
    /// Of its content, which is the member `artifacts/SHA256`.
    pub sha256: String,
    pub size: u64,
    /// URL, or `recipe PATH`.
    pub source: String,
    /// Key of what a recipe made it from: with another one, the project has moved on and the bundle is too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
    /// What uses it on the host: `download /usr/local/bin/k3s`.
    pub targets: Vec<String>,
    /// Names of the images in it, where it is an archive that k3s imports by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

/// An image: its manifest is the blob of its digest in the layout below `images/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledImage {
    /// Name of the artifact, or path of the recipe.
    pub name: String,
    /// With tag: `docker.io/library/postgres:17.11-bookworm`.
    pub reference: String,
    /// `sha256:…` of its manifest or index.
    pub digest: String,
    /// All names that containerd gets it under.
    pub names: Vec<String>,
    /// As in [`BundledArtifact::inputs`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<String>,
}

/// A Debian package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledPackage {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// Its file below `packages/`.
    pub file: String,
    pub sha256: String,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberKind {
    Artifact,
    Image,
    Package,
}

/// A file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub path: String,
    pub kind: MemberKind,
    /// Bytes, unpacked.
    pub size: u64,
    pub sha256: String,
}

impl Manifest {
    /// The artifact of this name.
    pub fn artifact(&self, name: &str) -> Option<&BundledArtifact> {
        self.artifacts.iter().find(|artifact| artifact.name == name)
    }

    /// The image of this artifact's name or recipe's path.
    pub fn image(&self, name: &str) -> Option<&BundledImage> {
        self.images.iter().find(|image| image.name == name)
    }

    /// The member at this path.
    pub fn member(&self, path: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.path == path)
    }

    /// Names of all images that are there once the bundle's stages have run: its own, and those in archives that k3s imports.
    pub fn image_names(&self) -> impl Iterator<Item = &str> {
        let own = self.images.iter().flat_map(|image| &image.names);
        own.chain(self.artifacts.iter().flat_map(|artifact| &artifact.images)).map(String::as_str)
    }

    /// Whether what it says of itself fits together.
    ///
    /// # Errors
    /// What does not.
    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("it has the form {} and this program reads the form {FORMAT}", self.format));
        }
        let mut seen = BTreeMap::new();
        for member in &self.members {
            let path = &member.path;
            let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
            if !plain || !hash::is_sha256(&member.sha256) {
                return Err(format!("its member {path:?} has a bad path or hash"));
            }
            if seen.insert(path, &member.sha256).is_some() {
                return Err(format!("it lists {path} twice"));
            }
        }
        let artifacts = self.artifacts.iter().map(|it| (format!("artifacts/{}", it.sha256), &it.sha256));
        let packages = self.packages.iter().map(|it| (format!("packages/{}", it.file), &it.sha256));
        for (path, sha256) in artifacts.chain(packages) {
            if seen.get(&path) != Some(&sha256) {
                return Err(format!("it names {path} and has no such member"));
            }
        }
        Ok(())
    }
}
