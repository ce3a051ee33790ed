//! The gate as a step machine: an event in, commands out. No futures, no clock, nothing touched.
//!
//! ```text
//!             floor missing, member missing          raise: stored, draining         laggards: last member
//!  blocked(floor) ─────── floor | override ──▶ serving(e) ───────▶ raising(e') ───────────▶ blocked(fence)
//!                                                 ▲                 │   ▲  │ store failed         │
//!                                                 │                 │   └──┴─▶ blocked(store)     │ drained: ack
//!                                                 └─── drained: ack ┴─────────────────────────────┘
//! ```

use super::attach::Waiting;
use super::raise::{Promise, Raising};
use super::record::Grant;
use super::refusal::{Blocked, Declined, Refusal};
use super::rights::Rights;
use super::sessions::{Door, Kind, SessionId, Sessions, Ticket};
use super::status::State;
use super::{Attachment, Claim, Request};
use crate::DeviceError;
use units::sabotage::{Bug, planted};
use units::{Epoch, HostKey, Moment, VolumeName};

/// Who asked for a raise or a reservation, so that the answer finds its way; given by the caller, used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// What became of the members that operations hung on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Laggards {
    /// They are failed, in the superblocks first; or there were none.
    Failed,
    /// One of them is a member without which the array stops: it was left alone.
    LastMember,
    /// The box takes no record of who is in sync, so nobody can be failed.
    Unrecorded,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Records of members that were missing have been read; `complete` if none is missing now.
    Found {
        /// One per readable member, as stored.
        records: Vec<Vec<u8>>,
        /// Whether every member could be read.
        complete: bool,
    },
    /// The store says the epoch is at least this.
    Floor(Epoch),
    /// An operator opens a volume that is blocked(floor); the word was audited and is shown in the status.
    Override(String),
    /// A session wants in.
    Attach(SessionId, Request),
    /// A session is gone, or does not want in any more.
    Detach(SessionId),
    /// A new epoch.
    Raise(AskId, Claim),
    /// A promise of a higher epoch.
    Reserve(AskId, Epoch, HostKey),
    /// The answer to [`Command::Store`].
    Stored(Result<(), DeviceError>),
    /// The answer to [`Command::FailLaggards`].
    LaggardsFailed(Laggards),
    /// [`Gate::ended`] said that a session has drained.
    Drained,
    /// The moment of a [`Command::WakeAt`] has come.
    Tick,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Write this on every in-sync member, durably; answered by [`Event::Stored`]. One at a time.
    Store(Grant),
    /// Let the session go on with this door.
    Admitted(SessionId, Door, Attachment),
    /// Tell the session.
    Refused(SessionId, Refusal),
    /// Close the connections: these sessions will never be served again.
    Revoke(Vec<SessionId>),
    /// Fail the members that operations older than this hang on; answered by [`Event::LaggardsFailed`].
    FailLaggards(Moment),
    /// The raise is done, the promise is durable.
    Ack(AskId),
    /// It will not be done.
    Decline(AskId, Declined),
    /// Send [`Event::Tick`] then.
    WakeAt(Moment),
}

/// One volume's gate.
pub struct Gate {
    pub(super) volume: VolumeName,
    pub(super) rights: Rights,
    /// Whether every member's record was read.
    complete: bool,
    pub(super) overridden: Option<String>,
    pub(super) storing: Storing,
    pub(super) sessions: Sessions,
    pub(super) waiting: Vec<Waiting>,
    pub(super) raising: Option<Raising>,
    pub(super) promises: Vec<Promise>,
    /// A FailLaggards is under way.
    pub(super) failing_laggards: bool,
    pub(super) shown: (State, Moment),
}

/// How far the grant is durable on every in-sync member, by its `change`. What a start finds is not: a crash may have
/// left it on one member only. So it is stored again before anybody relies on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Storing {
    durable: u64,
    running: Option<u64>,
    /// The newest that could not be stored; it is stored again only with a newer change.
    given_up: u64,
}

