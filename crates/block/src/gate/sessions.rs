//! The sessions at one gate and what they have below it: the hot path of every operation.
//!
//! Invariant: an operation counts from `admit` to `ended`, whatever happens to its session in between; a slot is given
//! to another session only when its old one is gone *and* has drained. This module does *not* know epochs' rules: the
//! gate tells it who may do what ([`Access`]).

use super::Attachment;
use crate::DeviceError;
use slab::Slab;
use units::sabotage::{Bug, planted};
use units::{Epoch, HostKey, Moment};

/// Sessions of one volume, the drained and the draining: 8 owners × 8 connections × two paths, and as many dying.
pub const SESSIONS_MAX: usize = 256;
/// Open sessions of one host at one volume: an initiator has one and begins another before the old one is gone, a copy that reads has
/// a few. Each may have 64 MiB of payload in memory at a target.
pub const OF_ONE_HOST_MAX: usize = 8;

/// A session's name, given by the caller, used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What an admitted session shows with every operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    slot: u32,
    session: SessionId,
}

impl Door {
    /// Whose door it is.
    #[must_use]
    pub fn session(self) -> SessionId {
        self.session
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing: a read, or a flush (which a read-only client may ask for).
    Read,
    /// Changes bytes: write, discard, zeroes.
    Write,
}

/// An operation below the gate. It is given back to `ended` exactly once; a lost one blocks every drain, for safety.
#[derive(Debug)]
#[must_use = "an operation that is never ended blocks every drain"]
pub struct Ticket {
    slot: u32,
    place: usize,
}

/// What a session may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Write,
    /// Reads: `ro`, or standby.
    Read,
    /// Nothing any more, and this is the answer.
    Shut(DeviceError),
}

/// One session.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub session: SessionId,
    /// What it was admitted as; never changes.
    pub attachment: Attachment,
    /// What it may do now.
    pub access: Access,
    /// Its operations below the gate.
    pub in_flight: u32,
    /// When its client was admitted, or last sent something.
    pub heard: Moment,
    /// Its connection is gone.
    detached: bool,
}

impl Entry {
    /// Whether it may still do something.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.access, Access::Shut(_))
    }

    fn is_draining(&self) -> bool {
        !self.is_open() && self.in_flight > 0
    }
}

/// All sessions of one gate.
#[derive(Default)]
pub struct Sessions {
    slots: Vec<Option<Entry>>,
    started: Slab<Moment>,
}

impl Sessions {
    /// Lets an operation pass, or says what to answer.
    ///
    /// # Errors
    /// [`DeviceError::Fenced`], [`DeviceError::ReadOnly`], [`DeviceError::Closed`].
    #[inline]
    pub fn admit(&mut self, door: Door, kind: Kind, now: Moment) -> Result<Ticket, DeviceError> {
        let entry = match self.slots.get_mut(door.slot as usize) {
            Some(Some(entry)) if entry.session == door.session => entry,
            _ => return Err(DeviceError::Closed),
        };
        match (entry.access, kind) {
            (Access::Write, _) | (Access::Read, Kind::Read) => {}
            _ if planted(Bug::NoGate) => {}
            (Access::Read, Kind::Write) => return Err(DeviceError::ReadOnly),
            (Access::Shut(answer), _) => return Err(answer),
        }
        entry.in_flight += 1;
        Ok(Ticket { slot: door.slot, place: self.started.insert(now) })
    }

    /// Takes an operation back that is really done. True: a session that may not go on has just drained.
    #[inline]
    #[allow(clippy::needless_pass_by_value, reason = "a ticket is used up")]
    pub fn ended(&mut self, ticket: Ticket) -> bool {
        self.started.remove(ticket.place);
        let slot = self.slots[ticket.slot as usize].as_mut();
        let entry = slot.expect("a slot is kept while its session has operations");
        entry.in_flight -= 1;
        entry.in_flight == 0 && !entry.is_open()
    }

    /// Whether the session's reads would pass.
    ///
    /// # Errors
    /// What they would be answered.
    pub fn standing(&self, door: Door) -> Result<(), DeviceError> {
        let entry = self.slots.get(door.slot as usize).and_then(Option::as_ref);
        match entry.filter(|entry| entry.session == door.session).map(|entry| entry.access) {
            Some(Access::Write | Access::Read) => Ok(()),
            Some(Access::Shut(answer)) => Err(answer),
            None => Err(DeviceError::Closed),
        }
    }

    /// The session's client has sent something.
    #[inline]
    pub fn heard(&mut self, door: Door, now: Moment) {
        if let Some(Some(entry)) = self.slots.get_mut(door.slot as usize)
            && entry.session == door.session
        {
            entry.heard = now;
        }
    }

    /// Makes room for an admitted session.
    ///
    /// # Errors
    /// How many there may be, when all of the host's or of the volume's places are taken.
    pub fn enter(
        &mut self,
        session: SessionId,
        attachment: Attachment,
        access: Access,
        now: Moment,
    ) -> Result<Door, usize> {
        let of_host = |entry: &&Entry| entry.is_open() && entry.attachment.host == attachment.host;
        if self.iter().filter(of_host).count() >= OF_ONE_HOST_MAX {
            return Err(OF_ONE_HOST_MAX);
        }
        let entry = Entry { session, attachment, access, in_flight: 0, heard: now, detached: false };
        let free = self.slots.iter().position(Option::is_none);
        if free.is_none() && self.slots.len() == SESSIONS_MAX {
            return Err(SESSIONS_MAX);
        }
        let slot = free.unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(entry);
        Ok(Door { slot: u32::try_from(slot).expect("at most SESSIONS_MAX"), session })
    }

