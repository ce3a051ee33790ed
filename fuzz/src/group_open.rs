//! Opening, and changing, a volume group whose disk was changed by anybody.
//!
//! First byte: bit 0 make the label's checksum right, bit 1 the header's and the text's, bit 2 blocks of 4096, bit 3:
//! what follows is the whole text of the metadata. Else changes: region 0 the label, 1 the header, 2 the text, 3 the
//! data.

use crate::patch::{patch, patches};
use crate::seal;
use crate::world::{Hand, Image, Sparse};
use crate::Seed;
use block::device::Disk;
use block::runtime::Rt;
use block::volume::label::Area;
use block::volume::mda::{self, Committed, Slot};
use block::volume::{Existing, GroupIds, Volume, VolumeError, VolumeGroup, VolumeState};
use block::{Durability, IoBuf};
use units::{ByteLen, ByteOffset, VolumeId};

const DISK_BYTES: ByteLen = ByteLen(33 << 20);
const LABEL: u64 = 512;
const AREA: Area = Area { at: ByteOffset(4096), len: ByteLen((1 << 20) - 4096) };
const DATA: u64 = 1 << 20;
const NEW: VolumeId = VolumeId([0x42; 16]);
/// More volumes than this are not gone through in one run.
const VOLUMES_MAX: usize = 8;

thread_local! {
    static BASE: Image = base();
}

/// No bytes make it panic; a volume it serves lies on the disk and shares no block with another; a change it makes is
/// found when the group is opened again.
pub fn group_open(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let mut image = BASE.with(Clone::clone);
    if choice & 8 == 8 {
        replace_text(&mut image, rest);
    } else {
        change(&mut image, rest);
    }
    if choice & 1 == 1 {
        image.edit(0, 2048, seal::lvm_label);
    }
    if choice & 2 == 2 {
        reseal_text(&mut image);
    }
    let memory = Sparse::new(DISK_BYTES, if choice & 4 == 4 { 4096 } else { 512 }, image);
    let (hand, disk) = (Hand::new(), memory.disk());
    let Ok(mut group) = hand.run(VolumeGroup::open(&hand.rt(), &disk)) else { return };
    assert!(group.free() <= group.capacity() && group.capacity() <= DISK_BYTES);
    serve(&hand, &mut group);
    edit(&hand, &hand.rt(), &disk, group);
}

fn change(image: &mut Image, input: &[u8]) {
    for change in patches(input) {
        let start = [LABEL, AREA.at.0, text_at(image), DATA][usize::from(change.region & 3)];
        image.write(start + u64::from(change.offset), change.bytes);
    }
}

fn replace_text(image: &mut Image, text: &[u8]) {
    let text = [&text[..text.len().min(60_000)], &[0]].concat();
    let slot = Slot { offset: 4096, len: text.len() as u64, checksum: seal::lvm(&text) };
    image.write(AREA.at.0 + slot.offset, &text);
    image.write(AREA.at.0, &mda::encode(AREA, Some(slot)));
}

fn slot_of(image: &Image) -> Option<Slot> {
    let mut header = [0; 512];
    image.read(AREA.at.0, &mut header);
    seal::lvm_header(&mut header);
    match mda::decode(&header, AREA) {
        Ok(Committed::Text(slot)) => Some(slot),
        _ => None,
    }
}

fn text_at(image: &Image) -> u64 {
    AREA.at.0 + slot_of(image).map_or(4096, |slot| slot.offset)
}

fn reseal_text(image: &mut Image) {
    if let Some(slot) = slot_of(image).filter(|slot| slot.len <= 65_536 && slot.offset + slot.len <= AREA.len.0) {
        let mut text = vec![0; usize::try_from(slot.len).expect("short")];
        image.read(AREA.at.0 + slot.offset, &mut text);
        // Where the header keeps the text's checksum: docs/formats/lvm2.md.
        image.write(AREA.at.0 + 56, &seal::lvm(&text).to_le_bytes());
    }
    image.edit(AREA.at.0, 512, seal::lvm_header);
}

/// Each volume gets its own mark in its first and last block; all are still there afterwards.
fn serve(hand: &Hand, group: &mut VolumeGroup) {
    let ready: Vec<Volume> = group.list().into_iter().filter(|v| v.state == VolumeState::Ready).take(VOLUMES_MAX).collect();
    let mut places: Vec<(Disk, u64, u8)> = Vec::new();
    for (mark, volume) in (1..).zip(&ready) {
        // Two volumes of one name are found by their identity; two of one identity are refused when it is opened.
        let disk = group.volume(volume.id).expect("it says that it is ready");
        let size = disk.geometry().size;
        assert_eq!(size, volume.size);
        assert!(size.0 > 0 && size <= group.capacity(), "a volume larger than its group");
        let block = u64::from(disk.geometry().block_bytes);
        places.extend([0, size.0 - block].map(|at| (Disk::clone(&disk), at, mark)));
    }
    let mut kept = Vec::new();
    for (disk, at, mark) in places {
        let block = usize::try_from(disk.geometry().block_bytes).expect("small");
        hand.run(disk.read(ByteOffset(at), IoBuf::new(block))).expect("a served block lies on the disk");
        let data = IoBuf::copy_of(&vec![mark; block]).freeze();
        if hand.run(disk.write(ByteOffset(at), data, Durability::Cached)).is_ok() {
            kept.push((disk, at, mark, block));
        }
    }
    for (disk, at, mark, block) in kept {
        let bytes = hand.run(disk.read(ByteOffset(at), IoBuf::new(block))).expect("it was read before");
        assert!(bytes.iter().all(|&byte| byte == mark), "two volumes share a block");
    }
}

