//! `muskox-guest`: runs in the demo's guest, started by systemd on every boot and again whenever it ends.
//!
//! It takes name, keys and address from the seed, then does four things beside each other: the *workload* (records on
//! two disks, acknowledged to the referee), the *beacon* on the serial console, the *echo* for probes, and the *power
//! button*. A disk that refuses ends the program: the next one goes on behind the last whole record. What all this
//! means on disk and wire is in `lab::demo::guest`.

mod beacon;
mod button;
mod echo;
mod setup;
mod workload;

use anyhow::Context;
use lab::demo::guest::config::Config;
use lab::demo::guest::record::Boot;
use lab::demo::guest::words;
use std::io::Write;
use std::process::ExitCode;

/// Where a guest of muskox says things: the serial port that every machine has.
const CONSOLE: &str = "/dev/ttyS0";

fn main() -> ExitCode {
    let boot = match boot() {
        Ok(boot) => boot,
        Err(error) => return failed(Boot(0), &error),
    };
    match run(boot) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(boot, &error),
    }
}

fn run(boot: Boot) -> anyhow::Result<()> {
    // Before anything that can take time: that it lives has to be seen however slow the rest is.
    beacon::start(boot)?;
    button::start();
    let mut config = Config::of_the_lab();
    setup::run(&mut config)?;
    echo::start(boot)?;
    workload::run(boot, &config)
}

fn boot() -> anyhow::Result<Boot> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the boot id")?;
    Boot::of_boot_id(&text).context("the kernel's boot id is no UUID")
}

/// Says it where it is seen also when no disk takes a log any more.
fn failed(boot: Boot, error: &anyhow::Error) -> ExitCode {
    let line = words::error(boot, &format!("{error:#}"));
    eprint!("{line}");
    if let Ok(mut console) = std::fs::OpenOptions::new().write(true).open(CONSOLE) {
        // A line of its own: the beacon may be in the middle of one.
        let _ = console.write_all(format!("\n{line}").as_bytes());
    }
    ExitCode::FAILURE
}
