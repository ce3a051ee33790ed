//! Ending in an orderly way: SIGINT, SIGTERM and SIGHUP are not deaths but requests to clean up.

use nix::sys::signal::{SigSet, Signal};
use std::process::{Child, Command};

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

/// Starts a program that takes the signals which this process leaves to [`Requests::wait`]: a child inherits what its parent
/// blocks, and one that cannot hear SIGTERM cannot be ended in an orderly way.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(command: &mut Command) -> std::io::Result<Child> {
    // In a thread of its own: the others go on blocking them.
    std::thread::scope(|scope| {
        let spawning = scope.spawn(|| {
            ENDING.into_iter().collect::<SigSet>().thread_unblock().map_err(std::io::Error::from)?;
            command.spawn()
        });
        spawning.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Asks this very process to end, from a thread that cannot go on.
pub fn ask_myself() {
    let myself = rustix::process::getpid();
    // The only way this fails is a process that is already gone.
    let _ = rustix::process::kill_process(myself, rustix::process::Signal::TERM);
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a child can be asked to end although we leave signals to another thread. Method: a sleeper.
    #[test]
    fn a_child_hears_sigterm() {
        let _requests = Requests::collect().unwrap();
        let mut child = spawn(Command::new("sleep").arg("60")).unwrap();
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(Signal::SIGTERM as i32));
    }
}
