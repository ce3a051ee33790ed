//! Jobs in a small world: every controller killed after every command, every fault at every command, and seeds.

mod alone;
mod controller;
mod engine;
mod fault;
mod host;
#[cfg(feature = "sabotage")]
mod planted;
mod target;
mod world;

use fault::Fault;
use world::{Violation, World};

/// A world in which the VM has been running on host 0 for a while.
fn running(seed: u64) -> World {
    let mut world = World::new(seed);
    world.run_until(10_000);
    assert_eq!(world.at_rest(), Ok(()), "seed {seed}");
    world
}

fn sound(world: &World, what: &str) {
    if let Some(Violation(invariant, text)) = &world.violation {
        panic!("{what}: {invariant}: {text}");
    }
}

/// Goal: without faults a guest moves without being started anew, and quickly. Method: one migration after another.
#[test]
fn a_guest_moves() {
    for seed in 1..=10 {
        let mut world = running(seed);
        let boots = world.boots;
        for to in [1, 2, 0] {
            world.wish = Some(to);
            let from = world.now;
            world.run_until(from + 5_000);
            sound(&world, &format!("seed {seed}"));
            assert_eq!(world.at_rest(), Ok(()), "seed {seed}");
            assert!(world.hosts[to].runs(world.now), "seed {seed}: it is on {to}");
        }
        assert_eq!(world.boots, boots, "seed {seed}");
    }
}

/// A migration to host 1 with one fault after the `at`-th command; then everything must end well by itself, in time.
fn migrate_with(fault: Fault, at: u64, seed: u64) -> (World, bool) {
    let mut world = running(seed);
    world.commands = 0;
    world.fault_at = Some((at, fault));
    world.wish = Some(1);
    let mut rested = None;
    while world.now < 60_000 && world.violation.is_none() {
        world.run_until(world.now + 500);
        let struck = world.struck_at.is_some() || world.wish.is_none();
        let quiet = struck && world.now > 15_000 && world.at_rest().is_ok();
        rested = quiet.then(|| rested.unwrap_or(world.now));
        // A fault lasts at most 25 s; after another few without a change there is nothing to come.
        if rested.is_some_and(|since| world.now >= since + 3_000 && world.now > world.struck_at.unwrap_or(0) + 26_000) {
            break;
        }
    }
    let struck = world.struck_at.is_some();
    (world, struck)
}

/// Goal: I9, I10, I1, I2 whatever fails at whichever step. Method: a migration's commands are counted; every fault is
/// put after every one of them.
#[test]
fn every_fault_after_every_command() {
    let faults = [
        Fault::KillController,
        Fault::KillQemu(0),
        Fault::KillQemu(1),
        Fault::PowerOff(0),
        Fault::PowerOff(1),
        Fault::Isolate(0),
        Fault::Isolate(1),
        Fault::Isolate(2),
        Fault::Freeze(0),
        Fault::Blackout(0),
        Fault::Blackout(1),
        Fault::Freeze(1),
        Fault::CutPair(0, 1),
        Fault::CutPair(0, 2),
        Fault::CutPair(1, 3),
        Fault::StoreDown,
        Fault::TargetDown(0),
        Fault::TargetDown(1),
        Fault::Cancel,
    ];
    for fault in faults {
        let mut at = 1;
        loop {
            let what = format!("{fault:?} after command {at}");
            let (mut world, struck) = migrate_with(fault, at, at);
            sound(&world, &what);
            assert_eq!(world.at_rest(), Ok(()), "{what}");
            let took = world.now - world.struck_at.unwrap_or(world.now);
            assert!(took <= 45_000, "{what}: it took {took} ms");
            if fault == Fault::KillController || fault == Fault::Cancel {
                assert_eq!(world.boots, 1, "{what}: nobody's guest died");
            }
            if !struck {
                break;
            }
            at += 1;
        }
        assert!(at > 15, "{fault:?}: a migration has more commands than {at}");
    }
}

/// What random runs came to.
#[derive(Debug, Default)]
struct Tally {
    faults: u64,
    moves: u64,
    boots: u64,
    takeovers: u64,
    overlap_ms: u64,
    ran_on: u64,
}

/// One minute of migrations under faults, then peace: everything must be well within a minute.
fn storm(seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut world = running(seed);
    world.power = seed.is_multiple_of(2);
    (world.lossy, world.hasty) = (true, seed.is_multiple_of(3));
    while world.now < 70_000 && world.violation.is_none() {
        world.run_until(world.now + 100);
        if world.below(30) == 0 {
            let to = usize::try_from(world.below(3)).expect("small");
            world.wish = Some(to);
        }
        if world.below(40) == 0 {
            let fault = any_fault(&mut world);
            world.fault(fault);
            tally.faults += 1;
        }
    }
    world.heal();
    world.wish = None;
    world.run_until(130_000);
    tally.moves += world.moves;
    tally.boots += world.boots;
    tally.takeovers += world.takeovers;
    tally.overlap_ms += world.overlap_ms;
    tally.ran_on += world.ran_on;
    match &world.violation {
        Some(Violation(invariant, text)) => Err(format!("{invariant}: {text}")),
        None => world.at_rest().map_err(|text| format!("I10: {text}: {}", world.last_job())),
    }
}

fn any_fault(world: &mut World) -> Fault {
    let host = usize::try_from(world.below(3)).expect("small");
    let other = usize::try_from(world.below(5)).expect("small");
    match world.below(13) {
        0 | 1 => Fault::KillController,
        2 | 3 => Fault::KillQemu(host),
        4 => Fault::PowerOff(host),
        5 => Fault::Isolate(host),
        6 => Fault::Freeze(host),
        7 | 8 => Fault::CutPair(host, other),
        9 => Fault::StoreDown,
        10 => Fault::TargetDown(other % 2),
        11 => Fault::Blackout(host),
        _ => Fault::Cancel,
    }
}

/// Goal: the same with several faults at once, lost and late messages, hasty takeovers, with and without power
/// fencing. Method: seeds.
#[test]
fn storms_end_well() {
    let mut tally = Tally::default();
    for seed in 1..=60 {
        storm(seed, &mut tally).unwrap_or_else(|text| panic!("seed {seed}: {text}"));
    }
    println!("{tally:?}");
    let stormy = tally.faults > 500 && tally.moves > 500 && tally.takeovers > 50 && tally.ran_on > 10;
    assert!(stormy, "it was a storm: {tally:?}");
}
