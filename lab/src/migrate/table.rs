//! What the rounds came to: a line for each, a table for people, JSON for programs.

use super::fault::{EACH, Fault, Kind, PHASES, Phase};
use crate::demo::evidence::RecordsCheck;
use anyhow::Context;
use serde::Serialize;
use std::path::Path;
use units::table::render;

const HEADS: [&str; 10] = [
    "fault",
    ">rounds",
    ">done",
    ">undone",
    ">lost",
    ">restarts",
    ">median total ms",
    ">longest blackout ms",
    ">longest rest ms",
    ">wrong",
];

/// One migration and what befell it.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Which.
    pub round: usize,
    /// What befell it.
    pub fault: Kind,
    /// When it was meant to.
    pub aimed: Phase,
    /// How long after the phase was seen.
    pub delay_ms: u64,
    /// How long it lasted.
    pub lasts_ms: u64,
    /// The job's stage when it did, as the store said; `after`: the job had ended.
    pub hit: String,
    /// What the job came to.
    pub outcome: String,
    /// Why, if it did not come to what was wished.
    pub why: Option<String>,
    /// How often the guest was brought back.
    pub recoveries: usize,
    /// Whether it was started anew.
    pub restarted: bool,
    /// The job's time.
    pub total_ms: u64,
    /// From the last beacon at the source to the first one at the destination, if it was done.
    pub cpu_blackout_ms: Option<f64>,
    /// From the source's STOP to the destination's RESUME, as the job's receipt claims.
    pub receipt_blackout_ms: Option<u64>,
    /// The longest silence of the probe in the round.
    pub network_blackout_ms: u64,
    /// From the end of the fault until everything was as it should be.
    pub rest_ms: u64,
    /// How long two boots were seen to move.
    pub overlap_ms: f64,
    /// When it began, CLOCK_MONOTONIC.
    pub begun_us: u64,
    /// When it was judged.
    pub ended_us: u64,
    /// What must not be, and was.
    pub wrong: Vec<String>,
}

/// A time in which nodes were dead.
#[derive(Clone, Debug, Serialize)]
pub struct Outage {
    /// Whose node was killed.
    pub nodes: String,
    /// How long it was dead.
    pub dead_ms: u64,
    /// The longest time between two acknowledgements meanwhile.
    pub longest_gap_ms: u64,
    /// The longest time in which the guest gave no beacon.
    pub longest_still_ms: u64,
    /// What must not be, and was.
    pub wrong: Vec<String>,
}

/// `migrate.json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether all was done and nothing was wrong.
    pub ok: bool,
    /// What everything was drawn from.
    pub seed: u64,
    /// Each migration.
    pub rounds: Vec<Round>,
    /// Attempts whose fault hit nobody; they were judged, and made again.
    pub misses: Vec<Round>,
    /// What was wrong with the run as a whole.
    pub wrong: Vec<String>,
    /// Each death of nodes.
    pub outages: Vec<Outage>,
    /// Acknowledged records on the disks at the end; absent if nobody could look.
    pub records: Option<RecordsCheck>,
    /// Whether mdadm, LVM2 and e2fsck agreed.
    pub oracles_agree: bool,
    /// Why it ended early, if it did.
    pub ended: Option<String>,
}

impl Round {
    /// One that has not been played yet.
    pub fn of(round: usize, fault: &Fault) -> Self {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).expect("times are short");
        Self {
            round,
            fault: fault.kind,
            aimed: fault.phase,
            delay_ms: ms(fault.delay),
            lasts_ms: ms(fault.lasts),
            hit: String::new(),
            outcome: String::new(),
            why: None,
            recoveries: 0,
            restarted: false,
            total_ms: 0,
            cpu_blackout_ms: None,
            receipt_blackout_ms: None,
            network_blackout_ms: 0,
            rest_ms: 0,
            overlap_ms: 0.0,
            begun_us: 0,
            ended_us: 0,
            wrong: Vec::new(),
        }
    }

    /// What it came to, in a line.
    pub fn line(&self) -> String {
        let why = self.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        let restarted = if self.restarted { ", restarted" } else { "" };
        let blackout = self.cpu_blackout_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.0}"));
        let claimed = self.receipt_blackout_ms.map_or_else(|| "–".to_owned(), |ms| ms.to_string());
        let mut line = format!(
            "hit {}: {}{why}{restarted}; total {} ms, CPU blackout {blackout} ms ({claimed} by its receipt), network {} ms, \
             at rest after {} ms",
            self.hit, self.outcome, self.total_ms, self.network_blackout_ms, self.rest_ms,
        );
        self.wrong.iter().for_each(|wrong| line += &format!("\n     WRONG: {wrong}"));
        line
    }
}

