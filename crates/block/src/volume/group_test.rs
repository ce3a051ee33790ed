//! Tests of the whole group on a disk in memory: life of a volume, power cuts, random changes against a model.

use super::super::mda::Slot;
use super::super::zeroing::ZeroProgress;
use super::*;
use crate::testing::{Hand, MemDisk, Seen};
use crate::{BlockDevice, DeviceError, Geometry, IoBuf, IoData, IoFuture};
use std::collections::BTreeMap;

const NOW: u64 = 1_795_265_508;
const IDS: GroupIds = GroupIds { group: [0x11; 16], physical: [0x22; 16] };
const EXTENTS: u64 = 6;
const SIZE: ByteLen = ByteLen(EXTENTS_AT.0 + EXTENTS * EXTENT_LEN.0 + 4096);

struct Site {
    hand: Rc<Hand>,
    disk: Rc<MemDisk>,
}

impl Site {
    fn new() -> Self {
        Self { hand: Hand::new(), disk: MemDisk::new(SIZE) }
    }

    fn on(disk: Rc<MemDisk>) -> Self {
        Self { hand: Hand::new(), disk }
    }

    fn create(&self) -> Result<VolumeGroup, VolumeError> {
        let name = "pool1".parse().unwrap();
        let (rt, disk) = (self.hand.rt(), self.disk.disk());
        self.hand.run(VolumeGroup::create(&rt, &disk, &name, IDS, Existing::Refuse, NOW))
    }

    fn open(&self) -> Result<VolumeGroup, VolumeError> {
        self.hand.run(VolumeGroup::open(&self.hand.rt(), &self.disk.disk()))
    }

    fn add(&self, group: &mut VolumeGroup, name: &str, extents: u64) -> Result<Volume, VolumeError> {
        let name = name.parse().unwrap();
        let size = ByteLen(extents * EXTENT_LEN.0);
        self.hand.run(group.create_volume(&name, id_of(&name), size, NOW))
    }

    fn finish(&self, group: &mut VolumeGroup, id: VolumeId) -> Result<Volume, VolumeError> {
        let zeroing = group.zeroing(id)?;
        let zeroed = self.hand.run(zeroing.run(|_| ()))?;
        self.hand.run(group.publish(zeroed, NOW))
    }

    fn remove(&self, group: &mut VolumeGroup, id: VolumeId) -> Result<(), VolumeError> {
        self.hand.run(group.remove_volume(id, NOW))
    }
}

