//! A member disk: media behind a queue that answers late, out of order, wrongly or never, as its seed says.
//!
//! A process opens a disk and has it for itself. An operation waits in the process's [`Queue`] and belongs to the kernel
//! once it got a place there: it goes on when its future is dropped or its process is killed. It takes effect at a seeded moment between being received and being answered. The [`Edge`] hears of each of
//! the three; the checkers live there. Durability is [`Media`]'s. This file does *not* know arrays.

mod manners;
mod media;
mod queue;
mod sparse;

pub use manners::{EBUSY, EIO, ENODEV, ENOSPC, Happened, Lies, Manners, Model};
pub use media::{Fate as CutFate, Media, SECTOR};
pub use queue::{Lane, Queue};
pub use sparse::Sparse;

use crate::executor::{Executor, Process};
use crate::rng::Rng;
use block::wait::WaitList;
use block::{BlockDevice, DeviceError, Disk, Durability, Geometry, IoBuf, IoData, IoFuture};
use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use units::{ByteLen, ByteOffset};

/// Who listens at the disks' edge.
pub trait Edge {
    /// A write was handed to the kernel.
    fn received(&self, disk: usize, op: u64, at: u64, data: &IoData);
    /// A write is about to take effect; `before` is what stands there.
    fn applied(&self, disk: usize, op: u64, at: u64, data: &IoData, before: &[u8]);
    /// A write (place and data) or flush (none) ended. A failed write may or may not have taken effect.
    fn ended(&self, disk: usize, op: u64, write: Option<(u64, &IoData)>, answer: Result<(), DeviceError>);
}

/// Hears nothing.
pub struct Deaf;

impl Edge for Deaf {
    fn received(&self, _disk: usize, _op: u64, _at: u64, _data: &IoData) {}
    fn applied(&self, _disk: usize, _op: u64, _at: u64, _data: &IoData, _before: &[u8]) {}
    fn ended(&self, _disk: usize, _op: u64, _write: Option<(u64, &IoData)>, _answer: Result<(), DeviceError>) {}
}

/// One member disk. The machine keeps it; a thread that opens it has it for itself ([`SimDisk::open`]).
pub struct SimDisk {
    /// Which one.
    pub number: usize,
    /// How it behaves.
    pub manners: Cell<Manners>,
    /// Whether it lies.
    pub lies: Cell<Lies>,
    /// What was done to its users.
    pub happened: Cell<Happened>,
    model: Cell<Model>,
    exec: Executor,
    media: RefCell<Media>,
    rng: RefCell<Rng>,
    edge: RefCell<Option<Rc<dyn Edge>>>,
    power: Cell<u64>,
    next_op: Cell<u64>,
    in_flight: RefCell<BTreeMap<u64, InFlight>>,
    idle: WaitList,
    /// Sectors that cannot be read until they are written.
    bad: RefCell<BTreeSet<usize>>,
    flushing: Cell<u32>,
    flushed: WaitList,
    user: RefCell<Option<(Weak<Open>, Process)>>,
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
    Discard(usize),
    Flush,
}

impl Work {
    /// How many bytes go to or from the media.
    fn len(&self) -> usize {
        match self {
            Self::Read(len) => *len,
            Self::Write(data, _) => data.len(),
            Self::Discard(_) | Self::Flush => 0,
        }
    }
}

/// Four gigabytes a second: no faster than a good flash disk.
const BYTES_PER_US: u64 = 4096;

/// What becomes of an operation.
struct Fate {
    apply_us: u64,
    after_us: u64,
    answer: Result<(), DeviceError>,
    /// Where a write really goes; `None`: nowhere.
    lands: Option<usize>,
}

impl SimDisk {
    /// A disk of zeroes.
    #[must_use]
    pub fn new(number: usize, model: Model, exec: &Executor, rng: Rng) -> Rc<Self> {
        Rc::new(Self {
            number,
            manners: Cell::new(Manners::WELL),
            lies: Cell::default(),
            happened: Cell::default(),
            model: Cell::new(model),
            exec: exec.clone(),
            media: RefCell::new(Media::new(usize::try_from(model.len.0).expect("fits memory"))),
            rng: RefCell::new(rng),
            edge: RefCell::new(None),
            power: Cell::new(0),
            next_op: Cell::new(0),
            in_flight: RefCell::default(),
            idle: WaitList::default(),
            bad: RefCell::default(),
            flushing: Cell::new(0),
            flushed: WaitList::default(),
            user: RefCell::new(None),
        })
    }

