//! A node's control plane: it begins jobs, takes silent ones over, and drives its own.

use super::target::Pending;
use super::world::{Line, MACHINES, Message, World, key};
use crate::ha::{Answer, Candidate, Decision, Recovery, decide, verdict};
use crate::job::{Action, Command, Event, Ownership, Proof, Record, Report, Run, Task};
use crate::lease::Vote;
use crate::migrate::Migration;
use crate::store::{Engine, Entry, Revision};
use units::{ByteLen, Millis};

/// An owner silent for this long is taken over.
const SILENCE: u64 = 3_000;
const DEADLINE: Millis = Millis(60_000);

#[derive(Clone, Debug, Default)]
pub struct Controller {
    pub run: Option<Run<Task>>,
    pub life: u64,
    pub dead_until: u64,
    /// Last seen by the store.
    pub seen_at: u64,
    /// Acknowledgements so far, per revision and action.
    pub acks: Vec<(Revision, Action, Vec<usize>)>,
    jobs: u64,
}

impl World {
    pub fn alive(&self, c: usize) -> bool {
        self.now >= self.controllers[c].dead_until && self.machine_up(c)
    }

    /// Each tenth of a second.
    pub fn control(&mut self, c: usize) {
        if !self.alive(c) {
            self.controllers[c].run = None;
            return;
        }
        if self.store_answers(c) {
            self.controllers[c].seen_at = self.now;
        }
        self.tell(c, Event::Tick);
        if self.controllers[c].run.as_ref().is_none_or(Run::is_over) && self.store_answers(c) {
            self.look_for_work(c);
        }
    }

    pub fn tell(&mut self, c: usize, event: Event) {
        let now = self.clock(c);
        if let Some(run) = &mut self.controllers[c].run {
            let commands = run.step(event, now);
            self.carry_out(c, commands);
        }
    }

    fn look_for_work(&mut self, c: usize) {
        let owned = self.ownership();
        match &owned.job {
            Some(id) => {
                let entry = self.store.get(&Record::<Task>::key(id)).expect("memory").expect("a job that is named");
                self.consider_takeover(c, &entry);
            }
            None => self.consider_beginning(c, &owned),
        }
    }

    fn consider_takeover(&mut self, c: usize, entry: &Entry) {
        let record = Record::<Task>::read(&entry.value).expect("written by us");
        let owner = super::world::index(record.owner);
        let silence = self.now - self.controllers[owner].seen_at;
        let idle = owner == c;
        let hasty = self.hasty && self.below(100) == 0;
        if silence >= SILENCE || idle || hasty {
            let taken = Run::take_over((key(c), "c"), entry, Millis(silence.min(SILENCE)), self.clock(c));
            let (run, commands) = taken.expect("it has not ended");
            self.takeovers += 1;
            self.hold(c, run, commands);
        }
    }

    fn consider_beginning(&mut self, c: usize, owned: &Ownership) {
        self.controllers[c].jobs += 1;
        let id = format!("j{c}-{}-{}", self.controllers[c].life, self.controllers[c].jobs).parse().expect("an id");
        let Some((task, after)) = self.begin(c, owned) else {
            return;
        };
        let (run, commands) = Run::create((key(c), id, "c"), task, (owned, &after), DEADLINE, self.clock(c));
        self.hold(c, run, commands);
    }

    fn begin(&mut self, c: usize, owned: &Ownership) -> Option<(Task, Ownership)> {
        let candidates = self.candidates(c);
        let recover = |to: usize, spare| {
            let (plan, after) = Recovery::new(owned, key(to), spare, self.power);
            (Task::Recover(plan), after)
        };
        let Some(owner) = owned.owner.map(super::world::index) else {
            let ready: Vec<usize> = (0..3).filter(|n| candidates[*n].fits(ByteLen::mib(1))).collect();
            let (to, spare) = ready.split_first()?;
            return Some(recover(*to, spare.iter().map(|n| key(*n)).collect()));
        };
        if self.heard(c, owner) {
            let host = &self.hosts[owner];
            if host.qemu.is_none() && candidates[owner].ready {
                return Some(recover(owner, Vec::new()));
            }
            let destination = self.wish.filter(|to| host.runs(self.now) && *to != owner && candidates[*to].ready)?;
            self.wish = None;
            let (plan, after) = Migration::new(owned, key(destination), self.power);
            return Some((Task::Migrate(plan), after));
        }
        let answers = self.ask_witnesses(c, owner);
        let all: Vec<_> = (0..MACHINES).map(key).collect();
        let verdict = verdict(&answers, &all, self.clock(c));
        match decide(owned, verdict, &candidates, (ByteLen::mib(1), self.power), self.clock(c)) {
            Decision::Recover(plan, after) => Some((Task::Recover(*plan), after)),
            Decision::Nothing(_) => None,
        }
    }

    fn candidates(&self, c: usize) -> Vec<Candidate> {
        let candidate = |n: usize| Candidate {
            host: key(n),
            ready: self.heard(c, n) && !self.hosts[n].paused,
            reaches_volumes: self.linked(n, 3) && self.linked(n, 4),
            free: ByteLen::mib(100),
            draining: false,
        };
        (0..3).map(candidate).collect()
    }

