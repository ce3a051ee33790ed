//! Tests of disks that hold something: never taken unasked, and empty at both ends after a wipe.

use super::*;

/// What public bug reports found taken for empty, each on a disk of 18 MiB: words of the refusal, place, bytes.
fn used() -> Vec<(&'static str, usize, &'static [u8])> {
    let size = usize::try_from(DISK_BYTES.0).unwrap();
    vec![
        ("Intel RAID", size - 1024, b"Intel Raid ISM Cfg Sig. 1.0.00"),
        ("DDF", size - 512, &[0xde, 0x11, 0xde, 0x11]),
        ("DRBD", size - 4096 + 60, &[0x83, 0x74, 0x02, 0x6b]),
        ("bluestore", 0, b"bluestore block device\n"),
        ("F2FS", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
        ("VMFS", 1 << 20, &[0x0d, 0xd0, 0x01, 0xc0]),
        ("LUKS2", 16_384, b"SKUL\xba\xbe"),
        ("muskox does not know", 0, b"Dear diary, "),
        ("muskox does not know", 12 << 20, &[0x9c, 0x21, 0x5e]),
        ("muskox does not know", size - 1, &[1]),
    ]
}

/// A12: goal: whoever brings a disk in, `create`, `add` or `replace`, it is refused by name while it holds something, with
/// nothing changed; with a word it is taken, and nothing of it is left at either end. Method: each of the contents.
#[test]
fn a_disk_that_holds_something_is_refused_by_name_or_wiped_at_both_ends() {
    for (what, at, bytes) in used() {
        let filled = || {
            let disk = MemDisk::new(DISK_BYTES);
            disk.live.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
            disk
        };
        let refused = |answer: Result<(), RaidError>| {
            let text = answer.expect_err(what).to_string();
            assert!(text.contains("new holds") && text.contains(what) && text.contains("wipe"), "{what}: {text}");
        };
        let (hand, disk, other) = (Hand::new(), filled(), MemDisk::new(DISK_BYTES));
        let before = disk.live.borrow().clone();
        let both = || vec![member(&other, "other"), member(&disk, "new")];
        let made = hand.run(create(options(), both(), &hand.rt(), &mut number_bytes()));
        refused(made.map(drop));
        assert!(*disk.live.borrow() == before && other.log.borrow().is_empty(), "{what}: something was changed");

        let world = World::new(2);
        world.hand.run(world.array.fail(1)).unwrap();
        refused(world.hand.run(world.array.check_successor(&member(&disk, "new"), false)));
        refused(world.hand.run(world.array.add(member(&disk, "new"), false, [9; 16])).map(drop));
        assert!(*disk.live.borrow() == before, "{what}: something was changed");

        let wiped = |disk: &MemDisk| disk.live.borrow()[at..at + bytes.len()] != *bytes;
        world.hand.run(world.array.add(member(&disk, "new"), true, [9; 16])).unwrap();
        assert!(wiped(&disk), "{what}: still there after `add` with a wipe");
        let disk = filled();
        let wipe = CreateOptions { wipe: true, ..options() };
        let both = vec![member(&other, "other"), member(&disk, "new")];
        hand.run(create(wipe, both, &hand.rt(), &mut number_bytes())).unwrap();
        assert!(wiped(&disk), "{what}: still there after `create` with a wipe");
        hand.end();
    }
}

/// A12: a disk that is wiped need not be readable: what cannot be read is overwritten.
#[test]
fn a_wipe_reads_nothing() {
    let (hand, disk) = (Hand::new(), MemDisk::new(DISK_BYTES));
    disk.unreadable.borrow_mut().extend([1, 9000]);
    let alone = || vec![member(&disk, "a")];
    let read = hand.run(create(options(), alone(), &hand.rt(), &mut number_bytes()));
    assert!(matches!(read.map(drop), Err(RaidError::Disk { .. })));
    let wipe = CreateOptions { wipe: true, ..options() };
    hand.run(create(wipe, alone(), &hand.rt(), &mut number_bytes())).unwrap();
    assert!(disk.unreadable.borrow().is_empty());
    hand.end();
}
