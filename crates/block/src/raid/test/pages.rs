//! An array whose bitmap has more than one page.

use super::*;
use crate::IoData;
use crate::device::{BlockDevice, Disk, Geometry, IoFuture};
use bitmap::{Bitmap, Header};
use chunks::ChunkSet;
use std::cell::RefCell;

/// Enough chunks of 4096 bytes for a second page, which begins at chunk 30 720.
const CHUNKS: usize = 30_720 + 256;
const CHUNK_BYTES: u64 = 4096;

/// A mirror of two that was stopped and whose bitmaps were made anew with small chunks, as `mdadm --bitmap-chunk` does.
fn small_chunks() -> World {
    let size = ByteLen(DATA as u64 + CHUNKS as u64 * CHUNK_BYTES);
    let world = World::of((0..2).map(|_| MemDisk::new(size)).collect(), options());
    world.hand.run(world.array.stop()).unwrap();
    for disk in &world.disks {
        let mut live = disk.live.borrow_mut();
        let old = Header::decode(&live[8192..]).unwrap();
        let header = Header { chunk_bytes: u32::try_from(CHUNK_BYTES).unwrap(), ..old };
        let mut empty = Bitmap::new(CHUNK_BYTES, ChunkSet::empty(CHUNKS), header.events_cleared);
        for (page, bytes) in empty.take_dirty(&header).0 {
            live[8192 + page * 4096..][..4096].copy_from_slice(&bytes);
        }
    }
    World::reopen(world.disks.clone(), Start::AsLeft).unwrap()
}

fn header_on(disk: &MemDisk) -> Header {
    Header::decode(&disk.durable.borrow()[8192..]).unwrap()
}

/// DA2: a member that left before bits of a later page were cleared is filled whole, also after a power cut. Method: keep
/// an image of B; write a chunk of the second page, let its bit be cleared, cut the power; start A alone and give it the
/// image.
#[test]
pub(super) fn a_member_older_than_the_cleared_bits_is_filled_whole() {
    let at = 30_800 * CHUNK_BYTES;
    let world = small_chunks();
    world.write(at, 1).unwrap();
    world.settle();
    let image = world.disks[1].after_power_cut();
    let left_at = superblock_on(&image).events;
    world.write(at, 2).unwrap();
    // Long enough for the bit, and not for the array's being marked clean: no superblock is written after it.
    for _ in 0..30 {
        world.hand.turn();
        world.hand.pass(250);
        world.write(30_900 * CHUNK_BYTES, 3).unwrap();
    }
    let marked = |disk: &MemDisk| disk.durable.borrow()[8192 + 256 + 30_800 / 8] & 1 == 1;
    assert!(world.disks.iter().all(|disk| !marked(disk)), "the bit is cleared on the media");
    for disk in &world.disks {
        assert!(header_on(disk).events_cleared > left_at, "and the header says since when");
    }

    let world = World::reopen(vec![world.disks[0].after_power_cut()], Start::Degraded).unwrap();
    world.hand.run(world.array.add(member(&image, "b"), false, [9; 16])).unwrap();
    assert_eq!(world.array.status().members[1].lacking, world.array.disk().geometry().size);
}

/// DA2: the opposite: one that left after the last clearing lacks only what was written since.
#[test]
fn a_member_as_new_as_the_cleared_bits_comes_back_by_bitmap() {
    let world = small_chunks();
    world.write(30_800 * CHUNK_BYTES, 1).unwrap();
    world.settle();
    world.hand.run(world.array.fail(1)).unwrap();
    world.write(30_801 * CHUNK_BYTES, 2).unwrap();
    let left = world.disks[1].after_power_cut();
    let world = World::reopen(vec![world.disks[0].after_power_cut()], Start::Degraded).unwrap();
    world.hand.run(world.array.add(member(&left, "b"), false, [9; 16])).unwrap();
    assert_eq!(world.array.status().members[1].lacking, ByteLen(CHUNK_BYTES));
}

/// A member that keeps a copy of everything that is written over the bitmap's first page.
struct Watched {
    disk: Disk,
    pages: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl BlockDevice for Watched {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }
    fn read(&self, at: ByteOffset, into: IoBuf) -> IoFuture<IoBuf> {
        self.disk.read(at, into)
    }
    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        if at.0 == 8192 {
            self.pages.borrow_mut().push(from.to_vec());
        }
        self.disk.write(at, from, how)
    }
    fn flush(&self) -> IoFuture<()> {
        self.disk.flush()
    }
    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.disk.discard(at, len)
    }
    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        self.disk.write_zeroes(at, len, how, may_unmap)
    }
}

/// Dataplane B4: however the first page is torn, it does not show a bit clear under a header from before the clearing.
/// Method: every write of that page beside the one before it; the sectors of one may land without those of the other.
#[test]
fn a_torn_first_page_takes_no_older_member_back() {
    let pages: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let (hand, disks) = (Hand::new(), blank(2));
    let watched = Watched { disk: disks[0].disk(), pages: Rc::clone(&pages) };
    let members = vec![Member { disk: Rc::new(watched), label: "a".into() }, member(&disks[1], "b")];
    let array = hand.run(create(options(), members, &hand.rt(), &mut number_bytes())).unwrap();
    let world = World { hand, disks, array };
    world.write(0, 1).unwrap();
    world.settle();
    let pages = pages.borrow();
    let bit = |page: &[u8]| page[256] & 1 == 1;
    let cleared = |page: &[u8]| Header::decode(page).unwrap().events_cleared;
    assert!(pages.iter().any(|page| bit(page)) && !bit(pages.last().unwrap()), "it was set, and cleared");
    for (old, new) in pages.iter().zip(&pages[1..]) {
        assert!(!bit(old) || bit(new) || cleared(old) == cleared(new), "one write clears bits and moves the header");
    }
}
