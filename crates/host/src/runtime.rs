//! The world of one data-plane thread: tokio's current-thread loop, the steady clock, and the thread itself.
//!
//! One thread owns its arrays, volumes and ring; nobody else touches them. Others speak to it by messages through
//! [`DataThread`]. The clock is CLOCK_BOOTTIME: it goes on while the machine sleeps, so a lease or a heartbeat never
//! looks younger than it is.

use block::runtime::{Rt, Runtime, Task};
use block::wait::WaitList;
use rustix::io::Errno;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use units::{Millis, Moment};

/// The longest single timer. tokio's timers stand still while the machine sleeps, the steady clock does not: a sleeper
/// looks at the clock at least this often.
const SLEEP_SLICE: Millis = Millis(1000);

/// How long a thread that ends waits for operations whose futures were dropped. Twice the gate's drain limit of
/// 1.5 s: what is not done by then hangs in a disk, and the kernel keeps the disk's lock until it is.
const DRAIN_MAX: Millis = Millis(3000);

/// The moment on this machine's steady clock.
#[must_use]
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).expect("the time since boot is not negative");
    let nanos = u64::try_from(time.tv_nsec).expect("a fraction of a second is not negative");
    Moment(seconds * 1000 + nanos / 1_000_000)
}

/// This machine's CLOCK_MONOTONIC in microseconds, for logs that are laid beside other programs' logs. Nothing is decided
/// by it.
#[must_use]
pub fn monotonic_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).expect("the time since boot is not negative");
    let nanos = u64::try_from(time.tv_nsec).expect("a fraction of a second is not negative");
    seconds * 1_000_000 + nanos / 1000
}

/// Waits until `when` on the steady clock.
pub async fn sleep_until(when: Moment) {
    loop {
        let left = when.since(now());
        if left == Millis(0) {
            return;
        }
        tokio::time::sleep(Duration::from(left.min(SLEEP_SLICE))).await;
    }
}

