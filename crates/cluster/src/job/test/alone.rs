//! Single events, each with the figure that was promised for it.

use super::fault::Fault;
use super::world::{MACHINES, World};
use super::{running, sound};
use crate::job::Guest;
use crate::store::Engine;

/// How long until it runs again, on another host.
fn failover(fault: Fault, seed: u64) -> (u64, u64) {
    let mut world = running(seed);
    let boots = world.boots;
    let struck = world.now;
    world.fault(fault);
    while world.boots == boots && world.now < struck + 30_000 {
        world.run_until(world.now + 10);
    }
    let took = world.now - struck;
    world.run_until(world.now + 30_000);
    sound(&world, &format!("{fault:?}, seed {seed}"));
    assert_eq!(world.at_rest(), Ok(()), "{fault:?}, seed {seed}");
    (took, world.overlap_ms)
}

/// Goal: a host that loses its power or is frozen is failed over in little more than the detection time, and a guest of
/// a thawed host overlaps at most until its dead-man is scheduled. Method: twenty of each.
#[test]
fn a_dead_or_frozen_host_is_failed_over_soon() {
    let mut overlap = 0;
    for seed in 1..=20 {
        let (took, _) = failover(Fault::PowerOff(0), seed);
        assert!(took <= 5_000, "seed {seed}: it took {took} ms");
        let mut world = running(seed);
        world.hosts[0].frozen_until = world.now + 8_000 + 10 * (seed % 5);
        world.run_until(world.now + 30_000);
        sound(&world, &format!("frozen, seed {seed}"));
        assert_eq!(world.at_rest(), Ok(()), "frozen, seed {seed}");
        assert!(world.boots == 2 && world.overlap_ms <= 60, "seed {seed}: {} ms overlap", world.overlap_ms);
        overlap = overlap.max(world.overlap_ms);
    }
    println!("longest overlap after a thaw: {overlap} ms");
}

/// Goal: I8, a switch that is off for everybody moves nothing: no start, no epoch. Method: every link cut for a minute;
/// they come back one by one.
#[test]
fn a_switch_that_is_off_moves_nothing() {
    for seed in 1..=20 {
        let mut world = running(seed);
        let before = (world.boots, world.moves, world.ownership());
        let off = world.now + 60_000;
        for a in 0..MACHINES {
            world.isolate(a, off);
        }
        for a in 0..MACHINES {
            for b in 0..a {
                let back = off + world.below(10_000);
                world.cut_until(a, b, back);
            }
        }
        world.run_until(off + 11_000);
        assert!(!world.hosts[0].paused, "seed {seed}: it goes on");
        world.run_until(off + 20_000);
        sound(&world, &format!("seed {seed}"));
        assert_eq!(world.at_rest(), Ok(()), "seed {seed}");
        assert_eq!((world.boots, world.moves, world.ownership()), before, "seed {seed}");
    }
}

/// Goal: a guest whose QEMU dies starts again in place, at a new epoch each time. Method: five deaths.
#[test]
fn a_guest_that_dies_starts_in_place_at_a_new_epoch() {
    let mut world = running(3);
    for death in 1..=5 {
        let epoch = world.ownership().epoch;
        world.fault(Fault::KillQemu(0));
        world.run_until(world.now + 3_000);
        sound(&world, "in place");
        assert_eq!((world.at_rest(), world.boots), (Ok(()), 1 + death));
        assert_eq!(world.ownership().epoch, epoch.next());
        assert!(world.hosts[0].runs(world.now));
    }
}

/// Goal: with the store down nothing is decided and nothing is stopped. Method: five minutes without it, a wish waiting.
#[test]
fn without_the_store_nothing_is_decided() {
    let mut world = running(5);
    let before = (world.boots, world.moves);
    world.store_down_until = world.now + 300_000;
    world.wish = Some(1);
    world.run_until(world.now + 299_000);
    sound(&world, "store down");
    assert_eq!((world.boots, world.moves), before);
    assert!(world.hosts[0].runs(world.now));
    world.run_until(world.now + 10_000);
    assert!(world.hosts[1].runs(world.now), "the wish is granted when it is back");
}

