//! Volumes: an LVM2 volume group with linear volumes on one disk, in the format stock tools read and write.
//!
//! ```text
//! group ── zeroing        owns the state, does the changes
//!   ├── linear            a volume as a disk
//!   ├── area ── label, mda, checksum     bytes on the disk (docs/formats/lvm2.md)
//!   └── model, edit, extents ── text     what the metadata says, and changes to it
//! ```
//! Invariant: a user can walk away any day; stock LVM2 opens what muskox wrote, and volumes muskox does not
//! understand survive its changes. This room does *not* know md, gates, protocols, clocks or randomness.

mod area;
mod checksum;
mod edit;
mod error;
mod extents;
mod group;
mod ident;
pub mod label;
mod linear;
pub mod mda;
mod model;
pub mod text;
mod zeroing;

pub use error::{Damage, VolumeError};
pub use group::{EXTENT_LEN, Existing, GroupIds, Volume, VolumeGroup, VolumeState};
pub use ident::{LvmId, NotAnId};
pub use zeroing::{ZeroProgress, Zeroed, Zeroing};
