//! Members that do not answer: how long they are waited for, and what of theirs is still under way when they return.

use super::*;
use crate::device::IoFuture;
use crate::testing::poll;
use units::Moment;

fn begin(world: &World, at: u64, mark: u8) -> IoFuture<()> {
    let data = IoBuf::copy_of(&[mark; 4096]).freeze();
    let mut write = world.array.disk().write(ByteOffset(at), data, Durability::Cached);
    assert!(!poll(&mut write));
    write
}

/// Lets time pass as it does for a process that runs.
fn let_pass(world: &World, ms: u64) {
    for _ in 0..ms / 250 {
        world.hand.turn();
        world.hand.pass(250);
    }
    world.hand.turn();
}

/// Goal: a write that hangs on a failed member never lands on top of newer data (B-11). Method: fail the member under a
/// held write, let all later writes to it pass, bring it back, release the old one.
#[test]
pub(super) fn a_member_is_not_taken_back_while_old_writes_run_on_it() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    let [a, b] = [&world.disks[0], &world.disks[1]];
    b.held.set(true);
    let write = begin(&world, 0, 2);
    b.held.set(false);
    world.hand.run(world.array.fail(1)).unwrap();
    world.hand.run(write).unwrap();
    world.write(0, 3).unwrap();
    for (label, wipe) in [("b", false), ("b", true), ("another name", false), ("another name", true)] {
        let refused = world.hand.run(world.array.add(member(b, label), wipe, [9; 16]));
        assert!(matches!(refused, Err(RaidError::StillBusy(_))), "{refused:?}");
    }
    b.release();
    world.hand.turn();
    world.hand.run(world.array.add(member(b, "b"), false, [9; 16])).unwrap();
    world.settle();
    assert_eq!(world.standings(), [Standing::InSync; 2]);
    assert_eq!([byte_of(a, 0), byte_of(b, 0)], [3, 3]);
}

/// DA5: a failed member closes its disk when nothing runs on it any more, and not before; until then the status says what
/// runs. Method: fail members with nothing under way, by an error, by the watchdog under two writes; count who holds the
/// disk.
#[test]
fn a_failed_member_lets_its_disk_go_when_nothing_runs_on_it() {
    let world = World::new(3);
    world.write(0, 1).unwrap();
    let [a, b, c] = [&world.disks[0], &world.disks[1], &world.disks[2]];
    let open = |disk: &Rc<MemDisk>| Rc::strong_count(disk) > 1;
    a.broken.set(true);
    world.write(0, 2).unwrap();
    assert!(!open(a) && open(b) && open(c), "failed by an error, nothing under way");

    b.held.set(true);
    let writes = [begin(&world, 0, 3), begin(&world, 4096, 4)];
    let_pass(&world, 31_000);
    writes.into_iter().for_each(|write| world.hand.run(write).unwrap());
    assert_eq!(world.standings(), [Standing::Faulty, Standing::Faulty, Standing::InSync]);
    let busy = world.array.status().still_busy;
    assert_eq!((busy.len(), busy[0].label.as_str(), busy[0].operations), (1, "b", 2));
    assert!(busy[0].since >= units::Millis(30_000), "{}", busy[0]);
    assert!(open(b));
    b.release();
    world.hand.turn();
    assert!(!open(b) && world.array.status().still_busy.is_empty());

    world.hand.run(world.array.add(member(a, "a"), true, [9; 16])).unwrap_err();
    a.broken.set(false);
    world.hand.run(world.array.add(member(a, "a"), true, [9; 16])).unwrap();
    world.settle();
    world.hand.run(world.array.fail(0)).unwrap();
    assert!(!open(a), "failed by an operator");
}

