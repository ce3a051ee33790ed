//! Tests of linear volumes over a disk in memory.

use super::*;
use crate::testing::{Hand, MemDisk, Seen};

const BLOCK: u64 = 512;
const BLOCK_BYTES: usize = 512;

/// A volume of 4 + 2 + 3 blocks on a disk of 32, at blocks 10, 2 and 20; the run at 2 is given in two neighbours.
fn volume(disk: &Rc<MemDisk>, hand: &Rc<Hand>, writable: bool) -> Linear {
    let runs = [(10, 4), (2, 1), (3, 1), (20, 3)];
    let runs = runs.map(|(start, len)| (ByteOffset(start * BLOCK), ByteLen(len * BLOCK)));
    Linear::new(&hand.rt(), &disk.disk(), Rc::new(Map::new(runs)), writable)
}

fn lower_block(block: u64) -> u64 {
    [10, 11, 12, 13, 2, 3, 20, 21, 22][usize::try_from(block).unwrap()]
}

#[test]
fn the_geometry_is_the_lower_disks_with_its_own_size() {
    let (disk, hand) = (MemDisk::new(ByteLen(32 * BLOCK)), Hand::new());
    let geometry = volume(&disk, &hand, true).geometry();
    assert_eq!(geometry, Geometry { size: ByteLen(9 * BLOCK), ..disk.disk().geometry() });
}

/// Goal: every byte is where the map says, for reads and writes over any borders. Method: every range of blocks,
/// written with a stamp through the volume and looked for below, then the other way round.
#[test]
fn every_range_lands_where_the_map_says() {
    for start in 0..9 {
        for len in 0..=9 - start {
            let (disk, hand) = (MemDisk::new(ByteLen(32 * BLOCK)), Hand::new());
            let volume = volume(&disk, &hand, true);
            let stamp: Vec<u8> = (0..len).flat_map(|n| [u8::try_from(n).unwrap() + 1; BLOCK_BYTES]).collect();
            let at = ByteOffset(start * BLOCK);
            hand.run(volume.write(at, IoBuf::copy_of(&stamp).freeze(), Durability::Cached)).unwrap();
            let mut expect = vec![0; 32 * BLOCK_BYTES];
            for n in 0..len {
                let place = usize::try_from(lower_block(start + n) * BLOCK).unwrap();
                expect[place..place + BLOCK_BYTES].fill(u8::try_from(n).unwrap() + 1);
            }
            assert_eq!(*disk.live.borrow(), expect, "{start} {len}");
            let read = hand.run(volume.read(at, IoBuf::new(stamp.len()))).unwrap();
            assert_eq!(*read, *stamp, "{start} {len}");
            hand.run(volume.write_zeroes(at, ByteLen::of(&stamp), Durability::Cached, true)).unwrap();
            assert!(disk.live.borrow().iter().all(|&byte| byte == 0), "{start} {len}");
            hand.run(volume.discard(at, ByteLen::of(&stamp))).unwrap();
        }
    }
}

#[test]
fn one_piece_is_answered_at_once_and_durability_is_passed_on() {
    let (disk, hand) = (MemDisk::new(ByteLen(32 * BLOCK)), Hand::new());
    let volume = volume(&disk, &hand, true);
    let data = IoData::zeroes(2 * BLOCK_BYTES);
    assert!(volume.write(ByteOffset(4 * BLOCK), data.clone(), Durability::Fua).try_now().is_ok());
    assert!(volume.read(ByteOffset(0), IoBuf::new(4 * BLOCK_BYTES)).try_now().is_ok());
    hand.run(volume.write(ByteOffset(3 * BLOCK), data, Durability::Fua)).unwrap();
    hand.run(volume.flush()).unwrap();
    let fua = |block, blocks| Seen::Write { at: block * BLOCK, len: blocks * BLOCK, fua: true };
    assert_eq!(*disk.log.borrow(), [fua(2, 2), fua(13, 1), fua(2, 1), Seen::Flush]);
}

#[test]
fn what_is_outside_or_read_only_touches_nothing() {
    let (disk, hand) = (MemDisk::new(ByteLen(32 * BLOCK)), Hand::new());
    let (both, read_only) = (volume(&disk, &hand, true), volume(&disk, &hand, false));
    let data = || IoData::zeroes(BLOCK_BYTES);
    let end = ByteOffset(9 * BLOCK);
    let past = Err(DeviceError::OutOfRange { at: end, len: ByteLen(BLOCK), size: ByteLen(9 * BLOCK) });
    assert_eq!(hand.run(both.write(end, data(), Durability::Cached)), past);
    assert_eq!(hand.run(both.discard(end, ByteLen(BLOCK))), past);
    assert_eq!(hand.run(both.read(end, IoBuf::new(BLOCK_BYTES))).map(|_| ()), past);
    let refused = Err(DeviceError::ReadOnly);
    assert_eq!(hand.run(read_only.write(ByteOffset(0), data(), Durability::Cached)), refused);
    assert_eq!(hand.run(read_only.discard(ByteOffset(0), ByteLen(BLOCK))), refused);
    assert_eq!(hand.run(read_only.write_zeroes(ByteOffset(0), ByteLen(BLOCK), Durability::Fua, false)), refused);
    assert!(disk.log.borrow().is_empty());
}

/// Goal: a split write goes on when its future is dropped (rule 3 of `device`). Method: hold the lower disk, start,
/// drop, let go.
#[test]
fn a_dropped_split_write_ends() {
    let (disk, hand) = (MemDisk::new(ByteLen(32 * BLOCK)), Hand::new());
    let volume = volume(&disk, &hand, true);
    disk.held.set(true);
    let mut write =
        volume.write(ByteOffset(3 * BLOCK), IoBuf::copy_of(&[7; 2 * BLOCK_BYTES]).freeze(), Durability::Fua);
    assert!(!crate::testing::poll(&mut write));
    drop(write);
    disk.release();
    hand.turn();
    assert_eq!(disk.log.borrow().len(), 2);
}
