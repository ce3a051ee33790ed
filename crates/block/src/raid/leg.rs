//! One member of a running array, and waiting for several of them at once.
//!
//! Invariant: a member that is faulty stays so. Whoever waits for operations on members is woken when one of them is
//! failed; what still hangs on it is left running in the background ([`Joined`]) and nobody waits for it any more.

use super::array::Inner;
use super::chunks::ChunkSet;
use super::mend::ReadErrors;
use super::superblock::Superblock;
use crate::device::{DeviceError, Disk, IoFuture};
use crate::runtime::Rt;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use units::{ByteOffset, Millis, Moment, Sectors};

/// An operation that takes longer than a fence may (`FENCE_DRAIN_MAX_MS`, docs/rfd/0003-gate.md) hangs.
const HUNG_MS: Millis = Millis(1500);

/// How a member stands in its array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Holds everything that was acknowledged.
    InSync,
    /// Being filled; gets all writes, serves no reads.
    Recovering,
    /// Failed for good.
    Faulty,
}

pub(super) struct Leg {
    pub disk: Disk,
    pub label: String,
    pub slot: u16,
    pub number: u32,
    /// What belongs to this member alone; the rest of the superblock is filled in when it is written.
    pub own: Superblock,
    pub bitmap_at: Cell<Option<ByteOffset>>,
    pub facts_room: bool,
    /// Chunks that have to be copied to it from another member before they may be read from it.
    pub todo: RefCell<ChunkSet>,
    /// What its superblock says of its recovery: durable on the medium before it is said.
    pub recovered: Cell<Sectors>,
    pub by_bitmap: Cell<bool>,
    pub cause: RefCell<Option<String>>,
    pub next_read: Cell<u64>,
    pub read_errors: RefCell<ReadErrors>,
    standing: Cell<Standing>,
    calls: RefCell<Calls>,
    /// Operations that nobody waits for any more and that may still land.
    left: Cell<usize>,
}

#[derive(Default)]
struct Calls {
    calls: Vec<Option<Call>>,
    free: Vec<usize>,
}

struct Call {
    /// When the whole operation was admitted: what a fence asks for.
    started: Moment,
    /// When this member got it, and so much later as its length excuses: what the watchdog asks for.
    issued: Moment,
    waker: Option<Waker>,
}

impl Leg {
    pub fn new(disk: Disk, label: String, slot: u16, own: Superblock, standing: Standing, todo: ChunkSet) -> Self {
        let number = own.number;
        Self {
            disk,
            label,
            slot,
            number,
            bitmap_at: Cell::new(None),
            facts_room: false,
            todo: RefCell::new(todo),
            recovered: Cell::new(Sectors(0)),
            by_bitmap: Cell::new(false),
            cause: RefCell::new(None),
            next_read: Cell::new(0),
            read_errors: RefCell::default(),
            standing: Cell::new(standing),
            calls: RefCell::default(),
            left: Cell::new(0),
            own,
        }
    }

    pub fn standing(&self) -> Standing {
        self.standing.get()
    }

    pub fn is_live(&self) -> bool {
        self.standing.get() != Standing::Faulty
    }

    pub fn is_in_sync(&self) -> bool {
        self.standing.get() == Standing::InSync
    }

    pub fn become_in_sync(&self) {
        assert_eq!(self.standing.get(), Standing::Recovering, "only a recovering member comes in");
        self.standing.set(Standing::InSync);
    }