/// DA5: a member whose place another one has taken still says what runs on it. Method: replace it under a held write.
#[test]
fn a_replaced_member_that_hangs_is_named_until_it_ends() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    let b = &world.disks[1];
    b.held.set(true);
    let write = begin(&world, 0, 2);
    world.hand.run(world.array.fail(1)).unwrap();
    world.hand.run(write).unwrap();
    let new = MemDisk::new(DISK_BYTES);
    world.hand.run(world.array.add(member(&new, "c"), false, [9; 16])).unwrap();
    world.settle();
    assert_eq!(world.standings(), [Standing::InSync; 2]);
    assert_eq!(world.array.status().still_busy[0].label, "b");
    b.release();
    world.hand.turn();
    assert!(world.array.status().still_busy.is_empty());
    assert_eq!(Rc::strong_count(b), 1);
}

/// Goal: nobody waits for ever for a member that does not answer. Method: hold one, outside of any fence.
#[test]
pub(super) fn a_member_that_hangs_for_long_is_failed() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.disks[0].held.set(true);
    let mut write = begin(&world, 0, 2);
    let_pass(&world, 29_500);
    assert!(!poll(&mut write));
    let_pass(&world, 1000);
    assert!(poll(&mut write));
    assert_eq!(world.standings(), [Standing::Faulty, Standing::InSync]);
    assert_eq!(superblock_on(&world.disks[1]).roles[0], superblock::Role::Faulty);
    assert_eq!(world.array.status().members[0].cause.as_deref(), Some("no answer for 30.0 s"));

    // The last one is waited for as long as it takes.
    world.disks[1].held.set(true);
    let mut write = begin(&world, 0, 3);
    let_pass(&world, 90_000);
    assert!(!poll(&mut write));
    world.disks[1].release();
    world.hand.run(write).unwrap();
    assert_eq!(world.state(), ArrayState::Degraded);
}

/// Goal: a metadata write that hangs is noticed as well, and does not cost a healthy member its place: the writes that
/// waited for it are young on the others. Method: three members; one holds everything, a second one a single younger
/// write, the third the data that waited for the first.
#[test]
fn who_waited_for_a_hung_member_is_no_laggard() {
    let world = World::new(3);
    world.write(0, 1).unwrap();
    let [a, b, c] = [&world.disks[0], &world.disks[1], &world.disks[2]];
    a.held.set(true);
    let mut waits_for_the_bitmap = begin(&world, 1 << 20, 2);
    let pass = |seconds: u64| let_pass(&world, 1000 * seconds);
    pass(20);
    c.held.set(true);
    let younger = begin(&world, 0, 3);
    // What c holds it keeps; what comes now passes.
    c.held.set(false);
    pass(11);
    b.held.set(true);
    for _ in 0..5 {
        assert!(!poll(&mut waits_for_the_bitmap));
        pass(1);
    }
    assert_eq!(byte_of(c, 1 << 20), 2);
    assert_eq!(world.standings(), [Standing::Faulty, Standing::InSync, Standing::InSync]);
    [b, c].into_iter().for_each(|disk| disk.release());
    world.hand.run(waits_for_the_bitmap).unwrap();
    world.hand.run(younger).unwrap();
}

/// Goal: our own pause is no evidence (B-17). Method: the clock jumps by a minute while one member works.
#[test]
fn a_stopped_process_fails_nobody() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.disks[0].held.set(true);
    let write = begin(&world, 0, 2);
    world.hand.turn();
    world.hand.pass(60_000);
    world.hand.turn();
    assert_eq!(world.standings(), [Standing::InSync; 2]);
    world.disks[0].release();
    world.hand.run(write).unwrap();
    assert_eq!(world.standings(), [Standing::InSync; 2]);
}

/// Goal: the same for a fence: who could not be heard is not failed, and is after the full patience. Method: two members, a
/// write that one holds, this process not scheduled for a while, at each place of the fence's patience.
#[test]
fn a_fence_does_not_count_its_own_pause() {
    for before in [0, 250, 1000] {
        let world = World::new(2);
        world.write(0, 1).unwrap();
        world.disks[0].held.set(true);
        let write = begin(&world, 0, 2);
        let fence = || {
            let older_than = Moment(world.hand.rt().now().0 - 1500);
            world.hand.run(world.array.fail_laggards(older_than)).unwrap();
            world.standings()[0]
        };
        let_pass(&world, before);
        world.hand.pass(60_000);
        assert_eq!(fence(), Standing::InSync, "{before}: right after the pause, before anything else ran");
        let_pass(&world, 1250);
        assert_eq!(fence(), Standing::InSync, "{before}: the patience is not over");
        let_pass(&world, 500);
        assert_eq!(fence(), Standing::Faulty, "{before}: it hangs");
        world.hand.run(write).unwrap();
        world.disks[0].release();
    }
}

