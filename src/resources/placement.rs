//! What the kinds that put a file somewhere share: what is there now, its mode and its owner.

use std::path::Path;

use anyhow::{Result, bail};

use super::mode::Mode;
use crate::diff::{Action, Diff};
use crate::host::owner::{self, Lookup};
use crate::host::{FileType, Owner, ReadHost, Stat, WriteHost};

/// Where a file belongs, with which mode and owner.
pub struct Placement<'a> {
    pub path: &'a Path,
    pub mode: Mode,
    pub owner: Option<&'a str>,
    pub group: Option<&'a str>,
}

/// What is at the place of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// A file or a link, or nothing.
    pub stat: Option<Stat>,
    /// The owner that it must have, `user:group`.
    want_owner: String,
    /// The owner that it has.
    have_owner: String,
}

impl Placed {
    /// Whether a file is there (and not a link, which would be replaced).
    pub fn is_file(&self) -> bool {
        self.stat.as_ref().is_some_and(|stat| stat.file_type == FileType::File)
    }
}

impl Placement<'_> {
    /// Looks at the place. `Err` of the inner result says what does not exist yet.
    ///
    /// # Errors
    /// When something is there that is not ours to replace.
    pub async fn observe(&self, host: &dyn ReadHost) -> Result<Result<Placed, String>> {
        let stat = file_or_link(host, self.path)?;
        let want = match owner::lookup(host, self.owner, self.group).await? {
            Lookup::Found(owner) => owner,
            Lookup::Missing(what) => return Ok(Err(format!("{what} does not exist yet"))),
        };
        let have = stat.as_ref().map_or(want, |stat| Owner { uid: stat.uid, gid: stat.gid });
        let want_owner = owner::describe(host, want).await?;
        let have_owner = if have == want { want_owner.clone() } else { owner::describe(host, have).await? };
        Ok(Ok(Placed { stat, want_owner, have_owner }))
    }

    /// Everything but the content. A new file is [`Action::Create`] with its mode and owner.
    pub fn diff(&self, placed: &Placed) -> Diff {
        let Some(stat) = &placed.stat else {
            let mut diff = Diff::new(Action::Create);
            diff.push("mode", self.mode.to_string());
            diff.push("owner", placed.want_owner.clone());
            return diff;
        };
        let mut diff = Diff::none();
        if placed.is_file() {
            diff.compare("mode", &Mode(stat.mode).to_string(), &self.mode.to_string());
        } else {
            diff.push("type", "link -> file");
        }
        diff.compare("owner", &placed.have_owner, &placed.want_owner);
        diff
    }

    /// The numeric owner.
    ///
    /// # Errors
    /// When user or group do not exist.
    pub async fn owner(&self, host: &dyn ReadHost) -> Result<Owner> {
        match owner::lookup(host, self.owner, self.group).await? {
            Lookup::Found(owner) => Ok(owner),
            Lookup::Missing(what) => {
                bail!("{}: {what} does not exist; add a `user` resource before it", self.path.display())
            }
        }
    }

    /// Mode and owner of a file whose content is right.
    ///
    /// # Errors
    /// When they cannot be changed.
    pub async fn apply(&self, host: &dyn WriteHost, diff: &Diff) -> Result<()> {
        if diff.has("owner") {
            let owner = self.owner(host.as_read()).await?;
            host.set_owner(self.path, owner)?;
        }
        // A new owner costs a file its set-user-id bits.
        if diff.has("mode") || diff.has("owner") {
            host.set_mode(self.path, self.mode.0)?;
        }
        Ok(())
    }
}

/// What is at a place for a file or link.
///
/// # Errors
/// When it is a directory or a device, which nobody wants to lose to a file.
pub fn file_or_link(host: &dyn ReadHost, path: &Path) -> Result<Option<Stat>> {
    let stat = host.stat(path)?;
    match stat.as_ref().map(|stat| stat.file_type) {
        Some(FileType::Directory) => {
            bail!("{}: a directory is there; move it away or choose another path", path.display())
        }
        Some(FileType::Other) => bail!("{}: a device, socket or pipe is there; choose another path", path.display()),
        _ => Ok(stat),
    }
}
