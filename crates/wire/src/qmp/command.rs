//! What we ask a monitor: the trait of a command, and those that concern a machine as a whole.

use super::text::shown;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A command, with the type of its answer. Its fields, serialized, are the arguments.
pub trait Command: Serialize {
    /// Its name.
    const NAME: &'static str;
    /// Whether it goes out of band: it is carried out at once, also while an ordinary command hangs.
    const OUT_OF_BAND: bool = false;
    /// What it answers.
    type Reply: DeserializeOwned;
}

/// Declares commands without arguments.
macro_rules! plain {
    ($($(#[$doc:meta])* $type:ident = $name:literal -> $reply:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub struct $type {}

        impl Command for $type {
            const NAME: &'static str = $name;
            type Reply = $reply;
        }
    )*};
}
pub(super) use plain;

plain! {
    /// Whether the guest runs, and if not, why.
    QueryStatus = "query-status" -> StatusInfo;
    /// Pauses the guest. The event `STOP` says when.
    Stop = "stop" -> Empty;
    /// Lets the guest run. The event `RESUME` says when; after a disk error, failed requests are sent again first.
    Cont = "cont" -> Empty;
    /// Ends QEMU at once.
    Quit = "quit" -> Empty;
    /// Presses the power button; the guest does what it likes.
    SystemPowerdown = "system_powerdown" -> Empty;
    /// Presses the reset button.
    SystemReset = "system_reset" -> Empty;
    /// Which QEMU this is.
    QueryVersion = "query-version" -> VersionInfo;
    /// The virtual CPUs and their threads.
    QueryCpusFast = "query-cpus-fast" -> Vec<CpuInfo>;
}

/// An answer that says nothing; what a later QEMU adds is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Empty {}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{desc} ({class})")]
pub struct CommandError {
    /// `GenericError`, `CommandNotFound`, `DeviceNotFound`, …
    pub class: String,
    /// QEMU's words for people.
    pub desc: String,
}

impl CommandError {
    pub(super) fn new(class: &str, desc: &str) -> Self {
        Self { class: shown(class), desc: shown(desc) }
    }

    /// Whether this QEMU does not know the command.
    #[must_use]
    pub fn is_unknown_command(&self) -> bool {
        self.class == "CommandNotFound"
    }
}

/// The state of a machine (`RunState` of `qapi/run-state.json`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// The virtual CPUs run.
    Running,
    /// Paused by `stop`, or the destination of a migration that came with `-S`.
    Paused,
    /// Started with `-S`, never ran.
    Prelaunch,
    /// Waits for, or receives, a migration.
    Inmigrate,
    /// Stopped for the last phase of a migration away.
    FinishMigrate,
    /// Migrated away. `cont` would run a second copy.
    Postmigrate,
    /// A disk failed and the policy is to stop.
    IoError,
    /// QEMU or the accelerator cannot go on.
    InternalError,
    /// The guest told its panic device.
    GuestPanicked,
    /// The guest powered off and QEMU was told to stay.
    Shutdown,
    /// The guest sleeps.
    Suspended,
    /// The watchdog fired and the policy is to pause.
    Watchdog,
    /// Under a debugger.
    Debug,
    /// A snapshot is being saved.
    SaveVm,
    /// A snapshot is being loaded.
    RestoreVm,
    /// One this code does not know.
    #[serde(other)]
    Unknown,
}

/// `query-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct StatusInfo {
    /// The state.
    pub status: RunState,
    /// Whether virtual CPUs run.
    pub running: bool,
}

/// Which QEMU.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VersionInfo {
    /// The three numbers.
    pub qemu: VersionTriple,
    /// The distribution's words.
    #[serde(default)]
    pub package: String,
}

/// The numbers of a version; compares as people do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct VersionTriple {
    /// 10 of 10.0.2.
    pub major: u32,
    /// 0 of 10.0.2.
    pub minor: u32,
    /// 2 of 10.0.2.
    pub micro: u32,
}

/// A virtual CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuInfo {
    /// Its number.
    pub cpu_index: u32,
    /// The thread on the host that runs it.
    pub thread_id: i32,
}
