//! What stands on members and is not ours: refused by name, or kept as it was found.

use super::stock::edit;
use super::*;

fn reopen(disks: Vec<Rc<MemDisk>>, how: Start) -> Result<World, String> {
    World::reopen(disks, how).map_err(|error| error.to_string())
}

fn stopped(count: usize) -> World {
    let world = World::new(count);
    world.write(0, 1).unwrap();
    world.hand.run(world.array.stop()).unwrap();
    world.disks.iter().for_each(|disk| disk.log.borrow_mut().clear());
    world
}

/// A16: a bitmap of another version was written over as version 4 after a copy of everything.
#[test]
fn a_newer_bitmap_is_refused_and_not_written_over() {
    let world = stopped(2);
    world.disks.iter().for_each(|disk| edit(disk, 8192 + 4, &6u32.to_le_bytes()));
    let refused = reopen(world.disks.clone(), Start::Degraded).err().unwrap();
    assert!(refused.starts_with("b: it has a lockless bitmap (version 6), which muskox does not do"), "{refused}");
    assert!(world.disks.iter().all(|disk| disk.log.borrow().is_empty()));
    // One of them alone is rot: the other one's bits are enough to make them equal.
    edit(&world.disks[1], 8192 + 4, &4u32.to_le_bytes());
    let world = reopen(world.disks.clone(), Start::AsLeft).unwrap();
    world.settle();
    assert_eq!((world.state(), world.standings()), (ArrayState::Clean, vec![Standing::InSync; 2]));
}

/// A16's siblings: what stock tools put into the bitmap's header was written over with our own values.
#[test]
fn what_a_bitmaps_header_says_is_kept() {
    let world = stopped(2);
    let found: Vec<u8> = [30u32, 256, 200].iter().flat_map(|word| word.to_le_bytes()).collect();
    for disk in &world.disks {
        edit(disk, 8192 + 56, &found);
        edit(disk, 8192 + 200, &[9; 56]);
    }
    let world = reopen(world.disks.clone(), Start::AsLeft).unwrap();
    world.write(0, 2).unwrap();
    world.settle();
    for disk in &world.disks {
        let durable = disk.durable.borrow();
        assert_eq!(durable[8192 + 56..8192 + 68], found[..]);
        assert_eq!(durable[8192 + 200..8192 + 256], [9; 56]);
    }
}

/// A18: a name in another encoding became U+FFFD on the members.
#[test]
fn a_name_that_is_no_utf_8_is_kept() {
    let world = stopped(2);
    for disk in &world.disks {
        let mut bytes = disk.durable.borrow()[4096..8192].to_vec();
        bytes[32..36].copy_from_slice(b"p\xf6ol");
        edit(disk, 4096, &seal(bytes));
    }
    let world = reopen(world.disks.clone(), Start::AsLeft).unwrap();
    assert_eq!(world.array.status().name, "p\u{fffd}ol");
    world.write(0, 2).unwrap();
    world.settle();
    for disk in &world.disks {
        assert_eq!(disk.durable.borrow()[4096 + 32..4096 + 40], *b"p\xf6ol\0\0\0\0");
    }
}

/// The checksum as mdadm's `calc_sb_1_csum` has it, over one sector.
fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[216..220].fill(0);
    let words = bytes[..512].chunks_exact(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap())));
    let sum: u64 = words.sum();
    let sum = u32::try_from(sum & 0xffff_ffff).unwrap().wrapping_add(u32::try_from(sum >> 32).unwrap());
    bytes[216..220].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// DA9, A15: the blocks of an array do not depend on which members are here. Method: a disk of 512 bytes and one of 4096, the
/// latter lost, added again.
#[test]
fn blocks_stay_when_a_member_is_missing() {
    let disks = blank(2);
    disks[1].block_bytes.set(4096);
    let world = World::of(disks, options());
    world.write(0, 7).unwrap();
    world.hand.run(world.array.stop()).unwrap();
    assert_eq!(superblock_on(&world.disks[0]).block_bytes, 4096);
    let alone = World::reopen(vec![Rc::clone(&world.disks[0])], Start::Degraded).unwrap();
    assert_eq!(alone.array.disk().geometry().block_bytes, 4096);
    alone.hand.run(alone.array.add(member(&world.disks[1], "b"), false, [9; 16])).unwrap();
    alone.settle();
    assert_eq!(alone.standings(), [Standing::InSync; 2]);
}

/// A17: members moved to disks of 4096-byte blocks changed every volume's blocks, without a word. Method: one of them, then
/// both. An array from before the number was kept takes its members' blocks.
#[test]
fn members_with_larger_blocks_are_refused_by_name() {
    let world = stopped(2);
    world.disks[1].block_bytes.set(4096);
    let text = "b has blocks of 4096 bytes, the array and its volumes have 512: use a disk with blocks of 512";
    assert_eq!(reopen(world.disks.clone(), Start::AsLeft).err().unwrap(), text);
    let one = reopen(world.disks.clone(), Start::Degraded).unwrap();
    assert_eq!(one.array.disk().geometry().block_bytes, 512);
    assert_eq!(one.array.status().outsiders, [("b".to_owned(), text.to_owned())]);
    one.hand.run(one.array.stop()).unwrap();
    world.disks[0].block_bytes.set(4096);
    assert!(reopen(world.disks.clone(), Start::Degraded).err().unwrap().contains("has blocks of 4096 bytes"));

    world.disks.iter().for_each(|disk| stock::edit_superblock(disk, |superblock| superblock.block_bytes = 0));
    let older = reopen(world.disks[..1].to_vec(), Start::Degraded).unwrap();
    assert_eq!(older.array.disk().geometry().block_bytes, 4096);
}

/// OD3: with a disk that says by itself what it needs, its words are the refusal, not a count of who is missing.
#[test]
fn a_disk_that_is_refused_by_name_is_not_called_missing() {
    let world = stopped(3);
    stock::edit_superblock(&world.disks[2], |superblock| superblock.features |= 16);
    let refused = reopen(world.disks.clone(), Start::AsLeft).err().unwrap();
    assert!(refused.starts_with("c: the md array uses a replacement in progress"), "{refused}");
}