/// B1. Goal: a controller that stalls takes all its disks with it, and they come back one after the other: none is failed
/// for that, by a fence or by the watchdog; one that stays away is. Method: both members hang, one is released, who comes
/// first asks; the other is released half a second later, or not at all.
#[test]
fn members_that_hung_together_may_come_back_one_by_one() {
    for (hang_ms, patience_ms) in [(5_000, 1_500), (29_000, 30_000)] {
        let hung = |world: &World| {
            world.disks.iter().for_each(|disk| disk.held.set(true));
            let write = begin(world, 0, 2);
            let_pass(world, hang_ms);
            write
        };
        let ask = |world: &World, write: &mut IoFuture<()>| {
            let done = poll(write);
            if patience_ms == 1_500 {
                let older_than = Moment(world.hand.rt().now().0 - 1_500);
                let _ = world.hand.run(world.array.fail_laggards(older_than));
            }
            let_pass(world, 500);
            done
        };
        let world = World::new(2);
        world.write(0, 1).unwrap();
        let mut write = hung(&world);
        assert!((0..4).all(|_| !ask(&world, &mut write)));
        world.disks[1].release();
        assert!(!ask(&world, &mut write));
        assert_eq!(world.standings(), [Standing::InSync; 2], "{hang_ms}: the other is on its way back");
        world.disks[0].release();
        world.hand.run(write).unwrap();
        assert_eq!(world.standings(), [Standing::InSync; 2]);

        let mut write = hung(&world);
        assert!((0..4).all(|_| !ask(&world, &mut write)));
        world.disks[1].release();
        let answered = (0..patience_ms / 500 + 3).any(|_| ask(&world, &mut write));
        assert_eq!(world.standings(), [Standing::Faulty, Standing::InSync], "{hang_ms}: it stays away");
        assert!(answered);
        world.disks[0].release();
    }
}

/// Goal: when stop has answered, nothing is written any more. Method: a write that waits for a resync's window, stop,
/// then the write again.
#[test]
fn a_write_that_waited_for_a_resync_does_not_outlive_stop() {
    let world = World::new(1);
    world.write(0, 1).unwrap();
    world.hand.run(world.array.grow(2)).unwrap();
    let disk = MemDisk::new(DISK_BYTES);
    world.hand.run(world.array.add(member(&disk, "b"), false, [7; 16])).unwrap();
    disk.held.set(true);
    world.hand.turn();
    let mut write = begin(&world, 0, 2);
    let array = Rc::clone(&world.array);
    let mut stop = Box::pin(async move { array.stop().await });
    assert!(!poll(&mut stop));
    disk.release();
    world.hand.run(stop).unwrap();
    [&world.disks[0], &disk].into_iter().for_each(|disk| disk.log.borrow_mut().clear());
    for _ in 0..5 {
        world.hand.turn();
        if poll(&mut write) {
            break;
        }
    }
    assert!(world.disks[0].log.borrow().is_empty() && disk.log.borrow().is_empty(), "{:?}", disk.log.borrow());
}

/// Goal: one disk is never two members. Method: add a member that works, under another name.
#[test]
fn a_working_member_is_not_taken_in_again() {
    let world = World::new(1);
    world.write(0, 7).unwrap();
    world.hand.run(world.array.grow(2)).unwrap();
    for wipe in [false, true] {
        let refused = world.hand.run(world.array.add(member(&world.disks[0], "alias"), wipe, [9; 16]));
        assert!(matches!(refused, Err(RaidError::AlreadyMember(_))), "{refused:?}");
    }
    assert_eq!(superblock_on(&world.disks[0]).number, 0);
}
