//! One member of a running array, and waiting for several of them at once.
//!
//! Invariants: a member that is faulty stays so. Whoever waits for operations on members is woken when one of them is
//! failed; what still hangs on it is left running in the background ([`Joined`]) and nobody waits for it any more. A
//! faulty member lets its disk go when the last of that has ended: from then on the disk can be opened anew.

use super::array::Inner;
use super::bad_blocks::BadBlocks;
use super::chunks::ChunkSet;
use super::layout::LogPlace;
use super::mend::ReadErrors;
use super::superblock::Superblock;
use crate::device::{DeviceError, Disk, Durability, Geometry, IoFuture};
use crate::gate::FENCE_DRAIN_MAX;
use crate::runtime::Rt;
use crate::{IoBuf, IoData};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use units::{ByteLen, ByteOffset, Millis, Moment, Sectors};

/// An operation that takes longer than a fence may (docs/rfd/0003-gate.md) hangs.
const HUNG_MS: Millis = FENCE_DRAIN_MAX;

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

/// A member's disk, and the same for metadata.
struct Lanes {
    data: Disk,
    metadata: Disk,
}

pub(super) struct Leg {
    /// `None` once the member has failed and nothing of it is under way.
    disk: RefCell<Option<Lanes>>,
    pub label: String,
    pub slot: u16,
    pub number: u32,
    /// What belongs to this member alone; the rest of the superblock is filled in when it is written.
    pub own: Superblock,
    pub bitmap_at: Cell<Option<ByteOffset>>,
    pub facts_room: bool,
    /// Where its bad block log lies, or would.
    pub log: Option<LogPlace>,
    /// Where on the disk it holds nothing.
    pub bad: RefCell<BadBlocks>,
    log_dirty: Cell<bool>,
    /// Chunks that have to be copied to it from another member before they may be read from it.
    pub todo: RefCell<ChunkSet>,
    /// What its superblock says of its recovery: durable on the medium before it is said.
    pub recovered: Cell<Sectors>,
    pub by_bitmap: Cell<bool>,
    pub cause: RefCell<Option<String>>,
    pub next_read: Cell<u64>,
    pub read_errors: RefCell<ReadErrors>,
    standing: Cell<Standing>,
    calls: RefCell<Slab<Call>>,
}

/// A failed member whose disk is still open: operations from before it failed run on it and may still land.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StillBusy {
    /// The path it was handed in with.
    pub label: String,
    /// How many operations.
    pub operations: usize,
    /// How long the oldest has been running.
    pub since: Millis,
}

