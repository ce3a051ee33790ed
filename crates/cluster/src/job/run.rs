//! One controller working on one job: events in, commands out.
//!
//! ```text
//!  working ── the plan moves ──▶ saving ── held ──▶ working …          ended ┐
//!     ▲                            │ not held, or no answer                  ├▶ over
//!     └──── still ours ◀── reading ┘ ── somebody else's ─────────── deposed ┘
//! ```
//!
//! A transaction whose answer is lost may have happened, or may yet happen. So after anything but "held" the record is
//! read, and whatever it says, if it is still ours, is where the job is.

use super::{
    Action, Facts, JobError, JobId, Move, Note, Order, Outcome, Ownership, Plan, Record, Report, Turn, View, Written,
};
use crate::store::{self, Compare, Entry, Key, Revision, Txn};
use units::sabotage::{Bug, planted};
use units::{HostKey, Millis, Moment};

/// An action is asked again after this long without the answer that would change the turn.
pub const RETRY_MS: Millis = Millis(1_000);
/// A host that waits for the next order hears this often that there is somebody: it counts the silence
/// ([`crate::migrate::Limits::SILENCE`]).
pub const WATCH_MS: Millis = Millis(500);
/// A store that has not answered in this long is asked what it knows: far above a slow disk's fsync.
const STORE_ANSWER_MS: Millis = Millis(2_000);
/// Between two questions to a store that fails.
const STORE_RETRY_MS: Millis = Millis(200);

/// A run numbers its requests from the millisecond it began in: a million a millisecond is more than there are.
const TICKET_BITS: u32 = 20;

/// What a run is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed. Tell it at least every 100 ms.
    Tick,
    /// The transaction of this ticket was decided.
    Stored(u64, store::Outcome),
    /// The request of this ticket failed or was lost.
    StoreLost(u64),
    /// The object asked for by this ticket.
    Read(u64, Option<Entry>),
    /// An answer to an order of this revision.
    Report(Revision, Report),
}

/// What a run wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Answer with [`Event::Stored`] or [`Event::StoreLost`].
    Store(u64, Txn),
    /// Answer with [`Event::Read`] or [`Event::StoreLost`].
    Read(u64, Key),
    /// Answers are [`Event::Report`]s with the order's revision, any number of them.
    Act(Order, Action),
}

/// One job in one controller's hands.
#[derive(Clone, Debug)]
pub struct Run<P> {
    key: Key,
    /// As stored at `at`; before the first save, as it will be.
    record: Record<P>,
    /// The revision of the stored record; before the first save, the one it replaces (zero: none).
    at: Revision,
    state: State<P>,
    /// The record's times were true at this moment.
    since: Moment,
    /// The clock's name.
    clock: String,
    facts: Facts,
    asked: Vec<(Action, Moment)>,
    ticket: u64,
}

#[derive(Clone, Debug)]
enum State<P> {
    Working,
    Saving {
        next: Box<Record<P>>,
        txn: Txn,
        sent: Moment,
    },
    /// What came before: the save is sent again if the store shows that it was not made.
    Reading {
        save: Option<(Box<Record<P>>, Txn)>,
        refused: bool,
        asked: Moment,
    },
    Over,
}

impl<P: Plan> Run<P> {
    /// A new job, and the transaction that makes it: nothing happens before it is stored. `before` is the VM's
    /// ownership as it was read, `after` what it becomes with the job's first stage, `clock` the name of the clock that tells
    /// the time from now on.
    #[must_use]
    pub fn create(
        (me, id, clock): (HostKey, JobId, &str),
        plan: P,
        (before, after): (&Ownership, &Ownership),
        deadline_ms: Millis,
        now: Moment,
    ) -> (Self, Vec<Command>) {
        assert!(before.job.is_none(), "one job at a time: {:?} works on {}", before.job, before.vm);
        let owned = Ownership { job: Some(id.clone()), ..after.clone() };
        let mut record = Record {
            version: Record::<P>::VERSION,
            id,
            owner: me,
            term: 1,
            plan,
            owned,
            deadline_ms,
            spent_ms: Millis(0),
            in_stage_ms: Millis(0),
            cancel: false,
            blocked: None,
            outcome: None,
            history: Vec::new(),
            written: None,
            unknown_fields: store::UnknownFields::default(),
        };
        record.note(None);
        let mut run = Self::over(record, Revision(0), (clock, now));
        let first = run.timed(now);
        let mut txn = run.txn(&first);
        txn.compares.extend(before.compares());
        txn.then.extend(first.owned.puts());
        let commands = run.save(first, txn, now);
        (run, commands)
    }

