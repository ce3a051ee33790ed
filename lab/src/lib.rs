//! A cluster on one machine for real: the lab drives the real programs from outside and breaks the world around them.
//!
//! Rules: it uses `units` only, so that what it believes about muskox is what muskox shows to everybody; whatever it
//! puts on the machine (mounts, processes, namespaces) is written to a [`ledger`] first and taken away at the end, also
//! after a crash. It does *not* know how muskox works inside.

pub mod bench;
pub mod cgroup;
pub mod demo;
pub mod disks;
pub mod image;
pub mod interop;
pub mod kills;
pub mod ledger;
pub mod load;
pub mod logs;
pub mod machine;
pub mod migrate;
pub mod net;
pub mod signals;
pub mod verify;
