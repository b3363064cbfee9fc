//! `rul promote`: champion against challenger on the same held-out engines, and the aliases that
//! follow from it. `--rollback` goes back to what was served before.
//!
//! A challenger becomes `production` when
//! 1. its error (RMSE over all windows of all held-out engines, lives capped) is lower than the
//!    champion's by at least `--min-improvement`, as a share of the champion's;
//! 2. that it is better at all is no luck of the draw of engines: the lower bound of the
//!    improvement in a paired bootstrap over engines is above zero;
//! 3. on none of the data sets NASA's score, which punishes late warnings, rises by more than
//!    `--max-nasa-increase`.
//!
//! The first model always does. A challenger that does not becomes `staging`. The decision and its
//! numbers are tags of the version, and one line of JSON on stdout.

mod compare;
mod decide;
mod engines;
mod rollback;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::FalseyValueParser;
use jiff::Timestamp;
use model::{Manifest, Model};
use serde::Serialize;
use serde_json::json;

use crate::registry::{PREVIOUS, Registry, STAGING, Version};
use compare::Comparison;
use decide::{Decision, Rules};
use engines::{Against, HeldOut};

/// Options of `rul promote`. Every one is also an environment variable.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The registry: http://mlflow:5000, or file:///a/directory.
    #[arg(long, env = "MLFLOW_TRACKING_URI", hide_env_values = true)]
    pub registry: String,
    /// Registered model.
    #[arg(long, env = "MODEL_NAME", default_value = "cmapss-rul")]
    pub model_name: String,
    /// Alias of what is served.
    #[arg(long, env = "MODEL_ALIAS", default_value = crate::registry::PRODUCTION)]
    pub alias: String,
    /// The challenger; without it the newest version.
    #[arg(long, env = "CHALLENGER_VERSION", conflicts_with = "rollback")]
    pub version: Option<String>,
    /// The challenger is the version that this MLflow run made.
    #[arg(long, env = "MLFLOW_RUN_ID", conflicts_with_all = ["version", "rollback"])]
    pub run_id: Option<String>,
    /// Directory with test_FD001.txt and RUL_FD001.txt, or train_FD001.txt for --held-out validation.
    #[arg(long, env = "RUL_DATA")]
    pub data: Option<PathBuf>,
    /// Data sets whose engines decide, all of them counted together.
    #[arg(long, env = "RUL_DATASET", default_value = "FD001", value_delimiter = ',')]
    pub dataset: Vec<String>,
    /// Whose engines are held out: the official test set's, or a fifth of the training set's (--split-seed).
    #[arg(long, env = "RUL_HELD_OUT", value_enum, default_value_t = Against::Test)]
    pub held_out: Against,
    /// With --held-out validation: the seed that the challenger's training split its engines with.
    #[arg(long, env = "RUL_SPLIT_SEED", default_value_t = 42)]
    pub split_seed: u64,
    /// How much lower the challenger's error must be, as a share of the champion's: 0.05 is 5 %.
    #[arg(long, env = "RUL_MIN_IMPROVEMENT", default_value = "0.05", value_parser = min_improvement)]
    pub min_improvement: f64,
    /// How sure it must be that the challenger is better at all, in the bootstrap over engines.
    #[arg(long, env = "RUL_CONFIDENCE", default_value = "0.95", value_parser = confidence)]
    pub confidence: f64,
    /// By which share NASA's score may be higher than the champion's, on each data set.
    #[arg(long, env = "RUL_MAX_NASA_INCREASE", default_value = "0.1", value_parser = not_negative)]
    pub max_nasa_increase: f64,
    /// True lives above this count as this, in cycles, for RMSE: wear cannot be seen before it begins.
    #[arg(long, env = "RUL_CAP", default_value_t = 125, value_parser = clap::value_parser!(u32).range(1..))]
    pub cap: u32,
    /// Promote whatever the comparison says. The numbers are still computed, where they can be.
    #[arg(long, env = "RUL_FORCE", action = clap::ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub force: bool,
    /// Say what would be done, and change nothing.
    #[arg(long, env = "RUL_DRY_RUN", action = clap::ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub dry_run: bool,
    /// Serve again what was served before.
    #[arg(long, conflicts_with = "force")]
    pub rollback: bool,
}

