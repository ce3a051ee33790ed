//! A VM moves to another host while it runs.
//!
//! Invariants: at every moment the store names at most one owner; the source's epoch is closed at every target before
//! it sends the rest of its memory; the destination runs only after the transaction that makes it the owner (the
//! commit point); after that transaction the source never runs again; before it, the destination never does. A source that
//! hears nobody runs on by itself only while that holds ([`Waiting`]). Which
//! fault leads where, and why in this order: docs/rfd/0009-migration.md. This code does *not* know QEMU.

mod alone;
mod deadline;
mod preflight;
mod receipt;
mod stage;

pub use alone::{Stays, Waiting};
pub use deadline::Limits;
pub use preflight::{Fact, Processor, Refusal, Side, refusals};
pub use receipt::{Measured, Receipt};
pub use stage::{Migration, Stage};
