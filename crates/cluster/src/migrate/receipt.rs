//! What a migration cost, for the person who asked for it.

use serde::{Deserialize, Serialize};
use units::{ByteLen, Millis};

/// What the two agents measured, each on its own clock. The source counts rounds and bytes; STOP and RESUME are read by
/// whoever sees both events, so the blackout is one clock's span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    /// Sent over the migration stream.
    pub bytes: Option<ByteLen>,
    /// Passes over the memory.
    pub rounds: Option<u64>,
    /// From the source's STOP to the destination's RESUME, as the events arrived at the controller.
    pub cpu_blackout_ms: Option<Millis>,
    /// The longest gap of the network probe, if one ran.
    pub network_blackout_ms: Option<Millis>,
}

impl Measured {
    /// Takes what the other knows.
    pub fn merge(&mut self, other: Self) {
        self.bytes = other.bytes.or(self.bytes);
        self.rounds = other.rounds.or(self.rounds);
        self.cpu_blackout_ms = other.cpu_blackout_ms.or(self.cpu_blackout_ms);
        self.network_blackout_ms = other.network_blackout_ms.or(self.network_blackout_ms);
    }
}

/// Kept in the job's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Receipt {
    /// As the agents measured.
    #[serde(flatten)]
    pub measured: Measured,
    /// From the start to the pause before switching over.
    pub copy_ms: Option<Millis>,
    /// From the transaction that closes the source's epoch to the one that commits.
    pub hand_over_ms: Option<Millis>,
    /// From the commit to the destination running.
    pub resume_ms: Option<Millis>,
}
