//! `rul baseline`: publishes the baseline of the version that is served, for drift jobs: a ConfigMap, or a file.
//!
//! | key of the ConfigMap | what |
//! |---|---|
//! | `baseline.json` | the earlier system's form: 13 edges, 12 counts, the statistics |
//! | `rul-baseline.json` | ours, as in the artifact; `rul drift` takes it from a mounted directory |
//!
//! In a cluster it needs get, create and update on ConfigMaps of its namespace.
//!
//! What is published comes from the version's own artifact, or is computed from `--data` where it has none. When the same is
//! there already (version, data, edges and counts; not the time), nothing is written.

mod cluster;
mod publish;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::FalseyValueParser;
use cmapss::FeatureSet;
use jiff::Timestamp;
use serde::Serialize;

use crate::artifact::{self, Artifact, Baseline, BaselineModel, Origin, fit_baseline};
use crate::data::{self, Data, Source};
use crate::registry::{PRODUCTION, Registry, Version};
use publish::{Documents, Place};

/// The program, as it signs what it computes.
const GENERATOR: &str = concat!("rul-baseline/", env!("CARGO_PKG_VERSION"));

/// Options of `rul baseline`. Every one is also an environment variable.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The registry: http://mlflow:5000, or file:///a/directory.
    #[arg(long, env = "MLFLOW_TRACKING_URI", hide_env_values = true)]
    pub registry: String,
    /// Registered model.
    #[arg(long, visible_alias = "model", env = "MODEL_NAME", default_value = "cmapss-rul")]
    pub model_name: String,
    /// Alias of what is served.
    #[arg(long, env = "MODEL_ALIAS", default_value = PRODUCTION)]
    pub alias: String,
    /// Namespace of the ConfigMap, in the cluster that this runs in, else the one of KUBECONFIG.
    #[arg(long, env = "CONFIGMAP_NAMESPACE", default_value = "monitoring")]
    pub namespace: String,
    /// Name of the ConfigMap.
    #[arg(long, env = "CONFIGMAP_NAME", default_value = "evidently-baseline")]
    pub configmap: String,
    /// Write a file instead: the ConfigMap's manifest when it ends in .yml or .yaml, else baseline.json itself.
    #[arg(long, env = "RUL_BASELINE_OUT")]
    pub out: Option<PathBuf>,
    /// Training data to compute a baseline from where the version has none: a directory, or s3://bucket/prefix.
    #[arg(long, env = "RUL_DATA", value_name = "DIR|s3://BUCKET/PREFIX")]
    pub data: Option<String>,
    /// Data sets that the version was trained on. Without it those that its metrics.json names, else FD001.
    #[arg(long, env = "RUL_DATASET")]
    pub dataset: Option<String>,
    /// One line of JSON on stdout instead of a sentence.
    #[arg(long, env = "RUL_JSON", action = clap::ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub json: bool,
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
    #[error("version {version}: {source}")]
    Artifact { version: String, source: artifact::Error },
    #[error("version {version}: {reason}")]
    Unusable { version: String, reason: String },
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error("{place}: {reason}")]
    Publish { place: String, reason: String },
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

