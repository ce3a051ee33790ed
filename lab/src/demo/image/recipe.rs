//! What the guest's Debian is made of: packages, and the few files that are not Debian's.

use crate::demo::guest::config::{Config, IMAGE_PATH};
use crate::image::debian::Debian;
use anyhow::Context;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// To be raised whenever the code that makes the base, not its words here, makes another one.
const VERSION: &str = "1";

/// Where the guest's program is, in the guest.
pub const PROGRAM: &str = "/usr/local/bin/muskox-guest";

/// Beside the essential packages.
pub const PACKAGES: &str = "systemd,systemd-sysv,udev,iproute2,initramfs-tools,linux-image-cloud-amd64";
/// The boot loader's words. Names of cards as of old, so that the first is eth0; no check of a journalled file system;
/// no terminals, whose hang-up would cut the beacon off the serial port.
pub const SYSLINUX: &str = "\
SERIAL 0 115200
DEFAULT linux
PROMPT 0
LABEL linux
 KERNEL vmlinuz
 APPEND initrd=initrd root=/dev/vda2 rw console=ttyS0,115200 quiet loglevel=4 net.ifnames=0 fsck.mode=skip systemd.getty_auto=no
";

/// Without the default dependencies it starts beside what Debian does at boot (the kernel mounts the root writable);
/// systemd starts it again whenever it ends.
const UNIT: &str = "\
[Unit]
Description=The demo's workload, beacon and echo
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/local/bin/muskox-guest
Restart=always
RestartSec=500ms
";

/// The kernel has ext4 built in; its disk, network and power button are modules. udev loads them long before the guest's
/// program starts, so that a button that is pressed early is not pressed in vain.
const INITRAMFS_HOOK: &str = "\
#!/bin/sh
[ \"$1\" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk virtio_net button evdev
";
const INITRAMFS_CONF: &str = "MODULES=list\nCOMPRESS=gzip\nCOMPRESSLEVEL=1\n";
/// Logs in memory: the root disk is the workload's.
const JOURNALD: &str = "[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\n";

const UNITS: &str = "etc/systemd/system";
/// What costs seconds on an emulated CPU, or wakes the guest up later, and is for machines that people keep.
const MASKED: &[&str] = &[
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    "systemd-pstore.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-random-seed.service",
    "systemd-logind.service",
    "systemd-user-sessions.service",
    "systemd-journal-flush.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "kmod-static-nodes.service",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
];

/// A name for what this makes of a Debian.
pub fn hash(debian: &Debian) -> String {
    let mut parts = vec![VERSION.into(), debian.words(), PACKAGES.into()];
    parts.extend(overlay().into_iter().map(|(path, text, _)| path + &text));
    parts.extend([MASKED.concat(), SYSLINUX.into(), super::IMAGE_BYTES.to_string(), super::ROOT_AT.to_string()]);
    let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
    crate::image::hash(&parts)
}

/// Writes the files that are not Debian's.
pub fn lay_out(root: &Path) -> anyhow::Result<()> {
    for (path, text, mode) in overlay() {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder"))?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
    }
    for unit in MASKED {
        symlink("/dev/null", root.join(UNITS).join(unit))?;
    }
    let wanted = root.join(UNITS).join("multi-user.target.wants");
    std::fs::create_dir_all(&wanted)?;
    symlink("../muskox-guest.service", wanted.join("muskox-guest.service"))?;
    Ok(())
}

/// Path, text and mode.
fn overlay() -> Vec<(String, String, u32)> {
    let config = Config::of_the_lab().text();
    let files = [
        (IMAGE_PATH.trim_start_matches('/'), config.as_str(), 0o644),
        ("etc/hostname", "guest\n", 0o644),
        ("etc/systemd/system/muskox-guest.service", UNIT, 0o644),
        ("etc/systemd/journald.conf.d/muskox.conf", JOURNALD, 0o644),
        ("etc/initramfs-tools/hooks/muskox", INITRAMFS_HOOK, 0o755),
        ("etc/initramfs-tools/conf.d/muskox", INITRAMFS_CONF, 0o644),
    ];
    files.map(|(path, text, mode)| (path.to_owned(), text.to_owned(), mode)).to_vec()
}

/// With no machine id at all systemd would take every boot of a new guest for its first, and set up every unit there is;
/// with an empty one it makes one up.
pub fn settle(tree: &Path) -> anyhow::Result<()> {
    let path = tree.join("etc/machine-id");
    std::fs::write(&path, "").with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the image holds the files it is said to hold. Method: a layout in a folder.
    #[test]
    fn the_layout_is_complete() {
        let root = std::env::temp_dir().join(format!("muskox-overlay-{}", std::process::id()));
        lay_out(&root).unwrap();
        let config = std::fs::read_to_string(root.join("etc/muskox-guest")).unwrap();
        let link = std::fs::read_link(root.join(UNITS).join("serial-getty@ttyS0.service")).unwrap();
        let wanted = root.join(UNITS).join("multi-user.target.wants/muskox-guest.service").exists();
        let mode = std::fs::metadata(root.join("etc/initramfs-tools/hooks/muskox")).unwrap().permissions().mode();
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(config, Config::of_the_lab().text());
        assert_eq!((link, wanted, mode & 0o777), ("/dev/null".into(), true, 0o755));
        assert!(UNIT.contains(PROGRAM));
    }
}
