//! What one look remembers for the next: the rows of bad and clean windows, and the alert that was raised.
//!
//! Kept in a file where one is named. A file that cannot be read is said aloud, never replaced in silence: without memory a drift
//! that needs two windows is never found by a job that looks once.

use std::io::Write;
use std::path::{Path, PathBuf};

use drift_stats::decision::{CauseMemory, Memory};
use serde::{Deserialize, Serialize};

use super::error::Error;

const SCHEMA: u32 = 1;

/// The file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    schema: u32,
    model_version: String,
    regime: Row,
    sensors: Row,
    prediction: Row,
    /// The alert that is firing.
    pub alert: Option<Raised>,
    /// When the last look succeeded, seconds since 1970.
    pub last_success: Option<u64>,
}

/// Mirror of [`CauseMemory`].
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Row {
    hits: u32,
    clean: u32,
    counted_at: Option<u64>,
    active: bool,
    paged_at: Option<u64>,
}

/// An alert that was sent and not yet taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    pub baseline_version: String,
    /// Name of the cause.
    pub cause: String,
    /// RFC 3339.
    pub starts_at: String,
}

impl From<CauseMemory> for Row {
    fn from(m: CauseMemory) -> Self {
        let CauseMemory { hits, clean, counted_at, active, paged_at } = m;
        Self { hits, clean, counted_at, active, paged_at }
    }
}

impl From<Row> for CauseMemory {
    fn from(r: Row) -> Self {
        let Row { hits, clean, counted_at, active, paged_at } = r;
        Self { hits, clean, counted_at, active, paged_at }
    }
}

impl Remembered {
    pub fn memory(&self) -> Memory {
        let causes = [self.regime, self.sensors, self.prediction].map(CauseMemory::from);
        Memory { model_version: self.model_version.clone(), causes }
    }

    pub fn remember(&mut self, memory: &Memory) {
        self.model_version.clone_from(&memory.model_version);
        [self.regime, self.sensors, self.prediction] = memory.causes.map(Row::from);
    }
}

/// Where it is kept.
#[derive(Debug)]
pub struct Store {
    path: Option<PathBuf>,
    /// Why the next look may know less than it should; shown and exported.
    pub lost: Option<String>,
    pub now: Remembered,
}

impl Store {
    /// Reads the file. One that is not there yet is a beginning; one that is damaged is a loss.
    pub fn open(path: Option<&Path>) -> Self {
        let fresh = Remembered { schema: SCHEMA, ..Remembered::default() };
        let Some(path) = path else {
            return Self { path: None, lost: None, now: fresh };
        };
        let (now, lost) = match std::fs::read(path) {
            Ok(bytes) => match read(&bytes) {
                Ok(found) => (found, None),
                Err(reason) => (fresh, Some(format!("{}: {reason}; it is begun anew", path.display()))),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => (fresh, None),
            Err(e) => (fresh, Some(format!("{}: {e}; it is begun anew", path.display()))),
        };
        Self { path: Some(path.to_owned()), lost, now }
    }

    pub fn kept(&self) -> bool {
        self.path.is_some()
    }

    /// Writes the file so that a crash leaves the old or the new one.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn save(&self) -> Result<(), Error> {
        let Some(path) = &self.path else { return Ok(()) };
        let fail = |reason: String| Error::Memory { path: path.clone(), reason };
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let text = serde_json::to_vec_pretty(&self.now).map_err(|e| fail(e.to_string()))?;
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(|e| fail(e.to_string()))?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(|e| fail(e.to_string()))?;
        file.persist(path).map_err(|e| fail(e.to_string()))?;
        Ok(())
    }
}

fn read(bytes: &[u8]) -> Result<Remembered, String> {
    let found: Remembered = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if found.schema != SCHEMA {
        return Err(format!("schema {}, this program knows {SCHEMA}", found.schema));
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_a_damaged_file_is_a_loss() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.json");
        let mut store = Store::open(Some(&path));
        assert!(store.kept() && store.lost.is_none());
        let mut memory = store.now.memory();
        memory.model_version = "7".to_owned();
        memory.causes[1] = CauseMemory { hits: 1, counted_at: Some(99), ..CauseMemory::default() };
        store.now.remember(&memory);
        store.now.alert = Some(Raised { baseline_version: "7".into(), cause: "regime".into(), starts_at: "x".into() });
        store.save().unwrap();
        let again = Store::open(Some(&path));
        assert_eq!((again.now.memory(), &again.now), (memory, &store.now));
        for damage in ["", "{}", "[1]", "{\"schema\":2}"] {
            std::fs::write(&path, damage).unwrap();
            let lost = Store::open(Some(&path));
            assert!(lost.lost.as_ref().is_some_and(|l| l.contains("memory.json")), "{damage}");
            assert_eq!(lost.now.memory(), Memory::default());
        }
        let nowhere = Store::open(Some(&dir.path().join("no/such/place.json")));
        assert!(nowhere.save().unwrap_err().to_string().contains("place.json"));
    }
}
