//! What the rounds came to: a table for people, JSON for programs.

use super::What;
use crate::verify::Stats;
use anyhow::Context;
use serde::Serialize;
use std::path::Path;

/// One fault and what the guest's side felt of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    /// Errors answered to the load.
    pub errors: u64,
    /// What must never happen, and happened.
    pub violations: u64,
    /// How long it was down.
    pub outage_ms: u64,
    /// The longest that a request waited.
    pub stall_ms: u64,
    /// How much could have gone wrong: sectors that were not flushed when the power went, bytes that were late.
    pub at_risk: u64,
}

/// All rounds of one kind.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Which kind.
    pub what: What,
    /// How many rounds were done.
    pub rounds: usize,
    /// Errors answered to the load.
    pub errors: u64,
    /// What must never happen, and happened.
    pub violations: u64,
    /// Half of the outages were shorter.
    pub outage_ms_median: u64,
    /// Half of the stalls were shorter.
    pub stall_ms_median: u64,
    /// None was longer.
    pub stall_ms_max: u64,
    /// Sectors that were not flushed when the power went, bytes that were late, in all.
    pub at_risk: u64,
}

/// `target/lab/kills.json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every round asked for was done, without an error and without a violation.
    pub ok: bool,
    /// What the choices were drawn from.
    pub seed: u64,
    /// Whether the machines spoke TLS.
    pub tls: bool,
    /// One for each kind.
    pub rows: Vec<Row>,
    /// The load's own counters.
    pub load: Stats,
    /// Why it ended early, if it did.
    pub ended: Option<String>,
}

impl Row {
    /// Sums up.
    pub fn new(what: What, rounds: &[Round]) -> Self {
        let sorted = |pick: fn(&Round) -> u64| {
            let mut all: Vec<u64> = rounds.iter().map(pick).collect();
            all.sort_unstable();
            all
        };
        let median = |all: &[u64]| all.get(all.len() / 2).copied().unwrap_or(0);
        let (outages, stalls) = (sorted(|round| round.outage_ms), sorted(|round| round.stall_ms));
        Self {
            what,
            rounds: rounds.len(),
            errors: rounds.iter().map(|round| round.errors).sum(),
            violations: rounds.iter().map(|round| round.violations).sum(),
            outage_ms_median: median(&outages),
            stall_ms_median: median(&stalls),
            stall_ms_max: stalls.last().copied().unwrap_or(0),
            at_risk: rounds.iter().map(|round| round.at_risk).sum(),
        }
    }
}

impl Report {
    /// Prints the table, and every violation.
    pub fn print(&self) {
        let heads =
            ["WHAT", ">ROUNDS", ">ERRORS", ">VIOLATIONS", ">OUTAGE MED. ms", ">STALL MED. ms", ">MAX ms", ">AT RISK"];
        let row = |row: &Row| {
            [
                row.what.name().to_owned(),
                row.rounds.to_string(),
                row.errors.to_string(),
                row.violations.to_string(),
                row.outage_ms_median.to_string(),
                row.stall_ms_median.to_string(),
                row.stall_ms_max.to_string(),
                row.at_risk.to_string(),
            ]
        };
        print!("\n{}", units::table::render(heads, &self.rows.iter().map(row).collect::<Vec<_>>()));
        let load = &self.load;
        println!(
            "load: {} writes, {} reads, {} flushes, {} times everything read back, {} reconnects; seed {}",
            load.writes, load.reads, load.flushes, load.sweeps, load.reconnects, self.seed
        );
        load.violations.iter().for_each(|violation| println!("VIOLATION {violation}"));
        if let Some(why) = &self.ended {
            println!("ended early: {why}");
        }
        println!("{}", if self.ok { "ok" } else { "FAILED" });
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

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn rounds_are_summed_up() {
        let round = |stall_ms| Round { errors: 1, violations: 2, outage_ms: 5, stall_ms, at_risk: 3 };
        let row = Row::new(What::Target, &[round(30), round(10), round(20)]);
        assert_eq!((row.rounds, row.errors, row.violations, row.at_risk), (3, 3, 6, 9));
        assert_eq!((row.stall_ms_median, row.stall_ms_max), (20, 30));
        let none = Row::new(What::Target, &[]);
        assert_eq!((none.rounds, none.stall_ms_median, none.stall_ms_max), (0, 0, 0));
    }
}
