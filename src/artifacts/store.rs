//! The cache on the controller: files by the SHA-256 of their content, and what recipes built by the key of their inputs.
//!
//! ```text
//! blobs/sha256/<hash>      content, read only
//! blobs/checked/<hash>     size and time of the content when it was hashed last
//! recipes/<key>.json       what the recipe with these inputs built
//! partial/<hash>           a download that is not complete
//! locks/, logs/, work/     locks of running builds, output of the last builds, their scratch space
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::Progress;
use crate::hash;

/// What a recipe built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Built {
    /// Name of the artifact or image.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// When, RFC 3339 in UTC.
    pub built_at: String,
    /// For an image: its reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// For an image: the digest of its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// The cache.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// Held while something is built; the kernel frees it when the process ends in whatever way.
#[derive(Debug)]
#[must_use = "the lock is freed when this is dropped"]
pub struct Held {
    _file: File,
}

impl Store {
    /// The user's cache: `$XDG_CACHE_HOME/provision`, by default `~/.cache/provision`.
    ///
    /// # Errors
    /// When neither variable is set, or the folders cannot be made.
    pub fn open() -> Result<Self> {
        let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
            Some(cache) => PathBuf::from(cache),
            None => match std::env::var_os("HOME").filter(|value| !value.is_empty()) {
                Some(home) => PathBuf::from(home).join(".cache"),
                None => bail!(
                    "no place for the artifact cache: neither XDG_CACHE_HOME nor HOME is set; set XDG_CACHE_HOME to a folder with some GB free"
                ),
            },
        };
        Self::at(cache.join("provision"))
    }

    /// A cache in this folder.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = std::path::absolute(root.into())?;
        for folder in ["blobs/sha256", "blobs/checked", "recipes", "partial", "locks", "logs", "work"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("making the artifact cache {}", folder.display()))?;
        }
        sweep(&root.join("work"));
        Ok(Self { root })
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the content with this hash is, or would be.
    pub fn blob_path(&self, sha256: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(sha256)
    }

    /// The file with this content, if the cache has it. Its size and time are compared with those at the last hashing; only
    /// when they differ is it hashed again. A file with other content is removed, so that it is brought or built anew.
    ///
    /// # Errors
    /// When reading fails.
    pub fn get(&self, sha256: &str) -> Result<Option<PathBuf>> {
        Ok(self.open_blob(sha256)?.map(|_| self.blob_path(sha256)))
    }

    /// Like [`Store::get`], opened.
    ///
    /// # Errors
    /// When reading fails.
    pub fn open_blob(&self, sha256: &str) -> Result<Option<File>> {
        if !hash::is_sha256(sha256) {
            bail!("{sha256:?} is not a SHA-256");
        }
        let path = self.blob_path(sha256);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
        };
        let stamp = stamp(&file)?;
        if fs::read_to_string(self.checked_path(sha256)).is_ok_and(|seen| seen == stamp) {
            return Ok(Some(file));
        }
        if hash::sha256_reader(&mut file).with_context(|| format!("reading {}", path.display()))? == sha256 {
            file.rewind()?;
            self.replace(&self.checked_path(sha256), stamp.as_bytes())?;
            return Ok(Some(file));
        }
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        Ok(None)
    }

    /// Hashes a content from the start, whatever was seen before. `false` when it is not what its name says.
    ///
    /// # Errors
    /// When there is none or reading fails.
    pub fn verify(&self, sha256: &str) -> Result<bool> {
        let path = self.blob_path(sha256);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(hash::sha256_reader(file)? == sha256)
    }

    /// Removes a content; nothing to remove is fine.
    ///
    /// # Errors
    /// When removing fails.
    pub fn forget(&self, sha256: &str) -> Result<()> {
        let path = self.blob_path(sha256);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Moves a file of this cache's file system (see [`Store::work`]) into the cache, and answers with its hash and size.
    ///
    /// # Errors
    /// When reading or moving fails.
    pub fn put(&self, path: &Path) -> Result<(String, u64)> {
        let context = || format!("moving {} into the artifact cache", path.display());
        let file = File::open(path).with_context(context)?;
        let sha256 = hash::sha256_reader(&file).with_context(context)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o444)).with_context(context)?;
        file.sync_all().with_context(context)?;
        fs::rename(path, self.blob_path(&sha256)).with_context(context)?;
        self.replace(&self.checked_path(&sha256), stamp(&file)?.as_bytes())?;
        Ok((sha256, file.metadata()?.len()))
    }

    /// What the recipe with these inputs built, if it did and the cache still has it.
    ///
    /// # Errors
    /// When reading fails. A record that does not parse counts as none.
    pub fn built(&self, key: &str) -> Result<Option<Built>> {
        let Some(built) = self.record(key)? else {
            return Ok(None);
        };
        Ok(self.get(&built.sha256)?.map(|_| built))
    }

    /// What was recorded of the recipe with these inputs, whether its file is still there or not, and what it should be. Only
    /// looks, unlike [`Store::built`].
    ///
    /// # Errors
    /// When reading fails. A record that does not parse counts as none.
    pub fn record(&self, key: &str) -> Result<Option<Built>> {
        let path = self.record_path(key);
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Bytes of the file that should have this content; `None` when there is none. Only looks: it may be damaged.
    ///
    /// # Errors
    /// When it cannot be asked for.
    pub fn size(&self, sha256: &str) -> Result<Option<u64>> {
        let path = self.blob_path(sha256);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
        }
    }

    /// Moves what the recipe with these inputs built into the cache, and records it.
    ///
    /// # Errors
    /// When moving or writing fails.
    pub fn put_built(&self, key: &str, name: &str, file: &Path) -> Result<Built> {
        self.put_built_image(key, name, file, None)
    }

    /// [`Store::put_built`] of an image with this reference and digest.
    ///
    /// # Errors
    /// When moving or writing fails.
    pub fn put_built_image(
        &self,
        key: &str,
        name: &str,
        file: &Path,
        image: Option<(String, String)>,
    ) -> Result<Built> {
        let (sha256, size) = self.put(file)?;
        let (reference, digest) = image.unzip();
        let built = Built {
            name: name.to_owned(),
            sha256,
            size,
            built_at: jiff::Timestamp::now().to_string(),
            reference,
            digest,
        };
        self.replace(&self.record_path(key), &serde_json::to_vec_pretty(&built)?)?;
        Ok(built)
    }

    /// Waits until no other process works on `key`, saying who does.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self, key: &str, what: &str, progress: Progress<'_>) -> Result<Held> {
        let path = self.root.join("locks").join(key);
        let context = || format!("locking {}", path.display());
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).with_context(context)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                progress(&format!("{what}: waiting for {}", holder.trim()));
                file.lock().with_context(context)?;
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        }
        let holder = format!(
            "process {}, which works on it since {}",
            std::process::id(),
            jiff::Timestamp::now().strftime("%H:%M:%S UTC")
        );
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(holder.as_bytes())?;
        Ok(Held { _file: file })
    }

    /// Scratch space on the cache's file system, removed when dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn work(&self, name: &str) -> Result<TempDir> {
        tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(self.root.join("work"))
            .context("making scratch space in the artifact cache")
    }

    /// Where the output of building `name` goes.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// Where a download waits until it is complete.
    pub fn partial_path(&self, sha256: &str) -> PathBuf {
        self.root.join("partial").join(sha256)
    }

    fn checked_path(&self, sha256: &str) -> PathBuf {
        self.root.join("blobs/checked").join(sha256)
    }

    fn record_path(&self, key: &str) -> PathBuf {
        self.root.join("recipes").join(format!("{key}.json"))
    }

    fn replace(&self, path: &Path, content: &[u8]) -> Result<()> {
        let context = || format!("writing {}", path.display());
        let mut file = tempfile::NamedTempFile::new_in(self.root.join("work"))?;
        file.write_all(content).with_context(context)?;
        file.persist(path).with_context(context)?;
        Ok(())
    }
}

