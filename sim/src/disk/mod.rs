//! A member disk: media behind a queue that answers late, out of order, wrongly or never, as its seed says.
//!
//! An operation belongs to the kernel once it was polled: it goes on when its future is dropped or its process is
//! killed. It takes effect at a seeded moment between being received and being answered. The [`Edge`] hears of each of
//! the three; the checkers of I1 and I6 live there. Durability is [`Media`]'s. This file does *not* know arrays.

mod media;
mod sparse;

pub use media::{Fate, Media, SECTOR};
pub use sparse::Sparse;

use crate::executor::Executor;
use crate::rng::Rng;
use block::wait::WaitList;
use block::{BlockDevice, DeviceError, Disk, Durability, Geometry, IoBuf, IoData, IoFuture};
use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use units::{ByteLen, ByteOffset};

/// What the kernel says when media fails. Source: `include/uapi/asm-generic/errno-base.h`.
pub const EIO: i32 = 5;
/// What it says when the device is gone. Source: the same.
pub const ENODEV: i32 = 19;
/// The file system is full.
pub const ENOSPC: i32 = 28;

/// Who listens at the disks' edge.
pub trait Edge {
    /// A write was handed to the kernel.
    fn received(&self, disk: usize, op: u64, at: u64, data: &IoData);
    /// A write is about to take effect; `before` is what stands there.
    fn applied(&self, disk: usize, op: u64, at: u64, data: &IoData, before: &[u8]);
    /// A write or flush (no data) ended. A failed write may or may not have taken effect.
    fn ended(&self, disk: usize, op: u64, data: Option<&IoData>, answer: Result<(), DeviceError>);
}

/// How a disk behaves, changed by the nemesis while it runs. Chances are parts of 10 000 per operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    /// Latency of one operation, at least.
    pub fast_us: u64,
    /// Latency of one operation, at most.
    pub slow_us: u64,
    /// Multiplies both: 1 to 1000.
    pub slower: u64,
    /// A write or flush fails once, and later ones succeed.
    pub eio_once: u32,
    /// A read fails once.
    pub eio_read: u32,
    /// An operation hangs for up to `hang_ms`.
    pub hang: u32,
    /// How long at most.
    pub hang_ms: u64,
    /// Every operation fails with this from now on.
    pub broken: Option<i32>,
}

/// How often each fault really happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Happened {
    /// Single EIOs of writes and flushes.
    pub eio_once: u64,
    /// EIOs of reads.
    pub eio_read: u64,
    /// Operations refused by a broken disk.
    pub broken: u64,
    /// Operations that hung.
    pub hangs: u64,
    /// Operations on a disk at least ten times slower than normal.
    pub slow: u64,
    /// Sectors that a power cut took out of a cache.
    pub lost_sectors: u64,
    /// Writes that a power cut caught in flight.
    pub cut_in_flight: u64,
}

/// One member disk. The machine keeps it; processes get handles by [`SimDisk::disk`].
pub struct SimDisk {
    /// Which one.
    pub number: usize,
    /// How it behaves.
    pub manners: Cell<Manners>,
    /// What was done to its users.
    pub happened: Cell<Happened>,
    exec: Executor,
    media: RefCell<Media>,
    rng: RefCell<Rng>,
    edge: RefCell<Option<Rc<dyn Edge>>>,
    power: Cell<u64>,
    next_op: Cell<u64>,
    in_flight: RefCell<BTreeMap<u64, InFlight>>,
    idle: WaitList,
}

/// An operation the kernel has.
struct InFlight {
    write: Option<(usize, IoData)>,
    applied: bool,
}

#[derive(Clone)]
enum Work {
    Read(usize),
    Write(IoData, bool),
    Flush,
}

impl SimDisk {
    /// A disk of zeroes.
    #[must_use]
    pub fn new(number: usize, len: ByteLen, exec: &Executor, rng: Rng) -> Rc<Self> {
        let len = usize::try_from(len.0).expect("fits memory");
        Rc::new(Self {
            number,
            manners: Cell::new(Manners { fast_us: 50, slow_us: 500, slower: 1, ..Manners::default() }),
            happened: Cell::default(),
            exec: exec.clone(),
            media: RefCell::new(Media::new(len)),
            rng: RefCell::new(rng),
            edge: RefCell::new(None),
            power: Cell::new(0),
            next_op: Cell::new(0),
            in_flight: RefCell::default(),
            idle: WaitList::default(),
        })
    }

    /// From now on `edge` hears everything.
    pub fn listen(&self, edge: Rc<dyn Edge>) {
        *self.edge.borrow_mut() = Some(edge);
    }

