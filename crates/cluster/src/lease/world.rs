//! A small world: machines with clocks of their own, links that are cut and slow, dead-men that are not scheduled, end and come
//! back, guards, whole hosts that freeze.

use super::test::{key, keys};
use super::*;
use std::collections::{BTreeMap, BTreeSet};
use units::{Millis, Moment};

/// A cluster of `count` machines, all witnesses and hosts; machine 0's guest is watched.
struct World {
    now: u64,
    random: u64,
    machines: Vec<Machine>,
    cut: BTreeSet<(usize, usize)>,
    messages: BTreeMap<(u64, u64), (usize, usize, Message)>,
    sent: u64,
    owner: usize,
    failovers: u64,
    pauses: u64,
    /// How often the guard had to do the dead-man's work.
    freezes: u64,
    timing: LeaseTiming,
}

struct Machine {
    rate_ppm: i64,
    offset: u64,
    /// The dead-man is not scheduled until then.
    asleep_until: u64,
    /// It has ended, and is started again when it would be scheduled: with what it wrote down, or without.
    ended: Option<bool>,
    /// What it wrote down last.
    written: Option<(HolderPast, WitnessPast, GuardOrder)>,
    /// The whole host stands until then.
    frozen_until: u64,
    holder: Holder,
    witness: Witness,
    standing: Standing,
    guest_runs: bool,
    /// The guest was stopped here, and was not let go on yet.
    held: bool,
    /// Real time at which a stop that was ordered takes effect.
    stops_at: Option<u64>,
    /// Real time at which its target has answered.
    settles_at: Option<u64>,
    votes: BTreeMap<usize, u64>,
}

#[derive(Clone, Copy)]
enum Message {
    Renew { sent: Moment },
    Granted { sent: Moment },
    Ask { about: usize, asked: u64 },
    Dead { about: usize, asked: u64, valid_for: u64 },
}

