//! `rul`: one binary, one sub-command per program of the platform.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Remaining useful life of turbofan engines: the workloads of the platform.
#[derive(Debug, Parser)]
#[command(name = "rul", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer predictions over HTTP.
    Serve(rul::serve::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(options) => rul::serve::run(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}