    /// As a disk for the code under test.
    #[must_use]
    pub fn disk(self: &Rc<Self>) -> Disk {
        Rc::new(Handle(Rc::clone(self)))
    }

    /// The content.
    pub fn media(&self) -> Ref<'_, Media> {
        self.media.borrow()
    }

    /// Whether an operation in flight writes to `sector`.
    #[must_use]
    pub fn busy_at(&self, sector: usize) -> bool {
        let covers = |(at, data): &(usize, IoData)| (*at..*at + data.len()).contains(&(sector * SECTOR));
        self.in_flight.borrow().values().any(|op| op.write.as_ref().is_some_and(covers))
    }

    /// The writes the kernel has: operation, place, data, and whether they took effect already.
    pub fn each_in_flight(&self, mut each: impl FnMut(u64, usize, &IoData, bool)) {
        for (&op, state) in self.in_flight.borrow().iter() {
            if let Some((at, data)) = &state.write {
                each(op, *at, data, state.applied);
            }
        }
    }

    /// Waits until the kernel has nothing of this disk: how a successor gets the lock of a killed process.
    pub async fn quiet(&self) {
        while !self.in_flight.borrow().is_empty() {
            self.idle.wait().await;
        }
    }

    /// The power goes: what operations in flight wrote is chance, as is the cache. Who outlives it, because only the disk
    /// went, is told that the device is gone.
    pub fn power_cut(&self, torn: bool) {
        self.power.set(self.power.get() + 1);
        let caught = std::mem::take(&mut *self.in_flight.borrow_mut());
        let (mut media, mut rng) = (self.media.borrow_mut(), self.rng.borrow_mut());
        let mut happened = self.happened.get();
        for (at, data) in caught.into_values().filter(|op| !op.applied).filter_map(|op| op.write) {
            happened.cut_in_flight += 1;
            media.write(at, &data, false);
        }
        happened.lost_sectors += media.power_cut(&mut rng, torn);
        self.happened.set(happened);
        self.idle.wake_all();
    }

    /// Puts other content on the disk: a replacement, or an old copy.
    pub fn swap_media(&self, media: Media) {
        *self.media.borrow_mut() = media;
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            size: ByteLen(self.media.borrow().live().size() as u64),
            block_bytes: 512,
            optimal_bytes: 4096,
            volatile_cache: true,
            discard: false,
        }
    }

    fn count(&self, with: impl FnOnce(&mut Happened)) {
        let mut happened = self.happened.get();
        with(&mut happened);
        self.happened.set(happened);
    }

    /// How long until it takes effect, how long from then to the answer, and what the answer is.
    fn fate(&self, work: &Work) -> (u64, u64, Result<(), DeviceError>) {
        let (manners, mut rng) = (self.manners.get(), self.rng.borrow_mut());
        if let Some(errno) = manners.broken {
            self.count(|happened| happened.broken += 1);
            return (rng.between(1, 50), 0, Err(DeviceError::Failed { errno }));
        }
        let mut apply_us = rng.between(manners.fast_us, manners.slow_us) * manners.slower;
        if manners.slower >= 10 {
            self.count(|happened| happened.slow += 1);
        }
        if rng.chance(manners.hang) {
            self.count(|happened| happened.hangs += 1);
            apply_us += rng.below(manners.hang_ms * 1000 + 1);
        }
        let after_us = rng.below(manners.fast_us * manners.slower + 1);
        let read = matches!(work, Work::Read(_));
        let chance = if read { manners.eio_read } else { manners.eio_once };
        if rng.chance(chance) {
            self.count(|happened| {
                if read {
                    happened.eio_read += 1;
                } else {
                    happened.eio_once += 1;
                }
            });
            return (apply_us, after_us, Err(DeviceError::Failed { errno: EIO }));
        }
        (apply_us, after_us, Ok(()))
    }

    async fn submit(self: Rc<Self>, at: usize, work: Work) -> Result<Option<IoBuf>, DeviceError> {
        let slot = Rc::new(Slot::default());
        let op = self.next_op.get();
        self.next_op.set(op + 1);
        let write = if let Work::Write(data, _) = &work { Some((at, data.clone())) } else { None };
        if let (Some((_, data)), Some(edge)) = (&write, &*self.edge.borrow()) {
            edge.received(self.number, op, at as u64, data);
        }
        self.in_flight.borrow_mut().insert(op, InFlight { write, applied: false });
        self.exec.machine().go(Rc::clone(&self).kernel(op, at, work, Rc::clone(&slot)));
        loop {
            if let Some(answer) = slot.answer.take() {
                return answer;
            }
            slot.done.wait().await;
        }
    }

    /// The kernel's part: it knows the power and nothing of processes.
    async fn kernel(self: Rc<Self>, op: u64, at: usize, work: Work, slot: Rc<Slot>) {
        let power = self.power.get();
        let (apply_us, after_us, mut answer) = self.fate(&work);
        let mark = self.media.borrow().mark();
        self.exec.sleep_us(apply_us).await;
        if self.power.get() != power {
            return slot.give(Err(DeviceError::Failed { errno: ENODEV }));
        }
        if let (Some(errno), Ok(())) = (self.manners.get().broken, answer) {
            answer = Err(DeviceError::Failed { errno });
        }
        let buf = self.apply(op, at, &work, mark, answer.is_ok());
        self.exec.sleep_us(after_us).await;
        if self.power.get() != power {
            return slot.give(Err(DeviceError::Failed { errno: ENODEV }));
        }
        let gone = self.in_flight.borrow_mut().remove(&op);
        if let (Some(edge), false) = (&*self.edge.borrow(), matches!(work, Work::Read(_))) {
            let data = gone.as_ref().and_then(|state| state.write.as_ref()).map(|(_, data)| data);
            edge.ended(self.number, op, data, answer);
        }
        slot.give(answer.map(|()| buf));
        if self.in_flight.borrow().is_empty() {
            self.idle.wake_all();
        }
    }

    fn read(&self, at: usize, len: usize) -> IoBuf {
        let mut bytes = IoBuf::new(len);
        self.media.borrow().live().read(at, &mut bytes);
        bytes
    }

    /// The operation takes effect. A failed write does so by chance, unless the disk is broken.
    fn apply(&self, op: u64, at: usize, work: &Work, mark: u64, well: bool) -> Option<IoBuf> {
        let broken = self.manners.get().broken.is_some();
        match work {
            Work::Read(len) => well.then(|| self.read(at, *len)),
            Work::Write(data, fua) => {
                if well || (!broken && self.rng.borrow_mut().coin()) {
                    if let Some(edge) = &*self.edge.borrow() {
                        let media = self.media.borrow();
                        edge.applied(self.number, op, at as u64, data, &media.live().get(at, data.len()));
                    }
                    self.media.borrow_mut().write(at, data, *fua && well);
                }
                if let Some(state) = self.in_flight.borrow_mut().get_mut(&op) {
                    state.applied = true;
                }
                None
            }
            Work::Flush => {
                if well {
                    self.media.borrow_mut().flush(mark);
                }
                None
            }
        }
    }
}

