//! A disk whose empty parts cost nothing, and a runtime whose clock is moved by hand.

use block::device::{BlockDevice, DeviceError, Disk, Durability, Geometry, IoFuture};
use block::runtime::{Rt, Runtime, Task};
use block::wait::WaitList;
use block::{IoBuf, IoData};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use units::{ByteLen, ByteOffset, Moment};

const PAGE: usize = 4096;
/// Turns of all tasks before work that is not done counts as hanging.
const TURNS_MAX: usize = 20_000;

/// What is on a disk: its pages that are not zeroes. A copy shares them.
#[derive(Clone, Default)]
pub struct Image(BTreeMap<u64, Rc<[u8; PAGE]>>);

/// A disk in memory.
pub struct Sparse {
    size: ByteLen,
    block_bytes: u32,
    image: RefCell<Image>,
}

/// Runs futures and what they leave running; with it ends what still runs.
#[derive(Default)]
pub struct Hand {
    now_ms: Rc<Cell<u64>>,
    moved: Rc<WaitList>,
    tasks: Rc<RefCell<Vec<Task>>>,
}

/// What tasks know of their hand. It does not own them: they own it, and nothing would ever be freed.
struct Grip {
    now_ms: Rc<Cell<u64>>,
    moved: Rc<WaitList>,
    tasks: Weak<RefCell<Vec<Task>>>,
}

impl Image {
    pub fn read(&self, mut at: u64, mut into: &mut [u8]) {
        while !into.is_empty() {
            let (page, skip) = (at / PAGE as u64, within(at));
            let (now, later) = into.split_at_mut(into.len().min(PAGE - skip));
            match self.0.get(&page) {
                Some(page) => now.copy_from_slice(&page[skip..skip + now.len()]),
                None => now.fill(0),
            }
            at += now.len() as u64;
            into = later;
        }
    }

    pub fn write(&mut self, mut at: u64, mut from: &[u8]) {
        while !from.is_empty() {
            let (page, skip) = (at / PAGE as u64, within(at));
            let (now, later) = from.split_at(from.len().min(PAGE - skip));
            if now.len() == PAGE && now.iter().all(|&byte| byte == 0) {
                self.0.remove(&page);
            } else {
                let page = self.0.entry(page).or_insert_with(|| Rc::new([0; PAGE]));
                Rc::make_mut(page)[skip..skip + now.len()].copy_from_slice(now);
            }
            at += now.len() as u64;
            from = later;
        }
    }

    /// Changes a range in place.
    pub fn edit(&mut self, at: u64, len: usize, change: impl FnOnce(&mut [u8])) {
        let mut bytes = vec![0; len];
        self.read(at, &mut bytes);
        change(&mut bytes);
        self.write(at, &bytes);
    }
}

fn within(at: u64) -> usize {
    usize::try_from(at % PAGE as u64).expect("less than a page")
}

impl Sparse {
    pub fn new(size: ByteLen, block_bytes: u32, image: Image) -> Rc<Self> {
        Rc::new(Self { size, block_bytes, image: RefCell::new(image) })
    }

    pub fn disk(self: &Rc<Self>) -> Disk {
        Rc::new(Shared(Rc::clone(self)))
    }

    pub fn image(&self) -> Image {
        self.image.borrow().clone()
    }
}

struct Shared(Rc<Sparse>);

impl Shared {
    fn store(&self, at: ByteOffset, bytes: &[u8]) -> Result<(), DeviceError> {
        self.geometry().check(at, ByteLen::of(bytes))?;
        self.0.image.borrow_mut().write(at.0, bytes);
        Ok(())
    }
}

impl BlockDevice for Shared {
    fn geometry(&self) -> Geometry {
        Geometry {
            size: self.0.size,
            block_bytes: self.0.block_bytes,
            optimal_bytes: 4096,
            volatile_cache: true,
            discard: true,
        }
    }

    fn read(&self, at: ByteOffset, mut into: IoBuf) -> IoFuture<IoBuf> {
        IoFuture::ready(self.geometry().check(at, into.byte_len()).map(|()| {
            self.0.image.borrow().read(at.0, &mut into);
            into
        }))
    }

    fn write(&self, at: ByteOffset, from: IoData, _how: Durability) -> IoFuture<()> {
        IoFuture::ready(self.store(at, &from))
    }

    fn flush(&self) -> IoFuture<()> {
        IoFuture::ready(Ok(()))
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        IoFuture::ready(self.geometry().check(at, len))
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, _how: Durability, _may_unmap: bool) -> IoFuture<()> {
        let checked = self.geometry().check(at, len);
        IoFuture::ready(
            checked.and_then(|()| self.store(at, &vec![0; usize::try_from(len.0).expect("inside a small disk")])),
        )
    }
}

impl Hand {
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    pub fn rt(&self) -> Rt {
        let (now_ms, moved) = (Rc::clone(&self.now_ms), Rc::clone(&self.moved));
        Rc::new(Grip { now_ms, moved, tasks: Rc::downgrade(&self.tasks) })
    }

    /// Does `work` and what it leaves running.
    ///
    /// # Panics
    /// If it does not end: that is a hang.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        for _ in 0..TURNS_MAX {
            if let Poll::Ready(answer) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return answer;
            }
            self.turn();
        }
        panic!("the work hangs");
    }

    /// Lets everything left running go on for `seconds` of the clock moved by hand.
    pub fn settle(&self, seconds: u32) {
        for _ in 0..seconds {
            self.turn();
            self.now_ms.set(self.now_ms.get() + 1000);
            self.moved.wake_all();
        }
    }

    /// Polls every task once, and what they spawn at the next turn.
    fn turn(&self) {
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        for mut task in tasks {
            if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                self.tasks.borrow_mut().push(task);
            }
        }
    }
}

impl Runtime for Grip {
    fn now(&self) -> Moment {
        Moment(self.now_ms.get())
    }

    fn sleep_until(&self, when: Moment) -> Task {
        let (moved, now_ms) = (Rc::clone(&self.moved), Rc::clone(&self.now_ms));
        Box::pin(async move {
            while now_ms.get() < when.0 {
                moved.wait().await;
            }
        })
    }

    fn spawn(&self, task: Task) {
        if let Some(tasks) = self.tasks.upgrade() {
            tasks.borrow_mut().push(task);
        }
    }
}