fn number(text: &str) -> Result<f64, String> {
    text.trim().parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(|| "not a number".to_owned())
}

fn min_improvement(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    if (0.0..1.0).contains(&value) {
        return Ok(value);
    }
    Err("must be 0 or more and less than 1: it is the share by which the error must fall, so 0.05 asks for 5 % less. \
         It is not the threshold_factor of the earlier pipeline, by which the champion's error was multiplied: a \
         factor of 0.95 is --min-improvement 0.05"
        .to_owned())
}

fn confidence(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    if (0.5..1.0).contains(&value) { Ok(value) } else { Err("must be 0.5 or more and less than 1".to_owned()) }
}

fn not_negative(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    if value >= 0.0 { Ok(value) } else { Err("must be 0 or more".to_owned()) }
}

/// Why there is no decision.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
    #[error("{0}")]
    Http(String),
    #[error(transparent)]
    Data(#[from] cmapss::Error),
    #[error("version {version}: {source}")]
    Model { version: String, source: model::Error },
    #[error("version {version}: {reason}")]
    Unusable { version: String, reason: String },
    #[error(
        "there is a champion (version {champion}), so the challenger must be compared: give --data, a directory with the held-out engines"
    )]
    NoData { champion: String },
    #[error("{0}")]
    Missing(String),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
    #[error(
        "the alias {alias:?} moved from version {from} to {to} while this was deciding; nothing was changed, run it again"
    )]
    Moved { alias: String, from: String, to: String },
}

impl Error {
    /// Exit status: 3 when the version that is asked for does not exist.
    fn code(&self) -> ExitCode {
        match self {
            Self::Missing(_) => ExitCode::from(3),
            _ => ExitCode::FAILURE,
        }
    }
}

/// The line on stdout.
#[derive(Debug, Serialize)]
struct Outcome {
    model_name: String,
    new_version: String,
    /// `production`, `staging`, or null when nothing was set.
    alias_assigned: Option<String>,
    champion_version: Option<String>,
    /// RMSE on the held-out engines, cycles.
    champion_rmse: Option<f64>,
    challenger_rmse: Option<f64>,
    promoted: bool,
    decision_reason: String,
    decision: &'static str,
    dry_run: bool,
    min_improvement: f64,
    max_nasa_increase: f64,
    #[serde(flatten)]
    comparison: Option<Comparison>,
    data_sha256: Option<String>,
    decided_at: Timestamp,
}

