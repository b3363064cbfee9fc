//! Where the baseline comes from: a file (a mounted ConfigMap), or the served version's own artifact in the registry.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::baseline::{Baseline, short};
use super::error::Error;
use super::options::{Options, given};
use super::service::Serving;
use crate::artifact::{self, BASELINE_FILE, PUBLISHED_FILE};
use crate::http;
use crate::registry::{Registry, Version};

/// When a file was written and how long it is: enough to see that a mounted ConfigMap was switched.
type Stamp = (SystemTime, u64);

/// The places, and what was read from them last.
#[derive(Debug)]
pub struct BaselineSource {
    path: Option<PathBuf>,
    read: Option<(Stamp, Baseline)>,
    registry: Option<(Registry, String, String)>,
    fetched: Option<(String, Baseline)>,
}

impl BaselineSource {
    /// # Errors
    /// Neither a file nor a registry is named.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let path = options.baseline.clone().filter(|p| !p.as_os_str().is_empty());
        let registry = match given(options.registry.as_ref()) {
            Some(uri) => {
                let client = http::unhurried().map_err(Error::Start)?;
                let registry = Registry::open(uri, client).map_err(|e| Error::Usage(e.to_string()))?;
                Some((registry.impatient(options.timeout), options.model_name.clone(), options.model_alias.clone()))
            }
            None => None,
        };
        if path.is_none() && registry.is_none() {
            let reason = "no baseline: set --baseline (BASELINE_PATH) or --registry (MLFLOW_TRACKING_URI)";
            return Err(Error::Usage(reason.to_owned()));
        }
        Ok(Self { path, read: None, registry, fetched: None })
    }

    /// The baseline of the served model if there is one, else the nearest to it: the file's, the production version's.
    ///
    /// # Errors
    /// When there is none that can be read.
    pub async fn of(&mut self, serving: Option<&Serving>, notes: &mut Vec<String>) -> Result<Baseline, Error> {
        let served = serving.and_then(|s| s.sha256.as_deref());
        let fits = |b: &Baseline| served.is_none_or(|sha256| sha256 == b.sha256);
        let file = self.file();
        let reason = match (&file, self.registry.is_some()) {
            (Some(Ok(baseline)), _) if fits(baseline) => return Ok(baseline.clone()),
            (Some(Ok(baseline)), true) => {
                format!("{} belongs to another model ({})", baseline.place, short(&baseline.sha256))
            }
            (Some(Err(error)), true) => error.to_string(),
            (Some(_), false) | (None, _) => String::new(),
        };
        let fetched = self.fetch(serving).await;
        match (file, fetched) {
            (_, Ok(Some(baseline))) if fits(&baseline) => {
                if !reason.is_empty() {
                    notes.push(format!("{reason}: the one in the registry is used"));
                }
                Ok(baseline)
            }
            (Some(Ok(baseline)), result) => {
                if let Err(error) = result {
                    notes.push(format!("{reason}, and the registry could not be asked: {error}"));
                }
                Ok(baseline)
            }
            (None, Ok(Some(baseline))) => Ok(baseline),
            (Some(Err(error)), _) | (None, Err(error)) => Err(error),
            (None, Ok(None)) => Err(Error::CouldNotLook(
                "the registry has no version of the model under this alias, and no --baseline is named".to_owned(),
            )),
        }
    }

    /// The file's baseline, read again where it changed.
    fn file(&mut self) -> Option<Result<Baseline, Error>> {
        let mut path = self.path.clone()?;
        if path.is_dir() {
            path.push(BASELINE_FILE);
        }
        // In a mounted ConfigMap that name has the earlier system's form.
        let published = path.with_file_name(PUBLISHED_FILE);
        if published.is_file() {
            path = published;
        }
        Some(self.read_again(&path))
    }

    fn read_again(&mut self, path: &Path) -> Result<Baseline, Error> {
        let io = |source| Error::Read { path: path.to_owned(), source };
        let meta = std::fs::metadata(path).map_err(io)?;
        let stamp = (meta.modified().map_err(io)?, meta.len());
        if let Some((_, baseline)) = self.read.as_ref().filter(|(known, _)| *known == stamp) {
            return Ok(baseline.clone());
        }
        let place = path.display().to_string();
        let baseline = read(path, place)?;
        self.read = Some((stamp, baseline.clone()));
        Ok(baseline)
    }

    /// From the registry: the served version, else the one under the alias. Downloaded once per version.
    async fn fetch(&mut self, serving: Option<&Serving>) -> Result<Option<Baseline>, Error> {
        let Some((registry, model, alias)) = &self.registry else { return Ok(None) };
        let fail = |reason: String| Error::Baseline { place: registry.shown(), reason };
        // What a service calls its version need not be a number of the registry's.
        let number = serving.map(|s| &s.version).filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
        let mut version: Option<Version> = None;
        if let Some(number) = number {
            version = registry.version(model, number).await.map_err(|e| fail(e.to_string()))?;
        }
        if version.is_none() {
            version = registry.alias(model, alias).await.map_err(|e| fail(e.to_string()))?;
        }
        let Some(version) = version else { return Ok(None) };
        if let Some((_, baseline)) = self.fetched.as_ref().filter(|(known, _)| *known == version.version) {
            return Ok(Some(baseline.clone()));
        }
        let dir = tempfile::tempdir().map_err(|e| fail(format!("no place for its artifact: {e}")))?;
        let artifact = dir.path().join("artifact");
        registry.download(&version, &artifact).await.map_err(|e| fail(e.to_string()))?;
        let place = format!("{} version {} in {}", version.model, version.version, registry.shown());
        let mut baseline = read(&artifact.join(BASELINE_FILE), place)?;
        baseline.version = Some(version.version.clone());
        self.fetched = Some((version.version, baseline.clone()));
        Ok(Some(baseline))
    }
}

fn read(path: &Path, place: String) -> Result<Baseline, Error> {
    match artifact::Baseline::read(path) {
        Ok(Some(stored)) => Baseline::new(place, &stored),
        Ok(None) => Err(Error::Baseline { place, reason: format!("there is no {BASELINE_FILE}: run rul baseline") }),
        // The path is in the error already.
        Err(error) => Err(Error::Baseline { place, reason: error.to_string() }),
    }
}
