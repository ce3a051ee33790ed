//! Virtual machines: QEMU started, spoken to, watched and ended.
//!
//! Invariant: a QEMU outlives the process that started it, and is found again by who it is, never by a bare pid; a
//! guest's disks fail only by stopping the guest. This folder does *not* know volumes, epochs, hosts or why a machine
//! should run: it is handed a [`Machine`] and a [`Folder`]. The taps, the sockets behind the disks and the control
//! groups are made by others, and belong to the user QEMU runs as.
//!
//! ```text
//!   Launch ── start ──▶ Vm ── qmp() ──▶ commands, events         Folder ── adopt ──▶ Vm (after a restart of ours)
//!                       │
//!                       ├── shutdown: power button ─ deadline ─▶ quit ─ deadline ─▶ kill
//!                       └── ended ──▶ Ended: status and QEMU's last words
//! ```

mod accelerator;
mod argv;
mod cgroup;
mod console;
mod daemon;
pub mod description;
mod fat;
mod folder;
mod hierarchy;
mod life;
mod machine;
mod monitor;
mod offers;
mod process;
pub mod seed;
mod spawn;
mod strays;
mod tear;

pub use accelerator::accelerator;
pub use argv::argv;
pub use cgroup::Cgroup;
pub use console::{DETACH, attach, pump, trim_log};
pub use daemon::Daemon;
pub use description::{DISKS_MAX, NICS_MAX, VCPUS_MAX};
pub use folder::{Folder, Monitor};
pub use hierarchy::{make_group, remove_group};
pub use life::{Ended, Launch, Owner, Patience, Stopped, Vm};
pub use machine::{Accelerator, Boot, Disk, MACHINE_TYPE, Machine, Nic, Start};
pub use monitor::{Heard, MonitorError, Qmp};
pub use offers::{Offers, offers};
pub use process::{How, Identity, Process};
pub use rustix::process::Signal;
pub use strays::Strays;

use std::io;
use units::Millis;

/// Why something about a machine did not work.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// It cannot be; nothing was done.
    #[error("{what}")]
    Description {
        /// What cannot be.
        what: String,
    },
    /// It runs already, in this folder.
    #[error("QEMU runs already as process {pid} in {folder}; adopt it or end it first")]
    Running {
        /// The process.
        pid: i32,
        /// The folder.
        folder: String,
    },
    /// QEMU ended.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// A command was not carried out, or nobody knows.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// It took too long.
    #[error("{what} is not done after {limit}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long it had.
        limit: Millis,
    },
    /// The kernel refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why not.
        source: io::Error,
    },
}

impl VmError {
    fn io(doing: String, source: io::Error) -> Self {
        Self::Io { doing, source }
    }

    fn of(part: &str, wrong: &description::Wrong) -> Self {
        Self::Description { what: format!("{part}: {}", wrong.what) }
    }
}
