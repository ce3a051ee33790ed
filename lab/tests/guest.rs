//! The demo's guest, for real: built (or taken from the cache), booted, killed, booted again, shut down, and its disks
//! held against what the referee heard.

// A panic is the report, in helpers too.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TOOLS: [&str; 8] =
    ["mmdebstrap", "syslinux", "mcopy", "mkfs.fat", "mke2fs", "debugfs", "e2fsck", "qemu-system-x86_64"];

/// Whether everything is there; what is missing is a failure, if that is not allowed.
fn is_possible() -> bool {
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/sbin", "/usr/sbin"].map(PathBuf::from))
        .collect();
    let missing = TOOLS.iter().find(|tool| !folders.iter().any(|folder| folder.join(tool).is_file()));
    let is_root = rustix::process::geteuid().is_root();
    let allowed = std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1");
    let possible = missing.is_none() && is_root;
    assert!(possible || allowed, "root: {is_root}, missing: {missing:?}; `cargo xtask setup` installs it");
    if !possible {
        eprintln!("SKIP: root: {is_root}, missing: {missing:?}");
    }
    possible
}

/// Goal: image, program, referee, prober, lookout and the check of the disks work together, over a sudden death.
/// Method: `guest-try`, shortened; the rate is not judged on a machine that runs other tests beside.
#[test]
fn the_guest_works_dies_and_has_lost_nothing() {
    if !is_possible() {
        return;
    }
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/lab");
    let mut command = Command::new(env!("CARGO_BIN_EXE_muskox-lab"));
    command.args(["guest-try", "--secs", "3", "--rate-min", "5", "--program", env!("CARGO_BIN_EXE_muskox-guest")]);
    command.arg("--cache").arg(lab.join("cache")).arg("--state").arg(lab.join("guest-test"));
    let done = command.stdin(Stdio::null()).output().unwrap();
    let (report, words) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{}\n{report}\n{words}", done.status);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let number = |path: &str| report.pointer(path).and_then(serde_json::Value::as_u64).unwrap();
    assert!(number("/found/acked") > 30 && number("/found/slots") > 30, "{report}");
    assert!(number("/answers") > 100 && number("/beacons") > 30, "{report}");
    assert_eq!(std::fs::read_dir(lab.join("guest-test")).unwrap().count(), 0, "it leaves nothing behind");
}
