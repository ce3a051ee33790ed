//! The report: what the evidence proves, computed from the evidence alone.
//!
//! ```text
//! events ─▶ timeline (faults, migrations, steps) ─┐
//! beacons ─▶ overlap                              ├─▶ figures ─▶ goals
//! disks, rogue, grants, store, referee ───────────┘      └─▶ violations
//! ```
//! `ok` is safety and completion: no violation, every step done, enough records, every oracle agreed. Speed is in the
//! goals only. Nothing here has a clock, and the same evidence gives the same report.

mod completion;
mod faults;
mod goals;
mod html;
mod overlap;
mod ownership;
mod records;
mod timeline;

#[cfg(test)]
mod test;

pub use overlap::{PERIOD_US, STILL_US, blackout_us, copies_in_migrations, first_beacons, series, two_boots_us};

use super::evidence::Evidence;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use timeline::Timeline;

/// `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Safe and complete.
    pub ok: bool,
    /// What was wished for and what came of it.
    pub goals: Vec<Goal>,
    /// In their order.
    pub migrations: Vec<Migration>,
    /// In their order.
    pub failovers: Vec<Failover>,
    /// In their order.
    pub outages: Vec<Outage>,
    /// The guest's records.
    pub records: Records,
    /// Whether the peers' tools agree.
    pub oracles: Oracles,
    /// The planted bug.
    pub sabotage: Option<String>,
    /// What must never happen and did.
    pub violations: Vec<Violation>,
}

/// A wish and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// What it is about.
    pub name: String,
    /// What was measured; none: nothing.
    pub got: Option<f64>,
    /// What was wished for.
    pub want: String,
    /// Whether it came true.
    pub ok: bool,
}

/// A migration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migration {
    /// As the receipt says.
    pub total_ms: u64,
    /// From the last beacon at the source to the first one at the destination; none: there are none at both.
    pub cpu_blackout_ms: Option<f64>,
    /// The source's STOP to the destination's RESUME, as the receipt claims.
    pub receipt_blackout_ms: u64,
    /// The longest time without an answer to a probe; none: the probes do not reach round it.
    pub network_blackout_ms: Option<f64>,
    /// Sent.
    pub bytes: u64,
}

/// A failover. What did not happen is none. Times are since the injection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    /// `poweroff`, `freeze` or `cut`.
    pub cause: String,
    /// The verdict was recorded.
    pub detect_ms: Option<u64>,
    /// The last target acknowledged.
    pub fence_ms: Option<u64>,
    /// RESUME elsewhere.
    pub vcpus_running_ms: Option<u64>,
    /// The new boot answered a probe.
    pub guest_answers_ms: Option<u64>,
    /// Two boots of the VM were moving for so long.
    pub overlap_ms: u64,
    /// The rogue's refused writes and attaches.
    pub stale_refused: u64,
    /// Its writes that a disk received or completed after the last ack.
    pub stale_applied: u64,
}

/// An outage for everybody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// `switch` or `storage`.
    pub cause: String,
    /// Boots of the guest that began in it.
    pub restarts: u64,
    /// Changes of the VM's epoch or owner in the store.
    pub epoch_changes: u64,
    /// I/O errors that the guest saw.
    pub guest_errors: u64,
    /// From its end to the next acknowledged record.
    pub resumed_ms: Option<u64>,
}

/// The guest's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// Received by the referee.
    pub acked: u64,
    /// Of these, not on the disk in the end.
    pub missing: u64,
    /// Of these, there in part.
    pub torn: u64,
}

/// Whether the peers' tools agree with what is on the disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oracles {
    /// `mdadm --examine`.
    pub mdadm: bool,
    /// `pvck --dump`, `lvs`.
    pub lvm: bool,
    /// `e2fsck -fn`.
    pub e2fsck: bool,
}

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Violation {
    /// Its number in ARCHITECTURE.md.
    pub invariant: String,
    /// A sentence with the facts.
    pub detail: String,
}

impl Violation {
    fn new(invariant: &str, detail: impl Into<String>) -> Self {
        Self { invariant: invariant.to_owned(), detail: detail.into() }
    }
}

