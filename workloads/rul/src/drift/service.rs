//! What the prediction service tells: which model it serves, and what it saw lately.

use std::collections::VecDeque;

use reqwest::Client;
use serde::{Deserialize, Serialize};

use super::ask::Peer;
use super::error::Error;
use super::exposition::{self, Sample};
use crate::token::Token;

/// Entries asked for at once; what the service gives at most.
const PAGE: usize = 10_000;
/// Entries kept of one service. Twenty a second for an hour are 72,000.
const KEEP: usize = 100_000;

/// `GET /v1/model`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Serving {
    pub name: String,
    pub version: String,
    pub is_stub: bool,
    #[serde(default)]
    pub sha256: Option<String>,
}

/// One prediction of `GET /v1/recent`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Entry {
    pub seq: u64,
    /// Seconds since 1970.
    pub at: f64,
    pub model_version: String,
    /// Cycles; `null` where the model gave no number.
    pub rul: Option<f64>,
    /// The window's last row, raw.
    pub row: Vec<f64>,
    /// A stable 64-bit number in decimal digits.
    #[serde(default)]
    pub engine: Option<String>,
    #[serde(default)]
    pub cycle: Option<u32>,
    /// Which run of the service it comes from, counted by the reader.
    #[serde(skip)]
    pub life: u32,
}

#[derive(Debug, Deserialize)]
struct Page {
    next: u64,
    missed: u64,
    entries: Vec<Entry>,
}

/// Whether the ring of recent predictions could be read.
#[derive(Debug, Clone, PartialEq)]
pub enum Ring {
    Read,
    /// Why not; the histogram is all there is.
    Closed(String),
}

/// One service, and what was read from it so far.
#[derive(Debug)]
pub struct Service {
    peer: Peer,
    token: Option<Token>,
    entries: VecDeque<Entry>,
    /// Entries that the service overwrote before they were read.
    pub missed: u64,
    life: u32,
}

impl Service {
    pub fn new(address: &str, token: Option<Token>, client: &Client) -> Self {
        let peer = Peer::new("the prediction service", address, client);
        Self { peer, token, entries: VecDeque::new(), missed: 0, life: 0 }
    }

    pub fn address(&self) -> String {
        self.peer.shown()
    }

    /// What is served; `None` where there is neither a model nor a stub.
    ///
    /// # Errors
    /// When the service does not answer as it should.
    pub async fn serving(&self) -> Result<Option<Serving>, Error> {
        let (status, body) = self.peer.send(self.peer.get("/v1/model")).await?;
        match status {
            200 => self.peer.json("/v1/model", &body).map(Some),
            503 => Ok(None),
            _ => Err(self.peer.refused(status, &body)),
        }
    }

    /// Reads what is new in the ring and forgets what is older than `oldest` (seconds since 1970).
    ///
    /// # Errors
    /// When the service does not answer as it should. A ring that is switched off or behind another token is no error.
    pub async fn follow(&mut self, oldest: f64) -> Result<Ring, Error> {
        // Ask for the last known entry again: if it is not the same, the service was started anew.
        let mut since = self.entries.back().map_or(0, |e| e.seq.saturating_sub(1));
        let mut checked = self.entries.is_empty();
        loop {
            let path = format!("/v1/recent?since={since}&limit={PAGE}");
            let mut request = self.peer.get(&path);
            if let Some(token) = &self.token {
                request = request.bearer_auth(token.value());
            }
            let (status, body) = self.peer.send(request).await?;
            let page: Page = match status {
                200 => self.peer.json("/v1/recent", &body)?,
                401 if self.token.is_none() => return Ok(closed("it wants a token: set RUL_TOKEN or --token-file")),
                401 => return Ok(closed("it refused the token: RUL_TOKEN must be the service's own")),
                403 => return Ok(closed("it is switched off: start the service with RUL_TOKEN")),
                404 => return Ok(closed("it is not kept: start the service with RUL_RECENT above 0")),
                _ => return Err(self.peer.refused(status, &body)),
            };
            let mut entries = page.entries.into_iter().peekable();
            if !checked {
                checked = true;
                let known = self.entries.back().map(|e| (e.seq, e.at));
                let same = entries.peek().map(|e| (e.seq, e.at)) == known;
                if same {
                    entries.next();
                } else if page.missed == 0 {
                    // Another life of the service; entries of the former one stay true.
                    since = 0;
                    self.life += 1;
                    continue;
                } else {
                    self.missed = self.missed.saturating_add(page.missed - 1);
                }
            } else if since == 0 {
                self.missed = self.missed.saturating_add(page.missed);
            }
            let before = since;
            let life = self.life;
            self.entries.extend(entries.map(|entry| Entry { life, ..entry }));
            since = page.next;
            // A full page has more behind it.
            if since <= before || since - before < PAGE as u64 {
                break;
            }
        }
        while self.entries.len() > KEEP || self.entries.front().is_some_and(|e| e.at < oldest) {
            self.entries.pop_front();
        }
        Ok(Ring::Read)
    }

    /// Oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Those of the service's present run.
    pub fn present(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|e| e.life == self.life)
    }

    /// The service's counters of one name.
    ///
    /// # Errors
    /// When `/metrics` does not answer as it should.
    pub async fn metrics(&self, name: &str) -> Result<Vec<Sample>, Error> {
        let body = self.peer.expect(self.peer.get("/metrics")).await?;
        let text = String::from_utf8_lossy(&body);
        exposition::samples(&text, name).map_err(|e| self.peer.answer(format!("/metrics: {e}")))
    }
}

fn closed(reason: &str) -> Ring {
    Ring::Closed(format!("GET /v1/recent: {reason}"))
}
