//! I12: epochs never go back: not by a restart, not with a member missing, not for a late caller.
//!
//! Source: docs/rfd/0003-gate.md, rules 4, 6 and 8.

use super::{Invariant, Verdict};
use std::collections::BTreeMap;
use units::{Epoch, Incarnation};

/// The highest of everything that was acknowledged.
#[derive(Default)]
pub struct EpochsGrow {
    acked: Epoch,
    admitted: BTreeMap<(u8, Epoch), Incarnation>,
}

impl EpochsGrow {
    /// A raise was acknowledged.
    pub fn raised(&mut self, epoch: Epoch) {
        self.acked = self.acked.max(epoch);
    }

    /// The gate says which epoch the volume is at.
    ///
    /// # Errors
    /// I12, if that is lower than what it acknowledged.
    pub fn stands_at(&self, epoch: Epoch) -> Verdict {
        if epoch < self.acked {
            return Err((Invariant::I12, format!("the gate serves {epoch} and has acknowledged {}", self.acked)));
        }
        Ok(())
    }

    /// An attach was answered. `blind`: a member is missing and no floor is known.
    ///
    /// # Errors
    /// I12, for an epoch or incarnation that is over, or if nobody can know.
    pub fn attached(&mut self, host: u8, epoch: Epoch, incarnation: Incarnation, blind: bool) -> Verdict {
        if epoch < self.acked {
            let detail = format!("host {host} attached at {epoch}, {} was acknowledged", self.acked);
            return Err((Invariant::I12, detail));
        }
        if blind {
            let detail = format!("host {host} attached at {epoch} with a member missing and no floor");
            return Err((Invariant::I12, detail));
        }
        let highest = self.admitted.entry((host, epoch)).or_default();
        if incarnation < *highest {
            let detail = format!("host {host} attached at {epoch} as {incarnation}, {highest} was admitted before");
            return Err((Invariant::I12, detail));
        }
        *highest = incarnation;
        Ok(())
    }
}
