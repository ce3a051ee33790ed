//! Who wrote what, when, and what they were told: the record every checker reads.
//!
//! Each sector a client writes carries a [`Stamp`] that names its [`Op`]: whoever finds the stamp, on a disk or in a read,
//! knows host, epoch, incarnation and order. A sector without a valid stamp is nobody's (metadata, zeroes).

use super::Tick;
use crate::disk::SECTOR;
use crate::rng::splitmix;
use units::{Epoch, Incarnation};

/// A write of the history; zero is "never written".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(pub u32);

/// What a sector says about itself: 16 bytes, repeated over the whole sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The write it belongs to.
    pub write: WriteId,
    /// Which sector of the volume it was meant for.
    pub sector: u32,
    /// The epoch of the attachment that wrote it.
    pub epoch: Epoch,
}

const STAMP_BYTES: usize = 16;
const MAGIC: u16 = 0x6d78;

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Acked,
    /// Not done, or nobody knows: an error, or no answer because the target died.
    Unknown,
    /// Refused at the gate: never done.
    Refused,
}

/// One write of a client.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// Which host.
    pub host: u8,
    /// Of its attachment.
    pub epoch: Epoch,
    /// Of its attachment.
    pub incarnation: Incarnation,
    /// First sector of the volume.
    pub sector: u32,
    /// How many.
    pub sectors: u32,
    /// Whether with FUA.
    pub fua: bool,
    /// Whether it makes zeroes of the sectors; these carry no stamp.
    pub zeroes: bool,
    /// When it was asked for.
    pub invoked: Tick,
    /// When it was answered, and how.
    pub told: Option<(Tick, Outcome)>,
    /// From when on it certainly does nothing more.
    pub ended: Option<Tick>,
    /// From when on it survives a power cut for certain.
    pub durable: Option<Tick>,
}

/// All writes of a run.
#[derive(Clone, Default)]
pub struct History {
    ops: Vec<Op>,
    /// Before this place all writes are durable or were lost by a power cut.
    settled: usize,
}

impl Stamp {
    /// The stamp as a sector.
    #[must_use]
    pub fn bytes(self) -> [u8; STAMP_BYTES] {
        let epoch = u16::try_from(self.epoch.0).expect("a run has few epochs");
        let mut bytes = [0; STAMP_BYTES];
        bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2..4].copy_from_slice(&epoch.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.write.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.sector.to_le_bytes());
        let check = Self::check(&bytes);
        bytes[12..16].copy_from_slice(&check);
        bytes
    }

    /// Fills `sector` with it.
    pub fn fill(self, sector: &mut [u8]) {
        let bytes = self.bytes();
        sector.chunks_exact_mut(STAMP_BYTES).for_each(|part| part.copy_from_slice(&bytes));
    }

    /// The stamp of a sector, if it carries one and nothing else.
    #[must_use]
    pub fn of(sector: &[u8]) -> Option<Self> {
        let first = &sector[..STAMP_BYTES];
        if first[0..2] != MAGIC.to_le_bytes() || first[12..16] != Self::check(first) {
            return None;
        }
        if sector[..SECTOR - STAMP_BYTES] != sector[STAMP_BYTES..SECTOR] {
            return None;
        }
        let word = |at: usize| u32::from_le_bytes(first[at..at + 4].try_into().expect("four bytes"));
        let epoch = u16::from_le_bytes(first[2..4].try_into().expect("two bytes"));
        Some(Self { write: WriteId(word(4)), sector: word(8), epoch: Epoch(u64::from(epoch)) })
    }

    fn check(bytes: &[u8]) -> [u8; 4] {
        let low = u64::from_le_bytes(bytes[0..8].try_into().expect("eight bytes"));
        let high = u64::from(u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")));
        let sum = splitmix(splitmix(low) ^ high).to_le_bytes();
        [sum[0], sum[1], sum[2], sum[3]]
    }
}

/// Every stamp in `bytes`, with its place in them.
pub fn stamps(bytes: &[u8]) -> impl Iterator<Item = (usize, Stamp)> {
    let whole = bytes.chunks_exact(SECTOR).enumerate();
    whole.filter_map(|(at, sector)| Some((at * SECTOR, Stamp::of(sector)?)))
}

impl History {
    /// Notes a write that begins.
    pub fn begin(&mut self, op: Op) -> WriteId {
        assert!(op.told.is_none() && op.ended.is_none(), "a write begins before it ends");
        self.ops.push(op);
        WriteId(u32::try_from(self.ops.len()).expect("a run has few writes"))
    }

    /// A write by its number; `None` for "never written".
    #[must_use]
    pub fn op(&self, write: WriteId) -> Option<&Op> {
        self.ops.get((write.0 as usize).checked_sub(1)?)
    }

    /// The same, to change.
    ///
    /// # Panics
    /// If there is no such write.
    pub fn op_mut(&mut self, write: WriteId) -> &mut Op {
        &mut self.ops[write.0 as usize - 1]
    }

    /// All writes, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter()
    }

    /// The same, to change.
    pub fn all_mut(&mut self) -> impl Iterator<Item = (WriteId, &mut Op)> {
        self.ops.iter_mut().enumerate().map(|(at, op)| (WriteId(u32::try_from(at + 1).expect("few writes")), op))
    }

    /// The acknowledged writes that a flush has to make durable, or a few more: those acknowledged after `since`. Writes
    /// below the first one that is not durable and not lost are never looked at again.
    pub fn acked_after(&mut self, since: Tick) -> impl Iterator<Item = &mut Op> {
        let done = |op: &Op| op.durable.is_some() || op.told.is_some_and(|(told, _)| told <= since);
        self.settled += self.ops[self.settled..].iter().take_while(|op| done(op)).count();
        self.ops[self.settled..].iter_mut()
    }

    /// How many writes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

impl Op {
    /// Whether this one certainly ended before `later` began.
    #[must_use]
    pub fn precedes(&self, later: &Self) -> bool {
        self.ended.is_some_and(|ended| ended < later.invoked)
    }

    /// Whether the client was told that it is done.
    #[must_use]
    pub fn acked(&self) -> Option<Tick> {
        self.told.and_then(|(tick, outcome)| (outcome == Outcome::Acked).then_some(tick))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a stamp is found again, and nothing else is taken for one. Method: there and back, then one byte wrong.
    #[test]
    fn a_sector_knows_its_write_or_nothing() {
        let stamp = Stamp { write: WriteId(77), sector: 1234, epoch: Epoch(5) };
        let mut sector = [0; SECTOR];
        assert_eq!(Stamp::of(&sector), None);
        stamp.fill(&mut sector);
        assert_eq!(Stamp::of(&sector), Some(stamp));
        for at in [0, 3, 15, 16, 300, 511] {
            let mut wrong = sector;
            wrong[at] ^= 1;
            assert_eq!(Stamp::of(&wrong), None, "byte {at}");
        }
    }
}
