//! Words everybody shares: offsets, lengths, times, epochs and identities, each its own type.
//!
//! Invariant: a number that could be swapped for another kind of number is wrapped here, so that the compiler
//! and not a reviewer notices. This room does *not* know disks, wires, clocks or files; it only names things.

mod amount;
mod fence;
mod ident;
pub mod sabotage;
mod size;
pub mod table;
mod time;

pub use amount::{ByteLen, ByteOffset, SECTOR_BYTES, Sectors};
pub use fence::{Epoch, Incarnation, Mode};
pub use ident::{ArrayId, CaFingerprint, HostKey, IdentError, NodeName, PoolName, VmName, VolumeId, VolumeName};
pub use size::parse_size;
pub use time::{Millis, Moment};