/// A volume is made and another one removed, if the group may be changed.
fn edit(hand: &Hand, rt: &Rt, disk: &Disk, mut group: VolumeGroup) {
    let reopened = hand.run(VolumeGroup::open(rt, disk)).expect("writing to volumes changes no metadata");
    assert_eq!(reopened.list(), group.list());
    let name = "fuzzed".parse().expect("a volume's name");
    let made = hand.run(group.create_volume(&name, NEW, ByteLen::mib(4), 1_800_000_100));
    let made = made.is_ok_and(|volume| {
        assert_eq!((volume.id, volume.state), (NEW, VolumeState::Zeroing));
        assert!(volume.size >= ByteLen::mib(4));
        true
    });
    let victim = group.list().into_iter().find(|volume| volume.state == VolumeState::Ready).map(|volume| volume.id);
    let removed = victim.is_some_and(|id| match hand.run(group.remove_volume(id, 1_800_000_101)) {
        Ok(()) => true,
        Err(VolumeError::InUse(_)) => panic!("nobody uses it any more"),
        Err(_) => false,
    });
    let reopened = hand.run(VolumeGroup::open(rt, disk)).expect("a change keeps the group sound");
    assert_eq!(reopened.list(), group.list());
    assert_eq!(reopened.free(), group.free());
    assert!(!made || reopened.list().iter().any(|volume| volume.id == NEW), "a volume that was made is gone");
    assert!(!removed || reopened.list().iter().all(|volume| Some(volume.id) != victim), "a removed volume is back");
}

fn base() -> Image {
    let memory = Sparse::new(DISK_BYTES, 512, Image::default());
    let (hand, disk) = (Hand::new(), memory.disk());
    let rt = hand.rt();
    let ids = GroupIds { group: [1; 16], physical: [2; 16] };
    let name = "tank".parse().expect("a pool's name");
    let made = VolumeGroup::create(&rt, &disk, &name, ids, Existing::Refuse, 1_800_000_000);
    let mut group = hand.run(made).expect("the disk is empty");
    for (name, id, finish) in [("web1", 3, true), ("db", 4, true), ("new", 5, false)] {
        let (name, id) = (name.parse().expect("a volume's name"), VolumeId([id; 16]));
        hand.run(group.create_volume(&name, id, ByteLen::mib(8), 1_800_000_000)).expect("there is room");
        if finish {
            let zeroed = hand.run(group.zeroing(id).expect("it is new").run(|_| {})).expect("the disk works");
            hand.run(group.publish(zeroed, 1_800_000_000)).expect("the disk works");
        }
    }
    memory.image()
}

/// The metadata of the group that is changed, as text.
pub(crate) fn text_of_base() -> Vec<u8> {
    let image = BASE.with(Clone::clone);
    let slot = slot_of(&image).expect("it is sound");
    let mut text = vec![0; usize::try_from(slot.len - 1).expect("short")];
    image.read(AREA.at.0 + slot.offset, &mut text);
    text
}

pub fn seeds() -> Vec<Seed> {
    let text = text_of_base();
    let whole = |text: &[u8]| [&[8][..], text].concat();
    let swap = |from: &str, to: &str| {
        let text = String::from_utf8(text_of_base()).expect("our text is readable");
        assert!(text.contains(from), "the text has no '{from}'");
        whole(text.replacen(from, to, 1).as_bytes())
    };
    let seed = |choice: u8, changes: &[Vec<u8>]| [&[choice][..], &changes.concat()].concat();
    vec![
        ("as_made", seed(3, &[])),
        ("large_blocks", seed(7, &[])),
        ("whole_text", whole(&text)),
        ("label_moved", seed(3, &[patch(0, 72, &[0, 32])])),
        ("text_round_the_end", seed(3, &[patch(1, 40, &[0, 0xe0, 0x0f])])),
        ("frozen", swap("\"WRITE\"", "\"READ\"")),
        ("striped", swap("stripe_count = 1", "stripe_count = 2")),
        ("foreign", swap("\"striped\"", "\"mirror\"")),
        ("extents_shared", swap("\"pv0\", 2", "\"pv0\", 0")),
        ("large_extents", swap("extent_size = 8192", "extent_size = 1")),
        ("last_change", swap("seqno = 6", "seqno = 4294967295")),
    ]
}
