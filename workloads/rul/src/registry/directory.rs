//! The registry in a directory: for a machine without MLflow, for the demo, for tests.
//!
//! ```text
//! ROOT/cmapss-rul/versions/7/artifact/...   what was registered, never changed
//!                            run.json       where it comes from
//!                            tags/KEY       one file each
//!                 aliases/production        "7"
//! ```
//!
//! Everything appears by a rename, so readers never see half of it, and two writers never get the
//! same number.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Part, RunInfo, Version};

/// See [`super::Registry`].
#[derive(Debug, Clone)]
pub struct DirectoryRegistry {
    root: PathBuf,
}

/// `run.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Milliseconds since 1970.
    created_at: i64,
    run: RunInfo,
}

const MOST_VERSIONS: usize = 100;

impl DirectoryRegistry {
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn versions_dir(&self, model: &str) -> PathBuf {
        self.root.join(model).join("versions")
    }

    /// `None` for what is no number, which no version can be called.
    fn version_dir(&self, model: &str, version: &str) -> Option<PathBuf> {
        let number: u64 = version.parse().ok()?;
        (number.to_string() == version).then(|| self.versions_dir(model).join(version))
    }

    fn alias_file(&self, model: &str, alias: &str) -> PathBuf {
        self.root.join(model).join("aliases").join(alias)
    }

    fn missing(&self, model: &str, version: &str) -> Error {
        Error::NoVersion {
            model: model.to_owned(),
            version: version.to_owned(),
            registry: self.root.display().to_string(),
        }
    }

    pub(super) fn alias(&self, model: &str, alias: &str) -> Result<Option<Version>, Error> {
        let path = self.alias_file(model, alias);
        let Some(version) = optional(fs::read_to_string(&path), &path)? else {
            return Ok(None);
        };
        let version = version.trim();
        self.version(model, version)?.map(Some).ok_or_else(|| self.missing(model, version))
    }

    pub(super) fn set_alias(&self, model: &str, alias: &str, version: &str) -> Result<(), Error> {
        if self.version(model, version)?.is_none() {
            return Err(self.missing(model, version));
        }
        write_whole(&self.alias_file(model, alias), version.as_bytes())
    }

    pub(super) fn delete_alias(&self, model: &str, alias: &str) -> Result<(), Error> {
        let path = self.alias_file(model, alias);
        optional(fs::remove_file(&path), &path).map(|_| ())
    }

