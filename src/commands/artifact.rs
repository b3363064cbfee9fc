//! `provision artifact list|fetch|verify`.

use anyhow::Result;
use serde_json::json;

use super::{Exit, load, supply};
use crate::cli::{ArtifactCommand, Global};
use crate::ui::{Ui, table};

pub async fn artifact(global: &Global, command: &ArtifactCommand, ui: &Ui) -> Result<Exit> {
    let sources = supply::sources(&load::load(global)?)?;
    let progress = |text: &str| ui.progress("artifact", text);
    match command {
        ArtifactCommand::List => list(&sources.list()?, ui),
        ArtifactCommand::Fetch { names } => {
            let all: Vec<_> = sources.lock().iter().map(|artifact| artifact.name.clone()).collect();
            let names = if names.is_empty() { &all } else { names };
            let result = sources.fetch(names, &progress).await;
            ui.progress_done("artifact");
            result?;
            ui.say(&format!("{} artifacts are in the cache", names.len()));
            Ok(Exit::Ok)
        }
        ArtifactCommand::Verify => {
            let broken = sources.verify(&progress)?;
            ui.progress_done("artifact");
            for name in &broken {
                ui.data(&format!("{name}: the cached file was damaged and is removed; the next use brings it anew"));
            }
            if broken.is_empty() {
                ui.data("all cached artifacts are what their hashes say");
            }
            Ok(if broken.is_empty() { Exit::Ok } else { Exit::Failed })
        }
    }
}

fn list(rows: &[crate::image::sources::Row], ui: &Ui) -> Result<Exit> {
    let mut cells = Vec::new();
    for row in rows {
        if ui.is_json() {
            ui.json_line(&json!({"type": "artifact", "artifact": row}));
        }
        let cached = row.cached.map_or_else(|| "-".into(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
        let hash = row.hash.as_deref().unwrap_or("-").trim_start_matches("sha256:").chars().take(12).collect();
        cells.push(vec![
            row.name.clone(),
            row.version.clone(),
            format!("{:?}", row.kind).to_lowercase(),
            hash,
            cached,
            row.from.clone(),
        ]);
    }
    if !ui.is_json() {
        let head = ["name", "version", "kind", "hash", "cached", "from"];
        table::table(&head, &cells).iter().for_each(|line| ui.data(line));
    }
    Ok(Exit::Ok)
}
