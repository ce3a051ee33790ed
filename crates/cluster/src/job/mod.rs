//! Work of several steps that survives whoever does it: one object `/job/ID` in the store, taken over at any step.
//!
//! ```text
//!  create ─CAS─▶ stage 1 ─CAS─▶ stage 2 … ─CAS─▶ ended          a stage: its intent is in the store, then its actions
//!                  ▲  └ actions, asked again until answered      go out; the next CAS records what they came to and
//!   take over ─CAS─┘                                             what comes next
//! ```
//!
//! Invariants: nothing is done whose intent is not in the store; every action is safe to do again; whoever was taken
//! over can no longer save anything and its orders are refused ([`Orders`]). Reasons: docs/rfd/0008-jobs.md. This code
//! does *not* know what a job is for, nor sockets, clocks or QEMU.

mod action;
mod facts;
mod order;
mod ownership;
mod plan;
mod record;
mod retain;
mod run;
mod task;
#[cfg(test)]
mod test;

pub use action::{Action, Guest, Proof, Report};
pub use facts::Facts;
pub use order::{Order, Orders};
pub use ownership::{Ownership, VOLUMES_MAX, VolumeFloor};
pub use plan::{Move, Plan, Turn, View};
pub use record::{HISTORY_MAX, JobError, JobId, Note, Outcome, Record, Written, cancel};
pub use retain::{KEEP_MAX, expired};
pub use run::{Command, Event, RETRY_MS, Run, WATCH_MS};
pub use task::Task;

/// All jobs are under this prefix.
pub const PREFIX: &str = "/job/";
