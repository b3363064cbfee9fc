//! One task on all chosen hosts at the same time, with Ctrl-C in two steps.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::Exit;
use super::load::Prepared;
use crate::agent::protocol::{Job, Task};
use crate::engine::cancel::Urgency;
use crate::engine::{Cancel, Event, Summary};
use crate::transport::{self, session};
use crate::ui::{Ui, View};

/// What all hosts came to.
pub struct Ran {
    pub summary: Summary,
    /// Last events of stages, by host, for the table.
    pub stages: Vec<(String, Event)>,
    /// Hosts that could not be worked on.
    pub errors: Vec<anyhow::Error>,
}

/// Runs `task` on all hosts.
pub async fn run(prepared: &Prepared, task: Task, view: View, ui: &Ui) -> Result<Ran> {
    let run_id = run_id();
    let names: Vec<_> = prepared.hosts.iter().map(|(name, ..)| name.clone()).collect();
    ui.begin(view, &names, &run_id);
    let cancel = Cancel::default();
    let mut running: FuturesUnordered<_> =
        prepared.hosts.iter().map(|host| on_host(prepared, host, task, view, &run_id, &cancel, ui)).collect();
    let mut ran = Ran { summary: Summary::default(), stages: Vec::new(), errors: Vec::new() };
    let work = async {
        while let Some((stages, result)) = running.next().await {
            ran.stages.extend(stages);
            match result {
                Ok(summary) => ran.summary.add(&summary),
                Err(error) => ran.errors.push(error),
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = watch_signals(&cancel, ui) => {}
    }
    drop(running);
    ran.summary.interrupted |= cancel.is_cancelled();
    Ok(ran)
}

async fn on_host(
    prepared: &Prepared,
    (name, spec, program): &(String, crate::project::HostSpec, crate::engine::Program),
    task: Task,
    view: View,
    run_id: &str,
    cancel: &Cancel,
    ui: &Ui,
) -> (Vec<(String, Event)>, Result<Summary>) {
    let mut stages = Vec::new();
    let result = async {
        let connection = transport::connect(name, spec, &|text| ui.progress(name, text)).await;
        ui.progress_done(name);
        let job = Job {
            run_id: run_id.to_owned(),
            task,
            program: program.clone(),
            secrets: prepared.secrets.clone(),
            by: caller(),
        };
        let find = |sha256: &str| prepared.supply.blob(sha256);
        let ended = session::run(name, connection?, job, &find, cancel, |event| {
            ui.event(view, name, &event);
            if matches!(event, Event::StageDone { .. }) {
                stages.push((name.clone(), event));
            }
        })
        .await?;
        Ok(ended.summary)
    };
    let result = result.await;
    (stages, result)
}

/// First SIGINT or SIGTERM: finish the current step. Second: stop now. Never returns.
async fn watch_signals(cancel: &Cancel, ui: &Ui) {
    use tokio::signal::unix::{SignalKind, signal};
    if let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        let steps = [
            (Urgency::Finish, "interrupted: the current step is finished first; once more to stop it"),
            (Urgency::Now, "interrupted again: stopping the current step"),
        ];
        for (urgency, text) in steps {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            ui.say(text);
            cancel.raise(urgency);
        }
    }
    std::future::pending().await
}

/// Time and process: unique enough, and sorts by time.
fn run_id() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default();
    format!("{seconds:x}-{:x}", std::process::id())
}

/// Who runs this: `user@machine`.
pub fn caller() -> String {
    let user = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "root".into());
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{user}@{machine}")
}

/// Reports hosts that could not be worked on, and how the command ended.
pub fn exit(ran: &Ran, ui: &Ui) -> Exit {
    for error in &ran.errors {
        ui.error(error);
    }
    if ran.summary.interrupted {
        Exit::Interrupted
    } else if !ran.errors.is_empty() || !ran.summary.ok() {
        Exit::Failed
    } else {
        Exit::Ok
    }
}
