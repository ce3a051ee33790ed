//! Jobs in hand: one task for each, that lets a [`cluster::job::Run`] speak with the real store, targets and agents.
//!
//! What is said goes through one inbox a job, so its run is touched by its task alone. Answers are worked on at once; ticks
//! only count time.

use super::act;
use super::facts::words;
use super::{Desk, View};
use crate::peer::Tell;
use crate::service::random;
use crate::store::failed;
use api::{Code, Problem};
use cluster::job::{
    Action, Command, Event, Guest, JobError, JobId, Outcome, Ownership, PREFIX, Record, Report, Run, Task, expired,
};
use cluster::migrate::{Measured, Migration, Stage};
use cluster::store::{Engine, Entry, Revision};
use cluster::why::Happened;
use host::runtime::now;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use units::{Epoch, HostKey, Millis, Moment, VmName};

/// A run is told that time passed at least every 100 ms.
const TICK: Duration = Duration::from_millis(50);
/// A raise drains for at most 1.5 s, an attach takes tens of milliseconds: who waits for longer hears for what.
const TOLD_AFTER: Millis = Millis(3_000);
/// What waits for a job's task: it works in microseconds, and whatever is lost is asked again.
const INBOX_MAX: usize = 256;
/// A store that does not answer for so long; the job may begin all the same.
const BEGIN_MAX: Duration = Duration::from_secs(10);
/// Between two tries to find the jobs that go on.
const TAKE_OVER_PAUSE: Duration = Duration::from_millis(500);

/// A way to a job's task.
pub struct Handle {
    /// Which job.
    pub id: JobId,
    starts: bool,
    to: mpsc::Sender<Said>,
    waits: Waits,
}

/// What a job waits for right now, as those say whom it asks: told beside what is recorded, and gone when it goes on.
type Waits = Rc<RefCell<Option<String>>>;

/// What a job's task is told.
pub enum Said {
    /// An answer.
    Event(Event),
    /// How a guest is on a host.
    Told {
        /// Which host.
        from: HostKey,
        /// When it was heard.
        when: Moment,
        /// How.
        tell: Box<Tell>,
    },
    /// A host did not take an order, and said why.
    NotTaken {
        /// Of which revision.
        at: Revision,
        /// To do what.
        action: Action,
        /// Why not.
        why: String,
    },
    /// So many targets acknowledged the epoch.
    Fenced(Epoch, usize),
    /// Somebody does not do what is asked yet, and this is why.
    Waits {
        /// Of which revision.
        at: Revision,
        /// Why.
        why: String,
    },
    /// The job's object was changed by somebody: a wish to cancel.
    Reread,
}

struct Carrier {
    desk: Rc<Desk>,
    run: Run<Task>,
    to: mpsc::Sender<Said>,
    begun: Option<oneshot::Sender<Result<(), Problem>>>,
    /// When a raise was asked first.
    raised: Option<(Epoch, Moment)>,
    /// When the source's vCPUs stopped, on this machine's clock.
    stopped: Option<Moment>,
    /// Everything that was measured; a run forgets it from stage to stage.
    measured: Measured,
    blocked: Option<String>,
    waits: Waits,
    /// When its present stage was entered.
    since: Moment,
}

impl Desk {
    /// Begins a job; it is in the store when this is answered.
    ///
    /// # Errors
    /// [`Code::InUse`]: somebody else began something; [`Code::NotPossible`]: the store is behind on this VM;
    /// [`Code::StoreFailed`].
    pub async fn begin(
        self: &Rc<Self>,
        task: Task,
        (before, after): (&Ownership, &Ownership),
        deadline_ms: Millis,
    ) -> Result<JobId, Problem> {
        self.listen().await?;
        self.refuse_if_behind(&after.vm).await?;
        let id = fresh_id()?;
        let (run, commands) =
            Run::create((self.me, id.clone(), &self.clock), task, (before, after), deadline_ms, now());
        let (begun, answer) = oneshot::channel();
        carry(self, run, commands, Some(begun));
        let slow = || {
            let text = format!("the store did not answer in time; job {id} may have begun");
            Problem::new(Code::StoreFailed, text, "see `muskox job list`")
        };
        match tokio::time::timeout(BEGIN_MAX, answer).await {
            Ok(Ok(begun)) => begun.map(|()| id.clone()),
            Ok(Err(_)) | Err(_) => Err(slow()),
        }
    }