fn id_of(name: &VolumeName) -> VolumeId {
    let mut id = [b'_'; 16];
    id[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
    VolumeId(id)
}

fn id(name: &str) -> VolumeId {
    id_of(&name.parse().unwrap())
}

fn names(group: &VolumeGroup) -> Vec<String> {
    group.list().into_iter().map(|volume| volume.name).collect()
}

#[test]
fn a_volume_lives_from_create_to_remove() {
    let test = Site::new();
    let mut group = test.create().unwrap();
    assert_eq!((group.name(), group.seqno(), group.free()), ("pool1", 1, ByteLen::mib(24)));
    let odd = "web-1_b.c".parse().unwrap();
    let made = test.hand.run(group.create_volume(&odd, id("web"), ByteLen(5 << 20), NOW)).unwrap();
    assert_eq!((made.size, &made.state), (ByteLen::mib(8), &VolumeState::Zeroing), "rounded up to extents");
    assert_eq!(group.volume(id("web")).map(|_| ()), Err(VolumeError::Unfinished(id("web"))));

    let mut group = test.open().unwrap();
    assert_eq!(group.unfinished().len(), 1, "found again after a restart");
    let mut steps = Vec::new();
    let zeroed = test.hand.run(group.zeroing(id("web")).unwrap().run(|step| steps.push(step))).unwrap();
    assert_eq!(steps, [ZeroProgress { done: ByteLen::mib(8), total: ByteLen::mib(8) }]);
    assert_eq!(test.hand.run(group.publish(zeroed, NOW)).unwrap().state, VolumeState::Ready);

    let mut group = test.open().unwrap();
    assert_eq!((group.seqno(), group.free()), (3, ByteLen::mib(16)));
    let disk = group.volume(id("web")).unwrap();
    assert_eq!(disk.geometry().size, ByteLen::mib(8));
    test.hand.run(disk.write(ByteOffset(4096), IoBuf::copy_of(&[9; 512]).freeze(), Durability::Fua)).unwrap();
    assert_eq!(test.disk.live.borrow()[(1 << 20) + 4096..][..512], [9; 512]);
    assert_eq!(test.remove(&mut group, id("web")), Err(VolumeError::InUse(id("web"))));
    drop(disk);
    test.remove(&mut group, id("web")).unwrap();
    assert_eq!(test.open().unwrap().free(), ByteLen::mib(24));
}

/// Goal: a new owner never sees an old one's bytes. Method: write, remove, create on the same extents, read.
#[test]
fn a_new_volume_shows_nothing_of_a_removed_one() {
    let test = Site::new();
    let mut group = test.create().unwrap();
    test.add(&mut group, "old", EXTENTS).unwrap();
    test.finish(&mut group, id("old")).unwrap();
    let old = group.volume(id("old")).unwrap();
    let secret = || IoBuf::copy_of(&[7; 4096]).freeze();
    for extent in 0..EXTENTS {
        test.hand.run(old.write(ByteOffset(extent * EXTENT_LEN.0), secret(), Durability::Fua)).unwrap();
    }
    drop(old);
    test.remove(&mut group, id("old")).unwrap();
    test.add(&mut group, "new", EXTENTS).unwrap();
    test.finish(&mut group, id("new")).unwrap();
    let behind = usize::try_from(EXTENTS_AT.0).unwrap();
    assert!(test.disk.durable.borrow()[behind..].iter().all(|&byte| byte == 0));
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let test = Site::new();
    let mut group = test.create().unwrap();
    test.add(&mut group, "a", 2).unwrap();
    let before = test.disk.live.borrow().clone();
    let asked = ByteLen(5 * EXTENT_LEN.0);
    assert_eq!(test.add(&mut group, "b", 5), Err(VolumeError::NoSpace { asked, free: ByteLen::mib(16) }));
    assert_eq!(test.add(&mut group, "a", 1), Err(VolumeError::NameTaken("a".into())));
    assert_eq!(test.add(&mut group, "b", 0), Err(VolumeError::EmptyVolume));
    let other = "other".parse().unwrap();
    let taken = test.hand.run(group.create_volume(&other, id("a"), EXTENT_LEN, NOW));
    assert_eq!(taken, Err(VolumeError::IdTaken(id("a"))));
    for name in ["snapshot-1", "x_tmeta", "pv0"] {
        assert!(matches!(test.add(&mut group, name, 1), Err(VolumeError::NameReserved { .. })), "{name}");
    }
    assert!(matches!(test.remove(&mut group, id("none")), Err(VolumeError::UnknownVolume(_))));
    assert!(matches!(group.volume(id("none")), Err(VolumeError::UnknownVolume(_))));
    let zeroing = group.zeroing(id("a")).unwrap();
    assert!(matches!(group.zeroing(id("a")), Err(VolumeError::InUse(_))));
    assert_eq!(test.remove(&mut group, id("a")), Err(VolumeError::InUse(id("a"))), "zeroes are on their way");
    drop(zeroing);
    assert_eq!(*test.disk.live.borrow(), before, "on bad input nothing is changed");
    test.remove(&mut group, id("a")).unwrap();
}

#[test]
fn a_disk_with_something_on_it_is_left_alone_unless_asked() {
    let test = Site::new();
    test.disk.live.borrow_mut()[70_000] = 1;
    let before = test.disk.live.borrow().clone();
    assert_eq!(test.create().map(|_| ()), Err(VolumeError::NotEmpty { at: ByteOffset(70_000) }));
    assert_eq!(*test.disk.live.borrow(), before);
    let (rt, disk, name) = (test.hand.rt(), test.disk.disk(), "pool1".parse().unwrap());
    test.hand.run(VolumeGroup::create(&rt, &disk, &name, IDS, Existing::Wipe, NOW)).unwrap();
    assert_eq!(test.disk.live.borrow()[70_000], 0);
    assert!(matches!(test.create(), Err(VolumeError::NotEmpty { .. })));
    assert!(matches!(Site::on(MemDisk::new(ByteLen::mib(4))).create(), Err(VolumeError::TooSmall { .. })));
    assert_eq!(Site::new().open().map(|_| ()), Err(VolumeError::NoGroup));
    assert_eq!(Site::on(MemDisk::new(ByteLen(512))).open().map(|_| ()), Err(VolumeError::NoGroup));
}

/// Goal: a cut at any operation of any change leaves the old or the new metadata, whole, and other volumes alone.
/// Method: fail at operation 0, 1, 2, … and reopen what was durable, and what the cache would have kept as well.
#[test]
fn a_power_cut_leaves_old_or_new() {
    type Change = fn(&Site, &mut VolumeGroup) -> Result<(), VolumeError>;
    let changes: [(Change, &[&str], &[&str]); 3] = [
        (|test, group| test.add(group, "c", 3).map(|_| ()), &["a", "b"], &["a", "b", "c"]),
        (|test, group| test.remove(group, id("a")), &["a", "b"], &["b"]),
        (|test, group| test.finish(group, id("b")).map(|_| ()), &["a", "b"], &["a", "b"]),
    ];
    for (change, old, new) in changes {
        let start = Site::new();
        let mut group = start.create().unwrap();
        start.add(&mut group, "a", 2).unwrap();
        start.finish(&mut group, id("a")).unwrap();
        start.add(&mut group, "b", 1).unwrap();
        let image = start.disk.live.borrow().clone();
        for cut in 0.. {
            let test = Site::on(MemDisk::holding(image.clone()));
            let mut group = test.open().unwrap();
            test.disk.breaks_after.set(Some(cut));
            let done = change(&test, &mut group);
            if done.is_err() {
                assert_eq!(group.zeroing(id("b")).map(|_| ()), doubt(&group), "cut {cut}");
            }
            for left in [test.disk.after_power_cut(), MemDisk::holding(test.disk.live.borrow().clone())] {
                let found = names(&Site::on(left).open().unwrap());
                assert!(found == new || (done.is_err() && found == old), "cut {cut}: {done:?}, {found:?}");
            }
            if done.is_ok() {
                assert!(cut >= 3, "text, flush and header were three operations");
                break;
            }
        }
    }
}

/// After a failed change the group says so; after a failed zeroing there was no change.
fn doubt(group: &VolumeGroup) -> Result<(), VolumeError> {
    if group.doubtful { Err(VolumeError::Doubtful) } else { Ok(()) }
}

/// Goal: `create` is all or nothing. Method: cut at every operation; there is a group only if it succeeded.
#[test]
fn a_power_cut_in_create_leaves_no_group_or_a_whole_one() {
    for cut in 0.. {
        let test = Site::new();
        test.disk.breaks_after.set(Some(cut));
        let done = test.create();
        let found = Site::on(test.disk.after_power_cut()).open();
        match (&done, found) {
            (_, Ok(group)) => assert_eq!(group.seqno(), 1),
            (Ok(_), Err(error)) => panic!("cut {cut}: created, then {error}"),
            (Err(_), Err(error)) => assert_eq!(error, VolumeError::NoGroup, "cut {cut}"),
        }
        if done.is_ok() {
            return;
        }
    }
}

#[test]
fn the_text_is_durable_before_the_header_names_it() {
    let test = Site::new();
    let mut group = test.create().unwrap();
    test.disk.log.borrow_mut().clear();
    test.add(&mut group, "a", 1).unwrap();
    let log = test.disk.log.borrow();
    let [Seen::Write { at: text, fua: false, .. }, Seen::Flush, Seen::Write { at: 4096, len: 512, fua: true }] =
        log[..]
    else {
        panic!("{log:?}")
    };
    assert!(text >= 8192, "never in the header's block");
}

/// Goal: a commit that was dropped half way locks the group. Method: hold the disk, drop the future.
#[test]
fn a_dropped_change_makes_the_group_doubtful() {
    let test = Site::new();
    let mut group = test.create().unwrap();
    test.disk.held.set(true);
    let name = "a".parse().unwrap();
    {
        let change = std::pin::pin!(group.create_volume(&name, id("a"), EXTENT_LEN, NOW));
        assert!(!crate::testing::poll(&mut { change }));
    }
    test.disk.release();
    assert_eq!(test.add(&mut group, "b", 1), Err(VolumeError::Doubtful));
    assert!(names(&test.open().unwrap()).is_empty());
}

/// Goal: the ring goes round and round. Method: more changes than the area has room for, reopened now and then.
#[test]
fn the_ring_wraps() {
    let test = Site::new();
    let mut group = test.create().unwrap();
    for round in 0..200 {
        test.add(&mut group, "a", 1).unwrap();
        test.remove(&mut group, id("a")).unwrap();
        if round % 50 == 0 {
            group = test.open().unwrap();
        }
    }
    assert_eq!(test.open().unwrap().seqno(), 401);
}

/// Goal: no byte of a stored group makes `open` panic or believe something false. Method: change bytes of label,
/// header and text one at a time; the text and the header are under checksums, so every change is refused.
#[test]
fn a_changed_byte_is_refused() {
    let test = Site::new();
    let mut group = test.create().unwrap();
    test.add(&mut group, "a", 1).unwrap();
    let (offset, len) = (group.area.committed.offset, group.area.committed.len);
    let text = 4096 + offset..4096 + offset + len;
    for at in (520..1024).chain(4096..4608).chain(text) {
        let at = usize::try_from(at).unwrap();
        test.disk.live.borrow_mut()[at] ^= 0x04;
        assert!(matches!(test.open(), Err(VolumeError::Damaged(_))), "byte {at}");
        test.disk.live.borrow_mut()[at] ^= 0x04;
    }
    assert!(test.open().is_ok());
}

#[test]
fn the_last_sequence_number_is_not_passed() {
    let test = Site::new();
    let mut group = test.create().unwrap();
    group.group.seqno = u32::MAX;
    assert!(matches!(test.add(&mut group, "a", 1), Err(VolumeError::Unsupported(_))));
    assert_eq!(test.open().unwrap().seqno(), 1);
}

/// Goal: volumes muskox does not understand survive its changes word for word, and are never served or removed.
/// Method: put one into the metadata by hand, then create and remove others.
#[test]
fn foreign_volumes_survive() {
    let test = Site::new();
    let mut group = test.create().unwrap();
    let mut tree = group.tree.clone();
    edit::add_volume(&mut tree, &group.group, "pool", LvmId::from(id("pool")), &[Run { first: 0, count: 3 }], NOW);
    let volume = tree.section_mut("pool1").and_then(|vg| vg.section_mut("logical_volumes")?.section_mut("pool"));
    let volume = volume.unwrap();
    volume.section_mut("segment1").unwrap().set("type", "brandnew".into());
    volume.set("surprise", "\"\\".into());
    let kept = volume.clone();
    test.hand.run(group.commit(tree, NOW)).unwrap();
    let mut group = test.open().unwrap();
    assert!(matches!(group.volume(id("pool")), Err(VolumeError::Foreign { .. })));
    assert!(matches!(test.remove(&mut group, id("pool")), Err(VolumeError::Foreign { .. })));
    assert_eq!(group.free(), ByteLen(3 * EXTENT_LEN.0));
    test.add(&mut group, "a", 3).unwrap();
    test.remove(&mut group, id("a")).unwrap();
    let group = test.open().unwrap();
    let volumes = group.tree.section("pool1").and_then(|vg| vg.section("logical_volumes")).unwrap();
    assert_eq!(volumes.section("pool"), Some(&kept));
}

/// Goal: after any history the group is what a map of names and sizes says, and no extent has two owners.
/// Method: seeded random creates, finishes and removes; the tiny model is a map; reopen after every step.
#[test]
fn random_histories_match_the_model() {
    for seed in 1..=8_u64 {
        let (test, mut model, mut dice) = (Site::new(), BTreeMap::new(), seed);
        let mut group = test.create().unwrap();
        for step in 0..60 {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let name = ["a", "b", "c", "d", "e"][usize::try_from(dice % 5).unwrap()];
            let (extents, used) = (1 + (dice >> 8) % 4, model.values().sum::<u64>());
            let place = format!("seed {seed} step {step}");
            match model.get(name) {
                Some(_) => {
                    test.remove(&mut group, id(name)).unwrap();
                    model.remove(name);
                }
                None if used + extents <= EXTENTS => {
                    test.add(&mut group, name, extents).unwrap();
                    model.insert(name, extents);
                }
                None => {
                    let refused = test.add(&mut group, name, extents);
                    assert!(matches!(refused, Err(VolumeError::NoSpace { .. })), "{place}");
                }
            }
            group = test.open().expect(&place);
            let found = group.list().into_iter().map(|volume| (volume.name, volume.size.0 / EXTENT_LEN.0));
            let found: BTreeMap<String, u64> = found.collect();
            let expect = model.iter().map(|(name, extents)| ((*name).to_owned(), *extents)).collect();
            assert_eq!(found, expect, "{place}");
            let used: u64 = model.values().sum();
            assert_eq!(group.free(), ByteLen((EXTENTS - used) * EXTENT_LEN.0), "{place}");
        }
    }
}

/// A disk with blocks of 4 KiB that refuses anything smaller.
struct FourK(Disk);

impl BlockDevice for FourK {
    fn geometry(&self) -> Geometry {
        let below = self.0.geometry();
        Geometry { block_bytes: 4096, size: ByteLen(below.size.0 / 4096 * 4096), ..below }
    }
    fn read(&self, at: ByteOffset, into: IoBuf) -> IoFuture<IoBuf> {
        self.geometry().check(at, into.byte_len()).expect("whole blocks");
        self.0.read(at, into)
    }
    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        self.geometry().check(at, from.byte_len()).expect("whole blocks");
        self.0.write(at, from, how)
    }
    fn flush(&self) -> IoFuture<()> {
        self.0.flush()
    }
    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.0.discard(at, len)
    }
    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        self.geometry().check(at, len).expect("whole blocks");
        self.0.write_zeroes(at, len, how, may_unmap)
    }
}

