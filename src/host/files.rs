//! File operations on this machine: atomic writes, and errors that say what to do.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{Gid, Uid};

use super::{FileType, Owner, Stat};
use crate::hash;

/// `None` for what is not there (also when a parent is no directory).
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn open(path: &Path) -> Result<Option<File>> {
    found(File::open(path)).map_err(|error| explain("cannot read", path, error))
}

pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    found(fs::read(path)).map_err(|error| explain("cannot read", path, error))
}

pub fn sha256(path: &Path) -> Result<Option<String>> {
    open(path)?.map(hash::sha256_reader).transpose().map_err(|error| explain("cannot read", path, error))
}

pub fn stat(path: &Path) -> Result<Option<Stat>> {
    let metadata = found(fs::symlink_metadata(path)).map_err(|error| explain("cannot look at", path, error))?;
    Ok(metadata.map(|metadata| {
        let file_type = metadata.file_type();
        Stat {
            file_type: if file_type.is_file() {
                FileType::File
            } else if file_type.is_dir() {
                FileType::Directory
            } else if file_type.is_symlink() {
                FileType::Symlink
            } else {
                FileType::Other
            },
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: metadata.len(),
        }
    }))
}

pub fn read_link(path: &Path) -> Result<Option<PathBuf>> {
    match found(fs::read_link(path)) {
        // EINVAL: something is there, but no link.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(None),
        other => other.map_err(|error| explain("cannot look at", path, error)),
    }
}

pub fn list(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = found(fs::read_dir(path)).map_err(|error| explain("cannot list", path, error))?;
    for entry in entries.into_iter().flatten() {
        let entry = entry.map_err(|error| explain("cannot list", path, error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Where `path` is prepared before it is renamed. The name is always the same, so that what a killed run left behind is
/// replaced by the next one, and hidden, so that programs which read whole directories pass over it.
fn temporary(path: &Path) -> Result<PathBuf> {
    let name =
        path.file_name().with_context(|| format!("{}: has no file name and cannot be written", path.display()))?;
    let name = hash::sha256(name.as_encoded_bytes());
    Ok(path.with_file_name(format!(".provision-{}.tmp", &name[..16])))
}

pub fn write(path: &Path, content: &mut dyn Read, mode: u32, owner: Owner) -> Result<()> {
    let temporary = temporary(path)?;
    let written = write_temporary(&temporary, content, mode, owner).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        let error = explain("cannot write", path, error);
        // It may not even have been made.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_parent(path);
    Ok(())
}

fn write_temporary(temporary: &Path, content: &mut dyn Read, mode: u32, owner: Owner) -> io::Result<()> {
    found(fs::remove_file(temporary))?;
    // create_new: in a directory that others can write to, nobody can put a link in our way.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match content.read(&mut buffer)? {
            0 => break,
            n => file.write_all(&buffer[..n])?,
        }
    }
    // Owner before mode: changing the owner drops set-user-id bits.
    rustix::fs::fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Makes a rename survive a power cut. Best effort: some file systems refuse to sync a directory.
fn sync_parent(path: &Path) {
    if let Some(Ok(parent)) = path.parent().map(File::open) {
        let _ = parent.sync_all();
    }
}

pub fn create_dir(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir(path)
        // The umask has a say in the mode of a new directory.
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(|error| explain("cannot make the directory", path, error))
}

pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| explain("cannot change the mode of", path, error))
}

pub fn set_owner(path: &Path, owner: Owner) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
        .map_err(|error| explain("cannot change the owner of", path, error))
}

pub fn symlink(path: &Path, target: &Path) -> Result<()> {
    let temporary = temporary(path)?;
    let made = found(fs::remove_file(&temporary))
        .and_then(|_| std::os::unix::fs::symlink(target, &temporary))
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = made {
        let error = explain("cannot make the link", path, error);
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_parent(path);
    Ok(())
}

pub fn remove_file(path: &Path) -> Result<()> {
    found(fs::remove_file(path)).map_err(|error| explain("cannot remove", path, error))?;
    Ok(())
}

pub fn remove_dir_all(path: &Path) -> Result<()> {
    found(fs::remove_dir_all(path)).map_err(|error| explain("cannot remove", path, error))?;
    Ok(())
}

pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| explain(&format!("cannot rename {} to", from.display()), to, error))?;
    sync_parent(to);
    Ok(())
}

/// An error of the operating system with its reason in the words of a person, and the way out.
pub fn explain(what: &str, path: &Path, error: io::Error) -> anyhow::Error {
    let parent = path.parent().unwrap_or(path);
    let reason = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => format!(
            "the disk is full ({} free on the file system of {}); free some space and run the same command again",
            free_space(parent).map_or_else(|| "unknown space".to_owned(), mib),
            parent.display()
        ),
        ErrorKind::ReadOnlyFilesystem => {
            format!("{} is on a read-only file system; remount it writable or choose another path", parent.display())
        }
        ErrorKind::PermissionDenied => {
            "permission denied; it needs root, and no immutable flag on the path (`lsattr`)".into()
        }
        ErrorKind::NotFound if !parent.exists() => {
            format!("its directory {} does not exist; add a `directory` resource before it", parent.display())
        }
        ErrorKind::NotADirectory => format!("a part of the path {} is a file, not a directory", parent.display()),
        ErrorKind::IsADirectory => "a directory is there; move it away or choose another path".into(),
        ErrorKind::AlreadyExists => "something is there already".into(),
        _ => return anyhow!(error).context(format!("{what} {}", path.display())),
    };
    anyhow!(error).context(format!("{what} {}: {reason}", path.display()))
}

/// Bytes that root can still write to the file system of `path`.
pub fn free_space(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// `12.3 MiB`.
pub fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / (1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