    /// Whether a job works on this VM here.
    #[must_use]
    pub fn working(&self, vm: &VmName) -> Option<JobId> {
        self.runs.borrow().get(vm).map(|handle| handle.id.clone())
    }

    /// Whether a job is starting this VM.
    #[must_use]
    pub fn is_starting(&self, vm: &VmName) -> bool {
        self.runs.borrow().get(vm).is_some_and(|handle| handle.starts)
    }

    /// What a job says that it waits for, beside what is recorded.
    #[must_use]
    pub fn waits_for(&self, id: &JobId) -> Option<String> {
        let runs = self.runs.borrow();
        runs.values().find(|handle| handle.id == *id).and_then(|handle| handle.waits.borrow().clone())
    }

    /// A host says how a guest is. What it said before what is known already moves nothing.
    pub fn heard(self: &Rc<Self>, from: HostKey, tell: Tell) {
        if !self.hosts.borrow_mut().told(from, &tell, now()) {
            return;
        }
        self.note_pause(from, &tell);
        self.note_held(from, &tell);
        if let Some(handle) = self.runs.borrow().get(&tell.vm) {
            // A full inbox loses it; the run asks again.
            let _ = handle.to.try_send(Said::Told { from, when: now(), tell: Box::new(tell) });
        }
    }

    /// A job's object was changed by somebody.
    pub fn reread(&self, id: &JobId) {
        if let Some(handle) = self.runs.borrow().values().find(|handle| handle.id == *id) {
            let _ = handle.to.try_send(Said::Reread);
        }
    }

    /// A guest waits for a volume, or does not any more.
    pub fn note_held(self: &Rc<Self>, from: HostKey, tell: &Tell) {
        let runs = !matches!(tell.guest, Guest::Absent | Guest::Unknown);
        for disk in tell.disks.iter().filter(|_| runs) {
            let place = (tell.vm.clone(), from, disk.volume.clone());
            let known = self.held.borrow().get(&place).copied();
            match (known, &disk.waits) {
                (None, Some(_)) => {
                    self.held.borrow_mut().insert(place, now());
                    self.happened(&tell.vm, Happened::Held { volume: disk.volume.clone() });
                }
                (Some(since), None) => {
                    self.held.borrow_mut().remove(&place);
                    let (volume, after_ms) = (disk.volume.clone(), now().since(since));
                    self.happened(&tell.vm, Happened::Released { volume, after_ms });
                }
                (None, None) | (Some(_), Some(_)) => {}
            }
        }
        if !runs {
            self.held.borrow_mut().retain(|(vm, host, _), _| *vm != tell.vm || *host != from);
        }
    }

    /// The dead-man stands on a guest, or does not any more.
    pub fn note_pause(self: &Rc<Self>, from: HostKey, tell: &Tell) {
        let place = (tell.vm.clone(), from);
        let stands = tell.paused && matches!(tell.guest, Guest::Stopped | Guest::Running | Guest::Copying);
        let known = self.paused.borrow().get(&place).copied();
        match known {
            None if stands => {
                self.paused.borrow_mut().insert(place, now());
                let (desk, vm) = (Rc::clone(self), tell.vm.clone());
                tokio::task::spawn_local(async move {
                    let name = vm.clone();
                    let view = desk.store.ask(move |engine| View::of(engine, &name)).await;
                    desk.happened(&vm, Happened::Paused { host: View::name_in(&view, from) });
                });
            }
            Some(since) if !tell.paused => {
                self.paused.borrow_mut().remove(&place);
                if tell.guest == Guest::Running {
                    self.happened(&tell.vm, Happened::WentOn { after_ms: now().since(since) });
                }
            }
            None | Some(_) => {}
        }
    }
}

