//! A guest is ended: by its power button, or at once.

use super::Guest;
use super::life::CGROUP;
use crate::agent::place::Place;
use crate::agent::{initiator, supervise};
use cluster::job::Guest as State;
use host::vm::{Cgroup, Folder, Patience, Stopped, Vm, VmError};
use std::rc::Rc;
use units::{Millis, VmName};

/// For QEMU to end after `quit`: it flushes its disks.
pub(super) const QUIT_MAX: Millis = Millis(5_000);
/// Killing takes milliseconds, unless a process hangs in a disk.
const KILL_MAX: Millis = Millis(5_000);

impl Guest {
    /// Ends its QEMU, whatever that does, and everything around it.
    pub(super) async fn destroy(self: &Rc<Self>) -> Result<(), String> {
        self.let_go();
        self.keep_no_initiator();
        let cgroup = self.facts.borrow().cgroup.clone();
        end_qemu(&self.folder()?, cgroup.as_ref()).await?;
        self.leave_nothing().await;
        self.because(None);
        self.is_now(State::Absent);
        Ok(())
    }

    /// Presses the power button and gives the guest its time; then the plug.
    pub(super) async fn shut_down(self: &Rc<Self>, patience: Millis) -> Result<(), String> {
        let Some(vm) = self.vm() else { return self.destroy().await };
        // What it says from here on is expected.
        if let Some(watching) = self.facts.borrow_mut().watching.take() {
            watching.abort();
        }
        let ended = vm.shutdown(Patience { guest: patience, quit: QUIT_MAX }).await;
        self.tell_end("stopped", &ended);
        self.destroy().await
    }

    /// The guest switched itself off: QEMU waits only to say so.
    pub(super) async fn switched_off(self: &Rc<Self>, vm: &Vm) {
        if let Err(error) = self.remember(|memory| memory.powered_off = true) {
            tracing::error!(vm = %self.name, "{error}");
        }
        let ended = vm.shutdown(Patience { guest: Millis(0), quit: QUIT_MAX }).await;
        self.tell_end("the guest switched itself off", &ended);
        self.ended(None).await;
    }

    fn tell_end(&self, what: &str, ended: &Result<Stopped, VmError>) {
        match ended {
            Ok(ended) => tracing::info!("VM '{}': {what}; {ended}", self.name),
            Err(error) => tracing::warn!("VM '{}': {what}; how its QEMU ended is not known: {error}", self.name),
        }
    }

    /// QEMU is gone: told first, then cleared away.
    pub(super) async fn ended(self: &Rc<Self>, why: Option<String>) {
        // The watching task stays known until all is cleared away, so that a start that comes in between ends it.
        self.facts.borrow_mut().vm = None;
        self.because(why);
        self.is_now(State::Absent);
        self.leave_nothing().await;
    }
}

/// Ends the QEMU of a folder, also what the dead-man has frozen.
async fn end_qemu(folder: &Folder, cgroup: Option<&Cgroup>) -> Result<(), String> {
    if let Some(cgroup) = cgroup.filter(|cgroup| cgroup.path().exists()) {
        cgroup.kill(KILL_MAX).await.map_err(|error| error.to_string())?;
    }
    if let Some(process) = Vm::process_in(folder).map_err(|error| error.to_string())? {
        let failed = |error| format!("QEMU cannot be ended: {error}");
        process.end_at_once().map_err(failed)?;
        process.end(KILL_MAX).await.map_err(failed)?;
    }
    Ok(())
}

/// Ends the processes of a VM that is not known here, and clears away what they leave.
///
/// # Errors
/// What of it cannot be ended, or may still be there.
pub async fn end_processes(place: &Place, vm: &VmName) -> Result<(), String> {
    let folder = Folder::new(&place.machine(vm)).map_err(|error| error.to_string())?;
    let note = place.beside(vm).join(CGROUP);
    let cgroup = match std::fs::read_to_string(&note) {
        Ok(path) => Cgroup::open(path.trim().as_ref()).ok(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("'{}' cannot be read: {error}", note.display())),
    };
    end_qemu(&folder, cgroup.as_ref()).await?;
    supervise::end(&initiator::daemon(place, vm, None)).await?;
    folder.sweep();
    if let Some(cgroup) = cgroup {
        host::vm::remove_group(&cgroup).await;
    }
    let _ = std::fs::remove_file(note);
    Ok(())
}
