//! What is in a tar archive, as far as it may be unpacked: nothing that leaves the directory, no devices.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::diagnostic::did_you_mean;
use crate::resources::path::stays_below;

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the directory, after `strip`.
    pub name: String,
    /// Permission bits: what others than root could write, or run as root, is taken off.
    pub mode: u32,
    #[serde(flatten)]
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Kind {
    Directory,
    File {
        size: u64,
    },
    Link {
        target: String,
    },
    /// A second name of a file (a hard link), unpacked as a copy.
    Same {
        as_name: String,
    },
}

impl Kind {
    /// Whether one can take the place of the other without a removal.
    pub fn same_type(&self, other: &Self) -> bool {
        let directory = |kind: &Self| matches!(kind, Self::Directory);
        directory(self) == directory(other)
    }
}

/// Everything that will be unpacked; reads the archive to its end.
///
/// # Errors
/// What is wrong with the archive, or which of `include` it does not have.
pub fn list(archive: impl Read, strip: usize, include: &[String]) -> Result<Vec<Entry>> {
    let mut names: Vec<String> = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    let mut keep = |name: &str| {
        names.push(name.to_owned());
        is_included(name, include)
    };
    visit(archive, strip, &mut keep, &mut |entry, content| {
        io::copy(content, &mut io::sink())?;
        entries.push(entry.clone());
        Ok(())
    })?;
    let names = names.iter().map(String::as_str);
    for wanted in include {
        if !names.clone().any(|name| is_at_or_below(name, wanted)) {
            let hint =
                did_you_mean(wanted, names).unwrap_or_else(|| format!("after `strip: {strip}` nothing has that name"));
            bail!("the archive has no {wanted:?}; {hint}");
        }
    }
    if entries.is_empty() {
        bail!("the archive has nothing below {strip} directories; is `strip` too large?");
    }
    Ok(entries)
}

/// Whether `name` is to be unpacked.
pub fn is_included(name: &str, include: &[String]) -> bool {
    include.is_empty() || include.iter().any(|wanted| is_at_or_below(name, wanted))
}

/// Calls `each` for everything whose name `keep` wants, in the order of the archive.
///
/// # Errors
/// What is wrong with the archive, and what `each` fails with.
pub fn visit(
    archive: impl Read,
    strip: usize,
    keep: &mut dyn FnMut(&str) -> bool,
    each: &mut dyn FnMut(&Entry, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut archive = tar::Archive::new(decompressed(archive)?);
    let mut links: HashSet<PathBuf> = HashSet::new();
    for entry in archive.entries()? {
        let mut tar_entry = entry.context("the archive is damaged")?;
        let path = tar_entry.path()?.into_owned();
        let Some(name) = stripped(&path, strip)? else {
            continue;
        };
        let shown = name.to_string_lossy().into_owned();
        if !keep(&shown) {
            continue;
        }
        // A name that goes through a link of the archive may lead anywhere.
        if let Some(link) = name.ancestors().skip(1).find(|it| links.contains(*it)) {
            bail!("the archive puts {shown:?} through its own link {link:?}; it is not safe to unpack");
        }
        let header = tar_entry.header();
        let mode = header.mode()? & 0o755;
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                Kind::File { size: tar_entry.size() }
            }
            tar::EntryType::Symlink => {
                let target = link_name(&tar_entry, &shown)?;
                let from = name.parent().unwrap_or(Path::new(""));
                if !stays_below(&from.join(&target)) {
                    bail!(
                        "the archive's link {shown:?} leads out of its directory, to {target:?}; it is not safe to unpack"
                    );
                }
                links.insert(name.clone());
                Kind::Link { target: target.to_string_lossy().into_owned() }
            }
            tar::EntryType::Link => {
                let target = link_name(&tar_entry, &shown)?;
                let target = stripped(&target, strip)?
                    .with_context(|| format!("{shown:?} is another name of what `strip` takes off"))?;
                Kind::Same { as_name: target.to_string_lossy().into_owned() }
            }
            tar::EntryType::XGlobalHeader => continue,
            other => {
                bail!("the archive's {shown:?} is neither file, directory nor link but {other:?}")
            }
        };
        if !matches!(kind, Kind::Link { .. }) {
            links.remove(&name);
        }
        let entry = Entry { name: shown, mode, kind };
        each(&entry, &mut tar_entry).with_context(|| format!("unpacking {:?}", entry.name))?;
    }
    Ok(())
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>, name: &str) -> Result<PathBuf> {
    let target = entry.link_name()?;
    let target = target.with_context(|| format!("the archive's link {name:?} leads nowhere"))?;
    Ok(target.into_owned())
}

/// `path` without its first `strip` directories; `None` when nothing remains.
fn stripped(path: &Path, strip: usize) -> Result<Option<PathBuf>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            _ => {
                bail!("the archive's {path:?} leads out of its directory; it is not safe to unpack")
            }
        }
    }
    let name: PathBuf = parts.into_iter().skip(strip).collect();
    Ok((!name.as_os_str().is_empty()).then_some(name))
}

fn is_at_or_below(name: &str, wanted: &str) -> bool {
    Path::new(name).starts_with(wanted.trim_end_matches('/'))
}

/// The tar stream within, told by its first bytes.
fn decompressed<'a>(archive: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let mut archive = BufReader::with_capacity(256 * 1024, archive);
    let start = archive.fill_buf()?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(archive)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(xz2::bufread::XzDecoder::new_multi_decoder(archive)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(archive)?),
        [b'P', b'K', ..] => {
            bail!("the archive is a zip file, which is not supported; use a tar file")
        }
        _ => Box::new(archive),
    })
}
