//! Who is alive: the dead-man's lease on a VM host, its guard, and the witnesses that grant it or vote its host dead.
//!
//! Invariant: while a majority's votes say that a host is dead and are valid, no guest of that host runs (unless the
//! whole host is frozen, or dead-man and guard both fail). Rules, proof and truth table: docs/rfd/0007-witness.md. This
//! code does *not* know sockets, clocks or QEMU: it is told the moment and what was heard, and says what to do.

mod guard;
mod holder;
mod roster;
#[cfg(test)]
mod test;
mod timing;
mod witness;
#[cfg(test)]
mod world;

pub use guard::GuardOrder;
pub use holder::{Holder, HolderPast, Standing};
pub use roster::{ADDRESSES_MAX, MEMBERS_MAX, RosterError, SEGMENTS_MAX, Voter, check_roster};
pub use timing::{CLOCK_RATE_PPM, LeaseTiming, TimingError};
pub use witness::{Renewal, Unsure, Vote, Witness, WitnessPast};

/// How many of `witnesses` are a majority.
#[must_use]
pub const fn majority(witnesses: usize) -> usize {
    witnesses / 2 + 1
}

/// Below this many witnesses nobody is declared dead and nothing is paused: two cannot outvote each other.
pub const WITNESSES_MIN: usize = 3;
