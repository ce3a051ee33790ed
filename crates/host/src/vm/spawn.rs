//! Starting a program that outlives us: own session, own user, own cgroups, no descriptor of ours, small limits.
//!
//! The only `unsafe` of this folder: what has to happen between fork and exec, and waiting for a pidfd.
#![allow(unsafe_code, reason = "pre_exec, and tokio's registration of a descriptor, are unsafe by their signatures")]

use super::Owner;
use crate::sandbox::end_with;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Open descriptors of a QEMU: 16 disks, 8 taps, 5 sockets and multifd need a tenth of it.
const FILES_MAX: u64 = 1024;

/// Descriptors below this are the child's standard streams.
const FIRST_FOREIGN_FD: libc::c_uint = 3;

/// A program to start.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// Its standard input and output, if somebody talks to it.
    pub(super) talk: Option<OwnedFd>,
    /// Its standard error; and output, if nobody talks to it.
    pub(super) log: File,
    /// User and group, if others than ours.
    pub(super) owner: Option<Owner>,
    /// Where it runs; `None`: at the root. Opened by us: its user need not be able to come there by itself.
    pub(super) folder: Option<OwnedFd>,
    /// `cgroup.procs` files, opened for writing.
    pub(super) cgroups: Vec<OwnedFd>,
    /// What it needs of our environment.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// Whether it ends with us: it is of no use to a successor.
    pub(super) ends_with_us: bool,
    /// What it may not exceed; `None`: as much as we.
    pub(super) limits: Option<Limits>,
}

/// Bounds of a program that a guest may have taken over; it gets no new privileges either.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The longest file it may write. What exceeds it is lost, and only that.
    pub(super) file_bytes: u64,
}

impl Program {
    /// Starts it. Nothing of ours ends it: it leads its own session.
    pub(super) fn start(self) -> io::Result<Child> {
        let mut command = Command::new(self.program);
        command.args(self.arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command.envs(self.environment);
        command.current_dir("/");
        match self.talk {
            Some(talk) => command.stdin(talk.try_clone()?).stdout(talk).stderr(self.log),
            None => command.stdin(Stdio::null()).stdout(self.log.try_clone()?).stderr(self.log),
        };
        if let Some(owner) = self.owner {
            // std also drops the supplementary groups when root takes another user.
            command.uid(owner.uid).gid(owner.gid);
        }
        let (folder, cgroups, limits, ends_with_us) = (self.folder, self.cgroups, self.limits, self.ends_with_us);
        let us = rustix::process::getpid();
        let set_up = move || {
            rustix::process::setsid()?;
            if let Some(folder) = &folder {
                rustix::process::fchdir(folder)?;
            }
            if ends_with_us {
                end_with(us)?;
            }
            for procs in &cgroups {
                // "0" is the writer itself (cgroups(7)).
                rustix::io::write(procs.as_fd(), b"0")?;
            }
            let limit = |bound: u64| Rlimit { current: Some(bound), maximum: Some(bound) };
            setrlimit(Resource::Core, limit(0))?;
            if let Some(limits) = limits {
                rustix::thread::set_no_new_privs(true)?;
                setrlimit(Resource::Nofile, limit(FILES_MAX))?;
                setrlimit(Resource::Fsize, limit(limits.file_bytes))?;
            }
            // A log at its limit is an error that QEMU ignores, not a signal that ends it; SIG_IGN survives exec.
            // SAFETY: setting a signal to SIG_IGN installs no handler, so no code of ours can run by it.
            let former = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            if former == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
            close_on_exec_from(FIRST_FOREIGN_FD)
        };
        // SAFETY: the closure runs in the child after fork, where only async-signal-safe work is allowed. It makes
        // system calls only (setsid, fchdir, prctl, getppid, write, prlimit, rt_sigaction, close_range), touches no lock, allocates nothing
        // (io::Error from a raw number does not allocate), and borrows nothing that could be gone: it owns its captures.
        unsafe { command.pre_exec(set_up) };
        command.spawn()
    }
}

/// Marks every descriptor from `first` on: closing them here would cut the pipe by which std reports a failed exec.
fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    let flags = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).expect("it is 4");
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC closes nothing now; it only sets a flag on descriptors of this
    // process, a child that execs next, so no owner of a descriptor can see one vanish.
    let answer = unsafe { libc::close_range(first, libc::c_uint::MAX, flags) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits until `fd` is readable: a pidfd is, once its process has ended.
pub(super) async fn readable(fd: &OwnedFd) -> io::Result<()> {
    // One of its own for each that waits: epoll takes a descriptor once.
    let fd = fd.try_clone()?;
    // SAFETY: tokio wants the descriptor to stay open and the same for as long as it is registered. The registration
    // is dropped before the owner of the descriptor, for locals are dropped in reverse, and both end with this future.
    let registered = unsafe { AsyncFd::register_with_interest(fd.as_fd(), Interest::READABLE) };
    let registered = registered.map_err(io::Error::from)?;
    drop(registered.readable().await?);
    Ok(())
}
