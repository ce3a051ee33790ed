//! `cargo xtask setup`: installs what tests and benches call, by Debian package name, only what is missing.
//!
//! Says what it does before it does it; with nothing missing it asks dpkg one question and is done.

mod apt;
mod backports;
pub mod tools;

use anyhow::Context;
use std::path::Path;
use std::process::Command;

/// What tests, oracles and benches call, and the Debian package it comes in.
const PACKAGES: [(&str, &str); 16] = [
    ("mdadm", "oracle: arrays as stock md sees them"),
    ("lvm2", "oracle: volumes as stock LVM sees them"),
    ("nbdkit", "peer of `bench nbd`"),
    ("libnbd-bin", "oracle: an NBD client that is not ours"),
    ("python3-libnbd", "oracle: single NBD requests by script"),
    ("qemu-utils", "oracle: qemu-img, qemu-io and qemu-nbd"),
    ("iproute2", "private network namespaces"),
    ("util-linux", "losetup, taskset, setpriv"),
    ("openssl", "oracle: certificates and a TLS client that are not ours"),
    ("busybox-static", "guests of tests"),
    ("dosfstools", "oracle: a guest's seed is a sound FAT; the demo's guest"),
    ("mtools", "oracle: a guest's seed holds its files; the demo's guest: its boot partition"),
    ("mmdebstrap", "the demo's guest: its Debian"),
    ("syslinux", "the demo's guest: its boot loader"),
    ("syslinux-common", "the demo's guest: its master boot record"),
    ("e2fsprogs", "the demo's guest: its root file system, and its check"),
];

/// A guest's QEMU; its packages come from where `qemu-utils` came from, or apt refuses the mixture.
/// `qemu-storage-daemon`, a peer of `bench nbd`, is in qemu-system-common 7.2 and in qemu-utils 10.0.
const QEMU: [(&str, &str); 4] = [
    ("qemu-system-common", "qemu-storage-daemon, peer of `bench nbd`"),
    ("qemu-system-x86", "guests"),
    ("qemu-block-extra", "guests' disks"),
    ("seabios", "guests' firmware"),
];

/// `cargo xtask setup`.
///
/// # Errors
/// When dpkg or apt cannot be run.
pub fn run(fuzz: bool) -> anyhow::Result<bool> {
    crate::in_steps(|steps| {
        steps.work("packages", || packages(Path::new("/etc")));
        steps.work("cargo-deny", tools::install_cargo_deny);
        if fuzz {
            steps.work("cargo-fuzz", tools::prepare_fuzz);
        }
        Ok(())
    })
}

/// Setup as the first step of `cargo xtask test`: what cannot be installed is a failure, or a remark if that is allowed.
///
/// # Errors
/// When dpkg or apt cannot be run.
pub fn for_tests(allow_missing: bool) -> anyhow::Result<Vec<String>> {
    let mut wrong = packages(Path::new("/etc"))?;
    wrong.extend(tools::install_cargo_deny()?);
    if allow_missing {
        wrong.drain(..).for_each(|line| println!("allowed: {line}"));
    }
    Ok(wrong)
}

/// Installs the missing packages; what is still wrong afterwards, one line each.
fn packages(etc: &Path) -> anyhow::Result<Vec<String>> {
    let wanted: Vec<&str> = PACKAGES.iter().chain(&QEMU).map(|(name, _)| *name).collect();
    let installed = apt::installed(&wanted)?;
    let is_missing = |name: &&str| !installed.contains_key(*name);
    let missing: Vec<&str> = wanted.iter().copied().filter(is_missing).collect();
    if missing.is_empty() {
        println!("all {} packages are installed", wanted.len());
        return Ok(Vec::new());
    }
    for (name, why) in PACKAGES.iter().chain(&QEMU).filter(|(name, _)| missing.contains(name)) {
        println!("missing: {name} ({why})");
    }
    if !is_root()? {
        return Ok(vec![format!("not root: run `sudo apt-get install {}`", missing.join(" "))]);
    }
    let from_backports = installed.get("qemu-utils").is_some_and(|version| version.contains("~bpo"));
    let (qemu, others): (Vec<&str>, Vec<&str>) =
        missing.into_iter().partition(|name| from_backports && QEMU.iter().any(|(qemu, _)| qemu == name));
    if !others.is_empty() {
        apt::install(&others, None)?;
    }
    if !qemu.is_empty() {
        println!("qemu-utils is from backports, so the rest of QEMU has to be");
        let suite = backports::ensure_source(etc)?;
        apt::install(&qemu, Some(&suite))?;
    }
    let installed = apt::installed(&wanted)?;
    let still = wanted.into_iter().filter(|name| !installed.contains_key(*name));
    Ok(still.map(|name| format!("{name} is still missing after apt-get install")).collect())
}

fn is_root() -> anyhow::Result<bool> {
    let id = Command::new("id").arg("-u").output().context("running id")?;
    Ok(id.stdout.trim_ascii() == b"0")
}
