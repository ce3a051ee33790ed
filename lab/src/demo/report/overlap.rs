//! Running copies of one guest, seen by their beacons on the hosts' own consoles: neither disks nor networks are in
//! between.
//!
//! After a failover the copies are two *boots*. A boot is *replaced* from the moment at which the vCPUs of a failover's new
//! copy run, or at which a later boot is first seen, whichever comes first; from then on each of its beacons is *late*. That
//! is judged over the whole run, whatever else goes on and whether the newer boot moves or stands still.
//! In a migration both copies are one boot, handed over within milliseconds, finer than beacons are read; but they share one
//! counter, so two running copies say the same number at two hosts.
//!
//! A boot *moves* from one beacon to its next if they are at most 250 ms apart, and one period after its last.

use super::Violation;
use super::timeline::{Fault, Timeline};
use crate::demo::evidence::{Beacon, Cause, Evidence};
use crate::demo::guest::record::Boot;
use std::collections::{BTreeMap, BTreeSet};

/// A guest that was silent for longer stood still.
pub const STILL_US: u64 = 250_000;
/// How often a guest says that it moves.
pub const PERIOD_US: u64 = 5_000;
/// So many numbers at both hosts are two copies; fewer may be a line that was cut in half and joined with another.
const SAME_NUMBERS: usize = 3;
/// A frozen host cannot pause its guest; thawed, its dead-man has so long.
const FREEZE_LATE_MAX_US: u64 = 250_000;

/// A time in which a boot moved at a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Which boot.
    pub boot: Boot,
    /// Where.
    pub host: String,
    /// Its first beacon.
    pub from_us: u64,
    /// One period after its last.
    pub to_us: u64,
}

/// Every series, in order of their begins. `beacons` are in order of time.
pub fn series<'a>(beacons: impl IntoIterator<Item = &'a Beacon>) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    let mut open: BTreeMap<(Boot, &str), usize> = BTreeMap::new();
    for beacon in beacons {
        let key = (beacon.boot, beacon.host.as_str());
        let known = open.get(&key).map(|at| &mut all[*at]);
        match known.filter(|known| beacon.at_us <= known.to_us - PERIOD_US + STILL_US) {
            Some(known) => known.to_us = beacon.at_us + PERIOD_US,
            None => {
                open.insert(key, all.len());
                let (boot, host) = (beacon.boot, beacon.host.clone());
                all.push(Series { boot, host, from_us: beacon.at_us, to_us: beacon.at_us + PERIOD_US });
            }
        }
    }
    all
}

/// Each boot's first beacon, in order of time.
pub fn first_beacons(beacons: &[Beacon]) -> Vec<&Beacon> {
    let mut seen = BTreeSet::new();
    beacons.iter().filter(|beacon| seen.insert(beacon.boot)).collect()
}

/// When each boot was replaced.
fn replaced(timeline: &Timeline, evidence: &Evidence) -> BTreeMap<Boot, u64> {
    let first = first_beacons(&evidence.beacons);
    let successors = first.iter().zip(first.iter().skip(1)).map(|(old, new)| (old.boot, new.at_us));
    let mut replaced: BTreeMap<Boot, u64> = successors.collect();
    for fault in &timeline.faults {
        let Some(start) = &fault.start else { continue };
        for old in first.iter().filter(|beacon| beacon.at_us < fault.at_us) {
            let at_us = replaced.entry(old.boot).or_insert(start.at_us);
            *at_us = start.at_us.min(*at_us);
        }
    }
    replaced
}

