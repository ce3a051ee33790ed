//! The program: picks the role.

use clap::{Parser, Subcommand};
use dataplane::ctl::CtlArguments;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::filter::LevelFilter;

/// A few ordinary servers become one redundant VM cluster.
#[derive(Parser)]
#[command(name = "muskox", version, arg_required_else_help = true, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serve volumes from this machine's disks over NBD.
    Target {
        /// The configuration, in TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Log more.
        #[arg(short, long)]
        verbose: bool,
    },
    /// Ask a target directly, over its control socket.
    Ctl(CtlArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(complaint) = plant_bug() {
        eprintln!("error: {complaint}");
        return ExitCode::FAILURE;
    }
    match arguments.role {
        Role::Ctl(ctl) => dataplane::ctl::run(&ctl),
        Role::Target { config, verbose } => {
            log_to_stderr(verbose);
            match dataplane::target::run(&config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("error: {error}");
                    let hint = error.hint();
                    if !hint.is_empty() {
                        eprintln!(" hint: {hint}");
                    }
                    ExitCode::FAILURE
                }
            }
        }
    }
}

fn log_to_stderr(verbose: bool) {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
}

#[cfg(not(feature = "sabotage"))]
#[allow(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
fn plant_bug() -> Result<(), String> {
    Ok(())
}

/// Plants the bug that `MUSKOX_SABOTAGE` names: the lab's way of seeing its checkers fail.
#[cfg(feature = "sabotage")]
fn plant_bug() -> Result<(), String> {
    let Ok(name) = std::env::var("MUSKOX_SABOTAGE") else { return Ok(()) };
    dataplane::sabotage::plant(&name)
}
