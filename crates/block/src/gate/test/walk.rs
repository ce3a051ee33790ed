//! A random walk over the gate, watched by an oracle that knows only what was promised, not how it is kept.
//!
//! The world: two members that hold records (one may be away), a store whose floor may be out of reach, three hosts
//! that attach, write, die and come back, raises and reservations at random, kills of the target at any point. The
//! oracle's promises are the `claim!` lines; the seed and the step are in the message when one is broken.

use super::host;
use crate::gate::record::{Grant, Owner};
use crate::gate::*;
use std::collections::BTreeMap;
use units::Moment;

const HOSTS: [char; 3] = ['A', 'B', 'C'];

/// xorshift64*, so that a seed is a walk on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).expect("31 bits") % sides
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.roll(one_in) == 0
    }
}

struct Below {
    session: SessionId,
    attachment: Attachment,
    kind: Kind,
    ticket: Ticket,
}

struct World {
    dice: Dice,
    now: Moment,
    gate: Gate,
    members: [Vec<Vec<u8>>; 2],
    /// Who is in the array; what an absent member holds grows old.
    present: [bool; 2],
    storing: Option<Grant>,
    failing: bool,
    names: u64,
    doors: BTreeMap<SessionId, (Door, Attachment)>,
    attaching: BTreeMap<SessionId, Request>,
    /// When each session that was admitted or waits last sent something.
    heard: BTreeMap<SessionId, Moment>,
    /// The newest stock client admitted for writing, by host and epoch.
    stock: BTreeMap<(HostKey, Epoch), SessionId>,
    below: Vec<Below>,
    asks: BTreeMap<AskId, Epoch>,
    /// What the control plane raised so far; an epoch has one set of owners.
    claims: BTreeMap<Epoch, Claim>,
    /// The highest acknowledged.
    acked: Epoch,
    /// The highest admitted by host and epoch.
    highest: BTreeMap<(HostKey, Epoch), Incarnation>,
    seen: Seen,
}

/// What happened, so that a walk that tests nothing is noticed.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    acks: u64,
    admitted: u64,
    writes: u64,
    fenced: u64,
    restarts: u64,
    waited: u64,
    blocked: u64,
    /// Stock clients that replaced a silent one, and that were refused for one in use.
    replaced: u64,
    in_use: u64,
}

macro_rules! claim {
    ($kept:expr, $($broken:tt)+) => {
        if !$kept {
            return Err(format!($($broken)+));
        }
    };
}

type Kept = Result<(), String>;

fn walk(seed: u64, steps: u64) -> Result<Seen, String> {
    let mut world = World::new(seed);
    for step in 0..steps {
        world.step().map_err(|broken| format!("seed {seed}, step {step}: {broken}"))?;
    }
    world.heal().map_err(|broken| format!("seed {seed}, after healing: {broken}"))?;
    Ok(world.seen)
}

