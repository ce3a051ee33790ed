//! Freezes the world at every event of its disks and of the box's memory.

use super::state::Moment;
use crate::checkers::Frozen;
use crate::disk::{Edge, SimDisk};
use crate::memory::BoxMemory;
use block::raid::Array;
use block::{DeviceError, IoData};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Listens at the disks and at the memory.
pub struct Recorder {
    /// Hears everything as well.
    edge: Rc<dyn Edge>,
    expected: Box<dyn Fn() -> Frozen>,
    disks: RefCell<Vec<Rc<SimDisk>>>,
    memory: Rc<BoxMemory>,
    /// The running array.
    pub array: RefCell<Option<Rc<Array>>>,
    /// The highest epoch that was granted.
    pub granted: Cell<u64>,
    moments: RefCell<Vec<Moment>>,
    events: Cell<u64>,
    /// Of so many events one is frozen.
    pub every: Cell<u64>,
    /// So many at most.
    pub most: Cell<usize>,
    /// Whether anything is frozen.
    pub on: Cell<bool>,
}

impl Recorder {
    /// A recorder of these disks, switched off.
    pub fn new(
        disks: &[Rc<SimDisk>],
        memory: &Rc<BoxMemory>,
        edge: Rc<dyn Edge>,
        expected: impl Fn() -> Frozen + 'static,
    ) -> Rc<Self> {
        let recorder = Rc::new(Self {
            edge,
            expected: Box::new(expected),
            disks: RefCell::new(disks.to_vec()),
            memory: Rc::clone(memory),
            array: RefCell::new(None),
            granted: Cell::new(0),
            moments: RefCell::default(),
            events: Cell::new(0),
            every: Cell::new(1),
            most: Cell::new(usize::MAX),
            on: Cell::new(false),
        });
        disks.iter().for_each(|disk| disk.listen(Rc::<Self>::clone(&recorder)));
        let hears = Rc::downgrade(&recorder);
        memory.listen(Some(Rc::new(move || hears.upgrade().into_iter().for_each(|recorder| recorder.freeze()))));
        recorder
    }

    /// Freezes this moment.
    pub fn freeze(&self) {
        let event = self.events.replace(self.events.get() + 1);
        if !self.on.get() || self.moments.borrow().len() >= self.most.get() || !event.is_multiple_of(self.every.get()) {
            return;
        }
        let (array, disks) = (self.array.borrow(), self.disks.borrow());
        let mut moment = Moment::new(&disks, array.as_deref(), self.memory.crash_states(), (self.expected)());
        moment.granted = self.granted.get();
        self.moments.borrow_mut().push(moment);
    }

    /// What was frozen. Lets everything go.
    pub fn finish(&self) -> Vec<Moment> {
        self.array.take();
        self.disks.take().iter().for_each(|disk| disk.deafen());
        self.memory.listen(None);
        self.moments.take()
    }
}

impl Edge for Recorder {
    fn received(&self, disk: usize, op: u64, at: u64, data: &IoData) {
        self.edge.received(disk, op, at, data);
    }

    fn applied(&self, disk: usize, op: u64, at: u64, data: &IoData, before: &[u8]) {
        self.edge.applied(disk, op, at, data, before);
        self.freeze();
    }

    fn ended(&self, disk: usize, op: u64, write: Option<(u64, &IoData)>, answer: Result<(), DeviceError>) {
        self.edge.ended(disk, op, write, answer);
        self.freeze();
    }
}
