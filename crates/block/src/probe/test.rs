//! Tests of the probe on a sparse disk: every signature at each of its places, unknown content, emptiness, wiping.

use super::signatures::all;
use super::*;
use crate::IoData;
use crate::device::{BlockDevice, Geometry, IoFuture};
use crate::testing::Hand;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

const SECTOR: usize = 512;

/// A disk of any length that remembers the sectors that are not zero.
struct Sparse {
    size: ByteLen,
    sectors: RefCell<BTreeMap<u64, [u8; SECTOR]>>,
}

impl Sparse {
    fn new(size: u64) -> Rc<Self> {
        Rc::new(Self { size: ByteLen(size), sectors: RefCell::default() })
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let mut sectors = self.sectors.borrow_mut();
            let sector = sectors.entry(at / SECTOR as u64).or_insert([0; SECTOR]);
            sector[usize::try_from(at % SECTOR as u64).unwrap()] = *byte;
        }
    }

    fn holds(self: &Rc<Self>) -> Option<String> {
        Hand::new().run(what_is_on(&self.disk())).unwrap()
    }

    fn disk(self: &Rc<Self>) -> Disk {
        Rc::<Self>::clone(self)
    }
}

impl BlockDevice for Sparse {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.size, block_bytes: 512, optimal_bytes: 4096, volatile_cache: true, discard: false }
    }

    fn read(&self, at: ByteOffset, mut into: IoBuf) -> IoFuture<IoBuf> {
        let checked = self.geometry().check(at, into.byte_len());
        into.fill(0);
        let end = at.0 + into.len() as u64;
        for (sector, bytes) in self.sectors.borrow().range(at.0 / 512..end / 512) {
            let from = usize::try_from(sector * 512 - at.0).unwrap();
            into[from..from + SECTOR].copy_from_slice(bytes);
        }
        IoFuture::ready(checked.map(|()| into))
    }

    fn write(&self, _: ByteOffset, _: IoData, _: Durability) -> IoFuture<()> {
        unreachable!("the probe writes zeroes only")
    }

    fn flush(&self) -> IoFuture<()> {
        IoFuture::ready(Ok(()))
    }

    fn discard(&self, _: ByteOffset, _: ByteLen) -> IoFuture<()> {
        unreachable!("the probe writes zeroes only")
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, _: Durability, _: bool) -> IoFuture<()> {
        let checked = self.geometry().check(at, len);
        self.sectors.borrow_mut().retain(|sector, _| !(at.0 / 512..(at.0 + len.0) / 512).contains(sector));
        IoFuture::ready(checked)
    }
}

/// Lengths of disks: one that is all edge, one with room between, an odd one, a large one.
const SIZES: [u64; 4] = [40 << 20, 300 << 20, (100 << 20) + 512 * 5, 300 << 30];

/// A12: goal: each signature is seen wherever it may stand. Method: at every place of disks of four lengths the table is
/// asked about the sectors there; at its first place the whole disk is probed.
#[test]
fn every_signature_is_seen_at_each_of_its_places() {
    for size in SIZES {
        let mut seen = 0;
        for signature in all() {
            let mut first = true;
            for place in signature.places(ByteLen(size)) {
                let magic = signature.magics[seen % signature.magics.len()];
                if place + magic.len() as u64 > size {
                    continue;
                }
                let (start, mut piece, mut found) = (place / 512 * 512, [0; 1024], Vec::new());
                let at = usize::try_from(place - start).unwrap();
                piece[at..at + magic.len()].copy_from_slice(magic);
                look(&piece, start, ByteLen(size), &mut found);
                let named = found.iter().any(|found| found.what == signature.what);
                assert!(named, "{} at {place} of {size}: {found:?}", signature.what);
                if std::mem::take(&mut first) {
                    let disk = Sparse::new(size);
                    disk.put(place, magic);
                    let holds = disk.holds().unwrap_or_default();
                    assert!(holds.contains(signature.what) || signature.weak, "at {place} of {size}: '{holds}'");
                    assert!(!holds.is_empty() && !holds.contains("does not know"), "at {place} of {size}: '{holds}'");
                }
                seen += 1;
            }
        }
        assert!(seen > 1200, "{seen}");
    }
}

/// A12: a wipe leaves no signature anywhere. Method: all of them at once, at every place.
#[test]
fn a_wipe_leaves_no_signature() {
    for size in SIZES {
        let disk = Sparse::new(size);
        for signature in all() {
            signature.places(ByteLen(size)).for_each(|place| disk.put(place, &signature.magics[0][..1]));
        }
        disk.put(size - 1, b"x");
        assert!(disk.sectors.borrow().len() > 500);
        Hand::new().run(wipe(&disk.disk(), ByteLen(0))).unwrap();
        let left: Vec<u64> = disk.sectors.borrow().keys().map(|sector| sector * 512).collect();
        assert_eq!((disk.holds(), left), (None, vec![]), "{size}");
    }
}

/// A12: anything that nobody knows is somebody's: a byte anywhere in the first or the last 32 MiB.
#[test]
fn unknown_bytes_at_either_end_are_not_empty() {
    for size in SIZES {
        let edge = EDGE.0;
        for at in [0, 4095, edge - 1, size - edge, size - 1] {
            let disk = Sparse::new(size);
            disk.put(at, &[1]);
            let holds = disk.holds().unwrap_or_default();
            assert!(holds.contains("does not know") && holds.contains(&at.to_string()), "{at} of {size}: '{holds}'");
            Hand::new().run(wipe(&disk.disk(), ByteLen(0))).unwrap();
            assert_eq!(disk.holds(), None);
        }
        assert_eq!(Sparse::new(size).holds(), None);
    }
    for size in [512, 4096, 5 * 512] {
        let disk = Sparse::new(size);
        assert_eq!(disk.holds(), None);
        disk.put(size - 1, b"x");
        assert!(disk.holds().is_some(), "{size}");
    }
    let between = Sparse::new(300 << 20);
    between.put(150 << 20, &[7]);
    assert_eq!(between.holds(), None, "between the edges is what a wipe of both ends leaves");
}

/// Two owners are both named, and a mark that many have is named only where it stands alone.
#[test]
fn all_that_is_found_is_named_and_what_is_weak_only_alone() {
    let disk = Sparse::new(64 << 20);
    disk.put(510, &[0x55, 0xaa]);
    assert!(disk.holds().unwrap().contains("boot sector"));
    disk.put((64 << 20) - 1024, b"Intel Raid ISM Cfg Sig. ");
    disk.put(1080, &[0x53, 0xef]);
    assert_eq!(disk.holds().unwrap(), "an ext2/3/4 file system and an Intel RAID (IMSM) member");
}

/// A wipe reaches as far as its caller says.
#[test]
fn a_wipe_clears_the_head_that_is_asked_for() {
    let disk = Sparse::new(300 << 20);
    disk.put(100 << 20, &[7]);
    disk.put(130 << 20, &[7]);
    Hand::new().run(wipe(&disk.disk(), ByteLen::mib(128))).unwrap();
    assert_eq!(disk.sectors.borrow().len(), 1);
}