/// I2: boots that moved after they had been replaced. On a host that froze, a short while is allowed after the thaw.
pub fn late_copies(timeline: &Timeline, evidence: &Evidence) -> Vec<Violation> {
    let replaced = replaced(timeline, evidence);
    let is_late = |beacon: &&Beacon| replaced.get(&beacon.boot).is_some_and(|at_us| beacon.at_us >= *at_us);
    let late = series(evidence.beacons.iter().filter(is_late));
    let mut found = Vec::new();
    for (boot, at_us) in &replaced {
        let mut moved: Vec<&Series> = late.iter().filter(|one| one.boot == *boot).collect();
        for fault in timeline.faults.iter().filter(|fault| fault.cause == Cause::Freeze) {
            let is_thawed =
                |one: &&Series| one.host == fault.host.clone().unwrap_or_default() && fault.has(one.from_us);
            let thawed_us: u64 = moved.iter().filter(|one| is_thawed(one)).map(|one| one.to_us - one.from_us).sum();
            if thawed_us <= FREEZE_LATE_MAX_US {
                moved.retain(|one| !is_thawed(one));
            }
        }
        let Some(first) = moved.first() else { continue };
        let moved_us: u64 = moved.iter().map(|one| one.to_us - one.from_us).sum();
        let (moved_ms, at_s) = (moved_us / 1000, (first.from_us.saturating_sub(timeline.begin_us)) / 1_000_000);
        let gone_ms = (first.from_us - at_us) / 1000;
        let while_it = timeline.fault_at(first.from_us).map_or_else(String::new, Fault::text);
        found.push(Violation::new(
            "I2",
            format!(
                "boot {boot} moved at {} for {moved_ms} ms, from second {at_s} of the run on{while_it}: {gone_ms} ms after it \
                 had been replaced",
                first.host
            ),
        ));
    }
    found
}

/// I9: boots that began although nothing failed over. Those that began in an outage are counted there (I8).
pub fn unexplained_boots(timeline: &Timeline, evidence: &Evidence) -> Vec<Violation> {
    let mut explained = BTreeSet::new();
    let mut found = Vec::new();
    for first in first_beacons(&evidence.beacons).into_iter().skip(1) {
        let fault = timeline.fault_at(first.at_us);
        let explains = fault.is_some_and(|fault| {
            let is_there = fault.start.as_ref().is_none_or(|start| start.host == first.host);
            fault.cause.is_outage() || fault.cause.fails_over() && is_there && explained.insert(fault.number)
        });
        if !explains {
            let (boot, host) = (first.boot, &first.host);
            let at_s = first.at_us.saturating_sub(timeline.begin_us) / 1_000_000;
            let text = format!("boot {boot} began at {host} in second {at_s} of the run, and no failover explains it");
            found.push(Violation::new("I9", text));
        }
    }
    found
}

/// From the last beacon at one host to the first one of the same boot at another, within a span.
pub fn blackout_us(beacons: &[Beacon], (from, to): (&str, &str), span: std::ops::Range<u64>) -> Option<u64> {
    let within = beacons.iter().filter(|beacon| span.contains(&beacon.at_us));
    let mut last: Option<&Beacon> = None;
    for beacon in within {
        if beacon.host == from {
            last = Some(beacon);
        } else if beacon.host == to && last.is_some_and(|last| last.boot == beacon.boot) {
            return last.map(|last| beacon.at_us - last.at_us);
        }
    }
    None
}

/// For how long, within a span, two boots or more were moving.
pub fn two_boots_us(beacons: &[Beacon], from_us: u64, to_us: u64) -> u64 {
    let within = beacons.iter().filter(|beacon| (from_us..to_us).contains(&beacon.at_us));
    let all = series(within);
    let mut edges: Vec<u64> = all.iter().flat_map(|one| [one.from_us, one.to_us]).collect();
    edges.sort_unstable();
    edges.dedup();
    let moving = |at_us: u64| {
        let mut boots: Vec<_> =
            all.iter().filter(|one| one.from_us <= at_us && at_us < one.to_us).map(|one| one.boot).collect();
        boots.sort_unstable();
        boots.dedup();
        boots.len()
    };
    edges.windows(2).filter(|pair| moving(pair[0]) > 1).map(|pair| pair[1] - pair[0]).sum()
}

