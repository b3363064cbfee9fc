//! `provision plan`: what `up` would do.

use anyhow::Result;

use super::supply::Builds;
use super::{Exit, host_run, load};
use crate::agent::protocol::Task;
use crate::cli::{Global, Selection};
use crate::ui::{Ui, View};

pub async fn plan(global: &Global, selection: &Selection, ui: &Ui) -> Result<Exit> {
    let prepared = load::prepare(global, selection, Builds::Real, ui)?;
    let ran = host_run::run(&prepared, Task::Plan, View::Plan, ui).await?;
    if ran.errors.is_empty() {
        ui.end(View::Plan, &ran.summary);
    }
    Ok(match host_run::exit(&ran, ui) {
        Exit::Ok if ran.summary.pending_changes() > 0 => Exit::Pending,
        exit => exit,
    })
}
