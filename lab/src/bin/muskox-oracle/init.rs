//! What a guest needs before commands can run: its file systems, its modules, its port.

use anyhow::Context;
use lab::interop::words::PORT;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What the kernel is tried with. Some kernels have some of them built in, or not at all.
const MODULES: [&str; 14] = [
    "virtio_console",
    "virtio_scsi",
    "sd_mod",
    "virtio_net",
    "nbd",
    "md_mod",
    "raid0",
    "linear",
    "raid1",
    "raid10",
    "raid456",
    "dm_mod",
    "dm_snapshot",
    "dm_thin_pool",
];
/// The port is there as soon as its module has found it.
const PORT_MAX: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Brings the guest up; its port.
pub fn run() -> anyhow::Result<PathBuf> {
    std::env::set_current_dir("/").context("going to /")?;
    for folder in ["/run/lock", "/run/lvm", "/dev/shm"] {
        std::fs::create_dir_all(folder).with_context(|| format!("making {folder}"))?;
    }
    // The initramfs had one, which has ended; tools would wait for it.
    let _ = std::fs::remove_dir_all("/run/udev");
    for module in MODULES {
        // One that is built in, or missing, is found missing by who needs it.
        let _ = Command::new("modprobe").args(["--quiet", module]).status();
    }
    let begun = Instant::now();
    loop {
        match port() {
            Some(port) => return Ok(port),
            None => anyhow::ensure!(begun.elapsed() < PORT_MAX, "there is no port named {PORT}"),
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The device of the port with our name. Source: the kernel's drivers/char/virtio_console.c, attribute `name`.
fn port() -> Option<PathBuf> {
    let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
    let is_ours = |folder: &Path| std::fs::read_to_string(folder.join("name")).is_ok_and(|name| name.trim() == PORT);
    let found = ports.map(|entry| entry.path()).find(|folder| is_ours(folder))?;
    let device = Path::new("/dev").join(found.file_name()?);
    device.exists().then_some(device)
}
