//! "This unit runs with inputs of hash H" as state.
//!
//! When we start a unit, we record what its inputs were, together with systemd's InvocationID, which no later start
//! shares. The record is in /run, so it ends with the boot, as the invocation does. Looking later:
//!
//! - The invocation is the recorded one: the unit runs with the recorded inputs, whatever the files say by now.
//! - It is another (a crash that systemd mended, a restart by hand, a reboot, a run of ours that was cut before it could
//!   record): the unit has read what was there when it began to start. If no input has changed since, by its ctime, it runs
//!   with the present ones. Otherwise we cannot know, and it is restarted.
//!
//! ctime, not mtime: `mv`, `cp -p` and archives bring old mtimes along, but nobody can set a ctime back. The price is that a
//! chmod after a start that we did not make causes one restart too many.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::show::Shown;
use crate::host::{FileType, Owner, Query, ReadHost, WriteHost};

const RECORDS: &str = "/run/provision/units";
/// In place of the hash of a file that is not there, or of a directory.
const ABSENT: &str = "absent";
const DIRECTORY: &str = "directory";

/// How what a unit was started with relates to what is there now.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RunsWith {
    /// It does not run, or it runs with what is there.
    These,
    /// What changed, as paths.
    Others(Vec<String>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    invocation: String,
    inputs: Inputs,
}

/// By path.
pub(super) type Inputs = BTreeMap<String, Input>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Input {
    sha256: String,
    /// Its ctime as `stat` prints it; empty when it is not there. As long as this is the same, so is the hash.
    changed: String,
}

/// Looks at a unit's inputs.
///
/// # Errors
/// When a file cannot be read.
pub(super) async fn observe(host: &dyn ReadHost, name: &str, unit: &Shown, paths: Vec<PathBuf>) -> Result<RunsWith> {
    if !unit.started() {
        return Ok(RunsWith::These);
    }
    // A record that cannot be read is none.
    let record = host.read_text(&record_path(name))?;
    let record: Option<Record> = record.and_then(|text| serde_json::from_str(&text).ok());
    let record = record.filter(|record| record.invocation == unit.invocation);
    let known = record.map(|record| record.inputs).unwrap_or_default();
    let present = with_contents(host, &paths)?;
    let times = change_times(host, &present).await?;
    let mut others = Vec::new();
    for path in &present {
        let name = path.to_string_lossy().into_owned();
        let changed = times.get(&name).map_or("", String::as_str);
        let differs = match known.get(&name) {
            // Large files need not be read again.
            Some(known) if known.changed == changed && !changed.is_empty() => false,
            Some(known) => known.sha256 != hash(host, path)?,
            // What is not there has no time; that it was removed after the start cannot be seen.
            None => !changed.is_empty() && !is_older(changed, unit.started),
        };
        if differs {
            others.push(name);
        }
    }
    // What the spec no longer names does not count; what was in a directory that it names does.
    let was_in = |dir: &PathBuf, path: &str| Path::new(path).parent() == Some(dir) && !present.contains(&path.into());
    others.extend(known.keys().filter(|path| paths.iter().any(|dir| was_in(dir, path))).cloned());
    others.sort_unstable();
    Ok(match others.is_empty() {
        true => RunsWith::These,
        false => RunsWith::Others(others),
    })
}

/// The inputs as they are.
///
/// # Errors
/// When a file cannot be read.
pub(super) async fn now(host: &dyn ReadHost, paths: &[PathBuf]) -> Result<Inputs> {
    let paths = with_contents(host, paths)?;
    let times = change_times(host, &paths).await?;
    let input = |path: &PathBuf| {
        let name = path.to_string_lossy().into_owned();
        let changed = times.get(&name).cloned().unwrap_or_default();
        Ok((name, Input { sha256: hash(host, path)?, changed }))
    };
    paths.iter().map(input).collect()
}

fn hash(host: &dyn ReadHost, path: &Path) -> Result<String> {
    if is_directory(host, path)? {
        return Ok(DIRECTORY.to_owned());
    }
    Ok(host.sha256(path)?.unwrap_or_else(|| ABSENT.to_owned()))
}

/// Remembers what a unit that was just started runs with.
///
/// # Errors
/// When the record cannot be written.
pub(super) fn record(host: &dyn WriteHost, name: &str, unit: &Shown, inputs: Inputs) -> Result<()> {
    let record = Record { invocation: unit.invocation.clone(), inputs };
    let text = serde_json::to_vec_pretty(&record)?;
    host.create_dirs(Path::new(RECORDS), 0o700)?;
    host.write_file(&record_path(name), &text, 0o600, Owner::ROOT)
}

fn record_path(name: &str) -> PathBuf {
    Path::new(RECORDS).join(format!("{name}.inputs"))
}

/// A directory stands for itself and the files in it.
fn with_contents(host: &dyn ReadHost, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if is_directory(host, path)? {
            let names = host.list_dir(path)?;
            all.extend(names.into_iter().map(|name| path.join(name)));
        }
        all.push(path.clone());
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn is_directory(host: &dyn ReadHost, path: &Path) -> Result<bool> {
    let stat = host.stat(path)?;
    Ok(stat.is_some_and(|stat| stat.file_type == FileType::Directory))
}

/// ctime by path, of those that are there.
async fn change_times(host: &dyn ReadHost, paths: &[PathBuf]) -> Result<BTreeMap<String, String>> {
    if paths.is_empty() {
        return Ok(BTreeMap::new());
    }
    let paths: Vec<_> = paths.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    // Status 1 only says that some are not there.
    let answer = host.query(&Query::change_times(&paths)).await?;
    let line = |line: &str| -> Result<(String, String)> {
        let (time, path) = line.split_once(' ').with_context(|| format!("stat printed a strange line: {line:?}"))?;
        Ok((path.to_owned(), time.to_owned()))
    };
    answer.stdout.lines().map(line).collect()
}

/// Whether a ctime (`1795625277.561186010`) is before a unit began to start.
fn is_older(changed: &str, started: Option<Timestamp>) -> bool {
    let parsed = || -> Option<Timestamp> {
        let (seconds, nanoseconds) = changed.split_once('.')?;
        Timestamp::new(seconds.parse().ok()?, nanoseconds.parse().ok()?).ok()
    };
    match (parsed(), started) {
        (Some(changed), Some(started)) => changed <= started,
        _ => false,
    }
}
