//! `provision config explain|schema`.

use anyhow::Result;
use serde_json::json;

use super::{Exit, Invalid, load, schema};
use crate::cli::{ConfigCommand, Global, SchemaKind};
use crate::ui::Ui;

pub fn config(global: &Global, command: &ConfigCommand, ui: &Ui) -> Result<Exit> {
    match command {
        ConfigCommand::Explain { key } => explain(global, key.as_deref(), ui),
        ConfigCommand::Schema { what } => {
            let schema = match what {
                SchemaKind::Stage => schema::stage(),
                SchemaKind::Inventory => schema::inventory(),
            };
            ui.data(&serde_json::to_string_pretty(&schema)?);
            Ok(Exit::Ok)
        }
    }
}

fn explain(global: &Global, key: Option<&str>, ui: &Ui) -> Result<Exit> {
    let project = load::load(global)?;
    let keys = key.map_or_else(|| project.values.keys(), |key| vec![key.to_owned()]);
    for key in keys {
        let voices = project.values.explain(&key).map_err(Invalid::from)?;
        if ui.is_json() {
            let voices: Vec<_> = voices
                .iter()
                .map(|voice| json!({"place": voice.place.to_string(), "value": voice.value, "won": voice.won}))
                .collect();
            ui.json_line(&json!({"type": "value", "key": key, "voices": voices}));
            continue;
        }
        for voice in voices.iter().rev() {
            let word = if voice.won { "" } else { "  (overridden)" };
            ui.data(&format!("{key} = {}  {}{word}", voice.value, voice.place));
        }
    }
    Ok(Exit::Ok)
}
