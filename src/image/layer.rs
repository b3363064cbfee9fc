//! One layer: a tar of sorted entries with fixed times.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::below::Below;
use super::links::Last;
use super::recipe::Owner;
use crate::artifacts::tree::{self, Found, Kind};

/// What is at a path.
#[derive(Debug, Clone)]
pub enum Entry {
    Directory {
        mode: u32,
        owner: Owner,
    },
    /// A file of the controller.
    File {
        source: PathBuf,
        mode: u32,
        owner: Owner,
    },
    Content {
        content: Vec<u8>,
        mode: u32,
        owner: Owner,
    },
    Link {
        target: String,
    },
}

/// Entries by path without the leading slash; parents come before what is in them.
#[derive(Debug, Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
    /// What is under it.
    below: Below,
}

/// A layer as a file: SHA-256 and size of the uncompressed tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub sha256: String,
    pub size: u64,
}

impl Layer {
    /// An empty one over others.
    pub fn over(below: Below) -> Self {
        Self { entries: BTreeMap::new(), below }
    }

    /// What is under it.
    pub fn below(&self) -> &Below {
        &self.below
    }

    /// Puts an entry at an absolute path, over what was there, and its missing parents (root's, 0755). Links of the layers below
    /// are followed as a program in the container would follow them; a file or link at the path of such a link replaces it.
    pub fn insert(&mut self, path: &str, entry: Entry) {
        let folder = matches!(entry, Entry::Directory { .. }) && self.below.takes_folder(path);
        let path = self.below.resolve(path, if folder { Last::Followed } else { Last::Kept });
        for (at, _) in path.match_indices('/') {
            self.entries
                .entry(path[..at].to_owned())
                .or_insert(Entry::Directory { mode: 0o755, owner: Owner::default() });
        }
        self.entries.insert(path, entry);
    }

    pub fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path.trim_matches('/'))
    }

    /// Puts a file of the controller at `to`, or a folder with all in it but version control (links stay links).
    ///
    /// # Errors
    /// As [`tree::walk`].
    pub fn insert_tree(&mut self, from: &Path, to: &str, mode: Option<u32>, owner: Owner) -> Result<()> {
        self.insert_found(&tree::walk(from, &tree::all_but_git)?, to, mode, owner);
        Ok(())
    }

    /// Puts what a walk found at `to`; an empty `to` is the root itself.
    pub fn insert_found(&mut self, found: &[Found], to: &str, mode: Option<u32>, owner: Owner) {
        for Found { path, source, kind } in found {
            let at = if path.is_empty() { to.to_owned() } else { format!("{to}/{path}") };
            let entry = match kind {
                Kind::Folder if at.is_empty() => continue,
                Kind::Folder => Entry::Directory { mode: 0o755, owner },
                Kind::Link { target } => Entry::Link { target: target.clone() },
                Kind::File { executable } => {
                    // The umask of a checkout must not show in the image.
                    let mode = mode.unwrap_or(if *executable { 0o755 } else { 0o644 });
                    Entry::File { source: source.clone(), mode, owner }
                }
            };
            self.insert(&at, entry);
        }
    }

    /// Writes the tar.
    ///
    /// # Errors
    /// When a source cannot be read or the tar cannot be written.
    pub fn write(&self, to: &Path) -> Result<Written> {
        let file = File::create(to).with_context(|| format!("writing {}", to.display()))?;
        let mut tar = tar::Builder::new(Hashing::new(BufWriter::new(file)));
        for (path, entry) in &self.entries {
            let mut header = Header::new_gnu();
            // One fixed moment: the epoch.
            header.set_mtime(0);
            let (mode, owner) = match entry {
                Entry::Directory { mode, owner }
                | Entry::File { mode, owner, .. }
                | Entry::Content { mode, owner, .. } => (*mode, *owner),
                Entry::Link { .. } => (0o777, Owner::default()),
            };
            header.set_mode(mode);
            header.set_uid(owner.uid.into());
            header.set_gid(owner.gid.into());
            header.set_size(0);
            match entry {
                Entry::Directory { .. } => {
                    header.set_entry_type(EntryType::Directory);
                    tar.append_data(&mut header, format!("{path}/"), io::empty())
                }
                Entry::Link { target } => {
                    header.set_entry_type(EntryType::Symlink);
                    tar.append_link(&mut header, path, target)
                }
                Entry::Content { content, .. } => {
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, content.as_slice())
                }
                Entry::File { source, .. } => {
                    let file = File::open(source).with_context(|| format!("reading {}", source.display()))?;
                    let size = file.metadata()?.len();
                    header.set_size(size);
                    tar.append_data(&mut header, path, file.take(size))
                }
            }
            .with_context(|| format!("writing /{path} into a layer"))?;
        }
        let (sha256, size, mut file) = tar.into_inner()?.finish();
        file.flush()?;
        Ok(Written { sha256, size })
    }
}

/// Hashes and counts what goes through.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0 }
    }

    fn finish(self) -> (String, u64, W) {
        (hex::encode(self.hasher.finalize()), self.size, self.inner)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
