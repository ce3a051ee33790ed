//! Filling members: new, returning, after a crash; against writes at the same time.

use super::*;
use crate::testing::poll;
use units::VolumeId;

const NEW: [u8; 16] = [77; 16];

/// A mirror of one holding recognisable data, with a second slot.
fn grown() -> World {
    let world = World::new(1);
    for at in 0..512 {
        world.write(at * 4096, u8::try_from(at % 251).unwrap() + 1).unwrap();
    }
    world.hand.run(world.array.grow(2)).unwrap();
    world
}

fn assert_equal(world: &World) {
    assert_eq!(data_of(&world.disks[0]), data_of(&world.disks[1]));
}

#[test]
fn a_second_disk_is_filled_and_comes_in() {
    let mut world = grown();
    assert_eq!(world.state(), ArrayState::Degraded);
    let disk = MemDisk::new(DISK_BYTES);
    assert_eq!(world.hand.run(world.array.add(member(&disk, "b"), false, NEW)).unwrap(), 1);
    world.disks.push(disk);
    let superblock = superblock_on(&world.disks[1]);
    assert!(superblock.has(superblock::FEATURE_RECOVERY));
    world.settle();
    assert_eq!(world.state(), ArrayState::Clean);
    assert_eq!(world.standings(), [Standing::InSync; 2]);
    assert!(!superblock_on(&world.disks[1]).has(superblock::FEATURE_RECOVERY));
    assert_equal(&world);
    assert!(matches!(
        world.hand.run(world.array.add(member(&MemDisk::new(DISK_BYTES), "c"), false, NEW)),
        Err(RaidError::NoFreeSlot(2))
    ));
}

/// Goal: B-04, I6: a copy never overwrites a newer write. Method: hold the copy's write on the target, write the same
/// place meanwhile, let the copy go.
#[test]
pub(super) fn a_resync_never_overwrites_a_newer_write() {
    let mut world = grown();
    let disk = MemDisk::new(DISK_BYTES);
    world.hand.run(world.array.add(member(&disk, "b"), false, NEW)).unwrap();
    world.disks.push(Rc::clone(&disk));
    disk.held.set(true);
    world.hand.turn();
    // Only the copies under way stay held; what comes now goes through at once, if it is let.
    disk.held.set(false);
    let device = world.array.disk();
    let mut writes: Vec<_> = (0..512u64)
        .map(|at| device.write(ByteOffset(at * 4096), IoBuf::copy_of(&[255; 4096]).freeze(), Durability::Cached))
        .collect();
    writes.iter_mut().for_each(|write| {
        poll(write);
    });
    world.hand.turn();
    disk.release();
    writes.into_iter().for_each(|write| world.hand.run(write).unwrap());
    world.settle();
    assert_eq!(world.standings(), [Standing::InSync; 2]);
    assert_equal(&world);
    assert!(data_of(&disk).iter().all(|&byte| byte == 255));
}

/// Goal: B-02: a degraded write in flight while a member is added reaches it. Method: hold it on the old member.
#[test]
fn a_degraded_write_in_flight_across_add_is_not_missed() {
    for returning in [false, true] {
        let world = World::new(2);
        world.write(0, 1).unwrap();
        world.hand.run(world.array.fail(1)).unwrap();
        world.write(0, 2).unwrap();
        world.disks[0].held.set(true);
        let device = world.array.disk();
        let mut write = device.write(ByteOffset(0), IoBuf::copy_of(&[3; 4096]).freeze(), Durability::Cached);
        assert!(!poll(&mut write));
        let array = Rc::clone(&world.array);
        let disk = member(&world.disks[1], "b");
        let add = async move { array.add(disk, !returning, NEW).await };
        let mut add = Box::pin(add);
        for _ in 0..10 {
            poll(&mut add);
            world.hand.turn();
        }
        world.disks[0].release();
        world.hand.run(add).unwrap();
        world.hand.run(write).unwrap();
        world.settle();
        assert_eq!(world.standings(), [Standing::InSync; 2]);
        assert_eq!([byte_of(&world.disks[0], 0), byte_of(&world.disks[1], 0)], [3, 3], "returning: {returning}");
    }
}

#[test]
fn a_returning_member_gets_only_what_it_missed() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.write(1 << 20, 1).unwrap();
    world.settle();
    world.hand.run(world.array.fail(1)).unwrap();
    world.write(0, 2).unwrap();
    world.settle();
    world.disks[1].log.borrow_mut().clear();
    world.hand.run(world.array.add(member(&world.disks[1], "b"), false, NEW)).unwrap();
    world.settle();
    assert_eq!((world.state(), world.standings()), (ArrayState::Clean, vec![Standing::InSync; 2]));
    assert_equal(&world);
    let copied: u64 = world.disks[1]
        .log
        .borrow()
        .iter()
        .map(|seen| match seen {
            Seen::Write { at, len, .. } if *at >= DATA as u64 => *len,
            _ => 0,
        })
        .sum();
    assert_eq!(copied, 65_536, "one chunk");
}

