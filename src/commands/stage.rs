//! `provision stage list|show|rerun`.

use anyhow::Result;
use serde_json::json;

use super::supply::Builds;
use super::{Exit, Invalid, load, up};
use crate::cli::{Global, Selection, StageCommand};
use crate::engine::graph;
use crate::ui::{Ui, table};

pub async fn stage(global: &Global, command: &StageCommand, ui: &Ui) -> Result<Exit> {
    match command {
        StageCommand::List => list(global, ui),
        StageCommand::Show { name } => show(global, name, ui),
        StageCommand::Rerun { name, hosts } => up::rerun(global, name, hosts, ui).await,
    }
}

fn list(global: &Global, ui: &Ui) -> Result<Exit> {
    let project = load::load(global)?;
    let enabled: Vec<_> = project.enabled().map_err(Invalid::from)?.iter().map(|stage| stage.name.clone()).collect();
    let needs =
        |stage: &crate::project::StageFile| stage.needs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let nodes: Vec<_> = project.stages.iter().map(|stage| (stage.name.clone(), needs(stage))).collect();
    let order = graph::order(&nodes).unwrap_or_else(|_| nodes.iter().map(|(name, _)| name.clone()).collect());
    let mut rows = Vec::new();
    for stage in order.iter().filter_map(|name| project.stage(name).ok()) {
        let on = enabled.contains(&stage.name);
        if ui.is_json() {
            ui.json_line(&json!({"type": "stage", "stage": stage.name, "summary": stage.summary, "layer": stage.layer,
                "needs": needs(stage), "enabled": on, "resources": stage.resources.len(), "checks": stage.checks.len()}));
        }
        let state = if on { "enabled" } else { "off" };
        rows.push(vec![stage.name.clone(), state.into(), needs(stage).join(", "), stage.summary.clone()]);
    }
    if !ui.is_json() {
        table::table(&["stage", "state", "needs", "summary"], &rows).iter().for_each(|line| ui.data(line));
    }
    Ok(Exit::Ok)
}

fn show(global: &Global, name: &str, ui: &Ui) -> Result<Exit> {
    let project = load::load(global)?;
    let stage = project.stage(name).map_err(Invalid::from)?;
    let (summary, needs) = (stage.summary.clone(), stage.needs.clone());
    let selection = Selection { only: vec![name.to_owned()], ..Selection::default() };
    let prepared = load::prepare(global, &selection, Builds::Pretend, ui)?;
    let Some((_, _, program)) = prepared.hosts.first() else {
        return Ok(Exit::Ok);
    };
    for stage in &program.stages {
        if ui.is_json() {
            ui.json_line(&json!({"type": "stage", "stage": stage.name, "summary": summary, "needs": stage.needs}));
        } else {
            ui.data(&format!("{}: {summary}", stage.name));
            let needs: Vec<_> = needs.iter().map(|(name, _)| name.as_str()).collect();
            ui.data(&format!("needs: {}", if needs.is_empty() { "nothing".into() } else { needs.join(", ") }));
        }
        for (what, title, place) in stage
            .resources
            .iter()
            .map(|step| ("resource", step.title(), &step.place))
            .chain(stage.checks.iter().map(|probe| ("check", probe.title(), &probe.place)))
        {
            if ui.is_json() {
                ui.json_line(&json!({"type": what, "stage": stage.name, what: title, "place": place.to_string()}));
            } else {
                ui.data(&format!("  {what:<8}  {title}  ({place})"));
            }
        }
    }
    Ok(Exit::Ok)
}