/// One boot that said the same numbers at two hosts.
pub fn copies_in_migrations(beacons: &[Beacon]) -> Vec<Violation> {
    let mut said: BTreeMap<(Boot, u64), Vec<&str>> = BTreeMap::new();
    for beacon in beacons {
        let hosts = said.entry((beacon.boot, beacon.counter)).or_default();
        if !hosts.contains(&beacon.host.as_str()) {
            hosts.push(&beacon.host);
        }
    }
    let mut twice: BTreeMap<Boot, Vec<u64>> = BTreeMap::new();
    for ((boot, counter), _) in said.into_iter().filter(|(_, hosts)| hosts.len() > 1) {
        twice.entry(boot).or_default().push(counter);
    }
    let copies = twice.into_iter().filter(|(_, counters)| counters.len() >= SAME_NUMBERS);
    let tell = |(boot, counters): (Boot, Vec<u64>)| {
        let (count, first) = (counters.len(), counters[0]);
        Violation::new(
            "I2",
            format!("boot {boot} ran at two hosts at once: {count} beacons at both, the first is {first}"),
        )
    };
    copies.map(tell).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn beacons(boot: u64, host: &str, from_ms: u64, to_ms: u64) -> Vec<Beacon> {
        let one = |at_ms: u64| Beacon { at_us: at_ms * 1000, host: host.into(), boot: Boot(boot), counter: at_ms / 5 };
        (from_ms..to_ms).step_by(5).map(one).collect()
    }

    fn overlap(mut all: Vec<Beacon>) -> u64 {
        all.sort_by_key(|beacon| beacon.at_us);
        two_boots_us(&all, 0, u64::MAX) / 1000
    }

    /// Goal: a blackout is measured between the beacons of one boot. Method: a hand-over, a source that nobody left, another
    /// boot at the destination.
    #[test]
    fn a_blackout_needs_both_ends() {
        let mut all = [beacons(0xa, "host1", 0, 1000), beacons(0xa, "host2", 1040, 2000)].concat();
        assert_eq!(blackout_us(&all, ("host1", "host2"), 500_000..3_000_000), Some(45_000));
        assert_eq!(blackout_us(&all, ("host1", "host2"), 500_000..1_000_000), None);
        assert_eq!(blackout_us(&all, ("host2", "host1"), 0..3_000_000), None);
        all.iter_mut().filter(|beacon| beacon.host == "host2").for_each(|beacon| beacon.boot = Boot(0xb));
        assert_eq!(blackout_us(&all, ("host1", "host2"), 0..3_000_000), None);
    }

    /// Goal: only time in which both moved counts. Method: one after the other; together; a frozen one in between; one
    /// single beacon; three copies count once.
    #[test]
    fn overlap_is_the_time_both_moved() {
        let one = beacons(0xa, "host1", 0, 1000);
        assert_eq!(overlap([one.clone(), beacons(0xb, "host2", 1000, 2000)].concat()), 0);
        assert_eq!(overlap([one.clone(), beacons(0xb, "host2", 800, 2000)].concat()), 200);
        let thawed = beacons(0xa, "host1", 9000, 9150);
        assert_eq!(overlap([one.clone(), thawed, beacons(0xb, "host2", 4000, 20_000)].concat()), 150);
        let single = beacons(0xa, "host1", 9000, 9005);
        assert_eq!(overlap([one.clone(), single, beacons(0xb, "host2", 4000, 20_000)].concat()), 5);
        let three = [one.clone(), beacons(0xb, "host2", 0, 1000), beacons(0xc, "host2", 0, 1000)].concat();
        assert_eq!(overlap(three), 1000);
        assert_eq!(overlap([one, beacons(0xa, "host2", 500, 2000)].concat()), 0, "one boot: judged by its counter");
    }

    /// Goal: a hole in the beacons ends a series. Method: holes of 250 and 251 ms.
    #[test]
    fn a_silent_guest_stands_still() {
        let at = |at_us: u64| Beacon { at_us, host: "host1".into(), boot: Boot(0xa), counter: at_us };
        assert_eq!(series(&[at(0), at(250_000)]).len(), 1);
        assert_eq!(series(&[at(0), at(250_001)]).len(), 2);
    }
}