    /// Takes a job over that was read as `entry` and whose owner has been silent for `silence`. That the owner is
    /// really gone is not needed for safety: whoever saves next, the other one is out. The silence is time spent on the job, but
    /// not in its stage: nobody tried meanwhile.
    ///
    /// # Errors
    /// [`JobError::Ended`], or the object cannot be read.
    pub fn take_over(
        (me, clock): (HostKey, &str),
        entry: &Entry,
        silence: Millis,
        now: Moment,
    ) -> Result<(Self, Vec<Command>), JobError> {
        let mut record = Record::<P>::read(&entry.value)?;
        if record.outcome.is_some() {
            return Err(JobError::Ended(record.id));
        }
        record.owner = me;
        record.term += 1;
        record.spent_ms = record.spent_ms + silence;
        record.note(Some("continued by another controller".to_owned()));
        let mut run = Self::over(record, entry.changed, (clock, now));
        let first = run.timed(now);
        let txn = run.txn(&first);
        let commands = run.save(first, txn, now);
        Ok((run, commands))
    }

    /// The job as this controller knows it.
    #[must_use]
    pub fn record(&self) -> &Record<P> {
        &self.record
    }

    /// The revision of the stored record; zero before the first save was answered.
    #[must_use]
    pub fn at(&self) -> Revision {
        self.at
    }

