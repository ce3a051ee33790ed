//! Serving and failing: what is answered, in which order it is recorded.

use super::*;
use crate::testing::poll;
use units::{Moment, VolumeId};

#[test]
fn a_write_is_on_both_members_and_read_back() {
    let world = World::new(2);
    assert_eq!(world.array.disk().geometry().size, ByteLen::mib(2));
    world.write(4096, 7).unwrap();
    assert_eq!(world.read(4096).unwrap(), 7);
    for disk in &world.disks {
        assert_eq!(byte_of(disk, 4096), 7);
    }
    assert_eq!(world.state(), ArrayState::Active);
    world.settle();
    assert_eq!(world.state(), ArrayState::Clean);
}

/// Goal: B-01: no data before its bit. Method: the log of a member.
#[test]
pub(super) fn the_bit_is_durable_before_the_data() {
    let world = World::new(2);
    world.disks[1].log.borrow_mut().clear();
    world.write(0, 1).unwrap();
    let data = data_write(&world.disks[1], 0).unwrap();
    let bitmap = |seen: &Seen| matches!(seen, Seen::Write { at: 8192, fua: true, .. });
    let before = world.disks[1].log.borrow().iter().position(bitmap).unwrap();
    assert!(before < data);
    let superblock = |seen: &Seen| matches!(seen, Seen::Write { at: 4096, fua: true, .. });
    assert!(world.disks[1].log.borrow().iter().position(superblock).unwrap() < data, "active is recorded too");

    world.disks[1].log.borrow_mut().clear();
    world.write(0, 2).unwrap();
    assert_eq!(world.disks[1].log.borrow().len(), 1, "the second write to a chunk writes nothing but data");
}

/// Goal: I6, I11: who is answered after a failure finds it recorded. Method: hold the survivor's superblock write.
#[test]
pub(super) fn a_degraded_write_waits_for_the_record_of_the_failure() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.disks[0].broken.set(true);
    let mut write = world.array.disk().write(ByteOffset(0), IoBuf::copy_of(&[2; 4096]).freeze(), Durability::Cached);
    // The data write to the survivor answers at once, its metadata later.
    assert!(!poll(&mut write));
    assert_eq!(superblock_on(&world.disks[1]).roles[0], superblock::Role::Active(0));
    assert_eq!(byte_of(&world.disks[1], 0), 2);
    world.disks[1].held.set(true);
    world.hand.turn();
    assert!(!poll(&mut write), "not before the superblock says it");
    world.disks[1].release();
    world.hand.turn();
    assert!(poll(&mut write));
    assert_eq!(superblock_on(&world.disks[1]).roles[0], superblock::Role::Faulty);
    assert_eq!(world.state(), ArrayState::Degraded);
    let status = world.array.status();
    assert_eq!(status.members[0].cause.as_deref(), Some("a write: the device answered with errno 5 (an I/O error)"));
}

/// Goal: an array that takes no writes any more says which disk is why. Method: the last member in sync fails a write.
#[test]
fn a_broken_array_names_its_disk() {
    let world = World::new(2);
    world.hand.run(world.array.fail(0)).unwrap();
    world.disks[1].broken.set(true);
    assert!(world.write(0, 1).is_err());
    let status = world.array.status();
    assert_eq!((status.state, status.members[1].standing), (ArrayState::Failed, Standing::InSync));
    assert!(status.members[1].cause.as_deref().unwrap().contains("errno 5 (an I/O error)"), "{status:?}");
}

#[test]
pub(super) fn a_failed_member_is_never_asked_again() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.disks[0].broken.set(true);
    world.write(0, 2).unwrap();
    world.disks[0].broken.set(false);
    world.write(0, 3).unwrap();
    assert_eq!(byte_of(&world.disks[0], 0), 1, "an EIO that went away is still an EIO");
    assert_eq!(world.standings()[0], Standing::Faulty);
    assert_eq!(world.read(0).unwrap(), 3);
}

#[test]
fn a_failed_read_is_answered_by_the_other_member() {
    let world = World::new(2);
    world.write(0, 9).unwrap();
    for disk in &world.disks {
        disk.broken.set(true);
        let others_work = world.standings().iter().filter(|s| **s == Standing::InSync).count() > 1;
        for _ in 0..4 {
            assert_eq!(world.read(0).is_ok(), others_work);
        }
    }
}

