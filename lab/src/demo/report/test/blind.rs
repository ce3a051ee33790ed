//! CA10: what the judge did not look at. Each test spoils the good evidence where the old judge was blind.

use super::made::good;
use super::{also, beacons, missed, report, spoilt};
use crate::demo::evidence::{Evidence, What};
use crate::demo::guest::record::Boot;

/// The spoilt evidence violates this, whatever else it violates.
fn is_noticed(invariant: &str, what: &str, spoil: impl FnOnce(&mut Evidence)) {
    let (violated, _, ok) = spoilt(spoil);
    assert!(violated.iter().any(|it| it == invariant), "{what}: {violated:?}");
    assert!(!ok, "{what}");
}

/// The spoilt evidence proves too little: this goal is missed, and nothing is ok.
fn proves_too_little(goal: &str, what: &str, spoil: impl FnOnce(&mut Evidence)) {
    let (_, missed, ok) = spoilt(spoil);
    assert!(missed.iter().any(|it| it == goal), "{what}: {missed:?}");
    assert!(!ok, "{what}");
}

/// CA10: a foreign boot, or one that was fenced long ago, moves somewhere: before the first failover, between two faults,
/// in an outage (also while the guest itself stands still). Goal: two copies are seen at every moment of a run.
/// Method: the review's table.
#[test]
fn two_copies_are_seen_at_every_moment_of_a_run() {
    is_noticed("I2", "a foreign boot before the first failover", |it| also(it, beacons(0xf, "host2", 20_000, 23_100)));
    is_noticed("I2", "from the disk fault to the power-off", |it| also(it, beacons(0xf, "host1", 30_000, 45_000)));
    is_noticed("I2", "while the storage box is off", |it| also(it, beacons(0xa, "host1", 222_000, 232_000)));
    is_noticed("I2", "while the switch is off", |it| also(it, beacons(0xa, "host1", 150_000, 152_400)));
    is_noticed("I2", "in the last seconds", |it| also(it, beacons(0xa, "host1", 249_000, 249_500)));
}

/// CA10's sibling: the new copy runs for seconds before it can say so. Goal: the old one is replaced from the moment the
/// new one's vCPUs run. Method: the old boot goes on after that moment (118.8 s) and stops before the new one's first
/// beacon (125 s).
#[test]
fn a_copy_is_replaced_when_its_successor_starts_not_when_that_speaks() {
    is_noticed("I2", "cut", |it| also(it, beacons(0xc, "host1", 117_400, 123_000)));
    is_noticed("I2", "freeze", |it| also(it, beacons(0xb, "host2", 84_000, 84_300)));
}

/// CA10's sibling: a guest that starts anew though nothing failed over. Goal: every boot but the first has its failover.
/// Method: from 60 s on the guest is another boot, at the same host.
#[test]
fn a_boot_that_nothing_explains_is_seen() {
    is_noticed("I9", "a restart in place", |it| {
        let renamed = |at_us: u64, boot: Boot| if at_us >= 64_000_000 && boot == Boot(0xb) { Boot(0xe) } else { boot };
        it.beacons.iter_mut().for_each(|line| line.boot = renamed(line.at_us, line.boot));
        it.receipts.iter_mut().for_each(|line| line.boot = renamed(line.at_us, line.boot));
        it.probes.iter_mut().for_each(|line| line.boot = renamed(line.at_us, line.boot));
    });
}

/// CA10: without beacons nothing is known of I2. Goal: every second without a fault has one. Method: none at all; none
/// before the first failover; none after the last outage; three seconds without.
#[test]
fn seconds_without_a_beacon_prove_nothing() {
    let goal = "seconds without a beacon, outside faults";
    proves_too_little(goal, "none", |it| it.beacons.clear());
    proves_too_little(goal, "none at the begin", |it| it.beacons.retain(|line| line.at_us > 45_000_000));
    proves_too_little(goal, "none at the end", |it| it.beacons.retain(|line| line.at_us < 220_000_000));
    proves_too_little(goal, "none for three seconds", |it| {
        it.beacons.retain(|line| !(36_000_000..39_000_000).contains(&line.at_us));
    });
}

/// CA10: the blackout is what the beacons show, and the receipt is a claim beside it. Goal: each is told as what it is; a
/// migration that the beacons do not show is not proven. Method: a receipt of 1 ms; beacons that end before a migration.
#[test]
fn a_blackout_is_what_the_beacons_show() {
    let mut evidence = good();
    for event in &mut evidence.events {
        if let What::MigrateEnd { blackout_ms, .. } = &mut event.what {
            *blackout_ms = 1;
        }
    }
    let told = report(&evidence);
    let migration = &told.migrations[0];
    assert_eq!((migration.cpu_blackout_ms, migration.receipt_blackout_ms), (Some(55.0), 1));
    assert!(told.ok && missed(&told).is_empty());
    evidence.beacons.retain(|line| !(25_400_000..=26_400_000).contains(&line.at_us));
    let slow = report(&evidence);
    assert_eq!(slow.migrations[0].cpu_blackout_ms, Some(1010.0));
    let late = ["migration: CPU blackout, median, ms", "migration: CPU blackout, longest, ms"];
    assert_eq!(missed(&slow)[..2], late);
    proves_too_little("migrations done", "no beacon at the destination", |it| {
        it.beacons.retain(|line| !(26_000_000..30_000_000).contains(&line.at_us));
    });
}

/// CA10's siblings: other evidence that can be missing as a whole. Goal: what proves I1 and I9 has to be there. Method:
/// without the disks' log of stamped writes; without the targets' grants; without those of one start.
#[test]
fn evidence_that_is_missing_as_a_whole_is_noticed() {
    proves_too_little("writes of the rogue found at the disks", "no log of the disks", |it| it.applied.clear());
    proves_too_little("starts with a grant behind them", "no grants", |it| it.grants.clear());
    proves_too_little("starts with a grant behind them", "no grants of one epoch", |it| {
        it.grants[0].lines.retain(|line| line.epoch != 4);
    });
}