impl Storing {
    pub(super) fn has(&self, change: u64) -> bool {
        change <= self.durable
    }

    pub(super) fn failed(&self, change: u64) -> bool {
        !self.has(change) && change <= self.given_up
    }
}

impl Gate {
    /// The gate of `volume` after a start, by the records that the readable members hold. Without a floor, and with a
    /// member missing or a record unreadable, it serves nobody.
    #[must_use]
    pub fn open(volume: VolumeName, records: &[Vec<u8>], complete: bool, floor: Option<Epoch>, now: Moment) -> Self {
        let (newest, unreadable) = Grant::newest(records.iter().map(Vec::as_slice));
        let grant = newest.unwrap_or_default();
        let mut gate = Self {
            volume,
            rights: Rights { grant, floor },
            complete: complete && unreadable == 0,
            overridden: None,
            storing: Storing::default(),
            sessions: Sessions::default(),
            waiting: Vec::new(),
            raising: None,
            promises: Vec::new(),
            failing_laggards: false,
            shown: (State::Serving, now),
        };
        gate.shown.0 = gate.state();
        gate
    }

    /// Lets an operation pass, or says what to answer: the hot path.
    ///
    /// # Errors
    /// [`DeviceError::Fenced`], [`DeviceError::ReadOnly`] or [`DeviceError::Closed`]; the operation is then answered
    /// and forgotten (rule 7).
    #[inline]
    pub fn admit(&mut self, door: Door, kind: Kind, now: Moment) -> Result<Ticket, DeviceError> {
        self.sessions.admit(door, kind, now)
    }

    /// Takes an operation back that has really ended. If true, [`Event::Drained`] is due.
    #[inline]
    #[must_use]
    pub fn ended(&mut self, ticket: Ticket) -> bool {
        self.sessions.ended(ticket)
    }

    /// Whether a session's reads would pass.
    ///
    /// # Errors
    /// What they would be answered.
    pub fn standing(&self, door: Door) -> Result<(), DeviceError> {
        self.sessions.standing(door)
    }

    /// A session's client has sent something, whatever it is: the hot path.
    #[inline]
    pub fn heard(&mut self, door: Door, now: Moment) {
        self.sessions.heard(door, now);
    }

