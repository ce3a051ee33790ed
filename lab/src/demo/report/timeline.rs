//! What the lab's events say, joined: each fault, each migration, each step.

use crate::demo::evidence::{Cause, Evidence, Step, What};
use crate::demo::guest::record::Boot;
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};

/// All of a run.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pub rounds: u32,
    pub sabotage: Option<String>,
    pub vm: String,
    /// Name to key.
    pub hosts: BTreeMap<String, String>,
    pub faults: Vec<Fault>,
    pub migrations: Vec<Move>,
    /// Each step: when it began, and when it was done.
    pub steps: Vec<StepTime>,
    /// When, where and under which epoch a QEMU ran.
    pub starts: Vec<Start>,
    pub work_end_us: Option<u64>,
    /// The first and the last moment of the evidence.
    pub begin_us: u64,
    pub end_us: u64,
}

/// A fault.
#[derive(Clone, Debug)]
pub struct Fault {
    pub number: u32,
    pub cause: Cause,
    pub host: Option<String>,
    pub at_us: u64,
    /// When it was taken back.
    pub end_us: Option<u64>,
    /// Everything up to here belongs to it: the next fault, or the end.
    pub until_us: u64,
    pub verdict_us: Option<u64>,
    pub acks_us: Vec<u64>,
    pub start: Option<Start>,
    /// The store's revision before, and after it came to rest.
    pub revisions: (u64, Option<u64>),
}

/// A QEMU's vCPUs ran.
#[derive(Clone, Debug)]
pub struct Start {
    pub at_us: u64,
    pub host: String,
    pub epoch: u64,
}

/// A migration.
#[derive(Clone, Debug)]
pub struct Move {
    pub number: u32,
    pub from: String,
    pub to: String,
    pub at_us: u64,
    pub end: Option<MoveEnd>,
}

/// Its end.
#[derive(Clone, Copy, Debug)]
pub struct MoveEnd {
    pub at_us: u64,
    pub total_ms: u64,
    pub bytes: u64,
    /// As the receipt says.
    pub blackout_ms: u64,
}

/// A step of a round.
#[derive(Clone, Debug)]
pub struct StepTime {
    pub step: Step,
    pub round: u32,
    pub at_us: u64,
    pub done_us: Option<u64>,
    pub failed: Option<String>,
}

impl Timeline {
    /// Joins the events.
    ///
    /// # Errors
    /// When they contradict each other.
    pub fn of(evidence: &Evidence) -> anyhow::Result<Self> {
        let mut this = Self::default();
        for event in &evidence.events {
            this.add(event.at_us, &event.what).with_context(|| format!("the event at {}", event.at_us))?;
        }
        anyhow::ensure!(this.rounds > 0, "the evidence does not say that a run began");
        this.begin_us = evidence.events.first().map_or(0, |event| event.at_us);
        let last = evidence.events.last().map(|event| event.at_us);
        let others =
            evidence.receipts.iter().map(|line| line.at_us).chain(evidence.beacons.iter().map(|line| line.at_us));
        this.end_us = others.chain(last).max().unwrap_or_default();
        let ends: Vec<u64> = this.faults.iter().skip(1).map(|fault| fault.at_us).chain([u64::MAX]).collect();
        for (fault, until_us) in this.faults.iter_mut().zip(ends) {
            fault.until_us = until_us;
            let told = acks(fault, evidence);
            if fault.cause.fails_over() && !told.is_empty() {
                fault.acks_us = told;
            }
        }
        Ok(this)
    }

