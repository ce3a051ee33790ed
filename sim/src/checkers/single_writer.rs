//! I1: after a fence for epoch e is acknowledged, no write of an older epoch is received or completed by a member in use.
//!
//! Also B-11, the same promise one level down: after an attach with a newer incarnation is answered, nothing of an older
//! incarnation of that host and epoch arrives. Both are judged at the disks' edge (docs/rfd/0003-gate.md, rules 2, 4).
//!
//! Resync copies old content and carries no epoch: a write of what already stands on another member, at the same place, when
//! the disk gets it is a copy of what the gate admitted, not a late write. A mirrored write that one member has and the
//! other has not is none: it was handed to both before it stood anywhere.

use super::history::{History, Op, Stamp};
use super::{Invariant, Verdict};
use std::collections::BTreeMap;
use units::{Epoch, Incarnation};

/// What the gate has promised so far.
#[derive(Default)]
pub struct SingleWriter {
    /// The highest epoch whose fence was acknowledged.
    fenced: Epoch,
    /// The highest epoch anybody asked for.
    asked: Epoch,
    /// The highest incarnation admitted, by host and epoch.
    admitted: BTreeMap<(u8, Epoch), Incarnation>,
}

impl SingleWriter {
    /// A raise to `epoch` was asked for.
    pub fn raise_asked(&mut self, epoch: Epoch) {
        self.asked = self.asked.max(epoch);
    }

    /// The fence for `epoch` was acknowledged.
    pub fn fenced(&mut self, epoch: Epoch) {
        self.fenced = self.fenced.max(epoch);
    }

    /// An attach for writing was answered.
    pub fn admitted(&mut self, host: u8, epoch: Epoch, incarnation: Incarnation) {
        let highest = self.admitted.entry((host, epoch)).or_default();
        *highest = (*highest).max(incarnation);
    }

    /// A member received `stamp`, or still has it in flight when a promise is given. `copy`: it stood elsewhere when
    /// the member got it.
    ///
    /// # Errors
    /// I1 or B-11.
    pub fn arrives(&self, disk: usize, stamp: Stamp, copy: bool, history: &History) -> Verdict {
        let Some(op) = history.op(stamp.write) else {
            return Err((Invariant::I1, format!("disk {disk} receives write {} that nobody made", stamp.write.0)));
        };
        if op.epoch > self.asked {
            return Err((
                Invariant::I1,
                format!("disk {disk} receives {}, of which nobody was granted yet", named(stamp, op)),
            ));
        }
        if copy {
            return Ok(());
        }
        if op.epoch < self.fenced {
            let detail = format!("disk {disk} has {} after the fence for {}", named(stamp, op), self.fenced);
            return Err((Invariant::I1, detail));
        }
        let highest = self.admitted.get(&(op.host, op.epoch)).copied().unwrap_or_default();
        if op.incarnation < highest {
            let detail = format!("disk {disk} has {} after {highest} was admitted", named(stamp, op));
            return Err((Invariant::B11, detail));
        }
        Ok(())
    }
}

fn named(stamp: Stamp, op: &Op) -> String {
    format!("write {} of host {}, {}, {} (sector {})", stamp.write.0, op.host, op.epoch, op.incarnation, stamp.sector)
}
