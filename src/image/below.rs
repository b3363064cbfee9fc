//! What the layers below another have at each path, so that nothing is put over one of their links by mistake.
//!
//! A file at `/bin/run.sh` over a layer where `/bin` is a link to `usr/bin` would need a folder `bin` in its own layer, and unpacking
//! a folder over a link replaces the link: every other program would be gone. So paths are followed through the links below.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};
use tar::EntryType;

use super::archive;
use super::links::{self, Last};

/// Files whose content is kept: users of the image are added to them.
const KEPT: [&str; 2] = ["etc/passwd", "etc/group"];
/// The largest of these.
const LARGEST_KEPT: u64 = 1 << 20;
/// In front of the name of what a layer removes.
const REMOVED: &str = ".wh.";
/// Removes all that a folder had.
const ALL_REMOVED: &str = ".wh..wh..opq";

/// Paths without a slash in front.
#[derive(Debug, Clone, Default)]
pub struct Below {
    entries: BTreeMap<String, At>,
}

#[derive(Debug, Clone)]
enum At {
    Directory,
    Link(String),
    /// With its content, where that is kept.
    Other(Option<String>),
}

impl Below {
    /// Lays one more layer over them: a tar that may be compressed with gzip or zstd.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn add(&mut self, layer: &Path) -> Result<()> {
        self.add_tar(archive::open(layer)?).with_context(|| format!("reading the layer {}", layer.display()))
    }

    fn add_tar(&mut self, tar: impl Read) -> Result<()> {
        let mut own = BTreeSet::new();
        for entry in tar::Archive::new(tar).entries()? {
            let mut entry = entry?;
            let Some(path) = plain(&entry.path()?)? else { continue };
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let folder = self.resolve(folder, Last::Followed);
            if name == ALL_REMOVED {
                self.remove(&folder, &own, false);
                continue;
            }
            if let Some(removed) = name.strip_prefix(REMOVED) {
                self.remove(&joined(&folder, removed), &own, true);
                continue;
            }
            let path = joined(&folder, name);
            let at = match entry.header().entry_type() {
                EntryType::Directory => At::Directory,
                EntryType::Symlink => {
                    let target = entry.link_name()?.context("a link without a target")?;
                    At::Link(target.to_string_lossy().into_owned())
                }
                _ if KEPT.contains(&path.as_str()) => {
                    let mut text = String::new();
                    entry.by_ref().take(LARGEST_KEPT).read_to_string(&mut text)?;
                    At::Other(Some(text))
                }
                _ => At::Other(None),
            };
            for (end, _) in path.match_indices('/') {
                self.entries.entry(path[..end].to_owned()).or_insert(At::Directory);
            }
            let both_folders = matches!((&at, self.entries.get(&path)), (At::Directory, Some(At::Directory)));
            if !both_folders {
                self.remove(&path, &BTreeSet::new(), true);
                self.entries.insert(path.clone(), at);
            }
            own.insert(path);
        }
        Ok(())
    }

    /// Removes what is in a folder (and it itself), but for what is in `own`.
    fn remove(&mut self, path: &str, own: &BTreeSet<String>, itself: bool) {
        let inside = if path.is_empty() { String::new() } else { format!("{path}/") };
        let below = self.entries.range(inside.clone()..).map(|(other, _)| other);
        let below = below.take_while(|other| other.starts_with(&inside)).cloned();
        let gone: Vec<String> = below.chain(itself.then(|| path.to_owned())).collect();
        for path in gone.iter().filter(|path| !own.contains(*path)) {
            self.entries.remove(path);
        }
    }

    /// The same path with the links among its folders followed. A path that goes round in circles stays as it is.
    pub fn resolve(&self, path: &str, last: Last) -> String {
        let target = |at: &str| match self.entries.get(at) {
            Some(At::Link(target)) => Some(target.clone()),
            _ => None,
        };
        links::follow(path, last, target).unwrap_or_else(|| path.trim_matches('/').to_owned())
    }

    /// Whether anything is there.
    pub fn has(&self, path: &str) -> bool {
        self.entries.contains_key(&self.resolve(path, Last::Kept))
    }

    /// Whether a folder is there (also through links), or nothing is.
    pub fn takes_folder(&self, path: &str) -> bool {
        !matches!(self.entries.get(&self.resolve(path, Last::Followed)), Some(At::Other(_)))
    }

    /// Content of `/etc/passwd` or `/etc/group`.
    pub fn text(&self, path: &str) -> Option<&str> {
        match self.entries.get(&self.resolve(path, Last::Followed)) {
            Some(At::Other(Some(text))) => Some(text),
            _ => None,
        }
    }
}

