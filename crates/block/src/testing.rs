//! Doubles for this room's unit tests: a disk in memory and a clock moved by hand. The simulator has the real ones
//! (power cuts, delays, seeds); these only answer at once or on command.

use crate::device::{BlockDevice, DeviceError, Durability, Geometry, IoFuture};
use crate::runtime::{Rt, Runtime, Task};
use crate::wait::WaitList;
use crate::{IoBuf, IoData};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use units::{ByteLen, ByteOffset, Moment};

/// What the kernel says when media fails. Source: `include/uapi/asm-generic/errno-base.h`.
pub const EIO: i32 = 5;

/// A disk in memory. Shared state behind `Rc`, so that a test keeps a hand on it.
pub struct MemDisk {
    /// What a reader sees now.
    pub live: RefCell<Vec<u8>>,
    /// What a power cut leaves.
    pub durable: RefCell<Vec<u8>>,
    /// All operations fail with EIO from now on.
    pub broken: Cell<bool>,
    /// Sectors that cannot be read until they are written.
    pub unreadable: RefCell<std::collections::BTreeSet<u64>>,
    /// Sectors that cannot be written.
    pub unwritable: RefCell<std::collections::BTreeSet<u64>>,
    /// This many operations succeed before the disk breaks.
    pub breaks_after: Cell<Option<u64>>,
    /// Writes wait while this is set; `release` lets them go on.
    pub held: Cell<bool>,
    /// Reads never end while this is set when they come.
    pub held_reads: Cell<bool>,
    /// Flushes wait while this is set, and then cover what was written before they came.
    pub held_flushes: Cell<bool>,
    /// Its blocks.
    pub block_bytes: Cell<u32>,
    released: WaitList,
    power: RefCell<Option<Rc<Power>>>,
    /// What was written since the last flush.
    unflushed: RefCell<Vec<std::ops::Range<usize>>>,
    /// Every write and flush that arrived, in order: for tests that check an order.
    pub log: RefCell<Vec<Seen>>,
}

/// What several disks depend on: it lasts for so many writes and flushes, and goes during the next.
pub struct Power(Cell<u64>);

impl Power {
    pub fn until(operations: u64) -> Rc<Self> {
        Rc::new(Self(Cell::new(operations + 1)))
    }

    pub fn is_out(&self) -> bool {
        self.0.get() == 0
    }

    fn spend(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 1
    }
}

/// One entry of [`MemDisk::log`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Write { at: u64, len: u64, fua: bool },
    Flush,
}

impl MemDisk {
    pub fn new(size: ByteLen) -> Rc<Self> {
        Self::holding(vec![0; usize::try_from(size.0).expect("fits memory")])
    }

    pub fn holding(content: Vec<u8>) -> Rc<Self> {
        Rc::new(Self {
            live: RefCell::new(content.clone()),
            durable: RefCell::new(content),
            broken: Cell::new(false),
            unreadable: RefCell::default(),
            unwritable: RefCell::default(),
            held_reads: Cell::new(false),
            breaks_after: Cell::new(None),
            held: Cell::new(false),
            held_flushes: Cell::new(false),
            block_bytes: Cell::new(512),
            released: WaitList::default(),
            power: RefCell::default(),
            unflushed: RefCell::default(),
            log: RefCell::default(),
        })
    }

    /// From now on the disk goes out with `power`.
    pub fn depend_on(&self, power: &Rc<Power>) {
        self.power.replace(Some(Rc::clone(power)));
    }

    /// Lets held writes go on.
    pub fn release(&self) {
        self.held.set(false);
        self.released.wake_all();
    }

    /// The disk after a power cut that lost everything not flushed.
    pub fn after_power_cut(&self) -> Rc<Self> {
        Self::holding(self.durable.borrow().clone())
    }

    fn check(&self, at: ByteOffset, len: ByteLen) -> Result<(), DeviceError> {
        if let Some(left) = self.breaks_after.get() {
            self.breaks_after.set(left.checked_sub(1));
            self.broken.set(left == 0);
        }
        if self.broken.get() {
            return Err(DeviceError::Failed { errno: EIO });
        }
        if self.power.borrow().as_ref().is_some_and(|power| power.is_out()) {
            return Err(DeviceError::Failed { errno: EIO });
        }
        self.geometry().check(at, len)
    }

    /// Counts a write or flush; true for the one during which the power goes.
    fn is_last_before_cut(&self) -> bool {
        self.power.borrow().as_ref().is_some_and(|power| power.spend())
    }

    fn store(&self, at: ByteOffset, bytes: &[u8], how: Durability) -> Result<(), DeviceError> {
        self.check(at, ByteLen::of(bytes))?;
        if self.unwritable.borrow().range(at.0..at.0 + bytes.len() as u64).next().is_some() {
            return Err(DeviceError::Failed { errno: EIO });
        }
        let fua = how == Durability::Fua;
        if self.is_last_before_cut() {
            // The interrupted write is torn: its first half is on the media, in whole sectors.
            let (start, half) = (usize::try_from(at.0).expect("checked above"), bytes.len() / 1024 * 512);
            for copy in [&self.live, &self.durable] {
                copy.borrow_mut()[start..start + half].copy_from_slice(&bytes[..half]);
            }
            return Err(DeviceError::Failed { errno: EIO });
        }
        self.log.borrow_mut().push(Seen::Write { at: at.0, len: bytes.len() as u64, fua });
        let start = usize::try_from(at.0).expect("checked above");
        self.unreadable.borrow_mut().retain(|sector| !(at.0..at.0 + bytes.len() as u64).contains(sector));
        self.live.borrow_mut()[start..start + bytes.len()].copy_from_slice(bytes);
        if fua {
            self.durable.borrow_mut()[start..start + bytes.len()].copy_from_slice(bytes);
        } else {
            self.unflushed.borrow_mut().push(start..start + bytes.len());
        }
        Ok(())
    }
}

