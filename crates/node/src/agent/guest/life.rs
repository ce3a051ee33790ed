//! A QEMU that runs: taken over, watched, its initiator kept.

use super::Guest;
use crate::agent::{initiator, supervise};
use crate::peer::Brief;
use cluster::job::Guest as State;
use cluster::store::Revision;
use host::vm::{Cgroup, Folder, Vm};
use std::rc::Rc;
use std::time::{Duration, Instant};
use units::Epoch;

/// A QEMU that runs but does not listen (frozen, say) is asked again this often.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A tap that is still in use after this long is somebody else's.
const UNPLUG_MAX: Duration = Duration::from_secs(1);
const UNPLUG_AGAIN: Duration = Duration::from_millis(20);
/// The file that names its QEMU's control group for a later life of ours. Root's: whoever writes it says who is killed.
pub(super) const CGROUP: &str = "cgroup";

impl Guest {
    /// Finds out what of it lives from before we were started.
    pub(super) async fn adopt(self: &Rc<Self>) {
        let place = &self.shared.place;
        let Ok(folder) = self.folder() else { return };
        let noted = std::fs::read_to_string(place.beside(&self.name).join(CGROUP)).ok();
        let cgroup = noted.and_then(|path| Cgroup::open(path.trim().as_ref()).ok());
        self.facts.borrow_mut().cgroup = cgroup;
        loop {
            match Vm::adopt(&folder).await {
                Ok(Some(vm)) => {
                    let epoch = initiator::epoch(place, &self.name).await;
                    let epoch = epoch.or(self.facts.borrow().memory.epoch);
                    self.facts.borrow_mut().epoch = epoch;
                    tracing::info!(vm = %self.name, "its QEMU runs as process {}", vm.process().identity().pid);
                    self.hold(vm);
                    self.keep_initiator();
                    return;
                }
                Ok(None) => {
                    self.leave_nothing().await;
                    self.is_now(State::Absent);
                    return;
                }
                Err(error) => {
                    self.because(Some(format!("its QEMU runs but does not listen: {error}")));
                    // A new order may end it; until then it is asked again.
                    let wished = async {
                        while self.wanted.borrow().is_none() {
                            self.woken.notified().await;
                        }
                    };
                    if tokio::time::timeout(ASK_AGAIN, wished).await.is_ok() {
                        self.woken.notify_one();
                        return;
                    }
                }
            }
        }
    }

    /// From here on this QEMU is the VM's.
    pub(super) fn hold(self: &Rc<Self>, vm: Vm) {
        let vm = Rc::new(vm);
        let watching = self.shared.tasks.spawn(Rc::clone(self).watch(Rc::clone(&vm)));
        let mut facts = self.facts.borrow_mut();
        facts.vm = Some(vm);
        if let Some(former) = facts.watching.replace(watching) {
            former.abort();
        }
    }

    /// A QEMU that was to be shut down lives on, because something newer is wished: it is watched again.
    pub(super) fn watch_on(self: &Rc<Self>) {
        let mut facts = self.facts.borrow_mut();
        if let (Some(vm), None) = (facts.vm.clone(), &facts.watching) {
            facts.watching = Some(self.shared.tasks.spawn(Rc::clone(self).watch(vm)));
        }
    }

    /// Lets go of the QEMU, which may run on.
    pub(super) fn let_go(&self) {
        let mut facts = self.facts.borrow_mut();
        if let Some(watching) = facts.watching.take() {
            watching.abort();
        }
        if let Some(vm) = facts.vm.take() {
            vm.qmp().close();
        }
    }

    /// Starts the initiator anew when it dies, at the same epoch.
    pub(super) fn keep_initiator(&self) {
        let (cgroup, disks) = {
            let facts = self.facts.borrow();
            (facts.cgroup.clone(), facts.memory.brief.disks.len())
        };
        if disks == 0 {
            return;
        }
        let daemon = initiator::daemon(&self.shared.place, &self.name, cgroup);
        let keeping = self.shared.tasks.spawn(supervise::keep(daemon));
        if let Some(former) = self.facts.borrow_mut().keeping.replace(keeping) {
            former.abort();
        }
    }