/// Takes every job over that has not ended.
pub async fn take_over_all(desk: &Rc<Desk>) {
    loop {
        match desk.store.ask(|engine| engine.range(PREFIX).map_err(|error| failed(&error))).await {
            Ok(listing) => {
                return listing.entries.iter().for_each(|entry| take_over(desk, entry));
            }
            Err(problem) => tracing::error!("the jobs cannot be read: {problem}; hint: {}", problem.hint),
        }
        tokio::time::sleep(TAKE_OVER_PAUSE).await;
    }
}

/// Takes a job over; nothing if it has ended, or is a newer version's.
pub fn take_over(desk: &Rc<Desk>, entry: &Entry) {
    if let Ok((run, commands)) = taken_over(desk, entry) {
        tracing::info!("job {} ({}) is taken over", run.record().id, run.record().owned.vm);
        carry(desk, run, commands, None);
    }
}

/// Since when nobody worked on it is known by the clock of this boot; of another one its spans go on from where they were.
fn taken_over(desk: &Desk, entry: &Entry) -> Result<(Run<Task>, Vec<Command>), JobError> {
    let silence = Record::<Task>::read(&entry.value)?.silence(&desk.clock, now()).unwrap_or_default();
    Run::take_over((desk.me, &desk.clock), entry, silence, now())
}

/// Ids are in order of time and never used again, also after a restore of the store.
fn fresh_id() -> Result<JobId, Problem> {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut left = super::now_ms();
    let mut digits = Vec::new();
    while left > 0 {
        digits.push(char::from(DIGITS[usize::try_from(left % 36).expect("below 36")]));
        left /= 36;
    }
    let [random] = random()?;
    let time: String = digits.iter().rev().collect();
    Ok(format!("j{time}-{random:02x}").parse().expect("letters and digits"))
}

fn carry(desk: &Rc<Desk>, run: Run<Task>, commands: Vec<Command>, begun: Option<oneshot::Sender<Result<(), Problem>>>) {
    let (to, inbox) = mpsc::channel(INBOX_MAX);
    let (id, vm) = (run.record().id.clone(), run.record().owned.vm.clone());
    if begun.is_some() && desk.runs.borrow().contains_key(&vm) {
        // Its end is being written down; the store would refuse a second job anyway.
        let busy = Problem::new(Code::InUse, format!("a job works on VM '{vm}'"), "see `muskox job list`");
        return begun.into_iter().for_each(|begun| drop(begun.send(Err(busy.clone()))));
    }
    let waits = Waits::default();
    let starts = matches!(run.record().plan, Task::Recover(_));
    desk.runs.borrow_mut().insert(vm, Handle { id, starts, to: to.clone(), waits: Rc::clone(&waits) });
    let desk = Rc::clone(desk);
    let blocked = run.record().blocked.clone();
    let (raised, stopped, measured) = (None, None, Measured::default());
    let since = now();
    let carrier = Carrier { desk, run, to, begun, raised, stopped, measured, blocked, waits, since };
    tokio::task::spawn_local(carrier.carry(commands, inbox));
}

/// A job is in hand as long as its task lives, whatever ends that: then somebody takes it over.
struct InHand {
    desk: Rc<Desk>,
    vm: VmName,
    id: JobId,
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut runs = self.desk.runs.borrow_mut();
        if runs.get(&self.vm).is_some_and(|handle| handle.id == self.id) {
            runs.remove(&self.vm);
        }
    }
}

impl Carrier {
    async fn carry(mut self, first: Vec<Command>, mut inbox: mpsc::Receiver<Said>) {
        let (vm, id) = (self.run.record().owned.vm.clone(), self.run.record().id.clone());
        let in_hand = InHand { desk: Rc::clone(&self.desk), vm, id };
        self.carry_out(first);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.run.is_over() {
            let said = tokio::select! {
                said = inbox.recv() => said.expect("this task has a way to it"),
                _ = ticks.tick() => Said::Event(Event::Tick),
            };
            self.hear(said).await;
            self.show();
        }
        drop(in_hand);
        self.end().await;
    }