    /// From now on `edge` hears everything.
    pub fn listen(&self, edge: Rc<dyn Edge>) {
        *self.edge.borrow_mut() = Some(edge);
    }

    /// From now on nobody hears anything.
    pub fn deafen(&self) {
        self.edge.replace(None);
    }

    /// As a disk for the code under test, in a process: nobody else has it until the process has let it go or died, and
    /// the kernel has nothing of it any more.
    ///
    /// # Errors
    /// EBUSY; ENODEV if the disk is not there.
    pub fn open(self: &Rc<Self>, process: &Process, queue: &Rc<Queue>) -> Result<Disk, DeviceError> {
        if self.manners.get().broken == Some(ENODEV) {
            return Err(DeviceError::Failed { errno: ENODEV });
        }
        if self.is_taken() {
            self.count(|happened| happened.busy += 1);
            return Err(DeviceError::Failed { errno: EBUSY });
        }
        let open = Rc::new(Open { disk: Rc::clone(self), process: process.clone(), queue: Rc::clone(queue) });
        *self.user.borrow_mut() = Some((Rc::downgrade(&open), process.clone()));
        Ok(Rc::new(Handle { open, lane: Lane::Data }))
    }

    fn is_taken(&self) -> bool {
        let holds = |(open, process): &(Weak<Open>, Process)| process.alive() && open.strong_count() > 0;
        !self.in_flight.borrow().is_empty() || self.user.borrow().as_ref().is_some_and(holds)
    }

    /// A sector cannot be read any more, until it is written.
    pub fn spoil(&self, sector: usize) {
        self.bad.borrow_mut().insert(sector);
    }

    /// How many sectors cannot be read.
    #[must_use]
    pub fn bad_sectors(&self) -> usize {
        self.bad.borrow().len()
    }

    /// A bit changes by itself.
    pub fn rot(&self, at: usize, bit: u8) {
        self.count(|happened| happened.rotten += 1);
        self.media.borrow_mut().flip(at, bit);
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
        self.flushing.set(0);
        self.flushed.wake_all();
        self.idle.wake_all();
    }

    /// Puts other content on the disk: a replacement, or an old copy. Its sectors are good.
    pub fn swap_media(&self, media: Media) {
        *self.media.borrow_mut() = media;
        self.bad.borrow_mut().clear();
    }

    fn geometry(&self) -> Geometry {
        let Model { len, block_bytes, discard } = self.model.get();
        Geometry { size: len, block_bytes, optimal_bytes: 4096, volatile_cache: true, discard }
    }

    fn count(&self, with: impl FnOnce(&mut Happened)) {
        let mut happened = self.happened.get();
        with(&mut happened);
        self.happened.set(happened);
    }

    fn fate(&self, at: usize, work: &Work) -> Fate {
        let (manners, lies, mut rng) = (self.manners.get(), self.lies.get(), self.rng.borrow_mut());
        if let Some(errno) = manners.broken {
            self.count(|happened| happened.broken += 1);
            let answer = Err(DeviceError::Failed { errno });
            return Fate { apply_us: rng.between(1, 50), after_us: 0, answer, lands: Some(at) };
        }
        let mut apply_us = rng.between(manners.fast_us, manners.slow_us) * manners.slower;
        apply_us += work.len() as u64 / BYTES_PER_US;
        if manners.slower >= 10 {
            self.count(|happened| happened.slow += 1);
        }
        if rng.chance(manners.hang) {
            self.count(|happened| happened.hangs += 1);
            apply_us += rng.below(manners.hang_ms * 1000 + 1);
        }
        if matches!(work, Work::Flush) && manners.flush_ms > 0 {
            apply_us += rng.below(manners.flush_ms * 1000 + 1);
        }
        let after_us = rng.below(manners.fast_us * manners.slower + 1);
        let read = matches!(work, Work::Read(_));
        let mut answer = Ok(());
        if rng.chance(if read { manners.eio_read } else { manners.eio_once }) {
            self.count(|happened| *(if read { &mut happened.eio_read } else { &mut happened.eio_once }) += 1);
            answer = Err(DeviceError::Failed { errno: EIO });
        }
        let mut lands = Some(at);
        if let (Work::Write(data, _), true) = (work, rng.chance(lies.misdirect)) {
            // A track beside it.
            lands = Some((at + 64 * 1024) % (self.media.borrow().live().size() - data.len()) / 4096 * 4096);
        } else if rng.chance(lies.forget) {
            lands = None;
        }
        Fate { apply_us, after_us, answer, lands }
    }