/// The trait is worn by the shared handle, as a held write must outlive the call.
#[derive(Clone)]
pub struct Shared(pub Rc<MemDisk>);

impl std::ops::Deref for Shared {
    type Target = MemDisk;
    fn deref(&self) -> &MemDisk {
        &self.0
    }
}

impl MemDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: ByteLen::of(&self.live.borrow()),
            block_bytes: self.block_bytes.get(),
            optimal_bytes: 4096,
            volatile_cache: true,
            discard: true,
        }
    }

    /// As a disk for the code under test.
    pub fn disk(self: &Rc<Self>) -> crate::Disk {
        Rc::new(Shared(Rc::clone(self)))
    }
}

impl BlockDevice for Shared {
    fn geometry(&self) -> Geometry {
        MemDisk::geometry(self)
    }

    fn read(&self, at: ByteOffset, mut into: IoBuf) -> IoFuture<IoBuf> {
        if self.held_reads.get() {
            return IoFuture::later(std::future::pending());
        }
        let end = at.0 + into.byte_len().0;
        if self.unreadable.borrow().range(at.0..end).next().is_some() {
            return IoFuture::ready(Err(DeviceError::Failed { errno: EIO }));
        }
        IoFuture::ready(self.check(at, into.byte_len()).map(|()| {
            let start = usize::try_from(at.0).expect("checked above");
            let len = into.len();
            into.copy_from_slice(&self.live.borrow()[start..start + len]);
            into
        }))
    }

    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        if !self.held.get() {
            return IoFuture::ready(self.store(at, &from, how));
        }
        let this = self.clone();
        IoFuture::later(async move {
            while this.held.get() {
                this.released.wait().await;
            }
            this.store(at, &from, how)
        })
    }

    fn flush(&self) -> IoFuture<()> {
        if self.is_last_before_cut() {
            return IoFuture::ready(Err(DeviceError::Failed { errno: EIO }));
        }
        if self.held_flushes.get() {
            let (this, covered) = (self.clone(), self.unflushed.borrow_mut().drain(..).collect::<Vec<_>>());
            let bytes: Vec<_> = covered.iter().map(|range| self.live.borrow()[range.clone()].to_vec()).collect();
            return IoFuture::later(async move {
                while this.held_flushes.get() {
                    this.released.wait().await;
                }
                this.check(ByteOffset(0), ByteLen(0))?;
                this.log.borrow_mut().push(Seen::Flush);
                for (range, bytes) in covered.into_iter().zip(bytes) {
                    this.durable.borrow_mut()[range].copy_from_slice(&bytes);
                }
                Ok(())
            });
        }
        IoFuture::ready(self.check(ByteOffset(0), ByteLen(0)).map(|()| {
            self.log.borrow_mut().push(Seen::Flush);
            for range in self.unflushed.borrow_mut().drain(..) {
                self.durable.borrow_mut()[range.clone()].copy_from_slice(&self.live.borrow()[range]);
            }
        }))
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        IoFuture::ready(self.check(at, len))
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, _may_unmap: bool) -> IoFuture<()> {
        let zeroes = IoData::zeroes(usize::try_from(len.0).expect("fits memory"));
        self.write(at, zeroes, how)
    }
}

/// A runtime whose clock stands until it is moved and whose tasks run when [`Hand::turn`] is called.
#[derive(Default)]
pub struct Hand {
    now: Rc<Cell<u64>>,
    moved: Rc<WaitList>,
    tasks: RefCell<Vec<Task>>,
}

impl Hand {
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    pub fn rt(self: &Rc<Self>) -> Rt {
        Rc::<Self>::clone(self)
    }

    /// Moves the clock; sleepers look again at the next turn.
    pub fn pass(&self, ms: u64) {
        self.now.set(self.now.get() + ms);
        self.moved.wake_all();
    }

    /// Drops every task, and what their destructors leave behind: tasks hold the world that holds them.
    pub fn end(&self) {
        loop {
            let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            if tasks.is_empty() {
                return;
            }
        }
    }

    /// Polls every spawned task until none gets any further.
    pub fn turn(&self) {
        for _ in 0..1000 {
            let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            let left: Vec<Task> = tasks.into_iter().filter_map(|mut task| (!poll(&mut task)).then_some(task)).collect();
            let quiet = self.tasks.borrow().is_empty();
            self.tasks.borrow_mut().extend(left);
            if quiet {
                return;
            }
        }
        panic!("tasks spawn tasks for ever");
    }

    /// Polls `work` and the spawned tasks until it is done.
    ///
    /// # Panics
    /// If it does not get done: it waits for something that this test must do first.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        for _ in 0..1000 {
            if let Poll::Ready(answer) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return answer;
            }
            self.turn();
        }
        panic!("the work waits for something nobody does");
    }
}

/// Whether the future is done after one poll.
pub fn poll<F: Future + Unpin>(future: &mut F) -> bool {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

impl Runtime for Hand {
    fn now(&self) -> Moment {
        Moment(self.now.get())
    }

    fn sleep_until(&self, when: Moment) -> Task {
        let (moved, now) = (Rc::clone(&self.moved), Rc::clone(&self.now));
        Box::pin(async move {
            while now.get() < when.0 {
                moved.wait().await;
            }
        })
    }

    fn spawn(&self, task: Task) {
        self.tasks.borrow_mut().push(task);
    }
}
