//! Files that are in memory only: what a program wants to read by a path, and what must not be on a disk.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};

/// A file without a place in any file system. It is gone with this value, and with this process however it ends.
pub struct MemoryFile {
    file: File,
}

impl MemoryFile {
    /// # Errors
    /// When there is no memory for it.
    pub fn new(content: &[u8]) -> Result<Self> {
        let made = || -> std::io::Result<File> {
            let mut file = File::from(memfd_create("provision", MemfdFlags::CLOEXEC)?);
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(content)?;
            Ok(file)
        };
        Ok(Self { file: made().context("cannot make a file in memory")? })
    }

    /// Where programs of this user read it as long as this value lives; each opening starts at its beginning.
    pub fn path(&self) -> String {
        // Not /proc/self: that would be the program's own.
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn another_program_reads_it_twice_and_it_goes() {
        let file = MemoryFile::new(b"values: 1\n").unwrap();
        let path = file.path();
        for _ in 0..2 {
            let output = std::process::Command::new("cat").arg(&path).output().unwrap();
            assert_eq!(output.stdout, b"values: 1\n");
        }
        let inode = std::fs::metadata(&path).unwrap().ino();
        drop(file);
        // The number may be another test's by now, even that of a pipe which nobody ends: it is looked at, not read.
        assert!(!std::fs::metadata(&path).is_ok_and(|it| it.ino() == inode));
    }
}
