//! Disks made of disks: one trait, [`BlockDevice`], and everything that wears it.
//!
//! This room does *not* know which protocol, machine, file or socket a disk comes from, nor what time it is: the
//! moment, tasks and identities are handed in ([`runtime::Runtime`]). So the same code runs on the data plane's loop
//! and on the simulator's seeded one. Contract and reasons: docs/rfd/0002-block-device.md.
//!
//! ```text
//! session → gate → volume → array (raid) → member disk
//! ```

pub mod buffer;
pub mod device;
pub mod gate;
pub mod health;
pub mod hold;
pub mod probe;
pub mod raid;
pub mod runtime;
#[cfg(test)]
mod testing;
pub mod volume;
pub mod wait;

pub use buffer::{IoBuf, IoData};
pub use device::{BlockDevice, DeviceError, Disk, Durability, Geometry, IoFuture};
