//! The running array: who its members are and what is known of them. Decisions about members happen here, in memory,
//! at once; `meta.rs` makes them durable, and who must not go on before that waits in [`Inner::settle`].
//!
//! Invariants: the last member in sync is never failed; a decision is answered only when every live member has it.

use super::bitmap::Bitmap;
use super::chunks::ChunkSet;
use super::facts::Records;
use super::leg::{Leg, Standing};
use super::superblock::{ArrayName, Role};
use super::watchdog::Pulse;
use super::witness::Watch;
use crate::device::{DeviceError, Geometry};
use crate::runtime::Rt;
use crate::wait::WaitList;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use units::{ArrayId, ByteLen, ByteOffset, Moment, Sectors, VolumeId};

/// What never changes while an array runs.
pub(super) struct Shape {
    pub id: ArrayId,
    pub name: ArrayName,
    pub created: u64,
    pub size: Sectors,
    pub chunk_bytes: u64,
    /// Its blocks: all members' blocks are as small. What is here now does not change them (DA9).
    pub block_bytes: u32,
    /// Wall-clock seconds at `since`, for the superblock's update time.
    pub unix_seconds: u64,
    pub since: Moment,
}

/// What changes, always between two awaits.
pub(super) struct Board {
    pub legs: Vec<Option<Rc<Leg>>>,
    pub roles: Vec<Role>,
    pub events: u64,
    pub clean: bool,
    pub bitmap: Option<Bitmap>,
    pub uses: HashMap<usize, ChunkUse>,
    pub records: Records,
    /// What members held at the start, where nothing was stored since.
    pub found: HashMap<VolumeId, Vec<Vec<u8>>>,
    pub facts_sequence: u64,
    /// Every slot's facts were read, or every slot has been in sync since.
    pub complete: bool,
    pub superblock_dirty: bool,
    pub facts_dirty: bool,
    pub outsiders: Vec<(String, String)>,
    /// Members that were active at the start and have not been here since: number, slot.
    pub missing: Vec<(u32, usize)>,
}

/// Writes of one bitmap chunk.
#[derive(Clone, Copy, Default)]
pub(super) struct ChunkUse {
    pub in_flight: u32,
    pub last_write: u64,
    pub last_end: Moment,
}

/// How far decisions are durable: generations that only grow.
#[derive(Default)]
pub(super) struct Progress {
    pub wanted: Cell<u64>,
    pub settled: Cell<u64>,
    /// Nothing is answered before this generation is settled: a member's failure.
    pub answers_need: Cell<u64>,
    /// No data is written before this generation is settled: the array's being active.
    pub writes_need: Cell<u64>,
    pub running: Cell<bool>,
    pub changed: WaitList,
}

/// Ranges of the array: application writes in flight, and windows that a resync copies.
#[derive(Default)]
pub(super) struct Ranges {
    pub writes: RefCell<Vec<Option<(u64, u64)>>>,
    pub free: RefCell<Vec<usize>>,
    pub windows: RefCell<Vec<(u64, u64)>>,
    pub begun: Cell<u64>,
    /// Application reads under way.
    pub reading: Cell<u32>,
    pub window_closed: WaitList,
    pub write_ended: WaitList,
}

/// What a resync has done, for people.
#[derive(Default)]
pub(super) struct ResyncState {
    pub running: Cell<bool>,
    pub cancel: Cell<bool>,
    pub started: Cell<Moment>,
    pub copied_bytes: Cell<u64>,
    /// A chunk that an application read while members may differ in it: it is copied next.
    pub asked: Cell<Option<usize>>,
    /// While applications work: when the next window may begin.
    pub paced: Cell<Moment>,
    pub blocked: RefCell<Option<String>>,
    pub ended: WaitList,
}

pub(super) struct Inner {
    pub rt: Rt,
    pub shape: Shape,
    pub board: RefCell<Board>,
    pub progress: Progress,
    pub ranges: Ranges,
    pub resync: ResyncState,
    pub tidying: Cell<bool>,
    pub closed: Cell<bool>,
    /// Woken when it closes: who waits for a while need not wait it out.
    pub closing: WaitList,
    /// The error of the last member: no write is answered with success any more.
    pub broken: Cell<Option<DeviceError>>,
    pub geometry: Cell<Geometry>,
    pub watch: Watch,
    pub pulse: Pulse,
    /// When records alone may be written again ([`super::records`]).
    pub records_due: Cell<Moment>,
    /// Members whose slot another one has, with operations that still run on them.
    pub ghosts: RefCell<Vec<Rc<Leg>>>,
}

/// The last member in sync: it is not failed.
pub(super) struct LastOne;

impl Inner {
    pub fn new(rt: &Rt, shape: Shape, board: Board) -> Rc<Self> {
        let geometry = Geometry {
            size: ByteLen(shape.size.bytes()),
            block_bytes: shape.block_bytes,
            optimal_bytes: 4096,
            volatile_cache: false,
            discard: true,
        };
        let inner = Rc::new(Self {
            rt: Rc::clone(rt),
            shape,
            board: RefCell::new(board),
            progress: Progress::default(),
            ranges: Ranges::default(),
            resync: ResyncState::default(),
            tidying: Cell::new(false),
            closed: Cell::new(false),
            closing: WaitList::default(),
            broken: Cell::new(None),
            geometry: Cell::new(geometry),
            watch: Watch::default(),
            pulse: Pulse::default(),
            records_due: Cell::default(),
            ghosts: RefCell::default(),
        });
        inner.measure();
        inner
    }

