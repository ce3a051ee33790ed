//! Who is alive: the dead-man's lease on a VM host, and the witnesses that grant it or vote its host dead.
//!
//! Invariant: while a majority's votes say that a host is dead and are valid, no guest of that host runs (unless the
//! whole host is frozen). Rules, proof and truth table: docs/rfd/0007-witness.md. This code does *not* know sockets,
//! clocks or QEMU: it is told the moment and what was heard, and says what to do.

mod holder;
#[cfg(test)]
mod test;
mod timing;
mod witness;

pub use holder::{Holder, HolderPast, Standing};
pub use timing::{CLOCK_RATE_PPM, LeaseTiming, TimingError};
pub use witness::{Renewal, Unsure, Vote, Witness, WitnessPast};

/// How many of `witnesses` are a majority.
#[must_use]
pub const fn majority(witnesses: usize) -> usize {
    witnesses / 2 + 1
}

/// Below this many witnesses nobody is declared dead and nothing is paused: two cannot outvote each other.
pub const WITNESSES_MIN: usize = 3;