/// Goal: drives with 4 KiB blocks carry the same bytes. Method: the same life on both kinds, images compared; then a
/// text at 512 like a stock one, in the header's block, which a commit must leave alone.
#[test]
fn blocks_of_4_kib_carry_the_same_bytes() {
    let (small, large) = (Site::new(), Site::new());
    let name = "pool1".parse().unwrap();
    for (test, disk) in [(&small, small.disk.disk()), (&large, Rc::new(FourK(large.disk.disk())) as Disk)] {
        let create = VolumeGroup::create;
        let rt = test.hand.rt();
        let mut group = test.hand.run(create(&rt, &disk, &name, IDS, Existing::Refuse, NOW)).unwrap();
        test.add(&mut group, "a", 1).unwrap();
        let stock = area::read_text(&disk, AREA);
        let (_, text) = test.hand.run(stock).unwrap();
        let slot = Slot { offset: 512, len: text.len() as u64, checksum: super::super::checksum::checksum(&text) };
        test.hand.run(area::write_range(&disk, AREA.at + ByteLen(512), &text, Durability::Fua)).unwrap();
        let header = super::super::mda::encode(AREA, Some(slot));
        test.hand.run(area::write_range(&disk, AREA.at, &header, Durability::Fua)).unwrap();
        let mut group = test.hand.run(VolumeGroup::open(&rt, &disk)).unwrap();
        test.finish(&mut group, id("a")).unwrap();
        let kept = test.disk.live.borrow()[4096 + 512..][..text.len()].to_vec();
        assert_eq!(kept, text, "the stock text is still there");
    }
    assert!(*small.disk.durable.borrow() == *large.disk.durable.borrow());
}