/// A path of a tar without `./` and slashes around it; `None` for the root.
fn plain(path: &Path) -> Result<Option<String>> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => bail!("{} leads out of the image", path.display()),
        }
    }
    Ok(Some(parts.join("/")).filter(|path| !path.is_empty()))
}

fn joined(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// `folder/`, `link -> target`, `file` or `file = content`.
    fn tar(entries: &[&str]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for entry in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(0);
            if let Some((path, target)) = entry.split_once(" -> ") {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, path, target).unwrap();
            } else if entry.ends_with('/') {
                header.set_entry_type(EntryType::Directory);
                tar.append_data(&mut header, entry, &[][..]).unwrap();
            } else {
                let (path, content) = entry.split_once(" = ").unwrap_or((entry, ""));
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content.as_bytes()).unwrap();
            }
        }
        tar.into_inner().unwrap()
    }

    fn below(layers: &[&[&str]]) -> Below {
        let mut below = Below::default();
        for layer in layers {
            below.add_tar(&tar(layer)[..]).unwrap();
        }
        below
    }

    #[test]
    fn paths_are_followed_through_links_of_all_layers() {
        let below = below(&[
            &["./usr/bin/", "bin -> usr/bin", "usr/bin/sh -> busybox", "loop -> loop"],
            &["srv/", "opt -> /srv/./opt/../x", "srv/y -> ../bin"],
        ]);
        for (path, resolved) in [
            ("/bin/run.sh", "usr/bin/run.sh"),
            ("/bin/sh", "usr/bin/sh"),
            ("/bin", "bin"),
            ("/opt/z", "srv/x/z"),
            ("/srv/y/z", "usr/bin/z"),
            ("/loop/z", "loop/z"),
            ("/new/z", "new/z"),
        ] {
            assert_eq!(below.resolve(path, Last::Kept), resolved);
        }
        assert_eq!(below.resolve("/bin", Last::Followed), "usr/bin");
        assert!(below.takes_folder("/bin") && below.takes_folder("/new"));
    }

    #[test]
    fn an_upper_layer_removes_and_replaces() {
        let first: &[&str] =
            &["lib -> usr/lib", "usr/lib/a", "data/x", "data/link -> /usr", "etc/passwd = root:x:0:0\n"];
        let all = below(&[first]);
        assert_eq!(all.text("/etc/passwd"), Some("root:x:0:0\n"));
        assert!(!all.takes_folder("/lib/a"));
        let removed = below(&[first, &[".wh.lib", "etc/.wh.passwd", "usr/lib/.wh..wh..opq", "usr/lib/b"]]);
        assert_eq!(removed.resolve("/lib/x", Last::Kept), "lib/x");
        assert_eq!(removed.text("/etc/passwd"), None);
        assert!(removed.takes_folder("/usr/lib/a") && !removed.takes_folder("/usr/lib/b"));
        let emptied = below(&[first, &["data/own -> /lib", "data/.wh..wh..opq"]]);
        assert_eq!(emptied.resolve("/data/link/x", Last::Kept), "data/link/x");
        assert_eq!(emptied.resolve("/data/own/x", Last::Kept), "usr/lib/x", "its own stays, whatever the order");
        let replaced = below(&[first, &["lib/"]]);
        assert_eq!(replaced.resolve("/lib/x", Last::Kept), "lib/x", "a folder over a link replaces it");
    }
}
