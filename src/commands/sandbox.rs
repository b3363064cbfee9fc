//! `provision sandbox up|down|list|shell|address`.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::{Exit, load};
use crate::cli::{Global, SandboxCommand};
use crate::sandbox::{DEFAULT_NAME, Sandbox, UpOptions};
use crate::ui::{Ui, table};

pub fn sandbox(global: &Global, command: &SandboxCommand, ui: &Ui) -> Result<Exit> {
    let sandbox = Sandbox::from_environment()?;
    match command {
        SandboxCommand::Up { name, offline } => up(global, &sandbox, name, *offline, ui),
        SandboxCommand::Down { name, all } => down(&sandbox, name, *all, ui),
        SandboxCommand::List => list(&sandbox, ui),
        SandboxCommand::Shell { name, command } => {
            let status = sandbox.shell(name, command)?;
            Ok(Exit::Of(u8::try_from(status).unwrap_or(255)))
        }
        SandboxCommand::Address { name } => {
            ui.data(&sandbox.address(name)?.to_string());
            Ok(Exit::Ok)
        }
    }
}

fn up(global: &Global, sandbox: &Sandbox, name: &str, offline: bool, ui: &Ui) -> Result<Exit> {
    let inventory = match &global.inventory {
        Some(path) => std::env::current_dir()?.join(path),
        None => load::root(global)?.join("inventory").join(format!("{name}.yml")),
    };
    let options = UpOptions { name: name.to_owned(), inventory, offline, ..UpOptions::default() };
    let host = sandbox.up(&options, &mut |text| {
        ui.progress("sandbox", text);
    });
    ui.progress_done("sandbox");
    let host = host?;
    if ui.is_json() {
        ui.json_line(&json!({"schema": 1, "type": "sandbox", "host": host}));
        return Ok(Exit::Ok);
    }
    let what = if host.already_running { "was already running" } else { "is up" };
    ui.data(&format!("sandbox host {} {what} at {}", host.name, host.address));
    ui.say(&format!("inventory: {}", shown(&host.inventory)));
    ui.say(&format!("next: provision -i {} up", shown(&host.inventory)));
    Ok(Exit::Ok)
}

fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn down(sandbox: &Sandbox, name: &str, all: bool, ui: &Ui) -> Result<Exit> {
    let names = if all { sandbox.list()?.into_iter().map(|host| host.name).collect() } else { vec![name.to_owned()] };
    for name in &names {
        let result = sandbox.down(name, &mut |text| {
            ui.progress("sandbox", text);
        });
        ui.progress_done("sandbox");
        result?;
        ui.data(&format!("sandbox host {name} is gone"));
    }
    if names.is_empty() {
        ui.say("there is no sandbox host");
    }
    Ok(Exit::Ok)
}

fn list(sandbox: &Sandbox, ui: &Ui) -> Result<Exit> {
    let hosts = sandbox.list()?;
    if ui.is_json() {
        hosts.iter().for_each(|host| ui.json_line(&json!({"type": "sandbox", "host": host})));
        return Ok(Exit::Ok);
    }
    if hosts.is_empty() {
        ui.say(&format!("there is no sandbox host; make one: provision sandbox up [{DEFAULT_NAME}]"));
        return Ok(Exit::Ok);
    }
    let rows: Vec<_> = hosts
        .iter()
        .map(|host| {
            let address = host.address.map_or_else(|| "?".into(), |address| address.to_string());
            let inventory = host.inventory.as_deref().map_or_else(String::new, shown);
            vec![host.name.clone(), format!("{:?}", host.status).to_lowercase(), address, inventory]
        })
        .collect();
    table::table(&["host", "state", "address", "inventory"], &rows).iter().for_each(|line| ui.data(line));
    Ok(Exit::Ok)
}
