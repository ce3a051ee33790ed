//! The figures of faults and migrations, and what of them must never be.

use super::overlap::{blackout_us, two_boots_us};
use super::ownership;
use super::timeline::{Fault, Timeline, boots};
use super::{Failover, Migration, Outage, Violation};
use crate::demo::evidence::{AppliedLine, Evidence, Outcome};
use std::collections::BTreeSet;

/// The bridges learn where the guest is after its RESUME: so long after a migration's end its gap may still last.
const AFTER_MIGRATION_US: u64 = 1_000_000;
/// A guest that moves says so before its migration begins.
const BEFORE_MIGRATION_US: u64 = 1_000_000;

/// The failovers.
pub fn failovers(timeline: &Timeline, evidence: &Evidence) -> Vec<Failover> {
    let faults = timeline.faults.iter().filter(|fault| fault.cause.fails_over());
    faults.map(|fault| failover(fault, evidence)).collect()
}

fn failover(fault: &Fault, evidence: &Evidence) -> Failover {
    let since = |at_us: u64| at_us.saturating_sub(fault.at_us) / 1000;
    let last_ack_us = fault.acks_us.iter().max().copied();
    let known = Timeline::boots_before(evidence, fault.at_us);
    let answers = evidence
        .probes
        .iter()
        .find(|line| (fault.at_us..fault.until_us).contains(&line.at_us) && !known.contains(&line.boot));
    let rogue = evidence.rogue.iter().filter(|line| line.fault == fault.number);
    let refused = rogue.filter(|line| line.outcome == Outcome::Refused).count();
    Failover {
        cause: fault.cause.name().to_owned(),
        // Seen in the store up to a look late; it was there before anything was raised.
        detect_ms: fault.verdict_us.map(|seen_us| since(fault.acks_us.iter().fold(seen_us, |at, ack| at.min(*ack)))),
        fence_ms: last_ack_us.map(since),
        vcpus_running_ms: fault.start.as_ref().map(|start| since(start.at_us)),
        guest_answers_ms: answers.map(|line| since(line.at_us)),
        overlap_ms: two_boots_us(&evidence.beacons, fault.at_us, fault.until_us) / 1000,
        stale_refused: refused as u64,
        stale_applied: stale_writes(fault, evidence).len() as u64,
    }
}

/// Writes of the fault's rogue, by epoch and number, that a disk received or completed after the last ack; each counts
/// once, on however many disks.
pub fn stale_writes(fault: &Fault, evidence: &Evidence) -> BTreeSet<(u64, u64)> {
    let Some(ack_us) = fault.acks_us.iter().max().copied() else { return BTreeSet::new() };
    let late = |op: &&AppliedLine| {
        let ended_late = op.completed_us.is_none_or(|at_us| at_us > ack_us) && !op.failed;
        op.stamp.run == u64::from(fault.number) && (op.received_us > ack_us || ended_late)
    };
    evidence.applied.iter().filter(late).map(|op| (op.stamp.epoch, op.stamp.seq)).collect()
}

/// The outages.
pub fn outages(timeline: &Timeline, evidence: &Evidence) -> Vec<Outage> {
    let outage = |fault: &Fault| {
        let known = Timeline::boots_before(evidence, fault.at_us);
        let within = fault.at_us..fault.until_us;
        let new = boots(evidence).filter(|(at_us, boot)| within.contains(at_us) && !known.contains(boot));
        let restarts: BTreeSet<_> = new.map(|(_, boot)| boot).collect();
        Outage {
            cause: fault.cause.name().to_owned(),
            restarts: restarts.len() as u64,
            epoch_changes: ownership::changes(timeline, evidence, fault.revisions),
            guest_errors: errors_within(evidence, fault),
            resumed_ms: resumed_us(fault, evidence).map(|us| us / 1000),
        }
    };
    timeline.faults.iter().filter(|fault| fault.cause.is_outage()).map(outage).collect()
}

fn errors_within(evidence: &Evidence, fault: &Fault) -> u64 {
    let within = evidence.guest_errors.iter().filter(|line| (fault.at_us..fault.until_us).contains(&line.at_us));
    within.count() as u64
}

