//! Members that were away and come back without anybody's word.

use super::*;

/// A mirror of two that was stopped and started again without `b`, which still is as it was left.
fn without_b() -> (World, Rc<MemDisk>) {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.hand.run(world.array.stop()).unwrap();
    let [a, b] = [0, 1].map(|one| world.disks[one].after_power_cut());
    let again = World::reopen(vec![a], Start::Degraded).unwrap();
    assert_eq!(again.array.status().missing, [(1, 1)]);
    (again, b)
}

fn untouched(disk: &MemDisk) -> bool {
    !disk.log.borrow().iter().any(|seen| matches!(seen, Seen::Write { .. }))
}

/// Goal: A41: a member that was only away gets what was written meanwhile, nothing else, whatever its name is today.
/// Method: write to one chunk without it, mark another chunk of it, take it back by another name.
#[test]
fn who_was_away_is_taken_back_by_bitmap() {
    let (world, b) = without_b();
    world.write(0, 2).unwrap();
    b.live.borrow_mut()[DATA + (1 << 20)] = 7;
    assert_eq!(world.hand.run(world.array.take_back(member(&b, "another name"))).unwrap(), 1);
    assert!(world.array.status().missing.is_empty());
    world.settle();
    assert_eq!((world.state(), world.standings()), (ArrayState::Clean, vec![Standing::InSync; 2]));
    assert_eq!([byte_of(&b, 0), byte_of(&b, 1 << 20)], [2, 7], "only what was written meanwhile is copied");
}

/// Goal: what is no member that was away is not taken without a word, and not written to. Method: a foreign disk, one that
/// failed at work, one that lacks more than the bitmap says, one that ran elsewhere.
#[test]
fn nobody_else_is_taken_back() {
    let refused = |world: &World, disk: &Rc<MemDisk>| {
        disk.log.borrow_mut().clear();
        let error = world.hand.run(world.array.take_back(member(disk, "b"))).unwrap_err();
        assert!(untouched(disk), "{error}");
        error
    };
    let (world, b) = without_b();
    assert!(matches!(refused(&world, &MemDisk::new(DISK_BYTES)), RaidError::LacksMore(_)));
    let alone = World::reopen(vec![b], Start::Degraded).unwrap();
    alone.write(0, 9).unwrap();
    assert!(matches!(refused(&world, &alone.disks[0].after_power_cut()), RaidError::RanElsewhere { .. }));

    let failed = World::new(2);
    failed.hand.run(failed.array.fail(1)).unwrap();
    assert!(matches!(refused(&failed, &failed.disks[1]), RaidError::NoFreeSlot(2)));
    assert!(failed.array.status().missing.is_empty(), "it is not missed: it failed");

    let (world, b) = without_b();
    let new = MemDisk::new(DISK_BYTES);
    world.hand.run(world.array.add(member(&new, "c"), false, [9; 16])).unwrap();
    world.write(0, 3).unwrap();
    world.settle();
    assert!(matches!(refused(&world, &b), RaidError::NoFreeSlot(2)));
    world.hand.run(world.array.stop()).unwrap();
    let again = World::reopen(vec![world.disks[0].after_power_cut()], Start::Degraded).unwrap();
    assert!(matches!(refused(&again, &b), RaidError::LacksMore(_)), "bits were cleared since it left");
}

/// DA14.1: a disk that `add` refuses has told its epochs to nobody: the refusal says that nothing was changed. Method: a
/// half that ran elsewhere and saw a higher epoch, refused, then taken by a word.
#[test]
fn a_refused_disk_changes_no_epoch() {
    let volume = units::VolumeId([1; 16]);
    let record = |epoch: u64| [epoch.to_le_bytes(), 1_u64.to_le_bytes()].concat();
    let (world, b) = without_b();
    let store = |world: &World, epoch| world.hand.run(world.array.facts().store(volume, &record(epoch))).unwrap();
    store(&world, 4);
    let alone = World::reopen(vec![b], Start::Degraded).unwrap();
    store(&alone, 9);
    let half = alone.disks[0].after_power_cut();
    let add = |wipe| world.hand.run(world.array.add(member(&half, "b"), wipe, [9; 16]));
    assert!(matches!(add(false), Err(RaidError::RanElsewhere { .. })));
    assert_eq!(world.array.facts().load()[&volume], record(4));
    add(true).unwrap();
    assert_eq!(world.array.facts().load()[&volume], record(9), "I12");
}
