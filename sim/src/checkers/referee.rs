//! The one who hears everything and asks every checker.

use super::epochs_grow::EpochsGrow;
use super::fail_stop::{FailStop, Standing};
use super::history::{History, Op, Outcome, Stamp, WriteId, stamps};
use super::metadata_order;
use super::no_lost_ack::NoLostAck;
use super::no_stale_member::{Area, NoStaleMember};
use super::single_writer::SingleWriter;
use super::{Invariant, Tick, Verdict, Violation};
use crate::disk::{Edge, Media, SECTOR, SimDisk, Sparse};
use crate::executor::Executor;
use block::{DeviceError, IoData};
use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};
use units::{Epoch, Incarnation};

/// What the running target says of itself, asked at the moment it matters.
pub trait Witness {
    /// Which disks the array uses as in sync; `None` while no target runs.
    fn in_sync(&self) -> Option<Vec<bool>>;
    /// Whether every other member in sync says durably that `disk` failed.
    fn recorded_failed(&self, disk: usize) -> bool;
    /// Where the data begins on each disk.
    fn data_offset(&self) -> u64;
}

/// All checkers and what they lean on.
pub struct Referee {
    exec: Executor,
    /// Tells whoever replays a seed what the disks see.
    pub verbose: Cell<bool>,
    disks: RefCell<Vec<Weak<SimDisk>>>,
    witness: RefCell<Option<Rc<dyn Witness>>>,
    tick: Cell<u64>,
    /// The last power cut: what was volatile then is no business of a later flush.
    cut: Cell<Tick>,
    history: RefCell<History>,
    /// Operations in flight, by disk and number, that wrote what stood elsewhere when the disk got them.
    copies: RefCell<BTreeSet<(usize, u64)>>,
    violations: RefCell<Vec<Violation>>,
    single_writer: RefCell<SingleWriter>,
    no_lost_ack: RefCell<NoLostAck>,
    no_stale_member: RefCell<NoStaleMember>,
    fail_stop: RefCell<FailStop>,
    epochs_grow: RefCell<EpochsGrow>,
}

/// What clients may expect at one moment, kept apart from the world it comes from.
#[derive(Clone)]
pub struct Frozen {
    history: History,
    registers: NoLostAck,
    tick: u64,
}

impl Frozen {
    /// A number that differs where clients may expect something else.
    #[must_use]
    pub fn stage(&self) -> u64 {
        let known = |op: &Op| u64::from(op.acked().is_some()) | u64::from(op.durable.is_some()) << 1;
        self.history.all().fold(1, |stage, op| stage << 2 ^ stage >> 61 ^ known(op))
    }

    /// What they may expect once the power is back.
    #[must_use]
    pub fn after_power_cut(&self) -> Self {
        let mut after = self.clone();
        let now = Some(after.begins());
        for (_, op) in after.history.all_mut() {
            op.ended = op.ended.or(now);
        }
        after.registers.power_cut(&after.history);
        after
    }

    /// The next tick.
    pub fn begins(&mut self) -> Tick {
        self.tick += 1;
        Tick(self.tick)
    }

    /// Judges a read.
    ///
    /// # Errors
    /// What was wrong with it.
    pub fn read(&mut self, began: Tick, sector: u32, bytes: &[u8]) -> Result<(), String> {
        let now = self.begins();
        self.registers.read(began, now, sector, bytes, &self.history).map_err(|(_, detail)| detail)
    }
}

/// What a write of a client is before it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Which host.
    pub host: u8,
    /// Of its attachment.
    pub epoch: Epoch,
    /// Of its attachment.
    pub incarnation: Incarnation,
    /// First sector.
    pub sector: u32,
    /// How many.
    pub sectors: u32,
    /// With FUA.
    pub fua: bool,
    /// It makes zeroes of the sectors.
    pub zeroes: bool,
}

impl Referee {
    /// A referee for the disks and clients of one world.
    #[must_use]
    pub fn new(exec: &Executor) -> Rc<Self> {
        Rc::new(Self {
            exec: exec.clone(),
            verbose: Cell::new(false),
            disks: RefCell::default(),
            witness: RefCell::new(None),
            tick: Cell::new(0),
            cut: Cell::default(),
            history: RefCell::default(),
            copies: RefCell::default(),
            violations: RefCell::default(),
            single_writer: RefCell::default(),
            no_lost_ack: RefCell::default(),
            no_stale_member: RefCell::default(),
            fail_stop: RefCell::default(),
            epochs_grow: RefCell::default(),
        })
    }

