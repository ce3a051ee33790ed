//! A gate joined to a disk and to a place where grants are durable: what the data plane serves.
//!
//! Invariant: every command of the [`Gate`] is carried out, in the order given; whoever waits is answered exactly once.

use super::machine::{AskId, Command, Event, Gate, Laggards};
use super::record::Grant;
use super::session::Session;
use super::sessions::{Door, Kind, SessionId, Ticket};
use super::{Claim, Declined, Refusal, Request, State, Status};
use crate::runtime::{Rt, sleep};
use crate::wait::WaitList;
use crate::{DeviceError, Disk, IoFuture};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use units::{Epoch, HostKey, Millis, Moment, VolumeId, VolumeName};

/// Where grants are durable: the facts area of the array below.
pub trait GrantStore {
    /// Writes `record` for `volume` on every in-sync member; answered when it is durable on all of them.
    fn store(&self, volume: VolumeId, record: &[u8]) -> IoFuture<()>;

    /// Fails the members, in the superblocks first, that have operations which began before `older_than` and still
    /// run; but never a member without which the array stops.
    fn fail_laggards(&self, older_than: Moment) -> IoFuture<Laggards>;
}

/// What the array found in its facts area.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The volume's record of each readable member; none where the volume was never granted.
    pub records: Vec<Vec<u8>>,
    /// Whether every member could be read.
    pub complete: bool,
}

/// What a gated volume is made of.
pub struct Parts {
    /// The volume, for the facts area.
    pub id: VolumeId,
    /// The volume, for people.
    pub name: VolumeName,
    /// Its bytes.
    pub disk: Disk,
    /// Its durable grant.
    pub store: Rc<dyn GrantStore>,
    /// Moments and tasks.
    pub rt: Rt,
}

/// A volume behind its gate. Clones are the same volume.
#[derive(Clone)]
pub struct GatedVolume(Rc<Inner>);

/// Who waits for which answer.
type Waiting<Who, T> = RefCell<BTreeMap<Who, Rc<Answer<T>>>>;

/// What a volume and its sessions share.
pub(super) struct Inner {
    pub(super) parts: Parts,
    gate: RefCell<Gate>,
    attaching: Waiting<SessionId, Result<Rc<Session>, Refusal>>,
    asking: Waiting<AskId, Result<(), Declined>>,
    notices: Waiting<SessionId, ()>,
    names: Cell<u64>,
}

impl GatedVolume {
    /// The volume as a start of the target finds it. `floor` is what the store says, if it could be asked.
    #[must_use]
    pub fn open(parts: Parts, found: &Found, floor: Option<Epoch>) -> Self {
        let gate = Gate::open(parts.name.clone(), &found.records, found.complete, floor, parts.rt.now());
        Self(Rc::new(Inner {
            parts,
            gate: RefCell::new(gate),
            attaching: RefCell::default(),
            asking: RefCell::default(),
            notices: RefCell::default(),
            names: Cell::new(0),
        }))
    }

    /// Lets a session in, at once or after the raise, the store and the drains it must wait for; dropping the future
    /// gives up. The session is a disk; dropping it detaches.
    ///
    /// # Errors
    /// Why not, in words for the client's log.
    pub async fn attach(&self, request: Request) -> Result<Rc<Session>, Refusal> {
        let knock = Knock { volume: Rc::clone(&self.0), session: SessionId(self.0.name()) };
        let answer = Rc::new(Answer::default());
        self.0.attaching.borrow_mut().insert(knock.session, Rc::clone(&answer));
        self.0.step(Event::Attach(knock.session, request));
        answer.wait().await
    }

    /// Raises the epoch: when this is answered, nothing of an older one is below the gate or ever passes it again.
    /// Dropping the future leaves the raise under way.
    ///
    /// # Errors
    /// Why not; asking again with the same claim is always safe.
    pub async fn raise(&self, claim: Claim) -> Result<(), Declined> {
        self.ask(|ask| Event::Raise(ask, claim)).await
    }

    /// Promises a higher epoch to a host, which may then attach as standby.
    ///
    /// # Errors
    /// Why not.
    pub async fn reserve(&self, epoch: Epoch, host: HostKey) -> Result<(), Declined> {
        self.ask(|ask| Event::Reserve(ask, epoch, host)).await
    }

    /// What the store says the epoch is at least.
    pub fn floor(&self, epoch: Epoch) {
        self.0.step(Event::Floor(epoch));
    }

    /// Members that were missing have been read.
    pub fn found(&self, found: Found) {
        self.0.step(Event::Found { records: found.records, complete: found.complete });
    }

    /// An operator opens a volume that is blocked(floor), by a word that the caller has audited.
    pub fn override_floor(&self, word: String) {
        self.0.step(Event::Override(word));
    }

    /// Everything about the gate.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.gate.borrow().status(self.0.parts.rt.now())
    }

    async fn ask(&self, event: impl FnOnce(AskId) -> Event) -> Result<(), Declined> {
        let ask = AskId(self.0.name());
        let answer = Rc::new(Answer::default());
        self.0.asking.borrow_mut().insert(ask, Rc::clone(&answer));
        self.0.step(event(ask));
        answer.wait().await
    }
}

impl Inner {
    pub(super) fn admit(&self, door: Door, kind: Kind) -> Result<Ticket, DeviceError> {
        self.gate.borrow_mut().admit(door, kind, self.parts.rt.now())
    }