    async fn hear(&mut self, said: Said) {
        match said {
            Said::Event(event) => {
                if let Event::Report(_, Report::Done(Action::Raise { epoch, .. })) = &event {
                    tracing::debug!("job {}: {epoch} is raised", self.run.record().id);
                }
                self.step(event);
            }
            Said::Told { from, when, tell } => self.told(from, when, &tell),
            Said::NotTaken { at, action, why } => self.not_taken(at, action, &why),
            Said::Fenced(epoch, targets) => self.fenced(epoch, targets),
            Said::Waits { at, why } if at == self.run.at() => self.waits_by_now(&why),
            Said::Waits { .. } => {}
            Said::Reread => self.reread().await,
        }
    }

    fn step(&mut self, event: Event) {
        let stage = (self.run.at(), self.run.record().history.len());
        let commands = self.run.step(event, now());
        let record = self.run.record();
        if (self.run.at(), record.history.len()) != stage {
            let newest = record.history.last().expect("every save adds a note");
            self.waits.replace(None);
            self.since = now();
            tracing::debug!("job {} after {}: {}", record.id, newest.after_ms, newest.stage);
        }
        self.carry_out(commands);
    }

    /// How a guest is, as reports: first what was measured, because the report of the guest may end the stage.
    fn told(&mut self, from: HostKey, when: Moment, tell: &Tell) {
        let ago = |span: Millis| Moment(when.0.saturating_sub(span.0));
        let mut measured = tell.measured;
        if let Task::Migrate(plan) = &self.run.record().plan {
            match (tell.stopped_ago_ms, tell.resumed_ago_ms) {
                (Some(span), resumed) if from == plan.source => {
                    self.stopped = Some(ago(span));
                    // It ran on where it was.
                    measured.cpu_blackout_ms = resumed.and_then(|resumed| span.0.checked_sub(resumed.0)).map(Millis);
                }
                (_, Some(span)) if from == plan.destination => {
                    let resumed = self.stopped.filter(|stopped| *stopped <= ago(span));
                    measured.cpu_blackout_ms = resumed.map(|stopped| ago(span).since(stopped));
                }
                _ => {}
            }
        }
        self.measured.merge(measured);
        self.hear_of_silence(from, tell);
        self.hear_of_leave(from, tell);
        if self.measured != Measured::default() && tell.at == self.run.at() {
            self.step(Event::Report(tell.at, Report::Measured(self.measured)));
        }
        // Of its own part only: a job is not stopped by a bystander.
        if let Some((action, why)) = tell.refused.as_ref().filter(|(action, _)| act::host_of(action) == Some(from)) {
            self.step(Event::Report(tell.at, Report::Refused(action.clone(), words(why))));
        }
        if !(tell.guest == Guest::Absent && self.is_awaited(from)) {
            self.step(Event::Report(tell.at, Report::Guest { host: from, guest: tell.guest, epoch: tell.epoch }));
        }
    }

    /// A source that waits before the switch-over says why it does not run on by itself.
    fn hear_of_silence(&mut self, from: HostKey, tell: &Tell) {
        let source = matches!(&self.run.record().plan, Task::Migrate(plan) if plan.source == from);
        if let (true, Guest::PreSwitchover, Some(why)) = (source, tell.guest, &tell.why) {
            self.waits_for(Some(words(why)));
        }
    }

    /// A host that is to start a guest says why its dead-man does not let it.
    fn hear_of_leave(&mut self, from: HostKey, tell: &Tell) {
        let starts = matches!(&self.run.record().plan, Task::Recover(plan) if plan.to == from);
        if let (true, true, Some(why)) = (starts && tell.at == self.run.at(), tell.paused, &tell.why) {
            self.waits_for(Some(format!("its host lets no guest start now: {}", words(why))));
        }
    }

