//! The guest's records: what the referee received is acknowledged, and must be on the disk in the end (I3).

use super::faults::silence;
use super::timeline::Timeline;
use super::{Records, Violation};
use crate::demo::evidence::Evidence;
use crate::demo::guest::record::Boot;
use std::collections::{BTreeMap, BTreeSet};

/// Counts them: received by the referee, and what the disk's check found.
pub fn count(evidence: &Evidence) -> Records {
    let check = evidence.records.unwrap_or_default();
    Records { acked: acked(evidence), missing: check.missing, torn: check.torn }
}

/// Records, each counted once however often its acknowledgement came.
pub fn acked(evidence: &Evidence) -> u64 {
    let all: BTreeSet<_> = evidence.receipts.iter().map(|line| (line.boot, line.n, line.crc)).collect();
    all.len() as u64
}

/// I3.
pub fn violations(evidence: &Evidence, records: Records) -> Vec<Violation> {
    let mut found = Vec::new();
    if records.missing > 0 {
        found.push(Violation::new("I3", format!("{} acknowledged records are not on the disk", records.missing)));
    }
    if records.torn > 0 {
        found.push(Violation::new("I3", format!("{} acknowledged records are torn", records.torn)));
    }
    // A guest that finds its last record goes on behind it: the same number again means that it was not there.
    let mut first: BTreeMap<u64, (Boot, u32)> = BTreeMap::new();
    for line in &evidence.receipts {
        let now = (line.boot, line.crc);
        let before = *first.entry(line.n).or_insert(now);
        if before != now {
            let text = format!("record {} was acknowledged by boot {} and again by boot {}", line.n, before.0, now.0);
            found.push(Violation::new("I3", text));
            break;
        }
    }
    found
}

/// The times in which nobody expects anything of the guest: from each failover or outage until it was overcome. Faults follow
/// each other, so these do not overlap.
pub fn silences(timeline: &Timeline, evidence: &Evidence) -> Vec<(u64, u64)> {
    let faults = timeline.faults.iter().filter(|fault| fault.cause.fails_over() || fault.cause.is_outage());
    faults.map(|fault| silence(fault, evidence)).collect()
}

/// Records a second, outside the times in which nobody expects any.
pub fn rate(timeline: &Timeline, evidence: &Evidence) -> Option<f64> {
    let (first, last) = (evidence.receipts.first()?, evidence.receipts.last()?);
    let (from_us, to_us) = (first.at_us, timeline.work_end_us.unwrap_or(last.at_us));
    let silent = silences(timeline, evidence).into_iter();
    let silent: Vec<(u64, u64)> =
        silent.map(|(begin, end)| (begin.clamp(from_us, to_us), end.clamp(from_us, to_us))).collect();
    let silent_us: u64 = silent.iter().map(|(begin, end)| end - begin).sum();
    let working_us = to_us.saturating_sub(from_us).checked_sub(silent_us).filter(|us| *us > 0)?;
    let counted = evidence.receipts.iter().filter(|line| (from_us..=to_us).contains(&line.at_us));
    let counted = counted.filter(|line| !silent.iter().any(|(begin, end)| (*begin..*end).contains(&line.at_us)));
    let records: BTreeSet<_> = counted.map(|line| (line.boot, line.n)).collect();
    let tenths = records.len() as u64 * 10_000_000 / working_us;
    Some(f64::from(u32::try_from(tenths).ok()?) / 10.0)
}