    fn add(&mut self, at_us: u64, what: &What) -> anyhow::Result<()> {
        match what.clone() {
            What::RunBegin { rounds, sabotage, vm, hosts } => {
                anyhow::ensure!(self.rounds == 0 && rounds > 0, "a run begins once and has a round");
                (self.rounds, self.sabotage, self.vm, self.hosts) = (rounds, sabotage, vm, hosts);
            }
            What::Phase { step, round } => {
                self.steps.push(StepTime { step, round, at_us, done_us: None, failed: None });
            }
            What::Done { step, round } => self.step(step, round)?.done_us = Some(at_us),
            What::Failed { step, round, text } => self.step(step, round)?.failed = Some(text),
            What::WorkEnd => self.work_end_us = Some(at_us),
            What::Inject { fault, cause, host, revision } => self.inject(at_us, fault, cause, host, revision)?,
            What::End { fault } => self.fault(fault)?.end_us = Some(at_us),
            What::Settled { fault, revision } => self.fault(fault)?.revisions.1 = Some(revision),
            What::Verdict { fault } => {
                self.fault(fault)?.verdict_us.get_or_insert(at_us);
            }
            What::Fenced { fault, .. } => self.fault(fault)?.acks_us.push(at_us),
            What::Running { host, epoch, fault } => {
                let start = Start { at_us, host, epoch };
                self.starts.push(start.clone());
                if let Some(fault) = fault {
                    self.fault(fault)?.start.get_or_insert(start);
                }
            }
            What::MigrateBegin { migration, from, to } => {
                let known = self.migrations.iter().any(|known| known.number == migration);
                anyhow::ensure!(!known, "migration {migration} begins twice");
                self.migrations.push(Move { number: migration, from, to, at_us, end: None });
            }
            What::MigrateEnd { migration, total_ms, bytes, blackout_ms } => {
                let known = self.migrations.iter_mut().find(|known| known.number == migration);
                let known = known.with_context(|| format!("migration {migration} ends and never began"))?;
                known.end = Some(MoveEnd { at_us, total_ms, bytes, blackout_ms });
            }
            What::Pool { .. } | What::Note { .. } => {}
        }
        Ok(())
    }

    fn inject(
        &mut self,
        at_us: u64,
        number: u32,
        cause: Cause,
        host: Option<String>,
        revision: u64,
    ) -> anyhow::Result<()> {
        anyhow::ensure!(self.fault(number).is_err(), "fault {number} begins twice");
        self.faults.push(Fault {
            number,
            cause,
            host,
            at_us,
            end_us: None,
            until_us: u64::MAX,
            verdict_us: None,
            acks_us: Vec::new(),
            start: None,
            revisions: (revision, None),
        });
        Ok(())
    }

    fn fault(&mut self, number: u32) -> anyhow::Result<&mut Fault> {
        let found = self.faults.iter_mut().find(|fault| fault.number == number);
        found.with_context(|| format!("fault {number} was never injected"))
    }

    fn step(&mut self, step: Step, round: u32) -> anyhow::Result<&mut StepTime> {
        let found = self.steps.iter_mut().rev().find(|known| (known.step, known.round) == (step, round));
        found.with_context(|| format!("step {step:?} of round {round} never began"))
    }

    /// The fault that a moment belongs to.
    pub fn fault_at(&self, at_us: u64) -> Option<&Fault> {
        self.faults.iter().find(|fault| fault.has(at_us))
    }

    /// Up to here everything belongs to the migration that began then: the next one, a fault, or the end.
    pub fn move_until(&self, begin_us: u64) -> u64 {
        let begins = self.faults.iter().map(|fault| fault.at_us).chain(self.migrations.iter().map(|one| one.at_us));
        begins.filter(|at_us| *at_us > begin_us).min().unwrap_or(u64::MAX)
    }

    /// The first boots seen up to a moment, by anybody who sees boots.
    pub fn boots_before(evidence: &Evidence, at_us: u64) -> BTreeSet<Boot> {
        boots(evidence).filter_map(|(seen_us, boot)| (seen_us < at_us).then_some(boot)).collect()
    }
}

impl Fault {
    /// Whether a moment belongs to it: from its begin to the next fault.
    pub fn has(&self, at_us: u64) -> bool {
        (self.at_us..self.until_us).contains(&at_us)
    }

    /// For a sentence about something that happened in its time.
    pub fn text(&self) -> String {
        format!(", after fault {} ({})", self.number, self.cause)
    }
}

/// Every sign of a boot.
pub fn boots(evidence: &Evidence) -> impl Iterator<Item = (u64, Boot)> {
    let beacons = evidence.beacons.iter().map(|line| (line.at_us, line.boot));
    let receipts = evidence.receipts.iter().map(|line| (line.at_us, line.boot));
    beacons.chain(receipts).chain(evidence.probes.iter().map(|line| (line.at_us, line.boot)))
}

/// The acks as the targets themselves wrote them down: the first grant of the epoch that the guest was started under, of
/// each volume at each target. They are exact; what the lab notes, it was told a little later.
fn acks(fault: &Fault, evidence: &Evidence) -> Vec<u64> {
    let Some(start) = &fault.start else { return Vec::new() };
    let mut first: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for log in &evidence.grants {
        let of_it = log.lines.iter().filter(|line| line.is_grant() && line.epoch == start.epoch);
        for line in of_it.filter(|line| (fault.at_us..fault.until_us).contains(&line.mono_us)) {
            first.entry((&log.machine, &line.volume)).or_insert(line.mono_us);
        }
    }
    first.into_values().collect()
}
