//! Bytes ↔ messages, and protocol sessions that are handed bytes and hand bytes back.
//!
//! This room does *not* know that disks, sockets or clocks exist.

pub mod control;
pub mod nbd;
pub mod qmp;
