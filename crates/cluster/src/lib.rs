//! What is decided: ownership, membership, failover, migration, jobs.
//!
//! Code here is handed the moment, messages and what the store says, and returns what to do. It does *not* know that
//! QEMU, HTTP, SQLite or sockets exist.

pub mod ha;
pub mod job;
pub mod lease;
pub mod migrate;
pub mod store;
pub mod why;
