//! The kernel's md and LVM2 in the guest, as an operator uses them.

use super::guest::Guest;
use super::words::Said;
use anyhow::Context;

/// The array's device.
pub const ARRAY: &str = "/dev/md0";
/// The folder of its facts. Source: the kernel's Documentation/admin-guide/md.rst.
const FACTS: &str = "/sys/block/md0/md";

/// Assembles an array of these devices; `run` also if members are missing.
///
/// # Errors
/// When the guest does not answer.
pub fn assemble(guest: &mut Guest, devices: &[&str], run: bool) -> anyhow::Result<Said> {
    let mut words = vec!["mdadm", "--assemble", ARRAY];
    if run {
        words.insert(2, "--run");
    }
    words.extend(devices);
    guest.run(&words)
}

/// The same, and it has to be assembled.
///
/// # Errors
/// mdadm's words, if it is not.
pub fn assembled(guest: &mut Guest, devices: &[&str], run: bool) -> anyhow::Result<String> {
    let said = assemble(guest, devices, run)?;
    anyhow::ensure!(said.is_fine(), "mdadm --assemble {}: {}", devices.join(" "), said.words().trim());
    Ok(said.words())
}

/// A fact of the array's.
///
/// # Errors
/// When there is no array.
pub fn fact(guest: &mut Guest, name: &str) -> anyhow::Result<String> {
    Ok(guest.done(&["cat", &format!("{FACTS}/{name}")])?.trim().to_owned())
}

/// Waits until nothing is resynced or recovered. An array that was only read so far begins with that when it is told that it may
/// be written.
///
/// # Errors
/// When there is no array.
pub fn settle(guest: &mut Guest) -> anyhow::Result<()> {
    guest.shell(&format!(
        "mdadm --readwrite {ARRAY} 2>/dev/null || true\n\
         while [ \"$(cat {FACTS}/sync_action)\" != idle ]; do mdadm --wait {ARRAY} || sleep 0.1; done"
    ))?;
    Ok(())
}

/// Has the kernel compare all members: how many sectors differ (`mismatch_cnt`).
///
/// # Errors
/// When there is no array.
pub fn mismatches(guest: &mut Guest) -> anyhow::Result<u64> {
    settle(guest)?;
    guest.shell(&format!("echo check > {FACTS}/sync_action"))?;
    settle(guest)?;
    let counted = fact(guest, "mismatch_cnt")?;
    counted.parse().with_context(|| format!("mismatch_cnt says '{counted}'"))
}

/// Activates every volume.
///
/// # Errors
/// LVM2's words, if it refuses.
pub fn activate(guest: &mut Guest) -> anyhow::Result<()> {
    guest.shell("vgchange -ay && vgmknodes").map(drop)
}

/// Stops volumes and array in an orderly way.
///
/// # Errors
/// When something holds on to them.
pub fn stop(guest: &mut Guest) -> anyhow::Result<()> {
    guest.shell(&format!("vgchange -an >/dev/null 2>&1; mdadm --stop {ARRAY} 2>&1")).map(drop)
}

/// Assembles the array of one device alone, as a rescue boot does, fills a MiB of the volume with a letter, and stops.
///
/// # Errors
/// When a tool refuses.
pub fn run_alone(guest: &mut Guest, device: &str, volume: &str, mib: u64, letter: char) -> anyhow::Result<()> {
    assembled(guest, &[device], true)?;
    activate(guest)?;
    fill(guest, volume, mib, letter)?;
    stop(guest)
}

/// Fills a MiB of a device with a letter, around the page cache.
///
/// # Errors
/// When it cannot be written.
pub fn fill(guest: &mut Guest, device: &str, mib: u64, letter: char) -> anyhow::Result<()> {
    let script = format!(
        "head -c 1048576 /dev/zero | tr '\\0' {letter} | dd of={device} bs=1M seek={mib} iflag=fullblock oflag=direct \
         conv=notrunc 2>/dev/null"
    );
    guest.shell(&script).map(drop)
}

/// The SHA-256 of all of a device.
///
/// # Errors
/// When it cannot be read.
pub fn sum(guest: &mut Guest, device: &str) -> anyhow::Result<String> {
    let said = guest.done(&["sha256sum", device])?;
    Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
}
