//! A host: its agent, its dead-man, and at most one QEMU that behaves as measured (lab: what failures leave).

use crate::job::{Action, Guest, Order, Orders};
use std::collections::BTreeMap;
use units::Epoch;

/// One QEMU.
#[derive(Clone, Debug)]
pub struct Qemu {
    pub state: Guest,
    /// vCPUs run (unless the whole host stands).
    pub runs: bool,
    pub epoch: Epoch,
    /// Which life of the guest: a migration keeps it, a start makes a new one.
    pub boot: u64,
    /// Writes made: the guest's memory.
    pub memory: u64,
    /// When the copy or the switch is done.
    pub busy_until: u64,
    pub destination: Option<usize>,
    /// `migrate-continue` was passed on to it.
    pub passed_on: bool,
    /// When it began to wait before the switch.
    pub waits_since: u64,
}

impl Qemu {
    fn new(state: Guest, runs: bool, epoch: Epoch, boot: u64) -> Self {
        let (memory, busy_until, destination, passed_on, waits_since) = (0, 0, None, false, 0);
        Self { state, runs, epoch, boot, memory, busy_until, destination, passed_on, waits_since }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Host {
    pub qemu: Option<Qemu>,
    pub orders: Orders,
    pub off_until: u64,
    pub frozen_until: u64,
    /// Who is told of changes: controller, its life, the order's revision.
    pub watcher: Option<(usize, u64, crate::store::Revision)>,
    pub told: Option<(Guest, Option<Epoch>)>,
    /// The dead-man's.
    pub granted_at: u64,
    pub paused: bool,
    /// The witnesses' votes bind them until then.
    pub voted_until: u64,
    pub heard_at: u64,
    /// When an order about the VM was heard last.
    pub spoken_at: u64,
    /// When the question was sent that each target answered last at the guest's epoch.
    pub open: BTreeMap<usize, u64>,
}

impl Host {
    pub fn up(&self, now: u64) -> bool {
        now >= self.off_until && now >= self.frozen_until
    }

    pub fn runs(&self, now: u64) -> bool {
        self.up(now) && self.qemu.as_ref().is_some_and(|qemu| qemu.runs)
    }

    pub fn guest(&self) -> Guest {
        match &self.qemu {
            None => Guest::Absent,
            Some(Qemu { state: Guest::Running, runs: false, .. }) => Guest::Stopped,
            Some(qemu) => qemu.state,
        }
    }

    pub fn epoch(&self) -> Option<Epoch> {
        self.qemu.as_ref().map(|qemu| qemu.epoch)
    }

    /// Lets the guest run, unless the dead-man forbids it.
    pub fn go_on(&mut self, epoch: Epoch) {
        let may = !self.paused;
        if let Some(qemu) = &mut self.qemu {
            (qemu.state, qemu.epoch, qemu.runs) = (Guest::Running, epoch, may);
        }
    }

    /// The agent's work; false: an order of the past.
    pub fn obey(&mut self, order: &Order, action: &Action, (now, chance, boot): (u64, u64, u64)) -> bool {
        if !self.orders.admit(order) {
            return false;
        }
        self.spoken_at = now;
        match action {
            Action::Incoming { epoch, .. } if self.qemu.as_ref().is_none_or(|it| !it.runs && it.epoch < *epoch) => {
                self.qemu = Some(Qemu::new(Guest::Incoming, false, *epoch, 0));
            }
            Action::Start { epoch, .. } if !self.paused => {
                if self.qemu.as_ref().is_none_or(|it| it.epoch != *epoch) {
                    self.qemu = Some(Qemu::new(Guest::Running, true, *epoch, boot));
                }
                self.go_on(*epoch);
            }
            Action::Destroy { .. } => self.qemu = None,
            Action::Return { epoch, .. } => self.go_on(*epoch),
            _ => self.obey_qemu(action, now, chance),
        }
        true
    }

    fn obey_qemu(&mut self, action: &Action, now: u64, chance: u64) {
        let (paused, Some(qemu)) = (self.paused, &mut self.qemu) else {
            return;
        };
        match (action, qemu.state) {
            (Action::Migrate { destination, .. }, Guest::Running) if qemu.runs => {
                qemu.state = Guest::Copying;
                qemu.busy_until = now + 200 + chance % 1_000;
                qemu.destination = Some(super::world::index(*destination));
                qemu.passed_on = false;
            }
            (Action::Continue { .. }, Guest::PreSwitchover) => {
                qemu.state = Guest::Switching;
                qemu.passed_on = true;
                qemu.busy_until = now + 10 + chance % 60;
            }
            (Action::Cont { epoch, .. }, Guest::Loaded | Guest::Running) if qemu.epoch == *epoch => self.go_on(*epoch),
            (Action::Cancel { .. }, Guest::Copying) => qemu.state = Guest::Running,
            (Action::Cancel { .. }, Guest::PreSwitchover | Guest::Switching | Guest::Running) => {
                (qemu.state, qemu.runs) = (Guest::Running, !paused);
            }
            _ => {}
        }
    }
}
