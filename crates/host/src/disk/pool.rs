//! Threads that do blocking jobs for one data-plane thread: all of them where io_uring is forbidden, the rare ones
//! (discard, zeroes) everywhere.
//!
//! A job belongs to the pool from the moment it is handed over, so it ends whether or not anybody still waits. Each disk
//! has a budget of workers (see `lanes`), so that one that hangs leaves the others theirs.

use super::file::{Job, OpenFile};
use super::lanes::{Budget, DiskKey, Lane, Lanes, Share};
use block::DeviceError;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Workers of one disk, per lane: enough to keep it busy; each thread costs a stack. There are as many threads as all
/// disks' budgets together, if all of them hang.
const PER_DISK: Budget = Budget([2, 16, 2, 4]);

/// How long the end of a data-plane thread waits for jobs. A disk that hangs longer must not keep the process alive;
/// the worker that hangs in it still owns the job's buffers.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

thread_local! {
    static OF_THREAD: RefCell<Weak<Pool>> = const { RefCell::new(Weak::new()) };
}

/// The workers of one data-plane thread. They start when they are needed.
pub(super) struct Pool {
    shared: Arc<Shared>,
    started: Cell<usize>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Work has come, or the pool is being closed.
    work_came: Condvar,
    /// A job has ended.
    work_ended: Condvar,
}

#[derive(Default)]
struct Queue {
    lanes: Lanes<Work>,
    idle: usize,
    closed: bool,
}

struct Work {
    file: Arc<OpenFile>,
    job: Job,
    answer: oneshot::Sender<Result<Job, DeviceError>>,
}

impl Shared {
    /// A worker that panicked left the queue as it was: it panics in the job, not here.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.lock();
        loop {
            if let Some((share, Work { file, mut job, answer })) = queue.lanes.next() {
                drop(queue);
                let done = file.run(&mut job);
                // The file is let go before anybody hears: who drops a disk on which nothing runs can open it again.
                drop(file);
                let _ = answer.send(done.map(|()| job));
                queue = self.lock();
                queue.lanes.ended(share);
                self.work_ended.notify_all();
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                queue = self.work_came.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }
}

impl Pool {
    /// The pool of the calling thread.
    pub(super) fn of_thread() -> Rc<Self> {
        OF_THREAD.with_borrow_mut(|known| {
            known.upgrade().unwrap_or_else(|| {
                let pool = Rc::new(Self { shared: Arc::default(), started: Cell::new(0) });
                *known = Rc::downgrade(&pool);
                pool
            })
        })
    }

    /// A new disk.
    pub(super) fn open(&self) -> DiskKey {
        self.shared.lock().lanes.open(PER_DISK)
    }

    /// No more comes for this disk.
    pub(super) fn close(&self, disk: DiskKey) {
        self.shared.lock().lanes.close(disk);
    }

    /// Does `job` on a worker and gives it back.
    pub(super) async fn run(
        self: Rc<Self>,
        disk: DiskKey,
        lane: Lane,
        file: Arc<OpenFile>,
        job: Job,
    ) -> Result<Job, DeviceError> {
        let (answer, answered) = oneshot::channel();
        self.hand_over(Share { disk, lane }, Work { file, job, answer });
        // A worker that died in a job cannot say what became of it.
        answered.await.unwrap_or(Err(DeviceError::Failed { errno: rustix::io::Errno::IO.raw_os_error() }))
    }

    fn hand_over(&self, share: Share, work: Work) {
        let mut queue = self.shared.lock();
        queue.lanes.push(share, work);
        let (crowded, workers_max) = (queue.lanes.ready() > queue.idle, queue.lanes.budget());
        drop(queue);
        if crowded && self.started.get() < workers_max {
            self.start_worker();
        }
        self.shared.work_came.notify_one();
    }

    fn start_worker(&self) {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("disk-pool".to_owned());
        match thread.spawn(move || shared.work()) {
            Ok(_) => self.started.set(self.started.get() + 1),
            // With other workers there, the job only waits longer.
            Err(error) => assert!(self.started.get() > 0, "the first disk thread could not be started: {error}"),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        self.shared.work_came.notify_all();
        let busy = |queue: &mut Queue| !queue.lanes.is_idle();
        let waited = self.shared.work_ended.wait_timeout_while(queue, CLOSE_WAIT, busy);
        if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            tracing::warn!("a disk has not answered within {CLOSE_WAIT:?}; its threads are left behind");
        }
    }
}
