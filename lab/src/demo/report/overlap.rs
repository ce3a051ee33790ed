//! Two running copies of one guest, seen by their beacons on the hosts' own consoles: neither disks nor networks are in
//! between.
//!
//! After a failover the copies are two *boots*: the time counts in which both moved. A boot moved from one beacon to its
//! next if they are at most 250 ms apart (four are missing then), and one period after its last. In a migration both
//! copies are one boot, handed over within milliseconds, finer than beacons are read; but they share one counter, so two
//! running copies say the same number at two hosts.

use super::Violation;
use crate::demo::evidence::Beacon;
use crate::demo::guest::record::Boot;
use std::collections::BTreeMap;

/// A guest that was silent for longer stood still.
pub const STILL_US: u64 = 250_000;
/// How often a guest says that it moves.
pub const PERIOD_US: u64 = 50_000;
/// So many numbers at both hosts are two copies; fewer may be a line that was cut in half and joined with another.
const SAME_NUMBERS: usize = 3;

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
        let one = |at_ms: u64| Beacon { at_us: at_ms * 1000, host: host.into(), boot: Boot(boot), counter: at_ms / 50 };
        (from_ms..to_ms).step_by(50).map(one).collect()
    }

    fn overlap(mut all: Vec<Beacon>) -> u64 {
        all.sort_by_key(|beacon| beacon.at_us);
        two_boots_us(&all, 0, u64::MAX) / 1000
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
        let single = beacons(0xa, "host1", 9000, 9050);
        assert_eq!(overlap([one.clone(), single, beacons(0xb, "host2", 4000, 20_000)].concat()), 50);
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
