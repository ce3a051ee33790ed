//! When a run has to end before its time: a signal, or its deadline. Everything that waits asks here.

use crate::signals::Requests;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whether the run has to end.
#[derive(Clone)]
pub struct Stop {
    /// A signal's exit code; zero while none came.
    code: Arc<AtomicI32>,
    deadline: Instant,
}

impl Stop {
    /// Listens for signals from now on; ends the run in `limit` in any case.
    ///
    /// # Errors
    /// When the kernel refuses the signal mask.
    pub fn after(limit: Duration) -> anyhow::Result<Self> {
        let requests = Requests::collect()?;
        let code = Arc::new(AtomicI32::new(0));
        let told = Arc::clone(&code);
        std::thread::spawn(move || told.store(requests.wait().unwrap_or(1), Ordering::Relaxed));
        Ok(Self { code, deadline: Instant::now() + limit })
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.code().is_some() || Instant::now() > self.deadline
    }

    /// The exit code, if a signal came.
    pub fn code(&self) -> Option<i32> {
        Some(self.code.load(Ordering::Relaxed)).filter(|code| *code != 0)
    }

    /// Waits until `done` says so.
    ///
    /// # Errors
    /// When that took longer than `patience`, or the run is over.
    pub fn wait(&self, patience: Duration, what: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !done() {
            self.check()?;
            anyhow::ensure!(begun.elapsed() < patience, "{what}: not within {} s", patience.as_secs());
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Sleeps.
    ///
    /// # Errors
    /// When the run is over.
    pub fn nap(&self, time: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.check()?;
            std::thread::sleep(LOOK_AGAIN.min(time));
        }
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.code().is_none(), "stopped by a signal");
        anyhow::ensure!(Instant::now() < self.deadline, "the run's deadline (--limit-secs) is over");
        Ok(())
    }
}
