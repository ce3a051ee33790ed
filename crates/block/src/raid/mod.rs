//! RAID: an array made of member disks, in Linux md's own format (superblock version 1.2).
//!
//! So far level 1, one to eight slots. Stock `mdadm` reads what we write, and the other way round; the content of a
//! member is readable from its `data_offset` on. Byte maps: docs/formats/md.md and docs/formats/facts.md. This room does
//! *not* know volumes, epochs' meaning or where members come from: disks, labels, time and randomness are handed in.
//!
//! ```text
//!            fail                      add / re-add              all copied, flushed, recorded
//!  in sync ────────▶ faulty ─(disk replaced)──▶ recovering ──────────────────────────────▶ in sync
//!                       ▲                           │ fail
//!                       └───────────────────────────┘
//! ```
//! One file one noun: `superblock`, `bitmap`, `bad_blocks`, `facts`, `layout`, `chunks` are formats and sets; `leg` is a member at
//! work, `array` the state, `meta` its writing; `io` serves, `mend` writes back, `resync` fills, `tidy` clears; `create`, `assemble`,
//! `admin` and `status` are what an operator asks for; `roster` says who is a member, `history` who went on without whom.

mod admin;
mod array;
mod assemble;
pub mod bad_blocks;
pub mod bitmap;
pub mod chunks;
mod create;
pub mod facts;
mod history;
mod io;
pub mod layout;
mod leg;
mod mend;
mod meta;
mod records;
mod resync;
mod roster;
mod status;
pub mod superblock;
#[cfg(test)]
mod test;
mod tidy;
mod watchdog;
mod witness;

pub use admin::Array;
pub use assemble::{AssembleOptions, Start, assemble, assemble_witnessed};
pub use create::{CreateOptions, create};
pub use leg::{Standing, StillBusy};
pub use records::FactsTable;
pub use status::{ArrayState, ArrayStatus, MemberStatus, ResyncStatus};
pub use witness::{Membership, MembershipWitness};

use crate::device::{DeviceError, Disk};
use superblock::SuperblockError;
use units::{ArrayId, ByteLen, VolumeId};

/// The most slots of a mirror: more copies than anybody keeps, few enough for one status page.
pub const SLOTS_MAX: usize = 8;

/// A disk handed in, and what people call it.
#[derive(Clone)]
pub struct Member {
    /// The disk.
    pub disk: Disk,
    /// Its path, or whatever names it for people.
    pub label: String,
}

