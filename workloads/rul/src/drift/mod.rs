//! `rul drift`: is what the service sees still what its model was trained on?
//!
//! One look ([`watch`]) asks the service which model it serves and what it saw lately ([`service`]), compares that with the
//! model's own baseline ([`evaluate`], without I/O), and tells Alertmanager ([`alert`]), the Pushgateway ([`push`]) and the
//! reader ([`report`]).

mod alert;
mod ask;
pub mod baseline;
pub mod error;
pub mod evaluate;
mod exposition;
mod gauges;
mod listen;
mod memory;
mod options;
mod prometheus;
mod push;
pub mod record;
mod report;
pub mod seed;
pub mod service;
mod source;
mod watch;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

pub use error::Error;
pub use options::Options;

use crate::serve::log;
use listen::{Board, Shown};
use watch::{Look, Watcher};

/// Looks once, or until it is told to stop.
///
/// # Errors
/// When it cannot start. A look that fails is an exit status of 1 (once) or a gauge and a log line (again and again).
pub fn run(options: Options) -> Result<ExitCode, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| Error::Start(e.to_string()))?;
    let (json, repeat, listen) = (options.json, options.repeat(), options.listen);
    let watcher = Watcher::new(options)?;
    runtime.block_on(async {
        match repeat {
            None => Ok(once(watcher, json).await),
            Some(interval) => again(watcher, json, interval, listen).await,
        }
    })
}

async fn once(mut watcher: Watcher, json: bool) -> ExitCode {
    let look = watcher.look().await;
    print(&look, json);
    if look.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn again(
    mut watcher: Watcher,
    json: bool,
    interval: Duration,
    address: std::net::SocketAddr,
) -> Result<ExitCode, Error> {
    let install = |kind| signal(kind).map_err(|e| Error::Start(e.to_string()));
    let (mut terminate, mut interrupt) = (install(SignalKind::terminate())?, install(SignalKind::interrupt())?);
    let board = Board::default();
    let address = listen::listen(address, board.clone()).await?;
    log::info("listening", json!({ "address": address.to_string(), "interval_s": interval.as_secs_f64() }));
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = ticks.tick() => {}
        }
        let look = watcher.look().await;
        let now = (look.evaluation.as_ref().map(|e| (e.state, e.cause)), look.failures.clone());
        // The same state every 15 seconds is no news.
        if json || before.as_ref() != Some(&now) {
            print(&look, json);
            log::info(
                "looked",
                json!({
                    "state": look.evaluation.as_ref().map(|e| e.state),
                    "cause": look.evaluation.as_ref().and_then(|e| e.cause),
                    "failures": look.failures,
                    "seconds": look.circumstances.seconds,
                }),
            );
        }
        before = Some(now);
        let mut metrics = gauges::text(look.evaluation.as_ref(), &look.circumstances);
        if let Some(last) = look.circumstances.last_success {
            metrics.push_str(&gauges::success(last));
        }
        let json = look.evaluation.as_ref().and_then(|e| serde_json::to_string(e).ok());
        board.show(Shown { metrics, json, up: look.circumstances.up });
    }
    // Within the time that a pod has to end.
    match tokio::time::timeout(Duration::from_secs(5), watcher.withdraw()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::warn("not_withdrawn", json!({ "reason": error.to_string() })),
        Err(_) => log::warn("not_withdrawn", json!({ "reason": "the Pushgateway did not answer in time" })),
    }
    Ok(ExitCode::SUCCESS)
}

/// The report on stdout, what failed on stderr. A closed stream leaves nobody to tell.
fn print(look: &Look, json: bool) {
    let mut out = std::io::stdout().lock();
    if json {
        let line = json!({
            "type": "drift",
            "evaluation": look.evaluation,
            "failures": look.failures,
            "notes": look.notes,
            "alert_firing": look.circumstances.alert_firing,
            "ok": look.failures.is_empty(),
        });
        let _ = writeln!(out, "{line}");
    } else if let Some(evaluation) = &look.evaluation {
        let _ = out.write_all(report::text(evaluation, &look.notes).as_bytes());
    } else {
        for note in &look.notes {
            let _ = writeln!(out, "note       {note}");
        }
        let _ = writeln!(out, "unknown    Could not look.");
    }
    let _ = out.flush();
    for failure in &look.failures {
        let _ = writeln!(std::io::stderr(), "error: {failure}");
    }
}