impl Error {
    /// 3 when the version that is asked for does not exist, as `rul promote` has it.
    fn code(&self) -> ExitCode {
        match self {
            Self::Missing(_) => ExitCode::from(3),
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    model_name: String,
    model_version: String,
    model_sha256: String,
    data_sha256: String,
    /// `artifact` or `data`.
    from: &'static str,
    place: String,
    /// `written` or `unchanged`.
    result: &'static str,
}

/// Publishes, unless the same is there. Exit status 0 both times; 3 without a version under the alias.
///
/// # Errors
/// A closed stdout. Everything else is told on stderr and is the exit status.
pub fn run(options: &Options) -> Result<ExitCode, Error> {
    let start = |source| Error::Io { what: "cannot start", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(start)?;
    match runtime.block_on(baseline(options)) {
        Ok(report) => {
            let line = if options.json { serde_json::json!(report).to_string() } else { report.sentence() };
            let write = |source| Error::Io { what: "cannot write the result to stdout", source };
            writeln!(std::io::stdout(), "{line}").map_err(write)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            Ok(error.code())
        }
    }
}

async fn baseline(options: &Options) -> Result<Report, Error> {
    let http = crate::http::unhurried().map_err(Error::Usage)?;
    let registry = Registry::open(&options.registry, http)?;
    let version = registry.alias(&options.model_name, &options.alias).await?.ok_or_else(|| {
        Error::Missing(format!(
            "no version of {:?} has the alias {:?} in {}: rul promote gives it to one",
            options.model_name,
            options.alias,
            registry.shown()
        ))
    })?;
    let (baseline, from) = of_version(options, &registry, &version).await?;
    let documents = Documents::new(&baseline, &options.model_name, &options.alias)
        .map_err(|reason| Error::Unusable { version: version.version.clone(), reason })?;
    let place = Place::new(options);
    let written = place.publish(&documents).await.map_err(|reason| Error::Publish { place: place.shown(), reason })?;
    Ok(Report {
        model_name: options.model_name.clone(),
        model_version: version.version,
        model_sha256: baseline.model.sha256,
        data_sha256: baseline.data_sha256,
        from,
        place: place.shown(),
        result: if written { "written" } else { "unchanged" },
    })
}

/// The version's own baseline, or one from the data; and which of them.
async fn of_version(
    options: &Options,
    registry: &Registry,
    version: &Version,
) -> Result<(Baseline, &'static str), Error> {
    let scratch = tempfile::tempdir().map_err(|source| Error::Io { what: "no room for downloads", source })?;
    let dir = scratch.path().join("artifact");
    registry.download(version, &dir).await?;
    let failed = |source| Error::Artifact { version: version.version.clone(), source };
    let mut artifact = Artifact::read(&dir).map_err(failed)?;
    if let Some(mut baseline) = artifact.baseline.take() {
        baseline.set_version(&version.version);
        return Ok((baseline, "artifact"));
    }
    let Some(place) = &options.data else {
        return Err(Error::Unusable {
            version: version.version.clone(),
            reason: format!(
                "its artifact has no {}: give --data, the data that it was trained on, to compute one",
                artifact::BASELINE_FILE
            ),
        });
    };
    Ok((compute(options, place, &artifact, version).await?, "data"))
}

async fn compute(options: &Options, place: &str, artifact: &Artifact, version: &Version) -> Result<Baseline, Error> {
    let unusable = |reason: String| Error::Unusable { version: version.version.clone(), reason };
    let trained = artifact.metrics.as_ref();
    let dataset = options.dataset.as_deref().or(trained.map(|m| m.dataset.as_str())).unwrap_or("FD001");
    let names = data::names(dataset).map_err(|reason| Error::Usage(format!("--dataset: {reason}")))?;
    let data = Data::read(Source::Place(place), &names).await?;
    if let Some(metrics) = trained.filter(|m| m.data_sha256 != data.sha256) {
        // Closed: nobody to tell.
        let _ = writeln!(
            std::io::stderr(),
            "warning: version {} was trained on {} with data SHA-256 {}, this is {dataset} with {}",
            version.version,
            metrics.dataset,
            metrics.data_sha256,
            data.sha256
        );
    }
    let features = FeatureSet::by_names(artifact.manifest.features.iter().map(String::as_str))
        .map_err(|e| unusable(format!("its features are not those of the data: {e}")))?;
    let about = BaselineModel {
        name: options.model_name.clone(),
        version: Some(version.version.clone()),
        sha256: artifact.manifest.sha256.clone(),
    };
    let origin = Origin {
        dataset: &data.name(),
        data_sha256: &data.sha256,
        generated_at: Timestamp::now(),
        generator: GENERATOR,
    };
    fit_baseline(&artifact.model, about, &features, &data.fleet(), origin)
        .map_err(|source| Error::Artifact { version: version.version.clone(), source })
}

impl Report {
    fn sentence(&self) -> String {
        let from = if self.from == "data" { ", computed from the data" } else { "" };
        format!(
            "{}: {} has the baseline of {} version {}{from}",
            self.result, self.place, self.model_name, self.model_version
        )
    }
}