    /// Something happened.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        match event {
            Event::Found { records, complete } => self.on_found(&records, complete, &mut out),
            Event::Floor(epoch) => self.on_floor(epoch, &mut out),
            Event::Override(word) => self.on_override(&word),
            Event::Attach(session, request) => {
                if let Err(why) = self.on_attach(now, session, request, &mut out) {
                    out.push(Command::Refused(session, self.refusal(why)));
                }
            }
            Event::Detach(session) => {
                self.waiting.retain(|waiting| waiting.session != session);
                self.sessions.leave(session);
            }
            Event::Raise(ask, claim) => {
                if let Err(why) = self.on_raise(now, ask, &claim, &mut out) {
                    out.push(Command::Decline(ask, why));
                }
            }
            Event::Reserve(ask, epoch, host) => {
                if let Err(why) = self.on_reserve(ask, epoch, host, &mut out) {
                    out.push(Command::Decline(ask, why));
                }
            }
            Event::Stored(answer) => self.on_stored(answer),
            Event::LaggardsFailed(laggards) => self.on_laggards_failed(now, laggards),
            Event::Drained => self.sessions.reap(),
            Event::Tick => self.on_tick(now, &mut out),
        }
        self.settle(now, &mut out);
        out
    }

    /// Why the newest epoch is not served, if it is not.
    #[must_use]
    pub fn blocked(&self) -> Option<Blocked> {
        let known = self.complete || self.rights.floor.is_some() || self.overridden.is_some();
        if !known && !planted(Bug::DegradedServes) {
            return Some(Blocked::Floor);
        }
        let raising = self.raising.as_ref()?;
        if self.storing.failed(raising.needs) {
            return Some(Blocked::Store);
        }
        raising.hindered
    }

    /// Does what has become possible: stores, finishes the raise, keeps promises, admits who waited.
    fn settle(&mut self, now: Moment, out: &mut Vec<Command>) {
        self.settle_store(out);
        self.settle_raise(out);
        self.settle_promises(out);
        self.settle_waiting(now, out);
        let state = self.state();
        if state != self.shown.0 {
            self.shown = (state, now);
        }
    }

    fn settle_store(&mut self, out: &mut Vec<Command>) {
        let newest = self.rights.grant.change;
        let tried = self.storing.durable.max(self.storing.given_up);
        if newest <= tried || self.storing.running.is_some() || self.blocked() == Some(Blocked::Floor) {
            return;
        }
        // Below the floor the grant serves nobody, and a member that comes back may hold a higher one.
        if self.rights.grant.epoch < self.rights.epoch() {
            return;
        }
        if planted(Bug::GrantNotDurable) {
            self.storing.durable = newest;
            return;
        }
        self.storing.running = Some(newest);
        out.push(Command::Store(self.rights.grant.clone()));
    }

    /// The change that must be durable for what is granted now; a change that was given up is tried again as a new one.
    pub(super) fn needs(&mut self) -> u64 {
        if self.storing.failed(self.rights.grant.change) {
            self.rights.grant.change += 1;
        }
        self.rights.grant.change
    }

    /// Shuts every session whose right is gone.
    pub(super) fn sweep(&mut self, out: &mut Vec<Command>) {
        let rights = &self.rights;
        let shut = self.sessions.shut(|attachment| rights.fenced(attachment));
        if !shut.is_empty() {
            out.push(Command::Revoke(shut));
        }
    }

    pub(super) fn refusal(&self, why: super::Refused) -> Refusal {
        Refusal { volume: self.volume.clone(), why }
    }

    fn on_stored(&mut self, answer: Result<(), DeviceError>) {
        let Some(change) = self.storing.running.take() else {
            return;
        };
        match answer {
            Ok(()) => self.storing.durable = change,
            Err(_) => self.storing.given_up = change,
        }
    }

    fn on_found(&mut self, records: &[Vec<u8>], complete: bool, out: &mut Vec<Command>) {
        let was_blocked = self.blocked() == Some(Blocked::Floor);
        let (newest, unreadable) = Grant::newest(records.iter().map(Vec::as_slice));
        self.complete |= complete && unreadable == 0;
        let Some(newest) = newest else { return };
        let known = (self.rights.grant.epoch, self.rights.grant.change);
        if was_blocked && (newest.epoch, newest.change) > known {
            // Nobody was served by the older record, so nothing is lost by taking the newer one whole.
            self.storing = Storing::default();
            self.rights.grant = newest;
        } else if newest.epoch > self.rights.epoch() {
            self.on_floor(newest.epoch, out);
        } else if self.rights.learn(&newest) {
            self.sweep(out);
        }
    }

    fn on_floor(&mut self, epoch: Epoch, out: &mut Vec<Command>) {
        self.rights.floor = self.rights.floor.max(Some(epoch));
        if epoch <= self.rights.grant.epoch {
            return;
        }
        let asked = self.rights.grant.epoch;
        let overtaken = self.raising.take().into_iter().flat_map(|raising| raising.asks);
        out.extend(overtaken.map(|ask| Command::Decline(ask, Declined::Lower { asked, current: epoch })));
        self.sweep(out);
    }

    fn on_override(&mut self, word: &str) {
        if self.blocked() == Some(Blocked::Floor) {
            self.overridden = Some(word.chars().filter(|c| !c.is_control()).take(WORD_MAX).collect());
        }
    }
}

/// What the status shows of an operator's word; the audit log has all of it.
const WORD_MAX: usize = 200;
