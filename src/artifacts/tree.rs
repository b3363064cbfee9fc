//! One walk over a folder for everybody who hashes it or packs it: what is not in the key is not in the content either.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Something in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Relative to where the walk began, with slashes; empty for that itself.
    pub path: String,
    /// Where it is on this machine.
    pub source: PathBuf,
    pub kind: Kind,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Folder,
    File { executable: bool },
    Link { target: String },
}

/// What to do with something on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Take,
    /// With all in it.
    Leave,
    /// Leave it, but look at what is in it.
    Look,
}

/// All but version control (`.git`, which may hold passwords of remotes).
pub fn all_but_git(path: &str, _: &Path) -> Choice {
    if name(path) == ".git" { Choice::Leave } else { Choice::Take }
}

/// All but version control and what cargo built: a `target` beside a `Cargo.toml`. Another `target` may well be a module.
pub fn sources(path: &str, source: &Path) -> Choice {
    let built = || source.parent().is_some_and(|folder| folder.join("Cargo.toml").is_file());
    if name(path) == "target" && built() { Choice::Leave } else { all_but_git(path, source) }
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// A file, link or folder with all in it that `choose` takes by its relative path: sorted, folders before what is in them.
///
/// # Errors
/// When there is nothing at `root`, something cannot be read, has a name that is not UTF-8, or is neither file, folder nor link.
pub fn walk(root: &Path, choose: &dyn Fn(&str, &Path) -> Choice) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    visit(root, String::new(), choose, &mut found)?;
    Ok(found)
}

fn visit(source: &Path, path: String, choose: &dyn Fn(&str, &Path) -> Choice, found: &mut Vec<Found>) -> Result<()> {
    let context = || format!("reading {}", source.display());
    // What the walk began with was chosen by the caller.
    let choice = if path.is_empty() { Choice::Take } else { choose(&path, source) };
    if choice == Choice::Leave {
        return Ok(());
    }
    let metadata = fs::symlink_metadata(source).with_context(context)?;
    let kind = if metadata.is_symlink() {
        let target = fs::read_link(source).with_context(context)?;
        Kind::Link { target: text(target.as_os_str(), source)?.to_owned() }
    } else if metadata.is_dir() {
        Kind::Folder
    } else if metadata.is_file() {
        Kind::File { executable: metadata.permissions().mode() & 0o111 != 0 }
    } else if choice == Choice::Look {
        return Ok(());
    } else {
        bail!("{} is neither a file, a folder nor a link", source.display());
    };
    let folder = kind == Kind::Folder;
    if choice == Choice::Take {
        found.push(Found { path: path.clone(), source: source.to_owned(), kind });
    }
    if folder {
        let entries = fs::read_dir(source).with_context(context)?.map(|entry| Ok(entry?.file_name()));
        let mut entries = entries.collect::<std::io::Result<Vec<_>>>().with_context(context)?;
        entries.sort();
        for entry in entries {
            let inner = source.join(&entry);
            let name = text(&entry, &inner)?;
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            visit(&inner, path, choose, found)?;
        }
    }
    Ok(())
}

fn text<'a>(name: &'a std::ffi::OsStr, at: &Path) -> Result<&'a str> {
    name.to_str().with_context(|| format!("{}: a name that is not UTF-8; rename it", at.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn paths(root: &Path, choose: &dyn Fn(&str, &Path) -> Choice) -> Vec<String> {
        walk(root, choose).unwrap().into_iter().map(|found| found.path).collect()
    }

    #[test]
    fn what_is_left_out_is_left_out_at_every_depth() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["Cargo.toml", "target/out", "src/target/mod.rs", "src/.git/config", "src/.git2", ".git"] {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let all = ["", "Cargo.toml", "src", "src/.git2", "src/target", "src/target/mod.rs"];
        assert_eq!(paths(dir.path(), &sources), all);
        let with_target: Vec<_> = all.into_iter().chain(["target", "target/out"]).collect();
        assert_eq!(paths(dir.path(), &all_but_git), with_target);
        let look = |path: &str, _: &Path| if path.ends_with("mod.rs") { Choice::Take } else { Choice::Look };
        assert_eq!(paths(dir.path(), &look), ["", "src/target/mod.rs"]);
    }

    #[test]
    fn a_name_that_is_no_text_and_a_socket_are_errors() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"a\xff"));
        fs::write(&odd, "").unwrap();
        assert!(walk(dir.path(), &all_but_git).unwrap_err().to_string().contains("not UTF-8"));
        fs::remove_file(odd).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(walk(dir.path(), &all_but_git).unwrap_err().to_string().contains("neither a file"));
    }
}
