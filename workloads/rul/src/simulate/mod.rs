//! `rul simulate`: engines' windows sent to a service, from data or from the generator, with drift at a chosen moment.
//!
//! The load is open: every request has a moment at which it is due, and its latency counts from then, also when a slow service
//! makes it wait in line (no coordinated omission). With `--rate max` a request is due when its connection is free.

mod client;
mod report;
mod send;
mod traffic;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub use report::{Phase, Report, Sample, Served};
pub use send::{Load, Pace, Protocol, run as drive};
pub use traffic::{Drift, Origin, Traffic, TrafficError, WINDOW};

/// Options of `rul simulate`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the service is.
    #[arg(long, env = "RUL_URL", hide_env_values = true, default_value = "http://127.0.0.1:8000")]
    pub url: String,
    /// Directory with C-MAPSS files (train_FD001.txt, plain or .gz); without it engines are generated.
    #[arg(long, env = "CMAPSS_DIR")]
    pub data: Option<PathBuf>,
    /// Which data set the engines come from: FD001, FD002, FD003; with --data any.
    #[arg(long, default_value = "FD001")]
    pub dataset: String,
    /// Take the engines of the test set, which stop before they fail.
    #[arg(long)]
    pub test_set: bool,
    /// Engines in service at the same time; one that reaches its last cycle is replaced by another.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub engines: u32,
    /// Requests per second, as 20/s, or max.
    #[arg(long, default_value = "20/s")]
    pub rate: Pace,
    /// Connections at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,
    /// For how long: 30s, 5m.
    #[arg(long, default_value = "30s", value_parser = duration, conflicts_with = "count")]
    pub duration: Duration,
    /// How many windows instead.
    #[arg(long)]
    pub count: Option<u64>,
    /// Other engines from a moment on: FD002@60s, FD002@60s+30s to change over within 30 s, FD002:0.5@60s for half of the places.
    #[arg(long, value_name = "DATASET[:SHARE]@TIME[+TIME]")]
    pub drift: Option<Drift>,
    /// How to ask: predict, v2, or batch:N windows per request.
    #[arg(long, default_value = "predict")]
    pub protocol: Protocol,
    /// Name of the model, for v2 and batch.
    #[arg(long, env = "MODEL_NAME", default_value = "cmapss-rul")]
    pub model_name: String,
    /// Which engines come when depends on this alone.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write every answer to this CSV file.
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
    /// Print the report as one JSON line.
    #[arg(long)]
    pub json: bool,
}

/// Why there was no simulation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    #[error(transparent)]
    Client(#[from] client::AddressError),
    #[error("cannot start: {0}")]
    Runtime(#[source] std::io::Error),
    #[error("cannot write {}: {source}", path.display())]
    Samples { path: PathBuf, source: std::io::Error },
}

/// `300ms`, `30s`, `5m`, `1h`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time: use ms, s, m or h")),
    };
    let seconds = number.parse::<f64>().map(|number| number * factor).unwrap_or(f64::NAN);
    if (0.0..=604_800.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{text:?} is no time of up to a week, such as 30s"))
    }
}

/// Sends, reports, and fails when a request failed.
///
/// # Errors
/// Data that cannot be read, a service that has no usable address, a file that cannot be written.
pub fn run(options: Options) -> Result<ExitCode, Error> {
    let origin = Origin { data: options.data.clone(), test_set: options.test_set, seed: options.seed };
    let traffic = Traffic::new(&origin, &options.dataset, options.drift.as_ref(), options.engines as usize)?;
    let load = Load {
        url: options.url.clone(),
        pace: options.rate,
        connections: usize::from(options.connections),
        duration: options.count.is_none().then_some(options.duration),
        count: options.count,
        protocol: options.protocol,
        model_name: options.model_name.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let progress = std::io::stderr().is_terminal() && !options.json;
    let started = jiff::Timestamp::now();
    let report = runtime.block_on(async {
        let stop = async {
            // Without a handler for Ctrl-C it ends the process, as usual.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        drive(&load, traffic, stop, |line| {
            if progress {
                let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
            }
        })
        .await
    })?;
    if progress {
        let _ = writeln!(std::io::stderr());
    }
    if let Some(path) = &options.samples {
        let written = std::fs::write(path, report::csv(&report.samples));
        written.map_err(|source| Error::Samples { path: path.clone(), source })?;
    }
    // A closed pipe is not an error.
    let text = if options.json {
        let mut line = report.json();
        line["started_at"] = started.to_string().into();
        line.to_string()
    } else {
        report.to_string()
    };
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(if report.failed() == 0 && report.answered > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("300ms").unwrap(), Duration::from_millis(300));
        assert_eq!(duration("1.5m").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("7").unwrap(), Duration::from_secs(7));
        for wrong in ["", "s", "5 s", "-1s", "1d", "1e9s", "999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
