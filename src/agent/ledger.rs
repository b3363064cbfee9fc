//! The ledger: an append-only record on the host of every intent and result. Evidence, never truth.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::diff::Diff;
use crate::engine::{Failure, Outcome, Summary, up};
use crate::secrets::Redactor;

/// A line of the ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// RFC 3339, UTC.
    pub at: String,
    pub run: String,
    #[serde(flatten)]
    pub entry: Entry,
}

/// What a line says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    RunStarted { by: String, stages: Vec<String> },
    Intent { stage: String, resource: String, diff: Diff },
    Result { stage: String, resource: String, result: Outcome, seconds: f64, failure: Option<Failure> },
    Stage { stage: String, result: Outcome, changed: usize, seconds: f64 },
    RunEnded { summary: Summary },
}

/// The open ledger of one run. Every line is redacted and synced before the run goes on.
pub struct FileLedger {
    run: String,
    redactor: Redactor,
    file: Mutex<File>,
}

impl FileLedger {
    /// Opens (and makes, mode 0600) `ledger.jsonl` in `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(folder: &Path, run: &str, redactor: Redactor) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join("ledger.jsonl");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open the ledger {}", path.display()))?;
        Ok(Self { run: run.to_owned(), redactor, file: Mutex::new(file) })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// When it could not be written and synced.
    pub fn append(&self, entry: Entry) -> Result<()> {
        let at = jiff::Timestamp::now().to_string();
        let line = serde_json::to_string(&Record { at, run: self.run.clone(), entry })?;
        let line = self.redactor.redact(&line) + "\n";
        let mut file = self.file.lock().map_err(|_| anyhow::anyhow!("the ledger's lock is poisoned"))?;
        file.write_all(line.as_bytes()).and_then(|()| file.sync_data()).context("cannot write the ledger")
    }
}

impl up::Ledger for FileLedger {
    fn intent(&self, stage: &str, resource: &str, diff: &Diff) -> Result<()> {
        self.append(Entry::Intent { stage: stage.into(), resource: resource.into(), diff: diff.clone() })
    }

    fn result(
        &self,
        stage: &str,
        resource: &str,
        result: Outcome,
        seconds: f64,
        failure: Option<&Failure>,
    ) -> Result<()> {
        let (stage, resource) = (stage.into(), resource.into());
        self.append(Entry::Result { stage, resource, result, seconds, failure: failure.cloned() })
    }

    fn stage(&self, stage: &str, result: Outcome, changed: usize, seconds: f64) -> Result<()> {
        self.append(Entry::Stage { stage: stage.into(), result, changed, seconds })
    }
}

/// All records, oldest first; a torn last line (a crash while writing) is left out.
///
/// # Errors
/// When the file exists and cannot be read.
pub fn read(folder: &Path) -> Result<Vec<Record>> {
    let path = folder.join("ledger.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut records = Vec::new();
    for line in BufReader::new(file).lines() {
        if let Ok(record) = serde_json::from_str(&line?) {
            records.push(record);
        }
    }
    Ok(records)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::engine::up::Ledger;

    #[test]
    fn written_redacted_private_and_readable_after_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = FileLedger::open(folder.path(), "r1", Redactor::new(["hunter2-hunter2"])).unwrap();
        let mut diff = Diff::none();
        diff.push("content", "password hunter2-hunter2");
        ledger.intent("s", "file /a", &diff).unwrap();
        let path = folder.path().join("ledger.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("hunter2") && text.contains("•••"), "{text}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, text + "{\"at\":\"2026").unwrap();
        assert_eq!(read(folder.path()).unwrap().len(), 1);
    }
}
