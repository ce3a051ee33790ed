//! The box's memory of who is in sync: the file in a target's state folder, with what a kill and a power cut make of it.
//!
//! It is written as the target writes it: a new file beside, synced; renamed over the old one; the folder synced. A reader
//! finds the renamed file, a power cut may still take it back until the folder is synced, which a reader does before it
//! believes it. The folder may be full for a while.

use crate::disk::ENOSPC;
use crate::executor::Executor;
use crate::rng::Rng;
use block::raid::{Membership, MembershipWitness};
use block::{DeviceError, IoFuture};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use units::ArrayId;

/// The file of the one array there is.
pub struct BoxMemory {
    exec: Executor,
    rng: RefCell<Rng>,
    /// What a reader finds.
    there: RefCell<Option<Membership>>,
    /// What a power cut leaves for sure.
    durable: RefCell<Option<Membership>>,
    /// The folder takes nothing.
    full: Cell<bool>,
    /// Hears each change of the file.
    listener: RefCell<Option<Rc<dyn Fn()>>>,
}

/// A memory as the array takes it.
struct Handle(Rc<BoxMemory>);

/// A sync of the boot disk, at most.
const STEP_MAX_US: u64 = 2_000;

impl BoxMemory {
    /// A memory that holds this, durably.
    #[must_use]
    pub fn new(exec: &Executor, rng: Rng, holds: Option<Membership>) -> Rc<Self> {
        Rc::new(Self {
            exec: exec.clone(),
            rng: RefCell::new(rng),
            there: RefCell::new(holds.clone()),
            durable: RefCell::new(holds),
            full: Cell::new(false),
            listener: RefCell::new(None),
        })
    }

    /// As the array takes it.
    #[must_use]
    pub fn witness(self: &Rc<Self>) -> Rc<dyn MembershipWitness> {
        Rc::new(Handle(Rc::clone(self)))
    }

    /// The folder takes nothing, or it does again.
    pub fn be_full(&self, full: bool) {
        self.full.set(full);
    }

    /// From now on `listener` hears each change of the file.
    pub fn listen(&self, listener: Option<Rc<dyn Fn()>>) {
        *self.listener.borrow_mut() = listener;
    }

    /// What a power cut may leave: one content, or two.
    #[must_use]
    pub fn crash_states(&self) -> Vec<Option<Membership>> {
        let mut states = vec![self.durable.borrow().clone(), self.there.borrow().clone()];
        states.dedup();
        states
    }

    /// Whether it names so many members for sure: each of them starts alone.
    #[must_use]
    pub fn names(&self, members: usize) -> bool {
        let all = |state: &Option<Membership>| state.as_ref().is_some_and(|known| known.in_sync.len() == members);
        self.crash_states().iter().all(all)
    }

    /// The power goes: what was renamed and not synced is chance.
    pub fn power_cut(&self) {
        if self.rng.borrow_mut().coin() {
            self.durable.replace(self.there.borrow().clone());
        } else {
            self.there.replace(self.durable.borrow().clone());
        }
    }

    async fn step(&self) {
        let span_us = self.rng.borrow_mut().between(20, STEP_MAX_US);
        self.exec.sleep_us(span_us).await;
    }

    fn tell(&self) {
        let listener = self.listener.borrow().clone();
        if let Some(listener) = listener {
            listener();
        }
    }
}

impl MembershipWitness for Handle {
    fn recall(&self, _array: ArrayId) -> IoFuture<Option<Membership>> {
        let memory = Rc::clone(&self.0);
        IoFuture::later(async move {
            let found = memory.there.borrow().clone();
            memory.step().await;
            memory.durable.replace(memory.there.borrow().clone());
            Ok(found)
        })
    }

    fn keep(&self, _array: ArrayId, membership: &Membership) -> IoFuture<()> {
        let (memory, membership) = (Rc::clone(&self.0), membership.clone());
        IoFuture::later(async move {
            memory.step().await;
            if memory.full.get() {
                return Err(DeviceError::Failed { errno: ENOSPC });
            }
            memory.there.replace(Some(membership));
            memory.tell();
            memory.step().await;
            memory.durable.replace(memory.there.borrow().clone());
            memory.tell();
            Ok(())
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: what was answered survives every power cut, what was only renamed survives some. Method: many seeds; the
    /// power goes before, within and after a change.
    #[test]
    fn only_what_was_answered_survives_for_sure() {
        let old = Membership { events: 1, in_sync: vec![[1; 16], [2; 16]] };
        let new = Membership { events: 2, in_sync: vec![[1; 16]] };
        let mut left = [[false; 2]; 3];
        for seed in 0..60 {
            let exec = Executor::new(Rng::new(seed));
            let memory = BoxMemory::new(&exec, Rng::new(seed), Some(old.clone()));
            let (witness, process) = (memory.witness(), exec.process());
            let (changes, answered) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
            let (counter, told) = (Rc::clone(&changes), Rc::clone(&answered));
            memory.listen(Some(Rc::new(move || counter.set(counter.get() + 1))));
            let keep = witness.keep(ArrayId([0; 16]), &new);
            process.go(async move { told.set(keep.await.is_ok()) });
            let until = [0, 1, 2][usize::try_from(seed % 3).expect("small")];
            exec.run(1_000_000, || changes.get() == until && (until < 2 || answered.get()));
            process.kill();
            memory.power_cut();
            let found = memory.there.borrow().clone() == Some(new.clone());
            left[until][usize::from(found)] = true;
            exec.shut_down();
        }
        assert_eq!(left, [[true, false], [true, true], [false, true]]);
    }
}
