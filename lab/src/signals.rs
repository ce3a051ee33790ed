//! Ending in an orderly way: SIGINT, SIGTERM and SIGHUP are not deaths but requests to clean up.

use nix::sys::signal::{SigSet, Signal};

const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The requests to end that this process waits for instead of dying.
pub struct Requests(SigSet);

impl Requests {
    /// From now on this thread, and every thread it starts, leaves the signals to [`Requests::wait`].
    ///
    /// # Errors
    /// When the kernel refuses the mask.
    pub fn collect() -> anyhow::Result<Self> {
        let set = ENDING.into_iter().collect::<SigSet>();
        set.thread_block()?;
        Ok(Self(set))
    }

    /// Waits for one, and returns the exit code a shell would show for it.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn wait(&self) -> anyhow::Result<i32> {
        let signal = self.0.wait()?;
        Ok(128 + signal as i32)
    }
}

/// Asks this very process to end, from a thread that cannot go on.
pub fn ask_myself() {
    let myself = rustix::process::getpid();
    // The only way this fails is a process that is already gone.
    let _ = rustix::process::kill_process(myself, rustix::process::Signal::TERM);
}
