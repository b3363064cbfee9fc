//! `provision validate`: the whole project, without connecting to anything and without building anything.

use anyhow::Result;

use super::supply::Builds;
use super::{Exit, load};
use crate::cli::{Global, Selection};
use crate::ui::Ui;

pub fn validate(global: &Global, ui: &Ui) -> Result<Exit> {
    let prepared = load::prepare(global, &Selection::default(), Builds::Pretend, ui)?;
    for (host, _, program) in &prepared.hosts {
        let resources: usize = program.stages.iter().map(|stage| stage.resources.len()).sum();
        let checks: usize = program.stages.iter().map(|stage| stage.checks.len()).sum();
        let stages = program.stages.len();
        if ui.is_json() {
            ui.json_line(&serde_json::json!({"type": "valid", "host": host, "stages": stages, "resources": resources, "checks": checks}));
        } else {
            ui.data(&format!("{host}: valid: {stages} stages, {resources} resources, {checks} checks"));
        }
    }
    Ok(Exit::Ok)
}
