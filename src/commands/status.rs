//! `provision status`: what the ledgers of the hosts say.

use anyhow::Result;
use serde_json::json;

use super::{Exit, host_run, load};
use crate::agent::protocol::{Job, Task};
use crate::agent::status::Status;
use crate::agent::usage::Usage;
use crate::cli::{Global, HostSelection};
use crate::engine::{Cancel, Program};
use crate::transport::{self, session};
use crate::ui::{Ui, table};

pub async fn status(global: &Global, selection: &HostSelection, resources: bool, ui: &Ui) -> Result<Exit> {
    let project = load::load(global)?;
    for (name, spec) in load::hosts(&project, &selection.hosts)? {
        let connection = transport::connect(&name, &spec, &|text| ui.progress(&name, text)).await;
        ui.progress_done(&name);
        let job = Job {
            run_id: String::new(),
            task: if resources { Task::Usage } else { Task::Status },
            program: Program::default(),
            secrets: Vec::new(),
            by: host_run::caller(),
        };
        let ended = session::run(&name, connection?, job, &|_| None, &Cancel::default(), |_| {}).await?;
        let status = ended.status.unwrap_or_default();
        if let (true, Some(usage)) = (ui.is_json(), &ended.usage) {
            ui.json_line(
                &json!({"schema": 1, "type": "resources", "host": name, "facts": ended.facts, "usage": usage}),
            );
        } else if ui.is_json() {
            ui.json_line(&json!({"schema": 1, "type": "status", "host": name, "facts": ended.facts, "status": status}));
        } else {
            let facts = ended.facts;
            ui.data(&format!(
                "{name}: {} {}, {} kernel {}, {} CPUs, {} MiB",
                facts.os, facts.os_version, facts.arch, facts.kernel, facts.cpus, facts.memory_mib
            ));
            match &ended.usage {
                Some(usage) => show_usage(usage, ui),
                None => show(&status, ui),
            }
        }
    }
    Ok(Exit::Ok)
}

fn show(status: &Status, ui: &Ui) {
    let Some(run) = &status.last_run else {
        ui.data("nothing was ever provisioned here");
        return;
    };
    let end = match (&run.ended, &run.summary) {
        (Some(at), Some(summary)) if summary.ok() => format!("done at {at}"),
        (Some(at), Some(summary)) if summary.interrupted => format!("interrupted at {at}"),
        (Some(at), _) => format!("failed at {at}"),
        (None, _) => "cut off, or still running".to_owned(),
    };
    ui.data(&format!("last run {} by {}, started {}: {end}", run.run, run.by, run.started));
    let rows: Vec<_> = status
        .stages
        .iter()
        .map(|stage| {
            let changed = stage.changed.to_string();
            vec![
                stage.stage.clone(),
                crate::ui::state(stage.result),
                changed,
                format!("{:.1} s", stage.seconds),
                stage.at.clone(),
            ]
        })
        .collect();
    table::table(&["stage", "result", "changed", "time", "at"], &rows).iter().for_each(|line| ui.data(line));
    for step in &status.unfinished {
        ui.data(&format!("unfinished: {step}; the next `provision up` looks at it anew"));
    }
}

fn show_usage(usage: &Usage, ui: &Ui) {
    let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
    let free =
        |what: &str, available: u64, total: u64| format!("{what}: {} of {} available", mib(available), mib(total));
    ui.data(&free("memory", usage.memory_available, usage.memory_total));
    let rows: Vec<_> = usage
        .memory
        .iter()
        .map(|row| {
            let peak = row.peak.map_or_else(|| "-".to_owned(), mib);
            vec![row.name.clone(), mib(row.working_set), mib(row.resident_peak), peak]
        })
        .collect();
    let head = ["memory of", "now", "peak of processes", "peak with file cache"];
    table::table(&head, &rows).iter().for_each(|line| ui.data(line));
    ui.data(&free("disk", usage.disk_available, usage.disk_total));
    let rows: Vec<_> =
        usage.disk.iter().map(|row| vec![row.what.clone(), mib(row.bytes), row.path.display().to_string()]).collect();
    table::table(&["disk for", "size", "where"], &rows).iter().for_each(|line| ui.data(line));
}