/// Why something about an array was not done. Nothing was changed unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum RaidError {
    /// How many members an array can have.
    #[error("a mirror has 1 to {SLOTS_MAX} members, not {0}")]
    MemberCount(usize),
    /// An md name is at most 32 bytes of printable text.
    #[error("'{0}' is not an array's name: use 1 to 32 printable characters without blanks")]
    BadName(String),
    /// The member is not empty.
    #[error("{label} holds {what}: wipe it only if nobody needs that any more")]
    InUse {
        /// Which disk.
        label: String,
        /// What was found.
        what: String,
    },
    /// The member is too small.
    #[error("{label} is too small: {size}, at least {least} is needed")]
    TooSmall {
        /// Which disk.
        label: String,
        /// How long it is.
        size: ByteLen,
        /// How long it must be.
        least: ByteLen,
    },
    /// The member's blocks are larger than the array's.
    #[error(
        "{label} has blocks of {found} bytes, the array and its volumes have {served}: use a disk with blocks of {served}"
    )]
    BlockSize {
        /// Which disk.
        label: String,
        /// Its own.
        found: u32,
        /// The array's.
        served: u32,
    },
    /// The member cannot be read or written.
    #[error("{label}: {source}")]
    Disk {
        /// Which disk.
        label: String,
        /// What it said.
        source: DeviceError,
    },
    /// The member does not answer.
    #[error("{label} does not answer: what it says of itself was not read within {}", watchdog::SILENCE_MAX)]
    Silent {
        /// Which disk.
        label: String,
    },
    /// The member's superblock cannot be used.
    #[error("{label}: {source}")]
    Superblock {
        /// Which disk.
        label: String,
        /// What is wrong with it.
        source: SuperblockError,
    },
    /// The array is not one that this version serves.
    #[error("{label}: {what}")]
    Unsupported {
        /// Which disk.
        label: String,
        /// What is not done.
        what: String,
    },
    /// It works in this array already, perhaps by another name.
    #[error("{0} is a member that works in this array")]
    AlreadyMember(String),
    /// It was a member and failed while operations hung on it; they may still land.
    #[error("{0}: try again when they have ended, or take the disk away")]
    StillBusy(StillBusy),
    /// The disk failed while it was made a member.
    #[error("{label} failed: {cause}")]
    MemberFailed {
        /// Which disk.
        label: String,
        /// Why.
        cause: String,
    },
    /// Members of different arrays.
    #[error("{label} belongs to array {found}, not to {expected}")]
    OtherArray {
        /// Which disk.
        label: String,
        /// Its array.
        found: ArrayId,
        /// The others'.
        expected: ArrayId,
    },
    /// Two disks say to be the same member, as after copying one with `dd`.
    #[error("{first} and {second} both say to be member {number}: take one of them away")]
    Twins {
        /// One.
        first: String,
        /// The other.
        second: String,
        /// The device number.
        number: u32,
    },
    /// No member holds everything that was acknowledged.
    #[error("no member is in sync: the array needs the ones that are missing")]
    NoneInSync,
    /// Fewer members than the array ran with last; it may be started with [`Start::Degraded`].
    #[error(
        "{present} of the {expected} members that were in sync are here: start it degraded only if the others are lost"
    )]
    Incomplete {
        /// How many are here.
        present: usize,
        /// How many there were.
        expected: usize,
    },
    /// The members that are here are not those that this box knows to hold everything that was acknowledged.
    #[error(
        "{label} is not one of the members that were in sync last: it is old; bring one of those, or start it degraded if they are lost"
    )]
    Superseded {
        /// The newest of those that are here.
        label: String,
    },
    /// Two members went on without each other.
    #[error(
        "{first} and {second} each ran without the other: what was written to one of them then is not on the other; choose the one to go on with"
    )]
    Split {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// It was away and lacks more than the bitmap says: it has to be filled whole, by somebody's word.
    #[error("{0} was away for too long: it lacks more than the array's bitmap says, add it to have it filled whole")]
    LacksMore(String),
    /// All slots are taken.
    #[error("all {0} slots are taken: fail or grow first")]
    NoFreeSlot(usize),
    /// There is no such slot, or nothing in it.
    #[error("slot {0} has no member")]
    NoMember(usize),
    /// It is the last member in sync: failing it would stop the array.
    #[error("slot {0} holds the last member in sync: failing it would stop the array")]
    LastMember(usize),
    /// The disk saw updates of this array that the others did not: it ran without them.
    #[error(
        "{label}: {}: what was written to it then is on no other disk; wipe it only if nobody needs that",
        ran_elsewhere(*found, *current)
    )]
    RanElsewhere {
        /// Which disk.
        label: String,
        /// Its count of updates.
        found: u64,
        /// The array's.
        current: u64,
    },
    /// A mirror can only get more slots.
    #[error("a mirror of {now} slots can grow to at most {SLOTS_MAX}, not to {asked}")]
    CannotGrow {
        /// Slots now.
        now: usize,
        /// Slots asked for.
        asked: usize,
    },
    /// A record that cannot be kept.
    #[error("the record of volume {volume} has {len} bytes: 8 to 512 are kept, for at most 900 volumes")]
    Record {
        /// Whose.
        volume: VolumeId,
        /// How long.
        len: usize,
    },
    /// A record's epoch, or its change within the epoch, would go back.
    #[error("the record of volume {volume} is newer: it is at epoch {held}, this one at {offered}")]
    EpochBack {
        /// Whose.
        volume: VolumeId,
        /// What is kept.
        held: u64,
        /// What was offered.
        offered: u64,
    },
    /// A member has no room for facts: stock mdadm made it with a small gap.
    #[error("{0} has no room for muskox's facts before its data: grants cannot be kept on it")]
    NoFactsRoom(String),
    /// A disk that somebody changed says that its facts were written 2^62 times.
    #[error("the count of writes of muskox's facts is used up: grants cannot be kept on these disks any more")]
    FactsUsedUp,
    /// A member's facts were written by a newer muskox.
    #[error("{label} has {source}")]
    Facts {
        /// Which disk.
        label: String,
        /// What is wrong.
        source: facts::FactsError,
    },
    /// The box takes no record of who is in sync: nothing that needs it is answered until it does.
    #[error("{0}")]
    Unrecorded(String),
    /// The last member failed: the array takes no writes any more.
    #[error("the array takes no writes any more: {0}")]
    Broken(DeviceError),
    /// The array was stopped.
    #[error("the array is stopped")]
    Closed,
}

/// What is said of a member at `found` updates that ran without the others, which are at `current`.
fn ran_elsewhere(found: u64, current: u64) -> String {
    let counts = format!("(events {found}, the array is at {current})");
    if found > current {
        return format!("newer than the array: it ran elsewhere, without the others {counts}");
    }
    format!("it ran without the others {counts}")
}

impl From<DeviceError> for RaidError {
    fn from(error: DeviceError) -> Self {
        Self::Broken(error)
    }
}