    pub(super) fn heard(&self, door: Door) {
        self.gate.borrow_mut().heard(door, self.parts.rt.now());
    }

    pub(super) fn standing(&self, door: Door) -> Result<(), DeviceError> {
        self.gate.borrow().standing(door)
    }

    pub(super) fn ended(self: &Rc<Self>, ticket: Ticket) {
        let drained = self.gate.borrow_mut().ended(ticket);
        if drained {
            self.step(Event::Drained);
        }
    }

    pub(super) fn detach(self: &Rc<Self>, session: SessionId) {
        self.notices.borrow_mut().remove(&session);
        self.step(Event::Detach(session));
    }

    /// Only a planted bug waits for this: what is refused is never queued (rule 7).
    pub(super) async fn until_serving(&self) {
        while self.gate.borrow().state() != State::Serving {
            sleep(&self.parts.rt, Millis(1)).await;
        }
    }

    fn name(&self) -> u64 {
        self.names.replace(self.names.get() + 1)
    }

    fn step(self: &Rc<Self>, event: Event) {
        let commands = self.gate.borrow_mut().step(self.parts.rt.now(), event);
        for command in commands {
            self.perform(command);
        }
    }

    fn perform(self: &Rc<Self>, command: Command) {
        match command {
            Command::Store(grant) => self.store(&grant),
            Command::FailLaggards(older_than) => self.fail_laggards(older_than),
            Command::WakeAt(when) => self.wake_at(when),
            Command::Admitted(session, door, attachment) => {
                let notice = Rc::new(Answer::default());
                self.notices.borrow_mut().insert(session, Rc::clone(&notice));
                self.answer_attach(session, Ok(Rc::new(Session::new(Rc::clone(self), door, attachment, notice))));
            }
            Command::Refused(session, refusal) => self.answer_attach(session, Err(refusal)),
            Command::Revoke(sessions) => {
                for session in sessions {
                    if let Some(notice) = self.notices.borrow_mut().remove(&session) {
                        notice.set(());
                    }
                }
            }
            Command::Ack(ask) => self.answer_ask(ask, Ok(())),
            Command::Decline(ask, why) => self.answer_ask(ask, Err(why)),
        }
    }

    /// An alarm clock keeps no volume: one that nobody holds any more has nothing to wake for, and its disk is free.
    fn wake_at(self: &Rc<Self>, when: Moment) {
        let (this, asleep) = (Rc::downgrade(self), self.parts.rt.sleep_until(when));
        self.parts.rt.spawn(Box::pin(async move {
            asleep.await;
            if let Some(this) = this.upgrade() {
                this.step(Event::Tick);
            }
        }));
    }

    fn store(self: &Rc<Self>, grant: &Grant) {
        let record = grant.encode();
        assert_eq!(Grant::decode(&record).as_ref(), Ok(grant), "a grant is read back as it was written");
        self.later(self.parts.store.store(self.parts.id, &record), Event::Stored);
    }

    fn fail_laggards(self: &Rc<Self>, older_than: Moment) {
        // An array that cannot say has not failed anybody: that is shown as blocked, and asked again.
        let event = |answer: Result<_, _>| Event::LaggardsFailed(answer.unwrap_or(Laggards::LastMember));
        self.later(self.parts.store.fail_laggards(older_than), event);
    }

    /// Steps with the event that `work` ends in.
    fn later<T: 'static>(self: &Rc<Self>, work: impl Future<Output = T> + 'static, event: fn(T) -> Event) {
        let this = Rc::clone(self);
        self.parts.rt.spawn(Box::pin(async move {
            let outcome = work.await;
            this.step(event(outcome));
        }));
    }

    fn answer_attach(&self, session: SessionId, answer: Result<Rc<Session>, Refusal>) {
        // Who gave up is gone from the list; the session is then dropped, which detaches it.
        let waiting = self.attaching.borrow_mut().remove(&session);
        if let Some(waiting) = waiting {
            waiting.set(answer);
        }
    }

    fn answer_ask(&self, ask: AskId, answer: Result<(), Declined>) {
        let waiting = self.asking.borrow_mut().remove(&ask);
        waiting.expect("a raise is answered once").set(answer);
    }
}

/// An attach under way. When its future goes, so does the wish; a session that was let in is not touched by this.
struct Knock {
    volume: Rc<Inner>,
    session: SessionId,
}

impl Drop for Knock {
    fn drop(&mut self) {
        let unanswered = self.volume.attaching.borrow_mut().remove(&self.session).is_some();
        if unanswered {
            self.volume.detach(self.session);
        }
    }
}

/// Something that is said once, and somebody who waits for it.
pub(super) struct Answer<T> {
    said: RefCell<Option<T>>,
    waiting: WaitList,
}

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Self { said: RefCell::new(None), waiting: WaitList::default() }
    }
}

impl<T> Answer<T> {
    fn set(&self, said: T) {
        let before = self.said.replace(Some(said));
        assert!(before.is_none(), "an answer is given once");
        self.waiting.wake_all();
    }

    /// Whether it was said and not fetched.
    pub(super) fn is_said(&self) -> bool {
        self.said.borrow().is_some()
    }

    /// Waits until it is said, without fetching it.
    pub(super) async fn heard(&self) {
        while !self.is_said() {
            self.waiting.wait().await;
        }
    }

    async fn wait(&self) -> T {
        self.heard().await;
        self.said.take().expect("one waits for one answer")
    }
}