impl World {
    fn new(seed: u64, count: usize, timing: LeaseTiming) -> Self {
        let mut world = Self {
            now: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            machines: Vec::new(),
            cut: BTreeSet::new(),
            messages: BTreeMap::new(),
            sent: 0,
            owner: 0,
            failovers: 0,
            pauses: 0,
            freezes: 0,
            timing,
        };
        for n in 0..count {
            let rate_ppm = i64::try_from(world.below(1000)).expect("small") - 500;
            let offset = world.below(1 << 40);
            world.machines.push(Machine {
                rate_ppm,
                offset,
                asleep_until: 0,
                ended: None,
                written: None,
                frozen_until: 0,
                holder: Holder::new(key(n), &keys(count), timing),
                witness: Witness::resume(key(n), &keys(count), timing, &WitnessPast::default(), Moment(offset)),
                standing: Standing::Paused,
                guest_runs: n == 0,
                held: false,
                stops_at: None,
                settles_at: None,
                votes: BTreeMap::new(),
            });
        }
        world
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn clock(&self, n: usize) -> Moment {
        let machine = &self.machines[n];
        let drift = i64::try_from(self.now).expect("short runs") * machine.rate_ppm / 1_000_000;
        Moment((machine.offset + self.now).saturating_add_signed(drift))
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if from == to || self.cut.contains(&(from, to)) {
            return;
        }
        let slow = if self.below(20) == 0 { self.below(4_000) } else { 1 + self.below(20) };
        self.sent += 1;
        self.messages.insert((self.now + slow, self.sent), (from, to, message));
    }

    fn awake(&self, n: usize) -> bool {
        self.now >= self.machines[n].asleep_until.max(self.machines[n].frozen_until)
    }

    /// One hundredth of a second.
    fn step(&mut self) {
        self.now += 10;
        self.deliver();
        for n in 0..self.machines.len() {
            if self.now >= self.machines[n].frozen_until {
                self.guest_stops(n);
                self.guard(n);
            }
            if self.awake(n) && self.now.is_multiple_of(50) {
                if let Some(knows) = self.machines[n].ended.take() {
                    self.restart(n, knows);
                }
                self.dead_man(n);
            }
        }
    }

    fn deliver(&mut self) {
        let due: Vec<_> = self.messages.range(..(self.now + 1, 0)).map(|(at, it)| (*at, *it)).collect();
        for (at, (from, to, message)) in due {
            self.messages.remove(&at);
            if !self.awake(to) {
                // It waits in the socket.
                self.messages.insert((self.now + 10, at.1), (from, to, message));
                continue;
            }
            self.receive(from, to, message);
        }
    }

    fn receive(&mut self, from: usize, to: usize, message: Message) {
        let now = self.clock(to);
        let machine = &mut self.machines[to];
        match message {
            Message::Renew { sent } => {
                if machine.witness.renew(key(from), now) == Renewal::Granted {
                    self.send(to, from, Message::Granted { sent });
                }
            }
            Message::Granted { sent } => machine.holder.granted(key(from), sent),
            Message::Ask { about, asked } => {
                let vote = machine.witness.vote(key(about), now);
                self.write(to, now);
                if let Vote::Dead { valid_for } = vote {
                    self.send(to, from, Message::Dead { about, asked, valid_for: valid_for.0 });
                }
            }
            Message::Dead { about, asked, valid_for } => {
                if about == self.owner {
                    // Counted from before the question, shortened by what clocks may differ.
                    machine.votes.insert(from, asked + valid_for - valid_for / 500);
                }
            }
        }
    }

    fn guest_stops(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        if machine.stops_at.is_some_and(|at| self.now >= at) {
            machine.stops_at = None;
            machine.held |= machine.guest_runs;
            machine.guest_runs = false;
        }
    }

    /// The guard looks at nothing but what was written down; a freeze takes what is left of the stop's cost.
    fn guard(&mut self, n: usize) {
        let now = self.clock(n);
        let order = self.machines[n].written.as_ref().map(|(_, _, order)| order);
        if !GuardOrder::is_due(order, now) || !self.machines[n].guest_runs || self.machines[n].stops_at.is_some() {
            return;
        }
        let takes = self.below(self.timing.stop_cost_ms.0 - self.timing.guard_after().0);
        self.machines[n].stops_at = Some(self.now + takes);
        self.freezes += 1;
    }

    /// What the next life and the guard have to know.
    fn write(&mut self, n: usize, now: Moment) {
        let machine = &mut self.machines[n];
        let stopped = !machine.guest_runs && machine.stops_at.is_none();
        let (witnesses, granted) = (machine.holder.witnesses(), machine.holder.granted_until());
        let order = GuardOrder::new((witnesses, machine.standing), granted, stopped, &self.timing, now);
        machine.written = Some((machine.holder.past(), machine.witness.past(now), order));
    }

    fn dead_man(&mut self, n: usize) {
        let now = self.clock(n);
        self.machines[n].witness.tick(now);
        if self.now.is_multiple_of(250) {
            for to in 0..self.machines.len() {
                self.send(n, to, Message::Renew { sent: now });
            }
            self.decide(n, now.0);
        }
        let (stop, answer) = (self.now + self.below(300), self.now + self.below(3_000));
        let (owned, real) = (self.owner == n, self.now);
        let machine = &mut self.machines[n];
        let before = std::mem::replace(&mut machine.standing, machine.holder.tick(now));
        match machine.standing {
            Standing::Paused | Standing::Asking if machine.guest_runs => {
                machine.settles_at = None;
                if machine.stops_at.is_none() {
                    machine.stops_at = Some(stop);
                    self.pauses += 1;
                }
            }
            Standing::Paused => machine.settles_at = None,
            Standing::Asking => machine.holder.resumed(),
            Standing::Running { .. } if machine.held && machine.stops_at.is_none() => {
                // Asked, and after a while answered: whose it is at the moment of the answer.
                let at = *machine.settles_at.get_or_insert(answer);
                if real >= at {
                    (machine.held, machine.guest_runs, machine.settles_at) = (false, owned, None);
                }
            }
            Standing::Running { .. } | Standing::Unwatched => {}
        }
        let changed = std::mem::discriminant(&before) != std::mem::discriminant(&machine.standing);
        if changed || self.now.is_multiple_of(250) {
            self.write(n, now);
        }
    }

    /// Asks everybody about the owner; with a majority of valid votes the guest starts here.
    fn decide(&mut self, n: usize, now: u64) {
        let owner = self.owner;
        if n == owner {
            return;
        }
        if let Vote::Dead { valid_for } = self.machines[n].witness.vote(key(owner), Moment(now)) {
            self.machines[n].votes.insert(n, now + valid_for.0 - valid_for.0 / 500);
            for to in 0..self.machines.len() {
                self.send(n, to, Message::Ask { about: owner, asked: now });
            }
        }
        let valid = self.machines[n].votes.values().filter(|until| now < **until).count();
        // Without its dead-man's leave no guest starts.
        let leave = matches!(self.machines[n].standing, Standing::Running { .. });
        if valid >= majority(self.machines.len()) && leave {
            self.start_on(n);
        }
    }

    fn start_on(&mut self, n: usize) {
        let old = &self.machines[self.owner];
        // A host that thaws needs what a stop costs until its guest stands: that overlap is measured, not promised.
        let stands = self.now < old.frozen_until + self.timing.stop_cost_ms.0;
        assert!(!old.guest_runs || stands, "the guest still runs on {} at {} ms", self.owner, self.now);
        (self.machines[self.owner].guest_runs, self.machines[self.owner].held) = (false, false);
        self.owner = n;
        self.failovers += 1;
        self.machines.iter_mut().for_each(|machine| machine.votes.clear());
        self.machines[n].guest_runs = true;
    }

    /// The dead-man's next life, with or without what the former one wrote down.
    fn restart(&mut self, n: usize, knows: bool) {
        let (now, timing, all) = (self.clock(n), self.timing, keys(self.machines.len()));
        let machine = &mut self.machines[n];
        let written = machine.written.take().filter(|_| knows);
        (machine.holder, machine.witness) = match &written {
            Some((held, voted, _)) => {
                let holder = Holder::resume(key(n), &all, timing, held, now);
                (holder, Witness::resume(key(n), &all, timing, voted, now))
            }
            None => (Holder::new(key(n), &all, timing), Witness::new(key(n), &all, timing, now)),
        };
        (machine.standing, machine.written) = (Standing::Paused, written);
    }

    /// It ends; who starts it again takes this long.
    fn end(&mut self, n: usize, knows: bool, for_ms: u64) {
        let machine = &mut self.machines[n];
        machine.asleep_until = self.now + for_ms;
        machine.ended = Some(knows);
        if !knows {
            machine.written = None;
        }
    }

    fn fault(&mut self) {
        let count = self.machines.len() as u64;
        let pick = |n: u64| usize::try_from(n).expect("small");
        let (a, b) = (pick(self.below(count)), pick(self.below(count)));
        match self.below(11) {
            0..=2 => drop(self.cut.insert((a, b))),
            3 => {
                for other in 0..self.machines.len() {
                    self.cut.extend([(a, other), (other, a)]);
                }
            }
            4 | 5 => self.cut.clear(),
            // Also the owner's: the guard does its work then.
            6 => self.machines[a].asleep_until = self.now + self.below(8_000),
            7 => {
                let (knows, long) = (self.below(2) == 0, self.below(8_000));
                self.end(a, knows, long);
            }
            8 => self.end(a, true, 0),
            9 => self.end(a, false, 0),
            _ => self.machines[a].frozen_until = self.now + self.below(12_000),
        }
    }
}

/// A seeded world of three to five machines with faults; how many failovers, pauses and freezes it saw.
fn stormy(seed: u64) -> [u64; 3] {
    // A short grace makes more failovers; it keeps needless ones away and is no part of the promise.
    let timing = LeaseTiming { rejoin_grace_ms: Millis(4_000), ..LeaseTiming::default() };
    let count = 3 + usize::try_from(seed % 3).expect("small");
    let mut world = World::new(seed, count, timing);
    while world.now < 120_000 {
        world.step();
        if world.now > 8_000 && world.below(200) == 0 {
            world.fault();
        }
    }
    [world.failovers, world.pauses, world.freezes]
}

/// Goal: I2, CA5: the guest never runs on two hosts (but for a frozen one), also where its dead-man hangs or is not started
/// again. Method: seeded worlds of three to five machines with clocks up to 0.1 % apart, lost and slow messages, one-way cuts,
/// pauses, freezes, and dead-men that hang, end, and come back late, with and without what they wrote down.
#[test]
fn no_guest_runs_twice_whatever_happens() {
    let mut seen = [0; 3];
    for seed in 1..=40 {
        seen.iter_mut().zip(stormy(seed)).for_each(|(all, one)| *all += one);
    }
    let [failovers, pauses, freezes] = seen;
    assert!(failovers > 15 && pauses > 100 && freezes > 20, "faults really happened: {seen:?}");
}

/// Goal: I8, a switch that is off for everybody kills nobody. Method: all links cut for a minute, then back one by one.
#[test]
fn a_switch_reboot_fails_nobody_over() {
    for seed in 1..=20 {
        let mut world = World::new(seed, 3, LeaseTiming::default());
        let all: Vec<(usize, usize)> = (0..3).flat_map(|a| (0..3).map(move |b| (a, b))).collect();
        let run = |world: &mut World, until: u64| {
            while world.now < until {
                world.step();
            }
        };
        run(&mut world, 40_000);
        assert!(world.machines[0].guest_runs);
        world.cut.extend(&all);
        run(&mut world, 100_000);
        assert!(!world.machines[0].guest_runs, "an isolated host pauses its guests");
        for port in 0..3 {
            let until = world.now + world.below(5_000);
            run(&mut world, until);
            // A port works with the ports that are back already.
            world.cut.retain(|(a, b)| *a.max(b) > port);
        }
        let back = world.now;
        run(&mut world, back + 5_000);
        assert_eq!((world.failovers, world.owner), (0, 0));
        assert!(world.machines[0].guest_runs, "it goes on within 5 s");
    }
}

/// Goal: a host that lost its power is failed over soon after the detection time. Method: cut it for good.
#[test]
fn a_dead_host_is_failed_over_soon() {
    for seed in 1..=20 {
        let mut world = World::new(seed, 3, LeaseTiming::default());
        while world.now < 40_000 {
            world.step();
        }
        world.cut.extend((0..3).flat_map(|n| [(0, n), (n, 0)]));
        let died = world.now;
        while world.failovers == 0 && world.now < died + 20_000 {
            world.step();
        }
        assert!(world.now - died < 9_000, "it took {} ms", world.now - died);
    }
}

/// Goal: without the dead-man I2 is violated, and this world sees it. Method: the bug planted, worlds until one shows it.
#[cfg(feature = "sabotage")]
#[test]
fn without_a_dead_man_a_guest_runs_twice() {
    let _planted = units::sabotage::plant(units::sabotage::Bug::NoDeadman);
    let seen = (1..=40).any(|seed| std::panic::catch_unwind(|| stormy(seed)).is_err());
    assert!(seen, "a guest that is never paused runs twice in one of 40 worlds");
}

/// Goal: CA5: without the guard I2 is violated where a dead-man hangs or is gone, and this world sees it. Method: likewise.
#[cfg(feature = "sabotage")]
#[test]
fn without_a_guard_a_guest_runs_twice() {
    let _planted = units::sabotage::plant(units::sabotage::Bug::NoGuard);
    let seen = (1..=40).any(|seed| std::panic::catch_unwind(|| stormy(seed)).is_err());
    assert!(seen, "a guest whose dead-man hangs runs twice in one of 40 worlds");
}
