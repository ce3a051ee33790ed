//! The goals that `ok` needs: everything was done, and enough was seen to believe the rest.

use super::timeline::{Start, Timeline};
use super::{Goal, Oracles, Report, records};
use crate::demo::evidence::{Evidence, Outcome, Step};
use std::collections::BTreeSet;

/// Fewer records prove little.
const RECORDS_MIN: u64 = 3000;
const RECORDS_PER_SECOND_MIN: f64 = 20.0;
const SECOND_US: u64 = 1_000_000;

/// Whether each oracle was asked and agreed every time.
pub fn oracles(evidence: &Evidence) -> Oracles {
    let agrees = |name: &str| {
        let mut runs = evidence.oracles.iter().filter(|run| run.oracle == name).peekable();
        runs.peek().is_some() && runs.all(|run| run.agrees)
    };
    Oracles { mdadm: agrees("mdadm"), lvm: agrees("lvm"), e2fsck: agrees("e2fsck") }
}

/// All of them.
pub fn goals(timeline: &Timeline, evidence: &Evidence, report: &Report) -> Vec<Goal> {
    let (acked, checked) = (report.records.acked, evidence.records.map(|check| check.acked));
    let (done, steps) = steps(timeline);
    let rate = records::rate(timeline, evidence);
    let mut goals = vec![
        all_of("steps done", done, steps),
        goal("acknowledged records", Some(acked), format!(">= {RECORDS_MIN}"), acked >= RECORDS_MIN),
        Goal {
            name: "records a second outside outages".to_owned(),
            got: rate,
            want: format!(">= {RECORDS_PER_SECOND_MIN}"),
            ok: rate.is_some_and(|rate| rate >= RECORDS_PER_SECOND_MIN),
        },
        goal("records looked for on the disk", checked, format!("= {acked}"), checked == Some(acked)),
    ];
    let Oracles { mdadm, lvm, e2fsck } = report.oracles;
    let agree = [mdadm, lvm, e2fsck].into_iter().filter(|agrees| *agrees).count() as u64;
    goals.push(goal("oracles that agree", Some(agree), "= 3".to_owned(), agree == 3));
    // Each round kills, freezes and cuts a host, takes switch and storage away, and moves the guest twice.
    let rounds = u64::from(timeline.rounds);
    let (seen, failovers) = failovers_seen(report);
    goals.push(all_of("failovers seen to their end", seen, failovers.max(3 * rounds)));
    let resumed = report.outages.iter().filter(|outage| outage.resumed_ms.is_some()).count() as u64;
    let outages = report.outages.len() as u64;
    goals.push(all_of("outages after which the guest went on", resumed, outages.max(2 * rounds)));
    // What no beacon showed at both ends is not known to have moved.
    let moved = report.migrations.iter().filter(|one| one.cpu_blackout_ms.is_some()).count() as u64;
    let moves = timeline.migrations.len() as u64;
    goals.push(all_of("migrations done", moved, moves.max(2 * rounds)));
    goals.extend(evidence_seen(timeline, evidence));
    let freezes = report.failovers.iter().filter(|failover| failover.cause == "freeze");
    let refused = freezes.map(|failover| failover.stale_refused).min();
    let ok = refused.is_some_and(|refused| refused > 0);
    goals.push(goal("stale writes refused in each freeze", refused, ">= 1".to_owned(), ok));
    goals
}

/// Whether what proves I1, I2 and I9 was seen at all: beacons, writes at the disks, grants.
fn evidence_seen(timeline: &Timeline, evidence: &Evidence) -> [Goal; 3] {
    let silent = seconds_without_beacon(timeline, evidence);
    let silent = goal("seconds without a beacon, outside faults", silent, "= 0".to_owned(), silent == Some(0));
    let mut found: BTreeSet<(u64, u64, u64)> = BTreeSet::new();
    found.extend(evidence.applied.iter().map(|op| (op.stamp.run, op.stamp.epoch, op.stamp.seq)));
    let applied = evidence.rogue.iter().filter(|line| line.outcome == Outcome::Applied);
    let stamps: Vec<_> = applied.filter_map(|line| Some((u64::from(line.fault), line.epoch, line.seq?))).collect();
    let at_disks = stamps.iter().filter(|stamp| found.contains(stamp)).count() as u64;
    let granted = |start: &&Start| {
        let mut lines = evidence.grants.iter().flat_map(|log| &log.lines);
        lines.any(|line| line.is_grant() && line.epoch == start.epoch)
    };
    let starts = timeline.starts.iter().filter(granted).count() as u64;
    [
        silent,
        all_of("writes of the rogue found at the disks", at_disks, stamps.len() as u64),
        all_of("starts with a grant behind them", starts, timeline.starts.len() as u64),
    ]
}

/// Whole seconds, from the guest's first record until it is asked to stop, in which no fault excuses it and no beacon
/// came; none if it never worked.
fn seconds_without_beacon(timeline: &Timeline, evidence: &Evidence) -> Option<u64> {
    let from_us = evidence.receipts.first()?.at_us;
    let to_us = timeline.work_end_us.unwrap_or(timeline.end_us);
    let excused = records::silences(timeline, evidence);
    let has_beacon: BTreeSet<u64> =
        evidence.beacons.iter().filter_map(|beacon| Some(beacon.at_us.checked_sub(from_us)? / SECOND_US)).collect();
    let seconds = to_us.saturating_sub(from_us) / SECOND_US;
    let is_excused = |second: &u64| {
        let (begin_us, end_us) = (from_us + second * SECOND_US, from_us + (second + 1) * SECOND_US);
        excused.iter().any(|(silent_us, over_us)| *silent_us < end_us && begin_us < *over_us)
    };
    let silent = (0..seconds).filter(|second| !has_beacon.contains(second) && !is_excused(second));
    Some(silent.count() as u64)
}

/// How many steps are done, of how many.
fn steps(timeline: &Timeline) -> (u64, u64) {
    let wanted = Step::ALL.into_iter().flat_map(|step| {
        let rounds = if step.is_repeated() { timeline.rounds } else { 1 };
        (1..=rounds).map(move |round| (step, round))
    });
    let is_done = |(step, round): (Step, u32)| {
        let mut known = timeline.steps.iter().filter(|it| (it.step, it.round) == (step, round)).peekable();
        known.peek().is_some() && known.all(|it| it.done_us.is_some() && it.failed.is_none())
    };
    let (mut done, mut count) = (0, 0);
    for step in wanted {
        count += 1;
        done += u64::from(is_done(step));
    }
    (done, count)
}

/// How many failovers have all their moments, of how many.
fn failovers_seen(report: &Report) -> (u64, u64) {
    let whole = report.failovers.iter().filter(|one| {
        let moments = [one.detect_ms, one.fence_ms, one.vcpus_running_ms, one.guest_answers_ms];
        moments.iter().all(Option::is_some)
    });
    (whole.count() as u64, report.failovers.len() as u64)
}

fn all_of(name: &str, got: u64, want: u64) -> Goal {
    goal(name, Some(got), format!("= {want}"), got == want)
}

fn goal(name: &str, got: Option<u64>, want: String, ok: bool) -> Goal {
    let got = got.map(|got| f64::from(u32::try_from(got).unwrap_or(u32::MAX)));
    Goal { name: name.to_owned(), got, want, ok }
}
