//! I6: a member in sync holds the latest acknowledged content; a resync never puts something older over something newer.
//!
//! Two tests. At the disks' edge: a write about to take effect is older than what stands there, and what stands there was
//! acknowledged and could not have been lost by a power cut since. At rest, whenever the array says that nothing is left
//! to resync: every sector whose last write was acknowledged is the same on all members in sync.

use super::history::{History, Stamp, WriteId, stamps};
use super::{Invariant, Tick, Verdict};
use crate::disk::{SECTOR, Sparse};
use std::collections::BTreeMap;

/// The data area of a member.
pub struct Area<'a> {
    /// Which disk.
    pub disk: usize,
    /// All of its content.
    pub content: &'a Sparse,
    /// Where the data begins.
    pub start: usize,
    /// How long it is.
    pub len: usize,
}

/// What is known about the order of content.
#[derive(Default)]
pub struct NoStaleMember {
    /// The last power cut.
    cut: Tick,
    /// The last write to a sector, by invocation.
    last: BTreeMap<u32, WriteId>,
}

impl NoStaleMember {
    /// A write begins.
    pub fn begin(&mut self, write: WriteId, sector: u32, sectors: u32) {
        for sector in sector..sector + sectors {
            self.last.insert(sector, write);
        }
    }

    /// The power went.
    pub fn power_cut(&mut self, now: Tick) {
        self.cut = now;
    }

    /// `data` is about to take effect over `before` on `disk`.
    ///
    /// # Errors
    /// I6, if something newer and safe is lost by that.
    pub fn applied(&self, disk: usize, data: &[u8], before: &[u8], history: &History) -> Verdict {
        for (at, stamp) in stamps(data) {
            let Some(stood) = Stamp::of(&before[at..at + SECTOR]).filter(|stood| stood.write != stamp.write) else {
                continue;
            };
            let (Some(new), Some(old)) = (history.op(stamp.write), history.op(stood.write)) else {
                continue;
            };
            let safe = old.durable.is_some() || old.acked().is_some_and(|acked| acked > self.cut);
            if new.precedes(old) && old.acked().is_some() && safe {
                let (new, old) = (stamp.write.0, stood.write.0);
                let detail =
                    format!("on disk {disk} sector {} goes back from write {old} to write {new}", stamp.sector);
                return Err((Invariant::I6, detail));
            }
        }
        Ok(())
    }

    /// The members in sync, each with its data area, at a moment when nothing is to be resynced. `busy` sectors are
    /// being written right now. With `all`, nothing is in flight anywhere: even unacknowledged writes must be equal.
    ///
    /// # Errors
    /// I6, if two of them differ.
    pub fn equal(&self, members: &[Area<'_>], all: bool, busy: impl Fn(u32) -> bool, history: &History) -> Verdict {
        let Some((first, others)) = members.split_first() else {
            return Ok(());
        };
        for other in others {
            let places = first.content.differing_sectors(other.content, first.start, first.len);
            for place in places {
                let sector = u32::try_from((place - first.start) / SECTOR).expect("a small volume");
                if self.settled(sector, all, history) && !busy(sector) {
                    let name =
                        |area: &Area<'_>| Stamp::of(&area.content.get(place, SECTOR)).map_or(0, |stamp| stamp.write.0);
                    let detail = format!(
                        "sector {sector} is write {} on disk {} and write {} on disk {}, both in sync",
                        name(first),
                        first.disk,
                        name(other),
                        other.disk
                    );
                    return Err((Invariant::I6, detail));
                }
            }
        }
        Ok(())
    }

    fn settled(&self, sector: u32, all: bool, history: &History) -> bool {
        let last = self.last.get(&sector).and_then(|&write| history.op(write));
        all || last.is_none_or(|op| op.acked().is_some())
    }
}