    /// The votes of all witnesses that `c` can ask.
    pub fn ask_witnesses(&mut self, c: usize, about: usize) -> Vec<Answer> {
        let mut answers = Vec::new();
        for witness in (0..MACHINES).filter(|n| *n != about) {
            let hears = self.now.saturating_sub(self.majority_since[witness]);
            let last = self.hosts[about].heard_at.max(self.majority_since[witness]);
            let silent = self.now.saturating_sub(last);
            if self.heard(c, witness) && hears > super::world::GRACE && silent >= 3_000 {
                self.hosts[about].voted_until = self.now + 10_000;
                let vote = Vote::Dead { valid_for: Millis(10_000) };
                answers.push(Answer { by: key(witness), asked: self.clock(c), vote });
            }
        }
        answers
    }

    fn hold(&mut self, c: usize, run: Run<Task>, commands: Vec<Command>) {
        self.controllers[c].run = Some(run);
        self.controllers[c].acks.clear();
        self.carry_out(c, commands);
    }

    fn carry_out(&mut self, c: usize, commands: Vec<Command>) {
        let life = self.controllers[c].life;
        for command in commands {
            match command {
                Command::Store(ticket, txn) => self.send_store(c, Message::Txn(c, life, ticket, txn)),
                Command::Read(ticket, key) => self.send_store(c, Message::Get(c, life, ticket, key)),
                Command::Act(order, action) => self.act(c, order, action),
            }
            self.commands += 1;
            self.strike();
            if !self.alive(c) || self.controllers[c].life != life {
                return;
            }
        }
    }

    fn act(&mut self, c: usize, order: crate::job::Order, action: Action) {
        let life = self.controllers[c].life;
        let line = Line { controller: c, life, at: order.at, action: action.clone() };
        match &action {
            Action::Reserve { .. } | Action::Raise { .. } => {
                for t in 0..2 {
                    self.send(c, 3 + t, Message::Target(t, line.clone()));
                }
            }
            Action::Ask { host } => {
                let about = super::world::index(*host);
                let answers = self.ask_witnesses(c, about);
                let all: Vec<_> = (0..MACHINES).map(key).collect();
                if let crate::ha::Verdict::Dead { until, .. } = verdict(&answers, &all, self.clock(c)) {
                    let report = Report::Gone { host: *host, proof: Proof::Votes { until } };
                    self.send(c, c, Message::Report(c, life, order.at, report));
                }
            }
            Action::PowerOff { host } => {
                self.power_off(super::world::index(*host), 20_000);
                let report = Report::Gone { host: *host, proof: Proof::Power };
                self.send(c, c, Message::Report(c, life, order.at, report));
            }
            Action::Incoming { host, .. }
            | Action::Migrate { host, .. }
            | Action::Continue { host }
            | Action::Watch { host }
            | Action::Cont { host, .. }
            | Action::Cancel { host }
            | Action::Return { host, .. }
            | Action::Start { host, .. }
            | Action::Destroy { host } => {
                let to = super::world::index(*host);
                self.send(c, to, Message::Agent(to, c, life, order, action));
            }
        }
    }

    /// A request reached a target.
    pub fn at_target(&mut self, t: usize, line: &Line) {
        let now = self.now;
        if now < self.targets[t].down_until {
            return;
        }
        let slow = if self.below(10) == 0 { self.below(1_000) } else { self.below(20) };
        let taken = match &line.action {
            Action::Reserve { epoch, host } => {
                let promised = self.targets[t].reserve(*epoch, *host);
                if promised {
                    self.send(3 + t, line.controller, Message::Acked(t, line.clone()));
                }
                promised
            }
            Action::Raise { epoch, owner } => {
                self.check_recorded(*epoch, *owner);
                let taken = self.targets[t].raise(*epoch, *owner);
                if taken {
                    self.targets[t].pending.push(Pending { epoch: *epoch, tell_at: now + slow, line: line.clone() });
                }
                taken
            }
            _ => unreachable!("only these are for targets"),
        };
        if !taken {
            let report = Report::Refused(line.action.clone(), "a higher epoch is granted".into());
            self.send(3 + t, line.controller, Message::Report(line.controller, line.life, line.at, report));
        }
    }

    /// A target acknowledged: when both have, the job hears it.
    pub fn acked(&mut self, t: usize, line: Line) {
        let controller = &mut self.controllers[line.controller];
        if controller.life != line.life {
            return;
        }
        let known = controller.acks.iter().position(|(at, action, _)| *at == line.at && *action == line.action);
        let known = known.unwrap_or_else(|| {
            controller.acks.push((line.at, line.action.clone(), Vec::new()));
            controller.acks.len() - 1
        });
        let by = &mut controller.acks[known].2;
        if !by.contains(&t) {
            by.push(t);
        }
        if by.len() == 2 {
            self.tell(line.controller, Event::Report(line.at, Report::Done(line.action)));
        }
    }
}
