//! `provision healthcheck`: does everything that was promised answer?

use anyhow::Result;

use super::supply::Builds;
use super::{Exit, host_run, load};
use crate::agent::protocol::Task;
use crate::cli::{Global, Selection};
use crate::ui::{Ui, View};

pub async fn healthcheck(global: &Global, selection: &Selection, ui: &Ui) -> Result<Exit> {
    let prepared = load::prepare(global, selection, Builds::Real, ui)?;
    let ran = host_run::run(&prepared, Task::Probe, View::Healthcheck, ui).await?;
    if ran.errors.is_empty() {
        ui.end(View::Healthcheck, &ran.summary);
    }
    Ok(host_run::exit(&ran, ui))
}