/// How old scratch space is before it counts as left behind by a killed run. No build takes so long.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 3600);

/// Removes scratch space that killed runs left behind. What cannot be removed (another user's) harms nothing.
fn sweep(work: &Path) {
    for entry in fs::read_dir(work).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > LEFT_BEHIND) {
            let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
        }
    }
}

/// Size and modification time, as kept in `blobs/checked`.
fn stamp(file: &File) -> Result<String> {
    let metadata = file.metadata()?;
    Ok(format!("{} {}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn store() -> (TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path()).unwrap();
        (dir, store)
    }

    fn put(store: &Store, content: &str) -> String {
        let work = store.work("test").unwrap();
        let file = work.path().join("file");
        fs::write(&file, content).unwrap();
        store.put(&file).unwrap().0
    }

    #[test]
    fn what_is_put_is_found_by_its_hash() {
        let (_dir, store) = store();
        let sha256 = put(&store, "abc");
        assert_eq!(sha256, hash::sha256("abc"));
        let mut text = String::new();
        let mut file = store.open_blob(&sha256).unwrap().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        assert!(store.verify(&sha256).unwrap());
        assert_eq!(store.get(&hash::sha256("other")).unwrap(), None);
    }

    #[test]
    fn a_touched_file_is_hashed_again_and_a_changed_one_is_dropped() {
        let (_dir, store) = store();
        let sha256 = put(&store, "abc");
        let path = store.blob_path(&sha256);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, "abc").unwrap();
        let mut text = String::new();
        let mut file = store.open_blob(&sha256).unwrap().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc", "the file must be handed out from its start");

        fs::write(&path, "evil").unwrap();
        assert!(!store.verify(&sha256).unwrap());
        assert_eq!(store.get(&sha256).unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn scratch_space_of_a_killed_run_goes_and_that_of_a_running_one_stays() {
        let (dir, store) = store();
        let old = dir.path().join("work/old");
        fs::create_dir(&old).unwrap();
        fs::write(old.join("file"), "x").unwrap();
        File::open(&old).unwrap().set_modified(std::time::SystemTime::now() - LEFT_BEHIND - LEFT_BEHIND).unwrap();
        let running = store.work("running").unwrap();
        Store::at(dir.path()).unwrap();
        assert!(!old.exists());
        assert!(running.path().exists());
    }

    #[test]
    fn a_hash_cannot_be_a_path() {
        let (_dir, store) = store();
        assert!(store.get("../../etc/passwd").is_err());
    }

    #[test]
    fn a_record_without_its_file_counts_as_none() {
        let (_dir, store) = store();
        let work = store.work("test").unwrap();
        fs::write(work.path().join("out"), "x").unwrap();
        let built = store.put_built("key", "thing", &work.path().join("out")).unwrap();
        assert_eq!(store.built("key").unwrap(), Some(built.clone()));
        fs::remove_file(store.blob_path(&built.sha256)).unwrap();
        assert_eq!(store.built("key").unwrap(), None);
    }

    #[test]
    fn the_second_waits_and_says_for_whom() {
        let (_dir, store) = store();
        let held = store.lock("key", "thing", &|_| {}).unwrap();
        let said = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let say = |line: &str| said.lock().unwrap().push(line.to_owned());
                store.lock("key", "thing", &say).map(drop)
            });
            while said.lock().unwrap().is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            assert!(!second.is_finished());
            drop(held);
            second.join().unwrap().unwrap();
        });
        let said = said.lock().unwrap();
        let start = format!("thing: waiting for process {}", std::process::id());
        assert!(said[0].starts_with(&start), "{said:?}");
    }
}
