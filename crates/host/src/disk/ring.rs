//! io_uring, one ring per data-plane thread, shared by its disks: reads, writes and flushes.
//!
//! Everything that the ready tasks of one turn of the loop start is handed to the kernel by one system call, because
//! the driver is a task, too: the first operation wakes it, and it runs after the tasks that were ready before it.
//!
//! ```text
//!  future ──start──▶ ops[slot], lanes ──driver: fill──▶ submission queue ──enter──▶ kernel
//!    ▲                                                                                │
//!    └──────answer──────────── driver: reap ◀──────── completion queue ◀──────────────┘
//! ```
//! Each disk has a budget of operations in the kernel (see `lanes`). What the kernel cannot begin without waiting (every
//! flush, and reads and writes where a file system or a full device queue makes them wait) it gives to threads of its
//! own, by default four for each CPU and all disks; here it may have as many as the budgets, so that the threads that
//! a disk keeps while it hangs are its own.
//!
//! Invariant: an operation, its buffer and its file stay in `ops`, unmoved in memory and unread by us, from the moment
//! its entry is pushed until its completion was reaped, whether or not anybody still waits for it. If the driver has
//! to go first, it waits for the kernel, and what the kernel still has then is leaked, not freed.

use super::file::{Job, OpenFile, Patience, advance, failed};
use super::lanes::{Budget, DiskKey, Lane, Lanes, Share};
use block::DeviceError;
use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use slab::Slab;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Sleep;

/// Entries handed to the kernel at once.
const SUBMIT_MAX: u32 = 256;
/// Reads and writes of one disk in the kernel at once, at most: more than an ordinary disk has queue for.
const DATA_MAX: usize = 256;
/// Flushes of one disk: the block layer makes one of all that wait, but each waits in a thread.
const FLUSHES_MAX: usize = 8;
/// Metadata writes of one disk: an array has one at a time under way.
const METADATA_MAX: usize = 4;
/// What the completion queue holds: the budgets of fifteen disks. More than an array has; the kernel keeps what does not
/// fit (IORING_FEAT_NODROP, Linux 5.5).
const COMPLETIONS: u32 = 4096;
/// One transfer; Linux moves at most 2 GiB less a page a call (MAX_RW_COUNT, `include/linux/fs.h`).
const TRANSFER_MAX: usize = 1 << 30;
/// Turns of the driver before the other tasks of the loop get theirs.
const TURNS_MAX: u32 = 4;
/// How long a thread that ends waits for the kernel.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

thread_local! {
    static OF_THREAD: RefCell<Weak<Ring>> = const { RefCell::new(Weak::new()) };
}

/// A thread's ring, as its disks see it.
pub(super) struct Ring {
    shared: Rc<RefCell<Shared>>,
}

/// What disks and driver share.
#[derive(Default)]
struct Shared {
    ops: Slab<Op>,
    lanes: Lanes<usize>,
    /// Operations for which the kernel was short of something, and when they are tried again.
    resting: Vec<(Instant, usize)>,
    /// The kernel has been told how many threads it may need.
    workers_told: usize,
    driver: Option<Waker>,
    /// No disk is left: the driver ends when nothing is under way.
    closing: bool,
    /// The driver has ended.
    gone: bool,
}

struct Op {
    share: Share,
    file: Arc<OpenFile>,
    job: Job,
    done: usize,
    patience: Patience,
    answer: Option<Result<(), DeviceError>>,
    waiter: Option<Waker>,
    orphan: bool,
}

impl Ring {
    /// Whether this kernel lets us have a ring.
    pub(super) fn is_possible() -> bool {
        build().is_ok()
    }

    /// The ring of the calling thread; its driver becomes a task of the running loop.
    ///
    /// # Errors
    /// If the kernel refuses one.
    pub(super) fn of_thread() -> io::Result<Rc<Self>> {
        OF_THREAD.with_borrow_mut(|known| match known.upgrade() {
            Some(ring) if !ring.shared.borrow().gone => Ok(ring),
            _ => {
                let ring = Rc::new(Self { shared: Rc::default() });
                let driver = Driver::new(Rc::clone(&ring.shared))?;
                tokio::task::spawn_local(driver.run());
                *known = Rc::downgrade(&ring);
                Ok(ring)
            }
        })
    }

