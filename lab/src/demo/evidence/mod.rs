//! The evidence of a demo: a folder of JSON lines that says what was done and what was seen, each on the machine's one
//! clock (`CLOCK_MONOTONIC`, microseconds). The report is computed from it and from nothing else, so that anybody can
//! recompute it.
//!
//! Invariant: evidence is appended and never changed. What the product says about itself (grants, the store's changes)
//! stands beside what the lab saw from outside (records that arrived, beacons, writes at the disks).

mod event;
mod lines;
mod reader;
mod writer;

pub use crate::disks::applied::{AppliedLine, now_us};
pub use crate::disks::stamp::{Kind, Stamp};
pub use event::{Cause, Event, Step, What};
pub use lines::{
    Answer, Beacon, GrantLine, GrantOwner, GuestError, OracleRun, Outcome, Receipt, RecordsCheck, RogueLine,
    StoreChange,
};
pub use reader::{Evidence, Grants};
pub use writer::Writer;

/// What the lab did and was told.
pub const EVENTS: &str = "events.jsonl";
/// What the referee received.
pub const REFEREE: &str = "referee.jsonl";
/// Which probes were answered.
pub const PROBE: &str = "probe.jsonl";
/// Which beacons were read, and at which host.
pub const BEACONS: &str = "beacons.jsonl";
/// What the guest's kernel or program said about disks that refused.
pub const GUEST_ERRORS: &str = "guest-errors.jsonl";
/// Which stamped writes the disks received and completed. The disks write it themselves.
pub const APPLIED: &str = "applied.jsonl";
/// What the rogue tried and what it was told.
pub const ROGUE: &str = "rogue.jsonl";
/// The store's changes in their order.
pub const STORE: &str = "store.jsonl";
/// What the check of the guest's disk found.
pub const RECORDS: &str = "records.json";
/// What the peers' tools said.
pub const ORACLES: &str = "oracles.json";
/// The folder of their texts.
pub const OUTPUTS: &str = "outputs";

/// The grant log of a target, as its machine kept it.
#[must_use]
pub fn grants_file(machine: &str) -> String {
    format!("grants-{machine}.jsonl")
}
