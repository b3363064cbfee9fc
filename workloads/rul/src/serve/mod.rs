//! `rul serve`: see the crate's documentation for the HTTP API.

mod directory;
mod histogram;
mod infer;
mod input;
mod listen;
mod live;
pub(crate) mod log;
mod metrics;
mod predict;
mod protocol;
mod recent;
mod reject;
mod routes;
mod service;
mod tensor;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::builder::FalseyValueParser;
use serde_json::json;

use service::{Service, Settings};

/// Options of `rul serve`. Every one is also an environment variable.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Address and port.
    #[arg(long, env = "RUL_LISTEN", default_value = "0.0.0.0:8000")]
    pub listen: SocketAddr,
    /// Directory with model.json and model.onnx (golden.json, baseline.json). May appear later.
    #[arg(long, env = "RUL_MODEL_DIR")]
    pub model_dir: Option<PathBuf>,
    /// Name that clients use.
    #[arg(long, env = "MODEL_NAME", default_value = "cmapss-rul")]
    pub model_name: String,
    /// Alias or stage that the model was taken from; only shown.
    #[arg(long, env = "MODEL_STAGE", default_value = "production")]
    pub model_stage: String,
    /// Registry that the model was taken from; only shown, without credentials.
    #[arg(long, env = "MLFLOW_TRACKING_URI")]
    pub mlflow_tracking_uri: Option<String>,
    /// Answer while there is no model, in cycles.
    #[arg(long, env = "STUB_RUL", default_value_t = 125.0, value_parser = cycles)]
    pub stub_rul: f32,
    /// Without a model be not ready, instead of answering --stub-rul.
    #[arg(long, env = "RUL_NO_STUB", action = clap::ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub no_stub: bool,
    /// Refuse a model without golden.json.
    #[arg(long, env = "RUL_REQUIRE_GOLDEN", action = clap::ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub require_golden: bool,
    /// Seconds between two looks at the model directory; 0 switches reloading off.
    #[arg(long, env = "RUL_RELOAD_INTERVAL", default_value_t = 5.0, value_parser = seconds)]
    pub reload_interval: f64,
    /// Largest body of /predict, in bytes.
    #[arg(long, env = "RUL_BODY_LIMIT", default_value_t = 64 << 10)]
    pub body_limit: usize,
    /// Largest body of the batch endpoints (V1 :predict, V2 infer), in bytes.
    #[arg(long, env = "RUL_BATCH_BODY_LIMIT", default_value_t = 4 << 20)]
    pub batch_body_limit: usize,
    /// Most windows in one request.
    #[arg(long, env = "RUL_MAX_BATCH", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_batch: u16,
    /// Prediction requests at once; a batch counts as 16. More get 503 and Retry-After.
    #[arg(long, env = "RUL_CONCURRENCY", default_value_t = 128, value_parser = clap::value_parser!(u16).range(16..))]
    pub concurrency: u16,
    /// Open connections at once; more wait.
    #[arg(long, env = "RUL_CONNECTIONS", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,
    /// Seconds in which a request's body must arrive.
    #[arg(long, env = "RUL_REQUEST_TIMEOUT", default_value_t = 10.0, value_parser = seconds)]
    pub request_timeout: f64,
    /// Predictions kept for GET /v1/recent.
    #[arg(long, env = "RUL_RECENT", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub recent: u32,
    /// File with the bearer token of /v1/recent and /-/reload. The variable RUL_TOKEN may hold the token itself.
    #[arg(long, env = "RUL_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Seconds between SIGTERM (not ready from then on) and the end of accepting connections.
    #[arg(long, env = "RUL_DRAIN_DELAY", default_value_t = 3.0, value_parser = seconds)]
    pub drain_delay: f64,
    /// Seconds that requests under way then have to finish.
    #[arg(long, env = "RUL_GRACE", default_value_t = 20.0, value_parser = seconds)]
    pub grace: f64,
    /// Threads; 0 is one per processor that the process may use, at most 4.
    #[arg(long, env = "RUL_THREADS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=64))]
    pub threads: u8,
}

fn cycles(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("a number of cycles, 0 or more".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(value),
        _ => Err("a number of seconds from 0 to 86400".to_owned()),
    }
}

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot start: {0}")]
    Runtime(#[source] std::io::Error),
    #[error("cannot read the token from {}: {source}", path.display())]
    Token { path: PathBuf, source: std::io::Error },
    #[error("the token is empty: give RUL_TOKEN or --token-file a value, or leave both out")]
    EmptyToken,
}