/// Goal: a look at a successor refuses what adding it would refuse, takes what it would take, and changes nothing.
/// Method: a whole mirror; disks in use, too small, empty, a former member that ran alone.
#[test]
fn a_successor_is_looked_at_before_anything_changes() {
    let world = World::new(2);
    let alone: Vec<_> = world.disks.iter().map(|disk| disk.after_power_cut()).collect();
    World::reopen(vec![Rc::clone(&alone[1])], Start::Degraded).unwrap().write(0, 9).unwrap();
    let look = |disk: &Rc<MemDisk>, wipe| world.hand.run(world.array.check_successor(&member(disk, "new"), wipe));
    let (used, small, empty) = (MemDisk::new(DISK_BYTES), MemDisk::new(ByteLen(1 << 20)), MemDisk::new(DISK_BYTES));
    // An ext4 superblock's magic number. Source: the kernel's `fs/ext4/ext4.h`, at 1024 + 0x38.
    let mut head = vec![0; 4096];
    head[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
    world.hand.run(used.disk().write(ByteOffset(0), IoBuf::copy_of(&head).freeze(), Durability::Fua)).unwrap();
    let before = world.standings();
    assert!(matches!(look(&used, false), Err(RaidError::InUse { .. })));
    assert!(matches!(look(&small, false), Err(RaidError::TooSmall { .. })));
    assert!(matches!(look(&alone[1], false), Err(RaidError::RanElsewhere { .. } | RaidError::AlreadyMember(_))));
    assert!(look(&used, true).is_ok() && look(&empty, false).is_ok());
    assert_eq!((world.standings(), world.state()), (before, ArrayState::Clean));
    assert_eq!(byte_of_head(&used), [0x53, 0xef], "nothing was wiped");
}

fn byte_of_head(disk: &Rc<MemDisk>) -> [u8; 2] {
    let bytes = disk.disk().read(ByteOffset(0), IoBuf::new(4096)).try_now().ok().expect("memory").unwrap();
    [bytes[0x438], bytes[0x439]]
}

#[test]
fn a_member_that_ran_alone_is_not_taken_back_unseen() {
    let world = World::new(2);
    let other: Vec<_> = world.disks.iter().map(|disk| disk.after_power_cut()).collect();
    let alone = World::reopen(vec![Rc::clone(&other[1])], Start::Degraded).unwrap();
    alone.write(0, 9).unwrap();
    world.hand.run(world.array.fail(1)).unwrap();
    alone.hand.run(alone.array.facts().store(VolumeId([1; 16]), &9u64.to_le_bytes())).unwrap();
    let refused = world.hand.run(world.array.add(member(&other[1], "b"), false, NEW));
    assert!(matches!(refused, Err(RaidError::RanElsewhere { .. })), "{refused:?}");
    assert!(world.array.facts().load().is_empty(), "DA14: a refused disk's epochs do not count");
    world.hand.run(world.array.add(member(&other[1], "b"), true, NEW)).unwrap();
    assert_eq!(world.array.facts().load().len(), 1, "those of one that is taken do");
    world.settle();
    assert_eq!(byte_of(&other[1], 0), 0);
}

/// Goal: B-03: a partly filled member is never trusted beyond its offset. Method: stop at every step of a rebuild,
/// start again, and compare both members at the moment of coming in.
#[test]
pub(super) fn a_rebuild_stopped_anywhere_goes_on_and_ends_equal() {
    for stop_after in [3, 5, 8, 20] {
        let mut world = grown();
        let disk = MemDisk::new(DISK_BYTES);
        world.hand.run(world.array.add(member(&disk, "b"), false, NEW)).unwrap();
        world.disks.push(Rc::clone(&disk));
        disk.held.set(true);
        world.hand.turn();
        disk.held.set(false);
        disk.breaks_after.set(None);
        if stop_after > 3 {
            disk.release();
        }
        let array = Rc::clone(&world.array);
        let mut stop = Box::pin(async move { array.stop().await });
        poll(&mut stop);
        disk.release();
        world.hand.run(stop).unwrap();
        let partly = superblock_on(&disk);
        let disks = world.disks.iter().map(|disk| disk.after_power_cut()).collect();
        let world = World::reopen(disks, Start::AsLeft).unwrap();
        if partly.has(superblock::FEATURE_RECOVERY) {
            assert_eq!(world.standings(), [Standing::InSync, Standing::Recovering]);
            assert!(world.array.status().members[1].lacking > ByteLen(0));
        }
        world.settle();
        assert_eq!(world.standings(), [Standing::InSync; 2]);
        assert_equal(&world);
    }
}

#[test]
fn after_a_crash_only_marked_chunks_are_made_equal_and_reads_agree() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.flush().unwrap();
    world.write(0, 2).unwrap();
    // One member's cache reached the media, the other's did not.
    let disks = vec![world.disks[0].after_power_cut(), MemDisk::holding(world.disks[1].live.borrow().clone())];
    assert_ne!(byte_of(&disks[0], 0), byte_of(&disks[1], 0));
    let world = World::reopen(disks, Start::AsLeft).unwrap();
    let first = world.read(0).unwrap();
    assert_eq!(world.state(), ArrayState::Resyncing);
    for _ in 0..4 {
        assert_eq!(world.read(0).unwrap(), first);
    }
    world.settle();
    assert_eq!(world.state(), ArrayState::Clean);
    assert_equal(&world);
    assert_eq!(world.read(0).unwrap(), first);
}