    /// The kernel's part: it knows the power and nothing of processes.
    async fn kernel(self: Rc<Self>, op: u64, at: usize, work: Work, slot: Rc<Slot>) {
        let power = self.power.get();
        let gone = || self.power.get() != power;
        if self.flushing.get() > 0 {
            self.count(|happened| happened.behind_flush += 1);
        }
        while self.flushing.get() > 0 && !gone() {
            self.flushed.wait().await;
        }
        let Fate { apply_us, after_us, mut answer, lands } = self.fate(at, &work);
        let mark = self.media.borrow().mark();
        let blocks = matches!(work, Work::Flush) && self.manners.get().flush_ms > 0;
        self.flushing.set(self.flushing.get() + u32::from(blocks));
        self.exec.sleep_us(apply_us).await;
        if blocks && !gone() {
            self.flushing.set(self.flushing.get() - 1);
            self.flushed.wake_all();
        }
        if gone() {
            return slot.give(Err(DeviceError::Failed { errno: ENODEV }));
        }
        answer = answer.and_then(|()| self.condition(at, &work));
        let buf = self.apply(op, at, lands, &work, mark, answer.is_ok());
        self.exec.sleep_us(after_us).await;
        if gone() {
            return slot.give(Err(DeviceError::Failed { errno: ENODEV }));
        }
        let gone = self.in_flight.borrow_mut().remove(&op);
        if let (Some(edge), false) = (&*self.edge.borrow(), matches!(work, Work::Read(_))) {
            let data = gone.as_ref().and_then(|state| state.write.as_ref()).map(|(at, data)| (*at as u64, data));
            edge.ended(self.number, op, data, answer);
        }
        slot.give(answer.map(|()| buf));
        if self.in_flight.borrow().is_empty() {
            self.idle.wake_all();
        }
    }

    /// What the disk's state makes of an operation at the moment it takes effect.
    fn condition(&self, at: usize, work: &Work) -> Result<(), DeviceError> {
        let manners = self.manners.get();
        if let Some(errno) = manners.broken {
            return Err(DeviceError::Failed { errno });
        }
        let mut bad = self.bad.borrow_mut();
        let hit: Vec<usize> = bad.range(at / SECTOR..(at + work.len()).div_ceil(SECTOR)).copied().collect();
        if hit.is_empty() {
            return Ok(());
        }
        if matches!(work, Work::Write(..)) && !manners.worn {
            self.count(|happened| happened.replaced += hit.len() as u64);
            bad.retain(|sector| !hit.contains(sector));
            return Ok(());
        }
        self.count(|happened| happened.bad_reads += 1);
        Err(DeviceError::Failed { errno: EIO })
    }

    fn read(&self, at: usize, len: usize) -> IoBuf {
        let mut bytes = IoBuf::new(len);
        self.media.borrow().live().read(at, &mut bytes);
        bytes
    }

    /// The operation takes effect. A failed write does so by chance, unless the disk is broken.
    fn apply(&self, op: u64, at: usize, lands: Option<usize>, work: &Work, mark: u64, well: bool) -> Option<IoBuf> {
        let broken = self.manners.get().broken.is_some();
        match work {
            Work::Read(len) => return well.then(|| self.read(at, *len)),
            Work::Write(data, fua) => {
                if lands != Some(at) {
                    self.count(|happened| happened.lies += 1);
                    lands.into_iter().for_each(|place| self.media.borrow_mut().write(place, data, false));
                } else if well || (!broken && self.rng.borrow_mut().coin()) {
                    if let Some(edge) = &*self.edge.borrow() {
                        let media = self.media.borrow();
                        edge.applied(self.number, op, at as u64, data, &media.live().get(at, data.len()));
                    }
                    self.media.borrow_mut().write(at, data, *fua && well);
                }
                if let Some(state) = self.in_flight.borrow_mut().get_mut(&op) {
                    state.applied = true;
                }
            }
            Work::Discard(len) if well => self.discard(at, *len),
            Work::Flush if well => self.media.borrow_mut().flush(mark),
            Work::Discard(_) | Work::Flush => {}
        }
        None
    }

    /// Per page what was there, zeroes, or something else.
    fn discard(&self, at: usize, len: usize) {
        const PAGE: usize = 4096;
        let (mut media, mut rng) = (self.media.borrow_mut(), self.rng.borrow_mut());
        for place in (at.next_multiple_of(PAGE)..(at + len) / PAGE * PAGE).step_by(PAGE) {
            match rng.below(3) {
                0 => {}
                1 => media.write(place, &IoData::zeroes(PAGE), false),
                _ => media.write(place, &IoBuf::copy_of(&[0xdd; PAGE]).freeze(), false),
            }
        }
    }
}

