//! The referee: hears what clients were answered and what the disks received, and says which promise was broken.
//!
//! One checker, one file, one source: the invariants are those of the project's reliability page. All of them count in
//! ticks, one per event, because the virtual clock has ties and an order must not.
//!
//! | checker | promise |
//! |---|---|
//! | `single_writer` | I1: after a fence is acknowledged nothing older is received or completed by a member in use |
//! | `no_lost_ack` | I3: reads are linearisable per sector, and what was acknowledged durable survives |
//! | `no_stale_member` | I6: members in sync are equal; nothing older is copied over something newer |
//! | `fail_stop` | I11: a member that failed a write is out, durably, before anybody is told of a success |
//! | `metadata_order` | what a superblock vouches for is on the medium before it |
//! | `epochs_grow` | I12: no restart, no missing member and no late caller lowers an epoch |

mod epochs_grow;
mod fail_stop;
pub mod history;
mod metadata_order;
mod no_lost_ack;
mod no_stale_member;
mod referee;
mod single_writer;

pub use history::{Op, Outcome, Stamp, WriteId};
pub use referee::{Ask, Frozen, Referee, Witness};

use std::fmt;

/// An event's place in the order of all events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

/// A promise, by its number on the reliability page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// Single writer.
    I1,
    /// No acknowledged write is lost.
    I3,
    /// No stale member.
    I6,
    /// Fail-stop on lost writes.
    I11,
    /// Epochs never go back.
    I12,
    /// When faults stop, everything converges.
    I14,
    /// A member's superblock is never newer than its bitmap, as md demands.
    Order,
    /// A transport's trouble is no I/O error in the guest (bug class B-25).
    B25,
    /// A retry does not overtake the operations of a dead session (bug class B-11).
    B11,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
    /// When, on the virtual clock.
    pub at_us: u64,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::I1 => "I1",
            Self::I3 => "I3",
            Self::I6 => "I6",
            Self::I11 => "I11",
            Self::I12 => "I12",
            Self::I14 => "I14",
            Self::Order => "order",
            Self::B25 => "B-25",
            Self::B11 => "B-11",
        })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms: {}", self.invariant, self.at_us / 1000, self.detail)
    }
}

/// What a checker found: at most one line each, the first is the one that matters.
type Verdict = Result<(), (Invariant, String)>;