    /// A new disk, whose own queue takes so many operations.
    pub(super) fn open(&self, queue_depth: usize) -> DiskKey {
        let data = queue_depth.clamp(1, DATA_MAX);
        self.shared.borrow_mut().lanes.open(Budget([METADATA_MAX, data, FLUSHES_MAX, 0]))
    }

    /// No more comes for this disk.
    pub(super) fn close(&self, disk: DiskKey) {
        self.shared.borrow_mut().lanes.close(disk);
    }

    /// Does `job` and gives it back.
    pub(super) fn start(&self, disk: DiskKey, lane: Lane, file: Arc<OpenFile>, job: Job) -> InFlight {
        let mut shared = self.shared.borrow_mut();
        let (answer, share) = (shared.gone.then_some(Err(DeviceError::Closed)), Share { disk, lane });
        let op = Op { share, file, job, done: 0, patience: Patience::default(), waiter: None, orphan: false, answer };
        let slot = shared.insert(op);
        if !shared.gone {
            shared.lanes.push(share, slot);
            shared.wake_driver();
        }
        InFlight { shared: Rc::clone(&self.shared), slot: Some(slot) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        shared.closing = true;
        shared.wake_driver();
    }
}

/// One operation under way. Dropping it leaves the operation running.
pub(super) struct InFlight {
    shared: Rc<RefCell<Shared>>,
    slot: Option<usize>,
}

impl Future for InFlight {
    type Output = Result<Job, DeviceError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let slot = self.slot.expect("polled again after it was ready");
        let mut shared = self.shared.borrow_mut();
        let Some(op) = shared.ops.get_mut(slot) else {
            return Poll::Ready(Err(DeviceError::Closed));
        };
        let Some(answer) = op.answer else {
            if op.waiter.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                op.waiter = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        let op = shared.remove(slot);
        drop(shared);
        self.slot = None;
        Poll::Ready(answer.map(|()| op.job))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut shared = self.shared.borrow_mut();
        if shared.gone {
            return;
        }
        let op = shared.op(slot);
        op.orphan = true;
        if op.answer.is_some() {
            shared.remove(slot);
        }
    }
}

impl Shared {
    fn insert(&mut self, op: Op) -> usize {
        self.ops.insert(op)
    }

    fn op(&mut self, slot: usize) -> &mut Op {
        &mut self.ops[slot]
    }

    fn remove(&mut self, slot: usize) -> Op {
        self.ops.remove(slot)
    }

    /// Lets those go on whose time has come.
    fn wake_rested(&mut self) {
        if self.resting.is_empty() {
            return;
        }
        let now = Instant::now();
        for (_, slot) in self.resting.extract_if(.., |(due, _)| *due <= now).collect::<Vec<_>>() {
            let share = self.op(slot).share;
            self.lanes.push(share, slot);
        }
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// What the kernel said about the operation in `slot`.
    fn completed(&mut self, slot: usize, result: i32) {
        let op = self.op(slot);
        let (share, progress) = (op.share, op.completed(result));
        self.lanes.ended(share);
        let answer = match progress {
            Progress::Ended(answer) => answer,
            Progress::Unfinished => return self.lanes.push(share, slot),
            Progress::Later(rest) => return self.resting.push((Instant::now() + rest, slot)),
        };
        let op = self.op(slot);
        op.answer = Some(answer);
        if let Some(waiter) = op.waiter.take() {
            waiter.wake();
        }
        if op.orphan {
            self.remove(slot);
        }
    }
}

/// What a completion means for its operation.
enum Progress {
    Ended(Result<(), DeviceError>),
    /// The rest has to be handed in.
    Unfinished,
    /// The same after so long.
    Later(Duration),
}

impl Op {
    fn completed(&mut self, result: i32) -> Progress {
        let Ok(moved) = usize::try_from(result) else {
            let errno = Errno::from_raw_os_error(-result);
            let rest = self.patience.rest_after(errno);
            return rest.map_or_else(|| Progress::Ended(Err(failed(errno))), Progress::Later);
        };
        self.patience = Patience::default();
        let (want, block_bytes) = (self.job.transfer_bytes(), self.file.facts.geometry.block_bytes);
        match advance(&mut self.done, moved, want, block_bytes) {
            Ok(true) => Progress::Ended(Ok(())),
            Ok(false) => Progress::Unfinished,
            Err(errno) => Progress::Ended(Err(failed(errno))),
        }
    }

