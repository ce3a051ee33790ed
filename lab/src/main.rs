//! `muskox-lab`: the lab's command line.

use anyhow::Context;
use clap::{Parser, Subcommand};
use lab::demo::{self, guest_try, report};
use lab::{bench, disks, interop, kills, ledger, load, migrate, verify};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "muskox-lab", about = "The real programs on one machine, with faults", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve disks that fail on command, until SIGTERM.
    Disks(disks::Options),
    /// Send one command to the disks and print the answer.
    DisksCtl {
        /// Their control socket.
        #[arg(long)]
        control: PathBuf,
        /// For example {"do":"eio","disk":0,"on":"writes","count":1}.
        command: String,
    },
    /// Load an NBD server over one connection and print what was measured as JSON.
    NbdLoad(load::Options),
    /// Load a Unix socket as QEMU would, check everything that comes back, print the counters as JSON.
    Load(verify::Options),
    /// Kill target, initiator, power and cables under a verifying load.
    Kills(kills::Options),
    /// Move a guest at work to and fro while something breaks in each move.
    Migrate(migrate::Options),
    /// Have the Linux kernel take over what muskox wrote, and hand back what it wrote itself.
    InteropKernel(interop::Options),
    /// Compute a demo's report from its evidence, or verify one.
    Report(report::Options),
    /// The main job, with faults: a guest on a mirrored volume moves, and comes back when its host dies.
    Demo(demo::Options),
    /// Measure servers side by side.
    #[command(subcommand)]
    Bench(bench::Which),
    /// Build the demo's guest image, if it is not in the cache, and print its path.
    GuestImage(guest_try::ImageOptions),
    /// Boot the demo's guest alone, let it work, kill it, boot it again, shut it down and check its disks.
    GuestTry(guest_try::Options),
    /// Take away what crashed (or running) labs left on the machine.
    Clean {
        /// Where they recorded it.
        #[arg(long, default_value = "target/lab")]
        state: PathBuf,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("muskox-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<i32> {
    match Arguments::parse().command {
        Command::Disks(options) => disks::run(&options),
        Command::DisksCtl { control, command } => {
            let answer = disks::control::Control::connect(&control)?.send_text(&command)?;
            println!("{}", serde_json::to_string(&answer).context("writing the answer")?);
            Ok(0)
        }
        Command::NbdLoad(options) => load::run(&options),
        Command::Load(options) => verify::run(&options),
        Command::Kills(options) => kills::run(&options),
        Command::Migrate(options) => migrate::run(&options),
        Command::InteropKernel(options) => interop::run(&options),
        Command::Report(options) => report::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(which) => bench::run(&which),
        Command::GuestImage(options) => guest_try::run_image(&options),
        Command::GuestTry(options) => guest_try::run(&options),
        Command::Clean { state } => {
            let done = ledger::clean(&state)?;
            done.iter().for_each(|thing| println!("taken away: {thing}"));
            println!("{} leftovers", done.len());
            Ok(0)
        }
    }
}
