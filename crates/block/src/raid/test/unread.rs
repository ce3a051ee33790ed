//! Places that a member cannot read or write: one sector costs what stood there, no more.

use super::*;
use crate::testing::poll;
use units::Millis;

const NEW: [u8; 16] = [77; 16];
const BLOCK: u64 = 4096;

fn sector(at: u64) -> u64 {
    DATA as u64 + at
}

fn mark_of(block: u64) -> u8 {
    u8::try_from(block % 251).unwrap() + 1
}

/// A mirror of one whose block 5 cannot be read, and a second member that was filled from it.
fn filled_past_a_bad_sector() -> World {
    let mut world = World::new(1);
    for block in 0..512 {
        world.write(block * BLOCK, mark_of(block)).unwrap();
    }
    world.hand.run(world.array.grow(2)).unwrap();
    world.disks[0].unreadable.borrow_mut().insert(sector(5 * BLOCK + 512));
    let disk = MemDisk::new(DISK_BYTES);
    world.hand.run(world.array.add(member(&disk, "b"), false, NEW)).unwrap();
    world.disks.push(disk);
    world.settle();
    world
}

fn bad_of(world: &World, slot: usize) -> Vec<(ByteOffset, ByteLen)> {
    world.array.status().members[slot].bad.clone()
}

/// Goal: DA6: a rebuild goes past what nobody can read, and says what is missing, also after a restart. Method: one sector of
/// the only source; the rest is compared; the place is read, and read after it can be read again.
#[test]
fn a_rebuild_goes_past_an_unreadable_sector_and_names_it() {
    let world = filled_past_a_bad_sector();
    let missing = [(ByteOffset(5 * BLOCK), ByteLen(BLOCK))];
    assert_eq!(world.standings(), [Standing::InSync; 2]);
    assert_eq!((bad_of(&world, 0), bad_of(&world, 1)), (Vec::new(), missing.to_vec()));
    assert_eq!(world.array.status().resync_blocked, None);
    let words =
        "b lacks 4 KiB at byte 20480 of the array, where no disk could be read or written: restore what lies there";
    assert_eq!(world.array.status().members[1].lacks().unwrap(), words);
    for block in (0..512).filter(|block| *block != 5) {
        assert_eq!(byte_of(&world.disks[1], block * BLOCK), mark_of(block), "block {block}");
    }
    assert!(world.read(5 * BLOCK).is_err(), "nothing is made up");
    assert_eq!(world.read(4 * BLOCK).unwrap(), mark_of(4));
    assert_eq!(world.standings(), [Standing::InSync; 2], "and nobody is failed for it");
    world.hand.run(world.array.stop()).unwrap();

    let superblock = superblock_on(&world.disks[1]);
    assert!(superblock.has(superblock::FEATURE_BAD_BLOCKS) && !superblock_on(&world.disks[0]).has(8));
    assert_eq!((superblock.bad_block_offset, superblock.bad_block_sectors), (2032, 8));
    let entry = (DATA as u64 / 512 + 5 * 8) << 10 | 8;
    assert_eq!(world.disks[1].durable.borrow()[1_044_480..1_044_488], entry.to_le_bytes());

    // The filled one alone does not make it up either.
    let alone = World::reopen(vec![world.disks[1].after_power_cut()], Start::Degraded).unwrap();
    assert_eq!(bad_of(&alone, 0), missing);
    assert!(alone.read(5 * BLOCK).is_err() && alone.read(6 * BLOCK).is_ok());

    // Here the first one can be read again: the other one gets what it lacks.
    let disks = world.disks.iter().map(|disk| disk.after_power_cut()).collect();
    let again = World::reopen(disks, Start::AsLeft).unwrap();
    assert_eq!(bad_of(&again, 1), missing);
    assert_eq!(again.read(5 * BLOCK).unwrap(), mark_of(5));
    assert_eq!((byte_of(&again.disks[1], 5 * BLOCK), bad_of(&again, 1)), (mark_of(5), Vec::new()));
    again.settle();
    assert!(!superblock_on(&again.disks[1]).has(superblock::FEATURE_BAD_BLOCKS));
}

