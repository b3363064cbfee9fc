//! `download`: an artifact as a file.

use anyhow::Result;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artifact::ArtifactRef;
use super::mode::Mode;
use super::path::HostPath;
use super::placement::{Placed, Placement};
use super::{Observed, Resolve, Resource};
use crate::diff::Diff;
use crate::host::{ReadHost, WriteHost};

/// A file is a pinned artifact, byte for byte. It is replaced atomically, also while it runs; its directory must exist.
///
/// ```yaml
/// - download: { artifact: k3s, path: /usr/local/bin/k3s, mode: "0755" }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// The artifact.
    artifact: ArtifactRef,
    /// Where.
    path: HostPath,
    /// Permission bits in quotes. Default: `"0644"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Mode>,
    /// User, by name or number. Default: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// Group, by name or number. Default: the primary group of `owner`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
}

/// What is there.
pub struct State {
    placed: Placed,
    /// SHA-256 of the file; `None` when there is none.
    have: Option<String>,
    /// SHA-256 that it must have.
    want: String,
    version: String,
}

impl Download {
    fn placement(&self) -> Placement<'_> {
        Placement {
            path: self.path.as_ref(),
            mode: self.mode.unwrap_or(Mode(0o644)),
            owner: self.owner.as_deref(),
            group: self.group.as_deref(),
        }
    }
}

#[async_trait]
impl Resource for Download {
    const KIND: &'static str = "download";
    type State = State;

    fn name(&self) -> String {
        self.path.to_string()
    }

    fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        self.artifact.resolve(project)
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let pin = self.artifact.pin()?;
        let placed = match self.placement().observe(host).await? {
            Ok(placed) => placed,
            Err(reason) => return Ok(Observed::Pending(reason)),
        };
        let have = if placed.is_file() { host.sha256(self.path.as_ref())? } else { None };
        Ok(Observed::Known(State { placed, have, want: pin.sha256.clone(), version: pin.version.clone() }))
    }

    fn diff(&self, state: &State) -> Diff {
        let mut diff = self.placement().diff(&state.placed);
        if state.have.as_ref() != Some(&state.want) {
            let before = state
                .have
                .as_deref()
                .map_or_else(String::new, |have| format!("sha256 {} -> ", have.get(..12).unwrap_or(have)));
            let want = state.want.get(..12).unwrap_or(&state.want);
            let name = self.artifact.name();
            diff.push("content", format!("{before}{name} {} (sha256 {want})", state.version));
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        let placement = self.placement();
        if !diff.has("content") {
            return placement.apply(host, diff).await;
        }
        let owner = placement.owner(host.as_read()).await?;
        let fetched = host.fetch(self.artifact.pin()?).await?;
        let mut content =
            host.open(&fetched)?.ok_or_else(|| anyhow::anyhow!("{}: disappeared from the cache", fetched.display()))?;
        host.write_stream(placement.path, &mut content, placement.mode.0, owner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::hash;
    use crate::host::ArtifactPin;
    use crate::host::fake::FakeHost;
    use crate::resources::testing::{Project, changes, nothing, spec};

    fn download(content: &str) -> Download {
        let pin = ArtifactPin { name: "k3s".into(), version: "v2".into(), sha256: hash::sha256(content), url: None };
        let mut download: Download = spec(r#"{"artifact": "k3s", "path": "/usr/local/bin/k3s", "mode": "0755"}"#);
        let mut project = Project::default();
        assert!(download.resolve(&mut project).is_err());
        project.artifacts.insert("k3s".into(), pin);
        download.resolve(&mut project).unwrap();
        download
    }

    #[tokio::test]
    async fn made_replaced_and_left_alone() {
        let download = download("new");
        let digest = &hash::sha256("new")[..12];
        let host = FakeHost::new().artifact("new");
        let shown = changes(&download, &host).await;
        let content = format!("content: k3s v2 (sha256 {digest})");
        assert_eq!(shown, ["create", "mode: 0755", "owner: root:root", &content]);
        nothing(&download, &host).await;
        let host = FakeHost::new().artifact("new").file("/usr/local/bin/k3s", "old", 0o755);
        let shown = changes(&download, &host).await;
        let old = &hash::sha256("old")[..12];
        let content = format!("content: sha256 {old} -> k3s v2 (sha256 {digest})");
        assert_eq!(shown, ["change", &content]);
    }

    #[tokio::test]
    async fn a_wrong_mode_needs_no_download() {
        let host = FakeHost::new().file("/usr/local/bin/k3s", "new", 0o600);
        let shown = changes(&download("new"), &host).await;
        assert_eq!(shown, ["change", "mode: 0600 -> 0755"]);
        assert_eq!(host.changes(), ["mode /usr/local/bin/k3s 0755"]);
    }
}
