//! One thread, one seed: tasks, a virtual clock and processes that can be killed.
//!
//! Invariant: what runs next depends on the seed only. Among ready tasks a seeded one is polled; when none is ready the
//! clock jumps to the next timer. There is no real time, no hash order and no second thread here; [`Executor::hash`]
//! folds in every poll, so that two runs of a seed are compared by one number.
//!
//! A [`Process`] is a [`Runtime`] whose tasks die together: `kill` drops them, and what their destructors leave to the
//! runtime (`run_to_end`) dies as well, as it would with a real process. The machine (process 0) is never killed: the
//! kernel's part of an I/O runs there.

use crate::rng::Rng;
use block::runtime::{Runtime, Task};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use units::Moment;

/// Polls in one run before it counts as spinning. The longest good run takes about a twentieth.
const POLLS_MAX: u64 = 20_000_000;

/// Why [`Executor::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The condition holds.
    Done,
    /// The clock reached the limit first.
    Late,
    /// Nothing is ready and nobody sleeps: whatever is awaited will never come.
    Quiet,
    /// More polls than any good run needs.
    Spinning,
}

/// The executor; clones are handles to the same one.
#[derive(Clone)]
pub struct Executor(Rc<Inner>);

/// A process of the simulated box.
#[derive(Clone)]
pub struct Process {
    inner: Rc<Inner>,
    id: u32,
}

struct Inner {
    clock_us: Cell<u64>,
    polls: Cell<u64>,
    hash: Cell<u64>,
    next_task: Cell<u64>,
    next_timer: Cell<u64>,
    next_process: Cell<u32>,
    tasks: RefCell<BTreeMap<u64, Slot>>,
    dead: RefCell<BTreeSet<u32>>,
    ready: Arc<Ready>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    rng: RefCell<Rng>,
}

struct Slot {
    process: u32,
    task: Option<Task>,
    waker: Waker,
}

/// Wakers have to be `Send`, hence the lock; it is never contended.
#[derive(Default)]
struct Ready(Mutex<ReadyList>);

#[derive(Default)]
struct ReadyList {
    order: Vec<u64>,
    known: BTreeSet<u64>,
}

struct TaskWaker {
    id: u64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.id);
    }
}

impl Ready {
    fn push(&self, id: u64) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.known.insert(id) {
            list.order.push(id);
        }
    }

    fn take(&self, rng: &mut Rng) -> Option<u64> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.order.is_empty() {
            return None;
        }
        let at = rng.index(list.order.len());
        let id = list.order.swap_remove(at);
        list.known.remove(&id);
        Some(id)
    }
}

impl Executor {
    /// An executor whose choices come from `rng`.
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self(Rc::new(Inner {
            clock_us: Cell::new(0),
            polls: Cell::new(0),
            hash: Cell::new(0xcbf2_9ce4_8422_2325),
            next_task: Cell::new(0),
            next_timer: Cell::new(0),
            next_process: Cell::new(1),
            tasks: RefCell::default(),
            dead: RefCell::default(),
            ready: Arc::default(),
            timers: RefCell::default(),
            rng: RefCell::new(rng),
        }))
    }

    /// The machine: what runs there is never killed.
    #[must_use]
    pub fn machine(&self) -> Process {
        Process { inner: Rc::clone(&self.0), id: 0 }
    }

    /// A new process.
    #[must_use]
    pub fn process(&self) -> Process {
        let id = self.0.next_process.get();
        self.0.next_process.set(id + 1);
        Process { inner: Rc::clone(&self.0), id }
    }

    /// The virtual clock.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.0.clock_us.get()
    }

    /// How many polls were made.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.0.polls.get()
    }

    /// What happened so far, in one number.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.0.hash.get()
    }

    /// Folds a fact of the world into the hash.
    pub fn fold(&self, fact: u64) {
        self.0.fold(fact);
    }

    /// Sleeps for `span_us`.
    pub fn sleep_us(&self, span_us: u64) -> Sleep {
        self.0.sleep_until(self.now_us().saturating_add(span_us))
    }

    /// Runs until `done` holds, the clock passes `until_us`, or nothing can happen any more.
    pub fn run(&self, until_us: u64, done: impl Fn() -> bool) -> Stopped {
        let limit = self.polls() + POLLS_MAX;
        loop {
            if done() {
                return Stopped::Done;
            }
            if self.polls() >= limit {
                return Stopped::Spinning;
            }
            let next = self.0.ready.take(&mut self.0.rng.borrow_mut());
            match next {
                Some(id) => self.0.poll(id),
                None => match self.0.next_timer_us() {
                    None => return Stopped::Quiet,
                    Some(when) if when > until_us => {
                        self.0.clock_us.set(self.now_us().max(until_us));
                        return Stopped::Late;
                    }
                    Some(when) => self.0.advance(when),
                },
            }
        }
    }

    /// Drops every task: breaks the cycles between tasks and executor at the end of a run.
    pub fn shut_down(&self) {
        let processes = self.0.next_process.get();
        self.0.dead.borrow_mut().extend(0..processes);
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
        self.0.timers.borrow_mut().clear();
    }
}