impl Report {
    /// Computes it.
    ///
    /// # Errors
    /// When the timeline contradicts itself: then nobody knows what happened.
    pub fn of(evidence: &Evidence) -> anyhow::Result<Self> {
        let timeline = Timeline::of(evidence)?;
        let failovers = faults::failovers(&timeline, evidence);
        let outages = faults::outages(&timeline, evidence);
        let migrations = faults::migrations(&timeline, evidence);
        let records = records::count(evidence);
        let oracles = completion::oracles(evidence);
        let mut violations = faults::violations(&failovers, &outages);
        violations.extend(faults::errors_elsewhere(&timeline, evidence));
        violations.extend(copies_in_migrations(&evidence.beacons));
        violations.extend(overlap::late_copies(&timeline, evidence));
        violations.extend(overlap::unexplained_boots(&timeline, evidence));
        violations.extend(records::violations(evidence, records));
        violations.extend(ownership::violations(&timeline, evidence));
        let mut report = Self {
            ok: false,
            goals: Vec::new(),
            migrations,
            failovers,
            outages,
            records,
            oracles,
            sabotage: timeline.sabotage.clone(),
            violations,
        };
        let complete = completion::goals(&timeline, evidence, &report);
        report.ok = report.violations.is_empty() && complete.iter().all(|goal| goal.ok);
        report.goals = goals::speed(&timeline, &report).into_iter().chain(complete).collect();
        Ok(report)
    }

    /// Reads a folder of evidence and computes it.
    ///
    /// # Errors
    /// When the evidence cannot be read.
    pub fn compute(folder: &Path) -> anyhow::Result<Self> {
        let evidence = Evidence::read(folder).with_context(|| format!("the evidence in {}", folder.display()))?;
        Self::of(&evidence)
    }
}

/// Computes the report of `evidence` and writes `report.json` and `report.html` into `folder`.
///
/// # Errors
/// When the evidence cannot be read, or the files cannot be written.
pub fn write(evidence: &Path, folder: &Path) -> anyhow::Result<Report> {
    let read = Evidence::read(evidence).with_context(|| format!("the evidence in {}", evidence.display()))?;
    let report = Report::of(&read)?;
    let mut json = serde_json::to_string_pretty(&report)?;
    json.push('\n');
    let page = html::page(&report, &Timeline::of(&read)?, &read);
    for (name, text) in [("report.json", json), ("report.html", page)] {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(report)
}

/// Computes the report of `evidence` anew and compares it with the one in `folder`.
///
/// # Errors
/// When they differ, with where; or one of them cannot be read.
pub fn verify(evidence: &Path, folder: &Path) -> anyhow::Result<Report> {
    let path = folder.join("report.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let claimed: Report = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    let report = Report::compute(evidence)?;
    let parts = [
        ("ok", claimed.ok == report.ok),
        ("goals", claimed.goals == report.goals),
        ("migrations", claimed.migrations == report.migrations),
        ("failovers", claimed.failovers == report.failovers),
        ("outages", claimed.outages == report.outages),
        ("records", claimed.records == report.records),
        ("oracles", claimed.oracles == report.oracles),
        ("sabotage", claimed.sabotage == report.sabotage),
        ("violations", claimed.violations == report.violations),
    ];
    let differ: Vec<_> = parts.into_iter().filter_map(|(name, same)| (!same).then_some(name)).collect();
    let (path, differ) = (path.display(), differ.join(", "));
    anyhow::ensure!(differ.is_empty(), "{path} does not follow from the evidence, it differs in: {differ}");
    Ok(report)
}

/// `muskox-lab report`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The folder of evidence.
    evidence: PathBuf,
    /// Where report.json and report.html belong; the folder above the evidence if absent.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Writes nothing: computes anew and compares with the report.json that is there.
    #[arg(long)]
    verify: bool,
}

/// Computes or verifies a report; the exit code is 0 only if it is ok.
///
/// # Errors
/// When evidence or report cannot be read or written, or the report does not follow from the evidence.
pub fn run(options: &Options) -> anyhow::Result<i32> {
    let evidence = options.evidence.canonicalize();
    let evidence = evidence.with_context(|| format!("looking for {}", options.evidence.display()))?;
    let out = options.out.as_deref().or_else(|| evidence.parent()).context("the evidence lies in no folder")?;
    let report = if options.verify { verify(&evidence, out)? } else { write(&evidence, out)? };
    print!("{}", super::screen::table(&report));
    Ok(i32::from(!report.ok))
}