fn new_gate(records: &[Vec<u8>], complete: bool, floor: Option<Epoch>, now: Moment) -> Gate {
    Gate::open("web1".parse().expect("a name"), records, complete, floor, now)
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            now: Moment(0),
            gate: new_gate(&[], true, None, Moment(0)),
            members: [Vec::new(), Vec::new()],
            present: [true; 2],
            storing: None,
            failing: false,
            names: 0,
            doors: BTreeMap::new(),
            attaching: BTreeMap::new(),
            heard: BTreeMap::new(),
            stock: BTreeMap::new(),
            below: Vec::new(),
            asks: BTreeMap::new(),
            claims: BTreeMap::from([(Epoch(0), Claim { epoch: Epoch(0), shared: false, owners: Vec::new() })]),
            acked: Epoch(0),
            highest: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    fn step(&mut self) -> Kept {
        self.now.0 += self.dice.roll(40) as u64;
        match self.dice.roll(100) {
            0..=14 => self.attach(),
            15..=19 => self.detach(),
            20..=23 => self.raise(),
            24..=25 => self.reserve(),
            26..=54 => self.knock(),
            55..=81 => self.end_one(),
            82..=92 => self.answer_store(),
            93..=95 => self.tick(),
            96 => self.feed(Event::Floor(self.top())),
            97 => self.lose_or_regain_a_member(),
            _ => {
                if self.dice.chance(4) {
                    self.restart()
                } else {
                    self.come_again()
                }
            }
        }
    }

    fn lose_or_regain_a_member(&mut self) -> Kept {
        if self.present == [true; 2] {
            self.present[self.dice.roll(2)] = false;
            return Ok(());
        }
        // The array's part: a member counts as in sync only once it holds the newest records.
        let records = self.members.concat();
        if let Some(newest) = Grant::newest(records.iter().map(Vec::as_slice)).0 {
            self.members = [(); 2].map(|()| vec![newest.encode().to_vec()]);
        }
        self.present = [true; 2];
        self.feed(Event::Found { records, complete: true })
    }

    /// The oldest epoch and incarnation facts that every present member holds.
    fn durable(&self) -> Vec<Grant> {
        let present = self.members.iter().zip(self.present).filter(|&(_, present)| present);
        present.map(|(records, _)| Grant::newest(records.iter().map(Vec::as_slice)).0.unwrap_or_default()).collect()
    }

    fn host(&mut self) -> HostKey {
        host(HOSTS[self.dice.roll(HOSTS.len())])
    }

    fn mode(&mut self) -> Mode {
        if self.dice.chance(4) { Mode::Ro } else { Mode::Rw }
    }

    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    /// The highest epoch that the control plane has decided: what its store says.
    fn top(&self) -> Epoch {
        *self.claims.keys().next_back().expect("epoch 0 is there")
    }

    /// Nobody is heard for so long as to be taken for gone; then a host that is attached comes over a new connection.
    fn come_again(&mut self) -> Kept {
        self.now = self.now + STOCK_SILENCE;
        if self.doors.is_empty() {
            return Ok(());
        }
        let at = self.dice.roll(self.doors.len());
        let Attachment { host, mode, .. } = self.doors.values().nth(at).expect("rolled within").1;
        self.ask_in(Request::Stock { host, mode })
    }

    fn attach(&mut self) -> Kept {
        let (host, mode) = (self.host(), self.mode());
        let request = if self.dice.chance(2) {
            Request::Stock { host, mode }
        } else {
            let epoch = Epoch((self.top().0 + self.dice.roll(5) as u64).saturating_sub(2));
            let known = self.highest.get(&(host, epoch)).map_or(0, |highest| highest.0);
            let incarnation = Incarnation((known + self.dice.roll(4) as u64).saturating_sub(1));
            Request::Exact(Attachment { host, epoch, incarnation, mode })
        };
        self.ask_in(request)
    }

    fn ask_in(&mut self, request: Request) -> Kept {
        let session = SessionId(self.name());
        self.attaching.insert(session, request);
        self.heard.insert(session, self.now);
        self.feed(Event::Attach(session, request))?;
        self.seen.waited += u64::from(self.attaching.contains_key(&session));
        Ok(())
    }

    fn detach(&mut self) -> Kept {
        let sessions: Vec<SessionId> = self.doors.keys().chain(self.attaching.keys()).copied().collect();
        if sessions.is_empty() {
            return Ok(());
        }
        let session = sessions[self.dice.roll(sessions.len())];
        self.doors.remove(&session);
        self.attaching.remove(&session);
        self.feed(Event::Detach(session))
    }

    /// A raise as the control plane makes it: owners of an epoch are decided once; old ones are sent again at random.
    fn raise(&mut self) -> Kept {
        let epoch = Epoch((self.top().0 + self.dice.roll(4) as u64).saturating_sub(1));
        let shared = self.dice.chance(4);
        let mut owners: Vec<(HostKey, Mode)> = Vec::new();
        for letter in HOSTS {
            let writes = shared || owners.iter().all(|&(_, mode)| mode == Mode::Ro);
            if self.dice.chance(2) {
                owners.push((host(letter), if writes { self.mode() } else { Mode::Ro }));
            }
        }
        let claim = self.claims.entry(epoch).or_insert(Claim { epoch, shared, owners }).clone();
        self.ask(epoch, |ask| Event::Raise(ask, claim))
    }

    fn reserve(&mut self) -> Kept {
        let epoch = Epoch(self.top().0 + 1 + self.dice.roll(2) as u64);
        let host = self.host();
        // A promise says nothing about acknowledged raises: epoch 0 stands for "no raise".
        self.ask(Epoch(0), |ask| Event::Reserve(ask, epoch, host))
    }

    fn ask(&mut self, epoch: Epoch, event: impl FnOnce(AskId) -> Event) -> Kept {
        let ask = AskId(self.name());
        self.asks.insert(ask, epoch);
        self.feed(event(ask))
    }

    /// An operation at a random door, also of sessions that were revoked.
    fn knock(&mut self) -> Kept {
        if self.doors.is_empty() || self.below.len() > 12 {
            return Ok(());
        }
        let at = self.dice.roll(self.doors.len());
        let (&session, &(door, attachment)) = self.doors.iter().nth(at).expect("rolled within");
        let kind = if self.dice.chance(3) { Kind::Read } else { Kind::Write };
        self.gate.heard(door, self.now);
        self.heard.insert(session, self.now);
        match self.gate.admit(door, kind, self.now) {
            Ok(ticket) => {
                self.below.push(Below { session, attachment, kind, ticket });
                self.check_admitted_operation(session, &attachment, kind)
            }
            Err(_) => {
                self.seen.fenced += 1;
                Ok(())
            }
        }
    }

    fn check_admitted_operation(&mut self, session: SessionId, attachment: &Attachment, kind: Kind) -> Kept {
        let acked = self.acked;
        claim!(attachment.epoch >= acked, "{attachment:?} passed after {acked} was acknowledged");
        let newest = self.highest.get(&(attachment.host, attachment.epoch));
        claim!(newest == Some(&attachment.incarnation), "{attachment:?} passed, newest is {newest:?}");
        if kind == Kind::Write {
            self.seen.writes += 1;
            let owners = self.claims.get(&attachment.epoch).map_or(&[][..], |claim| &claim.owners);
            claim!(owners.contains(&(attachment.host, Mode::Rw)), "{attachment:?} wrote, granted to {owners:?}");
            claim!(attachment.mode == Mode::Rw, "{attachment:?} wrote");
            let older = self.below.iter().find(|b| b.attachment.epoch < attachment.epoch && b.kind == Kind::Write);
            claim!(older.is_none(), "{attachment:?} wrote over {:?}", older.map(|b| b.attachment));
            let newer = self.stock.get(&(attachment.host, attachment.epoch)).filter(|newer| **newer > session);
            claim!(newer.is_none(), "{session:?} wrote after its host's client {newer:?} was admitted");
        }
        Ok(())
    }

    fn end_one(&mut self) -> Kept {
        if self.below.is_empty() {
            return Ok(());
        }
        let at = self.dice.roll(self.below.len());
        let ended = self.below.swap_remove(at);
        if self.gate.ended(ended.ticket) { self.feed(Event::Drained) } else { Ok(()) }
    }

    /// The store's answer: done, or failed with none, one or all members written.
    fn answer_store(&mut self) -> Kept {
        let Some(grant) = self.storing.take() else { return Ok(()) };
        let failed = self.dice.chance(6);
        self.write_members(&grant, failed);
        self.feed(Event::Stored(if failed { Err(crate::DeviceError::DataLost { lost: 1 }) } else { Ok(()) }))
    }

    fn write_members(&mut self, grant: &Grant, torn: bool) {
        for member in 0..2 {
            let skipped = !self.present[member] || (torn && self.dice.chance(2));
            if !skipped {
                self.members[member] = vec![grant.encode().to_vec()];
            }
        }
    }

    fn tick(&mut self) -> Kept {
        if self.failing {
            self.failing = false;
            let answer = [Laggards::Failed, Laggards::LastMember, Laggards::Unrecorded][self.dice.roll(3)];
            return self.feed(Event::LaggardsFailed(answer));
        }
        self.now.0 += 1000;
        self.feed(Event::Tick)
    }

    /// The target is killed: what was below the gate has ended, what was being stored landed or not.
    fn restart(&mut self) -> Kept {
        if let Some(grant) = self.storing.take() {
            self.write_members(&grant, true);
        }
        self.seen.restarts += 1;
        self.failing = false;
        self.doors.clear();
        self.attaching.clear();
        self.asks.clear();
        // Tickets are the old process's; its kernel has ended them before the new one starts.
        self.below.clear();
        let missing = [None, Some(0), Some(1)][self.dice.roll(3)];
        let readable = (0..2).filter(|&member| missing != Some(member));
        let records: Vec<Vec<u8>> = readable.flat_map(|member| self.members[member].clone()).collect();
        let reading = [0, 1].map(|member| missing != Some(member));
        self.present = [0, 1].map(|member| self.present[member] && reading[member]);
        if self.present == [false; 2] {
            // Only a member is there that the array had failed: its bytes are as old as its incarnations, which is the
            // array's to prevent. The floor still keeps the epochs.
            self.present = reading;
            self.highest.clear();
        }
        let floor = self.dice.chance(2).then(|| self.top());
        self.gate = new_gate(&records, missing.is_none(), floor, self.now);
        if missing.is_some() && floor.is_none() {
            self.seen.blocked += 1;
            self.attach()?;
            let state = self.gate.state();
            claim!(state == State::Blocked(Blocked::Floor), "{state} with a member missing and no floor");
            self.raise()?;
            let (records, complete) = (self.members.concat(), true);
            self.present = [true; 2];
            return self.feed(Event::Found { records, complete });
        }
        let (epoch, acked) = (self.gate.rights.epoch(), self.acked);
        claim!(epoch >= acked, "restarted at {epoch}, {acked} was acknowledged");
        Ok(())
    }

    fn feed(&mut self, event: Event) -> Kept {
        for command in self.gate.step(self.now, event) {
            self.obey(command)?;
        }
        let (epoch, acked) = (self.gate.rights.epoch(), self.acked);
        let blocked = self.gate.blocked() == Some(Blocked::Floor);
        claim!(blocked || epoch >= acked, "at {epoch} after {acked} was acknowledged");
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Kept {
        match command {
            Command::Store(grant) => {
                claim!(self.storing.is_none(), "two stores at once");
                claim!(Grant::decode(&grant.encode()) == Ok(grant.clone()), "{grant:?} is not read back");
                self.storing = Some(grant);
            }
            Command::Admitted(session, door, attachment) => {
                self.seen.admitted += 1;
                let request = self.attaching.remove(&session).ok_or_else(|| format!("{session:?} did not wait"))?;
                self.heard.insert(session, self.now);
                if matches!(request, Request::Stock { mode: Mode::Rw, .. }) {
                    self.stock.insert((attachment.host, attachment.epoch), session);
                    let replaces = self.writers(attachment.host).next().is_some();
                    self.seen.replaced += u64::from(replaces);
                }
                self.doors.insert(session, (door, attachment));
                return self.check_admitted_session(&attachment);
            }
            Command::Refused(session, refusal) => {
                let request = self.attaching.remove(&session).ok_or_else(|| format!("{session:?} did not wait"))?;
                return self.check_refused_session(&request, &refusal);
            }
            Command::Ack(ask) => {
                let epoch = self.asks.remove(&ask).ok_or_else(|| format!("{ask:?} answered twice"))?;
                return self.check_ack(epoch);
            }
            Command::Decline(ask, _) => claim!(self.asks.remove(&ask).is_some(), "{ask:?} answered twice"),
            Command::FailLaggards(_) => {
                claim!(!self.failing, "two at once");
                self.failing = true;
            }
            Command::Revoke(_) | Command::WakeAt(_) => {}
        }
        Ok(())
    }

    fn check_ack(&mut self, epoch: Epoch) -> Kept {
        self.seen.acks += 1;
        self.acked = self.acked.max(epoch);
        let durable = self.durable().iter().map(|grant| grant.epoch).min().expect("a member is present");
        claim!(durable >= epoch, "{epoch} acknowledged, {durable} is durable");
        let old = self.below.iter().find(|below| below.attachment.epoch < self.acked);
        claim!(old.is_none(), "{epoch} acknowledged over {:?}", old.map(|below| below.attachment));
        Ok(())
    }

    fn check_admitted_session(&mut self, attachment: &Attachment) -> Kept {
        let Attachment { host, epoch, incarnation, .. } = *attachment;
        let highest = self.highest.entry((host, epoch)).or_default();
        claim!(incarnation >= *highest, "{attachment:?} admitted after {highest}");
        *highest = incarnation;
        let doors = &self.doors;
        let overtaken = self.below.iter().filter(|below| below.attachment.host == host).find(|below| {
            !doors.contains_key(&below.session)
                || (below.attachment.epoch, below.attachment.incarnation) < (epoch, incarnation)
                    && below.attachment.epoch == epoch
        });
        claim!(overtaken.is_none(), "{attachment:?} admitted over {:?}", overtaken.map(|below| below.attachment));
        for durable in self.durable() {
            let owner = |o: &Owner| durable.epoch == epoch && o.host == host && o.incarnation >= incarnation;
            let promise = durable.reservation.filter(|r| (r.epoch, r.host) == (epoch, host));
            let standby = promise.is_some_and(|r| r.incarnation >= incarnation);
            claim!(standby || durable.owners.iter().any(owner), "{attachment:?} admitted, durable is {durable:?}");
        }
        Ok(())
    }

    /// Sessions of `host` that write, or would: those that were closed behind their backs as well.
    fn writers(&self, host: HostKey) -> impl Iterator<Item = SessionId> {
        let open = self.doors.iter().filter(move |(_, (_, it))| (it.host, it.mode) == (host, Mode::Rw));
        let asks = self.attaching.iter().filter(move |(_, request)| match **request {
            Request::Stock { host: other, mode } => (other, mode) == (host, Mode::Rw),
            Request::Exact(it) => (it.host, it.mode) == (host, Mode::Rw),
        });
        open.map(|(session, _)| *session).chain(asks.map(|(session, _)| *session))
    }

    /// A host that lost its client is kept out by nobody but a client of its own that was heard just now.
    fn check_refused_session(&mut self, request: &Request, refusal: &Refusal) -> Kept {
        let Refused::InUse { .. } = refusal.why else { return Ok(()) };
        self.seen.in_use += 1;
        let Request::Stock { host, mode: Mode::Rw } = *request else {
            return Err(format!("{request:?} was refused: {refusal}"));
        };
        let heard = self.writers(host).filter_map(|session| self.heard.get(&session)).max();
        let recently = heard.is_some_and(|heard| self.now.since(*heard) < STOCK_SILENCE);
        claim!(recently, "{host} was refused, its newest client was heard at {heard:?}: {refusal}");
        Ok(())
    }

    /// Everything that hangs ends and every store succeeds: then nobody may be left without an answer (I14).
    fn heal(&mut self) -> Kept {
        self.feed(Event::Floor(self.top()))?;
        for below in std::mem::take(&mut self.below) {
            if self.gate.ended(below.ticket) {
                self.feed(Event::Drained)?;
            }
        }
        for _ in 0..10 {
            if let Some(grant) = self.storing.take() {
                self.write_members(&grant, false);
                self.feed(Event::Stored(Ok(())))?;
            }
        }
        claim!(self.asks.is_empty(), "{} asks are never answered", self.asks.len());
        let epoch = self.top();
        let claim = self.claims[&epoch].clone();
        self.ask(epoch, |ask| Event::Raise(ask, claim))?;
        for _ in 0..2 {
            if let Some(grant) = self.storing.take() {
                self.write_members(&grant, false);
                self.feed(Event::Stored(Ok(())))?;
            }
        }
        // Not before: under a floor that nobody owns yet a standby waits for the raise, too (rule 6).
        claim!(self.attaching.is_empty(), "{} attaches are never answered", self.attaching.len());
        claim!(self.acked == epoch, "{epoch} is never acknowledged, state {}", self.gate.state());
        claim!(self.gate.state() == State::Serving, "healed, but {}", self.gate.state());
        Ok(())
    }
}

/// Goal: no sequence of events breaks a promise. Method: 80 walks of 2000 steps; each kind of thing happened often.
#[test]
fn no_walk_breaks_a_promise() {
    let mut total = Seen::default();
    for seed in 1..=80 {
        let seen = walk(seed, 2000).unwrap_or_else(|broken| panic!("{broken}"));
        total.acks += seen.acks;
        total.admitted += seen.admitted;
        total.writes += seen.writes;
        total.fenced += seen.fenced;
        total.restarts += seen.restarts;
        total.waited += seen.waited;
        total.blocked += seen.blocked;
        total.replaced += seen.replaced;
        total.in_use += seen.in_use;
    }
    let Seen { acks, admitted, writes, fenced, restarts, waited, blocked, replaced, in_use } = total;
    for (what, count) in [("acks", acks), ("admitted", admitted), ("writes", writes), ("fenced", fenced)] {
        assert!(count >= 1000, "only {count} {what} in {total:?}");
    }
    let rarer = [("restarts", restarts), ("waited", waited), ("blocked", blocked)];
    for (what, count) in rarer.into_iter().chain([("replaced", replaced), ("in use", in_use)]) {
        assert!(count >= 100, "only {count} {what} in {total:?}");
    }
}

/// Goal: the oracle sees. Method: plant each bug; some seed must complain, in the words of the right promise.
#[cfg(feature = "sabotage")]
#[test]
fn every_planted_bug_is_found() {
    use units::sabotage::{Bug, plant};
    let complaints = [
        (Bug::NoGate, &["passed after", "passed, newest", "wrote, granted", "wrote over", "wrote"][..]),
        (Bug::AckBeforeDrain, &["acknowledged over", "wrote over"][..]),
        (Bug::GrantNotDurable, &["is durable", "durable is"][..]),
        (Bug::DegradedServes, &["with a member missing and no floor"][..]),
        (Bug::IncarnationOvertakes, &["admitted over"][..]),
        // DA1: the older connection of a stock client writes on.
        (Bug::StockOvertakes, &["wrote after its host's client"][..]),
    ];
    for (bug, words) in complaints {
        let _planted = plant(bug);
        let found = (1..=60).find_map(|seed| walk(seed, 2000).err());
        let found = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        assert!(words.iter().any(|word| found.contains(word)), "{bug:?} was found by accident: {found}");
    }
}
