//! `provision artifact list|fetch|verify`.

use anyhow::Result;
use serde_json::json;

use super::{Exit, Invalid, bundle, load, supply};
use crate::cli::{ArtifactCommand, Global};
use crate::image::sources::{Row, Sources, Verified};
use crate::ui::{Ui, table};

pub async fn artifact(global: &Global, command: &ArtifactCommand, ui: &Ui) -> Result<Exit> {
    if matches!(command, ArtifactCommand::Fetch { .. }) {
        bundle::refuse(global, "artifact fetch", "brings artifacts from where artifacts.yml says")?;
    }
    let sources = supply::sources(&load::load(global)?)?;
    match command {
        ArtifactCommand::List => Ok(list(&sources.list()?, ui)),
        ArtifactCommand::Fetch { names } => fetch(&sources, names, ui).await,
        ArtifactCommand::Verify => {
            let verified = sources.verify(&|text| ui.progress("artifact", text));
            ui.progress_done("artifact");
            Ok(report(&verified?, ui))
        }
    }
}

async fn fetch(sources: &Sources, names: &[String], ui: &Ui) -> Result<Exit> {
    let all: Vec<_> = sources.lock().iter().map(|artifact| artifact.name.clone()).collect();
    let names = if names.is_empty() { &all } else { names };
    let fetched = sources.fetch(names, &|text| ui.progress("artifact", text)).await;
    ui.progress_done("artifact");
    // The only error of the whole: a name that is none.
    let fetched = fetched.map_err(Invalid)?;
    let failed = fetched.iter().filter(|(_, result)| result.is_err()).count();
    for (name, result) in &fetched {
        let error = result.as_ref().err().map(|error| format!("{error:#}"));
        if ui.is_json() {
            let mut line = json!({"type": "artifact", "name": name, "result": "cached"});
            if let Some(error) = error {
                line["result"] = json!("failed");
                line["error"] = json!(error);
            }
            ui.json_line(&line);
        } else if let Some(error) = error {
            ui.say(&format!("error: {name}: {error}"));
        }
    }
    let cached = fetched.len() - failed;
    if ui.is_json() {
        ui.json_line(&json!({"type": "summary", "cached": cached, "failed": failed, "ok": failed == 0}));
    } else if failed == 0 {
        ui.say(&format!("{cached} artifacts are in the cache"));
    } else {
        ui.say(&format!("{cached} artifacts are in the cache, {failed} could not be had (above)"));
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::Failed })
}

fn report(all: &[Verified], ui: &Ui) -> Exit {
    let files: usize = all.iter().map(|it| it.files).sum();
    let damaged: usize = all.iter().map(|it| it.damaged).sum();
    let bytes: u64 = all.iter().map(|it| it.bytes).sum();
    let missing = all.iter().filter(|it| !it.complete).count();
    for it in all {
        if ui.is_json() {
            let result = match it {
                Verified { damaged: 1.., .. } => "damaged",
                Verified { complete: false, .. } => "missing",
                _ => "verified",
            };
            ui.json_line(&json!({
                "type": "artifact", "name": it.name, "result": result, "files": it.files, "bytes": it.bytes, "damaged": it.damaged,
            }));
        } else if it.damaged > 0 {
            let (name, damaged, files) = (&it.name, it.damaged, it.files);
            ui.data(&format!("{name}: {damaged} of {files} files damaged and removed; the next use brings it anew"));
        }
    }
    if ui.is_json() {
        ui.json_line(&json!({
            "type": "summary", "files": files, "bytes": bytes, "damaged": damaged, "missing": missing, "ok": damaged == 0,
        }));
    } else {
        let good = files - damaged;
        let absent = if missing > 0 { format!("; {missing} artifacts are not in the cache") } else { String::new() };
        ui.data(&format!("{good} of {files} files ({:.1} MB) are what their hashes say{absent}", bytes as f64 / 1e6));
    }
    if damaged == 0 { Exit::Ok } else { Exit::Failed }
}

fn list(rows: &[Row], ui: &Ui) -> Exit {
    if ui.is_json() {
        rows.iter().for_each(|row| ui.json_line(&json!({"type": "artifact", "artifact": row})));
        let cached = rows.iter().filter(|row| row.cached.is_some()).count();
        ui.json_line(&json!({"type": "summary", "artifacts": rows.len(), "cached": cached}));
        return Exit::Ok;
    }
    let cells = |row: &Row| {
        let cached = row.cached.map_or_else(|| "-".into(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
        let hash = row.hash.as_deref().unwrap_or("-").trim_start_matches("sha256:").chars().take(12).collect();
        let kind = format!("{:?}", row.kind).to_lowercase();
        vec![row.name.clone(), row.version.clone(), kind, hash, cached, row.from.clone()]
    };
    let head = ["name", "version", "kind", "hash", "cached", "from"];
    let cells: Vec<_> = rows.iter().map(cells).collect();
    table::table(&head, &cells).iter().for_each(|line| ui.data(line));
    Exit::Ok
}
