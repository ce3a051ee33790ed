//! A cluster small enough to own: three hosts, two storage boxes, controllers, a store, links, and what goes wrong.

use super::controller::Controller;
use super::host::Host;
use super::target::{Target, Write};
use crate::job::{Action, Event, Guest, Order, Ownership, Record, Report, Task};
use crate::migrate::Waiting;
use crate::store::{Compare, Engine, Key, Memory, Outcome, Revision, Txn};
use std::collections::{BTreeMap, BTreeSet};
use units::{Epoch, HostKey, Millis, Moment};

/// 0, 1, 2: hosts. 3: the storage box with the store and target 0. 4: the one with target 1. All are witnesses.
pub const MACHINES: usize = 5;
/// Machines with a control plane.
pub const CONTROLLERS: [usize; 3] = [3, 1, 2];
/// Shorter than real, for more failovers: no part of any promise.
pub const GRACE: u64 = 4_000;
/// A host that was frozen runs its guest until its dead-man is scheduled.
const THAW: u64 = 60;

#[derive(Clone, Debug)]
pub struct Violation(pub &'static str, pub String);

/// Where an answer belongs.
#[derive(Clone, Debug)]
pub struct Line {
    pub controller: usize,
    pub life: u64,
    pub at: Revision,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Message {
    Txn(usize, u64, u64, Txn),
    Get(usize, u64, u64, Key),
    Store(usize, u64, Event),
    Agent(usize, usize, u64, Order, Action),
    Target(usize, Line),
    Acked(usize, Line),
    /// A host asks a target whether its guest's epoch is open: from which host, which target, when it was sent.
    Question(usize, usize, u64),
    /// It is, of this epoch.
    Open(usize, usize, u64, Epoch),
    Report(usize, u64, Revision, Report),
}

pub fn key(n: usize) -> HostKey {
    HostKey([u8::try_from(n + 1).expect("a few machines"); 32])
}

pub fn index(host: HostKey) -> usize {
    usize::from(host.0[0]) - 1
}

pub struct World {
    pub now: u64,
    random: u64,
    pub store: Memory,
    pub store_down_until: u64,
    pub hosts: Vec<Host>,
    pub targets: Vec<Target>,
    pub controllers: Vec<Controller>,
    pub majority_since: Vec<u64>,
    pub cut: BTreeMap<(usize, usize), u64>,
    messages: BTreeMap<(u64, u64), (usize, usize, Message)>,
    sent: u64,
    recorded: BTreeSet<(Epoch, Option<HostKey>)>,
    last_owned: Ownership,
    newest_started: Epoch,
    pub wish: Option<usize>,
    pub commands: u64,
    pub fault_at: Option<(u64, super::fault::Fault)>,
    pub struck_at: Option<u64>,
    pub violation: Option<Violation>,
    pub power: bool,
    pub hasty: bool,
    pub lossy: bool,
    pub boots: u64,
    pub takeovers: u64,
    pub moves: u64,
    pub overlap_ms: u64,
    /// Guests that ran on because nobody spoke.
    pub ran_on: u64,
}

impl World {
    /// A VM with two volumes that runs on host 0.
    pub fn new(seed: u64) -> Self {
        let volumes = vec!["a".parse().expect("a name"), "b".parse().expect("a name")];
        let owned = Ownership::new("web1".parse().expect("a name"), volumes).expect("two volumes");
        let mut store = Memory::new();
        store.txn(&Txn { compares: vec![], then: owned.puts(), otherwise: vec![] }).expect("an empty store");
        Self {
            now: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            store,
            store_down_until: 0,
            hosts: vec![Host::default(); MACHINES],
            targets: vec![Target::default(); 2],
            controllers: vec![Controller::default(); MACHINES],
            majority_since: vec![0; MACHINES],
            cut: BTreeMap::new(),
            messages: BTreeMap::new(),
            sent: 0,
            recorded: BTreeSet::new(),
            last_owned: owned,
            newest_started: Epoch(0),
            wish: None,
            commands: 0,
            fault_at: None,
            struck_at: None,
            violation: None,
            power: false,
            hasty: false,
            lossy: false,
            boots: 0,
            takeovers: 0,
            moves: 0,
            overlap_ms: 0,
            ran_on: 0,
        }
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    /// Each machine's clock began at another moment.
    pub fn clock(&self, machine: usize) -> Moment {
        Moment(self.now + 1_000_000 * (MACHINES - machine) as u64)
    }

    pub fn machine_up(&self, machine: usize) -> bool {
        self.hosts[machine].up(self.now)
    }

    pub fn linked(&self, a: usize, b: usize) -> bool {
        a == b || self.cut.get(&(a.min(b), a.max(b))).is_none_or(|until| *until <= self.now)
    }

    pub fn heard(&self, a: usize, b: usize) -> bool {
        self.linked(a, b) && self.machine_up(a) && self.machine_up(b)
    }

    pub fn store_answers(&self, machine: usize) -> bool {
        self.heard(machine, 3) && self.now >= self.store_down_until
    }

    /// As the store has it now: everything that changes it comes through [`World::transact`].
    pub fn ownership(&self) -> Ownership {
        self.last_owned.clone()
    }

    fn stored_ownership(&mut self) -> Ownership {
        let entry = self.store.get(&Ownership::key(&self.last_owned.vm)).expect("memory").expect("never removed");
        Ownership::read(&entry.value).expect("written by us")
    }

    pub fn send(&mut self, from: usize, to: usize, message: Message) {
        let lost = self.lossy && self.below(100) == 0;
        let until =
            self.cut.get(&(from.min(to), from.max(to))).copied().filter(|until| from != to && *until > self.now);
        // What was sent over a cut link may still be on its way when the link is back: TCP sends it again.
        let late = self.lossy && self.below(2) == 0;
        if lost || (until.is_some() && !late) {
            return;
        }
        let slow = if self.lossy && self.below(30) == 0 { self.below(4_000) } else { 1 + self.below(8) };
        self.sent += 1;
        self.messages.insert((until.unwrap_or(self.now) + slow, self.sent), (from, to, message));
    }

    /// A store that cannot be reached says so, or nothing.
    pub fn send_store(&mut self, from: usize, message: Message) {
        if self.linked(from, 3) || self.below(2) == 0 {
            return self.send(from, 3, message);
        }
        if let Message::Txn(c, life, ticket, _) | Message::Get(c, life, ticket, _) = message {
            self.send(c, c, Message::Store(c, life, Event::StoreLost(ticket)));
        }
    }

    /// One hundredth of a second.
    pub fn step(&mut self) {
        self.now += 10;
        self.deliver();
        for host in 0..3 {
            self.progress(host);
        }
        if self.now.is_multiple_of(50) {
            (0..MACHINES).for_each(|machine| self.witness(machine));
            (0..3).for_each(|host| self.dead_man(host));
            (0..3).for_each(|host| self.run_on_alone(host));
        }
        if self.now.is_multiple_of(20) {
            (0..3).for_each(|host| self.guest_writes(host));
        }
        if self.now.is_multiple_of(500) {
            (0..3).for_each(|host| self.reconcile(host));
        }
        for t in 0..2 {
            match self.targets[t].step(self.now, self.newest_started) {
                Ok(told) => {
                    for line in told {
                        self.send(3 + t, line.controller, Message::Acked(t, line));
                    }
                }
                Err(Violation(invariant, text)) => self.violate(invariant, &text),
            }
        }
        if self.now.is_multiple_of(50) {
            CONTROLLERS.into_iter().for_each(|c| self.control(c));
        }
        self.check_running();
    }

    pub fn violate(&mut self, invariant: &'static str, text: &str) {
        let text = format!("at {} ms: {text}", self.now);
        self.violation.get_or_insert(Violation(invariant, text));
    }

    fn deliver(&mut self) {
        let due: Vec<_> = self.messages.range(..(self.now + 1, 0)).map(|(at, _)| *at).collect();
        for at in due {
            let Some((from, to, message)) = self.messages.remove(&at) else {
                continue;
            };
            if self.now < self.hosts[to].frozen_until {
                self.messages.insert((self.now + 10, at.1), (from, to, message));
            } else if self.heard(to, to) && self.linked(from, to) {
                self.receive(message);
            }
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Txn(c, life, ticket, txn) if self.now >= self.store_down_until => {
                let outcome = self.transact(&txn);
                self.send(3, c, Message::Store(c, life, Event::Stored(ticket, outcome)));
            }
            Message::Get(c, life, ticket, key) if self.now >= self.store_down_until => {
                let entry = self.store.get(&key).expect("memory does not fail");
                self.send(3, c, Message::Store(c, life, Event::Read(ticket, entry)));
            }
            Message::Txn(..) | Message::Get(..) => {}
            Message::Store(c, life, event) if self.controllers[c].life == life && self.alive(c) => self.tell(c, event),
            Message::Report(c, life, at, report) if self.controllers[c].life == life && self.alive(c) => {
                self.tell(c, Event::Report(at, report));
            }
            Message::Store(..) | Message::Report(..) => {}
            Message::Agent(host, c, life, order, action) => self.at_agent(host, (c, life), &order, &action),
            Message::Target(t, line) => self.at_target(t, &line),
            Message::Acked(t, line) => self.acked(t, line),
            Message::Question(host, t, sent) => self.answer_open(host, t, sent),
            Message::Open(host, t, sent, epoch) => {
                let host = &mut self.hosts[host];
                if host.epoch() == Some(epoch) {
                    host.open.insert(t, sent);
                }
            }
        }
    }

    fn at_agent(&mut self, host: usize, (c, life): (usize, u64), order: &Order, action: &Action) {
        let (chance, boot) = (self.below(1 << 20), self.boots + 1);
        let source_of = self.hosts[host].qemu.as_ref().and_then(|qemu| qemu.destination);
        let (owner, epoch) = (self.last_owned.owner, self.last_owned.epoch);
        let owns = owner == Some(key(host)) && self.hosts[host].qemu.as_ref().is_some_and(|it| it.epoch == epoch);
        if !self.attaches(host, action) || !self.hosts[host].obey(order, action, (self.now, chance, boot)) {
            return;
        }
        if self.hosts[host].qemu.as_ref().is_some_and(|qemu| qemu.boot == boot) {
            self.boots = boot;
        }
        if self.hosts[host].qemu.is_none() {
            self.orphan(source_of);
        }
        if owns && matches!(action, Action::Destroy { .. }) {
            self.violate("I9", &format!("the owner's guest on host {host} was destroyed by {order:?}"));
        }
        self.hosts[host].watcher = Some((c, life, order.at));
        self.hosts[host].told = None;
    }

    /// A guest runs only with its volumes attached at the epoch it was ordered to: an order that comes too late finds the
    /// gate closed.
    fn attaches(&self, host: usize, action: &Action) -> bool {
        let (Action::Start { epoch, .. } | Action::Cont { epoch, .. } | Action::Return { epoch, .. }) = action else {
            return true;
        };
        (0..2).all(|t| {
            let target = &self.targets[t];
            self.linked(host, 3 + t) && self.now >= target.down_until && target.epoch <= *epoch
        })
    }

    /// A waiting destination whose source is gone exits.
    pub fn orphan(&mut self, destination: Option<usize>) {
        if let Some(d) = destination
            && self.hosts[d].qemu.as_ref().is_some_and(|qemu| qemu.state == Guest::Incoming)
        {
            self.hosts[d].qemu = None;
        }
    }

    pub fn transact(&mut self, txn: &Txn) -> Outcome {
        let outcome = self.store.txn(txn).expect("well-formed");
        let owned = self.stored_ownership();
        if outcome.held && owned != self.last_owned {
            let (old, new) = (&self.last_owned, &owned);
            let same = old.epoch == new.epoch;
            if new.epoch < old.epoch || (same && old.owner != new.owner) {
                let text =
                    format!("ownership went from {} {:?} to {} {:?}", old.epoch, old.owner, new.epoch, new.owner);
                self.violate("I9", &text);
            }
            let at_once = new.puts().into_iter().all(|put| txn.then.contains(&put));
            if !at_once || !txn.compares.iter().any(|it| matches!(it, Compare::Value(..))) {
                self.violate("I9", "the volumes did not move with their VM");
            }
            self.moves += u64::from(!same);
            self.recorded.insert((owned.epoch, owned.owner));
            self.last_owned = owned;
        }
        outcome
    }

    /// Every raise is backed by a transaction.
    pub fn check_recorded(&mut self, epoch: Epoch, owner: Option<HostKey>) {
        if !self.recorded.contains(&(epoch, owner)) {
            self.violate("I9", &format!("a raise to {epoch} for {owner:?} that the store knows nothing of"));
        }
    }

    fn check_running(&mut self) {
        let running: Vec<usize> = (0..3).filter(|host| self.hosts[*host].runs(self.now)).collect();
        let thawed = running.iter().any(|host| self.now < self.hosts[*host].frozen_until + THAW);
        match running.len() {
            0 | 1 => {}
            _ if thawed => self.overlap_ms += 10,
            _ => self.violate("I2", &format!("the guest runs on {running:?}")),
        }
        for host in running {
            let qemu = self.hosts[host].qemu.as_ref().expect("it runs");
            let epoch = qemu.epoch;
            if !self.recorded.contains(&(epoch, Some(key(host)))) {
                self.violate("I9", &format!("host {host} runs at {epoch} and never owned it"));
            }
            self.newest_started = self.newest_started.max(epoch);
        }
    }

    fn guest_writes(&mut self, host: usize) {
        // Two seconds of three it is idle: an idle guest does not notice that it was fenced.
        if !self.hosts[host].runs(self.now) || !(self.now / 1_000).is_multiple_of(3) {
            return;
        }
        let slow = if self.below(6) == 0 { 300 } else { 10 };
        let lands_at = self.now + 1 + self.below(slow);
        let qemu = self.hosts[host].qemu.as_mut().expect("it runs");
        let (epoch, boot, number) = (qemu.epoch, qemu.boot, qemu.memory + 1);
        qemu.memory = number;
        let arrived = |it: &Host| {
            it.qemu.as_ref().is_some_and(|it| it.state == Guest::Loaded && it.boot == boot && it.epoch > epoch)
        };
        let behind = self.hosts.iter().any(arrived);
        for t in 0..2 {
            let linked = self.linked(host, 3 + t);
            let target = &mut self.targets[t];
            if !linked || self.now < target.down_until {
                continue;
            }
            if !target.admits(epoch, key(host)) {
                // A refused write stops the guest: werror=stop.
                self.hosts[host].qemu.as_mut().expect("it runs").runs = false;
                return;
            }
            let newest =
                target.writes.iter().chain(&target.last).filter(|it| it.boot == boot).map(|it| it.number).max();
            target.writes.push(Write { lands_at, epoch, boot, number });
            if behind {
                self.violate("I9", &format!("host {host} writes on although its memory has arrived elsewhere"));
            }
            if newest.is_some_and(|newest| newest >= number) {
                self.violate("I9", &format!("host {host} runs with a memory older than its disk"));
            }
        }
    }

    /// What QEMU does by itself.
    fn progress(&mut self, host: usize) {
        if !self.hosts[host].up(self.now) {
            return;
        }
        self.migrate(host);
        let guest = self.hosts[host].guest();
        let epoch = self.hosts[host].epoch();
        if self.hosts[host].told != Some((guest, epoch))
            && let Some((c, life, at)) = self.hosts[host].watcher
        {
            self.hosts[host].told = Some((guest, epoch));
            self.send(host, c, Message::Report(c, life, at, Report::Guest { host: key(host), guest, epoch }));
        }
    }

    fn migrate(&mut self, host: usize) {
        let Some(qemu) = self.hosts[host].qemu.clone().filter(|qemu| qemu.busy_until <= self.now) else {
            return;
        };
        let Some(d) = qemu.destination else {
            return;
        };
        let linked = self.heard(host, d);
        let waits = self.hosts[d].qemu.as_ref().is_some_and(|there| there.state == Guest::Incoming);
        let paused = self.hosts[host].paused;
        let luck = self.below(10);
        let here = self.hosts[host].qemu.as_mut().expect("cloned above");
        match qemu.state {
            // A cut link: it stays active for ever.
            Guest::Copying if !linked => {}
            Guest::Copying if !waits => here.state = Guest::Running,
            Guest::Copying => (here.state, here.runs, here.waits_since) = (Guest::PreSwitchover, false, self.now),
            Guest::Switching if linked && waits => {
                // Once in a while the last answer is lost: the source resumes by itself while the memory has arrived.
                let lost = luck == 0 && self.lossy;
                here.state = if lost { Guest::Running } else { Guest::PostMigrate };
                here.runs = lost && !paused;
                let there = self.hosts[d].qemu.as_mut().expect("it waits");
                (there.state, there.boot, there.memory) = (Guest::Loaded, qemu.boot, qemu.memory);
            }
            Guest::Switching if luck < 4 => (here.state, here.runs) = (Guest::Running, !paused),
            Guest::Switching if luck < 7 => here.state = Guest::Running,
            Guest::Switching => here.busy_until = u64::MAX,
            _ => {}
        }
    }

    fn witness(&mut self, machine: usize) {
        let hears = (0..MACHINES).filter(|other| self.heard(machine, *other)).count();
        if hears <= MACHINES / 2 {
            self.majority_since[machine] = self.now;
        }
        if hears > 1 {
            self.hosts[machine].heard_at = self.now;
        }
    }

    fn dead_man(&mut self, n: usize) {
        let reaches = (0..MACHINES).filter(|other| self.heard(n, *other)).count() > MACHINES / 2;
        let asks = self.linked(n, 3) && self.linked(n, 4) && self.targets.iter().all(|it| self.now >= it.down_until);
        let grants = self.targets.iter().map(|it| (it.epoch, it.owner)).collect::<Vec<_>>();
        let host = &mut self.hosts[n];
        if !host.up(self.now) {
            return;
        }
        let granted = reaches && self.now >= host.voted_until;
        if granted && self.now.saturating_sub(host.granted_at) <= 2_500 {
            host.granted_at = self.now;
        }
        if self.now.saturating_sub(host.granted_at) > 2_500 {
            host.paused = true;
            host.granted_at = if granted { self.now } else { host.granted_at };
        }
        let Some(qemu) = host.qemu.as_mut() else {
            host.paused = host.paused && !granted;
            return;
        };
        if host.paused {
            qemu.runs = false;
        }
        if !(host.paused && granted && asks) {
            return;
        }
        host.paused = false;
        if grants.iter().any(|(epoch, _)| *epoch > qemu.epoch) {
            let destination = qemu.destination;
            host.qemu = None;
            self.orphan(destination);
        } else {
            qemu.runs = qemu.state == Guest::Running && grants.iter().all(|it| *it == (qemu.epoch, Some(key(n))));
        }
    }

    /// The heartbeat of a guest's initiator.
    fn answer_open(&mut self, host: usize, t: usize, sent: u64) {
        let (target, epoch) = (&self.targets[t], self.hosts[host].epoch());
        if let Some(epoch) = epoch.filter(|epoch| self.now >= target.down_until && target.admits(*epoch, key(host))) {
            self.send(3 + t, host, Message::Open(host, t, sent, epoch));
        }
    }

    /// A source that waits before the switch-over, and that nobody speaks to, may run on.
    fn run_on_alone(&mut self, n: usize) {
        if !self.hosts[n].up(self.now) || self.hosts[n].qemu.is_none() {
            self.hosts[n].open.clear();
            return;
        }
        if self.now.is_multiple_of(250) {
            (0..2).for_each(|t| self.send(n, 3 + t, Message::Question(n, t, self.now)));
        }
        let (now, host) = (self.now, &self.hosts[n]);
        let qemu = host.qemu.as_ref().expect("looked at above");
        let heard = (0..2).map(|t| host.open.get(&t)).collect::<Option<Vec<_>>>();
        let waiting = Waiting {
            guest: qemu.state,
            silent: Millis(now - host.spoken_at.max(qemu.waits_since).min(now)),
            holds_back: !qemu.passed_on,
            leased: !host.paused && now.saturating_sub(host.granted_at) <= 2_500,
            heard: heard.and_then(|sent| sent.into_iter().min()).map(|sent| Millis(now - sent)),
        };
        if waiting.may_run_on().is_err() {
            return;
        }
        self.ran_on += 1;
        let paused = host.paused;
        let qemu = self.hosts[n].qemu.as_mut().expect("looked at above");
        (qemu.state, qemu.runs) = (Guest::Running, !paused);
        let destination = qemu.destination;
        self.orphan(destination);
    }

    /// The host's own loop: without a job, what the store says is made so.
    fn reconcile(&mut self, n: usize) {
        if !self.store_answers(n) {
            return;
        }
        let owned = self.ownership();
        let (host, mine) = (&mut self.hosts[n], owned.owner == Some(key(n)));
        if owned.job.is_some() || host.paused {
            return;
        }
        let granted = self.targets.iter().all(|it| (it.epoch, it.owner) == (owned.epoch, owned.owner));
        match &mut host.qemu {
            Some(_) if !mine => host.qemu = None,
            Some(qemu) if granted && (!qemu.runs || qemu.state != Guest::Running) => host.go_on(owned.epoch),
            _ => {}
        }
    }

    pub fn run_until(&mut self, until: u64) {
        while self.now < until && self.violation.is_none() {
            self.step();
        }
    }

    /// The job that works on the VM, as stored, for a person.
    pub fn last_job(&mut self) -> String {
        let job = self.last_owned.job.clone();
        let entry = job.and_then(|id| self.store.get(&Record::<Task>::key(&id)).expect("memory"));
        entry.map_or_else(|| "no job".to_owned(), |entry| entry.value)
    }

    /// Everything is as it should be: free of jobs, running where the store says.
    pub fn at_rest(&mut self) -> Result<(), String> {
        let owned = self.ownership();
        let running: Vec<usize> = (0..3).filter(|host| self.hosts[*host].runs(self.now)).collect();
        match (&owned.job, owned.owner.map(index), &running[..]) {
            (None, Some(owner), [host]) if owner == *host => Ok(()),
            (job, owner, _) => Err(format!("job {job:?}, owner {owner:?}, running {running:?}")),
        }
    }
}
