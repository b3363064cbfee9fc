//! The key of a recipe: a hash of everything that its output is made from.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::tree::{self, Found, Kind};
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

    /// Adds the sources in a folder, or one file: names, contents, executable bits, link targets. Version control and what cargo
    /// built are passed over ([`tree::sources`]).
    ///
    /// # Errors
    /// As [`tree::walk`].
    pub fn add_sources(&mut self, name: &str, path: &Path) -> Result<()> {
        self.add_found(name, &tree::walk(path, &tree::sources)?)
    }

    /// Adds the content of a file, also where `path` is a link to it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn add_file(&mut self, name: &str, path: &Path) -> Result<()> {
        let path = fs::canonicalize(path).with_context(|| format!("reading {}", path.display()))?;
        self.add_found(name, &tree::walk(&path, &tree::all_but_git)?)
    }

    /// Adds what a walk found.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn add_found(&mut self, name: &str, found: &[Found]) -> Result<()> {
        for Found { path, source, kind } in found {
            let name = if path.is_empty() { name.to_owned() } else { format!("{name}/{path}") };
            match kind {
                Kind::Folder => self.add(&name, "folder"),
                Kind::Link { target } => self.add(&format!("{name} ->"), target),
                Kind::File { executable } => {
                    let context = || format!("reading {}", source.display());
                    let content = fs::File::open(source).and_then(hash::sha256_reader).with_context(context)?;
                    self.add(&name, format!("{content} {executable}"));
                }
            }
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key(path: &Path) -> String {
        let mut inputs = Inputs::new("test 1");
        inputs.add_sources("tree", path).unwrap();
        inputs.key()
    }

    #[test]
    fn every_kind_of_change_changes_the_key_and_build_output_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("b/file");
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(&file, "1").unwrap();
        let mut seen = vec![key(dir.path())];
        fs::create_dir_all(dir.path().join("c/target/debug")).unwrap();
        fs::write(dir.path().join("c/Cargo.toml"), "").unwrap();
        let with_crate = key(dir.path());
        fs::write(dir.path().join("c/target/debug/x"), "").unwrap();
        assert_eq!(key(dir.path()), with_crate);
        fs::remove_dir_all(dir.path().join("c")).unwrap();
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
    fn a_file_behind_a_link_counts_with_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::os::unix::fs::symlink("file", &link).unwrap();
        let key = |content: &str| {
            fs::write(&file, content).unwrap();
            let mut inputs = Inputs::new("test 1");
            inputs.add_file("file", &link).unwrap();
            inputs.key()
        };
        assert_ne!(key("1"), key("2"));
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
        let error = Inputs::new("test 1").add_sources("x", Path::new("/nonexistent/x")).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/x"));
    }
}
