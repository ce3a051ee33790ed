//! For a small process that must run when others cannot: its memory stays, it is scheduled first, the kernel's killer
//! passes it by. Each is a wish: who may not have it goes on without, and says so.
#![allow(unsafe_code, reason = "mlockall and sched_setscheduler have no safe call here")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Who is scheduled before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Before every ordinary process: the lowest real-time priority.
    First,
    /// Before those too: for who must run when one of them runs wild. Higher ones are the kernel's own business.
    BeforeThose,
}

/// Keeps all of this process in memory, now and later: no page of it waits for a disk.
///
/// # Errors
/// If the kernel refuses.
pub fn lock_memory() -> io::Result<()> {
    // With a bound, a later allocation could fail: then only what is here now is kept.
    let bounded = getrlimit(Resource::Memlock).current.is_some() && !rustix::process::geteuid().is_root();
    let flags = if bounded { libc::MCL_CURRENT } else { libc::MCL_CURRENT | libc::MCL_FUTURE };
    // SAFETY: mlockall takes no pointer and changes no content of memory.
    done(unsafe { libc::mlockall(flags) })
}

/// Puts this thread before all ordinary ones; threads and processes that it makes are ordinary.
///
/// # Errors
/// If the kernel refuses.
pub fn real_time(priority: Priority) -> io::Result<()> {
    let level = match priority {
        Priority::First => 1,
        Priority::BeforeThose => 2,
    };
    let priority = libc::sched_param { sched_priority: level };
    // SAFETY: the pointer is to a value that lives for the call, which only reads it; 0 is the calling thread.
    done(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const priority) })
}

/// Lets the kernel kill others first when memory runs out (`proc_pid_oom_score_adj(5)`).
///
/// # Errors
/// If the kernel refuses.
pub fn outlive_others() -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", "-1000")
}

/// The service manager, if it wants to hear that this process is well. Nothing is ever waited for.
///
/// Source: sd_notify(3).
#[derive(Debug)]
pub struct Manager(Option<UnixDatagram>);

impl Manager {
    /// Who started this process, if it says where it listens.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self(std::env::var_os("NOTIFY_SOCKET").and_then(|at| connect(&at).ok()))
    }

    /// Tells it that this process is up: what comes after it may start.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// Tells it that this process does its work. Who has been silent for longer than `WatchdogSec` is started anew.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    fn say(&self, word: &str) {
        if let Some(socket) = &self.0 {
            // One that is not taken at once is made up for by the next one.
            let _ = socket.send(word.as_bytes());
        }
    }
}

fn connect(at: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match at.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(at)?,
    }
    Ok(socket)
}

/// Standard error that is never waited for: what its reader does not take at once is lost. A line of a log fits what a
/// pipe takes whole once it takes anything (4096 bytes, `pipe(7)`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Unhurried;

impl Write for Unhurried {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let mut asked = [PollFd::new(&stderr, PollFlags::OUT)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut asked, Some(&at_once)) {
            Ok(0) => Ok(bytes.len()),
            _ => (&stderr).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn done(answer: libc::c_int) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