impl Outage {
    /// One line.
    pub fn line(&self) -> String {
        let mut line = format!(
            "longest gap between records {} ms, between beacons {} ms",
            self.longest_gap_ms, self.longest_still_ms
        );
        self.wrong.iter().for_each(|wrong| line += &format!("\n     WRONG: {wrong}"));
        line
    }
}

impl Report {
    /// What is wrong, in all.
    pub fn wrongs(&self) -> usize {
        let rounds = self.rounds.iter().chain(&self.misses).map(|round| round.wrong.len());
        rounds.chain(self.outages.iter().map(|outage| outage.wrong.len())).sum::<usize>() + self.wrong.len()
    }

    /// Stages in which no fault fell.
    pub fn unstruck(rounds: &[Round]) -> Vec<Phase> {
        let is_struck =
            |phase: &Phase| rounds.iter().any(|round| round.fault != Kind::Nothing && round.hit == phase.name());
        PHASES.into_iter().filter(|phase| !is_struck(phase)).collect()
    }

    /// Prints the table.
    pub fn print(&self) {
        println!();
        print!("{}", render(HEADS, &EACH.into_iter().filter_map(|kind| self.row(kind)).collect::<Vec<_>>()));
        let mut hits = std::collections::BTreeMap::<&str, usize>::new();
        self.rounds.iter().for_each(|round| *hits.entry(&round.hit).or_default() += 1);
        let hits: Vec<String> = hits.iter().map(|(stage, count)| format!("{stage} {count}")).collect();
        println!("hit: {}; {} attempts hit nobody and were made again", hits.join(", "), self.misses.len());
        self.wrong.iter().for_each(|wrong| println!("WRONG: {wrong}"));
        let all = self.outages.iter().filter(|outage| outage.nodes == super::outage::EVERY).count();
        println!(
            "nodes: all killed {all} times, one {} times, longest gap between records {} ms",
            self.outages.len() - all,
            self.outages.iter().map(|outage| outage.longest_gap_ms).max().unwrap_or(0)
        );
        match &self.records {
            Some(it) => println!("{} records acknowledged, {} missing, {} torn", it.acked, it.missing, it.torn),
            None => println!("the disks were not looked at"),
        }
        if let Some(why) = &self.ended {
            println!("ended early: {why}");
        }
        println!("{}; seed {}", if self.ok { "ok" } else { "FAILED" }, self.seed);
    }

    /// What the rounds with one kind of fault came to; none if there were none.
    fn row(&self, kind: Kind) -> Option<[String; HEADS.len()]> {
        let rounds: Vec<&Round> = self.rounds.iter().filter(|round| round.fault == kind).collect();
        let count = |outcome: &str| rounds.iter().filter(|round| round.outcome == outcome).count();
        let most = |pick: fn(&Round) -> u64| rounds.iter().map(|round| pick(round)).max().unwrap_or(0);
        let mut totals: Vec<u64> = rounds.iter().map(|round| round.total_ms).collect();
        totals.sort_unstable();
        let median = totals.get(totals.len() / 2)?;
        Some([
            kind.name().to_owned(),
            rounds.len().to_string(),
            count("done").to_string(),
            count("undone").to_string(),
            count("lost").to_string(),
            rounds.iter().filter(|round| round.restarted).count().to_string(),
            median.to_string(),
            most(|round| round.network_blackout_ms).to_string(),
            most(|round| round.rest_ms).to_string(),
            rounds.iter().map(|round| round.wrong.len()).sum::<usize>().to_string(),
        ])
    }

    /// Writes the JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}