    /// The session's connection is gone: it starts nothing more, and its slot is free once it has drained.
    pub fn leave(&mut self, session: SessionId) {
        if let Some(entry) = self.slots.iter_mut().flatten().find(|entry| entry.session == session) {
            entry.detached = true;
            if entry.is_open() {
                entry.access = Access::Shut(DeviceError::Closed);
            }
        }
        self.reap();
    }

    /// Frees the slots of sessions that are gone and have drained.
    pub fn reap(&mut self) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|entry| entry.detached && entry.in_flight == 0) {
                *slot = None;
            }
        }
    }

    /// Shuts every open session for which `answer` has one; their names.
    pub fn shut(&mut self, answer: impl Fn(&Attachment) -> Option<DeviceError>) -> Vec<SessionId> {
        let mut shut = Vec::new();
        for entry in self.slots.iter_mut().flatten().filter(|entry| entry.is_open()) {
            if let Some(answer) = answer(&entry.attachment) {
                entry.access = Access::Shut(answer);
                shut.push(entry.session);
            }
        }
        shut
    }

    /// Lets the open sessions for which `may` says so write from now on.
    pub fn promote(&mut self, may: impl Fn(&Attachment) -> bool) {
        for entry in self.slots.iter_mut().flatten() {
            if entry.access == Access::Read && may(&entry.attachment) {
                entry.access = Access::Write;
            }
        }
    }

    /// Every session, the draining ones too.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().flatten()
    }

    /// Whether a session of `host` that may not go on still has operations below the gate.
    #[must_use]
    pub fn host_drains(&self, host: HostKey) -> bool {
        let overlooked = |entry: &Entry| planted(Bug::SiblingNotDrained) && entry.session.0.is_multiple_of(2);
        self.iter().any(|entry| entry.attachment.host == host && entry.is_draining() && !overlooked(entry))
    }

    /// Whether anything of an epoch older than `epoch` is still below the gate.
    #[must_use]
    pub fn older_in_flight(&self, epoch: Epoch) -> bool {
        self.iter().any(|entry| entry.attachment.epoch < epoch && entry.in_flight > 0)
    }

    /// When the oldest operation that is still below the gate was admitted.
    #[must_use]
    pub fn oldest(&self) -> Option<Moment> {
        self.started.iter().map(|(_, started)| *started).min()
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use units::{Incarnation, Mode};

    fn enter(sessions: &mut Sessions, name: u64) -> Result<Door, usize> {
        enter_of(sessions, name, 1)
    }

    fn enter_of(sessions: &mut Sessions, name: u64, host: u8) -> Result<Door, usize> {
        let attachment =
            Attachment { host: HostKey([host; 32]), epoch: Epoch(1), incarnation: Incarnation(1), mode: Mode::Rw };
        sessions.enter(SessionId(name), attachment, Access::Write, Moment(0))
    }

    /// Goal: a door never opens for its slot's next session. Method: leave with one operation running, reuse, knock.
    #[test]
    fn a_slot_is_free_only_when_drained_and_old_doors_stay_shut() {
        let mut sessions = Sessions::default();
        let first = enter(&mut sessions, 1).unwrap();
        let ticket = sessions.admit(first, Kind::Write, Moment(5)).unwrap();
        sessions.leave(SessionId(1));
        assert!(sessions.host_drains(HostKey([1; 32])));
        let second = enter(&mut sessions, 2).unwrap();
        assert_ne!(first.slot, second.slot, "the draining session keeps its slot");
        assert!(sessions.ended(ticket), "it has drained");
        sessions.reap();
        let third = enter(&mut sessions, 3).unwrap();
        assert_eq!(first.slot, third.slot);
        assert_eq!(sessions.admit(first, Kind::Read, Moment(6)).unwrap_err(), DeviceError::Closed);
    }

    /// Goal: the age of the oldest operation is right in any order of ends. Method: three, ended from the middle.
    #[test]
    fn the_oldest_operation_is_known() {
        let mut sessions = Sessions::default();
        let door = enter(&mut sessions, 1).unwrap();
        let mut tickets: Vec<Ticket> =
            [30, 10, 20].map(|at| sessions.admit(door, Kind::Read, Moment(at)).unwrap()).into();
        assert_eq!(sessions.oldest(), Some(Moment(10)));
        assert!(!sessions.ended(tickets.remove(1)), "an open session that is idle is no news");
        assert_eq!(sessions.oldest(), Some(Moment(20)));
        tickets.into_iter().for_each(|ticket| assert!(!sessions.ended(ticket)));
        assert_eq!(sessions.oldest(), None);
    }

    /// DA12. Goal: the table is bounded, and one host cannot take it for itself. Method: fill it, host by host.
    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let mut sessions = Sessions::default();
        for name in 0..SESSIONS_MAX {
            let host = u8::try_from(name / OF_ONE_HOST_MAX).unwrap();
            assert!(enter_of(&mut sessions, name as u64, host).is_ok());
            if (name + 1) % OF_ONE_HOST_MAX == 0 {
                assert_eq!(enter_of(&mut sessions, 5000, host), Err(OF_ONE_HOST_MAX));
            }
        }
        assert_eq!(enter_of(&mut sessions, 5000, 200), Err(SESSIONS_MAX));
        sessions.leave(SessionId(7));
        assert!(enter_of(&mut sessions, 5000, 0).is_ok());
    }
}