    /// A host did not take an order. What only that host could begin is given up there; anything else is asked again, and what
    /// it waits for is told.
    fn not_taken(&mut self, at: Revision, action: Action, why: &str) {
        if at != self.run.at() {
            return;
        }
        let why = words(why);
        match action {
            Action::Start { .. } | Action::Incoming { .. } | Action::Migrate { .. } => {
                self.step(Event::Report(at, Report::Refused(action, why)));
            }
            _ => self.waits_for(Some(why)),
        }
    }

    /// What is not over by itself in a moment is worth telling.
    fn waits_by_now(&mut self, why: &str) {
        if now().since(self.since) >= TOLD_AFTER {
            self.waits_for(Some(words(why)));
        }
    }

    /// Tells what the job waits for, once.
    fn waits_for(&mut self, what: Option<String>) {
        if self.waits.replace(what.clone()) == what {
            return;
        }
        if let Some(what) = what {
            let record = self.run.record();
            self.desk.happened(&record.owned.vm, Happened::Blocked { job: record.id.to_string(), what });
        }
    }

    /// Whether this host is making the destination's QEMU: that there is none yet says nothing. What it cannot do it refuses.
    fn is_awaited(&self, host: HostKey) -> bool {
        matches!(&self.run.record().plan, Task::Migrate(plan) if plan.stage == Stage::Prepare && plan.destination == host)
    }

    fn fenced(&mut self, epoch: Epoch, targets: usize) {
        let Some((_, since)) = self.raised.filter(|(raised, _)| *raised == epoch) else {
            return;
        };
        self.raised = None;
        if matches!(self.run.record().plan, Task::Recover(_)) {
            let targets = u64::try_from(targets).expect("a VM has few targets");
            let took_ms = now().since(since);
            self.desk.happened(&self.run.record().owned.vm, Happened::Fenced { epoch, targets, took_ms });
        }
    }

    /// Taking one's own job over reads everything anew.
    async fn reread(&mut self) {
        let key = Record::<Task>::key(&self.run.record().id);
        let read = self.desk.store.ask(move |engine| engine.get(&key).map_err(|error| failed(&error))).await;
        if let Ok(Some(entry)) = read
            && let Ok((run, commands)) = taken_over(&self.desk, &entry)
        {
            self.run = run;
            self.carry_out(commands);
        }
    }

    fn carry_out(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Store(ticket, txn) => self.ask_store(ticket, move |engine| {
                    engine.txn(&txn).map(|outcome| Event::Stored(ticket, outcome)).map_err(|error| failed(&error))
                }),
                Command::Read(ticket, key) => self.ask_store(ticket, move |engine| {
                    engine.get(&key).map(|entry| Event::Read(ticket, entry)).map_err(|error| failed(&error))
                }),
                Command::Act(order, action) => {
                    if let Action::Raise { epoch, .. } = &action
                        && self.raised.is_none_or(|(raised, _)| raised != *epoch)
                    {
                        self.raised = Some((*epoch, now()));
                    }
                    let (desk, to, task) = (Rc::clone(&self.desk), self.to.clone(), self.run.record().plan.clone());
                    tokio::task::spawn_local(act::dispatch(desk, to, task, order, action));
                }
            }
        }
    }

    fn ask_store(&self, ticket: u64, work: impl FnOnce(&mut dyn Engine) -> Result<Event, Problem> + Send + 'static) {
        let (store, to, waits) = (self.desk.store.clone(), self.to.clone(), Rc::clone(&self.waits));
        tokio::task::spawn_local(async move {
            let event = store.ask(work).await.unwrap_or_else(|problem| {
                tracing::warn!("the store: {problem}; hint: {}", problem.hint);
                waits.replace(Some(words(&problem.text)));
                Event::StoreLost(ticket)
            });
            // Nobody waits for it any more if the job is over.
            let _ = to.send(Said::Event(event)).await;
        });
    }

    /// Lets be seen what is new: that it began, and what it waits for.
    fn show(&mut self) {
        let record = self.run.record();
        if self.run.at().0 > 0
            && let Some(begun) = self.begun.take()
        {
            // Who asked may have gone.
            let _ = begun.send(Ok(()));
        }
        if record.blocked != self.blocked {
            self.blocked.clone_from(&record.blocked);
            if let Some(what) = record.blocked.clone() {
                let job = record.id.to_string();
                self.desk.happened(&record.owned.vm, Happened::Blocked { job, what });
            }
        }
    }

    async fn end(mut self) {
        let record = self.run.record();
        let vm = record.owned.vm.clone();
        if let Some(begun) = self.begun.take() {
            let text = format!("something else began to work on VM '{vm}' at the same time");
            let _ =
                begun.send(Err(Problem::new(Code::InUse, text, "look at it with `muskox vm show`, then ask again")));
        }
        let Some(outcome) = self.run.outcome() else {
            return;
        };
        tracing::info!("job {} on VM '{vm}' ended: {outcome}", record.id);
        let name = vm.clone();
        let view = self.desk.store.ask(move |engine| View::of(engine, &name)).await;
        self.desk.happened(&vm, ended(|key| View::name_in(&view, key), record, outcome));
        self.desk.note_end(&vm, &record.plan, outcome);
        let cleared = self.desk.store.ask(clear_old_jobs).await;
        if let Err(problem) = cleared {
            tracing::warn!("old jobs were not cleared away: {problem}");
        }
    }
}

