//! `rul train`: from C-MAPSS files to a whole model directory, and into the registry.
//!
//! A fifth of the engines is held out. Training is repeated from other seeds; epoch and seed are chosen on the held-out engines.
//! The test engines are looked at when all is chosen, and decide nothing.
//!
//! The directory ([`crate::artifact`]) appears under its name when it is whole; Ctrl-C before that leaves nothing. With
//! `--registry` it becomes a version with the alias `staging`: data hash, code version and the cause that `rul trigger` names are
//! its tags, options its parameters, errors per epoch and of the kept model its metrics. `rul promote` decides about the rest.
//!
//! stderr tells every epoch; stdout has the result, with `--json` one line: `metrics.json`, and `out`, `model_sha256`,
//! `model_name`, `registered_version`. Exit status 2 for options that cannot be, 130 after Ctrl-C, 1 for all else that fails.

mod file;
mod interrupt;
mod learn;
mod options;
mod prepare;
mod report;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

pub use options::Options;

use crate::artifact::{self, Artifact, Draft};
use crate::data::{self, Data};
use crate::registry::{Registry, STAGING, Version};
use interrupt::Interrupt;
use learn::Start;
use prepare::Prepared;
use report::Report;

/// The program, as it signs what it writes.
const GENERATOR: &str = concat!("rul-train/", env!("CARGO_PKG_VERSION"));

/// Why there is no model, or none in the registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Data(String),
    #[error(transparent)]
    Place(#[from] data::Error),
    #[error(transparent)]
    Cmapss(#[from] cmapss::Error),
    #[error(transparent)]
    Inputs(#[from] crate::drift::record::InputsError),
    #[error(transparent)]
    Model(#[from] model::Error),
    #[error(transparent)]
    Artifact(#[from] artifact::Error),
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
    #[error("{source}; the model itself is whole, in {}", dir.display())]
    Unfiled { dir: PathBuf, source: Box<crate::registry::Error> },
    #[error("interrupted; nothing was written")]
    Interrupted,
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

impl Error {
    fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Interrupted => ExitCode::from(interrupt::CODE),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Trains, writes, registers. Exit status 0 when all that was asked for is done, 2 for options that cannot be, 130 when interrupted.
///
/// # Errors
/// A closed stdout. Everything else is told on stderr and is the exit status.
pub fn run(options: &Options) -> Result<ExitCode, Error> {
    match train(options) {
        Ok(report) => {
            let text = if options.json { report.json() } else { report.sentences() };
            let write = |source| Error::Io { what: "cannot write the result to stdout", source };
            write!(std::io::stdout(), "{text}").map_err(write)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            Ok(error.code())
        }
    }
}

fn train(options: &Options) -> Result<Report, Error> {
    let names = data::names(&options.dataset).map_err(|reason| Error::Usage(format!("--dataset: {reason}")))?;
    let interrupt = Interrupt::watch().map_err(|source| Error::Io { what: "cannot listen to signals", source })?;
    let start = |source| Error::Io { what: "cannot start", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(start)?;
    // What would be in the way afterwards is better known now.
    let registry = runtime.block_on(registry(options))?;
    let (dir, _scratch) = place(options)?;

    let data = runtime.block_on(Data::read(options.source(), &names))?;
    let prepared = Prepared::new(&data, options.split_seed)?;
    let _ = writeln!(std::io::stderr(), "{}", report::data(&data, &prepared));
    let start = options.warm_start().map(|dir| Start::read(dir, &prepared)).transpose()?;
    if let Some(seen) = start.as_ref().map(|s| s.seen(&data, &prepared)).filter(|seen| *seen > 0) {
        let _ = writeln!(
            std::io::stderr(),
            "warning: the model to begin with was trained on {seen} of the engines that are held out here: validation will \
             flatter; give the --split-seed that it was trained with"
        );
    }

    let began = Timestamp::now().as_millisecond();
    let hyper = learn::hyper(options, start.as_ref());
    let runs = learn::runs(options, &prepared, &hyper, start.as_ref(), &interrupt)?;
    let best = learn::best(&runs).ok_or_else(|| Error::Usage("--seeds 0 trains nothing".to_owned()))?;
    let mut metrics = learn::metrics(&data, &prepared, &runs, best, &code_version())?;
    metrics.warm_start = start.is_some();
    if interrupt.is_set() {
        return Err(Error::Interrupted);
    }
    let artifact = artifact::write(
        &dir,
        &Draft {
            name: &options.model,
            network: &best.trained.network,
            features: &prepared.features,
            fleet: &prepared.fleet,
            metrics: &metrics,
            created: Timestamp::now(),
            generator: GENERATOR,
        },
    )?;
    let version = match registry {
        None => None,
        Some(registry) => {
            let info = file::run_info(options, &hyper, start.as_ref(), &runs, &metrics, began);
            let filed = runtime.block_on(register(&registry, options, &artifact, &info));
            Some(filed.map_err(|source| match options.out() {
                Some(_) => Error::Unfiled { dir: dir.clone(), source: Box::new(source) },
                None => Error::Registry(source),
            })?)
        }
    };
    Ok(Report::new(options, artifact, metrics, prepared.earlier_split, version))
}

/// The registry, if one is named and it answers.
async fn registry(options: &Options) -> Result<Option<Registry>, Error> {
    let Some(uri) = options.registry.as_deref().map(str::trim).filter(|uri| !uri.is_empty()) else {
        return Ok(None);
    };
    let http = crate::http::unhurried().map_err(Error::Usage)?;
    let registry = Registry::open(uri, http)?;
    registry.alias(&options.model, STAGING).await?;
    Ok(Some(registry))
}

/// Where the artifact goes: for good, or until it is registered.
fn place(options: &Options) -> Result<(PathBuf, Option<tempfile::TempDir>), Error> {
    if let Some(out) = options.out() {
        artifact::check_free(out)?;
        return Ok((out.to_owned(), None));
    }
    if options.registry.as_deref().is_none_or(|uri| uri.trim().is_empty()) {
        return Err(Error::Usage("neither --out nor --registry says where the model goes".to_owned()));
    }
    let scratch = tempfile::tempdir().map_err(|source| Error::Io { what: "no room for the model", source })?;
    Ok((scratch.path().join("model"), Some(scratch)))
}

async fn register(
    registry: &Registry,
    options: &Options,
    artifact: &Artifact,
    info: &crate::registry::RunInfo,
) -> Result<Version, crate::registry::Error> {
    let version = registry.register(&options.model, &artifact.dir, info).await?;
    registry.set_alias(&options.model, STAGING, &version.version).await?;
    Ok(version)
}

/// The version, and which build of it: `0.1.0+sha256.1f2e3d4c5b6a`.
fn code_version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let hash = |path: &Path| std::fs::read(path).map(|bytes| hex::encode(Sha256::digest(bytes)));
    match std::env::current_exe().and_then(|path| hash(&path)) {
        Ok(sha256) => format!("{version}+sha256.{}", &sha256[..12]),
        // Where a program may not read itself.
        Err(_) => version.to_owned(),
    }
}