    /// Whether there is nothing left to do here: it ended, or is somebody else's.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// What it came to, if it ended and this controller stored that.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.record.outcome.as_ref().filter(|_| self.is_over())
    }

    /// The one way in.
    #[must_use]
    pub fn step(&mut self, event: Event, now: Moment) -> Vec<Command> {
        match event {
            Event::Report(at, report) if at == self.at => self.facts.hear(report),
            Event::Stored(ticket, outcome) if ticket == self.ticket => self.stored(outcome, now),
            Event::Read(ticket, entry) if ticket == self.ticket => return self.read(entry, now),
            Event::StoreLost(ticket) if ticket == self.ticket => self.lost(now),
            Event::Tick | Event::Report(..) | Event::Stored(..) | Event::Read(..) | Event::StoreLost(_) => {}
        }
        match &self.state {
            State::Working => self.work(now),
            State::Saving { sent, .. } if now.since(*sent) >= STORE_ANSWER_MS => {
                self.doubt(false, now);
                self.ask_store(now)
            }
            State::Reading { asked, .. } if now.since(*asked) >= STORE_RETRY_MS => self.ask_store(now),
            State::Saving { .. } | State::Reading { .. } | State::Over => Vec::new(),
        }
    }

    fn over(record: Record<P>, at: Revision, (clock, now): (&str, Moment)) -> Self {
        let key = Record::<P>::key(&record.id);
        let (state, facts) = (State::Over, Facts::default());
        // Later runs have higher tickets: an answer that was for an earlier run in the same hands is not taken for ours.
        let ticket = now.0 << TICKET_BITS;
        let (asked, clock) = (Vec::new(), clock.to_owned());
        Self { key, record, at, state, since: now, clock, facts, asked, ticket }
    }

    fn work(&mut self, now: Moment) -> Vec<Command> {
        let passed = now.since(self.since);
        let view = View {
            owned: &self.record.owned,
            facts: &self.facts,
            cancel: self.record.cancel,
            late: self.record.spent_ms + passed >= self.record.deadline_ms,
            in_stage: self.record.in_stage_ms + passed,
            now,
        };
        match self.record.plan.turn(&view) {
            Turn::Do(actions) => self.ask(actions, now),
            Turn::Blocked(what, actions) if self.record.blocked.as_deref() == Some(what) => self.ask(actions, now),
            Turn::Blocked(what, _) => {
                let mut next = self.timed(now);
                next.blocked = Some(what.to_owned());
                next.note(Some(what.to_owned()));
                let txn = self.txn(&next);
                self.save(next, txn, now)
            }
            Turn::Move(step) => self.advance(step, now),
        }
    }

    /// The record with the time until now added.
    fn timed(&self, now: Moment) -> Record<P> {
        let passed = now.since(self.since);
        let mut next = self.record.clone();
        next.spent_ms = next.spent_ms + passed;
        next.in_stage_ms = next.in_stage_ms + passed;
        next.written = Some(Written { clock: self.clock.clone(), at_ms: now.0 });
        next
    }

    fn advance(&mut self, step: Move<P>, now: Moment) -> Vec<Command> {
        let mut next = self.timed(now);
        next.plan = step.plan;
        next.outcome = step.outcome;
        next.in_stage_ms = Millis(0);
        next.blocked = None;
        next.note(step.why);
        let mut txn = self.txn(&next);
        if let Some(owned) = step.owned {
            next.owned = owned;
            txn = self.txn(&next);
            txn.compares.extend(self.record.owned.compares());
            txn.then.extend(next.owned.puts());
        }
        if planted(Bug::CasSkip) && next.outcome.is_none() {
            self.adopt(next, self.at, now);
            return self.work(now);
        }
        self.save(next, txn, now)
    }

    /// The change of the job's own object, if it is as it was.
    fn txn(&self, next: &Record<P>) -> Txn {
        let compares = vec![Compare::Changed(self.key.clone(), self.at)];
        Txn { compares, then: vec![next.put()], otherwise: Vec::new() }
    }

    fn save(&mut self, next: Record<P>, txn: Txn, now: Moment) -> Vec<Command> {
        self.ticket += 1;
        self.state = State::Saving { next: Box::new(next), txn: txn.clone(), sent: now };
        vec![Command::Store(self.ticket, txn)]
    }

    fn stored(&mut self, outcome: store::Outcome, now: Moment) {
        let State::Saving { next, sent, .. } = &self.state else {
            return;
        };
        if outcome.held {
            let (next, sent) = (Record::clone(next), *sent);
            self.adopt(next, outcome.at, sent);
        } else {
            self.doubt(true, now);
        }
    }

    fn lost(&mut self, now: Moment) {
        match &mut self.state {
            State::Saving { .. } => self.doubt(false, now),
            State::Reading { asked, .. } => *asked = now,
            State::Working | State::Over => {}
        }
    }

    /// From now on only the store knows.
    fn doubt(&mut self, refused: bool, now: Moment) {
        if let State::Saving { next, txn, .. } = std::mem::replace(&mut self.state, State::Over) {
            // A refusal is looked into at once, a failing store later.
            let asked = if refused { Moment(0) } else { now };
            self.state = State::Reading { save: Some((next, txn)), refused, asked };
        }
    }

    fn ask_store(&mut self, now: Moment) -> Vec<Command> {
        let State::Reading { asked, .. } = &mut self.state else {
            return Vec::new();
        };
        *asked = now;
        self.ticket += 1;
        vec![Command::Read(self.ticket, self.key.clone())]
    }

    fn read(&mut self, entry: Option<Entry>, now: Moment) -> Vec<Command> {
        let State::Reading { save, refused, .. } = std::mem::replace(&mut self.state, State::Over) else {
            return Vec::new();
        };
        let changed = entry.as_ref().map_or(Revision(0), |entry| entry.changed);
        if changed == self.at {
            return self.unchanged(save, refused, now);
        }
        // Gone, or of a form that only a newer muskox writes: not ours to touch.
        let Some(record) = entry.and_then(|entry| Record::<P>::read(&entry.value).ok()) else {
            return Vec::new();
        };
        if record.owner != self.record.owner || record.term != self.record.term {
            return Vec::new();
        }
        self.adopt(record, changed, now);
        if matches!(self.state, State::Working) { self.work(now) } else { Vec::new() }
    }

    /// The store shows the record that the save would have replaced.
    fn unchanged(&mut self, save: Option<(Box<Record<P>>, Txn)>, refused: bool, now: Moment) -> Vec<Command> {
        let Some((next, txn)) = save else {
            self.state = State::Working;
            return self.work(now);
        };
        if !refused {
            return self.save(*next, txn, now);
        }
        // The job is as it was, so it was the ownership: somebody went round the rule of one job at a time.
        if self.at == Revision(0) {
            return Vec::new();
        }
        let mut next = self.timed(now);
        next.outcome = Some(Outcome::Conflict);
        next.note(Outcome::Conflict.why().map(str::to_owned));
        let txn = self.txn(&next);
        self.save(next, txn, now)
    }

    fn adopt(&mut self, record: Record<P>, at: Revision, since: Moment) {
        self.state = if record.outcome.is_some() { State::Over } else { State::Working };
        self.record = record;
        self.at = at;
        self.since = since;
        self.facts = Facts::default();
        self.asked.clear();
    }

    fn ask(&mut self, actions: Vec<Action>, now: Moment) -> Vec<Command> {
        let mut commands = Vec::new();
        for action in actions {
            let last = self.asked.iter_mut().find(|(asked, _)| *asked == action);
            match last {
                Some((action, at)) if now.since(*at) < again(action) => continue,
                Some((_, at)) => *at = now,
                None => self.asked.push((action.clone(), now)),
            }
            let order = Order { vm: self.record.owned.vm.clone(), job: self.record.id.clone(), at: self.at };
            commands.push(Command::Act(order, action));
        }
        commands
    }

    /// The history, newest last.
    #[must_use]
    pub fn history(&self) -> &[Note] {
        &self.record.history
    }
}

/// After how long an action is asked again.
fn again(action: &Action) -> Millis {
    if matches!(action, Action::Watch { .. }) { WATCH_MS } else { RETRY_MS }
}
