//! What the lab has put on the machine, written down before it is put there, so that `lab clean` can take it away
//! after a crash. One file per run, `PID-START.ledger`, one JSON line per thing; a run that ends well removes its file.
//!
//! A process is named by pid *and* start time (`/proc/PID/stat`, field 22, proc(5)), so that a reused pid is never killed.

use crate::{cgroup, net};
use anyhow::Context;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long an asked process may take to end before it is killed; its own cleaning up takes milliseconds.
const ASKED_FOR: Duration = Duration::from_secs(5);

/// One thing on the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Thing {
    /// A process we started (or are).
    Process {
        /// Its id.
        pid: i32,
        /// When it began, in the kernel's ticks.
        start: u64,
    },
    /// A mount point.
    Mount {
        /// Where.
        at: PathBuf,
    },
    /// A directory of ours with all that is in it.
    Folder {
        /// Where.
        path: PathBuf,
    },
    /// A file.
    File {
        /// Where.
        path: PathBuf,
    },
    /// A network namespace of `ip netns`.
    Namespace {
        /// Its name.
        name: String,
    },
    /// A cgroup and every process in it.
    Cgroup {
        /// Its folder.
        path: PathBuf,
    },
}

/// The things of one run.
pub struct Ledger {
    path: PathBuf,
    things: Mutex<Vec<Thing>>,
}

impl Ledger {
    /// Opens this process's ledger in `state`.
    ///
    /// # Errors
    /// When the directory or file cannot be written.
    pub fn open(state: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(state).with_context(|| format!("making {}", state.display()))?;
        let state = state.canonicalize()?;
        let pid = std::process::id().cast_signed();
        let start = start_of(pid).context("this process has no start time in /proc")?;
        let path = state.join(format!("{pid}-{start}.ledger"));
        std::fs::write(&path, "").with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { path, things: Mutex::default() })
    }

    /// A name for this run that no other run has, for things whose names the whole machine shares.
    pub fn run(&self) -> String {
        format!("muskox-{}", self.path.file_stem().unwrap_or_default().to_string_lossy())
    }

    /// Writes `thing` down. Call it before making the thing.
    ///
    /// # Errors
    /// When the file cannot be written: then do not make the thing.
    pub fn record(&self, thing: Thing) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(&thing)?;
        line.push('\n');
        let mut file = std::fs::OpenOptions::new().append(true).open(&self.path)?;
        file.write_all(line.as_bytes()).with_context(|| format!("writing {}", self.path.display()))?;
        self.things.lock().expect("no panic under this lock").push(thing);
        Ok(())
    }

    /// Writes a child process down.
    ///
    /// # Errors
    /// When the file cannot be written, or the child is gone already.
    pub fn record_child(&self, pid: u32) -> anyhow::Result<()> {
        let pid = pid.cast_signed();
        self.record(Thing::Process { pid, start: start_of(pid).context("the child is gone already")? })
    }

    /// Takes everything away, the last thing first, and the file with it. Whoever calls second waits for the first.
    ///
    /// # Errors
    /// What could not be taken away; the file stays then.
    pub fn settle(&self) -> anyhow::Result<()> {
        let mut things = self.things.lock().expect("no panic under this lock");
        take_away(&things)?;
        things.clear();
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Takes away what runs left behind in `state`. Runs that still live are ended too. Returns what was done.
///
/// # Errors
/// What could not be taken away.
pub fn clean(state: &Path) -> anyhow::Result<Vec<String>> {
    let mut done = Vec::new();
    let Ok(folder) = std::fs::read_dir(state) else { return Ok(done) };
    for path in folder.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|extension| extension != "ledger") {
            continue;
        }
        if let Some((pid, start)) = owner(&path).filter(|(pid, _)| *pid != std::process::id().cast_signed()) {
            end_process(pid, start)?;
        }
        // A run that was asked to end has settled its own ledger by now.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        // The last line may be torn by the crash; its thing was not made yet.
        let things: Vec<Thing> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        take_away(&things)?;
        done.extend(things.iter().map(|thing| format!("{thing:?}")));
        std::fs::remove_file(&path)?;
    }
    Ok(done)
}

fn owner(path: &Path) -> Option<(i32, u64)> {
    let (pid, start) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

fn take_away(things: &[Thing]) -> anyhow::Result<()> {
    for thing in things.iter().rev() {
        match thing {
            Thing::Process { pid, start } => end_process(*pid, *start)?,
            Thing::Mount { at } if is_mounted(at) => {
                unmount(at.as_path(), UnmountFlags::DETACH).with_context(|| format!("unmounting {}", at.display()))?;
            }
            Thing::Folder { path } => {
                let _ = std::fs::remove_dir_all(path);
            }
            Thing::File { path } => {
                let _ = std::fs::remove_file(path);
            }
            Thing::Namespace { name } => net::remove_namespace(name)?,
            Thing::Cgroup { path } => cgroup::remove(path)?,
            Thing::Mount { .. } => {}
        }
    }
    Ok(())
}

/// Whether something is mounted exactly at `at` (proc_pid_mountinfo(5), fifth field; spaces are `\040`).
pub fn is_mounted(at: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let at = at.to_string_lossy().replace(' ', "\\040");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(at.as_str()))
}

/// When a process began; `None` if there is none or it is a zombie.
pub fn start_of(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and brackets; the fields begin after its last bracket, with the third.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Ends a process: asks, waits, kills. One that is gone, or whose pid is somebody else's by now, is left alone.
fn end_process(pid: i32, start: u64) -> anyhow::Result<()> {
    let lives = || start_of(pid) == Some(start);
    let id = Pid::from_raw(pid).context("a recorded pid is never zero")?;
    for signal in [Signal::TERM, Signal::KILL] {
        if lives() {
            let _ = kill_process(id, signal);
        }
        let asked = Instant::now();
        while lives() && asked.elapsed() < ASKED_FOR {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    anyhow::ensure!(!lives(), "process {pid} does not end");
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;
    use std::process::Command;

    /// Goal: what a crashed run left is taken away, and a stranger with a reused pid lives.
    /// Method: a ledger as a dead run would have left it, naming a child of ours rightly and another wrongly.
    #[test]
    fn leftovers_are_taken_away_and_strangers_live() {
        let state = std::env::temp_dir().join(format!("muskox-ledger-{}", std::process::id()));
        std::fs::create_dir_all(&state).unwrap();
        let sleep = || Command::new("sleep").arg("60").spawn().unwrap();
        let (mut ours, mut stranger) = (sleep(), sleep());
        let process = |pid: u32, shift: u64| {
            let pid = pid.cast_signed();
            serde_json::to_string(&Thing::Process { pid, start: start_of(pid).unwrap() + shift }).unwrap()
        };
        let file = state.join("socket");
        std::fs::write(&file, "").unwrap();
        let file_line = serde_json::to_string(&Thing::File { path: file.clone() }).unwrap();
        let torn = "{\"kind\":\"mou";
        let text = format!("{}\n{}\n{file_line}\n{torn}", process(ours.id(), 0), process(stranger.id(), 1));
        std::fs::write(state.join("1-1.ledger"), text).unwrap();

        let done = clean(&state).unwrap();
        assert_eq!(done.len(), 3, "{done:?}");
        assert!(!ours.wait().unwrap().success(), "it was ended by a signal");
        assert!(stranger.try_wait().unwrap().is_none(), "it lives");
        assert!(!file.exists());
        assert!(std::fs::read_dir(&state).unwrap().next().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        std::fs::remove_dir(&state).unwrap();
    }
}
