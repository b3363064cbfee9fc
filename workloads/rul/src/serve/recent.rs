//! The last inputs and predictions, for the drift watch: a ring of fixed size.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Serialize, Serializer};

use super::origin::Origins;

/// One prediction. Of the window only the newest row is kept: the rows before it came with earlier
/// windows of the same engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Counts up from 1 without gaps; a reader continues with `since`.
    pub seq: u64,
    /// Seconds since 1970.
    pub at: f64,
    pub model_version: Arc<str>,
    /// Cycles.
    pub rul: f32,
    /// The window's last row, as it was sent.
    pub row: Box<[f32]>,
    /// Whose window it is, hashed; in decimal digits, for not every JSON reader has 64 bits.
    #[serde(serialize_with = "digits")]
    pub engine: Option<u64>,
    /// Cycle of the last row.
    pub cycle: Option<u32>,
}

fn digits<S: Serializer>(engine: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    engine.map(|engine| engine.to_string()).serialize(serializer)
}

/// What a reader gets.
#[derive(Debug, PartialEq, Serialize)]
pub struct Page {
    /// Give this as `since` to go on from here.
    pub next: u64,
    /// Entries after `since` that were overwritten before they were read.
    pub missed: u64,
    pub entries: Vec<Entry>,
}

#[derive(Debug)]
pub struct Recent {
    capacity: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    written: u64,
    entries: VecDeque<Entry>,
}

impl Recent {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, ring: Mutex::default() }
    }

    /// Keeps the newest row of every window.
    pub fn record(
        &self,
        at: f64,
        version: &Arc<str>,
        windows: &[f32],
        features: usize,
        cycles: &[f32],
        origins: &Origins,
    ) {
        if self.capacity == 0 || cycles.is_empty() || windows.len() < cycles.len() {
            return;
        }
        let size = windows.len() / cycles.len();
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, (window, rul)) in windows.chunks_exact(size).zip(cycles).enumerate() {
            ring.written += 1;
            if ring.entries.len() == self.capacity {
                ring.entries.pop_front();
            }
            let row = window.get(size.saturating_sub(features)..).unwrap_or_default();
            let entry = Entry {
                seq: ring.written,
                at,
                model_version: Arc::clone(version),
                rul: *rul,
                row: row.into(),
                engine: origins.engine(i),
                cycle: origins.cycle(i),
            };
            ring.entries.push_back(entry);
        }
    }

    /// At most `limit` entries after `since`, oldest first.
    pub fn after(&self, since: u64, limit: usize) -> Page {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // A reader that is ahead of us talks about an earlier life of this process: start over.
        let since = if since > ring.written { 0 } else { since };
        let first = ring.entries.front().map_or(ring.written + 1, |e| e.seq);
        let skip = (since + 1).saturating_sub(first) as usize;
        let entries: Vec<_> = ring.entries.iter().skip(skip).take(limit).cloned().collect();
        Page { next: entries.last().map_or(ring.written, |e| e.seq), missed: first.saturating_sub(since + 1), entries }
    }
}
