//! What a gate shows: facts for `status`, a few lines for people. Decides nothing.

use super::machine::Gate;
use super::record::{Owner, Reservation};
use super::refusal::Blocked;
use super::{Attachment, SessionId};
use std::fmt;
use units::{Epoch, Millis, Mode, Moment, VolumeName};

/// What the gate is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The current epoch is served.
    Serving,
    /// A raise is under way: older epochs are refused, the new one waits.
    Raising,
    /// Something is in the way.
    Blocked(Blocked),
}

/// Everything about one gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which volume.
    pub volume: VolumeName,
    /// What it is doing.
    pub state: State,
    /// For how long.
    pub for_ms: Millis,
    /// The effective epoch.
    pub epoch: Epoch,
    /// The epoch that was granted; lower than `epoch` while nobody owns that.
    pub granted: Epoch,
    /// Whether several hosts may write.
    pub shared: bool,
    /// Who it was granted to.
    pub owners: Vec<Owner>,
    /// The promise.
    pub reservation: Option<Reservation>,
    /// The operator's word that opened it while a member was missing.
    pub overridden: Option<String>,
    /// The sessions, the draining ones too.
    pub sessions: Vec<SessionStatus>,
    /// Attaches that wait.
    pub waiting: usize,
    /// For how long the oldest operation has been below the gate.
    pub oldest_ms: Option<Millis>,
}

/// One session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// Its name.
    pub session: SessionId,
    /// What it was admitted as.
    pub attachment: Attachment,
    /// Whether it is still served.
    pub open: bool,
    /// Its operations below the gate.
    pub in_flight: u32,
}

impl Gate {
    pub(super) fn state(&self) -> State {
        match (self.blocked(), &self.raising) {
            (Some(blocked), _) => State::Blocked(blocked),
            (None, Some(_)) => State::Raising,
            (None, None) => State::Serving,
        }
    }

    /// Everything about it, at the moment.
    #[must_use]
    pub fn status(&self, now: Moment) -> Status {
        let grant = &self.rights.grant;
        let sessions = self.sessions.iter().map(|entry| SessionStatus {
            session: entry.session,
            attachment: entry.attachment,
            open: entry.is_open(),
            in_flight: entry.in_flight,
        });
        Status {
            volume: self.volume.clone(),
            state: self.state(),
            for_ms: now.since(self.shown.1),
            epoch: self.rights.epoch(),
            granted: grant.epoch,
            shared: grant.shared,
            owners: grant.owners.clone(),
            reservation: grant.reservation,
            overridden: self.overridden.clone(),
            sessions: sessions.collect(),
            waiting: self.waiting.len(),
            oldest_ms: self.sessions.oldest().map(|started| now.since(started)),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving => f.write_str("serving"),
            Self::Raising => f.write_str("raising"),
            Self::Blocked(blocked) => blocked.fmt(f),
        }
    }
}

/// The first line says it all; then a line per owner, promise and session.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "volume {}: {}, {}, for {}", self.volume, self.epoch, self.state, self.for_ms)?;
        if let Some(word) = &self.overridden {
            write!(f, "\n  opened by an operator: {word}")?;
        }
        if self.granted < self.epoch {
            write!(f, "\n  nobody owns {} yet, the grant is of {}", self.epoch, self.granted)?;
        }
        for Owner { host, mode, incarnation } in &self.owners {
            write!(f, "\n  owner {host} {mode}, {incarnation}")?;
        }
        if let Some(Reservation { epoch, host, incarnation }) = self.reservation {
            write!(f, "\n  {epoch} is promised to {host}, {incarnation}")?;
        }
        for SessionStatus { session, attachment, open, in_flight } in &self.sessions {
            let Attachment { host, epoch, incarnation, mode } = attachment;
            let what = match (open, *mode) {
                (false, _) => "closed",
                (true, Mode::Rw) if *epoch > self.granted => "standby",
                (true, _) => "open",
            };
            let name = session.0;
            write!(f, "\n  session {name} of {host}, {epoch}, {incarnation}, {mode}: {what}, {in_flight} in flight")?;
        }
        if let Some(oldest) = self.oldest_ms {
            write!(f, "\n  the oldest operation has run for {oldest}")?;
        }
        if self.waiting > 0 {
            write!(f, "\n  {} attaches wait", self.waiting)?;
        }
        Ok(())
    }
}