    /// Listens at these disks.
    pub fn watch(self: &Rc<Self>, disks: &[Rc<SimDisk>]) {
        *self.disks.borrow_mut() = disks.iter().map(Rc::downgrade).collect();
        disks.iter().for_each(|disk| disk.listen(Rc::<Self>::clone(self)));
    }

    /// From now on this target runs, or none does.
    pub fn target(&self, witness: Option<Rc<dyn Witness>>) {
        *self.witness.borrow_mut() = witness;
    }

    /// What was found, in order.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.borrow().clone()
    }

    /// Whether something was found.
    #[must_use]
    pub fn unhappy(&self) -> bool {
        !self.violations.borrow().is_empty()
    }

    /// How many writes were made.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.history.borrow().len()
    }

    /// Notes what somebody else found.
    pub fn note(&self, invariant: Invariant, detail: String) {
        self.judge(Err((invariant, detail)));
    }

    /// What clients may expect now.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        let (history, registers) = (self.history.borrow().clone(), self.no_lost_ack.borrow().clone());
        Frozen { history, registers, tick: self.tick.get() }
    }

    fn judge(&self, verdict: Verdict) {
        if let Err((invariant, detail)) = verdict {
            self.violations.borrow_mut().push(Violation { invariant, detail, at_us: self.exec.now_us() });
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose.get() {
            println!("{:>10} us      {}", self.exec.now_us(), what());
        }
    }

    fn tick(&self) -> Tick {
        self.tick.set(self.tick.get() + 1);
        Tick(self.tick.get())
    }

    // ---- what clients ask and are told ----

    /// A client asks for a write.
    pub fn write_begins(&self, ask: Ask) -> WriteId {
        let op = Op {
            host: ask.host,
            epoch: ask.epoch,
            incarnation: ask.incarnation,
            sector: ask.sector,
            sectors: ask.sectors,
            fua: ask.fua,
            zeroes: ask.zeroes,
            invoked: self.tick(),
            told: None,
            ended: None,
            durable: None,
        };
        let write = self.history.borrow_mut().begin(op);
        self.no_lost_ack.borrow_mut().begin(write, &op);
        self.no_stale_member.borrow_mut().begin(write, ask.sector, ask.sectors);
        write
    }

    /// A client sends a write once more, on a path of this epoch and incarnation.
    pub fn write_again(&self, write: WriteId, epoch: Epoch, incarnation: Incarnation) {
        let mut history = self.history.borrow_mut();
        let op = history.op_mut(write);
        (op.epoch, op.incarnation) = (epoch, incarnation);
    }

    /// A client is told how its write went. `ended`: nothing of it goes on (false when the session died).
    pub fn write_told(&self, write: WriteId, outcome: Outcome, ended: bool) {
        let now = self.tick();
        self.exec.fold(u64::from(write.0) << 2 | outcome as u64);
        {
            let mut history = self.history.borrow_mut();
            let op = history.op_mut(write);
            op.told = Some((now, outcome));
            op.ended = op.ended.or(ended.then_some(now));
            if op.fua && outcome == Outcome::Acked {
                op.durable = Some(now);
            }
        }
        let history = self.history.borrow();
        match outcome {
            Outcome::Acked => {
                self.no_lost_ack.borrow_mut().acked(write, now, &history);
                self.judge(self.fail_stop.borrow().acked(write, |disk| self.standing(disk), &history));
            }
            Outcome::Refused => self.no_lost_ack.borrow_mut().refused(write, &history),
            Outcome::Unknown => {}
        }
    }

    /// A client asks for a flush or a read: the tick to give back with the answer.
    pub fn begins(&self) -> Tick {
        self.tick()
    }

    /// A client is told that its flush is done: what was answered before it began is durable.
    pub fn flush_done(&self, began: Tick) {
        let now = self.tick();
        self.exec.fold(now.0);
        let since = self.cut.get();
        for op in self.history.borrow_mut().acked_after(since) {
            if op.durable.is_none() && op.acked().is_some_and(|acked| acked > since && acked < began) {
                op.durable = Some(now);
            }
        }
        self.judge(self.fail_stop.borrow().flushed(began, |disk| self.standing(disk)));
    }

    /// A client is given `bytes` for its read.
    pub fn read_done(&self, began: Tick, sector: u32, bytes: &[u8]) {
        let now = self.tick();
        self.exec.fold(now.0);
        let verdict = self.no_lost_ack.borrow_mut().read(began, now, sector, bytes, &self.history.borrow());
        self.judge(verdict);
    }

    // ---- what the gate promises ----

    /// Somebody asks for a raise to `epoch`.
    pub fn raise_asked(&self, epoch: Epoch) {
        self.single_writer.borrow_mut().raise_asked(epoch);
    }

    /// The fence for `epoch` is acknowledged: nothing older may be in flight any more.
    pub fn fenced(&self, epoch: Epoch) {
        self.exec.fold(epoch.0);
        self.single_writer.borrow_mut().fenced(epoch);
        self.epochs_grow.borrow_mut().raised(epoch);
        self.look_in_flight();
    }

    /// An attach is answered. `blind`: a member is missing and no floor is known.
    pub fn attached(&self, host: u8, epoch: Epoch, incarnation: Incarnation, blind: bool) {
        self.exec.fold(incarnation.0);
        self.single_writer.borrow_mut().admitted(host, epoch, incarnation);
        let verdict = self.epochs_grow.borrow_mut().attached(host, epoch, incarnation, blind);
        self.judge(verdict);
        self.look_in_flight();
    }

    /// The gate says which epoch the volume is at.
    pub fn stands_at(&self, epoch: Epoch) {
        self.judge(self.epochs_grow.borrow().stands_at(epoch));
    }

    // ---- what happens to the box ----

    /// A successor took over: nothing of the killed target is in flight any more.
    pub fn target_starts(&self) {
        let now = self.tick();
        for (_, op) in self.history.borrow_mut().all_mut() {
            op.ended = op.ended.or(Some(now));
        }
        self.fail_stop.borrow_mut().forget(None);
    }

    /// The power went.
    pub fn power_cut(&self) {
        let now = self.tick();
        for (_, op) in self.history.borrow_mut().all_mut() {
            op.ended = op.ended.or(Some(now));
        }
        self.no_lost_ack.borrow_mut().power_cut(&self.history.borrow());
        self.no_stale_member.borrow_mut().power_cut(now);
        self.cut.set(now);
    }

    /// An operator puts a disk (back) into the array.
    pub fn disk_added(&self, disk: usize) {
        self.fail_stop.borrow_mut().forget(Some(disk));
    }

    /// Nothing is to be resynced: compares the members in sync. `all`: and nothing is in flight anywhere.
    pub fn compare(&self, all: bool) {
        let Some(witness) = self.witness.borrow().clone() else {
            return;
        };
        let Some(in_sync) = witness.in_sync() else {
            return;
        };
        let offset = usize::try_from(witness.data_offset()).expect("fits memory");
        let len = self.data_len();
        let disks: Vec<_> = self.disks.borrow().iter().filter_map(Weak::upgrade).collect();
        let used: Vec<_> = disks.iter().filter(|disk| in_sync.get(disk.number) == Some(&true)).collect();
        let media: Vec<_> = used.iter().map(|disk| (disk.number, disk.media())).collect();
        let area = |(disk, media): &(usize, Ref<'_, Media>)| -> (usize, Sparse) { (*disk, media.live().clone()) };
        let contents: Vec<_> = media.iter().map(area).collect();
        let areas: Vec<_> =
            contents.iter().map(|(disk, content)| Area { disk: *disk, content, start: offset, len }).collect();
        let busy = |sector: u32| used.iter().any(|disk| disk.busy_at(offset / SECTOR + sector as usize));
        self.judge(self.no_stale_member.borrow().equal(&areas, all, busy, &self.history.borrow()));
    }

    fn superblock_applied(&self, disk: usize, data: &[u8]) -> Verdict {
        let disks = self.disks.borrow();
        match disks.iter().filter_map(Weak::upgrade).find(|other| other.number == disk) {
            Some(disk) => metadata_order::superblock(disk.number, data, disk.media().durable()),
            None => Ok(()),
        }
    }

    fn data_len(&self) -> usize {
        let last = self.no_lost_ack.borrow().sectors().max().unwrap_or(0);
        (last as usize + 1) * SECTOR
    }

    fn standing(&self, disk: usize) -> Option<Standing> {
        let witness = self.witness.borrow().clone()?;
        let in_sync = witness.in_sync()?;
        if in_sync.iter().filter(|in_sync| **in_sync).count() == 1 && in_sync.get(disk) == Some(&true) {
            return None; // The last member is never failed: its error goes up instead.
        }
        let in_sync = in_sync.get(disk).copied().unwrap_or(false);
        Some(Standing { in_sync, recorded_failed: witness.recorded_failed(disk) })
    }

    /// Whether the array uses `disk` for what must be safe.
    fn used(&self, disk: usize) -> bool {
        let witness = self.witness.borrow().clone();
        let in_sync = witness.and_then(|witness| witness.in_sync());
        in_sync.is_none_or(|in_sync| in_sync.get(disk).copied().unwrap_or(false))
    }

    /// Whether `stamp` stands at `at` on a disk other than `disk`, or on that one already.
    fn stands(&self, at: usize, sector: &[u8]) -> bool {
        let disks = self.disks.borrow();
        disks.iter().filter_map(Weak::upgrade).any(|disk| disk.media().live().get(at, SECTOR) == sector)
    }

    /// Whether everything a disk is given stands on another one, or on it, already: what a resync or a write-back copies.
    fn is_copy(&self, at: usize, data: &[u8]) -> bool {
        stamps(data).all(|(inner, _)| self.stands(at + inner, &data[inner..inner + SECTOR]))
    }

    fn arrives(&self, disk: usize, data: &[u8], copy: bool) {
        for (_, stamp) in stamps(data) {
            self.judge(self.single_writer.borrow().arrives(disk, stamp, copy, &self.history.borrow()));
        }
    }

    fn look_in_flight(&self) {
        let disks: Vec<_> = self.disks.borrow().iter().filter_map(Weak::upgrade).collect();
        for disk in disks.iter().filter(|disk| self.used(disk.number)) {
            disk.each_in_flight(|op, _, data, applied| {
                if !applied {
                    self.arrives(disk.number, data, self.copies.borrow().contains(&(disk.number, op)));
                }
            });
        }
    }
}

/// Which writes the bytes are of.
fn brief(data: &IoData) -> String {
    let mut writes: Vec<u32> = stamps(data).map(|(_, stamp)| stamp.write.0).collect();
    writes.dedup();
    if writes.is_empty() { format!("{} bytes", data.len()) } else { format!("writes {writes:?}") }
}

impl Edge for Referee {
    fn received(&self, disk: usize, op: u64, at: u64, data: &IoData) {
        self.exec.fold(op << 8 | disk as u64);
        if Stamp::of(&data[..SECTOR]).is_none() && stamps(data).next().is_none() {
            return;
        }
        self.judge(self.fail_stop.borrow().received(disk, data));
        let copy = self.is_copy(usize::try_from(at).expect("fits memory"), data);
        if copy {
            self.copies.borrow_mut().insert((disk, op));
        }
        if self.used(disk) {
            self.arrives(disk, data, copy);
        }
    }

    fn applied(&self, disk: usize, op: u64, at: u64, data: &IoData, before: &[u8]) {
        self.say(|| format!("disk {disk}: {} at {at} applied", brief(data)));
        self.exec.fold(op << 8 | 0x80 | disk as u64);
        if at == block::raid::superblock::SUPERBLOCK_AT.0 {
            self.judge(self.superblock_applied(disk, data));
        }
        self.judge(self.no_stale_member.borrow().applied(disk, data, before, &self.history.borrow()));
    }

    fn ended(&self, disk: usize, op: u64, write: Option<(u64, &IoData)>, answer: Result<(), DeviceError>) {
        self.exec.fold(op << 8 | 0xc0 | disk as u64);
        let data = write.map(|(_, data)| data);
        self.say(|| format!("disk {disk}: {} ended: {answer:?}", data.map_or("flush".to_owned(), brief)));
        self.copies.borrow_mut().remove(&(disk, op));
        if answer.is_err() {
            let now = self.tick();
            self.fail_stop.borrow_mut().failed(disk, data.map(|data| &**data), now);
        }
    }
}
