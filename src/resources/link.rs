//! `link`: a symbolic link.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::path::HostPath;
use super::placement::file_or_link;
use super::{Observed, Resolve, Resource};
use crate::diff::{Action, Diff};
use crate::host::{ReadHost, WriteHost};

/// A symbolic link. It may lead to what does not exist yet. A file in its place is replaced; a directory is not.
///
/// ```yaml
/// - link: { path: /usr/local/bin/kubectl, target: k3s }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Where the link is. Its directory must exist.
    path: HostPath,
    /// What it leads to: an absolute path, or one relative to the directory of the link.
    target: String,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Nothing,
    File,
    LinkTo(PathBuf),
}

#[async_trait]
impl Resource for Link {
    const KIND: &'static str = "link";
    type State = State;

    fn name(&self) -> String {
        self.path.to_string()
    }

    fn resolve(&mut self, _: &mut dyn Resolve) -> Result<()> {
        if self.target.is_empty() {
            bail!("the link {} needs a target", self.path);
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let path = self.path.as_ref();
        Ok(Observed::Known(match file_or_link(host, path)? {
            None => State::Nothing,
            Some(_) => host.read_link(path)?.map_or(State::File, State::LinkTo),
        }))
    }

    fn diff(&self, state: &State) -> Diff {
        let mut diff = Diff::none();
        match state {
            State::Nothing => {
                diff = Diff::new(Action::Create);
                diff.push("target", &self.target);
            }
            State::File => {
                diff.push("type", "file -> link");
                diff.push("target", &self.target);
            }
            State::LinkTo(target) => {
                diff.compare("target", &target.to_string_lossy(), &self.target);
            }
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, _: &Diff) -> Result<()> {
        host.symlink(self.path.as_ref(), Path::new(&self.target))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::resources::testing::{changes, nothing, refused, spec};

    #[tokio::test]
    async fn made_repaired_and_left_alone() {
        let link: Link = spec(r#"{"path": "/usr/local/bin/kubectl", "target": "k3s"}"#);
        let host = FakeHost::new();
        assert_eq!(changes(&link, &host).await, ["create", "target: k3s"]);
        nothing(&link, &host).await;
        let host = FakeHost::new().link("/usr/local/bin/kubectl", "/opt/old");
        assert_eq!(changes(&link, &host).await, ["change", "target: /opt/old -> k3s"]);
        let host = FakeHost::new().file("/usr/local/bin/kubectl", "", 0o755);
        let shown = changes(&link, &host).await;
        assert_eq!(shown, ["change", "type: file -> link", "target: k3s"]);
        assert_eq!(host.changes(), ["link /usr/local/bin/kubectl -> k3s"]);
    }

    #[tokio::test]
    async fn a_directory_is_not_replaced() {
        let link: Link = spec(r#"{"path": "/opt/x", "target": "y"}"#);
        let host = FakeHost::new().dir("/opt/x", 0o755);
        let error = refused(&link, &host).await;
        assert_eq!(error, "/opt/x: a directory is there; move it away or choose another path");
    }
}
