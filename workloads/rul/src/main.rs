//! `rul`: one binary, one sub-command per program of the platform.

use std::error::Error;
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
    Serve(Box<rul::serve::Options>),
    /// Compare what the service sees with what its model was trained on.
    Drift(Box<rul::drift::Options>),
    /// Train a model, and write it with its baseline, its golden answers and its metrics.
    Train(Box<rul::train::Options>),
    /// Publish the baseline of the model that is served.
    Baseline(Box<rul::baseline::Options>),
    /// Compare a new model with the one that is served, and serve the better one.
    Promote(Box<rul::promote::Options>),
    /// Turn drift alerts into retraining runs.
    Trigger(rul::trigger::Options),
    /// Send engines' windows to a service, with drift at a chosen moment.
    Simulate(rul::simulate::Options),
    /// Show the whole loop on this machine: drift, retraining, promotion, reload, and a report.
    Demo(Box<rul::demo::Options>),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Serve(options) => rul::serve::run(*options)?,
        Command::Drift(options) => return Ok(rul::drift::run(*options)?),
        Command::Train(options) => return Ok(rul::train::run(&options)?),
        Command::Baseline(options) => return Ok(rul::baseline::run(&options)?),
        Command::Promote(options) => return Ok(rul::promote::run(*options)?),
        Command::Trigger(options) => rul::trigger::run(options)?,
        Command::Simulate(options) => return Ok(rul::simulate::run(options)?),
        Command::Demo(options) => return Ok(rul::demo::run(*options)?),
    }
    Ok(ExitCode::SUCCESS)
}