    /// What is left of the job, as the kernel wants it.
    fn entry(&mut self) -> squeue::Entry {
        let fd = types::Fd(self.file.file.as_raw_fd());
        let piece = |left: usize| u32::try_from(left.min(TRANSFER_MAX)).expect("at most 2^30");
        let done = self.done;
        match &mut self.job {
            Job::Read { at, into } => {
                let left = &mut into[done..];
                opcode::Read::new(fd, left.as_mut_ptr(), piece(left.len())).offset(at.0 + done as u64).build()
            }
            Job::Write { at, from, fua } => {
                let left = &from[done..];
                let flags = if *fua { libc::RWF_DSYNC } else { 0 };
                let write = opcode::Write::new(fd, left.as_ptr(), piece(left.len()));
                write.offset(at.0 + done as u64).rw_flags(flags).build()
            }
            Job::Flush => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Job::Discard { .. } | Job::WriteZeroes { .. } => unreachable!("rare jobs go to the pool"),
        }
    }
}

/// Tries the cheapest ring first: completions are worked off by the thread itself, when it asks (Linux 6.1), or at its
/// next system call (5.19), or by interrupting it (5.6). The ring's own descriptor does not become readable for work
/// that waits to be asked for (seen on 6.18), an eventfd is told: hence the bell.
fn build() -> io::Result<IoUring> {
    let deferred = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMIT_MAX);
    let cooperative = || {
        let mut builder = IoUring::builder();
        builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all().setup_cqsize(COMPLETIONS);
        builder.build(SUBMIT_MAX)
    };
    deferred
        .or_else(|_| cooperative())
        .or_else(|_| IoUring::builder().setup_cqsize(COMPLETIONS).build(SUBMIT_MAX))
        .or_else(|_| IoUring::builder().build(SUBMIT_MAX))
}

/// Tells the kernel how many threads it may have for this one's operations. One that is too old to be told (before
/// 5.15) lets a disk that hangs hold up the others' flushes.
fn allow_workers(ring: &IoUring, shared: &mut Shared) {
    let budget = shared.lanes.budget();
    if budget > shared.workers_told {
        let mut workers = [u32::try_from(budget).expect("a few hundred a disk"), 0];
        let _ = ring.submitter().register_iowq_max_workers(&mut workers);
        shared.workers_told = budget;
    }
}

/// The task that owns the ring.
struct Driver {
    ring: IoUring,
    /// The kernel adds one when it has something to post. Never read: each addition is an edge for epoll.
    bell: AsyncFd<OwnedFd>,
    shared: Rc<RefCell<Shared>>,
    in_kernel: usize,
    reaped: Vec<(usize, i32)>,
    /// Rings when the first of those that rest is due.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    #[allow(unsafe_code, reason = "tokio wants to be told that the descriptor stays open")]
    fn new(shared: Rc<RefCell<Shared>>) -> io::Result<Self> {
        let (ring, bell) = (build()?, eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        // SAFETY: an `OwnedFd` always gives out the same descriptor and keeps it open until it is dropped; the
        // `AsyncFd` owns it, and nobody replaces it.
        let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) }?;
        Ok(Self { ring, bell, shared, in_kernel: 0, reaped: Vec::new(), alarm: None })
    }