/// Goal: a finished migration leaves a receipt, a bounded history, and ends that are removed by number. Method: many.
#[test]
fn jobs_leave_receipts_and_are_forgotten_by_number() {
    use crate::job::{KEEP_MAX, PREFIX, Plan, Record, Task, expired};
    let mut world = running(7);
    for n in 0..110 {
        world.wish = Some(n % 2);
        let to = n % 2;
        while world.wish.is_some() || !world.hosts[to].runs(world.now) {
            world.run_until(world.now + 500);
            world.wish = world.wish.filter(|_| !world.hosts[to].runs(world.now));
            sound(&world, "many");
        }
    }
    world.run_until(world.now + 2_000);
    let jobs = world.store.range(PREFIX).expect("memory").entries;
    let migrations = jobs.iter().filter_map(|entry| match Record::<Task>::read(&entry.value) {
        Ok(Record { plan: Task::Migrate(plan), history, .. }) => Some((plan, history)),
        _ => None,
    });
    for (plan, history) in migrations {
        assert_eq!(plan.stage(), "clear");
        let receipt = plan.receipt;
        assert!(receipt.copy_ms.is_some() && receipt.hand_over_ms.is_some() && receipt.resume_ms.is_some());
        assert_eq!(history.len(), 6, "{history:?}");
    }
    let removals = expired::<Task>(&jobs);
    assert_eq!(removals.len(), jobs.len() - KEEP_MAX);
    for txn in &removals {
        assert!(world.store.txn(txn).expect("memory").held);
    }
    assert_eq!(world.store.range(PREFIX).expect("memory").entries.len(), KEEP_MAX);
}

/// A migration whose directors all die for 45 s when the source waits before the switch-over, or a while later: for how long
/// the guest stood, at least until they were back.
fn undirected(seed: u64, later: u64, targets_down: bool) -> (World, u64) {
    let mut world = running(seed);
    world.wish = Some(1);
    let waits = |world: &World| world.hosts[0].guest() == Guest::PreSwitchover;
    while !waits(&world) && world.now < 20_000 {
        world.run_until(world.now + 10);
    }
    assert!(waits(&world), "seed {seed}");
    world.run_until(world.now + later);
    let (stopped, back) = (world.now, world.now + 45_000);
    for controller in &mut world.controllers {
        controller.dead_until = back;
        controller.life += 1;
        controller.run = None;
    }
    if targets_down {
        world.targets.iter_mut().for_each(|target| target.down_until = back);
    }
    while world.now < back && !(0..3).any(|host| world.hosts[host].runs(world.now)) {
        world.run_until(world.now + 10);
    }
    let stood = world.now - stopped;
    world.run_until(back + 60_000);
    sound(&world, &format!("seed {seed}, {later} ms later"));
    assert_eq!(world.at_rest(), Ok(()), "seed {seed}, {later} ms later");
    (world, stood)
}

/// D3. Goal: a guest that waits before the switch-over stands for little more than 2 s when nobody directs its move any more,
/// however long that lasts; only if its epoch was not closed; one whose targets do not answer stays stopped. Nobody's guest is
/// started anew. Method: all directors die for 45 s, when it begins to wait and in steps of 10 ms after that.
#[test]
fn a_source_that_nobody_directs_runs_on() {
    let (mut ran_on, mut stayed) = (0, 0);
    for seed in 1..=10 {
        for later in [0, 10, 20, 30, 40] {
            let (world, stood) = undirected(seed, later, false);
            assert_eq!(world.boots, 1, "seed {seed}, {later} ms later: it was started anew");
            ran_on += u64::from(world.ran_on > 0);
            assert!(world.ran_on == 0 || stood <= 2_600, "seed {seed}, {later} ms later: it stood for {stood} ms");
        }
        let (world, stood) = undirected(seed, 0, true);
        assert_eq!(world.boots, 1, "seed {seed}");
        stayed += u64::from(world.ran_on == 0 && stood >= 45_000);
    }
    assert!(ran_on >= 10 && stayed == 10, "{ran_on} ran on, {stayed} stayed");
}
