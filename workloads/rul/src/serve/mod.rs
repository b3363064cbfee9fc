//! `rul serve`: predictions over HTTP.
//!
//! Answers from a model directory (`--model-dir`), from the version that has the alias in a registry
//! (`--mlflow-tracking-uri`) or, while there is neither, with a constant (`--stub-rul`, 125) and
//! `"is_stub": true`. Port 8000, HTTP/1.1, JSON.
//!
//! **Units.** A window is 30 rows (cycles, oldest first) of 16 numbers (the features, in the model's
//! order and in the units of C-MAPSS: the model scales by itself); a loaded model may say otherwise,
//! `GET /v1/model` tells. Numbers are taken as single precision. A prediction is the remaining useful
//! life in cycles.
//!
//! # The seed's paths
//!
//! | path | answer |
//! |---|---|
//! | `GET /` | `service`, `model_name`, `model_stage`, `model_version`, `is_stub`, `mlflow_tracking_uri` (without credentials) |
//! | `GET /healthz` | 200 `{"status":"ok"}` as long as the process answers |
//! | `GET /readyz` | 200 `{"status":"ready","is_stub":bool}`; 503 without model and stub, and from SIGTERM on |
//! | `GET /metrics` | Prometheus text 0.0.4 |
//! | `POST /predict` | `{"rul":87.5,"model_version":"7","is_stub":false}` |
//!
//! The body of `/predict` has exactly one of
//! - `sequence`: one window, a list of rows;
//! - `features`: one row, taken as a window of 30 equal rows (for smoke tests);
//! - `instances`: a list of windows; answered by `{"predictions":[..],"model_version":..,"is_stub":..}`.
//!
//! Beside them `engine` (a string or a whole number) and `cycle` say whose window it is; for
//! `instances`, lists `engines` and `cycles`. The drift watch compares engines of the same age.
//!
//! `null` counts as absent, other keys are ignored. Every prediction carries the header
//! `x-model-version`.
//!
//! # Inference protocols
//!
//! | path | answer |
//! |---|---|
//! | `GET /v1/models`, `/v1/models/{name}` | KServe V1: names, readiness |
//! | `POST /v1/models/{name}:predict` | `instances` as above |
//! | `GET /v2`, `/v2/health/live`, `/v2/health/ready` | Open Inference Protocol V2 |
//! | `GET /v2/models/{name}[/versions/{v}]`, `../ready` | tensors, readiness |
//! | `POST /v2/models/{name}[/versions/{v}]/infer` | tensor `input`, shape `[n, 30, 16]`, FP32, FP64, INT32 or INT64, data flat or nested; gives tensor `output`, FP32, shape `[n]` |
//!
//! # For operators
//!
//! | path | answer |
//! |---|---|
//! | `GET /v1/model` | what is served: version, hashes, shape, golden check, why newer content was refused |
//! | `GET /v1/recent?since=SEQ&limit=N` | last predictions, each with the newest row of its window; `next` is the following `since`, `missed` counts what was overwritten unread |
//! | `POST /-/reload` | looks at the model directory or the registry now; 200 `loaded` or `unchanged`, 409 with the reason when the old one was kept |
//! | `POST /-/webhook` | MLflow says that an alias moved: the registry is asked at once |
//!
//! `/v1/recent` and `/-/reload` take `authorization: Bearer TOKEN` (`RUL_TOKEN` or `--token-file`);
//! without a configured token they are switched off (403) and nothing is kept. `/-/webhook` wants
//! MLflow's signature, made with `MLFLOW_WEBHOOK_SECRET`; without one it is switched off.
//!
//! # Refusals
//!
//! `{"detail": reason}`, on the protocol paths `{"error": reason}`. The protocols' V2 asks for 400
//! where `/predict` says 422.
//!
//! | status | when |
//! |---|---|
//! | 400 | not JSON; none or several of the three fields |
//! | 401, 403 | token missing or wrong; switched off |
//! | 404, 405 | no such path, model or version; wrong method |
//! | 408 | the body did not arrive within `--request-timeout` |
//! | 413 | body above `--body-limit` (64 KiB; `--batch-body-limit`, 4 MiB, on the protocol paths) |
//! | 415 | not `application/json`, compressed, or binary tensors |
//! | 422 | wrong type, wrong length (`sequence[3]: 15 numbers, expected 16`), a number that is not finite, too many windows |
//! | 503 | more than `--concurrency` at once (`retry-after: 1`); no model (`retry-after: 5`) |
//!
//! # The model directory
//!
//! `model.json` and `model.onnx` (see the crate `model`), and optionally
//! - `golden.json`: `{"windows":[window..],"expected":[cycles..],"tolerance":0.01}`: the model must
//!   give these answers before it is served;
//! - `baseline.json`: `histogram.buckets` are the edges of this version's prediction histogram.
//!
//! Write a new version by renaming files into place, `model.json` last, or by switching a link.
//! The content hash of the four files is polled (`--reload-interval`, 5 s, spread by 10 %). New
//! content is served only after every check; otherwise the old one stays, the reason is logged,
//! counted (`rul_model_reload_total{result}`) and shown by `/v1/model`. A running service does not
//! change the shape of its windows. A request is answered by the model that was current when its
//! body had arrived.
//!
//! # The registry
//!
//! The alias `--model-alias` is followed as the directory is: looked at every `--reload-interval`, and
//! at once when a webhook says so. A version is downloaded to `--cache-dir`, checked, and served under
//! the registry's number; one that fails a check is refused once. A start without the registry serves
//! what was served last. `--shadow-alias` names a challenger that predicts beside, for comparison only.
//!
//! # Metrics
//!
//! `rul_requests_total{status="ok"|"error"}`, `rul_request_latency_seconds` (successes) and
//! `rul_prediction_value` (edges 0 to 500) as in the seed; `rul_prediction{model,model_version}`
//! starts at zero with every version; `rul_refused_total{reason}`, `rul_request_duration_seconds`,
//! `rul_stub`, `rul_ready`, `rul_inflight`, `rul_concurrency_limit`, `rul_model_info`,
//! `rul_model_loaded_timestamp_seconds`, `rul_model_reload_total{result}`,
//! `rul_model_reload_duration_seconds`, `rul_model_last_check_timestamp_seconds`,
//! `rul_input_regime_total`, `rul_input_out_of_range_total{feature}`, `rul_webhook_total{result}`,
//! `rul_shadow_*` (of the challenger), `rul_build_info`.
//!
//! # The end
//!
//! SIGTERM: `/readyz` is 503 at once and connections are closed after their answer; new ones are
//! still taken for `--drain-delay` (3 s), then the port closes and requests under way have
//! `--grace` (20 s). SIGINT: the same without the delay. A second signal ends it at once. Exit
//! status 0.