/// Goal: a bad sector costs a write, not a member, unless there are many. Method: sectors that one member cannot read until
/// they are written, twenty of them; a flush between, nothing else is written.
#[test]
fn a_bad_sector_is_answered_by_the_other_and_written_back() {
    let world = World::new(2);
    for block in 0..20 {
        world.write(block * 4096, 7).unwrap();
    }
    let bad = &world.disks[0];
    for block in 0..20 {
        bad.unreadable.borrow_mut().insert(DATA as u64 + block * 4096 + 512);
        // Reads in order go to one member, the first.
        assert_eq!(world.read(block * 4096).unwrap(), 7);
        let expect = if block < 19 { Standing::InSync } else { Standing::Faulty };
        assert_eq!(bad.unreadable.borrow().is_empty(), block < 19);
        assert_eq!(world.standings(), [expect, Standing::InSync], "bad sector {block}");
    }
    assert!(world.array.status().members[0].cause.as_ref().unwrap().starts_with("a read: "));
}

/// Goal: what is written back never overwrites a newer write (B-11, I6). Method: hold the write-back, write the same place
/// meanwhile, let it go.
#[test]
pub(super) fn a_write_back_never_overwrites_a_newer_write() {
    let world = World::new(2);
    world.write(0, 7).unwrap();
    let bad = &world.disks[0];
    bad.unreadable.borrow_mut().insert(DATA as u64);
    bad.held.set(true);
    let device = world.array.disk();
    let mut read = device.read(ByteOffset(0), IoBuf::new(4096));
    assert!(!poll(&mut read));
    world.hand.turn();
    assert!(!poll(&mut read));
    world.hand.turn();
    // Only the write-back stays held; what comes now goes through at once, if it is let.
    bad.held.set(false);
    let mut write = device.write(ByteOffset(0), IoBuf::copy_of(&[8; 4096]).freeze(), Durability::Cached);
    poll(&mut write);
    world.hand.turn();
    bad.release();
    assert_eq!(world.hand.run(read).unwrap()[0], 7);
    world.hand.run(write).unwrap();
    assert_eq!(world.standings(), [Standing::InSync; 2]);
    assert!(data_of(bad) == data_of(&world.disks[1]), "both members hold the same");
    assert_eq!(byte_of(bad, 0), 8);
}

/// Goal: what neither member can read is an error, and costs no member. Method: the same sector on both, then a write.
#[test]
fn what_nobody_can_read_is_an_error() {
    let world = World::new(2);
    world.write(0, 7).unwrap();
    for disk in &world.disks {
        disk.unreadable.borrow_mut().insert(DATA as u64);
    }
    assert!(world.read(0).is_err());
    assert_eq!(world.standings(), [Standing::InSync, Standing::InSync]);
    world.write(0, 8).unwrap();
    assert_eq!(world.read(0).unwrap(), 8);
}

#[test]
fn the_last_members_error_goes_up_and_stays() {
    let world = World::new(2);
    world.disks[0].broken.set(true);
    world.write(0, 1).unwrap();
    world.disks[1].broken.set(true);
    assert!(world.flush().is_err());
    world.disks[1].broken.set(false);
    assert!(world.flush().is_err(), "what was lost by a failed flush is not found by the next");
    assert!(world.write(0, 2).is_err());
    assert_eq!(world.read(0).unwrap(), 1);
    assert_eq!(world.state(), ArrayState::Failed);
    assert_eq!(world.standings(), [Standing::Faulty, Standing::InSync]);
}

#[test]
pub(super) fn a_flush_and_fua_reach_every_member() {
    let world = World::new(3);
    world.write(0, 3).unwrap();
    world.flush().unwrap();
    let data = IoBuf::copy_of(&[4; 4096]).freeze();
    world.hand.run(world.array.disk().write(ByteOffset(8192), data, Durability::Fua)).unwrap();
    for disk in &world.disks {
        assert_eq!(disk.durable.borrow()[DATA], 3);
        assert_eq!(disk.durable.borrow()[DATA + 8192], 4);
    }
    world.disks[2].broken.set(true);
    world.flush().unwrap();
    assert_eq!(world.standings(), [Standing::InSync, Standing::InSync, Standing::Faulty]);
}

/// Goal: B-06. Method: break a member just before each of the metadata writes that a data write needs.
#[test]
pub(super) fn no_data_goes_to_a_member_whose_bitmap_write_failed() {
    for at in 0..3 {
        let world = World::new(2);
        world.disks[0].log.borrow_mut().clear();
        world.disks[0].breaks_after.set(Some(at));
        world.write(0, 1).unwrap();
        assert_eq!(data_write(&world.disks[0], 0), None, "metadata write {at}");
        assert_eq!(world.standings(), [Standing::Faulty, Standing::InSync]);
        assert_eq!(superblock_on(&world.disks[1]).roles[0], superblock::Role::Faulty);
        assert_eq!(byte_of(&world.disks[1], 0), 1);
    }
}

