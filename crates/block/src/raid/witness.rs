//! What is remembered of an array outside of its members: who was in sync when that last changed.
//!
//! The superblock of a member that failed cannot say so. If it is the only one found at the next start, it looks right
//! and is old (docs/formats/md.md). So the box remembers: a change of who is in sync is with the witness before any
//! write is answered that relies on it. Only a member that the witness names is started from without the others.

use super::RaidError;
use super::array::Inner;
use crate::device::{DeviceError, IoFuture};
use crate::runtime::sleep;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use units::{ArrayId, Millis, Moment};

/// A witness that cannot write is asked again this often; until then nothing is answered that needs it. One that has not
/// answered for as long counts as one that cannot.
const AGAIN: Millis = Millis(1000);

/// Who was in sync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The array's update counter then: each of these members has at least this.
    pub events: u64,
    /// The members' identities (`device` in their superblocks), in ascending order.
    pub in_sync: Vec<[u8; 16]>,
}

/// Where memberships are durable. One file per array in a target's state folder, on no member of that array.
pub trait MembershipWitness {
    /// What was kept last for this array; `None` if nothing ever was. It is durable when this answers: a box that was
    /// killed in the middle of [`MembershipWitness::keep`] may find what a power cut would still take back, and the one
    /// before names members that are old by the next cut.
    ///
    /// An error counts as `None`: the array then starts only with every member that its superblocks call active.
    fn recall(&self, array: ArrayId) -> IoFuture<Option<Membership>>;

    /// Replaces it, answered when it is durable. Asked again after an error.
    fn keep(&self, array: ArrayId, membership: &Membership) -> IoFuture<()>;
}

/// The witness of a running array.
#[derive(Default)]
pub(super) struct Watch {
    pub witness: RefCell<Option<Rc<dyn MembershipWitness>>>,
    /// What it holds.
    pub kept: RefCell<Option<Membership>>,
    /// Since when it is being asked to take the newest.
    asked: Cell<Option<Moment>>,
    /// Why it did not take that.
    refused: Cell<Option<DeviceError>>,
}

impl Membership {
    /// Whether a member of this identity and count of updates holds everything that was acknowledged.
    pub(super) fn names(&self, device: &[u8; 16], events: u64) -> bool {
        self.in_sync.contains(device) && events >= self.events
    }
}

impl Inner {
    /// Who is in sync now.
    pub fn membership(&self) -> Membership {
        let mut in_sync: Vec<[u8; 16]> = self.in_sync().iter().map(|leg| leg.own.device).collect();
        in_sync.sort_unstable();
        Membership { events: self.board.borrow().events, in_sync }
    }

    /// Whether the witness holds another membership than this.
    pub fn is_news(&self, membership: &Membership) -> bool {
        // An older count than the kept one: an operator started an older copy of a member.
        let known = |kept: &Membership| kept.in_sync == membership.in_sync && kept.events <= membership.events;
        self.watch.witness.borrow().is_some() && !self.watch.kept.borrow().as_ref().is_some_and(known)
    }

    /// Has the witness keep a membership, for as long as that takes; an error only when the array is being stopped.
    pub async fn tell(self: &Rc<Self>, membership: Membership) -> Result<(), DeviceError> {
        if !self.is_news(&membership) {
            return Ok(());
        }
        let witness = self.watch.witness.borrow().clone();
        let Some(witness) = witness else { return Ok(()) };
        self.watch.asked.set(Some(self.rt.now()));
        self.notice_silence();
        let kept = self.tell_until_kept(&*witness, &membership).await;
        self.watch.asked.set(None);
        self.watch.refused.set(None);
        kept?;
        self.watch.kept.replace(Some(membership));
        Ok(())
    }

    async fn tell_until_kept(
        &self,
        witness: &dyn MembershipWitness,
        membership: &Membership,
    ) -> Result<(), DeviceError> {
        while let Err(error) = witness.keep(self.shape.id, membership).await {
            self.watch.refused.set(Some(error));
            self.progress.changed.wake_all();
            if self.closed.get() {
                return Err(error);
            }
            sleep(&self.rt, AGAIN).await;
        }
        Ok(())
    }

    /// Who waits for the witness looks at it again when it has been silent for too long. An array that is gone by then is
    /// not kept for this.
    fn notice_silence(self: &Rc<Self>) {
        let (inner, rt) = (Rc::downgrade(self), Rc::clone(&self.rt));
        self.rt.spawn(Box::pin(async move {
            sleep(&rt, AGAIN).await;
            inner.upgrade().into_iter().for_each(|inner| inner.progress.changed.wake_all());
        }));
    }

    /// Why who is in sync is not recorded, if that holds up everything now.
    pub fn witness_blocked(&self) -> Option<String> {
        let silent = self.rt.now().since(self.watch.asked.get()?);
        let what = "who is in sync cannot be recorded on this box";
        match self.watch.refused.get() {
            Some(error) => Some(format!("{what}: {error}")),
            None if silent >= AGAIN => Some(format!("{what}: no answer for {silent}")),
            None => None,
        }
    }

    /// Waits as [`Inner::may_answer`] does, but not for a witness that takes nothing.
    pub async fn may_answer_unless_unrecorded(&self) -> Result<(), RaidError> {
        loop {
            if let Some(why) = self.witness_blocked() {
                return Err(RaidError::Unrecorded(why));
            }
            if self.progress.settled.get() >= self.progress.answers_need.get() {
                return Ok(());
            }
            if let Some(error) = self.broken.get() {
                return Err(RaidError::Broken(error));
            }
            self.progress.changed.wait().await;
        }
    }

    /// From now on this witness is told.
    pub async fn watch_by(self: &Rc<Self>, witness: Rc<dyn MembershipWitness>) -> Result<(), RaidError> {
        self.watch.witness.replace(Some(witness));
        let generation = self.touch();
        Ok(self.settle(generation).await?)
    }
}