/// D2: a guest sees no error, whatever becomes of disks, targets and networks. Only a guest that was fenced may.
pub fn errors_elsewhere(timeline: &Timeline, evidence: &Evidence) -> Option<Violation> {
    let told = timeline.faults.iter().filter(|fault| fault.cause.fails_over() || fault.cause.is_outage());
    let told: u64 = told.map(|fault| errors_within(evidence, fault)).sum();
    let count = (evidence.guest_errors.len() as u64).checked_sub(told).filter(|count| *count > 0)?;
    Some(Violation::new("D2", format!("the guest saw {count} I/O errors outside failovers and outages")))
}

/// From a fault's end to the next record.
fn resumed_us(fault: &Fault, evidence: &Evidence) -> Option<u64> {
    let end_us = fault.end_us?;
    let next = evidence.receipts.iter().find(|line| line.at_us >= end_us && line.at_us < fault.until_us)?;
    Some(next.at_us - end_us)
}

/// From a fault's begin to the first record after it was overcome: nobody expects records in between.
pub fn silence(fault: &Fault, evidence: &Evidence) -> (u64, u64) {
    let over_us = if fault.cause.fails_over() {
        let known = Timeline::boots_before(evidence, fault.at_us);
        let first = evidence.receipts.iter().find(|line| line.at_us >= fault.at_us && !known.contains(&line.boot));
        first.map(|line| line.at_us)
    } else {
        resumed_us(fault, evidence).zip(fault.end_us).map(|(us, end_us)| end_us + us)
    };
    (fault.at_us, over_us.unwrap_or(fault.until_us).min(fault.until_us))
}

/// The migrations that ended.
pub fn migrations(timeline: &Timeline, evidence: &Evidence) -> Vec<Migration> {
    let migration = |one: &super::timeline::Move| {
        let end = one.end?;
        let span = one.at_us.saturating_sub(BEFORE_MIGRATION_US)..timeline.move_until(one.at_us);
        Some(Migration {
            total_ms: end.total_ms,
            cpu_blackout_ms: blackout_us(&evidence.beacons, (&one.from, &one.to), span).map(tenths),
            receipt_blackout_ms: end.blackout_ms,
            network_blackout_ms: longest_gap_us(evidence, one.at_us, end.at_us + AFTER_MIGRATION_US).map(tenths),
            bytes: end.bytes,
        })
    };
    timeline.migrations.iter().filter_map(migration).collect()
}

/// The longest time between two answers of which one at least lies in the span; none without answers around it.
pub fn longest_gap_us(evidence: &Evidence, from_us: u64, to_us: u64) -> Option<u64> {
    let pairs = evidence.probes.windows(2).map(|pair| (pair[0].at_us, pair[1].at_us));
    pairs.filter(|(one, next)| *next >= from_us && *one <= to_us).map(|(one, next)| next - one).max()
}

/// Milliseconds with one digit behind the point, so that a report reads and compares well.
fn tenths(us: u64) -> f64 {
    let tenths = u32::try_from(us.div_ceil(100)).unwrap_or(u32::MAX);
    f64::from(tenths) / 10.0
}

/// I1, I8 and D2, as far as the figures tell.
pub fn violations(failovers: &[Failover], outages: &[Outage]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (number, one) in (1..).zip(failovers) {
        let place = format!("failover {number} ({})", one.cause);
        if one.stale_applied > 0 {
            let count = one.stale_applied;
            found.push(Violation::new(
                "I1",
                format!("{place}: {count} writes of the fenced writer reached a disk after the last ack"),
            ));
        }
    }
    for (number, one) in (1..).zip(outages) {
        let place = format!("outage {number} ({})", one.cause);
        if one.restarts > 0 {
            found.push(Violation::new("I8", format!("{place}: the guest was restarted {} times", one.restarts)));
        }
        if one.epoch_changes > 0 {
            found.push(Violation::new(
                "I8",
                format!("{place}: the VM's epoch or owner changed {} times", one.epoch_changes),
            ));
        }
        if one.guest_errors > 0 {
            found.push(Violation::new("D2", format!("{place}: the guest saw {} I/O errors", one.guest_errors)));
        }
    }
    found
}