    async fn run(mut self) {
        poll_fn(|cx| self.turn(cx)).await;
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURNS_MAX {
            self.fill();
            let entered = self.enter();
            let progressed = self.reap() > 0;
            let mut shared = self.shared.borrow_mut();
            let more = shared.lanes.ready() > 0;
            if !entered || progressed || more {
                continue;
            }
            if shared.closing && self.in_kernel == 0 && shared.resting.is_empty() {
                return Poll::Ready(());
            }
            shared.driver = Some(cx.waker().clone());
            let first = shared.resting.iter().map(|(due, _)| *due).min();
            drop(shared);
            self.alarm = first.map(|due| Box::pin(tokio::time::sleep_until(due.into())));
            let rings = self.alarm.as_mut().is_some_and(|alarm| alarm.as_mut().poll(cx).is_ready());
            if !rings {
                ready!(self.kernel_spoke(cx));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits until the ring has something for us. It is asked only after the readiness was cleared, so nothing is lost.
    fn kernel_spoke(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.in_kernel == 0 {
            return Poll::Pending;
        }
        ready!(self.bell.poll_read_ready(cx)).expect("the loop lives as long as its tasks").clear_ready();
        Poll::Ready(())
    }

    /// Moves waiting operations into the submission queue.
    #[allow(unsafe_code, reason = "the kernel borrows what an entry points to")]
    fn fill(&mut self) {
        let shared = &mut *self.shared.borrow_mut();
        allow_workers(&self.ring, shared);
        shared.wake_rested();
        let mut queue = self.ring.submission();
        while !queue.is_full() {
            let Some((_, slot)) = shared.lanes.next() else { return };
            let entry = shared.op(slot).entry().user_data(slot as u64);
            // SAFETY: the entry's pointer and length come from the buffer that the operation in `slot` owns, and its
            // file descriptor from the file it holds. The operation stays in `ops` until its completion has been
            // reaped: only `remove` takes it out, and that is called after `answer` was set, which only `completed`
            // does. Growing `ops` moves the handle of a buffer, never its bytes. A buffer being read into is not
            // touched meanwhile: nothing but `entry` looks at it, before it is pushed. If the driver is dropped first,
            // `Drop` waits for the kernel or leaks the operations.
            unsafe { queue.push(&entry) }.expect("the queue was not full");
            self.in_kernel += 1;
        }
    }

    /// Hands over what was filled in and lets the kernel post what is done. Whether it took everything.
    fn enter(&mut self) -> bool {
        let ring = &mut self.ring;
        let queue = ring.submission();
        if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return true;
        }
        drop(queue);
        match ring.submit() {
            Ok(_) => ring.submission().is_empty(),
            // A signal, or the kernel is short of memory, or wants its completions taken first: at the next turn.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => false,
            Err(error) => panic!("the kernel refuses its own ring: {error}"),
        }
    }

    /// Takes the completions; how many.
    fn reap(&mut self) -> usize {
        let done = self.ring.completion();
        let slot = |data: u64| usize::try_from(data).expect("a slot number we gave ourselves");
        self.reaped.extend(done.map(|done| (slot(done.user_data()), done.result())));
        let mut shared = self.shared.borrow_mut();
        for &(slot, result) in &self.reaped {
            shared.completed(slot, result);
        }
        let count = self.reaped.len();
        self.in_kernel -= count;
        self.reaped.clear();
        count
    }

    /// Waits for the kernel to let go of everything. Whether it has.
    fn drain(&mut self) -> bool {
        let begun = Instant::now();
        let slice = types::Timespec::from(Duration::from_millis(100));
        loop {
            self.fill();
            if self.in_kernel == 0 && self.shared.borrow().resting.is_empty() {
                return true;
            }
            if begun.elapsed() >= CLOSE_WAIT {
                return false;
            }
            // Any error (the time is up, a signal) only means to look again.
            let _ = self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&slice));
            self.reap();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let drained = self.drain();
        let mut shared = self.shared.borrow_mut();
        shared.gone = true;
        if !drained {
            tracing::warn!("a disk has not answered within {CLOSE_WAIT:?}; its buffers are left to the kernel");
            Box::leak(Box::new(std::mem::take(&mut shared.ops)));
        }
    }
}
