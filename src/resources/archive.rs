//! `archive`: an artifact unpacked into a directory.
//!
//! What was unpacked is recorded beside it, in `.provision-<artifact>.json`: a new version, other options, or a file that was
//! removed or cut by hand show in the next plan. The record is written last, so a cut run unpacks again.

mod entries;

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::entries::{Entry, Kind};
use super::artifact::ArtifactRef;
use super::path::{HostPath, make_parents};
use super::{Observed, Resolve, Resource};
use crate::diff::{Action, Diff};
use crate::host::{FileType, Owner, ReadHost, WriteHost};

/// A pinned archive (tar; plain, gzip, xz or zstd) is unpacked into a directory, which is made when it is missing. All files
/// belong to root. Files of an earlier version that the new one lacks are removed; other files are left alone.
///
/// ```yaml
/// - archive: { artifact: helm, path: /usr/local/bin, strip: 1, include: [helm] }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// The artifact.
    artifact: ArtifactRef,
    /// The directory.
    path: HostPath,
    /// How many leading directories are taken off every name. Default: 0.
    #[serde(default)]
    strip: usize,
    /// Only these files and directories, named as they are after `strip`. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    include: Vec<String>,
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: String,
    sha256: String,
    strip: usize,
    include: Vec<String>,
    entries: Vec<Entry>,
}

/// What is there.
pub struct State {
    /// `None` when nothing was unpacked, or nobody can tell.
    record: Option<Record>,
    /// Entries of the record that are not as they were unpacked, and how they differ.
    damaged: Vec<(String, &'static str)>,
    version: String,
    sha256: String,
}

impl Archive {
    fn directory(&self) -> &Path {
        self.path.as_ref()
    }

    fn record_path(&self) -> PathBuf {
        let name = self.artifact.name();
        self.directory().join(format!(".provision-{name}.json"))
    }

    fn record(&self, host: &dyn ReadHost) -> Result<Option<Record>> {
        let bytes = host.read_file(&self.record_path())?;
        // A record that cannot be read is as good as none: it is made again.
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn unpack(&self, host: &dyn WriteHost, archive: &Path) -> Result<()> {
        let content = opened(host, archive)?;
        let mut keep = |name: &str| entries::is_included(name, &self.include);
        entries::visit(content, self.strip, &mut keep, &mut |entry, content| {
            let path = self.directory().join(&entry.name);
            make_parents(host, &path)?;
            match &entry.kind {
                Kind::Directory => {
                    // One that is there may belong to others, too: it keeps its mode.
                    if host.stat(&path)?.is_none() {
                        host.create_dir(&path, entry.mode)?;
                    }
                    Ok(())
                }
                Kind::File { .. } => host.write_stream(&path, content, entry.mode, Owner::ROOT),
                Kind::Link { target } => host.symlink(&path, Path::new(target)),
                Kind::Same { as_name } => {
                    let other = self.directory().join(as_name);
                    let mut content = host.open(&other)?.with_context(|| format!("{as_name}: was not unpacked"))?;
                    host.write_stream(&path, &mut content, entry.mode, Owner::ROOT)
                }
            }
        })?;
        Ok(())
    }

    /// Removes what the last version had and this one lacks, deepest first.
    fn remove_stale(&self, host: &dyn WriteHost, old: &Record, new: &[Entry]) -> Result<()> {
        for entry in old.entries.iter().rev() {
            let stays = new.iter().any(|other| other.name == entry.name && other.kind.same_type(&entry.kind));
            let path = self.directory().join(&entry.name);
            if stays {
                continue;
            }
            match host.stat(&path)?.map(|stat| stat.file_type) {
                Some(FileType::Directory) if host.list_dir(&path)?.is_empty() => {
                    host.remove_dir_all(&path)?;
                }
                // Somebody else keeps something in it.
                Some(FileType::Directory) | None => {}
                Some(_) => host.remove_file(&path)?,
            }
        }
        Ok(())
    }
}

fn opened(host: &dyn WriteHost, archive: &Path) -> Result<Box<dyn Read + Send>> {
    host.open(archive)?.with_context(|| format!("{}: disappeared from the cache", archive.display()))
}

/// How what is at `path` differs from what was unpacked there.
fn damage(host: &dyn ReadHost, path: &Path, entry: &Entry) -> Result<Option<&'static str>> {
    let Some(stat) = host.stat(path)? else {
        return Ok(Some("is missing"));
    };
    let expected = match &entry.kind {
        Kind::Directory => FileType::Directory,
        Kind::Link { .. } => FileType::Symlink,
        Kind::File { .. } | Kind::Same { .. } => FileType::File,
    };
    if stat.file_type != expected {
        return Ok(Some("is of another type"));
    }
    Ok(match &entry.kind {
        Kind::Link { target } => {
            (host.read_link(path)?.as_deref() != Some(Path::new(target))).then_some("leads elsewhere")
        }
        // A directory may have been there before us.
        Kind::Directory => None,
        Kind::File { size } if stat.size != *size => Some("has another size"),
        Kind::File { .. } | Kind::Same { .. } => (stat.mode != entry.mode).then_some("has another mode"),
    })
}

#[async_trait]
impl Resource for Archive {
    const KIND: &'static str = "archive";
    type State = State;

