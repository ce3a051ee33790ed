//! A disk that the host has plugged in.

use anyhow::Context;
use std::path::Path;
use std::time::{Duration, Instant};

const APPEARS_MAX: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const DEVICES: &str = "/sys/bus/scsi/devices";

/// Waits for the SCSI disk with this target number, and prints its device.
pub fn wait(target: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        if let Some(device) = device(target)? {
            println!("{device}");
            return Ok(());
        }
        anyhow::ensure!(begun.elapsed() < APPEARS_MAX, "no disk came at target {target}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Devices are named HOST:CHANNEL:TARGET:LUN; a disk that is ready has a folder `block` with its name in it.
fn device(target: &str) -> anyhow::Result<Option<String>> {
    for entry in std::fs::read_dir(DEVICES).with_context(|| format!("reading {DEVICES}"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let parts: Vec<&str> = name.split(':').collect();
        if parts.len() != 4 || parts[2] != target {
            continue;
        }
        let Ok(blocks) = std::fs::read_dir(entry.path().join("block")) else { continue };
        for block in blocks.flatten() {
            let device = Path::new("/dev").join(block.file_name());
            if device.exists() {
                return Ok(Some(device.display().to_string()));
            }
        }
    }
    Ok(None)
}
