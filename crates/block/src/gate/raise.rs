//! Raising the epoch, and promising one. The order is the safety:
//!
//! 1. admission of older epochs closes in memory, so that what must drain only shrinks;
//! 2. the grant is stored, so that a restart from here on comes up closed to them as well;
//! 3. what they have below the gate ends, so that none of it lands after the successor's first write;
//! 4. only then the ack, on which somebody starts a guest elsewhere.

use super::Claim;
use super::machine::{AskId, Command, Gate, Laggards};
use super::record::Reservation;
use super::refusal::{Blocked, Declined};
use units::sabotage::{Bug, planted};
use units::{Epoch, HostKey, Incarnation, Millis, Moment};

/// How long a raise waits for disks before the members that hang are failed. Part of the failover goal (≤ 5 s).
pub const FENCE_DRAIN_MAX: Millis = Millis(1500);
/// How soon it looks again: an operation may have reached its member later than it passed the gate.
pub const LAGGARDS_AGAIN: Millis = Millis(500);
/// Callers waiting for one answer: every node that takes a job over, several times.
pub const ASKS_MAX: usize = 64;

/// The grant in memory is newer than what was acknowledged.
#[derive(Debug)]
pub(super) struct Raising {
    pub(super) asks: Vec<AskId>,
    /// The change of the grant that must be durable.
    pub(super) needs: u64,
    patience: Patience,
    /// What was in the way when members that hang were last to be failed.
    pub(super) hindered: Option<Blocked>,
}

/// How long disks are still waited for.
#[derive(Debug)]
pub(super) struct Patience {
    /// Those that hang are failed from this moment on.
    until: Moment,
    /// Whether a tick was asked for that moment.
    tick_asked: bool,
}

/// A reservation that is not durable yet.
#[derive(Debug)]
pub(super) struct Promise {
    ask: AskId,
    epoch: Epoch,
    host: HostKey,
    needs: u64,
}

impl Patience {
    fn from(now: Moment) -> Self {
        Self { until: now + FENCE_DRAIN_MAX, tick_asked: false }
    }

    /// Asks for a tick at its end, once.
    fn ask(&mut self, out: &mut Vec<Command>) {
        if !std::mem::replace(&mut self.tick_asked, true) {
            out.push(Command::WakeAt(self.until));
        }
    }

    fn again(&mut self, now: Moment) {
        *self = Self { until: self.until.max(now + LAGGARDS_AGAIN), tick_asked: false };
    }
}

impl Gate {
    pub(super) fn on_raise(
        &mut self,
        now: Moment,
        ask: AskId,
        claim: &Claim,
        out: &mut Vec<Command>,
    ) -> Result<(), Declined> {
        self.check_claim(claim)?;
        if claim.epoch > self.rights.grant.epoch {
            let by = claim.epoch;
            let asked = self.rights.grant.epoch;
            let overtaken = self.raising.iter_mut().flat_map(|raising| raising.asks.drain(..));
            out.extend(overtaken.map(|ask| Command::Decline(ask, Declined::Superseded { asked, by })));
            self.rights.grant(claim);
            self.sweep(out);
        }
        let again = self.raising.as_ref().is_some_and(|raising| self.storing.failed(raising.needs));
        let needs = self.needs();
        // A raise that overtakes another keeps its deadline: the same disks hang.
        let raising = self.raising.get_or_insert_with(|| Raising {
            asks: Vec::new(),
            needs,
            patience: Patience::from(now),
            hindered: None,
        });
        if again {
            raising.patience = Patience::from(now);
        }
        raising.needs = needs;
        raising.asks.push(ask);
        Ok(())
    }

    fn check_claim(&self, claim: &Claim) -> Result<(), Declined> {
        if self.blocked() == Some(Blocked::Floor) {
            return Err(Declined::Blocked(Blocked::Floor));
        }
        claim.check()?;
        let (asked, current) = (claim.epoch, self.rights.epoch());
        if asked < current {
            return Err(Declined::Lower { asked, current });
        }
        if asked == self.rights.grant.epoch && !self.rights.is_granted(claim) {
            return Err(Declined::OtherOwners { epoch: asked });
        }
        let crowded = self.raising.as_ref().is_some_and(|raising| raising.asks.len() >= ASKS_MAX);
        if crowded { Err(Declined::TooMany { max: ASKS_MAX }) } else { Ok(()) }
    }

