//! State of the service and the one way to change what it serves.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Semaphore;

use super::directory::{LoadError, fingerprint};
use super::follow::Follow;
use super::live::{Live, Loading};
use super::log;
use super::metrics::{Gauges, Metrics, Reload};
use super::recent::Recent;
use super::shadow::Shadow;
use crate::token::Token;

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
    pub token: Option<Token>,
    /// What the registry signs its deliveries with.
    pub webhook_secret: Option<String>,
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
    /// `None` where models come from a directory, or from nowhere.
    pub follow: Option<Follow>,
    /// `None` without an alias for a challenger.
    pub shadow: Option<Shadow>,
    live: RwLock<Option<Arc<Live>>>,
    draining: AtomicBool,
    /// Serialises looks at the model directory. The content that was refused, so that it is counted
    /// and logged once.
    refused: Mutex<Option<String>>,
    /// Why the newest model is not served.
    problem: Mutex<Option<String>>,
}

/// How a look at the model directory or the registry ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Checked {
    /// There is neither.
    NoSource,
    Unchanged,
    Loaded,
    /// Why what is there is not served.
    Failed(String),
}

impl Service {
    /// Loads the model where there is one on this machine; else the stub where that is allowed.
    pub fn new(settings: Settings, follow: Option<Follow>, shadow: Option<Shadow>) -> Self {
        let metrics = Metrics::new();
        let stub = settings.stub.map(|value| Arc::new(Live::stub(&settings.model_name, value, &metrics)));
        let service = Self {
            recent: settings.token.as_ref().map(|_| Recent::new(settings.recent)),
            permits: Semaphore::new(settings.concurrency),
            live: RwLock::new(stub),
            draining: AtomicBool::new(false),
            refused: Mutex::default(),
            problem: Mutex::default(),
            follow,
            shadow,
            metrics,
            settings,
        };
        match &service.follow {
            Some(follow) => follow.recall(&service),
            None => {
                service.check_directory();
            }
        }
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

    /// Why the newest model is not served.
    pub fn source_error(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks where models come from, and serves what is new there if it passes every check. `again`
    /// asks for another look at what was refused.
    pub async fn check(self: &Arc<Self>, again: bool) -> Checked {
        match &self.follow {
            Some(follow) => follow.check(self, again).await,
            None => {
                let checking = Arc::clone(self);
                let checked = tokio::task::spawn_blocking(move || checking.check_directory()).await;
                checked.unwrap_or_else(|_| Checked::Failed("the check itself failed; the old model stays".to_owned()))
            }
        }
    }

    /// What a load has in common with every other.
    pub fn loading<'a>(&'a self, dir: &'a Path) -> Loading<'a> {
        Loading {
            dir,
            name: &self.settings.model_name,
            require_golden: self.settings.require_golden,
            keep: self.live().filter(|live| !live.is_stub()).map(|live| live.shape),
            registered: None,
            shadow: false,
        }
    }

    /// Blocks: reads files and runs the model.
    fn check_directory(&self) -> Checked {
        let Some(dir) = &self.settings.model_dir else {
            return Checked::NoSource;
        };
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        self.metrics.checked();
        let content = match fingerprint(dir) {
            Ok(content) => content,
            Err(error) => {
                *refused = None;
                return self.not_loaded(&error, started);
            }
        };
        if self.live().is_some_and(|live| live.description.content_sha256.as_ref() == Some(&content)) {
            self.all_well();
            *refused = None;
            return Checked::Unchanged;
        }
        if refused.as_ref() == Some(&content) {
            return Checked::Failed(self.source_error().unwrap_or_default());
        }
        match Live::load(self.loading(dir), &self.metrics) {
            Ok(next) => {
                *refused = None;
                self.install(next, started, "directory");
                Checked::Loaded
            }
            Err(error) => {
                // Only content that stood still was judged; what was being written gets another turn.
                let stable = fingerprint(dir).is_ok_and(|now| now == content);
                *refused = stable.then_some(content);
                self.not_loaded(&error, started)
            }
        }
    }

    fn not_loaded(&self, error: &LoadError, started: Instant) -> Checked {
        let result = match error {
            LoadError::Refused(_) => Reload::Rejected,
            LoadError::Unreadable { .. } => Reload::Unreadable,
        };
        self.failed(error.to_string(), result, started)
    }

    /// From the next request on `next` answers.
    pub fn install(&self, next: Live, started: Instant, from: &str) {
        self.all_well();
        let description = next.description.clone();
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let was = live.replace(Arc::new(next));
        drop(live);
        self.metrics.reloaded(Reload::Ok, started.elapsed());
        log::info(
            "model_loaded",
            json!({
                "version": description.version,
                "sha256": description.sha256,
                "from": from,
                "golden_windows": description.golden_windows,
                "golden_difference": description.golden_difference,
                "was": was.map(|live| live.description.version.clone()),
                "seconds": started.elapsed().as_secs_f64(),
            }),
        );
    }

    /// What is served is what should be.
    pub fn all_well(&self) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Keeps what is served, and says why.
    pub fn failed(&self, reason: String, result: Reload, started: Instant) -> Checked {
        // The same failure every few seconds is one event, not a flood.
        if self.is_news(&reason) {
            self.metrics.reloaded(result, started.elapsed());
            let keeps = self.live().map(|live| live.description.version.clone());
            log::warn("model_not_loaded", json!({ "reason": reason, "still_serving": keeps }));
        }
        Checked::Failed(reason)
    }

    /// The registry answered, and has nothing to serve: no failure of a load.
    pub fn waiting(&self, reason: String) -> Checked {
        if self.is_news(&reason) {
            let keeps = self.live().map(|live| live.description.version.clone());
            log::info("no_version", json!({ "reason": reason, "still_serving": keeps }));
        }
        Checked::Failed(reason)
    }

    fn is_news(&self, reason: &str) -> bool {
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        let news = problem.as_deref() != Some(reason);
        *problem = Some(reason.to_owned());
        news
    }

    /// The text of `/metrics`.
    pub fn metrics_text(&self) -> String {
        let live = self.live();
        let description = live.as_deref().map(|live| &live.description);
        let challenger = self.shadow.as_ref().and_then(Shadow::live);
        self.metrics.text(&Gauges {
            stub: description.is_some_and(|d| d.is_stub),
            ready: self.ready(),
            limit: self.settings.concurrency,
            name: &self.settings.model_name,
            stage: &self.settings.model_stage,
            version: description.map_or("", |d| &d.version),
            sha256: description.and_then(|d| d.sha256.as_deref()).unwrap_or_default(),
            loaded_at: description.map_or(0.0, |d| d.loaded_unix),
            shadow: self.shadow.as_ref(),
            shadow_version: challenger.as_deref().map_or("", |live| &live.description.version),
        })
    }
}
