//! Hands: the room that touches disks, sockets, threads and clocks for the data plane.
//!
//! What it decides is only *how* to touch (which back end, which flag); what to do with a disk or a peer is decided in
//! `block` and `wire`. It does *not* know arrays, volumes, epochs or any protocol's messages.
//!
//! `unsafe` is allowed here and lives in ten files: `disk/ring.rs` (the kernel borrows our buffers), `disk/file.rs` (one
//! ioctl), `vm/spawn.rs` and `sandbox.rs` (a child between fork and exec), `seccomp.rs` (a filter's address), `net/link.rs`
//! (ioctls of interfaces), `net/acked.rs` (one getsockopt), `image.rs` (a file's lease), `daemon.rs` (how a process ends) and
//! `urgent.rs` (memory and scheduling).

pub mod control;
pub mod daemon;
pub mod disk;
pub mod image;
pub mod net;
pub mod overwrite;
pub mod replace;
pub mod runtime;
pub mod sandbox;
mod seccomp;
pub mod store;
pub mod urgent;
pub mod users;
pub mod vm;