#[test]
fn a_broken_disk_is_said_to_be_broken() {
    let test = Site::new();
    test.create().unwrap();
    test.disk.broken.set(true);
    let broken = VolumeError::Device(DeviceError::Failed { errno: crate::testing::EIO });
    assert_eq!(test.open().map(|_| ()), Err(broken));
}

/// Makes the committed text `len` bytes long, as stock tools could: by a long tag of a volume.
fn pad_to(test: &Site, name: &str, len: u64) {
    let group = test.open().unwrap();
    let (mut tree, area) = (group.tree.clone(), group.area);
    let mut padded = |tag: usize| {
        let volumes = tree.section_mut("pool1").and_then(|vg| vg.section_mut("logical_volumes")).unwrap();
        volumes.section_mut(name).unwrap().set("tags", ["x".repeat(tag).as_str().into()].into());
        write(&tree)
    };
    let short = usize::try_from(len).unwrap() - 1 - padded(1).len();
    let text = padded(1 + short);
    test.hand.run(area::commit(&test.disk.disk(), area.area, Some(area.committed), text)).unwrap();
}

/// A20: goal: growth ends where removing and finishing still fit, so a full list has a way out. Method: a list as long as
/// ours grow, and one as long as stock tools leave it; at many places of the ring a volume is made if it fits, one that
/// was begun is finished, and one is removed.
#[test]
fn a_full_list_of_volumes_can_always_be_made_shorter() {
    for longest in [mda::growth_max(AREA), mda::text_max(AREA)] {
        let test = Site::new();
        let mut group = test.create().unwrap();
        test.add(&mut group, "kept", 1).unwrap();
        for round in 0..12_u64 {
            // Elsewhere in the ring each time.
            pad_to(&test, "kept", 2000 + round * 37_000);
            let mut group = test.open().unwrap();
            test.add(&mut group, "begun", 1).unwrap();
            test.add(&mut group, "other", 1).unwrap();
            pad_to(&test, "kept", longest - round * 100);
            let mut group = test.open().unwrap();
            let place = format!("{longest}, round {round}, text at {}", group.area.committed.offset);
            let grown = test.add(&mut group, "one-more", 1);
            let full = longest - round * 100 + 320 > mda::growth_max(AREA);
            match grown {
                Err(VolumeError::MetadataFull { .. }) => assert!(full, "{place}: {grown:?}"),
                Ok(_) => test.remove(&mut group, id("one-more")).expect(&place),
                Err(error) => panic!("{place}: {error}"),
            }
            assert_eq!(test.finish(&mut group, id("begun")).expect(&place).state, VolumeState::Ready);
            test.remove(&mut group, id("begun")).expect(&place);
            test.remove(&mut group, id("other")).expect(&place);
            assert_eq!(names(&test.open().unwrap()), ["kept"], "{place}");
        }
    }
}