    /// Nobody starts the initiator anew from here on.
    pub(super) fn keep_no_initiator(&self) {
        if let Some(keeping) = self.facts.borrow_mut().keeping.take() {
            keeping.abort();
        }
    }

    /// Whether every volume is attached at this epoch, waiting until it is.
    pub(super) async fn attach(&self, epoch: Epoch) -> Result<(), String> {
        self.keep_no_initiator();
        let (brief, cgroup) = {
            let facts = self.facts.borrow();
            (facts.memory.brief.clone(), facts.cgroup.clone())
        };
        let waits = |why| self.because(Some(why));
        initiator::attach(&self.shared.place, &brief, epoch, cgroup, waits).await?;
        self.facts.borrow_mut().epoch = Some(epoch);
        self.because(None);
        self.keep_initiator();
        Ok(())
    }

    /// The folder of its QEMU.
    pub(super) fn folder(&self) -> Result<Folder, String> {
        Folder::new(&self.shared.place.machine(&self.name)).map_err(|error| error.to_string())
    }

    /// A control group of its own, noted where a later life of ours finds it.
    pub(super) fn make_group(&self) -> Result<Option<Cgroup>, String> {
        let place = &self.shared.place;
        // Several hosts may rehearse on one machine.
        let whose = crate::agent::network::short_hash(&place.run("").to_string_lossy());
        let cgroup = host::vm::make_group(&format!("muskox-{whose}-{}", self.name));
        let file = place.beside(&self.name).join(CGROUP);
        if let Some(cgroup) = &cgroup {
            let text = format!("{}\n", cgroup.path().display());
            std::fs::write(&file, text).map_err(|error| format!("'{}': {error}", file.display()))?;
        }
        self.facts.borrow_mut().cgroup.clone_from(&cgroup);
        Ok(cgroup)
    }

    /// Whether certainly nothing of it is here, nothing is wished of it or under way, and nothing was heard after this.
    pub fn is_nothing_since(&self, at: Revision) -> bool {
        let quiet = {
            let facts = self.facts.borrow();
            let watched = facts.watching.as_ref().is_some_and(|watching| !watching.is_finished());
            let heard = facts.memory.orders.newest() > at;
            facts.state == State::Absent && facts.vm.is_none() && facts.keeping.is_none() && !watched && !heard
        };
        let rests = self.adopted.get() && self.wanted.borrow().is_none();
        // Asked last: looking for processes takes milliseconds.
        quiet && rests && self.nothing_lives()
    }

    fn nothing_lives(&self) -> bool {
        let qemu = self.folder().is_ok_and(|folder| matches!(Vm::process_in(&folder), Ok(None)));
        qemu && matches!(initiator::daemon(&self.shared.place, &self.name, None).find(), Ok(None))
    }

    /// Removes its taps. The kernel closes what a killed QEMU had open a moment after its end is seen.
    async fn unplug(&self, brief: &Brief) {
        let begun = Instant::now();
        while let Err(text) = crate::agent::network::unplug(&self.shared.place, brief) {
            if begun.elapsed() > UNPLUG_MAX {
                return tracing::warn!(vm = %self.name, "{text}");
            }
            tokio::time::sleep(UNPLUG_AGAIN).await;
        }
    }

    /// Removes what belongs to a QEMU that is gone: its initiator, taps, control group.
    pub(super) async fn leave_nothing(&self) {
        self.keep_no_initiator();
        self.forget_move_key();
        let (brief, cgroup) = {
            let mut facts = self.facts.borrow_mut();
            (facts.epoch, facts.port, facts.peer, facts.user) = (None, None, None, None);
            (facts.memory.brief.clone(), facts.cgroup.take())
        };
        if let Err(error) = supervise::end(&initiator::daemon(&self.shared.place, &self.name, None)).await {
            tracing::error!(vm = %self.name, "{error}");
        }
        if let Ok(folder) = self.folder()
            && matches!(Vm::process_in(&folder), Ok(None))
        {
            folder.sweep();
        }
        self.unplug(&brief).await;
        if let Some(cgroup) = cgroup {
            host::vm::remove_group(&cgroup).await;
            let _ = std::fs::remove_file(self.shared.place.beside(&self.name).join(CGROUP));
        }
    }
}
