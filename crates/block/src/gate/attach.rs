//! Who gets in: one question ([`Gate::judge`]) asked when an attach arrives and after every event until it is answered.
//!
//! Newest wins: taking a higher incarnation shuts the sessions of the older one at once, whatever still waits. A stock
//! client that wants to write always takes a higher one, so that nothing of its host's older connections can follow; but
//! not while such a connection is in use.

use super::machine::{Command, Gate};
use super::refusal::{Blocked, Refused};
use super::sessions::{Access, SessionId};
use super::{Attachment, Request};
use units::sabotage::{Bug, planted};
use units::{Epoch, HostKey, Incarnation, Millis, Mode, Moment};

/// A stock client that sent something so recently is in use, and is not replaced by another one of its host. Far below
/// the timeout after which a kernel client gives a path up (`nbd-client -timeout`, tens of seconds), far above a pause
/// of a client that copies.
pub const STOCK_SILENCE: Millis = Millis(2000);
/// Attaches that wait for a raise, a store or a drain: every connection of two hosts at once.
pub const WAITING_MAX: usize = 64;

/// An attach that is not answered yet.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) session: SessionId,
    attachment: Attachment,
    /// The change of the grant that must be durable first.
    needs: u64,
    arrived: Moment,
}

enum Verdict {
    Admit,
    Wait,
}

impl Gate {
    pub(super) fn on_attach(
        &mut self,
        now: Moment,
        session: SessionId,
        request: Request,
        out: &mut Vec<Command>,
    ) -> Result<(), Refused> {
        let is_in = self.sessions.iter().any(|entry| entry.session == session);
        if is_in || self.waiting.iter().any(|waiting| waiting.session == session) {
            return Err(Refused::SessionKnown);
        }
        if self.waiting.len() == WAITING_MAX {
            return Err(Refused::TooManyWaiting { max: WAITING_MAX });
        }
        if self.blocked() == Some(Blocked::Floor) {
            return Err(Refused::Blocked(Blocked::Floor));
        }
        let attachment = match request {
            Request::Exact(attachment) => attachment,
            Request::Stock { host, mode } => self.stock(now, host, mode)?,
        };
        let right = self.rights.check(&attachment)?;
        if self.blocked() == Some(Blocked::Store) && attachment.epoch == self.rights.grant.epoch {
            return Err(Refused::Blocked(Blocked::Store));
        }
        let Attachment { host, epoch, incarnation, .. } = attachment;
        if incarnation > right.highest {
            self.rights.take_incarnation(host, epoch, incarnation);
            self.sweep(out);
        }
        let needs = self.needs();
        self.waiting.push(Waiting { session, attachment, needs, arrived: now });
        Ok(())
    }

    pub(super) fn settle_waiting(&mut self, now: Moment, out: &mut Vec<Command>) {
        for waiting in std::mem::take(&mut self.waiting) {
            let Waiting { session, attachment, .. } = waiting;
            match self.judge(&waiting) {
                Ok(Verdict::Wait) => self.waiting.push(waiting),
                Ok(Verdict::Admit) => out.push(self.let_in(now, session, attachment)),
                Err(why) => out.push(Command::Refused(session, self.refusal(why))),
            }
        }
    }

    fn judge(&self, waiting: &Waiting) -> Result<Verdict, Refused> {
        let attachment = &waiting.attachment;
        self.rights.check(attachment)?;
        if self.storing.failed(waiting.needs) {
            return Err(Refused::StoreFailed { held: attachment.incarnation });
        }
        let being_raised = self.raising.is_some() && attachment.epoch == self.rights.grant.epoch;
        if being_raised && self.blocked() == Some(Blocked::Store) {
            return Err(Refused::Blocked(Blocked::Store));
        }
        let overtakes = self.sessions.host_drains(attachment.host) && !planted(Bug::IncarnationOvertakes);
        let wait = being_raised || overtakes || !self.storing.has(waiting.needs);
        Ok(if wait { Verdict::Wait } else { Verdict::Admit })
    }

    fn let_in(&mut self, now: Moment, session: SessionId, attachment: Attachment) -> Command {
        let access = if self.rights.may_write(&attachment) { Access::Write } else { Access::Read };
        match self.sessions.enter(session, attachment, access, now) {
            Ok(door) => Command::Admitted(session, door, attachment),
            Err(max) => Command::Refused(session, self.refusal(Refused::TooManySessions { max })),
        }
    }

    /// What a stock client of `host` attaches as. Who only reads overtakes nothing: it joins the host's life. Who writes
    /// begins a new one: what an older connection of the host may still deliver is refused from then on.
    fn stock(&self, now: Moment, host: HostKey, mode: Mode) -> Result<Attachment, Refused> {
        let epoch = self.rights.epoch();
        if epoch != self.rights.grant.epoch {
            return Err(Refused::NobodyOwns { epoch });
        }
        let highest = self.rights.right(host, epoch)?.highest;
        let heard = self.writer_heard(host, epoch).map(|heard| now.since(heard));
        if mode == Mode::Ro || (heard.is_some() && planted(Bug::StockOvertakes)) {
            return Ok(Attachment { host, epoch, incarnation: highest.max(Incarnation(1)), mode });
        }
        if let Some(heard) = heard.filter(|heard| *heard < STOCK_SILENCE) {
            return Err(Refused::InUse { heard });
        }
        let next = highest.0.checked_add(1).map(Incarnation);
        Ok(Attachment { host, epoch, incarnation: next.ok_or(Refused::NoIncarnationLeft { epoch })?, mode })
    }

    /// When `host` was last heard on a session that writes, or asked for one.
    fn writer_heard(&self, host: HostKey, epoch: Epoch) -> Option<Moment> {
        let open = self.sessions.iter().filter(|entry| entry.is_open()).map(|entry| (&entry.attachment, entry.heard));
        let all = open.chain(self.waiting.iter().map(|waiting| (&waiting.attachment, waiting.arrived)));
        let writers = all.filter(|(other, _)| (other.host, other.epoch, other.mode) == (host, epoch, Mode::Rw));
        writers.map(|(_, heard)| heard).max()
    }
}
