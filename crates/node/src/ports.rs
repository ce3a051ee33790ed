//! Where the processes of a machine listen, on each of its addresses. A machine has its addresses for itself, so every
//! port is the same on all machines.

use std::ops::RangeInclusive;

/// Targets. Source: the IANA registry's `nbd`.
pub const TARGET: u16 = wire::nbd::constant::PORT;
/// Dead-men: beside the nodes' 10811.
pub const DEADMAN: u16 = 10_812;
/// QEMUs that wait for the memory of a guest that moves (docs/rfd/0011-joined.md).
pub const MIGRATION: RangeInclusive<u16> = 10_820..=10_899;

/// Who would be in the way of a node on this port.
#[must_use]
pub fn taken_by(port: u16) -> Option<&'static str> {
    match port {
        TARGET => Some("the target's"),
        DEADMAN => Some("the dead-man's"),
        port if MIGRATION.contains(&port) => Some("one of those for guests that move"),
        _ => None,
    }
}