    /// From now on nobody waits for it.
    pub fn become_faulty(&self, cause: String) {
        self.standing.set(Standing::Faulty);
        self.cause.replace(Some(cause));
        let wakers: Vec<Waker> =
            self.calls.borrow_mut().calls.iter_mut().flatten().filter_map(|call| call.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Where a place of the array lies on this member.
    pub fn place(&self, at: ByteOffset) -> ByteOffset {
        ByteOffset(at.0 + self.own.data_offset.bytes())
    }

    /// How many operations are under way on it.
    pub fn in_flight(&self) -> usize {
        let calls = self.calls.borrow();
        calls.calls.len() - calls.free.len()
    }

    /// Whether an operation that started before `moment` is still under way, or one that others wait for in turn
    /// (a superblock's) for longer than a fence may take. What was before `trusted` counts for nobody.
    pub fn lags(&self, moment: Moment, now: Moment, trusted: Moment) -> bool {
        let lags = |call: &Call| {
            let since = call.started.max(trusted);
            since < moment || now.since(since) >= HUNG_MS
        };
        self.calls.borrow().calls.iter().flatten().any(lags)
    }

    /// Since when the oldest operation under way has been on this member.
    pub fn oldest(&self) -> Option<Moment> {
        self.calls.borrow().calls.iter().flatten().map(|call| call.issued).min()
    }

    /// Whether operations from before it failed still run on it.
    pub fn is_still_busy(&self) -> bool {
        self.left.get() > 0
    }

    fn enter(&self, started: Moment, issued: Moment) -> usize {
        let mut calls = self.calls.borrow_mut();
        let call = Some(Call { started, issued, waker: None });
        if let Some(key) = calls.free.pop() {
            calls.calls[key] = call;
            return key;
        }
        calls.calls.push(call);
        calls.calls.len() - 1
    }

    fn leave(&self, key: usize) {
        let mut calls = self.calls.borrow_mut();
        calls.calls[key] = None;
        calls.free.push(key);
    }

    fn listen(&self, key: usize, waker: &Waker) {
        if let Some(Some(call)) = self.calls.borrow_mut().calls.get_mut(key) {
            match &mut call.waker {
                Some(held) => held.clone_from(waker),
                empty => *empty = Some(waker.clone()),
            }
        }
    }
}

/// What came of an operation on one member.
pub(super) enum Outcome<T> {
    Answered(Result<T, DeviceError>),
    /// The member was failed before it answered.
    Abandoned,
}

/// The same kind of operation on several members at once; done when each has answered or was failed.
pub(super) struct Joined<T: Unpin + 'static> {
    rt: Rt,
    parts: Vec<Part<T>>,
}

struct Part<T> {
    leg: Rc<Leg>,
    state: PartState<T>,
}

enum PartState<T> {
    Running(usize, IoFuture<T>),
    Done(Outcome<T>),
    Taken,
}

impl<T: Unpin + 'static> Joined<T> {
    pub fn start(
        inner: &Rc<Inner>,
        started: Moment,
        legs: impl Iterator<Item = Rc<Leg>>,
        issue: impl Fn(&Leg) -> IoFuture<T>,
    ) -> Self {
        Self::start_long(inner, started, Millis(0), legs, issue)
    }

    /// The same for what may take so much longer than others.
    pub fn start_long(
        inner: &Rc<Inner>,
        started: Moment,
        longer: Millis,
        legs: impl Iterator<Item = Rc<Leg>>,
        issue: impl Fn(&Leg) -> IoFuture<T>,
    ) -> Self {
        let issued = inner.rt.now() + longer;
        let mut running_somewhere = false;
        let parts = legs.map(|leg| {
            let state = match issue(&leg).try_now() {
                Ok(answer) => PartState::Done(Outcome::Answered(answer)),
                Err(running) => {
                    running_somewhere = true;
                    PartState::Running(leg.enter(started, issued), running)
                }
            };
            Part { leg, state }
        });
        let parts = parts.collect();
        if running_somewhere {
            inner.look_after();
        }
        Self { rt: Rc::clone(&inner.rt), parts }
    }
}

impl<T: Unpin + 'static> Future for Joined<T> {
    type Output = Vec<(Rc<Leg>, Outcome<T>)>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut waiting = false;
        for part in &mut this.parts {
            let PartState::Running(key, running) = &mut part.state else {
                continue;
            };
            let key = *key;
            if let Poll::Ready(answer) = Pin::new(running).poll(cx) {
                part.leg.leave(key);
                part.state = PartState::Done(Outcome::Answered(answer));
            } else if part.leg.is_live() {
                part.leg.listen(key, cx.waker());
                waiting = true;
            } else {
                let hung = std::mem::replace(&mut part.state, PartState::Done(Outcome::Abandoned));
                part.leg.leave(key);
                run_out(&this.rt, &part.leg, hung);
            }
        }
        if waiting {
            return Poll::Pending;
        }
        let answers = this.parts.drain(..).map(|mut part| match std::mem::replace(&mut part.state, PartState::Taken) {
            PartState::Done(outcome) => (Rc::clone(&part.leg), outcome),
            PartState::Running(..) | PartState::Taken => unreachable!("all are done"),
        });
        Poll::Ready(answers.collect())
    }
}

fn run_out<T: Unpin + 'static>(rt: &Rt, leg: &Rc<Leg>, state: PartState<T>) {
    if let PartState::Running(_, running) = state {
        let leg = Rc::clone(leg);
        leg.left.set(leg.left.get() + 1);
        rt.spawn(Box::pin(async move {
            let _ = running.await;
            leg.left.set(leg.left.get() - 1);
        }));
    }
}

impl<T> Drop for Part<T> {
    fn drop(&mut self) {
        if let PartState::Running(key, _) = self.state {
            self.leg.leave(key);
        }
    }
}