impl std::fmt::Display for StillBusy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { label, operations, since } = self;
        let noun = if *operations == 1 { "operation" } else { "operations" };
        write!(f, "{operations} {noun} from before {label} failed still run on it, for {since} so far")
    }
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
        let lanes = Lanes { metadata: disk.for_metadata().unwrap_or_else(|| Rc::clone(&disk)), data: disk };
        Self {
            disk: RefCell::new(Some(lanes)),
            label,
            slot,
            number,
            bitmap_at: Cell::new(None),
            facts_room: false,
            log: None,
            bad: RefCell::default(),
            log_dirty: Cell::new(false),
            todo: RefCell::new(todo),
            recovered: Cell::new(Sectors(0)),
            by_bitmap: Cell::new(false),
            cause: RefCell::new(None),
            next_read: Cell::new(0),
            read_errors: RefCell::default(),
            standing: Cell::new(standing),
            calls: RefCell::default(),
            own,
        }
    }

    /// Its disk for metadata, unless the member has failed and let it go.
    pub fn metadata(&self) -> Result<Disk, DeviceError> {
        self.disk.borrow().as_ref().map(|lanes| Rc::clone(&lanes.metadata)).ok_or(DeviceError::Closed)
    }

    /// How its disk is shaped; `None` once it let it go.
    pub fn geometry(&self) -> Option<Geometry> {
        self.disk.borrow().as_ref().map(|lanes| lanes.data.geometry())
    }

    /// Reads from a place of the array.
    pub fn read(&self, at: ByteOffset, into: IoBuf) -> IoFuture<IoBuf> {
        self.ask(|disk| disk.read(self.place(at), into))
    }

    /// Writes at a place of the array.
    pub fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        self.ask(|disk| disk.write(self.place(at), from, how))
    }

    /// Makes a range of the array read as zeroes.
    pub fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        self.ask(|disk| disk.write_zeroes(self.place(at), len, how, may_unmap))
    }

    /// Makes what was answered durable.
    pub fn flush(&self) -> IoFuture<()> {
        self.ask(|disk| disk.flush())
    }

    fn ask<T: Unpin>(&self, operation: impl FnOnce(&Disk) -> IoFuture<T>) -> IoFuture<T> {
        match &*self.disk.borrow() {
            Some(lanes) => operation(&lanes.data),
            None => IoFuture::ready(Err(DeviceError::Closed)),
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
        let wakers: Vec<Waker> = self.calls.borrow_mut().iter_mut().filter_map(|(_, call)| call.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
        self.let_go_if_done();
    }

    /// Closes the disk of a failed member on which nothing runs any more.
    fn let_go_if_done(&self) {
        if !self.is_live() && self.in_flight() == 0 {
            self.disk.replace(None);
        }
    }

    /// Whether it holds nothing somewhere in a range of the array.
    pub fn lacks(&self, at: ByteOffset, len: ByteLen) -> bool {
        let bad = self.bad.borrow();
        !bad.is_empty() && bad.touches(&self.range(at, len))
    }

    /// Notes that it holds nothing in a range of the array; false if its log has no place for that. It goes out with the
    /// next superblock.
    pub fn note_bad(&self, at: ByteOffset, len: ByteLen) -> bool {
        let mut bad = self.bad.borrow().clone();
        bad.insert(self.range(at, len));
        let fits = self.log.is_some_and(|place| bad.encode(&place).is_some());
        if fits {
            self.bad.replace(bad);
            self.log_dirty.set(true);
        }
        fits
    }

    /// Notes that a range in which it held nothing was written, durably; false if its log has no place for the rests of it.
    pub fn note_written(&self, at: ByteOffset, len: ByteLen) -> bool {
        let mut bad = self.bad.borrow().clone();
        bad.remove(&self.range(at, len));
        let fits = self.log.is_some_and(|place| bad.encode(&place).is_some());
        if fits {
            self.bad.replace(bad);
            self.log_dirty.set(true);
        }
        fits
    }

    /// Its bad block log, if that has to be written.
    pub fn take_log(&self) -> Option<(ByteOffset, IoData)> {
        let place = self.log.filter(|_| self.log_dirty.take())?;
        let bytes = self.bad.borrow().encode(&place).expect("looked at when it was noted");
        Some((place.at, IoBuf::copy_of(&bytes).freeze()))
    }

    /// Where in the array it holds nothing.
    pub fn bad_in_array(&self) -> Vec<(ByteOffset, ByteLen)> {
        let (from, to) = (self.own.data_offset.bytes(), self.own.data_offset.bytes() + self.own.size.bytes());
        let inside = |bad: std::ops::Range<u64>| {
            let (start, end) = (bad.start.max(from), bad.end.min(to));
            (start < end).then(|| (ByteOffset(start - from), ByteLen(end - start)))
        };
        self.bad.borrow().iter().filter_map(inside).collect()
    }

    fn range(&self, at: ByteOffset, len: ByteLen) -> std::ops::Range<u64> {
        let at = self.place(at).0;
        at..at + len.0
    }

    /// Where a place of the array lies on this member.
    fn place(&self, at: ByteOffset) -> ByteOffset {
        ByteOffset(at.0 + self.own.data_offset.bytes())
    }

    /// How many operations are under way on it.
    pub fn in_flight(&self) -> usize {
        self.calls.borrow().len()
    }

    /// Whether an operation that started before `moment` is still under way, or one that others wait for in turn
    /// (a superblock's) for longer than a fence may take. What was before `trusted` counts for nobody.
    pub fn lags(&self, moment: Moment, now: Moment, trusted: Moment) -> bool {
        let lags = |call: &Call| {
            let since = call.started.max(trusted);
            since < moment || now.since(since) >= HUNG_MS
        };
        self.calls.borrow().iter().any(|(_, call)| lags(call))
    }

    /// Since when the oldest operation under way has been on this member.
    pub fn oldest(&self) -> Option<Moment> {
        self.calls.borrow().iter().map(|(_, call)| call.issued).min()
    }

    /// What still runs on it although it failed.
    pub fn still_busy(&self, now: Moment) -> Option<StillBusy> {
        let oldest = self.oldest().filter(|_| !self.is_live())?;
        Some(StillBusy { label: self.label.clone(), operations: self.in_flight(), since: now.since(oldest) })
    }

    fn enter(&self, started: Moment, issued: Moment) -> usize {
        self.calls.borrow_mut().insert(Call { started, issued, waker: None })
    }

    fn leave(&self, key: usize) {
        self.calls.borrow_mut().remove(key);
        self.let_go_if_done();
    }

    fn listen(&self, key: usize, waker: &Waker) {
        if let Some(call) = self.calls.borrow_mut().get_mut(key) {
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
                // The operation first, which holds the disk as well.
                part.state = PartState::Done(Outcome::Answered(answer));
                part.leg.leave(key);
            } else if part.leg.is_live() {
                part.leg.listen(key, cx.waker());
                waiting = true;
            } else {
                let hung = std::mem::replace(&mut part.state, PartState::Done(Outcome::Abandoned));
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

/// Nobody waits for the operation any more; it counts as under way on the member until it has ended.
fn run_out<T: Unpin + 'static>(rt: &Rt, leg: &Rc<Leg>, state: PartState<T>) {
    if let PartState::Running(key, running) = state {
        let leg = Rc::clone(leg);
        rt.spawn(Box::pin(async move {
            let _ = running.await;
            leg.leave(key);
        }));
    }
}

impl<T> Drop for Part<T> {
    fn drop(&mut self) {
        if let PartState::Running(key, running) = std::mem::replace(&mut self.state, PartState::Taken) {
            drop(running);
            self.leg.leave(key);
        }
    }
}
