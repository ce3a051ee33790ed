//! Many seeds: runs them, adds up what happened, keeps what failed.

use crate::checkers::{Invariant, Violation};
use crate::world::{self, Report};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a set of seeds did.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// How many seeds were run.
    pub seeds: u64,
    /// How many of them twice, with the same hash.
    pub twice: u64,
    /// Virtual time.
    pub simulated_ms: u64,
    /// Writes made by hosts.
    pub writes: u64,
    /// What happened how often.
    pub deeds: BTreeMap<&'static str, u64>,
    /// The seeds that broke a promise, and the promise.
    pub red: Vec<(u64, Violation)>,
}

/// Runs one seed; a panic of the code under test is a broken promise like any other, told as what it said.
///
/// # Errors
/// What the panic said.
pub fn judge(seed: u64, verbose: bool) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| world::run(seed, verbose))).map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned())).unwrap_or_default()
    })
}

impl Totals {
    /// Runs one seed and adds it up; `twice` runs it again and compares the hashes.
    pub fn run(&mut self, seed: u64, twice: bool) {
        self.seeds += 1;
        let report = match judge(seed, false) {
            Ok(report) => report,
            Err(said) => return self.blame(seed, format!("a panic: {said}")),
        };
        self.simulated_ms += report.simulated_ms;
        self.writes += report.writes as u64;
        for (what, count) in &report.deeds {
            *self.deeds.entry(what).or_default() += count;
        }
        if let Some(violation) = report.violations.first() {
            self.red.push((seed, violation.clone()));
        }
        if twice {
            self.twice += 1;
            match judge(seed, false) {
                Ok(again) if again.hash == report.hash => {}
                _ => self.blame(seed, "two runs of the same seed differ: something is not deterministic".to_owned()),
            }
        }
    }

    fn blame(&mut self, seed: u64, detail: String) {
        self.red.push((seed, Violation { invariant: Invariant::I14, detail, at_us: 0 }));
    }

    /// A page for people.
    #[must_use]
    pub fn page(&self) -> String {
        let (hours, minutes) = (self.simulated_ms / 3_600_000, self.simulated_ms / 60_000 % 60);
        let mut page = format!(
            "{} seeds ({} of them twice), {hours} h {minutes} min simulated, {} writes, {} red\n",
            self.seeds,
            self.twice,
            self.writes,
            self.red.len()
        );
        for (what, count) in &self.deeds {
            page.push_str(&format!("{count:>10}  {what}\n"));
        }
        for (seed, violation) in &self.red {
            page.push_str(&format!(
                "seed {seed}: {violation}\n  replay: cargo run -p sim -- replay --seed {seed} --verbose\n"
            ));
        }
        page
    }
}
