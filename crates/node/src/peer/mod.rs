//! What nodes say to each other besides the API: orders of jobs, requests for a machine's target, how guests are.
//!
//! ```text
//!  machine with the store ── act, target, look ──▶ any machine          POST /peer/v1 over mTLS, members only;
//!                         ◀── tell, sync ─────────                      to itself: the same, without a wire
//! ```
//! Not part of the API: both ends are the same program, and nothing here is for people. Reasons: docs/rfd/0011-joined.md.

mod brief;
mod call;
mod lines;
mod message;

pub use brief::{Brief, BriefDisk, BriefNic, BriefSeed};
pub use call::{PATH, ask, tell, to_the_store};
pub use lines::Lines;
pub use message::{
    Act, Acted, Adopt, Ask, Assignment, Claimed, DiskTell, HostReport, Other, Processor, Reply, Sequence, SyncReport,
    Synced, Tell, WitnessAt,
};
