//! How kinds are tested: plan, apply, and plan again must be empty.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use anyhow::{Context, Result};

use super::{AnyResource, BuiltImage, Planned, Resolve, Resource};
use crate::host::fake::FakeHost;
use crate::host::{ArtifactPin, ReadHost};

/// A spec from its JSON.
pub fn spec<R: Resource>(json: &str) -> R {
    serde_json::from_str(json).unwrap()
}

/// Plans, applies, and checks that planning changes nothing, that applying does all, and that the spec survives its way to the
/// agent. Returns the action and the changes as `field: detail`.
pub async fn changes<R: Resource>(resource: &R, host: &FakeHost) -> Vec<String> {
    let before = host.files().clone();
    let Planned::Change(diff) = resource.plan(host).await.unwrap() else {
        panic!("nothing to do");
    };
    assert_eq!(*host.files(), before, "the plan changed something");
    assert!(host.changes().is_empty(), "{:?}", host.changes());
    let sent: R = serde_json::from_value(resource.spec().unwrap()).unwrap();
    Resource::apply(&sent, host, &diff).await.unwrap();
    let again = sent.plan(host).await.unwrap();
    assert_eq!(again, Planned::InSync, "after apply");
    let action = serde_json::to_value(diff.action).unwrap();
    std::iter::once(action.as_str().unwrap().to_owned())
        .chain(diff.changes.iter().map(|change| format!("{}: {}", change.field, change.detail)))
        .collect()
}

/// There is nothing to do.
pub async fn nothing<R: Resource>(resource: &R, host: &dyn ReadHost) {
    assert_eq!(resource.plan(host).await.unwrap(), Planned::InSync);
}

/// Why it cannot be planned yet.
pub async fn pending<R: Resource>(resource: &R, host: &dyn ReadHost) -> String {
    match resource.plan(host).await.unwrap() {
        Planned::Pending(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// Why it is refused.
pub async fn refused<R: Resource>(resource: &R, host: &dyn ReadHost) -> String {
    format!("{:#}", resource.plan(host).await.unwrap_err())
}

/// A project in memory.
#[derive(Default)]
pub struct Project {
    pub templates: HashMap<String, String>,
    pub sources: HashMap<String, Vec<u8>>,
    pub artifacts: HashMap<String, ArtifactPin>,
}

impl Resolve for Project {
    fn template(&mut self, path: &str) -> Result<String> {
        self.templates.get(path).cloned().with_context(|| format!("no template {path:?}"))
    }

    fn source(&mut self, path: &str) -> Result<Vec<u8>> {
        self.sources.get(path).cloned().with_context(|| format!("no file {path:?}"))
    }

    fn folder(&mut self, path: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files: Vec<_> = self
            .sources
            .iter()
            .filter_map(|(name, content)| {
                Some((name.strip_prefix(path)?.strip_prefix('/')?.to_owned(), content.clone()))
            })
            .collect();
        files.sort();
        anyhow::ensure!(!files.is_empty(), "no folder {path:?}");
        Ok(files)
    }

    fn artifact(&mut self, name: &str) -> Result<ArtifactPin> {
        self.artifacts.get(name).cloned().with_context(|| format!("no artifact {name:?}"))
    }

    fn image(&mut self, recipe: &str) -> Result<BuiltImage> {
        anyhow::bail!("no image {recipe:?}")
    }

    fn image_artifact(&mut self, name: &str) -> anyhow::Result<crate::resources::ImageSource> {
        anyhow::bail!("no image {name}")
    }
}
