//! The demo: a real Debian guest at work while machines, cables and disks fail, and who watches it.
//!
//! ```text
//!   guest (in QEMU on some host)                      the lab
//!   ── record n on its root disk and its canary, fsync'ed
//!      then (boot, n, crc) by UDP ───────────────▶  referee  → referee.jsonl   what was acknowledged
//!   ── answers probes ◀──────────────────────────▶  probe    → probe.jsonl     whether anybody could use it
//!   ── a line every 5 ms on its serial console ─▶  beacon   → beacons.jsonl   where it runs, and how often
//!   its disk, at the end ────────────────────────▶  check_disk                 whether all that was acknowledged is there
//! ```
//! All times are microseconds of CLOCK_MONOTONIC, which every namespace of the machine shares. This room does *not*
//! know how muskox works: it believes its guest, its own clock and the bytes on the disk.

pub mod beacon;
pub mod check_disk;
pub mod cluster;
pub mod evidence;
pub mod feed;
pub mod guest;
pub mod guest_try;
pub mod http;
pub mod image;
pub mod lines;
pub mod oracles;
pub mod play;
pub mod probe;
pub mod referee;
pub mod report;
pub mod rogue;
mod run;
pub mod screen;
pub mod task;
pub mod watch;

pub(crate) use run::Setting;
pub use run::{Options, run};

/// The lab's clock: CLOCK_MONOTONIC in microseconds.
pub use crate::disks::applied::now_us;