/// Decides, or rolls back. Exit status 0 with a decision, whichever; 3 without the version asked for.
///
/// # Errors
/// When the runtime cannot be made. Everything else is told on stderr and is the exit status.
pub fn run(options: Options) -> Result<ExitCode, Error> {
    let start = |source| Error::Io { what: "cannot start", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(start)?;
    let line = runtime.block_on(async {
        let http = crate::http::unhurried().map_err(Error::Http)?;
        let registry = Registry::open(&options.registry, http)?;
        if options.rollback {
            rollback::rollback(&registry, &options).await
        } else {
            promote(&registry, &options).await
        }
    });
    match line {
        Ok(line) => {
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

async fn promote(registry: &Registry, options: &Options) -> Result<serde_json::Value, Error> {
    if options.min_improvement >= 0.5 {
        let meant = 1.0 - options.min_improvement;
        // It is allowed, and hardly ever meant.
        let _ = writeln!(
            std::io::stderr(),
            "warning: --min-improvement {} promotes only what has less than {meant:.2} of the champion's error; if a \
             threshold_factor was meant, give {meant:.2}",
            options.min_improvement
        );
    }
    let model = &options.model_name;
    let challenger = challenger(registry, options).await?;
    let champion = registry.alias(model, &options.alias).await?;
    let mut outcome = Outcome {
        model_name: model.clone(),
        new_version: challenger.version.clone(),
        alias_assigned: None,
        champion_version: champion.as_ref().map(|c| c.version.clone()),
        champion_rmse: None,
        challenger_rmse: None,
        promoted: false,
        decision_reason: String::new(),
        decision: "",
        dry_run: options.dry_run,
        min_improvement: options.min_improvement,
        max_nasa_increase: options.max_nasa_increase,
        comparison: None,
        data_sha256: None,
        decided_at: Timestamp::now(),
    };
    let decision = if champion.as_ref().is_some_and(|c| c.version == challenger.version) {
        Decision::AlreadyServed
    } else {
        weigh(registry, options, champion.as_ref(), &challenger, &mut outcome).await?
    };
    outcome.decision = decision.word();
    outcome.decision_reason = decision.reason(options);
    outcome.promoted = decision.promotes();
    if decision != Decision::AlreadyServed {
        let alias = if decision.promotes() { &options.alias } else { STAGING };
        outcome.alias_assigned = Some(alias.to_owned());
        if !options.dry_run {
            carry_out(registry, options, champion.as_ref(), &challenger, &outcome).await?;
        }
    }
    serde_json::to_value(&outcome).map_err(|e| Error::Io { what: "the result", source: e.into() })
}

async fn challenger(registry: &Registry, options: &Options) -> Result<Version, Error> {
    let model = &options.model_name;
    let (found, what) = match (&options.version, &options.run_id) {
        (Some(version), _) => (registry.version(model, version).await?, format!("version {version:?}")),
        (None, Some(run)) => {
            let Registry::Mlflow(mlflow) = registry else {
                return Err(Error::Missing("--run-id needs an MLflow registry; give --version".to_owned()));
            };
            (mlflow.version_of_run(model, run).await?, format!("version made by the run {run:?}"))
        }
        (None, None) => (registry.versions(model).await?.into_iter().next(), "version at all".to_owned()),
    };
    found.ok_or_else(|| {
        Error::Missing(format!("the model {model:?} has no {what} in {}; register one first", registry.shown()))
    })
}

/// Compares the two on the data, as far as there is anything to compare.
async fn weigh(
    registry: &Registry,
    options: &Options,
    champion: Option<&Version>,
    challenger: &Version,
    outcome: &mut Outcome,
) -> Result<Decision, Error> {
    let scratch = tempfile::tempdir().map_err(|source| Error::Io { what: "no room for downloads", source })?;
    let new = fetch(registry, challenger, scratch.path()).await?;
    let data = match (&options.data, champion) {
        (Some(dir), _) => HeldOut::read(dir, options)?,
        (None, None) => return Ok(Decision::FirstModel),
        (None, Some(_)) if options.force => return Ok(Decision::Forced),
        (None, Some(champion)) => return Err(Error::NoData { champion: champion.version.clone() }),
    };
    outcome.data_sha256 = Some(data.sha256.clone());
    let ours = data.score(&challenger.version, &new)?;
    outcome.challenger_rmse = Some(ours.rmse());
    let Some(champion) = champion else {
        return Ok(Decision::FirstModel);
    };
    let theirs = match fetch(registry, champion, scratch.path()).await {
        Ok(old) => data.score(&champion.version, &old),
        Err(error) => Err(error),
    };
    let theirs = match theirs {
        Ok(theirs) => theirs,
        // A registry that does not answer is no reason to judge the champion.
        Err(Error::Registry(error)) if error.is_temporary() => return Err(error.into()),
        Err(_) if options.force => return Ok(Decision::Forced),
        Err(error) => {
            let reason = format!("{error}. Without its answers nothing can be compared; --force promotes all the same");
            return Err(Error::Unusable { version: champion.version.clone(), reason });
        }
    };
    outcome.champion_rmse = Some(theirs.rmse());
    let comparison = Comparison::of(&theirs, &ours, options.confidence);
    let rules = Rules {
        min_improvement: options.min_improvement,
        max_nasa_increase: options.max_nasa_increase,
        confidence: options.confidence,
    };
    let decision = if options.force { Decision::Forced } else { decide::decide(&comparison, rules) };
    outcome.comparison = Some(comparison);
    Ok(decision)
}

async fn fetch(registry: &Registry, version: &Version, scratch: &Path) -> Result<(Model, Manifest), Error> {
    let dir = scratch.join(&version.version);
    registry.download(version, &dir).await?;
    // The same checks as before serving: what the service would refuse must not be promoted.
    crate::serve::check_artifact(&dir)
        .map_err(|reason| Error::Unusable { version: version.version.clone(), reason })?;
    Model::load_dir(&dir).map_err(|source| Error::Model { version: version.version.clone(), source })
}

/// Tags first, so that no version is served whose decision is not known; then `previous`, so that a
/// rollback leads back from the first moment on; then the swap.
async fn carry_out(
    registry: &Registry,
    options: &Options,
    champion: Option<&Version>,
    challenger: &Version,
    outcome: &Outcome,
) -> Result<(), Error> {
    let model = &options.model_name;
    for (key, value) in tags(outcome) {
        registry.set_tag(challenger, &key, &value).await?;
    }
    if !outcome.promoted {
        return Ok(registry.set_alias(model, STAGING, &challenger.version).await?);
    }
    let now = registry.alias(model, &options.alias).await?.map(|v| v.version);
    if now.as_ref() != champion.map(|c| &c.version) {
        let shown = |version: Option<&String>| version.cloned().unwrap_or_else(|| "none".to_owned());
        return Err(Error::Moved {
            alias: options.alias.clone(),
            from: shown(champion.map(|c| &c.version)),
            to: shown(now.as_ref()),
        });
    }
    if let Some(champion) = champion {
        registry.set_alias(model, PREVIOUS, &champion.version).await?;
    }
    registry.set_alias(model, &options.alias, &challenger.version).await?;
    // No longer waiting.
    if registry.alias(model, STAGING).await?.is_some_and(|v| v.version == challenger.version) {
        registry.delete_alias(model, STAGING).await?;
    }
    Ok(())
}

/// `promotion.*`, as text.
fn tags(outcome: &Outcome) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    if let Ok(serde_json::Value::Object(all)) = serde_json::to_value(outcome) {
        for (key, value) in all {
            let text = match value {
                serde_json::Value::Null => continue,
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            if !matches!(key.as_str(), "model_name" | "new_version" | "dry_run" | "alias_assigned") {
                tags.insert(format!("promotion.{key}"), text);
            }
        }
    }
    tags
}

/// What a rollback prints.
fn rolled_back(options: &Options, from: &str, to: &str) -> serde_json::Value {
    json!({
        "model_name": options.model_name,
        "rolled_back": true,
        "from_version": from,
        "to_version": to,
        "alias_assigned": options.alias,
        "dry_run": options.dry_run,
        "decided_at": Timestamp::now(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{confidence, min_improvement, not_negative};

    #[test]
    fn the_trap_of_the_earlier_pipeline_is_explained() {
        assert_eq!(min_improvement("0.05"), Ok(0.05));
        assert_eq!(min_improvement("0"), Ok(0.0));
        for wrong in ["1", "1.05", "-0.05"] {
            let text = min_improvement(wrong).unwrap_err();
            assert!(text.contains("threshold_factor") && text.contains("0.95 is --min-improvement 0.05"), "{text}");
        }
        for wrong in ["NaN", "inf", "five", ""] {
            assert!(min_improvement(wrong).is_err() && confidence(wrong).is_err() && not_negative(wrong).is_err());
        }
        assert!(confidence("0.4").is_err() && confidence("1").is_err() && not_negative("-1").is_err());
    }
}
