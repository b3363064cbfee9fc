//! Downloaded versions on this machine's disk: what is served when the registry is away.
//!
//! ```text
//! CACHE/cmapss-rul/7-3f2a9c01d4e5/   an artifact
//!                  current.json      which one was served last
//! ```
//!
//! The name of a folder tells the version and, by a hash, which registry and source it is from:
//! another registry's version 7 is another model.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::live::Registered;
use crate::registry::Version;

/// Versions that are kept: what is served, what was before, and a challenger.
const KEEP: usize = 4;
const CURRENT: &str = "current.json";

/// A folder of versions of one model.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
}

/// `current.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Current {
    pub folder: String,
    pub registered: Registered,
}

impl Cache {
    pub fn new(dir: &Path, model: &str) -> Self {
        Self { root: dir.join(model) }
    }

    /// The folder of a version. Creation time is part of it: a registry that was made anew counts
    /// from 1 again.
    pub fn folder(registry: &str, version: &Version) -> String {
        let identity = format!("{registry}\n{}\n{}", version.source, version.created_at);
        let hash = hex::encode(Sha256::digest(identity));
        // Versions are numbers, but a registry's word is not trusted with a path.
        let number: String = version.version.chars().filter(char::is_ascii_alphanumeric).take(20).collect();
        format!("{number}-{}", hash.get(..12).unwrap_or_default())
    }

    pub fn path(&self, folder: &str) -> PathBuf {
        self.root.join(folder)
    }

    /// What was served last; `None` when nothing was, or nobody can tell.
    pub fn current(&self) -> Option<Current> {
        let text = fs::read(self.root.join(CURRENT)).ok()?;
        let current: Current = serde_json::from_slice(&text).ok()?;
        let plain = !current.folder.contains(['/', '\\']) && !current.folder.starts_with('.');
        plain.then_some(current)
    }

    /// Remembers what is served, and forgets the oldest others.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn set_current(&self, current: &Current) -> io::Result<()> {
        let new = self.root.join(format!(".{CURRENT}.{}", std::process::id()));
        fs::write(&new, serde_json::to_vec(current)?)?;
        fs::rename(&new, self.root.join(CURRENT))?;
        let mut folders: Vec<(SystemTime, PathBuf)> = fs::read_dir(&self.root)?
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(|n| n != current.folder && !n.starts_with('.')))
            .filter_map(|entry| {
                Some((entry.metadata().ok().filter(fs::Metadata::is_dir)?.modified().ok()?, entry.path()))
            })
            .collect();
        folders.sort();
        for (_, path) in folders.iter().rev().skip(KEEP - 1) {
            fs::remove_dir_all(path)?;
        }
        Ok(())
    }

    /// Throws a folder away, as it does not hold what it should.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn forget(&self, folder: &str) -> io::Result<()> {
        fs::remove_dir_all(self.root.join(folder))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Cache, Current, KEEP};
    use crate::registry::Version;
    use crate::serve::live::Registered;

    fn version(version: &str, source: &str) -> Version {
        Version {
            model: "m".into(),
            version: version.into(),
            source: source.into(),
            run_id: None,
            created_at: 1,
            tags: Default::default(),
        }
    }

    fn current(folder: &str) -> Current {
        let registered = Registered { registry: "r".into(), version: "1".into(), source: "s".into(), run_id: None };
        Current { folder: folder.into(), registered }
    }

    #[test]
    fn the_same_number_from_elsewhere_is_another_folder() {
        let folder = Cache::folder("http://a", &version("7", "runs:/x/model"));
        assert!(folder.starts_with("7-") && folder.len() == 14, "{folder}");
        assert_eq!(folder, Cache::folder("http://a", &version("7", "runs:/x/model")));
        assert_ne!(folder, Cache::folder("http://b", &version("7", "runs:/x/model")));
        assert_ne!(folder, Cache::folder("http://a", &version("7", "runs:/y/model")));
        assert!(!Cache::folder("a", &version("../../etc", "s")).contains(['/', '.']));
    }

    #[test]
    fn old_versions_go_and_the_current_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), "m");
        assert!(cache.current().is_none());
        let start = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
        for age in 0..10u32 {
            let path = cache.path(&format!("{age}-x"));
            std::fs::create_dir_all(&path).unwrap();
            let time = start + std::time::Duration::from_secs(u64::from(age));
            std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
        }
        cache.set_current(&current("0-x")).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path().join("m"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.ends_with("-x"))
            .collect();
        left.sort();
        assert_eq!(left, ["0-x", "7-x", "8-x", "9-x"]);
        assert_eq!(left.len(), KEEP);
        assert_eq!(cache.current().unwrap().folder, "0-x");
        for outside in ["../x", ".hidden", "a/b"] {
            cache.set_current(&current(outside)).unwrap();
            assert!(cache.current().is_none(), "{outside}");
        }
    }
}
