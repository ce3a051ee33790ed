//! The world of one run: a box with disks and a target, hosts that write, a manager that moves the volume, a nemesis.
//!
//! Two phases. Chaos: faults as the knobs say, always inside what the design promises to survive (one member at a time, two
//! of three, none while no other holds everything). Then faults stop, and everything must converge within [`HEAL_MAX_MS`]: target
//! up, all members in sync, a raise acknowledged, every sector read back, members equal (I14).

pub(crate) mod call;
mod hosts;
mod knobs;
mod manager;
mod nemesis;
pub(crate) mod target;

pub use knobs::Knobs;

use crate::checkers::{Invariant, Referee, Violation};
use crate::disk::{Lies, SimDisk};
use crate::executor::{Executor, Stopped};
use crate::memory::BoxMemory;
use crate::rng::Rng;
use block::wait::WaitList;
use call::Cut;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use target::Target;
use units::Epoch;

/// How long convergence may take once faults have stopped: a resync of one megabyte, a few drains of 1500 ms, restarts
/// of at most 2 s; a healthy run takes about a tenth.
const HEAL_MAX_MS: u64 = 120_000;

/// What one run did and found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The run.
    pub seed: u64,
    /// How it was set up.
    pub knobs: Knobs,
    /// Broken promises, the first one first.
    pub violations: Vec<Violation>,
    /// Everything that happened, in one number.
    pub hash: u64,
    /// Virtual time.
    pub simulated_ms: u64,
    /// Writes made by hosts.
    pub writes: usize,
    /// What happened how often, by name.
    pub deeds: BTreeMap<&'static str, u64>,
}

/// Whether faults are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Chaos,
    Heal,
    /// Hosts stop, so that the last comparison is of a quiet world.
    Rest,
}

/// Who was told to use the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub host: u8,
    pub epoch: Epoch,
}

/// Everything of one run.
pub(crate) struct World {
    pub exec: Executor,
    pub knobs: Knobs,
    pub referee: Rc<Referee>,
    pub disks: Vec<Rc<SimDisk>>,
    /// What the box remembers of its members.
    pub memory: Rc<BoxMemory>,
    pub verbose: bool,
    pub phase: Cell<Phase>,
    pub target: RefCell<Option<Rc<Target>>>,
    /// The target came, went or learnt something; hosts and manager look again.
    pub changed: WaitList,
    /// The last epoch each host was told to use, and the one whose fence was acknowledged last.
    pub told: RefCell<BTreeMap<u8, Epoch>>,
    pub owner: Cell<Assignment>,
    /// The store's counter: the highest epoch anybody took.
    pub store: Cell<Epoch>,
    /// An in-sync member is missing and the running target knows no floor.
    pub blind: Cell<bool>,
    /// Operations of hosts that are not answered yet.
    pub pending: Cell<u64>,
    deeds: RefCell<BTreeMap<&'static str, u64>>,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, verbose: bool) -> Report {
    run_on(seed, verbose, Lies::default())
}

/// Runs one seed on disks that lie, which no mirror survives: for whoever wants to see the checkers see it.
#[must_use]
pub fn run_on(seed: u64, verbose: bool, lies: Lies) -> Report {
    let mut rng = Rng::new(seed);
    let knobs = Knobs::draw(&mut rng);
    let exec = Executor::new(rng.fork());
    let disks: Vec<_> = (0..knobs.disks).map(|number| SimDisk::new(number, knobs.model, &exec, rng.fork())).collect();
    disks.iter().for_each(|disk| disk.lies.set(lies));
    let referee = Referee::new(&exec);
    referee.watch(&disks);
    referee.verbose.set(verbose);
    let world = Rc::new(World {
        exec: exec.clone(),
        knobs,
        referee,
        disks,
        memory: BoxMemory::new(&exec, rng.fork(), None),
        verbose,
        phase: Cell::new(Phase::Chaos),
        target: RefCell::new(None),
        changed: WaitList::default(),
        told: RefCell::default(),
        owner: Cell::default(),
        store: Cell::default(),
        blind: Cell::new(false),
        pending: Cell::new(0),
        deeds: RefCell::default(),
    });
    world.play(&mut rng);
    world.report(seed)
}

