//! What goes wrong, and how it ends.

use super::world::{CONTROLLERS, MACHINES, World};
use crate::job::{Record, Task, cancel};
use crate::store::Engine;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KillController,
    KillQemu(usize),
    PowerOff(usize),
    Isolate(usize),
    Freeze(usize),
    CutPair(usize, usize),
    /// A host alone for a while and both targets down for longer than votes bind.
    Blackout(usize),
    StoreDown,
    TargetDown(usize),
    Cancel,
}

impl World {
    /// The fault that waits for a number of commands.
    pub fn strike(&mut self) {
        if let Some((at, fault)) = self.fault_at
            && self.commands == at
        {
            self.fault(fault);
        }
    }

    pub fn power_off(&mut self, host: usize, span: u64) {
        let destination = self.hosts[host].qemu.take().and_then(|qemu| qemu.destination);
        self.orphan(destination);
        self.hosts[host].off_until = self.now + span;
        self.hosts[host].watcher = None;
        self.controllers[host].life += 1;
        self.controllers[host].run = None;
    }

    pub fn cut_until(&mut self, a: usize, b: usize, until: u64) {
        self.cut.insert((a.min(b), a.max(b)), until);
    }

    pub fn isolate(&mut self, host: usize, until: u64) {
        let others = (0..MACHINES).filter(|other| *other != host);
        self.cut.extend(others.map(|other| ((host.min(other), host.max(other)), until)));
    }

    pub fn fault(&mut self, fault: Fault) {
        self.struck_at = Some(self.now);
        let span = 1_000 + self.below(9_000);
        match fault {
            Fault::KillController => {
                let mut busy = CONTROLLERS.into_iter().filter(|c| self.controllers[*c].run.is_some());
                if let Some(c) = busy.next() {
                    self.controllers[c].dead_until = self.now + 60_000;
                    self.controllers[c].life += 1;
                    self.controllers[c].run = None;
                }
            }
            Fault::KillQemu(host) => {
                let destination = self.hosts[host].qemu.take().and_then(|qemu| qemu.destination);
                self.orphan(destination);
            }
            Fault::PowerOff(host) => self.power_off(host, 30_000),
            Fault::Isolate(host) => self.isolate(host, self.now + span),
            Fault::Blackout(host) => {
                self.isolate(host, self.now + span);
                let until = self.now + span + 10_000 + self.below(5_000);
                self.targets.iter_mut().for_each(|it| it.down_until = until);
            }
            Fault::Freeze(host) => self.hosts[host].frozen_until = self.now + span,
            Fault::CutPair(a, b) => drop(self.cut.insert((a.min(b), a.max(b)), self.now + span)),
            Fault::StoreDown => self.store_down_until = self.now + span,
            // Longer than votes bind: whoever was voted dead may be back before the fence is acknowledged.
            Fault::TargetDown(t) => self.targets[t].down_until = self.now + 2 * span,
            Fault::Cancel => {
                let owned = self.ownership();
                if let Some(id) = owned.job {
                    let entry = self.store.get(&Record::<Task>::key(&id)).expect("memory");
                    let entry = entry.expect("the job that is named");
                    let txn = cancel::<Task>(&entry).expect("it works on it");
                    self.transact(&txn);
                }
            }
        }
    }

    /// All faults end.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.lossy = false;
        self.hasty = false;
        self.store_down_until = 0;
        self.targets.iter_mut().for_each(|it| it.down_until = 0);
        for host in &mut self.hosts {
            host.frozen_until = host.frozen_until.min(self.now);
            host.off_until = host.off_until.min(self.now);
        }
        self.controllers.iter_mut().for_each(|it| it.dead_until = 0);
    }
}
