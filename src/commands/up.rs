//! `provision up`: bring the hosts to what the stages say.

use anyhow::Result;

use super::host_run::{self, Ran};
use super::load::{self, Prepared};
use super::supply::Builds;
use super::{Exit, Invalid};
use crate::agent::protocol::Task;
use crate::cli::{Global, HostSelection, Selection};
use crate::engine::Event;
use crate::ui::{Ui, View, table};

pub async fn up(global: &Global, selection: &Selection, ui: &Ui) -> Result<Exit> {
    let prepared = load::prepare(global, selection, Builds::Real, ui)?;
    let ran = host_run::run(&prepared, Task::Up, View::Up, ui).await?;
    if !ui.is_json() {
        stage_table(&prepared, &ran, ui);
    }
    ui.end(View::Up, &ran.summary);
    let exit = host_run::exit(&ran, ui);
    if exit == Exit::Ok && !ui.is_json() {
        endpoints(&prepared, ui);
    }
    if exit == Exit::Interrupted {
        ui.say("interrupted; the next `provision up` continues where this one stopped");
    }
    Ok(exit)
}

/// `provision stage rerun`: `up` for one stage.
pub async fn rerun(global: &Global, name: &str, hosts: &HostSelection, ui: &Ui) -> Result<Exit> {
    let project = load::load(global)?;
    project.stage(name).map_err(Invalid::from)?;
    let selection = Selection { only: vec![name.to_owned()], hosts: hosts.hosts.clone(), ..Selection::default() };
    up(global, &selection, ui).await
}

fn stage_table(prepared: &Prepared, ran: &Ran, ui: &Ui) {
    let mut rows = Vec::new();
    for (host, _, program) in &prepared.hosts {
        for stage in &program.stages {
            let ended = ran.stages.iter().find_map(|(of, event)| match event {
                Event::StageDone { stage: name, result, seconds, changed, reason }
                    if of == host && *name == stage.name =>
                {
                    Some((*result, *seconds, *changed, reason.clone()))
                }
                _ => None,
            });
            let Some((result, seconds, changed, reason)) = ended else {
                continue;
            };
            let what = reason.map_or_else(
                || format!("{changed} changed, {} checks", stage.checks.len()),
                |reason| table::cell(&reason),
            );
            rows.push(vec![
                host.clone(),
                stage.name.clone(),
                crate::ui::state(result),
                what,
                format!("{seconds:.1} s"),
            ]);
        }
    }
    if !rows.is_empty() {
        for line in table::table(&["host", "stage", "result", "what", "time"], &rows) {
            ui.data(&line);
        }
    }
}

fn endpoints(prepared: &Prepared, ui: &Ui) {
    for (_, _, program) in &prepared.hosts {
        for (name, url) in program.stages.iter().flat_map(|stage| &stage.endpoints) {
            ui.data(&format!("{name}: {url}"));
        }
    }
}
