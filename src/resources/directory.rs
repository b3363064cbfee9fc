//! `directory`: a directory with mode and owner.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mode::Mode;
use super::path::{HostPath, follow, make_parents};
use super::{Observed, Resolve, Resource};
use crate::diff::{Action, Diff};
use crate::host::owner::{self, Lookup};
use crate::host::{FileType, Owner, ReadHost, WriteHost};

/// A directory exists, or does not. Missing directories above it are made, for root and with mode 0755.
///
/// ```yaml
/// - directory: { path: /opt/models, mode: "0750", owner: app }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Where. A link to a directory will do.
    path: HostPath,
    /// Permission bits in quotes. Without it a new directory gets `"0755"`, and one that exists keeps its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Mode>,
    /// User, by name or number. Without it a new directory belongs to root, and one that exists keeps its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// Group, by name or number. Default: the primary group of `owner`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// `true`: the directory and all in it is removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    absent: bool,
}

/// What is there.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Mode, owner and how many entries it has; `None` when nothing is there.
    found: Option<Found>,
    /// The owner that it must have; `None` when that does not matter.
    want_owner: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Found {
    mode: u32,
    owner: String,
    entries: usize,
}

impl Directory {
    fn path(&self) -> &Path {
        self.path.as_ref()
    }

    fn names_owner(&self) -> bool {
        self.owner.is_some() || self.group.is_some()
    }

    /// The place itself, behind links.
    fn place(&self, host: &dyn ReadHost) -> Result<Option<(PathBuf, crate::host::Stat)>> {
        let path = self.path();
        let Some(own) = host.stat(path)? else {
            return Ok(None);
        };
        match follow(host, path)? {
            Some((place, stat)) if stat.file_type == FileType::Directory => Ok(Some((place, stat))),
            _ if own.file_type == FileType::Symlink => bail!(
                "{}: a link is there that leads to no directory; remove it or choose another path",
                path.display()
            ),
            _ => bail!("{}: a file is there; move it away or choose another path", path.display()),
        }
    }
}

#[async_trait]
impl Resource for Directory {
    const KIND: &'static str = "directory";
    type State = State;

    fn name(&self) -> String {
        self.path.to_string()
    }

    fn resolve(&mut self, _: &mut dyn Resolve) -> Result<()> {
        if self.absent && (self.mode.is_some() || self.names_owner()) {
            bail!("a directory that is `absent` has no mode or owner; remove those keys");
        }
        if self.absent && self.path().components().count() < 3 {
            bail!("{} is a directory of the system; `absent` needs a path at least two levels deep", self.path);
        }
        Ok(())
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let place = self.place(host)?;
        let want = if self.absent || (place.is_some() && !self.names_owner()) {
            None
        } else {
            match owner::lookup(host, self.owner.as_deref(), self.group.as_deref()).await? {
                Lookup::Found(owner) => Some(owner),
                Lookup::Missing(what) => {
                    return Ok(Observed::Pending(format!("{what} does not exist yet")));
                }
            }
        };
        let want_owner = match want {
            Some(owner) => Some(owner::describe(host, owner).await?),
            None => None,
        };
        let found = match place {
            None => None,
            Some((place, stat)) => {
                let have = Owner { uid: stat.uid, gid: stat.gid };
                Some(Found {
                    mode: stat.mode,
                    owner: match (&want_owner, want == Some(have)) {
                        (Some(name), true) => name.clone(),
                        (Some(_), false) => owner::describe(host, have).await?,
                        // Nobody asks for it.
                        (None, _) => String::new(),
                    },
                    entries: if self.absent { host.list_dir(&place)?.len() } else { 0 },
                })
            }
        };
        Ok(Observed::Known(State { found, want_owner }))
    }

    fn diff(&self, state: &State) -> Diff {
        match &state.found {
            Some(found) if self.absent => {
                let mut diff = Diff::new(Action::Delete);
                diff.push("path", format!("removed, with {} entries", found.entries));
                diff
            }
            None if self.absent => Diff::none(),
            None => {
                let mut diff = Diff::new(Action::Create);
                diff.push("mode", self.mode.unwrap_or(Mode(0o755)).to_string());
                diff.push("owner", state.want_owner.clone().unwrap_or_default());
                diff
            }
            Some(found) => {
                let mut diff = Diff::none();
                if let Some(mode) = self.mode {
                    diff.compare("mode", &Mode(found.mode).to_string(), &mode.to_string());
                }
                if let Some(want) = &state.want_owner {
                    diff.compare("owner", &found.owner, want);
                }
                diff
            }
        }
    }