/// A20: a volume that no grant could be kept for is not made. Method: the list filled with empty volumes of stock tools.
#[test]
fn no_more_volumes_are_made_than_grants_are_kept_for() {
    let test = Site::new();
    let mut group = test.create().unwrap();
    test.add(&mut group, "first", 1).unwrap();
    let mut tree = group.tree.clone();
    for number in 1..=u8::MAX {
        for more in 0..4 {
            let id = LvmId::from_bytes(&[number, more, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]);
            edit::add_volume(&mut tree, &group.group, &format!("v{number}.{more}"), id, &[], NOW);
        }
    }
    let volumes = tree.section_mut("pool1").and_then(|vg| vg.section_mut("logical_volumes")).unwrap();
    volumes.0.truncate(VOLUMES_MAX - 1);
    test.hand.run(area::commit(&test.disk.disk(), AREA, Some(group.area.committed), write(&tree))).unwrap();
    let mut group = test.open().unwrap();
    test.add(&mut group, "last", 1).unwrap();
    let before = group.seqno();
    assert_eq!(test.add(&mut group, "one-more", 1), Err(VolumeError::TooMany(VOLUMES_MAX)));
    assert_eq!(group.seqno(), before);
    test.remove(&mut group, id("first")).unwrap();
    test.add(&mut group, "one-more", 1).unwrap();
}