/// Goal: a fence need not wait for a hung member. Method: hold one member's writes; fail what lags.
#[test]
fn a_hung_member_is_failed_and_nobody_waits_for_it() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.disks[0].held.set(true);
    let disk = world.array.disk();
    let mut write = disk.write(ByteOffset(0), IoBuf::copy_of(&[2; 4096]).freeze(), Durability::Cached);
    assert!(!poll(&mut write));
    world.hand.run(world.array.fail_laggards(Moment(0))).unwrap();
    assert!(!poll(&mut write), "it was admitted at that moment, not before");
    world.hand.pass(10);
    world.hand.run(world.array.fail_laggards(Moment(5))).unwrap();
    assert!(poll(&mut write));
    assert_eq!(superblock_on(&world.disks[1]).roles[0], superblock::Role::Faulty);
    world.disks[0].release();
    world.hand.turn();
    assert_eq!(byte_of(&world.disks[0], 0), 2, "what hung runs out in the background");

    world.disks[1].held.set(true);
    let mut write = disk.write(ByteOffset(0), IoBuf::copy_of(&[3; 4096]).freeze(), Durability::Cached);
    assert!(!poll(&mut write));
    world.hand.pass(10);
    let refused = world.hand.run(world.array.fail_laggards(Moment(15)));
    assert!(matches!(refused, Err(RaidError::LastMember(1))));
    world.disks[1].release();
    world.hand.turn();
    assert!(poll(&mut write));
}

#[test]
fn a_hung_superblock_write_is_a_laggard_too() {
    let world = World::new(2);
    world.disks[0].held.set(true);
    let mut write = world.array.disk().write(ByteOffset(0), IoBuf::copy_of(&[2; 4096]).freeze(), Durability::Cached);
    assert!(!poll(&mut write));
    world.hand.turn();
    world.hand.pass(10);
    world.hand.run(world.array.fail_laggards(Moment(5))).unwrap();
    world.hand.turn();
    assert!(poll(&mut write));
    assert_eq!(data_write(&world.disks[0], 0), None);
}

#[test]
fn a_dropped_write_still_reaches_both_members() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.disks[0].held.set(true);
    let mut write = world.array.disk().write(ByteOffset(0), IoBuf::copy_of(&[2; 4096]).freeze(), Durability::Cached);
    assert!(!poll(&mut write));
    drop(write);
    world.disks[0].release();
    world.hand.turn();
    assert_eq!([byte_of(&world.disks[0], 0), byte_of(&world.disks[1], 0)], [2, 2]);
}

#[test]
fn a_used_disk_is_refused_by_name_and_nothing_is_written() {
    let disks = blank(2);
    disks[1].live.borrow_mut()[1080..1082].copy_from_slice(&[0x53, 0xef]);
    let hand = Hand::new();
    let refused = hand.run(create(options(), members(&disks), &hand.rt(), &mut number_bytes()));
    let text = refused.err().unwrap().to_string();
    assert_eq!(text, "b holds an ext2/3/4 file system: wipe it only if nobody needs that any more");
    assert!(disks.iter().all(|disk| disk.log.borrow().is_empty()));
    let world = World::of(disks, CreateOptions { wipe: true, ..options() });
    assert_eq!(world.state(), ArrayState::Clean);
    let again = world.hand.run(create(options(), members(&world.disks), &world.hand.rt(), &mut number_bytes()));
    assert!(again.err().unwrap().to_string().contains("a Linux md member"));
}

#[test]
fn a_stopped_array_is_clean_refuses_everything_and_starts_again() {
    let world = World::new(2);
    world.write(0, 1).unwrap();
    world.hand.run(world.array.stop()).unwrap();
    assert_eq!(world.write(0, 2), Err(DeviceError::Closed));
    assert_eq!(world.read(0), Err(DeviceError::Closed));
    let superblocks = [superblock_on(&world.disks[0]), superblock_on(&world.disks[1])];
    assert!(superblocks.iter().all(|s| s.resync_offset == superblock::CLEAN && s.features == 1));
    assert_eq!(superblocks[0].events, superblocks[1].events);
    let disks = world.disks.iter().map(|disk| disk.after_power_cut()).collect();
    let world = World::reopen(disks, Start::AsLeft).unwrap();
    assert_eq!((world.state(), world.read(0).unwrap()), (ArrayState::Clean, 1));
    assert!(world.disks.iter().all(|disk| disk.log.borrow().is_empty()), "reading writes nothing");
}

/// Goal: an acknowledged record is read again also where a disk says that its facts were written almost too often to count;
/// where no more can be counted, none is acknowledged. Method: the last number, one more, a restart.
#[test]
fn facts_that_cannot_be_counted_are_not_acknowledged() {
    let world = World::new(2);
    let (volume, record) = (VolumeId([1; 16]), |epoch: u64| epoch.to_le_bytes());
    let facts = world.array.facts();
    facts.0.board.borrow_mut().facts_sequence = super::super::facts::SEQUENCE_MAX - 1;
    world.hand.run(facts.store(volume, &record(4))).unwrap();
    assert!(matches!(world.hand.run(facts.store(volume, &record(5))), Err(RaidError::FactsUsedUp)));
    world.hand.run(world.array.stop()).unwrap();
    let disks = world.disks.iter().map(|disk| disk.after_power_cut()).collect();
    let world = World::reopen(disks, Start::AsLeft).unwrap();
    assert_eq!(world.array.facts().load().get(&volume).map(Vec::as_slice), Some(&record(4)[..]));
}