    fn name(&self) -> String {
        format!("{} in {}", self.artifact.name(), self.path)
    }

    fn resolve(&mut self, project: &mut dyn Resolve) -> Result<()> {
        self.artifact.resolve(project)
    }

    async fn observe(&self, host: &dyn ReadHost) -> Result<Observed<State>> {
        let pin = self.artifact.pin()?;
        let record = self.record(host)?;
        let mut damaged = Vec::new();
        for entry in record.iter().flat_map(|record| &record.entries) {
            if let Some(how) = damage(host, &self.directory().join(&entry.name), entry)? {
                damaged.push((entry.name.clone(), how));
            }
        }
        Ok(Observed::Known(State { record, damaged, version: pin.version.clone(), sha256: pin.sha256.clone() }))
    }

    fn diff(&self, state: &State) -> Diff {
        let name = self.artifact.name();
        let Some(record) = &state.record else {
            let mut diff = Diff::new(Action::Create);
            diff.push("artifact", format!("{name} {}", state.version));
            return diff;
        };
        let mut diff = Diff::none();
        if record.sha256 != state.sha256 {
            let short = |sha256: &str| sha256.get(..12).unwrap_or(sha256).to_owned();
            diff.push(
                "artifact",
                format!(
                    "{name} {} (sha256 {}) -> {} (sha256 {})",
                    record.version,
                    short(&record.sha256),
                    state.version,
                    short(&state.sha256)
                ),
            );
        }
        diff.compare("strip", &record.strip.to_string(), &self.strip.to_string());
        diff.compare("include", &record.include.join(", "), &self.include.join(", "));
        for (name, how) in &state.damaged {
            diff.push(name.clone(), *how);
        }
        diff
    }

    async fn apply(&self, host: &dyn WriteHost, _: &Diff) -> Result<()> {
        let pin = self.artifact.pin()?;
        let archive = host.fetch(pin).await?;
        let content = opened(host, &archive)?;
        // All of it is looked at before anything is written.
        let entries = entries::list(content, self.strip, &self.include)
            .with_context(|| format!("artifact {} {}", pin.name, pin.version))?;
        if let Some(old) = self.record(host.as_read())? {
            self.remove_stale(host, &old, &entries)?;
        }
        make_parents(host, &self.record_path())?;
        self.unpack(host, &archive)?;
        let record = Record {
            version: pin.version.clone(),
            sha256: pin.sha256.clone(),
            strip: self.strip,
            include: self.include.clone(),
            entries,
        };
        let json = serde_json::to_vec(&record)?;
        host.write_file(&self.record_path(), &json, 0o644, Owner::ROOT)
    }
}

#[cfg(test)]
#[path = "archive/archive_tests.rs"]
mod tests;
