//! How specs name an artifact.

use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Resolve;
use crate::host::ArtifactPin;

/// The name of an artifact in `artifacts.yml`, such as `k3s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "the name of an artifact")]
pub enum ArtifactRef {
    /// Its name in `artifacts.yml`.
    Name(String),
    /// What the name stood for; filled in before the spec is sent to the host.
    Pin(ArtifactPin),
}

impl ArtifactRef {
    /// Replaces the name by what it stands for.
    ///
    /// # Errors
    /// When `artifacts.yml` has none of this name.
    pub fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        if let Self::Name(name) = self {
            *self = Self::Pin(project.artifact(name)?);
        }
        Ok(())
    }

    /// What the name stands for.
    ///
    /// # Errors
    /// When it was not resolved: a fault of the caller.
    pub fn pin(&self) -> Result<&ArtifactPin> {
        match self {
            Self::Pin(pin) => Ok(pin),
            Self::Name(name) => bail!("the artifact {name:?} was not resolved"),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Pin(pin) => &pin.name,
        }
    }
}