impl World {
    fn play(self: &Rc<Self>, rng: &mut Rng) {
        let machine = self.exec.machine();
        let started = Rc::new(Cut::default());
        let (world, flag, first) = (Rc::clone(self), Rc::clone(&started), rng.fork());
        machine.go(async move {
            nemesis::create(&world, first).await;
            flag.cut();
        });
        if !self.expect(self.exec.run(60_000_000, || started.is_cut()), "the array is created") {
            return;
        }
        for host in 0..self.knobs.hosts {
            machine.go(hosts::live(Rc::clone(self), host, rng.fork()));
        }
        machine.go(manager::manage(Rc::clone(self), rng.fork()));
        machine.go(nemesis::harm(Rc::clone(self), rng.fork()));
        machine.go(nemesis::repair(Rc::clone(self), rng.fork()));
        machine.go(nemesis::look(Rc::clone(self)));
        let end_us = self.exec.now_us() + self.knobs.chaos_ms * 1000;
        let stopped = self.exec.run(end_us, || self.referee.unhappy());
        if stopped == Stopped::Spinning {
            self.referee.note(Invariant::I14, "tasks wake each other for ever".to_owned());
        }
        if !self.referee.unhappy() {
            self.heal(rng.fork());
        }
    }

    /// Faults stop; everything must converge.
    fn heal(self: &Rc<Self>, rng: Rng) {
        self.say(|| "faults stop".to_owned());
        self.phase.set(Phase::Heal);
        let healed = Rc::new(Cut::default());
        let (world, flag) = (Rc::clone(self), Rc::clone(&healed));
        self.exec.machine().go(async move {
            manager::converge(&world, rng).await;
            flag.cut();
        });
        let until_us = self.exec.now_us() + HEAL_MAX_MS * 1000;
        let stopped = self.exec.run(until_us, || healed.is_cut() || self.referee.unhappy());
        if !self.referee.unhappy() {
            self.expect(stopped, "everything converges after the faults");
        }
    }

    fn expect(&self, stopped: Stopped, what: &str) -> bool {
        if stopped != Stopped::Done {
            let target = self.target.borrow().as_ref().map(|target| target.describe());
            let detail = format!("{what}: {stopped:?}; target {target:?}, {} operations pending", self.pending.get());
            self.referee.note(Invariant::I14, detail);
        }
        stopped == Stopped::Done
    }

    fn report(&self, seed: u64) -> Report {
        let mut deeds = self.deeds.take();
        for disk in &self.disks {
            for (name, count) in disk.happened.get().named() {
                *deeds.entry(name).or_default() += count;
            }
        }
        let report = Report {
            seed,
            knobs: self.knobs,
            violations: self.referee.violations(),
            hash: self.exec.hash(),
            simulated_ms: self.exec.now_us() / 1000,
            writes: self.referee.writes(),
            deeds,
        };
        self.target.take();
        self.referee.target(None);
        self.exec.shut_down();
        report
    }

    /// Counts something that happened.
    pub fn did(&self, what: &'static str) {
        *self.deeds.borrow_mut().entry(what).or_default() += 1;
        self.say(|| what.to_owned());
    }

    /// Tells whoever replays a seed.
    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>10} us  {}", self.exec.now_us(), what());
        }
    }

    /// The running target, or the next one.
    pub async fn running(&self) -> Rc<Target> {
        loop {
            let now = self.target.borrow().as_ref().filter(|target| target.process().alive()).cloned();
            match now {
                Some(target) => return target,
                None => self.changed.wait().await,
            }
        }
    }
}
