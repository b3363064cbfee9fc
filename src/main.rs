//! Arguments -> command -> exit code, nothing else.

use std::process::ExitCode;

use clap::Parser;
use provision::cli::Cli;
use provision::commands;

fn main() -> ExitCode {
    // The only TLS provider in the binary; kube and reqwest find it here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let exit = runtime.block_on(commands::run(cli));
            // A blocking read of standard input must not hold the end up.
            runtime.shutdown_background();
            ExitCode::from(exit.code())
        }
        Err(_) => ExitCode::FAILURE,
    }
}
