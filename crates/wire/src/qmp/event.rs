//! What a monitor says unasked. Unknown events, and known ones with unreadable data, are kept as they came.

use super::block::{BlockAction, BlockOperation};
use super::migrate::MigrationStatus;
use super::text::shown;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// QEMU's wall clock when something happened. Not comparable with another machine's; a clock step moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Timestamp {
    /// Since 1970; -1 if QEMU could not read its clock.
    pub seconds: i64,
    /// Of the second; -1 if QEMU could not read its clock.
    pub microseconds: i64,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When, by QEMU's wall clock.
    pub timestamp: Timestamp,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// The virtual CPUs stopped.
    Stop,
    /// The virtual CPUs run.
    Resume,
    /// The machine ends.
    Shutdown {
        /// Whether the guest wanted it.
        guest: bool,
        /// `guest-shutdown`, `host-qmp-quit`, `host-signal`, …
        reason: String,
    },
    /// The machine was reset.
    Reset {
        /// Whether the guest wanted it.
        guest: bool,
        /// `guest-reset`, `host-qmp-system-reset`, …
        reason: String,
    },
    /// The power button was pressed.
    Powerdown,
    /// A disk answered an error.
    BlockIoError {
        /// The block device's name; empty for one made with `-blockdev`.
        device: String,
        /// The node, if QEMU says which.
        node_name: Option<String>,
        /// Reading or writing.
        operation: BlockOperation,
        /// What QEMU did about it.
        action: BlockAction,
        /// Whether the disk is full.
        nospace: bool,
        /// QEMU's words for people.
        reason: String,
    },
    /// A migration entered another phase.
    Migration(MigrationStatus),
    /// A migration begins another round over memory.
    MigrationPass(u64),
    /// The guest told its panic device.
    GuestPanicked {
        /// What QEMU did about it: `pause`, `poweroff`, `run`.
        action: String,
    },
    /// The guest's watchdog fired.
    Watchdog {
        /// What QEMU did about it.
        action: String,
    },
    /// The guest sleeps.
    Suspend,
    /// The guest woke up.
    Wakeup,
    /// Anything else, as it came.
    Other {
        /// Its name.
        name: String,
        /// Its data.
        data: Value,
    },
}

#[derive(Deserialize)]
struct Ending {
    #[serde(default)]
    guest: bool,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct IoError {
    #[serde(default)]
    device: String,
    node_name: Option<String>,
    operation: BlockOperation,
    action: BlockAction,
    #[serde(default)]
    nospace: bool,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Phase {
    status: MigrationStatus,
}

#[derive(Deserialize)]
struct Pass {
    pass: u64,
}

#[derive(Deserialize)]
struct Acted {
    action: String,
}

fn read<T: DeserializeOwned>(data: &Value) -> Option<T> {
    T::deserialize(data).ok()
}

impl EventKind {
    /// The event `name` with `data`.
    pub(super) fn decode(name: &str, data: Value) -> Self {
        Self::known(name, &data).unwrap_or_else(|| Self::Other { name: shown(name), data })
    }

    fn known(name: &str, data: &Value) -> Option<Self> {
        Some(match name {
            "STOP" => Self::Stop,
            "RESUME" => Self::Resume,
            "POWERDOWN" => Self::Powerdown,
            "SUSPEND" => Self::Suspend,
            "WAKEUP" => Self::Wakeup,
            "SHUTDOWN" => read(data).map(|e: Ending| Self::Shutdown { guest: e.guest, reason: shown(&e.reason) })?,
            "RESET" => read(data).map(|e: Ending| Self::Reset { guest: e.guest, reason: shown(&e.reason) })?,
            "BLOCK_IO_ERROR" => Self::io_error(&read(data)?),
            "MIGRATION" => read(data).map(|e: Phase| Self::Migration(e.status))?,
            "MIGRATION_PASS" => read(data).map(|e: Pass| Self::MigrationPass(e.pass))?,
            "GUEST_PANICKED" => read(data).map(|e: Acted| Self::GuestPanicked { action: shown(&e.action) })?,
            "WATCHDOG" => read(data).map(|e: Acted| Self::Watchdog { action: shown(&e.action) })?,
            _ => return None,
        })
    }

    fn io_error(error: &IoError) -> Self {
        Self::BlockIoError {
            device: shown(&error.device),
            node_name: error.node_name.as_deref().map(shown),
            operation: error.operation,
            action: error.action,
            nospace: error.nospace,
            reason: shown(&error.reason),
        }
    }
}
