//! State of the service and the one way to change what it serves.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Semaphore;

use super::directory::{LoadError, fingerprint};
use super::live::Live;
use super::log;
use super::metrics::{Gauges, Metrics, Reload};
use super::recent::Recent;

/// What the options come down to.
#[derive(Debug, Clone)]
pub struct Settings {
    pub model_name: String,
    pub model_stage: String,
    pub mlflow_tracking_uri: Option<String>,
    pub model_dir: Option<PathBuf>,
    pub require_golden: bool,
    /// Cycles; `None` when there must be a model.
    pub stub: Option<f32>,
    pub body_limit: usize,
    pub batch_body_limit: usize,
    pub max_batch: usize,
    pub concurrency: usize,
    pub request_timeout: Duration,
    pub recent: usize,
    pub token: Option<String>,
}

/// Shared by all requests.
#[derive(Debug)]
pub struct Service {
    pub settings: Settings,
    pub metrics: Metrics,
    /// `None` without a token: then nobody may read it.
    pub recent: Option<Recent>,
    /// Units of concurrency.
    pub permits: Semaphore,
    live: RwLock<Option<Arc<Live>>>,
    draining: AtomicBool,
    /// Serialises reloads.
    source: Mutex<Source>,
}

/// What is known about the model directory.
#[derive(Debug, Default)]
struct Source {
    /// Content that was refused, so that it is counted and logged once.
    refused: Option<String>,
    error: Option<String>,
}

/// How a look at the model directory ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Checked {
    /// No directory is configured.
    NoSource,
    Unchanged,
    Loaded,
    /// Why what is there is not served.
    Failed(String),
}

impl Service {
    /// Loads the model where there is one; else the stub where that is allowed.
    pub fn new(settings: Settings) -> Self {
        let metrics = Metrics::new();
        let stub = settings.stub.map(|value| Arc::new(Live::stub(&settings.model_name, value, &metrics)));
        let service = Self {
            recent: settings.token.as_ref().map(|_| Recent::new(settings.recent)),
            permits: Semaphore::new(settings.concurrency),
            live: RwLock::new(stub),
            draining: AtomicBool::new(false),
            source: Mutex::default(),
            metrics,
            settings,
        };
        service.check_source();
        service
    }

    /// What answers now.
    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn ready(&self) -> bool {
        !self.draining() && self.live().is_some()
    }

    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// From here on the service is not ready; it still answers.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Why the newest content of the model directory is not served.
    pub fn source_error(&self) -> Option<String> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).error.clone()
    }

    /// Looks at the model directory and serves what is new there, if it passes every check. Blocks:
    /// reads files and runs the model.
    pub fn check_source(&self) -> Checked {
        let Some(dir) = &self.settings.model_dir else {
            return Checked::NoSource;
        };
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        self.metrics.checked();
        let current = self.live();
        let content = match fingerprint(dir) {
            Ok(content) => content,
            Err(error) => return self.failed(&mut source, None, &error, started),
        };
        if current.as_ref().is_some_and(|live| live.description.content_sha256.as_ref() == Some(&content)) {
            source.error = None;
            source.refused = None;
            return Checked::Unchanged;
        }
        if source.refused.as_ref() == Some(&content) {
            return Checked::Failed(source.error.clone().unwrap_or_default());
        }
        let keep = current.as_ref().filter(|live| !live.is_stub()).map(|live| live.shape);
        let loaded = Live::load(dir, &self.settings.model_name, self.settings.require_golden, keep, &self.metrics);
        match loaded {
            Ok(next) => {
                source.error = None;
                source.refused = None;
                let description = next.description.clone();
                *self.live.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(next));
                self.metrics.reloaded(Reload::Ok, started.elapsed());
                log::info(
                    "model_loaded",
                    json!({
                        "version": description.version,
                        "sha256": description.sha256,
                        "golden_windows": description.golden_windows,
                        "golden_difference": description.golden_difference,
                        "was": current.map(|live| live.description.version.clone()),
                        "seconds": started.elapsed().as_secs_f64(),
                    }),
                );
                Checked::Loaded
            }
            Err(error) => {
                // Only content that stood still was judged; what was being written gets another turn.
                let stable = fingerprint(dir).is_ok_and(|now| now == content);
                self.failed(&mut source, stable.then_some(content), &error, started)
            }
        }
    }

    fn failed(&self, source: &mut Source, content: Option<String>, error: &LoadError, started: Instant) -> Checked {
        let result = match error {
            LoadError::Refused(_) => Reload::Rejected,
            LoadError::Unreadable { .. } => Reload::Unreadable,
        };
        let reason = error.to_string();
        // The same failure every few seconds is one event, not a flood.
        if source.error.as_ref() != Some(&reason) {
            self.metrics.reloaded(result, started.elapsed());
            let keeps = self.live().map(|live| live.description.version.clone());
            log::warn("model_not_loaded", json!({ "reason": reason, "still_serving": keeps }));
        }
        source.refused = content;
        source.error = Some(reason.clone());
        Checked::Failed(reason)
    }

    /// The text of `/metrics`.
    pub fn metrics_text(&self) -> String {
        let live = self.live();
        let description = live.as_deref().map(|live| &live.description);
        self.metrics.text(&Gauges {
            stub: description.is_some_and(|d| d.is_stub),
            ready: self.ready(),
            limit: self.settings.concurrency,
            name: &self.settings.model_name,
            stage: &self.settings.model_stage,
            version: description.map_or("", |d| &d.version),
            sha256: description.and_then(|d| d.sha256.as_deref()).unwrap_or_default(),
            loaded_at: description.map_or(0.0, |d| d.loaded_unix),
        })
    }
}
