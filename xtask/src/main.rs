//! Every developer command, behind one door: `cargo xtask NAME`.
//!
//! This room does *not* know what the product does; it runs cargo, apt-get and the binaries of `sim` and `lab`, and
//! keeps the tree tidy ([`tidy`]). It has few dependencies, because everybody builds it first.

mod bench;
mod check;
mod demo;
mod fuzz;
mod interop;
mod setup;
mod step;
mod tidy;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use step::Steps;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Every developer command of muskox")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what tests and benches need (Debian packages, by name, only what is missing).
    Setup {
        /// Also look for what `cargo xtask fuzz` needs.
        #[arg(long)]
        fuzz: bool,
    },
    /// Format, lints, tidy, licences, unit tests, docs. Writes nothing but `target/`.
    Check {
        /// Also ask the RustSec database about our dependencies (needs the network).
        #[arg(long)]
        advisories: bool,
    },
    /// Format and apply the lints' own suggestions.
    Fix,
    /// The house rules alone: what neither rustc nor clippy keeps. About a second.
    Tidy,
    /// Everything that must hold: setup, check, all tests, planted bugs, sim, oracles, fuzz corpus, a short lab run.
    Test {
        /// A missing oracle is a skip, not a failure (for laptops).
        #[arg(long)]
        allow_missing: bool,
    },
    /// Measure beside peers: `nbd`.
    Bench {
        /// Which one.
        name: String,
        /// Exit 1 if a goal is missed.
        #[arg(long)]
        check: bool,
        /// Passed on; `cargo xtask bench nbd -- --help` lists them.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// The main job on this machine: a real guest on a mirrored volume moves, and comes back when its host dies.
    Demo(demo::Options),
    /// Run the fuzz targets for a while (needs `setup --fuzz`).
    Fuzz {
        /// One target; all if absent.
        target: Option<String>,
        /// How long each runs.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// The Linux kernel (`kernel`) takes over what muskox wrote, and hands back what it wrote itself.
    Interop {
        /// Which oracle.
        name: String,
        /// Passed on; `cargo xtask interop kernel -- --list` shows the cases.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Run the simulator; arguments are passed on.
    #[command(disable_help_flag = true)]
    Sim {
        /// Passed on.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        more: Vec<String>,
    },
    /// Run the lab; arguments are passed on.
    #[command(disable_help_flag = true)]
    Lab {
        /// Passed on.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        more: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<bool> {
    let arguments = Arguments::parse();
    std::env::set_current_dir(root()).with_context(|| format!("going to {}", root().display()))?;
    match arguments.command {
        Command::Setup { fuzz } => setup::run(fuzz),
        Command::Check { advisories } => check::check(advisories),
        Command::Fix => check::fix(),
        Command::Tidy => in_steps(|steps| {
            steps.work("tidy", || tidy::run(Path::new(".")));
            Ok(())
        }),
        Command::Test { allow_missing } => check::test(allow_missing),
        Command::Bench { name, check, more } => bench::run(&name, check, &more),
        Command::Demo(options) => demo::run(&options),
        Command::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Command::Interop { name, more } => interop::run(&name, &more),
        Command::Sim { more } => pass_on(&["run", "--quiet", "--release", "-p", "sim", "--"], &more),
        // The lab drives the program that lies beside it.
        Command::Lab { more } => {
            // All of the lab's programs: `cargo run` builds only the one that it runs.
            let built = pass_on(&check::PROGRAM, &[])? && pass_on(&["build", "--quiet", "-p", "lab"], &[])?;
            Ok(built && pass_on(&["run", "--quiet", "-p", "lab", "--"], &more)?)
        }
    }
}

fn pass_on(cargo: &[&str], more: &[String]) -> anyhow::Result<bool> {
    Ok(step::cargo(cargo).args(more).status().context("running cargo")?.success())
}

/// The workspace's root, wherever cargo was called.
pub(crate) fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    here.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// Runs what `work` adds and prints the summary.
pub(crate) fn in_steps(work: impl FnOnce(&mut Steps) -> anyhow::Result<()>) -> anyhow::Result<bool> {
    let mut steps = Steps::default();
    work(&mut steps)?;
    Ok(steps.finish())
}
