//! QMP, the control protocol of QEMU: lines of JSON to typed commands, replies and events, and back.
//!
//! Source: QEMU's `docs/interop/qmp-spec.rst` and `qapi/*.json` (the QMP reference manual), as of 7.2 and 10.0. What only
//! one of them knows is optional here. A monitor is as trusted as its guest is: QEMU may have been taken over. So a line
//! has a bound, every answer must belong to a question, and what cannot be read is an error of this connection, nothing
//! more. This folder does *not* know sockets, deadlines or processes.
//!
//! ```text
//!   greeting ──▶ qmp_capabilities (oob, if asked for and offered) ──▶ ready ──▶ commands, replies, events
//! ```

mod block;
mod client;
mod command;
mod cpu;
mod event;
mod line;
mod migrate;
mod text;

pub use block::{
    BlockAction, BlockInfo, BlockNode, BlockOperation, BlockStats, BlockdevAdd, BlockdevDel, FileNode, NbdNode,
    NodeStats, Object, ObjectAdd, ObjectDel, QueryBlock, QueryBlockStats, TlsCredsPsk, TlsEnd,
};
pub use client::{Client, Id, Incoming, PENDING_MAX, Ready};
pub use command::{
    Command, CommandError, Cont, CpuInfo, Empty, QueryCpusFast, QueryStatus, QueryVersion, Quit, RunState, StatusInfo,
    Stop, SystemPowerdown, SystemReset, VersionInfo,
};
pub use cpu::{
    CpuDefinition, CpuModel, CpuModelExpansion, MachineInfo, QueryCpuDefinitions, QueryCpuModelExpansion, QueryMachines,
};
pub use event::{Event, EventKind, Timestamp};
pub use line::LINE_MAX;
pub use migrate::{
    Capability, CapabilityState, Compression, Migrate, MigrateCancel, MigrateContinue, MigrateIncoming,
    MigrateSetCapabilities, MigrateSetParameters, MigrationInfo, MigrationStatus, QueryMigrate,
    QueryMigrateCapabilities, RamInfo, Yank, YankInstance,
};
/// An answer that is not yet read as its command's.
pub use serde_json::Value as Json;

/// This connection is of no further use: the monitor did not speak QMP as we know it, or we asked too much.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    /// A line longer than [`LINE_MAX`].
    #[error("the monitor sent a line longer than {LINE_MAX} bytes")]
    LineTooLong,
    /// Not JSON, or JSON that is no message of QMP.
    #[error("the monitor sent what is not QMP: {what}")]
    Malformed {
        /// What was wrong, bounded and fit to be shown.
        what: String,
    },
    /// A reply to no question.
    #[error("the monitor answered a question nobody asked (id {id})")]
    UnknownId {
        /// The id it named.
        id: String,
    },
    /// An error without an id: the monitor could not read what we sent.
    #[error("the monitor could not read a command: {0}")]
    Unread(CommandError),
    /// The monitor refused the capabilities it had offered.
    #[error("the monitor refused to begin: {0}")]
    Refused(CommandError),
    /// A command before the greeting was answered, or out of band where that was not agreed.
    #[error("the monitor is not ready for {command}")]
    NotReady {
        /// The command.
        command: &'static str,
    },
    /// More than [`PENDING_MAX`] questions without an answer.
    #[error("{PENDING_MAX} commands are already waiting for an answer")]
    TooMany,
}

#[cfg(test)]
mod test;