impl Inner {
    fn fold(&self, fact: u64) {
        self.hash.set((self.hash.get() ^ fact).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29));
    }

    fn poll(&self, id: u64) {
        let taken = self.tasks.borrow_mut().get_mut(&id).and_then(|slot| Some((slot.task.take()?, slot.waker.clone())));
        let Some((mut task, waker)) = taken else {
            return;
        };
        self.polls.set(self.polls.get() + 1);
        self.fold(id);
        self.fold(self.clock_us.get());
        let answer = task.as_mut().poll(&mut Context::from_waker(&waker));
        let finished = {
            let mut tasks = self.tasks.borrow_mut();
            match (answer, tasks.get_mut(&id)) {
                (Poll::Pending, Some(slot)) => {
                    slot.task = Some(task);
                    None
                }
                _ => {
                    tasks.remove(&id);
                    Some(task)
                }
            }
        };
        // Dropped outside the borrow: a destructor may spawn.
        drop(finished);
    }

    fn next_timer_us(&self) -> Option<u64> {
        self.timers.borrow().first_key_value().map(|(key, _)| key.0)
    }

    fn advance(&self, when_us: u64) {
        assert!(when_us >= self.clock_us.get(), "the clock only goes forward");
        self.clock_us.set(when_us);
        let later = self.timers.borrow_mut().split_off(&(when_us + 1, 0));
        let due = std::mem::replace(&mut *self.timers.borrow_mut(), later);
        due.into_values().for_each(Waker::wake);
    }

    fn spawn(&self, process: u32, task: Task) {
        if self.dead.borrow().contains(&process) {
            return;
        }
        let id = self.next_task.get();
        self.next_task.set(id + 1);
        let waker = Waker::from(Arc::new(TaskWaker { id, ready: Arc::clone(&self.ready) }));
        self.tasks.borrow_mut().insert(id, Slot { process, task: Some(task), waker });
        self.ready.push(id);
    }

    fn kill(&self, process: u32) {
        self.dead.borrow_mut().insert(process);
        let doomed: Vec<u64> =
            self.tasks.borrow().iter().filter(|(_, slot)| slot.process == process).map(|(&id, _)| id).collect();
        let slots: Vec<Option<Slot>> = doomed.iter().map(|id| self.tasks.borrow_mut().remove(id)).collect();
        drop(slots);
    }

    fn sleep_until(self: &Rc<Self>, when_us: u64) -> Sleep {
        Sleep { inner: Rc::clone(self), when_us, key: None }
    }
}

/// The future of [`Executor::sleep_us`].
pub struct Sleep {
    inner: Rc<Inner>,
    when_us: u64,
    key: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.inner.clock_us.get() >= self.when_us {
            return Poll::Ready(());
        }
        let key = self.key.unwrap_or_else(|| {
            let number = self.inner.next_timer.get();
            self.inner.next_timer.set(number + 1);
            (self.when_us, number)
        });
        self.key = Some(key);
        self.inner.timers.borrow_mut().insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = self.inner.timers.borrow_mut().remove(&key);
            drop(waker);
        }
    }
}

impl Process {
    /// Ends the process: its tasks are gone, and nothing it spawns runs any more.
    ///
    /// # Panics
    /// For the machine.
    pub fn kill(&self) {
        assert!(self.id != 0, "the machine is not killed");
        self.inner.kill(self.id);
    }

    /// Whether it lives.
    #[must_use]
    pub fn alive(&self) -> bool {
        !self.inner.dead.borrow().contains(&self.id)
    }

    /// Leaves `work` running in this process.
    pub fn go(&self, work: impl Future<Output = ()> + 'static) {
        self.inner.spawn(self.id, Box::pin(work));
    }
}

impl Runtime for Process {
    fn now(&self) -> Moment {
        Moment(self.inner.clock_us.get() / 1000)
    }

    fn sleep_until(&self, when: Moment) -> Task {
        Box::pin(self.inner.sleep_until(when.0.saturating_mul(1000)))
    }

    fn spawn(&self, task: Task) {
        self.inner.spawn(self.id, task);
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use block::runtime::run_to_end;

    fn order(seed: u64) -> (Vec<u64>, u64) {
        let exec = Executor::new(Rng::new(seed));
        let seen = Rc::new(RefCell::new(Vec::new()));
        for id in 0..20 {
            let (seen, sleeper) = (Rc::clone(&seen), exec.clone());
            exec.machine().go(async move {
                sleeper.sleep_us(1000).await;
                seen.borrow_mut().push(id);
            });
        }
        assert_eq!(exec.run(u64::MAX, || false), Stopped::Quiet);
        (seen.take(), exec.hash())
    }

    /// Goal: the seed decides the order, and nothing else does. Method: the same seed twice, another seed once.
    #[test]
    fn a_seed_is_an_order() {
        assert_eq!(order(1), order(1));
        assert_ne!(order(1).0, order(2).0);
    }

    /// Goal: a killed process does nothing more, not even what `run_to_end` hands to its runtime.
    #[test]
    fn the_killed_stay_dead() {
        let exec = Executor::new(Rng::new(1));
        let done = Rc::new(Cell::new(0));
        let victim = exec.process();
        for process in [exec.machine(), victim.clone()] {
            let (done, sleeper, rt) = (Rc::clone(&done), exec.clone(), Rc::new(process.clone()));
            process.go(async move {
                let rt: block::runtime::Rt = rt;
                let _ = run_to_end(&rt, async move {
                    sleeper.sleep_us(1000).await;
                    done.set(done.get() + 1);
                    Ok(())
                })
                .await;
            });
        }
        exec.run(500, || false);
        victim.kill();
        assert!(!victim.alive());
        exec.run(5000, || false);
        assert_eq!(done.get(), 1);
    }
}