/// Would this directory be served? What `rul promote` asks before it gives a model the alias.
///
/// # Errors
/// A sentence that says which file is wrong and why.
pub fn check_artifact(dir: &std::path::Path) -> Result<(), String> {
    let loaded = live::Live::load(dir, "check", false, None, &metrics::Metrics::new());
    loaded.map(|_| ()).map_err(|e| e.to_string())
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the service cannot start. What goes wrong later is answered, counted and logged.
pub fn run(options: Options) -> Result<(), Error> {
    let started = Instant::now();
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(4)),
        n => usize::from(n),
    };
    let settings = settings(&options)?;
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder.worker_threads(threads).enable_all().build().map_err(Error::Runtime)?;
    let result = runtime.block_on(async {
        let signals = listen::Signals::install().map_err(Error::Runtime)?;
        let address = options.listen;
        let listener =
            tokio::net::TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
        let address = listener.local_addr().map_err(Error::Runtime)?;
        let service = Arc::new(Service::new(settings));
        let serving = service.live().map(|live| live.description.version.clone());
        log::info(
            "listening",
            json!({
                "address": address.to_string(),
                "model_version": serving,
                "threads": threads,
                "seconds": started.elapsed().as_secs_f64(),
            }),
        );
        if service.settings.model_dir.is_some() && options.reload_interval > 0.0 {
            tokio::spawn(watch(Arc::clone(&service), Duration::from_secs_f64(options.reload_interval)));
        }
        let drain = listen::Drain {
            delay: Duration::from_secs_f64(options.drain_delay),
            grace: Duration::from_secs_f64(options.grace),
        };
        let router = routes::router(Arc::clone(&service));
        listen::serve(listener, router, service, signals, usize::from(options.connections), drain).await;
        Ok(())
    });
    // Requests that outlived the grace period are not waited for again.
    runtime.shutdown_background();
    result
}

fn settings(options: &Options) -> Result<Settings, Error> {
    Ok(Settings {
        model_name: options.model_name.clone(),
        model_stage: options.model_stage.clone(),
        mlflow_tracking_uri: options
            .mlflow_tracking_uri
            .as_deref()
            .filter(|uri| !uri.is_empty())
            .map(without_credentials),
        // An empty variable is how a manifest says "none".
        model_dir: options.model_dir.clone().filter(|dir| !dir.as_os_str().is_empty()),
        require_golden: options.require_golden,
        stub: (!options.no_stub).then_some(options.stub_rul),
        body_limit: options.body_limit,
        batch_body_limit: options.batch_body_limit,
        max_batch: usize::from(options.max_batch),
        concurrency: usize::from(options.concurrency),
        request_timeout: Duration::from_secs_f64(options.request_timeout),
        recent: usize::try_from(options.recent).unwrap_or(usize::MAX),
        token: token(options)?,
    })
}

fn token(options: &Options) -> Result<Option<String>, Error> {
    let token = match &options.token_file {
        Some(path) if !path.as_os_str().is_empty() => {
            std::fs::read_to_string(path).map_err(|source| Error::Token { path: path.clone(), source })?
        }
        // Not an option, so that it can never be in a list of processes.
        _ => match std::env::var("RUL_TOKEN") {
            Ok(token) => token,
            Err(_) => return Ok(None),
        },
    };
    let token = token.trim();
    if token.is_empty() { Err(Error::EmptyToken) } else { Ok(Some(token.to_owned())) }
}

/// `http://user:password@host` is shown as `http://host`.
fn without_credentials(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// Looks at the model directory for ever. The turns are spread so that replicas do not all read at
/// the same moment.
async fn watch(service: Arc<Service>, interval: Duration) {
    let mut turn = u64::from(std::process::id());
    loop {
        // A step of the golden ratio visits the range evenly without a random generator.
        turn = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
        let spread = (turn >> 40) as f64 / (1u64 << 24) as f64;
        tokio::time::sleep(interval.mul_f64(0.9 + 0.2 * spread)).await;
        let checking = Arc::clone(&service);
        if tokio::task::spawn_blocking(move || checking.check_source()).await.is_err() {
            log::warn("model_check_failed", json!({ "reason": "the check panicked; the old model stays" }));
        }
    }
}

#[cfg(test)]
mod option_tests {
    use super::{cycles, seconds, without_credentials};

    #[test]
    fn addresses_are_shown_without_credentials() {
        for (uri, shown) in [
            ("http://mlflow:5000", "http://mlflow:5000"),
            ("http://u:p@mlflow:5000/a@b", "http://mlflow:5000/a@b"),
            ("https://u:p@w@host/x", "https://host/x"),
            ("file:///mlruns", "file:///mlruns"),
            ("databricks", "databricks"),
            ("http://token@h?x=1", "http://h?x=1"),
        ] {
            assert_eq!(without_credentials(uri), shown);
        }
    }

    #[test]
    fn numbers_of_options_are_finite_and_not_negative() {
        assert_eq!(cycles("0"), Ok(0.0));
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["", "-1", "NaN", "inf", "1e39", "x"] {
            assert!(cycles(wrong).is_err(), "{wrong}");
        }
        for wrong in ["-0.1", "NaN", "inf", "86401"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