    /// The geometry that all members can keep.
    pub fn measure(&self) {
        let mut all = self.geometry.get();
        all.volatile_cache = false;
        for leg in self.live() {
            let Some(one) = leg.geometry() else { continue };
            assert!(one.block_bytes <= all.block_bytes, "larger blocks are refused");
            all.optimal_bytes = all.optimal_bytes.max(one.optimal_bytes);
            all.volatile_cache |= one.volatile_cache;
            all.discard &= one.discard;
        }
        // A stock array may end within a block of its members: that rest is never served nor copied.
        all.size = ByteLen(self.shape.size.bytes() / u64::from(all.block_bytes) * u64::from(all.block_bytes));
        self.geometry.set(all);
    }

    /// Members that get writes.
    pub fn live(&self) -> Vec<Rc<Leg>> {
        self.board.borrow().legs.iter().flatten().filter(|leg| leg.is_live()).map(Rc::clone).collect()
    }

    /// Members that hold everything.
    pub fn in_sync(&self) -> Vec<Rc<Leg>> {
        self.board.borrow().legs.iter().flatten().filter(|leg| leg.is_in_sync()).map(Rc::clone).collect()
    }

    pub fn chunk_count(&self) -> usize {
        super::bitmap::chunk_count(ByteLen(self.shape.size.bytes()), self.shape.chunk_bytes)
    }

    pub fn chunks_of(&self, at: ByteOffset, len: ByteLen) -> std::ops::Range<usize> {
        super::bitmap::chunks_of(at, len, self.shape.chunk_bytes)
    }

    /// The superblocks have to be written; returns the generation to wait for.
    pub fn touch_superblocks(self: &Rc<Self>) -> u64 {
        self.board.borrow_mut().superblock_dirty = true;
        self.touch()
    }

    /// Something has to be written; returns the generation to wait for.
    pub fn touch(self: &Rc<Self>) -> u64 {
        let wanted = self.progress.wanted.get() + 1;
        self.progress.wanted.set(wanted);
        if !self.progress.running.replace(true) {
            self.rt.spawn(Box::pin(super::meta::write_all(Rc::clone(self))));
        }
        wanted
    }

    /// Waits until everything up to `generation` is on every live member.
    pub async fn settle(&self, generation: u64) -> Result<(), DeviceError> {
        loop {
            if self.progress.settled.get() >= generation {
                return Ok(());
            }
            if let Some(error) = self.broken.get() {
                return Err(error);
            }
            self.progress.changed.wait().await;
        }
    }

    /// Waits until no unrecorded failure of a member stands before an answer (I6, I11).
    pub async fn may_answer(&self) -> Result<(), DeviceError> {
        if units::sabotage::planted(units::sabotage::Bug::DegradedAckFirst) {
            return Ok(());
        }
        self.settle(self.progress.answers_need.get()).await
    }

    /// No success is answered any more: the last member failed a write, a flush or its superblock.
    pub fn become_broken(&self, error: DeviceError) {
        self.broken.set(Some(self.broken.get().unwrap_or(error)));
        self.progress.changed.wake_all();
    }

    /// Fails a member for good: at once for everybody who decides, durably before anything is answered.
    pub fn fail(self: &Rc<Self>, leg: &Rc<Leg>, cause: &str) -> Result<(), LastOne> {
        match leg.standing() {
            Standing::Faulty => return Ok(()),
            Standing::InSync if self.in_sync().len() == 1 => return Err(LastOne),
            Standing::InSync | Standing::Recovering => {}
        }
        self.board.borrow_mut().roles[leg.number as usize] = Role::Faulty;
        leg.become_faulty(cause.to_owned());
        self.promote_source();
        let generation = self.touch_superblocks();
        self.progress.answers_need.set(generation);
        Ok(())
    }

    /// After a crash the members in sync may differ in some chunks, and one of them is the source that is read. If it
    /// goes, the next one is: any of them holds a state that a crash may leave.
    pub fn promote_source(&self) {
        let legs = self.in_sync();
        let Some(first) = legs.first().filter(|_| legs.iter().all(|leg| !leg.todo.borrow().is_empty())) else {
            return;
        };
        let todo = std::mem::replace(&mut *first.todo.borrow_mut(), ChunkSet::empty(self.chunk_count()));
        legs.iter().skip(1).for_each(|leg| leg.todo.borrow_mut().add_all(&todo));
    }

    /// Whether every slot is in sync and no chunk waits for a copy.
    pub fn is_whole(&self) -> bool {
        self.board
            .borrow()
            .legs
            .iter()
            .all(|leg| leg.as_ref().is_some_and(|leg| leg.is_in_sync() && leg.todo.borrow().is_empty()))
    }
}
