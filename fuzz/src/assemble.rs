//! Starting an array from members that were changed by anybody.
//!
//! First byte: bit 0 one disk of the two, bit 1 start degraded, bit 2 make the checksums right, bit 3 the second disk
//! has blocks of 4096, bit 4 a pair that was not stopped (dirty), bit 5 disks in the other order. Then changes: region
//! bits 0 to 2 superblock, bitmap, facts A, facts B, data; bit 3 the second disk.

use crate::patch::{patch, patches};
use crate::seal;
use crate::world::{Hand, Image, Sparse};
use crate::Seed;
use block::raid::superblock::Superblock;
use block::raid::{Array, AssembleOptions, CreateOptions, Member, Standing, Start, create};
use block::{Durability, IoBuf};
use std::rc::Rc;
use units::{ArrayId, ByteLen, ByteOffset, VolumeId};

const DISK_BYTES: ByteLen = ByteLen(18 << 20);
const SUPERBLOCK: u64 = 4096;
const FACTS: u64 = 1 << 20;
const SLOT: u64 = 512 << 10;
const DATA: u64 = 16 << 20;

thread_local! {
    /// A pair that was stopped, and one whose power was cut while it was written to.
    static BASES: [[Image; 2]; 2] = [base(true), base(false)];
}

/// No bytes make it panic, hang or serve a size that its members do not have; what it acknowledges is there again.
pub fn assemble(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let mut images = BASES.with(|bases| bases[usize::from(choice >> 4 & 1)].clone());
    for change in patches(rest) {
        let start = [SUPERBLOCK, 8192, FACTS, FACTS + SLOT, DATA, SUPERBLOCK, SUPERBLOCK, SUPERBLOCK];
        let start = start[usize::from(change.region & 7)];
        images[usize::from(change.region >> 3 & 1)].write(start + u64::from(change.offset), change.bytes);
    }
    if choice & 4 == 4 {
        images.iter_mut().for_each(reseal);
    }
    let [first, second] = images;
    let second_blocks = if choice & 8 == 8 { 4096 } else { 512 };
    let mut disks = vec![Sparse::new(DISK_BYTES, 512, first), Sparse::new(DISK_BYTES, second_blocks, second)];
    if choice & 32 == 32 {
        disks.reverse();
    }
    disks.truncate(if choice & 1 == 1 { 1 } else { 2 });
    let start = if choice & 2 == 2 { Start::Degraded } else { Start::AsLeft };
    serve(&disks, start);
}

fn reseal(image: &mut Image) {
    image.edit(SUPERBLOCK, 4096, seal::md_superblock);
    image.edit(FACTS, 4096, seal::facts);
    image.edit(FACTS + SLOT, 4096, seal::facts);
}

fn serve(disks: &[Rc<Sparse>], start: Start) {
    let Some((hand, array, size)) = open(disks, start) else { return };
    let disk = array.disk();
    let block = u64::from(disk.geometry().block_bytes);
    let read = |hand: &Hand, at: u64| hand.run(disk.read(ByteOffset(at), IoBuf::new(4096)));
    assert!(read(&hand, size.0).is_err(), "a read behind the end was answered");
    let _ = read(&hand, 0);
    let _ = hand.run(disk.read(ByteOffset(size.0.saturating_sub(block) / block * block), IoBuf::new(usize::try_from(block).expect("small"))));
    let data = IoBuf::copy_of(&[0xa5; 4096]).freeze();
    let written = hand.run(disk.write(ByteOffset(0), data, Durability::Cached));
    let flushed = hand.run(disk.flush());
    let stored = hand.run(array.facts().store(VolumeId([9; 16]), &[255; 24]));
    hand.settle(8);
    if let Ok(bytes) = read(&hand, 0) {
        assert!(written.is_err() || bytes.iter().all(|&byte| byte == 0xa5), "an acknowledged write is not read");
    }
    let stopped = hand.run(array.stop());
    if written.is_err() || flushed.is_err() || stopped.is_err() {
        return;
    }
    // Everything was answered with success: the next start must find it.
    let Some((hand, array, again)) = open(disks, Start::Degraded) else { panic!("it does not start again") };
    assert_eq!(size, again, "another size after a restart");
    let bytes = hand.run(array.disk().read(ByteOffset(0), IoBuf::new(4096))).expect("the disks work");
    assert!(bytes.iter().all(|&byte| byte == 0xa5), "an acknowledged write is lost after a restart");
    let record = array.facts().load().remove(&VolumeId([9; 16]));
    assert!(stored.is_err() || record.as_deref() == Some(&[255; 24]), "an acknowledged record is lost");
}

