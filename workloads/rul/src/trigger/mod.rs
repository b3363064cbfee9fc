//! `rul trigger`: from Alertmanager's webhook to a retraining run.
//!
//! `POST /webhook/drift` (payload version 4) is answered as by the seed: 200 with `decision` `submitted` or `skipped`, 422 for
//! anything else than a payload, 503 when no run can be started now. A firing alert is written down before it is answered, and is
//! forgotten only when a run succeeded, or when it was resolved before one began: a restart, a crash or a service that is down lose
//! nothing. One run per model at a time; a run that succeeded starts a cool-down for its cause, one that failed is repeated.

mod alert;
mod desk;
mod exec;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod job;
mod kfp;
mod routes;
mod starter;
mod state;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::serve::log;
use crate::token::{Token, TokenError};
use desk::Desk;
use routes::{Events, Front};
use starter::Starter;
use state::{Policy, StateError};

/// Options of `rul trigger`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("starter").required(true))]
pub struct Options {
    /// Address and port.
    #[arg(long, env = "RUL_TRIGGER_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// File that remembers alerts and runs; on a volume, so that a new pod knows them.
    #[arg(long, env = "RUL_TRIGGER_STATE", value_name = "FILE")]
    pub state: PathBuf,
    /// File with the bearer token of the webhook. The variable RUL_TOKEN may hold the token itself.
    #[arg(long, env = "RUL_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Let everybody trigger, without a token.
    #[arg(long)]
    pub no_token: bool,
    /// Start a run of a Kubeflow pipeline: address of its API, as ml-pipeline.kubeflow:8888.
    #[arg(long, env = "KFP_HOST", hide_env_values = true, group = "starter", requires = "pipeline")]
    pub kfp: Option<String>,
    /// Name of the pipeline; its newest version runs.
    #[arg(long, env = "PIPELINE_NAME")]
    pub pipeline: Option<String>,
    /// Parameter of the pipeline; may be repeated.
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter)]
    pub parameters: Vec<(String, String)>,
    /// Start a Job from the template of a CronJob.
    #[arg(long, env = "RUL_TRIGGER_JOB", group = "starter", value_name = "NAMESPACE/CRONJOB")]
    pub job: Option<String>,
    /// Start a program on this machine; what follows is its command line.
    #[arg(long, group = "starter", num_args = 1.., allow_hyphen_values = true, value_name = "PROGRAM")]
    pub exec: Vec<String>,
    /// Name of the alert that starts a run.
    #[arg(long, env = "RUL_TRIGGER_ALERT", default_value = "ModelDriftDetected")]
    pub alertname: String,
    /// Seconds after a successful run in which the same cause starts no other.
    #[arg(long, env = "DEBOUNCE_SECONDS", default_value_t = 300)]
    pub cool_down: u64,
    /// Seconds before a failed run is repeated; doubled each time.
    #[arg(long, default_value_t = 30)]
    pub pause: u64,
    /// Runs that may fail for one alert before it is given up until it fires anew.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts: u32,
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| format!("{text:?}: write NAME=VALUE"))
}

/// Why the trigger did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot start: {0}")]
    Start(String),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("no token: set RUL_TOKEN or --token-file, or say --no-token where nobody else can reach this port")]
    NoToken,
    #[error(transparent)]
    State(#[from] StateError),
}

async fn starter(options: &Options) -> Result<Starter, Error> {
    if let Some(host) = &options.kfp {
        let numbers = |text: &str| serde_json::from_str::<Value>(text).ok().filter(Value::is_number);
        let parameters: Map<String, Value> = options
            .parameters
            .iter()
            .map(|(name, value)| (name.clone(), numbers(value).unwrap_or_else(|| value.clone().into())))
            .collect();
        let pipeline = options.pipeline.as_deref().unwrap_or_default();
        return kfp::Kfp::new(host, pipeline, parameters).map(Starter::Kfp).map_err(Error::Start);
    }
    if let Some(target) = &options.job {
        return job::Job::new(target).await.map(|job| Starter::Job(Box::new(job))).map_err(Error::Start);
    }
    Ok(Starter::Exec(exec::Exec::new(options.exec.clone())))
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start.
pub fn run(options: Options) -> Result<(), Error> {
    let token = Token::load(options.token_file.as_deref())?;
    if token.is_none() && !options.no_token {
        return Err(Error::NoToken);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Start(error.to_string()))?;
    runtime.block_on(async {
        let policy = Policy { cool_down: options.cool_down, pause: options.pause, attempts: options.attempts };
        let state = state::load(&options.state)?;
        // A place that cannot be written to is better known now than at the first alert.
        state::save(&options.state, &state)?;
        let desk = Desk::new(options.state.clone(), policy, state, starter(&options).await?);
        let front = Arc::new(Front { desk, token, alertname: options.alertname.clone(), events: Events::default() });
        let address = options.listen;
        let listen = |source| Error::Listen { address, source };
        let listener = tokio::net::TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        log::info("listening", json!({ "address": address.to_string() }));
        let worker = Arc::clone(&front);
        tokio::select! {
            served = axum::serve(listener, routes::router(front)).with_graceful_shutdown(ended()) => served.map_err(listen),
            () = worker.desk.work() => Ok(()),
        }
    })
}

async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}