/// Has the calling thread, which runs no loop, wait until `when`: by a timer on the steady clock, which is not late after the
/// machine has slept.
pub fn rest_until(when: Moment) {
    while now() < when {
        match clock_nanosleep_absolute(ClockId::Boottime, &timespec(when)) {
            Ok(()) | Err(Errno::INTR) => {}
            // A kernel without such timers; never a loop that does not rest.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn timespec(when: Moment) -> Timespec {
    let seconds = i64::try_from(when.0 / 1000).expect("milliseconds since boot");
    Timespec { tv_sec: seconds, tv_nsec: i64::try_from(when.0 % 1000).expect("below 1000") * 1_000_000 }
}

/// [`Runtime`] on the tokio [`LocalSet`] of the calling thread.
#[derive(Default)]
pub struct TokioRuntime {
    running: Rc<Running>,
}

/// How many spawned tasks have not ended.
#[derive(Default)]
struct Running {
    count: Cell<usize>,
    ended: WaitList,
}

struct Counted(Rc<Running>);

impl TokioRuntime {
    /// The runtime of this thread. Use it only where a [`LocalSet`] is being run ([`DataThread`], [`block_on`]).
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// As the block stack wants it.
    #[must_use]
    pub fn rt(self: &Rc<Self>) -> Rt {
        Rc::<Self>::clone(self)
    }

    /// Waits until no spawned task is left, at most until `limit` has passed. Whether none was left.
    pub async fn drained(&self, limit: Millis) -> bool {
        let all_ended = async {
            while self.running.count.get() > 0 {
                self.running.ended.wait().await;
            }
        };
        tokio::time::timeout(limit.into(), all_ended).await.is_ok()
    }
}

impl Counted {
    fn new(running: &Rc<Running>) -> Self {
        running.count.set(running.count.get() + 1);
        Self(Rc::clone(running))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.ended.wake_all();
    }
}

impl Runtime for TokioRuntime {
    fn now(&self) -> Moment {
        now()
    }

    fn sleep_until(&self, when: Moment) -> Task {
        Box::pin(sleep_until(when))
    }

    fn spawn(&self, task: Task) {
        let counted = Counted::new(&self.running);
        tokio::task::spawn_local(async move {
            let _counted = counted;
            task.await;
        });
    }
}

/// Runs `work` on this thread as a data-plane thread would, then waits (bounded) for the tasks it left running.
///
/// # Errors
/// If the kernel refuses the loop its file descriptors.
pub fn block_on<T, F: Future<Output = T>>(work: impl FnOnce(Rt) -> F) -> io::Result<T> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (local, world) = (LocalSet::new(), TokioRuntime::new());
    Ok(local.block_on(&tokio, async {
        let answer = work(world.rt()).await;
        if !world.drained(DRAIN_MAX).await {
            tracing::warn!("operations were still running {DRAIN_MAX} after their thread had ended");
        }
        answer
    }))
}

/// A named thread that owns a data-plane loop and is spoken to by messages.
pub struct DataThread<M> {
    to: mpsc::Sender<M>,
    thread: std::thread::JoinHandle<io::Result<()>>,
}

impl<M: Send + 'static> DataThread<M> {
    /// Starts a thread that runs `work`. `work` gets the runtime and the inbox, which holds at most `inbox_max`
    /// messages; it should end when the inbox is closed.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start<F: Future<Output = ()>>(
        name: &str,
        inbox_max: usize,
        work: impl FnOnce(Rt, mpsc::Receiver<M>) -> F + Send + 'static,
    ) -> io::Result<Self> {
        let (to, inbox) = mpsc::channel(inbox_max);
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || block_on(|rt| work(rt, inbox)))?;
        Ok(Self { to, thread })
    }

    /// Where to send messages; may be cloned. The inbox is closed when every sender and this handle are gone.
    #[must_use]
    pub fn sender(&self) -> &mpsc::Sender<M> {
        &self.to
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Closes this end of the inbox and waits for the thread.
    ///
    /// # Errors
    /// If its loop could not be made.
    ///
    /// # Panics
    /// If the thread panicked: its panic goes on here.
    pub fn join(self) -> io::Result<()> {
        drop(self.to);
        match self.thread.join() {
            Ok(end) => end,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the clock goes on and a sleep is not shorter than asked. Method: sleep and look.
    #[test]
    fn a_sleep_lasts_as_long_as_asked() {
        let slept = block_on(|rt| async move {
            let begun = rt.now();
            rt.sleep_until(begun + Millis(30)).await;
            rt.now().since(begun)
        });
        assert!((30..5000).contains(&slept.unwrap().0));
    }

    /// Goal: a rest ends when it should, also for a moment that is past. Method: both, by the clock.
    #[test]
    fn a_rest_lasts_as_long_as_asked() {
        let begun = now();
        for after in [20, 0] {
            rest_until(begun + Millis(after));
            assert!((20..5000).contains(&now().since(begun).0));
        }
    }

    /// Goal: what was spawned ends before the thread does. Method: leave a task behind that takes a while.
    #[test]
    fn a_thread_waits_for_what_it_left_running() {
        let (done, seen) = (std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)), Millis(50));
        let flag = std::sync::Arc::clone(&done);
        let thread = DataThread::<()>::start("left-running", 1, move |rt, _inbox| async move {
            let sleep = rt.sleep_until(rt.now() + seen);
            rt.spawn(Box::pin(async move {
                sleep.await;
                flag.store(true, std::sync::atomic::Ordering::SeqCst);
            }));
        });
        thread.unwrap().join().unwrap();
        assert!(done.load(std::sync::atomic::Ordering::SeqCst));
    }

    /// Goal: messages arrive in order and the thread ends when nobody can send any more. Method: sum and answer.
    #[test]
    fn a_thread_is_spoken_to_by_messages() {
        let (answer_to, answer) = std::sync::mpsc::channel();
        let thread = DataThread::start("adder", 4, move |_rt, mut inbox: mpsc::Receiver<u64>| async move {
            let mut heard = Vec::new();
            while let Some(number) = inbox.recv().await {
                heard.push(number);
            }
            answer_to.send(heard).unwrap();
        });
        let thread = thread.unwrap();
        for number in 1..=10 {
            thread.sender().blocking_send(number).unwrap();
        }
        thread.join().unwrap();
        assert_eq!(answer.recv().unwrap(), (1..=10).collect::<Vec<_>>());
    }
}
