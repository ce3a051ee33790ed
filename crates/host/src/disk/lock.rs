//! Taking a disk for this process alone: O_EXCL for block devices, and a lock on the very open file description that
//! does the I/O.
//!
//! Both belong to the open file description, and a request in flight keeps that alive. So a target that was killed
//! holds its disks until the kernel has finished its last request, and its successor, which asks for the same lock,
//! cannot read or write before. The lock also keeps udev away, which probes block devices under a shared lock
//! (systemd, "Locking Block Device Access"): a device may be busy for a moment for that reason, too.

use super::{DiskError, DiskErrorKind};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Opens and locks `path`. Also says whether O_DIRECT is on.
pub(super) fn claim(path: &Path, read_only: bool) -> Result<(File, bool), DiskError> {
    let fail = |kind| DiskError { path: path.to_owned(), kind };
    let seen = std::fs::metadata(path).map_err(|e| fail(DiskErrorKind::Open(e)))?;
    check_kind(&seen).map_err(fail)?;
    let (file, direct) = open(path, &seen, read_only).map_err(|errno| fail(open_failed(errno, &seen)))?;
    let opened = file.metadata().map_err(|e| fail(DiskErrorKind::Open(e)))?;
    if (opened.dev(), opened.ino(), opened.file_type()) != (seen.dev(), seen.ino(), seen.file_type()) {
        return Err(fail(DiskErrorKind::Replaced));
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((file, direct)),
        Err(Errno::WOULDBLOCK) => Err(fail(DiskErrorKind::Busy { holder: lock_holder(&opened) })),
        Err(errno) => Err(fail(DiskErrorKind::Open(errno.into()))),
    }
}

fn check_kind(meta: &Metadata) -> Result<(), DiskErrorKind> {
    let kind = meta.file_type();
    if kind.is_block_device() || kind.is_file() {
        return Ok(());
    }
    Err(DiskErrorKind::NotADisk(match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_char_device() => "a character device",
        () => "neither a block device nor a file",
    }))
}

/// A file system without O_DIRECT answers EINVAL at open.
fn open(path: &Path, meta: &Metadata, read_only: bool) -> Result<(File, bool), Errno> {
    let mut flags = OFlags::CLOEXEC | if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    if meta.file_type().is_block_device() {
        flags |= OFlags::EXCL;
    }
    match rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
        Ok(file) => Ok((file.into(), true)),
        Err(Errno::INVAL) => Ok((rustix::fs::open(path, flags, Mode::empty())?.into(), false)),
        Err(errno) => Err(errno),
    }
}

fn open_failed(errno: Errno, meta: &Metadata) -> DiskErrorKind {
    match errno {
        Errno::BUSY => DiskErrorKind::Busy { holder: exclusive_holder(meta) },
        errno => DiskErrorKind::Open(errno.into()),
    }
}

/// Who holds the lock, from /proc/locks: `1: FLOCK ADVISORY WRITE 4711 00:1b:13 0 EOF` (device numbers in hexadecimal,
/// inode in decimal; proc(5)).
fn lock_holder(meta: &Metadata) -> String {
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let held = locks.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid) = (words.next()?, words.nth(2)?);
        (kind == "FLOCK" && words.next()? == place).then_some(pid)
    });
    let holders: Vec<String> = held.map(named).collect();
    if holders.is_empty() {
        return "something that cannot be named (a program that was just killed keeps its disks until its last \
                requests have ended)"
            .to_owned();
    }
    holders.join(", ")
}

fn named(pid: &str) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(_) if pid.parse() == Ok(std::process::id()) => "this very process".to_owned(),
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}, which has ended while its last requests are in flight"),
    }
}

/// Who opened a block device with O_EXCL: a mount, another device on top of it, or some program.
fn exclusive_holder(meta: &Metadata) -> String {
    let device = format!("{}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(2);
        (words.next()? == device).then(|| words.nth(1)).flatten()
    });
    if let Some(place) = mount {
        return format!("the mount at {place}");
    }
    let above = std::fs::read_dir(format!("/sys/dev/block/{device}/holders")).into_iter().flatten().flatten();
    let above: Vec<String> = above.map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy())).collect();
    if above.is_empty() { "another program, swap, or a partition in use".to_owned() } else { above.join(", ") }
}
