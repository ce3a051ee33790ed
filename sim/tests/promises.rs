//! The simulator as a test: seeds are green and deterministic, faults really happen, red seeds of old stay green,
//! every planted bug is found.

use sim::disk::Lies;
use sim::{bugs, crash, soak, world};
use std::panic::catch_unwind;

/// Seeds of this test: what fits half a minute of a debug build.
const SEEDS: u64 = 60;

/// Goal: the promises hold under faults, a seed is a run, and the faults were really there. Method: the first seeds,
/// each of the first ten twice; every kind of fault and of event must have been counted.
#[test]
fn seeds_are_green_deterministic_and_full_of_faults() {
    let mut totals = soak::Totals::default();
    for seed in 0..SEEDS {
        totals.run(seed, seed < 10);
    }
    println!("{}", totals.page());
    assert!(totals.red.is_empty(), "{}", totals.page());
    for what in FAULTS {
        assert!(totals.deeds.get(what).is_some_and(|count| *count > 0), "'{what}' never happened:\n{}", totals.page());
    }
}

/// What must happen at least once in the seeds of the test, or the promises were not put to any test.
const FAULTS: [&str; 40] = [
    "disk: reads of bad sectors",
    "disk: bad sectors replaced by a write",
    "disk: operations that waited for a flush",
    "disk: operations that waited in the thread's queue",
    "flushes last for a while",
    "sectors of a member become unreadable",
    "a bit of a member's metadata turns",
    "two members are harmed at once",
    "a start is cut in its middle",
    "the path of a stock client is cut",
    "a stock client sends a write again",
    "disk: single EIO of a write or flush",
    "disk: EIO of a read",
    "disk: operations refused by a broken or absent disk",
    "disk: operations that hung",
    "disk: operations at least 10 times slower",
    "disk: cached sectors lost by a power cut",
    "disk: writes in flight at a power cut",
    "the target is killed",
    "the box loses its power",
    "disks are slow for a while",
    "a member vanishes with its cache",
    "a member breaks for good",
    "a member is missing at a restart",
    "an old or unfinished member is not started alone",
    "a member of a degraded mirror starts alone",
    "the state folder is full for a while",
    "a member is replaced by a blank disk",
    "a member returns as it was",
    "a target starts with a member missing and no floor",
    "the store is back and tells the floor",
    "the array is whole again",
    "a session is torn",
    "an initiator restarts with operations in flight",
    "an operation of an old epoch is refused",
    "an attach is refused for good",
    "a fence is acknowledged",
    "a raise is repeated",
    "a raise to a lower epoch is declined",
    "an epoch is reserved for a standby",
];

/// Goal: the checkers see a disk that says it wrote and did not, or somewhere else. Method: some seeds on such disks.
#[test]
fn disks_that_lie_are_seen() {
    for lies in [Lies { misdirect: 50, forget: 0 }, Lies { misdirect: 0, forget: 50 }] {
        let runs = (0..10).map(|seed| catch_unwind(|| world::run_on(seed, false, lies)));
        // A member whose head is written over may be refused in a place where the world expects none.
        let seen = runs.filter(|run| run.as_ref().is_ok_and(|report| !report.violations.is_empty())).count();
        assert!(seen >= 5, "{lies:?}: seen in {seen} of 10 runs");
    }
}

/// Goal: a bug that a seed once found stays fixed. Method: every line of `seeds/*.txt` is run again.
#[test]
fn red_seeds_of_old_are_green() {
    let kept = [include_str!("../seeds/gate_and_raid1.txt")];
    for line in kept.iter().flat_map(|file| file.lines()).filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (seed, why) = line.split_once(' ').expect("a line is a seed and why it was red");
        let seed = seed.parse().expect("a line begins with a seed");
        let report = soak::judge(seed, false).unwrap_or_else(|said| panic!("seed {seed} ({why}): a panic: {said}"));
        assert!(report.violations.is_empty(), "seed {seed} ({why}): {:?}", report.violations);
    }
}

/// Goal: each checker is seen to fail. Method: plant each bug, run seeds until the named invariant breaks, the seed that
/// found it last first; `sim bugs` counts from seed 0.
#[test]
fn every_planted_bug_is_found() {
    let hunts: Vec<_> = bugs::ALL.into_iter().map(|planted| bugs::hunt(planted, true)).collect();
    let table = bugs::table(&hunts);
    println!("{table}");
    assert!(hunts.iter().all(|hunt| hunt.found.is_some()), "{table}");
}

/// Goal: the mirror survives a power cut anywhere in every small workload, and one in its recovery, with two members, three,
/// and one that takes the place of another. Method: all of them; the planted bugs that a crash can show are hunted here too.
#[test]
fn every_small_workload_survives_every_crash() {
    let started = std::time::Instant::now();
    let found = crash::run(&crash::workloads(2), &[]);
    println!("{}", found.page(started.elapsed().as_secs_f64()));
    assert!(found.red.is_empty(), "{}", found.page(1.0));
    assert!(found.states > 4000 && found.second > 200, "{}", found.page(1.0));
}

/// Goal: a volume is there once that was answered, shows nothing of what stood there before, and is served only when it was
/// zeroed. Method: the power cut at every event of a group's life.
#[test]
fn a_volume_group_survives_every_crash() {
    let found = crash::volumes();
    println!("{}", found.page(1.0));
    assert!(found.red.is_empty() && found.states > 200, "{}", found.page(1.0));
}

/// Goal: a guest over the initiator never loses what it was told, and never hears an error, whatever becomes of the
/// target, its power, the line and the initiator. Method: the first seeds of that world, some of them twice.
#[test]
fn a_held_disk_keeps_everything_it_answered() {
    let mut deeds = std::collections::BTreeMap::<&str, u64>::new();
    for seed in 0..40 {
        let report = sim::held::run(seed);
        assert_eq!(report.violation, None, "seed {seed}");
        if seed < 5 {
            assert_eq!(sim::held::run(seed).hash, report.hash, "seed {seed} is one run");
        }
        report.deeds.into_iter().for_each(|(what, count)| *deeds.entry(what).or_default() += count);
    }
    println!("{deeds:#?}");
    let faults = ["the target is killed", "the box loses its power", "a session is torn", "the initiator is killed"];
    for what in faults {
        assert!(deeds.get(what).is_some_and(|count| *count > 10), "'{what}' hardly happened: {deeds:?}");
    }
}
