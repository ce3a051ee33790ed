//! I11: a member that failed a write or a flush is out for good, and durably so, before anybody is told of a success.
//!
//! Four tests: the same write is not handed to that member again; when a client is told that a write or flush is done,
//! no member in sync failed a part of it, and none failed something that carries no stamp (a superblock, a bitmap page, facts,
//! zeroes) before that write or flush was asked for (B-06); and at that moment the members' superblocks name the failed one (the last is
//! I6's half: without it a restart takes the stale member for good, docs of `Bug::DegradedAckFirst`).

use super::history::{History, WriteId, stamps};
use super::{Invariant, Tick, Verdict};
use std::collections::{BTreeMap, BTreeSet};

/// Who failed what.
#[derive(Default)]
pub struct FailStop {
    by_write: BTreeMap<WriteId, BTreeSet<usize>>,
    /// The last failed flush of a disk that was not taken out and put back since.
    failed: BTreeMap<usize, Tick>,
    /// The last write without a stamp that a disk failed, likewise.
    failed_other: BTreeMap<usize, Tick>,
}

/// What the superblocks and the array say of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The running array uses it as in sync.
    pub in_sync: bool,
    /// Every other member in sync says durably that it failed (or no other member is left).
    pub recorded_failed: bool,
}

impl FailStop {
    /// The target's restart knows nothing of failures it could not record; putting a disk back absolves it.
    pub fn forget(&mut self, disk: Option<usize>) {
        match disk {
            Some(disk) => {
                self.failed.remove(&disk);
                self.failed_other.remove(&disk);
                self.by_write.values_mut().for_each(|disks| {
                    disks.remove(&disk);
                });
            }
            None => {
                self.failed.clear();
                self.failed_other.clear();
                self.by_write.clear();
            }
        }
    }

    /// A write (or a flush, without data) failed. A failed write is judged when *it* is answered: a flush that was under
    /// way beside it promises nothing about it.
    pub fn failed(&mut self, disk: usize, data: Option<&[u8]>, now: Tick) {
        let Some(data) = data else {
            self.failed.insert(disk, now);
            return;
        };
        let mut stamped = false;
        for (_, stamp) in stamps(data) {
            self.by_write.entry(stamp.write).or_default().insert(disk);
            stamped = true;
        }
        if !stamped {
            self.failed_other.insert(disk, now);
        }
    }

    /// A member receives a write.
    ///
    /// # Errors
    /// I11, if that member failed it before.
    pub fn received(&self, disk: usize, data: &[u8]) -> Verdict {
        for (_, stamp) in stamps(data) {
            if self.by_write.get(&stamp.write).is_some_and(|disks| disks.contains(&disk)) {
                return Err((
                    Invariant::I11,
                    format!("disk {disk} failed write {} and is given it again", stamp.write.0),
                ));
            }
        }
        Ok(())
    }

    /// A client is told that `write` is done.
    ///
    /// # Errors
    /// I11 if a member that failed it is still in sync; I6 if its failure is not recorded.
    pub fn acked(&self, write: WriteId, standing: impl Fn(usize) -> Option<Standing>, history: &History) -> Verdict {
        let disks = self.by_write.get(&write).into_iter().flatten();
        let whose = history.op(write).map_or(0, |op| op.host);
        for &disk in disks {
            self.judge(disk, &format!("write {} of host {whose}", write.0), &standing)?;
        }
        let began = history.op(write).map_or(Tick(0), |op| op.invoked);
        self.judge_other(began, &standing)
    }

    /// A client is told that a flush, asked for at `began`, is done.
    ///
    /// # Errors
    /// The same.
    pub fn flushed(&self, began: Tick, standing: impl Fn(usize) -> Option<Standing>) -> Verdict {
        for (&disk, _) in self.failed.iter().filter(|(_, when)| **when > began) {
            self.judge(disk, "a flush", &standing)?;
        }
        self.judge_other(began, &standing)
    }

    /// Who failed metadata is out at once: what is asked for later is not answered with it.
    fn judge_other(&self, began: Tick, standing: &impl Fn(usize) -> Option<Standing>) -> Verdict {
        for (&disk, _) in self.failed_other.iter().filter(|(_, when)| **when < began) {
            self.judge(disk, "what was asked for after its metadata could not be written", standing)?;
        }
        Ok(())
    }

    fn judge(&self, disk: usize, what: &str, standing: &impl Fn(usize) -> Option<Standing>) -> Verdict {
        match standing(disk) {
            Some(Standing { in_sync: true, .. }) => {
                Err((Invariant::I11, format!("{what} is answered as done, disk {disk} failed it and is still in sync")))
            }
            Some(Standing { recorded_failed: false, .. }) => Err((
                Invariant::I6,
                format!("{what} is answered, and the failure of disk {disk} is in no superblock yet"),
            )),
            _ => Ok(()),
        }
    }
}