mod cache;
mod directory;
mod follow;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod histogram;
mod infer;
mod input;
mod listen;
mod live;
pub(crate) mod log;
mod metrics;
mod origin;
mod predict;
mod protocol;
mod recent;
mod reject;
mod routes;
mod service;
mod shadow;
mod tensor;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod watched;
mod webhook;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::builder::FalseyValueParser;
use serde_json::json;

use crate::registry::{Registry, without_credentials};
use crate::token::{Token, TokenError, secret};
use follow::Follow;
use service::{Service, Settings};
use shadow::Shadow;

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
    /// Alias whose version is served, from the registry.
    #[arg(long, env = "MODEL_ALIAS", default_value = crate::registry::PRODUCTION)]
    pub model_alias: String,
    /// What `/` shows as the model's stage; without it the alias.
    #[arg(long, env = "MODEL_STAGE")]
    pub model_stage: Option<String>,
    /// Registry to follow, unless there is a --model-dir: http://mlflow:5000, or file:///a/directory.
    /// Shown without credentials.
    #[arg(long, env = "MLFLOW_TRACKING_URI", hide_env_values = true)]
    pub mlflow_tracking_uri: Option<String>,
    /// Where versions from the registry are kept; the last one is served also when the registry is away.
    #[arg(long, env = "RUL_CACHE_DIR", default_value = "/tmp/rul-cache")]
    pub cache_dir: PathBuf,
    /// Alias of a challenger that predicts beside, for comparison; answers never come from it.
    #[arg(long, env = "RUL_SHADOW_ALIAS")]
    pub shadow_alias: Option<String>,
    /// Share of the requests that the challenger gets, 0 to 1.
    #[arg(long, env = "RUL_SHADOW_SHARE", default_value_t = 0.1, value_parser = share)]
    pub shadow_share: f64,
    /// File with the secret of the registry's deliveries to POST /-/webhook. The variable
    /// MLFLOW_WEBHOOK_SECRET may hold the secret itself.
    #[arg(long, env = "RUL_WEBHOOK_SECRET_FILE")]
    pub webhook_secret_file: Option<PathBuf>,
    /// Answer while there is no model, in cycles.
    #[arg(long, env = "STUB_RUL", default_value_t = 125.0, value_parser = cycles)]
    pub stub_rul: f32,
    /// Without a model be not ready, instead of answering --stub-rul.
    #[arg(long, env = "RUL_NO_STUB", action = clap::ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub no_stub: bool,
    /// Refuse a model without golden.json.
    #[arg(long, env = "RUL_REQUIRE_GOLDEN", action = clap::ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub require_golden: bool,
    /// Seconds between two looks at the model directory or the registry; 0 switches reloading off.
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

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("a share from 0 to 1".to_owned()),
    }
}

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot start: {0}")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("{0}")]
    Http(String),
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
    #[error("--shadow-alias needs a registry: give --mlflow-tracking-uri, and no --model-dir")]
    ShadowWithoutRegistry,
}

