//! `provision completions`.

use std::io::Write;

use anyhow::Result;
use clap::CommandFactory;

use super::Exit;
use crate::cli::Cli;

pub fn completions(shell: clap_complete::Shell) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "provision", &mut script);
    // A reader that has gone is fine.
    let _ = std::io::stdout().lock().write_all(&script);
    Ok(Exit::Ok)
}
