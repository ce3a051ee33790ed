//! For a small process that must run when others cannot: its memory stays, it is scheduled first, the kernel's killer
//! passes it by. Each is a wish: who may not have it goes on without, and says so.
#![allow(unsafe_code, reason = "mlockall and sched_setscheduler have no safe call here")]

use rustix::process::{Resource, getrlimit};
use std::io;

/// The lowest real-time priority is above every ordinary process; higher ones are the kernel's own business.
const PRIORITY: libc::c_int = 1;

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
pub fn real_time() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: PRIORITY };
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

fn done(answer: libc::c_int) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