/// A job's end as a fact.
fn ended(name: impl Fn(HostKey) -> String, record: &Record<Task>, outcome: &Outcome) -> Happened {
    match (&record.plan, outcome) {
        (Task::Migrate(plan), Outcome::Done) => Happened::Moved {
            from: name(plan.source),
            to: name(plan.destination),
            total_ms: record.spent_ms,
            blackout_ms: plan.receipt.measured.cpu_blackout_ms,
        },
        (Task::Migrate(plan), Outcome::Undone { why }) => {
            Happened::MoveUndone { host: name(plan.source), why: words(why) }
        }
        (Task::Recover(plan), Outcome::Done) => Happened::Started { host: name(plan.to), epoch: record.owned.epoch },
        (Task::Migrate(plan), Outcome::Lost { why }) => Happened::Died { host: name(lost_with(plan)), why: words(why) },
        (Task::Recover(plan), Outcome::Lost { why } | Outcome::Undone { why }) => {
            Happened::NotStarted { host: name(plan.to), why: words(why) }
        }
        (_, Outcome::Conflict) => {
            Happened::NothingDone { why: Outcome::Conflict.why().expect("a conflict has a reason").to_owned() }
        }
    }
}

/// The host that a lost guest was on: until the commit the source.
fn lost_with(plan: &Migration) -> HostKey {
    if plan.stage == Stage::Commit { plan.destination } else { plan.source }
}

fn clear_old_jobs(engine: &mut dyn Engine) -> Result<(), Problem> {
    let jobs = engine.range(PREFIX).map_err(|error| failed(&error))?.entries;
    for txn in expired::<Task>(&jobs) {
        engine.txn(&txn).map_err(|error| failed(&error))?;
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a guest that a migration lost is said to have died where it was. Method: each stage that can lose one.
    #[test]
    fn a_guest_is_lost_where_it_was() {
        let (source, destination) = (HostKey([1; 32]), HostKey([2; 32]));
        let owned = Ownership::new("web1".parse().unwrap(), Vec::new()).unwrap();
        let (plan, _) = Migration::new(&Ownership { owner: Some(source), ..owned }, destination, false);
        let lost = |stage| lost_with(&Migration { stage, ..plan.clone() });
        assert_eq!(lost(Stage::Commit), destination);
        assert!([Stage::Undo, Stage::Retreat, Stage::GiveBack].into_iter().all(|stage| lost(stage) == source));
    }
}