#[derive(Default)]
struct Slot {
    answer: Cell<Option<Result<Option<IoBuf>, DeviceError>>>,
    done: WaitList,
}

impl Slot {
    fn give(&self, answer: Result<Option<IoBuf>, DeviceError>) {
        self.answer.set(Some(answer));
        self.done.wake_all();
    }
}

/// The trait is worn by a shared handle, as an operation outlives the call.
struct Handle(Rc<SimDisk>);

impl BlockDevice for Handle {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn read(&self, at: ByteOffset, mut into: IoBuf) -> IoFuture<IoBuf> {
        if let Err(refusal) = self.geometry().check(at, into.byte_len()) {
            return IoFuture::ready(Err(refusal));
        }
        let disk = Rc::clone(&self.0);
        let at = usize::try_from(at.0).expect("checked against the size");
        IoFuture::later(async move {
            let filled = disk.submit(at, Work::Read(into.len())).await?;
            into.copy_from_slice(&filled.expect("a read that went well has bytes"));
            Ok(into)
        })
    }

    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        if let Err(refusal) = self.geometry().check(at, from.byte_len()) {
            return IoFuture::ready(Err(refusal));
        }
        let disk = Rc::clone(&self.0);
        let at = usize::try_from(at.0).expect("checked against the size");
        let work = Work::Write(from, how == Durability::Fua);
        IoFuture::later(async move { disk.submit(at, work).await.map(|_| ()) })
    }

    fn flush(&self) -> IoFuture<()> {
        let disk = Rc::clone(&self.0);
        IoFuture::later(async move { disk.submit(0, Work::Flush).await.map(|_| ()) })
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        IoFuture::ready(self.geometry().check(at, len))
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, _may_unmap: bool) -> IoFuture<()> {
        if let Err(refusal) = self.geometry().check(at, len) {
            return IoFuture::ready(Err(refusal));
        }
        self.write(at, IoData::zeroes(usize::try_from(len.0).expect("fits memory")), how)
    }
}

#[cfg(test)]
mod test;
