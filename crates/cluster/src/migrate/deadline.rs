//! How long each stage of a migration may take.

use units::Millis;

/// The times, each with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits;

impl Limits {
    /// Attaching and starting a QEMU that waits: 0.2 s measured warm, seconds on a busy machine.
    pub const PREPARE: Millis = Millis(15_000);
    /// From closing the source's epoch to having everything at the destination: 15–40 ms measured; a silent source is
    /// voted dead after 3 s, and its votes need to be asked for.
    pub const HAND_OVER: Millis = Millis(10_000);
    /// A raise drains for at most 1.5 s (the gate); longer is worth telling.
    pub const FENCE_TOLD: Millis = Millis(3_000);
    /// A committed destination that does not answer for so long is left to its own reconcile loop: it is the owner.
    pub const RESUME: Millis = Millis(15_000);
    /// The same for telling a host to cancel or to clean up.
    pub const CLEAN: Millis = Millis(8_000);
    /// A host that does not answer is asked about at the witnesses after this long.
    pub const ASK: Millis = Millis(500);
    /// A source that waits before the switch-over and has heard nobody for so long may run on by itself: four times what a
    /// director lets pass between two words.
    pub const SILENCE: Millis = Millis(2_000);
    /// And switched off after this long, if it can be: later than a verdict by votes would take.
    pub const POWER: Millis = Millis(5_000);
}
