//! The way of one thread's operations to the kernel: what the host's engines do with theirs (`host::disk::lanes`).
//!
//! Each disk has a budget of each lane; what is above it waits in the process, and dies with it. The budgets are far
//! smaller than the real ones, so that there is a queue in most runs. It does *not* know what an operation does.

use block::wait::WaitList;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What kind of operation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// What an array writes about itself.
    Metadata,
    /// Reads, writes, zeroes.
    Data,
    /// Flushes.
    Flush,
}

/// The operations of one thread that are in the kernel.
#[derive(Default)]
pub struct Queue {
    lanes: RefCell<BTreeMap<(usize, Lane), Rc<Running>>>,
}

#[derive(Default)]
struct Running {
    count: Cell<usize>,
    ended: WaitList,
}

/// The right to have one operation in the kernel; given back on drop.
pub struct Place(Rc<Running>);

impl Lane {
    /// How many operations of one disk may be in the kernel.
    #[must_use]
    pub fn budget(self) -> usize {
        match self {
            Self::Metadata | Self::Flush => 2,
            Self::Data => 6,
        }
    }
}

impl Queue {
    fn running(&self, disk: usize, lane: Lane) -> Rc<Running> {
        Rc::clone(self.lanes.borrow_mut().entry((disk, lane)).or_default())
    }

    /// Whether an operation has to wait.
    #[must_use]
    pub fn is_full(&self, disk: usize, lane: Lane) -> bool {
        self.running(disk, lane).count.get() >= lane.budget()
    }

    /// Waits for a place.
    pub async fn enter(&self, disk: usize, lane: Lane) -> Place {
        let running = self.running(disk, lane);
        while running.count.get() >= lane.budget() {
            running.ended.wait().await;
        }
        running.count.set(running.count.get() + 1);
        Place(running)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.ended.wake_one();
    }
}
