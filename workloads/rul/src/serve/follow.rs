//! Following an alias of the registry: looking, downloading, checking, swapping.
//!
//! Every replica looks for itself, for a delivery from the registry reaches only one of them and
//! may be lost; a delivery only makes the next look come at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Mutex, Notify};

use super::cache::{Cache, Current};
use super::directory::LoadError;
use super::live::{Live, Loading, Registered};
use super::log;
use super::metrics::Reload;
use super::service::{Checked, Service};
use crate::registry::{Registry, Version};

/// How long one call to the registry may take; the next look is never far.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to follow.
#[derive(Debug)]
pub struct Follow {
    registry: Registry,
    pub alias: String,
    pub shadow_alias: Option<String>,
    cache: Cache,
    /// One look at a time.
    turn: Mutex<Refused>,
    /// Somebody says that there is something new.
    pub wake: Notify,
}

/// Versions that failed a check, so that they are not downloaded again and again.
#[derive(Debug, Default)]
struct Refused {
    live: Option<String>,
    shadow: Option<String>,
}

/// Why there is nothing to load.
enum Trouble {
    /// Worth another look.
    Passing(String),
    /// The version is no good.
    Lasting(String),
}

impl Follow {
    pub fn new(
        registry: Registry,
        alias: String,
        shadow_alias: Option<String>,
        cache_dir: PathBuf,
        model: &str,
    ) -> Self {
        Self {
            registry: registry.impatient(PATIENCE),
            alias,
            shadow_alias,
            cache: Cache::new(&cache_dir, model),
            turn: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Loads what was served last, so that a restart needs no registry. Blocks.
    pub fn recall(&self, service: &Service) {
        let Some(current) = self.cache.current() else { return };
        let started = Instant::now();
        let dir = self.cache.path(&current.folder);
        let loading = Loading { registered: Some(&current.registered), ..service.loading(&dir) };
        match Live::load(loading, &service.metrics) {
            Ok(live) => service.install(live.cached_as(&current.folder), started, "cache"),
            // The registry has it, too.
            Err(error) => log::warn("cache_not_used", json!({ "reason": error.to_string() })),
        }
    }

    /// Looks at the registry once. `again` also takes another look at a version that was refused.
    pub async fn check(&self, service: &Arc<Service>, again: bool) -> Checked {
        let mut refused = self.turn.lock().await;
        if again {
            *refused = Refused::default();
        }
        let checked = self.check_live(service, &mut refused.live).await;
        if let Some(alias) = &self.shadow_alias {
            self.check_shadow(service, alias, &mut refused.shadow).await;
        }
        checked
    }

    async fn check_live(&self, service: &Arc<Service>, refused: &mut Option<String>) -> Checked {
        let started = Instant::now();
        let model = &service.settings.model_name;
        let version = match self.registry.alias(model, &self.alias).await {
            Ok(Some(version)) => version,
            Ok(None) => {
                service.metrics.checked();
                let place = self.registry.shown();
                return service.waiting(format!("the model {model:?} has no alias {:?} in {place}", self.alias));
            }
            Err(error) => return service.failed(error.to_string(), Reload::Unreadable, started),
        };
        service.metrics.checked();
        let folder = Cache::folder(&self.registry.shown(), &version);
        let current = service.live();
        if current.as_ref().and_then(|live| live.folder.as_ref()) == Some(&folder) {
            service.all_well();
            return Checked::Unchanged;
        }
        if refused.as_ref() == Some(&folder) {
            return Checked::Failed(service.source_error().unwrap_or_default());
        }
        match self.load(service, &version, &folder, false).await {
            Ok(live) => {
                let registered = self.registered(&version);
                *refused = None;
                service.install(live, started, "registry");
                if let Err(error) = self.cache.set_current(&Current { folder, registered }) {
                    // It is served; only a restart without registry would not find it.
                    log::warn("cache_not_written", json!({ "reason": error.to_string() }));
                }
                Checked::Loaded
            }
            Err(Trouble::Passing(reason)) => service.failed(reason, Reload::Unreadable, started),
            Err(Trouble::Lasting(reason)) => {
                *refused = Some(folder);
                service.failed(format!("version {}: {reason}", version.version), Reload::Rejected, started)
            }
        }
    }

    async fn check_shadow(&self, service: &Arc<Service>, alias: &str, refused: &mut Option<String>) {
        let Some(shadow) = &service.shadow else { return };
        let model = &service.settings.model_name;
        let found = match self.registry.alias(model, alias).await {
            Ok(found) => found,
            // The challenger that is loaded goes on.
            Err(_) => return,
        };
        let served = service.live().and_then(|live| live.folder.clone());
        let next = found.map(|version| (Cache::folder(&self.registry.shown(), &version), version));
        let Some((folder, version)) = next.filter(|(folder, _)| Some(folder) != served.as_ref()) else {
            if shadow.live().is_some() {
                shadow.set(None);
                log::info("shadow_ended", json!({ "alias": alias }));
            }
            return;
        };
        if shadow.live().and_then(|live| live.folder.clone()).as_ref() == Some(&folder)
            || refused.as_ref() == Some(&folder)
        {
            return;
        }
        match self.load(service, &version, &folder, true).await {
            Ok(live) => {
                log::info("shadow_loaded", json!({ "version": live.description.version, "alias": alias }));
                *refused = None;
                shadow.set(Some(Arc::new(live)));
            }
            Err(Trouble::Passing(_)) => {}
            Err(Trouble::Lasting(reason)) => {
                log::warn("shadow_not_loaded", json!({ "version": version.version, "reason": reason }));
                *refused = Some(folder);
            }
        }
    }

    fn registered(&self, version: &Version) -> Registered {
        Registered {
            registry: self.registry.shown(),
            version: version.version.clone(),
            source: version.source.clone(),
            run_id: version.run_id.clone(),
        }
    }

    /// From the cache, else from the registry; every check before it is given out.
    async fn load(
        &self,
        service: &Arc<Service>,
        version: &Version,
        folder: &str,
        shadow: bool,
    ) -> Result<Live, Trouble> {
        let cached = self.cache.path(folder).exists();
        if !cached {
            self.fetch(version, folder).await?;
        }
        match self.open(service, version, folder, shadow).await {
            Err(_) if cached => {
                // Perhaps only the copy is damaged.
                self.cache.forget(folder).map_err(|e| Trouble::Passing(self.cache_trouble(folder, &e)))?;
                self.fetch(version, folder).await?;
                self.open(service, version, folder, shadow).await
            }
            done => done,
        }
    }

    async fn fetch(&self, version: &Version, folder: &str) -> Result<(), Trouble> {
        use crate::registry::Error;
        self.registry.download(version, &self.cache.path(folder)).await.map_err(|error| match error {
            Error::File { .. } => Trouble::Passing(format!(
                "{error}; --cache-dir (RUL_CACHE_DIR) must be a directory that can be written"
            )),
            Error::Artifact { .. } => Trouble::Lasting(error.to_string()),
            other => Trouble::Passing(other.to_string()),
        })
    }

    fn cache_trouble(&self, folder: &str, error: &std::io::Error) -> String {
        format!("{}: {error}", self.cache.path(folder).display())
    }

    async fn open(
        &self,
        service: &Arc<Service>,
        version: &Version,
        folder: &str,
        shadow: bool,
    ) -> Result<Live, Trouble> {
        let (service, registered) = (Arc::clone(service), self.registered(version));
        let (dir, folder) = (self.cache.path(folder), folder.to_owned());
        // Reads files and runs the model: not on a thread that answers.
        let loaded = tokio::task::spawn_blocking(move || {
            let loading = Loading { registered: Some(&registered), shadow, ..service.loading(&dir) };
            Live::load(loading, &service.metrics).map(|live| live.cached_as(&folder))
        });
        match loaded.await {
            Ok(Ok(live)) => Ok(live),
            Ok(Err(LoadError::Refused(reason))) => Err(Trouble::Lasting(reason)),
            Ok(Err(error @ LoadError::Unreadable { .. })) => Err(Trouble::Lasting(error.to_string())),
            Err(_) => Err(Trouble::Lasting("the check itself failed".to_owned())),
        }
    }
}