/// Goal: DA6: a place that is written is there again, and durable before the log forgets it. Method: write it, without a
/// flush; then the power goes.
#[test]
fn what_is_written_is_no_bad_block_any_more() {
    let world = filled_past_a_bad_sector();
    world.disks[1].log.borrow_mut().clear();
    world.write(5 * BLOCK, 99).unwrap();
    let fua = |seen: &Seen| matches!(seen, Seen::Write { at, fua: true, .. } if *at == sector(5 * BLOCK));
    assert!(world.disks[1].log.borrow().iter().any(fua));
    assert_eq!((world.read(5 * BLOCK).unwrap(), bad_of(&world, 1)), (99, Vec::new()));
    let alone = World::reopen(vec![world.disks[1].after_power_cut()], Start::Degraded).unwrap();
    assert_eq!((alone.read(5 * BLOCK).unwrap(), bad_of(&alone, 0)), (99, Vec::new()));
}

/// Goal: DA6's sibling: where each member lacks another block, both blocks are read. Method: one read over both.
#[test]
fn what_any_member_has_is_read() {
    let world = filled_past_a_bad_sector();
    world.disks[0].unreadable.borrow_mut().clear();
    world.disks[0].unreadable.borrow_mut().insert(sector(9 * BLOCK));
    let whole = world.hand.run(world.array.disk().read(ByteOffset(0), IoBuf::new(16 * 4096))).unwrap();
    for block in 0..16u64 {
        assert_eq!(whole[usize::try_from(block * BLOCK).unwrap()], mark_of(block), "block {block}");
    }
    assert_eq!(world.standings(), [Standing::InSync; 2]);
}

/// Goal: DA6: a member whose log is full is not filled with holes that nobody knows of. Method: a log with 512 entries.
#[test]
fn a_full_log_ends_a_rebuild_and_says_where() {
    let mut world = World::new(1);
    world.write(0, 1).unwrap();
    world.hand.run(world.array.grow(2)).unwrap();
    world.disks[0].unreadable.borrow_mut().insert(sector(5 * BLOCK));
    let disk = MemDisk::new(DISK_BYTES);
    world.hand.run(world.array.add(member(&disk, "b"), false, NEW)).unwrap();
    world.disks.push(disk);
    let leg = world.array.0.board.borrow().legs[1].clone().unwrap();
    (0..512u64).for_each(|n| leg.bad.borrow_mut().insert((1 << 40) + n * 8192..(1 << 40) + n * 8192 + 512));
    world.settle();
    assert_eq!(world.standings(), [Standing::InSync, Standing::Recovering]);
    let blocked = world.array.status().resync_blocked.unwrap();
    assert!(blocked.starts_with("no member can be read at byte 20480, "), "{blocked}");
    assert!(blocked.ends_with("and b has no room to record that"), "{blocked}");
}

/// Goal: DA6: after a crash a sector that the source cannot read is taken from the other one, which has the same right to it;
/// the rest stays the source's. Method: both chunks differ; one sector of the source is gone.
#[test]
fn after_a_crash_an_unreadable_sector_of_the_source_is_the_others() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.write(BLOCK, 1).unwrap();
    world.flush().unwrap();
    world.write(0, 2).unwrap();
    world.write(BLOCK, 2).unwrap();
    let disks = vec![MemDisk::holding(world.disks[0].live.borrow().clone()), world.disks[1].after_power_cut()];
    disks[0].unreadable.borrow_mut().insert(sector(BLOCK));
    let world = World::reopen(disks, Start::AsLeft).unwrap();
    world.settle();
    assert!(world.disks[0].unreadable.borrow().is_empty(), "before anybody reads it");
    assert_eq!((world.state(), world.standings()), (ArrayState::Clean, vec![Standing::InSync; 2]));
    assert_eq!((world.read(0).unwrap(), world.read(BLOCK).unwrap()), (2, 1));
    assert_eq!(data_of(&world.disks[0]), data_of(&world.disks[1]));
}

/// Goal: dataplane B2, I3: what was read once is not older later, also if the member that was read fails. Method: after a
/// crash that left the members different, read, then fail the source, and read again; the resync never ran.
#[test]
fn what_was_read_after_a_crash_stays_when_the_source_fails() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.flush().unwrap();
    world.write(0, 2).unwrap();
    let disks = vec![MemDisk::holding(world.disks[0].live.borrow().clone()), world.disks[1].after_power_cut()];
    let world = World::reopen(disks, Start::AsLeft).unwrap();
    world.array.0.resync.cancel.set(true);
    assert_eq!(world.read(0).unwrap(), 2);
    world.hand.run(world.array.fail(0)).unwrap();
    assert_eq!(world.read(0).unwrap(), 2);
}

