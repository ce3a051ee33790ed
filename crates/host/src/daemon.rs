//! What every process that runs for ever does first.
//!
//! Invariant: a panic in any of its threads and tasks ends it. A process that has lost a task looks alive: its heartbeats are
//! answered, so nobody takes over from it, and what the task did is never done again. Every process of ours is made to be
//! killed at any moment, and whoever keeps it starts it anew.
#![allow(unsafe_code, reason = "alarm and _exit have no safe call here")]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a Rust program ends with after a panic of its main thread. Source: the Rust reference, "Panic".
const PANICKED: i32 = 101;
/// Saying why it ends may wait for a log whose disk hangs, or for a reader that is gone; the kernel ends it after this.
const LAST_WORDS_S: u32 = 1;

/// Has any panic end the process from now on, and lets it have as many descriptors as it may: each connection is one.
pub fn begin() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // SAFETY: alarm takes no pointer. Its signal is not handled by us, so the kernel ends the process by it.
        unsafe { libc::alarm(LAST_WORDS_S) };
        say(panic);
        // SAFETY: _exit takes no pointer and runs nothing of this process: neither destructors nor other threads' code.
        unsafe { libc::_exit(PANICKED) }
    }));
}

#[cfg(test)]
mod test {
    use super::*;
    use std::process::{Command, Stdio};

    const WHERE: &str = "MUSKOX_TEST_PANICS_IN";

    /// The child of the test below: panics where it is told to, and otherwise goes on.
    #[test]
    fn panics_where_it_is_told() {
        let Ok(place) = std::env::var(WHERE) else { return };
        begin();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            match place.as_str() {
                "a task" => drop(tokio::task::spawn_local(async { panic!("planted") })),
                "a blocking call" => drop(tokio::task::spawn_blocking(|| panic!("planted"))),
                "a thread" => drop(std::thread::spawn(|| panic!("planted"))),
                "a caught one" => drop(std::panic::catch_unwind(|| panic!("planted"))),
                _ => return,
            }
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        });
    }

    /// DA11. Goal: a panic anywhere in a daemon ends it, with its reason said, also where nobody reads what it says. Method: this
    /// test again as a child that panics in each kind of place; once with a full pipe for its words.
    #[test]
    fn a_panic_anywhere_ends_the_process() {
        let child = |place: &str| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "daemon::test::panics_where_it_is_told", "--nocapture"]).env(WHERE, place);
            child.stdout(Stdio::null());
            child
        };
        for place in ["a task", "a blocking call", "a thread", "a caught one"] {
            let done = child(place).output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(PANICKED), "{place}: {said}");
            assert!(said.contains("planted"), "{place}: {said}");
        }
        assert!(child("nowhere").status().unwrap().success());
        use std::io::Write;
        use std::os::unix::process::ExitStatusExt;
        let (_reader, mut full) = std::io::pipe().unwrap();
        // The usual capacity of a pipe (`pipe(7)`).
        full.write_all(&[b'x'; 65_536]).unwrap();
        let done = child("a task").stderr(full).status().unwrap();
        assert_eq!(done.signal(), Some(libc::SIGALRM));
    }
}
