//! Threads that do blocking jobs for one data-plane thread: all of them where io_uring is forbidden, the rare ones
//! (discard, zeroes) everywhere.
//!
//! A job belongs to the pool from the moment it is handed over, so it ends whether or not anybody still waits.

use super::file::{Job, OpenFile};
use block::DeviceError;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Enough to keep a handful of disks busy; each thread costs a stack.
const WORKERS_MAX: usize = 16;

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
    waiting: VecDeque<Work>,
    idle: usize,
    running: usize,
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
            if let Some(mut work) = queue.waiting.pop_front() {
                queue.running += 1;
                drop(queue);
                let done = work.file.run(&mut work.job);
                let _ = work.answer.send(done.map(|()| work.job));
                // The file is let go before this worker counts as done: then the lock is free when the pool is quiet.
                drop(work.file);
                queue = self.lock();
                queue.running -= 1;
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

    /// Does `job` on a worker and gives it back.
    pub(super) async fn run(self: Rc<Self>, file: Arc<OpenFile>, job: Job) -> Result<Job, DeviceError> {
        let (answer, answered) = oneshot::channel();
        self.hand_over(Work { file, job, answer });
        // A worker that died in a job cannot say what became of it.
        answered.await.unwrap_or(Err(DeviceError::Failed { errno: rustix::io::Errno::IO.raw_os_error() }))
    }

    fn hand_over(&self, work: Work) {
        let mut queue = self.shared.lock();
        queue.waiting.push_back(work);
        let crowded = queue.waiting.len() > queue.idle;
        drop(queue);
        if crowded && self.started.get() < WORKERS_MAX {
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
        let busy = |queue: &mut Queue| queue.running > 0 || !queue.waiting.is_empty();
        let waited = self.shared.work_ended.wait_timeout_while(queue, CLOSE_WAIT, busy);
        if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            tracing::warn!("a disk has not answered within {CLOSE_WAIT:?}; its threads are left behind");
        }
    }
}
