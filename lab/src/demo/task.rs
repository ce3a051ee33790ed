//! A thread of the lab that watches until it is told to stop, in a network namespace of its own choice.

use crate::net::enter;
use anyhow::Context;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Told to a watching thread when it is time to end.
#[derive(Clone, Default)]
pub struct Ending(Arc<AtomicBool>);

impl Ending {
    /// Whether it is.
    pub fn is_near(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A watching thread. Dropped, it is told to end and waited for.
pub struct Task {
    ending: Ending,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Task {
    /// Begins `work`, after `prepare` was done in the namespace (none: this thread's own). What prepare makes, as
    /// sockets, stays in that namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `prepare` fails.
    pub fn begin<T: Send + 'static>(
        name: &str,
        namespace: Option<&Path>,
        prepare: impl FnOnce() -> anyhow::Result<T> + Send,
        work: impl FnOnce(T, &Ending) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let entered = || namespace.map_or(Ok(()), enter).and_then(|()| prepare());
        // A thread of its own, which ends: the caller stays where it is.
        let prepared = std::thread::scope(|scope| match scope.spawn(entered).join() {
            Ok(prepared) => prepared,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let prepared = prepared.with_context(|| format!("starting the {name}"))?;
        let ending = Ending::default();
        let told = ending.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(prepared, &told))?;
        Ok(Self { ending, thread: Some(thread) })
    }

    /// Ends it.
    ///
    /// # Errors
    /// What it stumbled over.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.join()
    }

    fn join(&mut self) -> anyhow::Result<()> {
        self.ending.0.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(done)) => done,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.ending.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever wants to know what went wrong calls `end`.
            let _ = thread.join();
        }
    }
}