#[derive(Default)]
struct Slot {
    answer: Cell<Option<Result<Option<IoBuf>, DeviceError>>>,
    given: Cell<bool>,
    done: WaitList,
}

impl Slot {
    fn give(&self, answer: Result<Option<IoBuf>, DeviceError>) {
        self.answer.set(Some(answer));
        self.given.set(true);
        self.done.wake_all();
    }

    /// Waits until there is an answer, without fetching it.
    async fn heard(&self) {
        while !self.given.get() {
            self.done.wait().await;
        }
    }
}

/// A disk that a process has for itself.
struct Open {
    disk: Rc<SimDisk>,
    process: Process,
    queue: Rc<Queue>,
}

/// The trait is worn by a shared handle, as an operation outlives the call.
struct Handle {
    open: Rc<Open>,
    lane: Lane,
}

impl Open {
    async fn submit(self: Rc<Self>, lane: Lane, at: usize, work: Work) -> Result<Option<IoBuf>, DeviceError> {
        let slot = Rc::new(Slot::default());
        let (open, its_slot) = (Rc::clone(&self), Rc::clone(&slot));
        // The process's part goes on when the future is dropped, and ends with the process.
        self.process.go(async move { open.hand_over(lane, at, work, its_slot).await });
        loop {
            if let Some(answer) = slot.answer.take() {
                return answer;
            }
            slot.done.wait().await;
        }
    }

    /// Waits for a place in the kernel, and keeps it until the kernel is done.
    async fn hand_over(self: Rc<Self>, lane: Lane, at: usize, work: Work, slot: Rc<Slot>) {
        let disk = &self.disk;
        if self.queue.is_full(disk.number, lane) {
            disk.count(|happened| happened.queued += 1);
        }
        let _place = self.queue.enter(disk.number, lane).await;
        let op = disk.next_op.get();
        disk.next_op.set(op + 1);
        let write = if let Work::Write(data, _) = &work { Some((at, data.clone())) } else { None };
        if let (Some((_, data)), Some(edge)) = (&write, &*disk.edge.borrow()) {
            edge.received(disk.number, op, at as u64, data);
        }
        disk.in_flight.borrow_mut().insert(op, InFlight { write, applied: false });
        disk.exec.machine().go(Rc::clone(disk).kernel(op, at, work, Rc::clone(&slot)));
        slot.heard().await;
    }
}

impl Handle {
    fn submit(&self, at: ByteOffset, len: ByteLen, work: Work) -> IoFuture<()> {
        if let Err(refusal) = self.geometry().check(at, len) {
            return IoFuture::ready(Err(refusal));
        }
        let (open, lane) = (Rc::clone(&self.open), self.lane);
        let at = usize::try_from(at.0).expect("checked against the size");
        IoFuture::later(async move { open.submit(lane, at, work).await.map(|_| ()) })
    }
}

impl BlockDevice for Handle {
    fn geometry(&self) -> Geometry {
        self.open.disk.geometry()
    }

    fn for_metadata(&self) -> Option<Disk> {
        Some(Rc::new(Self { open: Rc::clone(&self.open), lane: Lane::Metadata }))
    }

    fn read(&self, at: ByteOffset, mut into: IoBuf) -> IoFuture<IoBuf> {
        if let Err(refusal) = self.geometry().check(at, into.byte_len()) {
            return IoFuture::ready(Err(refusal));
        }
        let (open, lane) = (Rc::clone(&self.open), self.lane);
        let at = usize::try_from(at.0).expect("checked against the size");
        IoFuture::later(async move {
            let filled = open.submit(lane, at, Work::Read(into.len())).await?;
            into.copy_from_slice(&filled.expect("a read that went well has bytes"));
            Ok(into)
        })
    }

    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        self.submit(at, from.byte_len(), Work::Write(from, how == Durability::Fua))
    }

    fn flush(&self) -> IoFuture<()> {
        let open = Rc::clone(&self.open);
        IoFuture::later(async move { open.submit(Lane::Flush, 0, Work::Flush).await.map(|_| ()) })
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        match self.geometry().check(at, len) {
            Ok(()) if self.geometry().discard => {
                let bytes = usize::try_from(len.0).expect("checked against the size");
                self.submit(at, len, Work::Discard(bytes))
            }
            answer => IoFuture::ready(answer),
        }
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
