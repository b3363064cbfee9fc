//! One run at a time on a host: an flock, so that the kernel frees it when the holder dies, however it dies.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;

/// Who holds the lock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holder {
    pub run_id: String,
    pub pid: u32,
    pub by: String,
    /// RFC 3339.
    pub since: String,
}

/// Held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock in `folder`.
    ///
    /// # Errors
    /// When another run holds it: who, and since when.
    pub fn take(folder: &Path, holder: &Holder) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            let who = serde_json::from_str::<Holder>(&text).map_or_else(
                |_| "another run".to_owned(),
                |holder| format!("run {} by {} (pid {}, since {})", holder.run_id, holder.by, holder.pid, holder.since),
            );
            return Err(Diagnostic::new(format!("this host is being provisioned by {who}"))
                .hint("wait for it to end; the lock frees itself when that process dies")
                .into());
        }
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&serde_json::to_vec(holder)?)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let holder = |id: &str| Holder { run_id: id.into(), pid: 7, by: "ann@laptop".into(), since: "now".into() };
        let held = Lock::take(folder.path(), &holder("r1")).unwrap();
        let error = format!("{:#}", Lock::take(folder.path(), &holder("r2")).unwrap_err());
        assert!(error.contains("run r1 by ann@laptop (pid 7, since now)"), "{error}");
        drop(held);
        Lock::take(folder.path(), &holder("r2")).unwrap();
    }
}
