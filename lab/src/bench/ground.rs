//! What every server stands on, made the same on every machine.

use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The one that every kernel has and every network namespace may choose. Some machines prefer BBR, which paces by timers: on
/// loopback it is them that would be measured.
const CONGESTION_CONTROL: &str = "reno";
const CONGESTION_FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
/// Images of a peer, of a volume, and two of a mirror, with room for metadata.
const IMAGES: u64 = 4;
const METADATA_MIB: u64 = 512;

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

/// A tmpfs of huge pages at `path`, seen in this mount namespace only. With small ones more than half of a large write is
/// the kernel's walk over 64 pages, which is the same for all servers, twice for a mirror, and on no disk.
///
/// # Errors
/// When nothing can be mounted.
pub fn memory(path: &Path, image_mib: u64) -> anyhow::Result<PathBuf> {
    let path = folder(path)?;
    command(Command::new("mount").args(["--make-rprivate", "/"]))?;
    let mount = |more: &str| {
        let size = format!("size={}m{more}", image_mib * IMAGES + METADATA_MIB);
        command(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "muskox-bench"]).arg(&path))
    };
    if mount(",huge=always").is_err() {
        println!("this kernel has no huge pages for a tmpfs: small ones are measured");
        mount("")?;
    }
    Ok(path)
}

fn command(command: &mut Command) -> anyhow::Result<()> {
    let done = command.output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}
