//! What every server stands on, made the same on every machine.

use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The one that every kernel has and every network namespace may choose. Some machines prefer BBR, which paces by timers: on
/// loopback it is them that would be measured.
const CONGESTION_CONTROL: &str = "reno";
const CONGESTION_FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Makes loopback usable in a new network namespace.
///
/// # Errors
/// When `ip` cannot.
pub fn network() -> anyhow::Result<()> {
    command(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    if let Err(error) = std::fs::write(CONGESTION_FILE, CONGESTION_CONTROL) {
        println!(
            "this kernel has no TCP congestion control '{CONGESTION_CONTROL}' ({error}): its own choice is measured"
        );
    }
    Ok(())
}

/// A folder, made if it is not there.
///
/// # Errors
/// When it cannot be made.
pub fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    Ok(path.canonicalize()?)
}

fn command(command: &mut Command) -> anyhow::Result<()> {
    let done = command.output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}
