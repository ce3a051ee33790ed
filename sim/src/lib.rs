//! A cluster in one thread on a seeded clock: the production code of `block`, a fake world, and checkers.
//!
//! ```text
//! hosts, manager ──▶ gate ──▶ array (RAID 1) ──▶ fake disks ──▶ media
//!      │ what was answered                          │ what was received, applied, ended
//!      └───────────────▶ checkers ◀─────────────────┘
//! ```
//!
//! Invariant: a run is its seed. Nothing here reads a clock, the environment or a hash order; what fails is replayed by
//! `sim replay --seed N`. Faults stay inside what the design promises to survive; which kinds are on differs from run to
//! run. This room does *not* know protocols, processes of the real machine, or files.

pub mod bugs;
pub mod checkers;
pub mod crash;
pub mod disk;
pub mod executor;
pub mod held;
mod memory;
pub mod rng;
pub mod soak;
mod stack;
pub mod world;