    /// Acknowledges the raise once the grant is durable and every older epoch has drained.
    pub(super) fn settle_raise(&mut self, out: &mut Vec<Command>) {
        let asked = self.rights.grant.epoch;
        let drained = !self.sessions.older_in_flight(asked) || planted(Bug::AckBeforeDrain);
        let Some(raising) = &mut self.raising else {
            return;
        };
        if self.storing.failed(raising.needs) {
            let asks = raising.asks.drain(..);
            out.extend(asks.map(|ask| Command::Decline(ask, Declined::StoreFailed { asked })));
        }
        if drained && self.storing.has(raising.needs) {
            out.extend(raising.asks.drain(..).map(Command::Ack));
            self.raising = None;
            let rights = &self.rights;
            self.sessions.promote(|attachment| rights.may_write(attachment));
        } else {
            raising.patience.ask(out);
        }
    }

    /// A hanging disk holds up the store as well as the drain, so either is reason enough to fail it.
    pub(super) fn on_tick(&mut self, now: Moment, out: &mut Vec<Command>) {
        let raise_hangs = self.raising.as_ref().is_some_and(|raising| {
            let hangs = !self.storing.failed(raising.needs) || self.sessions.older_in_flight(self.rights.grant.epoch);
            hangs && now >= raising.patience.until
        });
        if raise_hangs && !self.failing_laggards {
            self.failing_laggards = true;
            out.push(Command::FailLaggards(Moment(now.0.saturating_sub(FENCE_DRAIN_MAX.0))));
        }
    }

    pub(super) fn on_laggards_failed(&mut self, now: Moment, laggards: Laggards) {
        self.failing_laggards = false;
        if let Some(raising) = &mut self.raising {
            raising.hindered = match laggards {
                Laggards::Failed => None,
                Laggards::LastMember => Some(Blocked::Fence),
                Laggards::Unrecorded => Some(Blocked::Witness),
            };
            raising.patience.again(now);
        }
    }

    pub(super) fn on_reserve(
        &mut self,
        ask: AskId,
        epoch: Epoch,
        host: HostKey,
        out: &mut Vec<Command>,
    ) -> Result<(), Declined> {
        if self.blocked() == Some(Blocked::Floor) {
            return Err(Declined::Blocked(Blocked::Floor));
        }
        let current = self.rights.epoch();
        if epoch <= current {
            return Err(Declined::Lower { asked: epoch, current });
        }
        if self.rights.grant.epoch < current {
            return Err(Declined::NobodyOwns { epoch: current });
        }
        if self.promises.len() >= ASKS_MAX {
            return Err(Declined::TooMany { max: ASKS_MAX });
        }
        match self.rights.grant.reservation {
            Some(promised) if (promised.epoch, promised.host) == (epoch, host) => {}
            Some(promised) if promised.epoch >= epoch => {
                return Err(Declined::Promised { promised: promised.epoch });
            }
            _ => {
                let incarnation = Incarnation(0);
                self.rights.grant.reservation = Some(Reservation { epoch, host, incarnation });
                self.rights.grant.change += 1;
                self.sweep(out);
            }
        }
        let needs = self.needs();
        self.promises.push(Promise { ask, epoch, host, needs });
        Ok(())
    }

    pub(super) fn settle_promises(&mut self, out: &mut Vec<Command>) {
        for promise in std::mem::take(&mut self.promises) {
            let Promise { ask, epoch, host, needs } = promise;
            let reservation = self.rights.grant.reservation;
            if reservation.is_none_or(|r| (r.epoch, r.host) != (epoch, host)) {
                let by = reservation.map_or(self.rights.epoch(), |r| r.epoch);
                out.push(Command::Decline(ask, Declined::Superseded { asked: epoch, by }));
            } else if self.storing.failed(needs) {
                out.push(Command::Decline(ask, Declined::StoreFailed { asked: epoch }));
            } else if self.storing.has(needs) {
                out.push(Command::Ack(ask));
            } else {
                self.promises.push(promise);
            }
        }
    }
}