/// Would this directory be served? What `rul promote` asks before it gives a model the alias.
///
/// # Errors
/// A sentence that says which file is wrong and why.
pub fn check_artifact(dir: &std::path::Path) -> Result<(), String> {
    let loading =
        live::Loading { dir, name: "check", require_golden: false, keep: None, registered: None, shadow: false };
    let loaded = live::Live::load(loading, &metrics::Metrics::new());
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
    let follow = follow(&options, &settings)?;
    let shadow = match &options.shadow_alias {
        Some(alias) if !alias.is_empty() && follow.is_none() => return Err(Error::ShadowWithoutRegistry),
        Some(alias) if !alias.is_empty() => Some(Shadow::new(options.shadow_share).map_err(Error::Runtime)?),
        _ => None,
    };
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
        let service = Arc::new(Service::new(settings, follow, shadow));
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
        if service.settings.model_dir.is_some() || service.follow.is_some() {
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
        model_stage: given(&options.model_stage).unwrap_or(&options.model_alias).to_owned(),
        mlflow_tracking_uri: given(&options.mlflow_tracking_uri).map(without_credentials),
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
        token: Token::load(options.token_file.as_deref())?,
        webhook_secret: secret("webhook secret", options.webhook_secret_file.as_deref(), "MLFLOW_WEBHOOK_SECRET")?,
    })
}

/// An empty variable is how a manifest says "none".
fn given(option: &Option<String>) -> Option<&str> {
    option.as_deref().filter(|text| !text.is_empty())
}

/// The registry to follow; a model directory comes first.
fn follow(options: &Options, settings: &Settings) -> Result<Option<Follow>, Error> {
    let Some(uri) = given(&options.mlflow_tracking_uri).filter(|_| settings.model_dir.is_none()) else {
        return Ok(None);
    };
    let registry = Registry::open(uri, crate::http::unhurried().map_err(Error::Http)?)?;
    let shadow_alias = given(&options.shadow_alias).map(str::to_owned);
    let (alias, cache) = (options.model_alias.clone(), options.cache_dir.clone());
    Ok(Some(Follow::new(registry, alias, shadow_alias, cache, &options.model_name)))
}

/// Looks for a new model for ever. The turns are spread so that replicas do not all look at the
/// same moment.
async fn watch(service: Arc<Service>, interval: Duration) {
    // In a container every process has the same number; the standard library's hash maps differ.
    let mut turn = RandomState::new().build_hasher().finish();
    // The directory was read at the start, the registry not yet.
    let mut look = service.follow.is_some();
    loop {
        if look {
            service.check(false).await;
        }
        look = true;
        // A step of the golden ratio visits the range evenly without a random generator.
        turn = turn.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let spread = (turn >> 40) as f64 / (1u64 << 24) as f64;
        let told = async {
            match &service.follow {
                Some(follow) => follow.wake.notified().await,
                None => std::future::pending().await,
            }
        };
        let due = async {
            if interval.is_zero() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(interval.mul_f64(0.9 + 0.2 * spread)).await;
        };
        tokio::select! {
            () = told => {}
            () = due => {}
        }
    }
}

#[cfg(test)]
mod option_tests {
    use super::{cycles, seconds, share};

    #[test]
    fn numbers_of_options_are_finite_and_not_negative() {
        assert_eq!(cycles("0"), Ok(0.0));
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["", "-1", "NaN", "inf", "1e39", "x"] {
            assert!(cycles(wrong).is_err(), "{wrong}");
        }
        assert_eq!((share("0"), share("1")), (Ok(0.0), Ok(1.0)));
        for wrong in ["-0.1", "1.1", "NaN"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        for wrong in ["-0.1", "NaN", "inf", "86401"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
