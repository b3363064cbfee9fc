//! One file per verb. A command gets its arguments and the [`Ui`], and returns how it ended.

mod agent;
mod artifact;
mod completions;
mod config;
mod healthcheck;
mod host_run;
mod load;
mod plan;
mod sandbox;
mod schema;
mod secret;
mod stage;
mod status;
mod supply;
mod tunnel;
mod up;
mod validate;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::ui::Ui;

/// How a command ended: the contract of the exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0
    Ok,
    /// 1
    Failed,
    /// 2: the call or the project is wrong; nothing was touched.
    Usage,
    /// 3: `plan` found something to do.
    Pending,
    /// 130
    Interrupted,
    /// The status of a command in a sandbox host.
    Of(u8),
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Pending => 3,
            Self::Interrupted => 130,
            Self::Of(code) => code,
        }
    }
}

/// The project is wrong: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Invalid(pub anyhow::Error);

impl From<Diagnostics> for Invalid {
    fn from(faults: Diagnostics) -> Self {
        Self(faults.into())
    }
}

impl From<Diagnostic> for Invalid {
    fn from(fault: Diagnostic) -> Self {
        Self(fault.into())
    }
}

/// Runs the command and reports an error that ends it.
pub async fn run(cli: Cli) -> Exit {
    let ui = Ui::new(cli.global.json, cli.global.verbose);
    match dispatch(&cli, &ui).await {
        Ok(exit) => exit,
        Err(error) => {
            ui.error(&error);
            if error.downcast_ref::<Invalid>().is_some() { Exit::Usage } else { Exit::Failed }
        }
    }
}

async fn dispatch(cli: &Cli, ui: &Ui) -> Result<Exit> {
    let global = &cli.global;
    match &cli.command {
        Command::Up(selection) => up::up(global, selection, ui).await,
        Command::Plan(selection) => plan::plan(global, selection, ui).await,
        Command::Stage(command) => stage::stage(global, command, ui).await,
        Command::Status { hosts, resources } => status::status(global, hosts, *resources, ui).await,
        Command::Tunnel { targets, host } => tunnel::tunnel(global, targets, host.as_deref(), ui).await,
        Command::Healthcheck(selection) => healthcheck::healthcheck(global, selection, ui).await,
        Command::Validate => validate::validate(global, ui),
        Command::Config(command) => config::config(global, command, ui),
        Command::Secret(command) => secret::secret(global, command, ui),
        Command::Artifact(command) => artifact::artifact(global, command, ui).await,
        Command::Sandbox(command) => sandbox::sandbox(global, command, ui),
        Command::Completions { shell } => completions::completions(*shell),
        Command::Agent => agent::agent().await,
    }
}