/// Goal: DA14: who stores records in a loop leaves the metadata's queue to others for three quarters of the time. Method: a
/// store that takes 20 ms; two more, which wait 60 ms and go out in one; a guest's first write to a chunk does not wait.
#[test]
fn records_leave_the_queue_to_others() {
    let world = World::new(2);
    let facts = world.array.facts();
    let begin = |volume: u8, epoch: u64| {
        let facts = facts.clone();
        let mut storing =
            Box::pin(async move { facts.store(VolumeId([volume; 16]), &epoch.to_le_bytes()).await.unwrap() });
        poll(&mut storing);
        world.hand.turn();
        storing
    };
    world.disks[0].held.set(true);
    let first = begin(1, 1);
    world.hand.pass(20);
    world.disks[0].release();
    world.hand.run(first);
    let written = || {
        let facts = |seen: &&Seen| matches!(seen, Seen::Write { at, .. } if (1 << 20..2 << 20).contains(at));
        world.disks[0].log.borrow().iter().filter(facts).count()
    };
    let before = written();
    let (mut second, mut third) = (begin(1, 2), begin(2, 1));
    world.hand.pass(59);
    world.hand.turn();
    assert!(!poll(&mut second) && !poll(&mut third));
    assert_eq!(written(), before);
    let generation = world.array.0.progress.wanted.get();
    world.hand.run(async { world.array.0.settle(generation).await }).unwrap();
    world.hand.pass(1);
    assert!(!poll(&mut second) && !poll(&mut third));
    world.hand.run(second);
    world.hand.run(third);
    assert_eq!(written(), before + 1, "together");
    world.hand.pass(10_000);
    world.hand.run(begin(1, 3));
    assert_eq!(written(), before + 2, "who comes alone does not wait");
}

#[test]
fn records_survive_and_epochs_never_go_back() {
    let world = World::new(2);
    let (volume, record) = (VolumeId([1; 16]), |epoch: u64| [&epoch.to_le_bytes()[..], b"owner"].concat());
    let facts = world.array.facts();
    assert!(facts.complete());
    world.hand.run(facts.store(volume, &record(4))).unwrap();
    assert!(matches!(world.hand.run(facts.store(volume, &record(3))), Err(RaidError::EpochBack { held: 4, .. })));
    assert!(matches!(world.hand.run(facts.store(volume, &[1])), Err(RaidError::Record { .. })));
    world.disks[0].broken.set(true);
    world.hand.run(facts.store(volume, &record(6))).unwrap();
    assert_eq!(world.standings()[0], Standing::Faulty);

    let cut: Vec<_> = world.disks.iter().map(|disk| disk.after_power_cut()).collect();
    let both = World::reopen(cut.clone(), Start::Degraded).unwrap();
    assert_eq!(facts::epoch_of(&both.array.facts().load()[&volume]), Some(6));
    assert!(!both.array.facts().complete(), "a slot's member is stale");

    let alone = World::reopen(vec![world.disks[0].after_power_cut()], Start::AsLeft).err();
    assert!(matches!(alone, Some(RaidError::Incomplete { present: 1, expected: 2 })));
    let alone = World::reopen(vec![world.disks[0].after_power_cut()], Start::Degraded).unwrap();
    assert_eq!(facts::epoch_of(&alone.array.facts().load()[&volume]), Some(4));
    assert!(!alone.array.facts().complete());
}

#[test]
fn what_cannot_be_an_array_is_refused_in_words() {
    let (one, two) = (World::new(2), World::of(blank(2), CreateOptions { id: ArrayId([6; 16]), ..options() }));
    let mixed = vec![Rc::clone(&one.disks[0]), Rc::clone(&two.disks[1])];
    assert!(matches!(World::reopen(mixed, Start::Degraded), Err(RaidError::OtherArray { .. })));
    let twins = vec![Rc::clone(&one.disks[0]), one.disks[0].after_power_cut()];
    assert!(matches!(World::reopen(twins, Start::Degraded), Err(RaidError::Twins { number: 0, .. })));
    assert!(matches!(World::reopen(blank(1), Start::Degraded), Err(RaidError::Superblock { .. })));
    let small = MemDisk::new(ByteLen(16 << 20));
    let hand = Hand::new();
    let refused = hand.run(create(options(), members(&[small]), &hand.rt(), &mut number_bytes())).err();
    assert_eq!(refused.unwrap().to_string(), "a is too small: 16 MiB, at least 17 MiB is needed");
}
