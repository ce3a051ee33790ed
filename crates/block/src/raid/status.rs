//! What people are told about an array.

use super::array::Inner;
use super::leg::{Leg, Standing, StillBusy};
use units::{ArrayId, ByteLen, ByteOffset, Millis};

/// The array in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayState {
    /// All members are in sync and nothing was written lately.
    Clean,
    /// All members are in sync; writes may be under way.
    Active,
    /// A slot is empty, failed or being filled.
    Degraded,
    /// All members are in sync but for chunks that a crash left different.
    Resyncing,
    /// The last member failed: no writes.
    Failed,
    /// Stopped.
    Stopped,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Which slot.
    pub slot: usize,
    /// Its device number, which no other disk gets while it may come back.
    pub number: u32,
    /// The path it was handed in with.
    pub label: String,
    /// How it stands.
    pub standing: Standing,
    /// Why it failed.
    pub cause: Option<String>,
    /// What still has to be copied to it.
    pub lacking: ByteLen,
    /// Places of the array that it does not hold: no member could be read there when it was filled, or its disk failed a
    /// write of them. They are read from another member, if that has them, and are there again once they are written.
    pub bad: Vec<(ByteOffset, ByteLen)>,
    /// What it could give to the array and does not: another member is smaller.
    pub unused: ByteLen,
}

impl MemberStatus {
    /// What it does not hold, for people: the first places by name.
    #[must_use]
    pub fn lacks(&self) -> Option<String> {
        const NAMED: usize = 3;
        let all: u64 = self.bad.iter().map(|(_, len)| len.0).sum();
        let named: Vec<String> = self.bad.iter().take(NAMED).map(|(at, len)| format!("{len} at {at}")).collect();
        let more = self.bad.len().saturating_sub(NAMED);
        let rest = if more == 0 { String::new() } else { format!(" and {more} more, {} in all", ByteLen(all)) };
        (!named.is_empty()).then(|| {
            format!(
                "{} lacks {}{rest} of the array, where no disk could be read or written: restore what lies there",
                self.label,
                named.join(", ")
            )
        })
    }
}

/// A resync under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResyncStatus {
    /// What it has copied since it started.
    pub copied: ByteLen,
    /// What the member that lacks most still lacks.
    pub left: ByteLen,
    /// Bytes per second since it started.
    pub bytes_per_second: u64,
    /// When it is done at that speed.
    pub eta: Option<Millis>,
}

/// All there is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayStatus {
    /// Which array.
    pub id: ArrayId,
    /// Its name.
    pub name: String,
    /// Its usable length.
    pub size: ByteLen,
    /// In one word.
    pub state: ArrayState,
    /// How many slots.
    pub slots: usize,
    /// The md update counter.
    pub events: u64,
    /// The filled slots.
    pub members: Vec<MemberStatus>,
    /// Members that were at work when the array last ran, and have not been here since it was started: device number, slot.
    pub missing: Vec<(u32, usize)>,
    /// Disks that were handed in but are not members, and why.
    pub outsiders: Vec<(String, String)>,
    /// The resync under way.
    pub resync: Option<ResyncStatus>,
    /// Failed members that keep their disk open, as operations from before still run on it.
    pub still_busy: Vec<StillBusy>,
    /// Why a resync cannot go on.
    pub resync_blocked: Option<String>,
    /// Why nothing is answered for now: the box cannot record who is in sync.
    pub witness_blocked: Option<String>,
}

impl Inner {
    pub(super) fn status(&self) -> ArrayStatus {
        let board = self.board.borrow();
        let legs: Vec<_> = board.legs.iter().flatten().collect();
        let lacking =
            |leg: &Leg| ByteLen((leg.todo.borrow().len() as u64 * self.shape.chunk_bytes).min(self.shape.size.bytes()));
        let members = legs.iter().map(|leg| MemberStatus {
            slot: usize::from(leg.slot),
            number: leg.number,
            label: leg.label.clone(),
            standing: leg.standing(),
            cause: leg.cause.borrow().clone(),
            lacking: lacking(leg),
            bad: leg.bad_in_array(),
            unused: ByteLen(leg.own.data_size.bytes().saturating_sub(self.shape.size.bytes())),
        });
        let in_sync = legs.iter().filter(|leg| leg.is_in_sync()).count();
        let differ = legs.iter().any(|leg| leg.is_in_sync() && !leg.todo.borrow().is_empty());
        let state = match () {
            () if self.closed.get() => ArrayState::Stopped,
            () if self.broken.get().is_some() => ArrayState::Failed,
            () if in_sync < board.legs.len() => ArrayState::Degraded,
            () if differ => ArrayState::Resyncing,
            () if board.clean => ArrayState::Clean,
            () => ArrayState::Active,
        };
        let now = self.rt.now();
        let ghosts = self.ghosts.borrow();
        let still_busy = legs.iter().copied().chain(ghosts.iter()).filter_map(|leg| leg.still_busy(now)).collect();
        let left = legs.iter().filter(|leg| leg.is_live()).map(|leg| lacking(leg)).max().unwrap_or_default();
        ArrayStatus {
            id: self.shape.id,
            name: self.shape.name.to_string(),
            size: ByteLen(self.shape.size.bytes()),
            state,
            slots: board.legs.len(),
            events: board.events,
            members: members.collect(),
            missing: board.missing.clone(),
            outsiders: board.outsiders.clone(),
            still_busy,
            resync: self.resync.running.get().then(|| self.resync_status(left)),
            resync_blocked: self.resync.blocked.borrow().clone(),
            witness_blocked: self.witness_blocked(),
        }
    }

    fn resync_status(&self, left: ByteLen) -> ResyncStatus {
        let elapsed_ms = self.rt.now().since(self.resync.started.get()).0;
        let copied = self.resync.copied_bytes.get();
        let bytes_per_second = copied.saturating_mul(1000) / elapsed_ms.max(1);
        let eta = left.0.saturating_mul(1000).checked_div(bytes_per_second).map(Millis);
        ResyncStatus { copied: ByteLen(copied), left, bytes_per_second, eta }
    }
}