/// Goal: DA7: one member's bitmap that cannot be read keeps nothing down and costs no copy of everything; it is written
/// again. Method: a marked chunk, a crash, an unreadable sector in each place of one member's bitmap, then in both.
#[test]
fn an_unreadable_bitmap_keeps_no_array_down() {
    let crashed = || {
        let world = World::new(2);
        world.write(0, 1).unwrap();
        world.disks.iter().map(|disk| disk.after_power_cut()).collect::<Vec<_>>()
    };
    for slot in 0..2 {
        let disks = crashed();
        disks[slot].unreadable.borrow_mut().insert(8192);
        let world = World::reopen(disks, Start::AsLeft).unwrap();
        let lacking: u64 = world.array.status().members.iter().map(|member| member.lacking.0).sum();
        assert_eq!(lacking, 64 << 10, "only what the other one's bits say");
        world.settle();
        assert_eq!((world.state(), world.standings()), (ArrayState::Clean, vec![Standing::InSync; 2]));
        assert!(world.disks[slot].unreadable.borrow().is_empty(), "written again");
    }
    let disks = crashed();
    for disk in &disks {
        disk.unreadable.borrow_mut().insert(8192);
    }
    let world = World::reopen(disks, Start::AsLeft).unwrap();
    assert_eq!(world.array.status().members[1].lacking, ByteLen::mib(2), "any chunk may differ");
}

/// Goal: DA7: a disk that hangs at the start does not hold it up for ever. Method: reads that never end, on one of two.
#[test]
fn a_disk_that_hangs_at_the_start_is_left_out() {
    let world = World::new(2);
    world.hand.run(world.array.stop()).unwrap();
    world.disks[1].held_reads.set(true);
    let hand = Hand::new();
    let rt = hand.rt();
    let mut starting = Box::pin(assemble(members(&world.disks), &rt, start(Start::Degraded)));
    assert!(!poll(&mut starting));
    hand.pass(29_999);
    assert!(!poll(&mut starting));
    hand.pass(1);
    let array = hand.run(starting).unwrap();
    assert_eq!(array.status().state, ArrayState::Degraded);
    let (label, why) = array.status().outsiders[0].clone();
    assert_eq!((label.as_str(), why.contains("does not answer")), ("b", true), "{why}");
    hand.end();
}

/// Goal: DA14: a sector that the last member cannot write is the error of that write, and of reads of it; not the end of
/// every volume. Method: the sector, other places, a flush, a restart; then it can be written again.
#[test]
fn a_bad_sector_of_the_last_member_costs_one_write() {
    let world = World::new(1);
    world.write(0, 1).unwrap();
    world.disks[0].unwritable.borrow_mut().insert(sector(0));
    assert!(world.write(0, 2).is_err());
    assert_eq!(world.state(), ArrayState::Active);
    world.write(BLOCK, 3).unwrap();
    world.flush().unwrap();
    assert!(world.read(0).is_err(), "nobody knows what stands there");
    assert_eq!(bad_of(&world, 0), [(ByteOffset(0), ByteLen(BLOCK))]);
    let world = World::reopen(vec![world.disks[0].after_power_cut()], Start::AsLeft).unwrap();
    assert!(world.read(0).is_err());
    assert_eq!(world.read(BLOCK).unwrap(), 3);
    world.write(0, 4).unwrap();
    assert_eq!((world.read(0).unwrap(), bad_of(&world, 0)), (4, Vec::new()));
}

/// Goal: DA14: while applications work, all windows of a resync together keep to 20 MiB/s; reads count as work. Method: four
/// windows of 512 KiB at once, as a chunk of 64 MiB has them, beside a read.
#[test]
fn a_resync_gives_way_with_all_its_windows_together() {
    let world = World::new(2);
    let inner = &world.array.0;
    let mut quick = Box::pin(inner.give_way(512 << 10));
    assert!(poll(&mut quick), "nobody works");
    inner.ranges.reading.set(1);
    let mut windows: Vec<_> = (0..4).map(|_| Box::pin(inner.give_way(512 << 10))).collect();
    let began = |windows: &mut Vec<_>| {
        windows.retain_mut(|window| !poll(window));
        4 - windows.len()
    };
    for (ms, expect) in [(0, 0), (24, 0), (25, 1), (50, 2), (75, 3), (100, 4)] {
        world.hand.pass(ms - world.hand.rt().now().since(units::Moment(0)).0);
        assert_eq!(began(&mut windows), expect, "after {}", Millis(ms));
    }
}
