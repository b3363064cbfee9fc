//! A directory that appears under its name whole, or not at all.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{BASELINE_FILE, Error, GOLDEN_FILE, METRICS_FILE, MLMODEL_FILE};

/// The files of an artifact. What holds others is somebody's directory and is not replaced.
const OURS: [&str; 9] = [
    "model.onnx",
    "model.json",
    BASELINE_FILE,
    GOLDEN_FILE,
    METRICS_FILE,
    MLMODEL_FILE,
    "requirements.txt",
    "conda.yaml",
    "python_env.yaml",
];

/// A directory under construction; gone with this value unless it took its place.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
}

impl Part {
    /// Beside `target`, so that one rename puts it there; inside it where that is the only place to write (a mounted volume).
    ///
    /// # Errors
    /// [`Error::Occupied`], and those of the file system.
    pub fn beside(target: &Path) -> Result<Self, Error> {
        check_free(target)?;
        let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = format!(".{name}.part-{}", std::process::id());
        let create = |dir: &Path| {
            let path = dir.join(&name);
            // Left by a run that was killed, which had the same number.
            let _ = fs::remove_dir_all(&path);
            // The model is read by another user than the one that trains it.
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).map(|()| Self { path })
        };
        match create(parent) {
            Ok(part) => Ok(part),
            Err(_) if target.is_dir() => create(target).map_err(Error::io(target)),
            Err(e) => Err(Error::io(parent)(e)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of all files so far.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn size(&self) -> Result<u64, Error> {
        let mut sum = 0;
        for entry in fs::read_dir(&self.path).map_err(Error::io(&self.path))? {
            sum += entry.and_then(|e| e.metadata()).map_err(Error::io(&self.path))?.len();
        }
        Ok(sum)
    }

    /// Becomes `target`. Where a directory cannot be exchanged as a whole (a mount), its files are, `last` after all others: the file
    /// that says which content the others must have.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn take_place(self, target: &Path, last: &str) -> Result<(), Error> {
        for entry in fs::read_dir(&self.path).map_err(Error::io(&self.path))? {
            let file = entry.map_err(Error::io(&self.path))?.path();
            let synced = fs::set_permissions(&file, fs::Permissions::from_mode(0o644))
                .and_then(|()| fs::File::open(&file)?.sync_all());
            synced.map_err(Error::io(&file))?;
        }
        // Also over an empty directory.
        match fs::rename(&self.path, target) {
            Ok(()) => return Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                check_free(target)?;
                if renameat_with(CWD, &self.path, CWD, target, RenameFlags::EXCHANGE).is_ok() {
                    // Dropping removes what is now here: the old one.
                    return Ok(());
                }
            }
            Err(_) if target.is_dir() => {}
            Err(e) => return Err(Error::io(target)(e)),
        }
        let mut names: Vec<_> = fs::read_dir(&self.path)
            .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect())
            .map_err(Error::io(&self.path))?;
        names.sort_by_key(|name| name == last);
        for name in names {
            let (from, to) = (self.path.join(&name), target.join(&name));
            if fs::rename(&from, &to).is_ok() {
                continue;
            }
            let near = target.join(format!(".{}.part", name.to_string_lossy()));
            fs::copy(&from, &near).and_then(|_| fs::rename(&near, &to)).map_err(Error::io(&to))?;
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Nobody to tell: the leftover is named as what it is.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Whether an artifact may be written here: the place is absent, empty, or an artifact.
///
/// # Errors
/// [`Error::Occupied`], and those of the file system.
pub fn check_free(target: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(target)(e)),
    };
    for entry in entries {
        let name = entry.map_err(Error::io(target))?.file_name();
        let name = name.to_string_lossy();
        let part = name.starts_with('.') && name.contains(".part");
        if !part && name != "lost+found" && !OURS.contains(&name.as_ref()) {
            return Err(Error::Occupied { path: target.to_owned(), found: name.into_owned() });
        }
    }
    Ok(())
}