#[test]
fn a_target_that_fails_ends_only_its_own_filling() {
    let mut world = grown();
    let disk = MemDisk::new(DISK_BYTES);
    world.hand.run(world.array.add(member(&disk, "b"), false, NEW)).unwrap();
    world.disks.push(Rc::clone(&disk));
    disk.broken.set(true);
    world.settle();
    assert_eq!(world.standings(), [Standing::InSync, Standing::Faulty]);
    assert!(world.array.status().resync.is_none());
    world.write(0, 5).unwrap();
    assert_eq!(world.read(0).unwrap(), 5);
}

#[test]
fn a_first_resync_makes_unequal_members_equal() {
    let world = World::of(blank(2), CreateOptions { assume_clean: false, ..options() });
    assert_eq!(world.state(), ArrayState::Resyncing);
    // A disk that holds something between its ends: a larger one would be taken like that.
    world.disks[1].live.borrow_mut()[DATA..].fill(3);
    assert_eq!(world.read(4096).unwrap(), 0);
    world.settle();
    assert_eq!(world.state(), ArrayState::Clean);
    assert_equal(&world);
}

/// Goal: a bit is cleared only after a flush that began when its writes had ended. Method: the flush takes longer than
/// the five seconds, and a write ends while it runs.
#[test]
fn a_bit_is_not_cleared_by_a_flush_that_began_before_the_write_ended() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.disks[1].held.set(true);
    let data = IoBuf::copy_of(&[2; 4096]).freeze();
    let mut write = world.array.disk().write(ByteOffset(0), data, Durability::Cached);
    assert!(!poll(&mut write));
    world.disks[1].held_flushes.set(true);
    // The lazy work flushes, and waits.
    world.hand.turn();
    world.hand.pass(5000);
    world.hand.turn();
    world.disks[1].release();
    world.hand.run(write).unwrap();
    world.hand.pass(6000);
    world.disks[1].held_flushes.set(false);
    // The flush covered what was there when it began: the write is still in the cache.
    let marked = |disk: &MemDisk| disk.durable.borrow()[8192 + 256] & 1 == 1;
    let flushes = || world.disks[1].log.borrow().iter().filter(|seen| **seen == Seen::Flush).count();
    let before = flushes();
    world.disks[1].release();
    for _ in 0..3 {
        world.hand.turn();
    }
    assert!(marked(&world.disks[1]) || flushes() > before + 1, "cleared by the old flush");
    world.settle();
    assert!(!marked(&world.disks[1]));
}

/// Goal: members with blocks of 4096 bytes under an array whose size is no multiple of that, as stock mdadm makes on a
/// mix of disks: served and filled up to the last whole block. Method: cut the size by a sector, start, fail, return.
#[test]
fn blocks_of_4096_bytes_and_an_odd_size() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.hand.run(world.array.stop()).unwrap();
    for disk in &world.disks {
        let mut superblock = superblock_on(disk);
        superblock.size = units::Sectors(superblock.size.0 - 1);
        superblock.block_bytes = 0;
        disk.live.borrow_mut()[4096..8192].copy_from_slice(&superblock.encode());
        disk.block_bytes.set(4096);
    }
    let world = World::reopen(world.disks.clone(), Start::AsLeft).unwrap();
    let geometry = world.array.disk().geometry();
    assert_eq!((geometry.block_bytes, geometry.size), (4096, ByteLen((2 << 20) - 4096)));
    world.hand.run(world.array.fail(1)).unwrap();
    world.write((2 << 20) - 8192, 9).unwrap();
    assert!(world.write((2 << 20) - 4096, 9).is_err(), "past the end");
    world.hand.run(world.array.add(member(&world.disks[1], "b"), true, NEW)).unwrap();
    world.settle();
    assert_eq!((world.state(), world.standings()), (ArrayState::Clean, vec![Standing::InSync; 2]));
    assert_eq!(byte_of(&world.disks[1], (2 << 20) - 8192), 9);
}