/// The array, if these disks are one, and its size, which is what every member in sync has, in whole blocks.
fn open(disks: &[Rc<Sparse>], start: Start) -> Option<(Rc<Hand>, Rc<Array>, ByteLen)> {
    let hand = Hand::new();
    let before: Vec<_> = disks.iter().map(|disk| superblock_of(disk)).collect();
    let options = AssembleOptions { start, unix_seconds: 1_800_000_100 };
    let array = hand.run(block::raid::assemble(members(disks), &hand.rt(), options)).ok()?;
    let (size, block) = (array.disk().geometry().size, u64::from(array.disk().geometry().block_bytes));
    let whole = |bytes: u64| bytes / block * block;
    assert_eq!(whole(array.status().size.0), size.0);
    for member in array.status().members.iter().filter(|member| member.standing == Standing::InSync) {
        let index = usize::from(member.label == "b");
        let own = before[index].as_ref().expect("a member in sync has a superblock");
        assert_eq!(whole(own.size.bytes()), size.0, "served with a size that is not the member's");
        assert!(own.data_offset.bytes() + size.0 <= DISK_BYTES.0, "the data ends behind the disk");
    }
    Some((hand, array, size))
}

fn members(disks: &[Rc<Sparse>]) -> Vec<Member> {
    disks.iter().zip(["a", "b"]).map(|(disk, label)| Member { disk: disk.disk(), label: label.into() }).collect()
}

fn superblock_of(disk: &Sparse) -> Option<Superblock> {
    let mut bytes = [0; 4096];
    disk.image().read(SUPERBLOCK, &mut bytes);
    Superblock::decode(&bytes).ok()
}

fn base(stopped: bool) -> [Image; 2] {
    let disks = [0, 1].map(|_| Sparse::new(DISK_BYTES, 512, Image::default()));
    let (hand, mut next) = (Hand::new(), 0);
    let options = CreateOptions {
        name: "pool".into(),
        id: ArrayId([5; 16]),
        unix_seconds: 1_800_000_000,
        wipe: false,
        assume_clean: true,
    };
    let mut random = |bytes: &mut [u8]| {
        next += 1;
        bytes.fill(next);
    };
    let array = hand.run(create(options, members(&disks), &hand.rt(), &mut random)).expect("the disks are empty");
    let record = [&3u64.to_le_bytes()[..], &[7; 40]].concat();
    hand.run(array.facts().store(VolumeId([1; 16]), &record)).expect("the disks work");
    let data = IoBuf::copy_of(&[1; 4096]).freeze();
    hand.run(array.disk().write(ByteOffset(65_536), data, Durability::Cached)).expect("the disks work");
    if stopped {
        hand.run(array.stop()).expect("the disks work");
    }
    disks.map(|disk| disk.image())
}

/// Offsets are those of docs/formats/md.md.
pub fn seeds() -> Vec<Seed> {
    let seed = |choice: u8, changes: &[Vec<u8>]| [&[choice][..], &changes.concat()].concat();
    let events = |disk: u8, count: u64| patch(disk * 8, 200, &count.to_le_bytes());
    let facts_sequence = |region: u8| patch(region, 24, &u64::MAX.to_le_bytes());
    vec![
        ("stopped", seed(4, &[])),
        ("dirty", seed(4 | 16, &[])),
        ("one_of_two", seed(1 | 2 | 4, &[])),
        ("large_blocks", seed(4 | 8, &[])),
        ("one_behind", seed(4, &[events(1, 3)])),
        ("far_ahead", seed(2 | 4, &[events(1, 900)])),
        ("last_event", seed(4, &[events(0, u64::MAX), events(1, u64::MAX)])),
        ("last_sequence", seed(4, &[facts_sequence(2), facts_sequence(3)])),
        ("recovering", seed(4, &[patch(8, 8, &[3]), patch(8, 152, &[0, 4])])),
        ("no_bitmap", seed(4 | 16, &[patch(0, 8, &[0]), patch(8, 8, &[0])])),
        ("bitmap_of_others", seed(4 | 16, &[patch(1, 8, &[6; 16])])),
        ("other_array", seed(4, &[patch(8, 16, &[6; 16])])),
        ("smaller", seed(4, &[patch(0, 80, &[0, 4]), patch(8, 80, &[0, 4])])),
        ("data_elsewhere", seed(4, &[patch(0, 128, &[0x11, 0x20]), patch(8, 128, &[0x11, 0x20])])),
        ("facts_torn", seed(16, &[patch(2, 30, &[9])])),
    ]
}