    async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        let path = self.path();
        if diff.action == Some(Action::Delete) {
            // A link to a directory goes, what it leads to stays.
            return match host.stat(path)?.map(|stat| stat.file_type) {
                Some(FileType::Symlink) => host.remove_file(path),
                _ => host.remove_dir_all(path),
            };
        }
        if diff.action == Some(Action::Create) {
            make_parents(host, path)?;
            host.create_dir(path, self.mode.unwrap_or(Mode(0o755)).0)?;
        }
        let (place, stat) = self.place(host.as_read())?.with_context(|| format!("{}: disappeared", path.display()))?;
        if diff.has("owner") {
            let owner = owner::lookup(host.as_read(), self.owner.as_deref(), self.group.as_deref());
            match owner.await? {
                Lookup::Found(owner) => host.set_owner(&place, owner)?,
                Lookup::Missing(what) => {
                    bail!("{}: {what} does not exist; add a `user` resource before it", path.display())
                }
            }
        }
        if diff.has("mode") {
            host.set_mode(&place, self.mode.map_or(stat.mode, |mode| mode.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::resources::testing::{changes, nothing, pending, refused, spec};

    #[tokio::test]
    async fn made_with_what_is_above_it() {
        let host = FakeHost::new().file("/etc/passwd", "app:x:7:8::/:/bin/sh\n", 0o644);
        let directory: Directory = spec(r#"{"path": "/opt/a/b", "mode": "0750", "owner": "app"}"#);
        let shown = changes(&directory, &host).await;
        assert_eq!(shown, ["create", "mode: 0750", "owner: app:8"]);
        assert_eq!(
            host.changes(),
            ["mkdir /opt/a 0755", "mkdir /opt/a/b 0750", "owner /opt/a/b 7:8", "mode /opt/a/b 0750"]
        );
    }

    #[tokio::test]
    async fn one_that_exists_keeps_what_is_not_asked_for() {
        let host = FakeHost::new().dir("/srv/x", 0o700);
        nothing(&spec::<Directory>(r#"{"path": "/srv/x"}"#), &host).await;
        let directory: Directory = spec(r#"{"path": "/srv/x", "group": "5"}"#);
        let shown = changes(&directory, &host).await;
        assert_eq!(shown, ["change", "owner: root:root -> root:5"]);
        assert_eq!(host.changes(), ["owner /srv/x 0:5"]);
    }

    #[tokio::test]
    async fn a_link_to_a_directory_will_do() {
        let host = FakeHost::new().dir("/mnt/disk", 0o755).link("/data", "mnt/disk");
        let directory: Directory = spec(r#"{"path": "/data", "mode": "0700"}"#);
        changes(&directory, &host).await;
        assert_eq!(host.changes(), ["mode /mnt/disk 0700"]);
    }

    #[tokio::test]
    async fn removed_with_all_in_it() {
        let host = FakeHost::new().file("/opt/old/a/b", "", 0o644).file("/opt/old/c", "", 0o644);
        let directory: Directory = spec(r#"{"path": "/opt/old", "absent": true}"#);
        let shown = changes(&directory, &host).await;
        assert_eq!(shown, ["delete", "path: removed, with 2 entries"]);
        nothing(&directory, &host).await;
    }

    #[tokio::test]
    async fn what_is_not_ours_is_refused_and_what_is_missing_awaited() {
        let host = FakeHost::new().file("/opt/f", "", 0o644).link("/opt/l", "gone");
        let error = refused(&spec::<Directory>(r#"{"path": "/opt/f"}"#), &host).await;
        assert_eq!(error, "/opt/f: a file is there; move it away or choose another path");
        let error = refused(&spec::<Directory>(r#"{"path": "/opt/l"}"#), &host).await;
        assert!(error.contains("a link is there that leads to no directory"), "{error}");
        let directory: Directory = spec(r#"{"path": "/opt/d", "owner": "app"}"#);
        assert_eq!(pending(&directory, &host).await, "user \"app\" does not exist yet");
    }

    #[test]
    fn the_directories_of_the_system_are_not_removed() {
        let mut directory: Directory = spec(r#"{"path": "/etc", "absent": true}"#);
        let error = directory.resolve(&mut crate::resources::testing::Project::default());
        assert!(error.unwrap_err().to_string().contains("/etc is a directory of the system"));
    }
}