    pub(super) fn version(&self, model: &str, version: &str) -> Result<Option<Version>, Error> {
        let Some(dir) = self.version_dir(model, version) else {
            return Ok(None);
        };
        let Some(record) = self.record(&dir)? else {
            return Ok(None);
        };
        let mut tags = BTreeMap::new();
        let tags_dir = dir.join("tags");
        let entries = optional(fs::read_dir(&tags_dir), &tags_dir)?.into_iter().flatten();
        for entry in entries {
            let path = entry.map_err(at(&tags_dir))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).and_then(decode);
            // What is being written has a name that no tag has.
            if let Some(key) = name
                && let Some(value) = optional(fs::read_to_string(&path), &path)?
            {
                tags.insert(key, value);
            }
        }
        Ok(Some(Version {
            model: model.to_owned(),
            version: version.to_owned(),
            source: dir.join("artifact").display().to_string(),
            run_id: None,
            created_at: record.created_at,
            tags,
        }))
    }

    fn record(&self, dir: &Path) -> Result<Option<Record>, Error> {
        let path = dir.join("run.json");
        let Some(text) = optional(fs::read(&path), &path)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| at(&path)(io::Error::other(e)))
    }

    fn numbers(&self, model: &str) -> Result<Vec<u64>, Error> {
        let dir = self.versions_dir(model);
        let mut numbers = Vec::new();
        for entry in optional(fs::read_dir(&dir), &dir)?.into_iter().flatten() {
            let name = entry.map_err(at(&dir))?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(numbers)
    }

    pub(super) fn versions(&self, model: &str) -> Result<Vec<Version>, Error> {
        let mut versions = Vec::new();
        for number in self.numbers(model)?.into_iter().take(MOST_VERSIONS) {
            versions.extend(self.version(model, &number.to_string())?);
        }
        Ok(versions)
    }

    pub(super) fn register(&self, model: &str, artifact: &Path, run: &RunInfo) -> Result<Version, Error> {
        let dir = self.versions_dir(model);
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        let part = Part::new(&dir).map_err(at(&dir))?;
        copy(artifact, &part.path.join("artifact"))?;
        let record = Record { created_at: jiff::Timestamp::now().as_millisecond(), run: run.clone() };
        let path = part.path.join("run.json");
        let text = serde_json::to_vec_pretty(&record).map_err(|e| at(&path)(io::Error::other(e)))?;
        fs::write(&path, text).map_err(at(&path))?;
        for (key, value) in &run.version_tags {
            write_whole(&part.path.join("tags").join(encode(key)), value.as_bytes())?;
        }
        let mut number = self.numbers(model)?.first().map_or(1, |newest| newest + 1);
        loop {
            let target = dir.join(number.to_string());
            match fs::rename(&part.path, &target) {
                Ok(()) => break,
                // Somebody else took this number.
                Err(e) if matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => number += 1,
                Err(e) => return Err(at(&target)(e)),
            }
        }
        let number = number.to_string();
        self.version(model, &number)?.ok_or_else(|| self.missing(model, &number))
    }

    pub(super) fn set_tag(&self, version: &Version, key: &str, value: &str) -> Result<(), Error> {
        let dir = self.version_dir(&version.model, &version.version).filter(|dir| dir.exists());
        let dir = dir.ok_or_else(|| self.missing(&version.model, &version.version))?;
        write_whole(&dir.join("tags").join(encode(key)), value.as_bytes())
    }

    pub(super) fn metrics(&self, version: &Version) -> Result<BTreeMap<String, f64>, Error> {
        let dir = self.version_dir(&version.model, &version.version);
        let record = dir.map(|dir| self.record(&dir)).transpose()?.flatten();
        Ok(record.map(|r| r.run.metrics.into_iter().map(|m| (m.key, m.value)).collect()).unwrap_or_default())
    }

    pub(super) fn download(&self, version: &Version, dest: &Path) -> Result<(), Error> {
        let dir = self.version_dir(&version.model, &version.version);
        let dir = dir.ok_or_else(|| self.missing(&version.model, &version.version))?;
        copy(&dir.join("artifact"), dest)
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::File { path: path.to_owned(), source }
}

/// What is not there is `None`.
fn optional<T>(result: io::Result<T>, path: &Path) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at(path)(e)),
    }
}

/// The file has the old content or the new one, never a part.
fn write_whole(path: &Path, content: &[u8]) -> Result<(), Error> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(at(dir))?;
    let part = Part::new(dir).map_err(at(dir))?;
    let new = part.path.join("new");
    fs::write(&new, content).map_err(at(&new))?;
    fs::rename(&new, path).map_err(at(path))
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(at(to))?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if fs::metadata(&source).map_err(at(&source))?.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(at(&source))?;
        }
    }
    Ok(())
}

/// A tag's key as a file name: what is not a letter, digit, `-` or `_` becomes `%XX`.
fn encode(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

/// `None` for names that [`encode`] never makes.
fn decode(name: &str) -> Option<String> {
    let mut key = Vec::new();
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => key.extend(hex::decode([bytes.next()?, bytes.next()?]).ok()?),
            b'.' => return None,
            byte => key.push(byte),
        }
    }
    String::from_utf8(key).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn keys_of_tags_survive_as_file_names() {
        for key in ["promotion.decision", "../../etc/passwd", "ä %41", "a"] {
            let name = encode(key);
            assert!(!name.contains(['/', '.']), "{name}");
            assert_eq!(decode(&name).as_deref(), Some(key));
        }
        assert_eq!(decode(".part-1-1"), None);
    }
}
