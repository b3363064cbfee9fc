//! The key of a recipe: a hash of everything that its output is made from.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::hash;

/// Collects inputs; the same inputs in the same order give the same key.
#[derive(Clone, Default)]
pub struct Inputs {
    hasher: Sha256,
}

impl Inputs {
    /// Inputs of one kind of builder. `builder` changes when the builder would make something else from the same inputs.
    pub fn new(builder: &str) -> Self {
        let mut inputs = Self::default();
        inputs.add("builder", builder);
        inputs
    }

    /// Adds a named value.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        // Lengths keep ("a", "bc") and ("ab", "c") apart.
        for part in [name.as_bytes(), value.as_ref()] {
            self.hasher.update((part.len() as u64).to_le_bytes());
            self.hasher.update(part);
        }
    }

    /// Adds a file, or a folder with all in it: names, contents, executable bits, link targets. Version control and build
    /// output (`.git`, `target`) are passed over.
    ///
    /// # Errors
    /// When there is nothing at `path`, it cannot be read, or is neither file, folder nor link.
    pub fn add_tree(&mut self, name: &str, path: &Path) -> Result<()> {
        let context = || format!("reading {}", path.display());
        let metadata = fs::symlink_metadata(path).with_context(context)?;
        if metadata.is_symlink() {
            let target = fs::read_link(path).with_context(context)?;
            self.add(&format!("{name} ->"), target.to_string_lossy().as_bytes());
        } else if metadata.is_dir() {
            self.add(name, "folder");
            let mut entries = fs::read_dir(path)
                .with_context(context)?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<std::io::Result<Vec<_>>>()
                .with_context(context)?;
            entries.sort();
            for entry in entries {
                if entry != ".git" && entry != "target" {
                    let inner = format!("{name}/{}", entry.to_string_lossy());
                    self.add_tree(&inner, &path.join(entry))?;
                }
            }
        } else if metadata.is_file() {
            let content = hash::sha256_reader(fs::File::open(path).with_context(context)?).with_context(context)?;
            let executable = metadata.permissions().mode() & 0o111 != 0;
            self.add(name, format!("{content} {executable}"));
        } else {
            bail!("{} is neither a file, a folder nor a link", path.display());
        }
        Ok(())
    }

    /// 64 lower-case hex digits.
    pub fn key(self) -> String {
        hex::encode(self.hasher.finalize())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(path: &Path) -> String {
        let mut inputs = Inputs::new("test 1");
        inputs.add_tree("tree", path).unwrap();
        inputs.key()
    }

    #[test]
    fn every_kind_of_change_changes_the_key_and_build_output_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("b/file");
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(&file, "1").unwrap();
        let mut seen = vec![key(dir.path())];
        fs::create_dir_all(dir.path().join("target/debug")).unwrap();
        assert_eq!(seen[0], key(dir.path()));

        fs::write(&file, "2").unwrap();
        seen.push(key(dir.path()));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        seen.push(key(dir.path()));
        fs::rename(&file, dir.path().join("b/other")).unwrap();
        seen.push(key(dir.path()));
        std::os::unix::fs::symlink("other", &file).unwrap();
        seen.push(key(dir.path()));
        fs::create_dir(dir.path().join("empty")).unwrap();
        seen.push(key(dir.path()));
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn names_and_values_do_not_run_into_each_other() {
        let key = |name: &str, value: &str| {
            let mut inputs = Inputs::new("test 1");
            inputs.add(name, value);
            inputs.key()
        };
        assert_ne!(key("a", "bc"), key("ab", "c"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Inputs::new("test 1").add_tree("x", Path::new("/nonexistent/x")).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/x"));
    }
}
