//! The gate's view of the facts: store a record on every member, load what all of them said.
//!
//! Invariant: a stored record is on every live member when `store` answers, and its epoch never goes back. All records are
//! written together, up to 512 KiB on every member, in the queue in which others' bitmap bits wait: so records take at most a
//! quarter of its time, however often somebody attaches (DA14). Those that come in the meantime go out together.

use super::RaidError;
use super::array::Inner;
use super::facts::{RECORD_MAX_BYTES, RECORDS_MAX, Records, SEQUENCE_MAX, epoch_of, rank_of};
use crate::runtime::sleep;
use std::rc::Rc;
use units::{Millis, VolumeId};

/// After records were written others have the queue for so many times as long.
const REST: u64 = 3;

/// The table of per-volume records of one array.
#[derive(Clone)]
pub struct FactsTable(pub(super) Rc<Inner>);

impl FactsTable {
    /// Every record: per volume the one with the highest epoch and change that any readable member held, or stored since.
    #[must_use]
    pub fn load(&self) -> Records {
        self.0.board.borrow().records.clone()
    }

    /// What each readable member held for one volume when the array started, each content once; only the last stored
    /// since. The gate judges them: one it cannot read counts against the volume.
    #[must_use]
    pub fn load_all(&self, volume: VolumeId) -> Vec<Vec<u8>> {
        let board = self.0.board.borrow();
        let mut all = board.found.get(&volume).cloned().unwrap_or_default();
        if let Some(newest) = board.records.get(&volume).filter(|newest| !all.contains(newest)) {
            all.push(newest.clone());
        }
        all
    }

    /// Whether the facts of all slots' members could be read: only then is it certain that no higher epoch was granted.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.0.board.borrow().complete
    }

    /// Whether every member at work has room for records: without, no volume can be attached (OD5).
    ///
    /// # Errors
    /// [`RaidError::NoFactsRoom`] names the first that has none.
    pub fn has_room(&self) -> Result<(), RaidError> {
        match self.0.live().iter().find(|leg| !leg.facts_room) {
            Some(leg) => Err(RaidError::NoFactsRoom(leg.label.clone())),
            None => Ok(()),
        }
    }

    /// Keeps a record durably on every live member. A member that cannot is failed, as for a data write.
    ///
    /// # Errors
    /// [`RaidError::Record`], [`RaidError::EpochBack`], [`RaidError::NoFactsRoom`],
    /// [`RaidError::FactsUsedUp`]: nothing changed.
    /// [`RaidError::Broken`]: the last member failed; whether the record is kept is not known.
    pub async fn store(&self, volume: VolumeId, record: &[u8]) -> Result<(), RaidError> {
        let inner = &self.0;
        if inner.closed.get() {
            return Err(RaidError::Closed);
        }
        self.has_room()?;
        if inner.board.borrow().facts_sequence >= SEQUENCE_MAX {
            // What is written at a higher one is not read again.
            return Err(RaidError::FactsUsedUp);
        }
        self.keep(volume, record)?;
        self.write_out().await
    }

    /// Writes the records as they are now, when it is their turn; durable when this answers.
    async fn write_out(&self) -> Result<(), RaidError> {
        let inner = &self.0;
        while inner.records_due.get() > inner.rt.now() {
            sleep(&inner.rt, inner.records_due.get().since(inner.rt.now())).await;
        }
        let begun = inner.rt.now();
        inner.board.borrow_mut().facts_dirty = true;
        let generation = inner.touch();
        inner.settle(generation).await.map_err(RaidError::Broken)?;
        let now = inner.rt.now();
        let due = now + Millis(now.since(begun).0 * REST);
        inner.records_due.set(due.max(inner.records_due.get()));
        Ok(())
    }

    /// Forgets a volume's record, durably: the volume is gone for good.
    ///
    /// # Errors
    /// [`RaidError::Broken`], [`RaidError::Closed`].
    pub async fn forget(&self, volume: VolumeId) -> Result<(), RaidError> {
        if self.0.closed.get() {
            return Err(RaidError::Closed);
        }
        {
            let mut board = self.0.board.borrow_mut();
            board.records.remove(&volume);
            board.found.remove(&volume);
        }
        self.write_out().await
    }

    fn keep(&self, volume: VolumeId, record: &[u8]) -> Result<(), RaidError> {
        let mut board = self.0.board.borrow_mut();
        let len = record.len();
        let full = board.records.len() >= RECORDS_MAX && !board.records.contains_key(&volume);
        let Some(offered) = epoch_of(record).filter(|_| len <= RECORD_MAX_BYTES && !full) else {
            return Err(RaidError::Record { volume, len });
        };
        if let Some(held) = board.records.get(&volume).map(|held| rank_of(held)).filter(|held| *held > rank_of(record))
        {
            return Err(RaidError::EpochBack { volume, held: held.0, offered });
        }
        board.found.remove(&volume);
        board.records.insert(volume, record.to_vec());
        Ok(())
    }
}
