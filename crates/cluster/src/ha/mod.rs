//! What is done when a host or a guest dies: verdict, failover, restart in place, autostart, admission.
//!
//! Invariants: no VM is taken from a host without a majority of valid votes and a destination that is ready, both
//! *before* the first transaction; no guest starts before every target acknowledged its new epoch and, at a moment after
//! that, every host that might still run it was proven not to; when nobody hears anybody, nothing happens. Why votes are
//! needed at both moments: docs/rfd/0009-migration.md. This code does *not* know how votes travel.

mod admission;
mod autostart;
mod decide;
mod recovery;
mod restart;
mod verdict;

pub use admission::{Capacity, Load, NoRoom, admit, cost};
pub use autostart::{Autostart, due};
pub use decide::{Candidate, Decision, Quiet, decide};
pub use recovery::Recovery;
pub use restart::{BACK_OFF_MS, Restarts};
pub use verdict::{Answer, Verdict, verdict};
