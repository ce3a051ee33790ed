//! The QEMUs of this host, as dead-man and guard see them: found by their folders, frozen and thawed, with a mark in the folder
//! that says who stopped them.
//!
//! Invariant: a mark is there before what it tells of is done; what cannot be looked at is not taken for absent.

mod group;
mod mark;

use host::vm::{Folder, Identity, Process, Signal, Vm};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub use group::own_group;
pub use mark::{Mark, Marked, Who};

/// More machines than a host runs.
pub const GUESTS_MAX: usize = 1024;

/// A folder with a live QEMU.
pub struct Live {
    /// Its folder's name: the VM's.
    pub name: String,
    /// Its folder.
    pub folder: Folder,
    /// Its QEMU.
    pub process: Process,
}

/// What a look came to.
#[derive(Default)]
pub struct Found {
    /// Every machine that certainly has a live QEMU.
    pub live: Vec<Rc<Live>>,
    /// What could not be looked at, in words.
    pub unknown: Vec<String>,
}

impl Live {
    /// Who its QEMU is.
    pub fn identity(&self) -> &Identity {
        self.process.identity()
    }

    /// Whether it lives, by what is held of it: nothing is opened for that.
    fn lives(&self) -> bool {
        // Not known is not dead.
        !matches!(self.process.has_ended(), Ok(Some(_)))
    }
}

/// The guests of this host. One that was seen is a guest until it has ended, also while nothing can be looked at (too many files
/// are open, say): it must be stopped all the same.
pub struct Guests {
    vms: PathBuf,
    known: RefCell<BTreeMap<PathBuf, Rc<Live>>>,
}

impl Guests {
    /// The machines whose folders are in `vms`.
    pub fn new(vms: &Path) -> Self {
        Self { vms: vms.to_owned(), known: RefCell::default() }
    }

    /// Looks for every machine that has a live QEMU. The marks of one that is gone are taken away.
    pub fn look(&self) -> Found {
        let (mut known, mut unknown) = (self.known.borrow_mut(), Vec::new());
        known.retain(|_, guest| guest.lives());
        let cannot = |what: &str, error: &std::io::Error| format!("'{}' cannot be {what}: {error}", self.vms.display());
        match std::fs::read_dir(&self.vms) {
            Ok(entries) => {
                for entry in entries.take(GUESTS_MAX) {
                    match entry.map(|entry| entry.path()) {
                        Ok(path) if known.contains_key(&path) => {}
                        Ok(path) => match look_at(&path) {
                            Ok(Some(live)) => drop(known.insert(path, Rc::new(live))),
                            Ok(None) => {}
                            Err(why) => unknown.push(why),
                        },
                        Err(error) => unknown.push(cannot("listed", &error)),
                    }
                }
            }
            // No machine has been started here yet.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => unknown.push(cannot("looked at", &error)),
        }
        Found { live: known.values().cloned().collect(), unknown }
    }

    /// Whether any machine has a mark of anybody's: a look that costs two system calls a machine. One that cannot be looked at
    /// may have.
    pub fn some_marked(&self) -> bool {
        let Ok(entries) = std::fs::read_dir(&self.vms) else { return !self.known.borrow().is_empty() };
        let mut folders = entries.filter_map(Result::ok).take(GUESTS_MAX).map(|entry| entry.path());
        let there =
            |path: PathBuf| !matches!(path.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound);
        folders.any(|folder| folder.is_dir() && Who::ALL.iter().any(|who| there(folder.join(who.file()))))
    }
}

fn look_at(path: &Path) -> Result<Option<Live>, String> {
    let Ok(folder) = Folder::new(path) else { return Ok(None) };
    let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { return Ok(None) };
    match Vm::process_in(&folder) {
        Ok(Some(process)) => Ok(Some(Live { name, folder, process })),
        Ok(None) => {
            Who::ALL.iter().for_each(|who| Mark::remove(&folder, *who));
            Ok(None)
        }
        // Not known is not dead: its marks stay.
        Err(error) => Err(format!("VM '{name}' cannot be looked at: {error}")),
    }
}

/// Begins to freeze a QEMU: by its own control group, if it has one, else by SIGSTOP. Nothing is waited for.
///
/// # Errors
/// What the system said; it may run on.
pub fn begin_freeze(process: &Process) -> Result<(), String> {
    let group = own_group(process.identity().pid).map(|group| group.begin_freeze());
    if let Some(Ok(())) = group {
        return Ok(());
    }
    signal_stop(process)
}

/// Stops a QEMU by a signal.
///
/// # Errors
/// What the system said; it may run on.
pub fn signal_stop(process: &Process) -> Result<(), String> {
    process.signal(Signal::STOP).map_err(|error| format!("it can neither be frozen nor stopped: {error}"))
}

/// Whether a QEMU stands: every thread of it is frozen, or it is stopped by a signal.
pub fn is_frozen(process: &Process) -> bool {
    let pid = process.identity().pid;
    let by_group = own_group(pid).is_some_and(|group| group.is_frozen().unwrap_or(false));
    by_group || is_stopped(pid)
}

/// Source: `proc_pid_stat(5)`: the state is the first word after the name, which may hold anything.
fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rfind(')').and_then(|end| stat[end + 1..].split_ascii_whitespace().next()) == Some("T")
}
