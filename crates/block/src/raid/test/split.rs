//! Facts of members that disagree: epochs, changes and incarnations never go back.

use super::*;
use crate::testing::Power;
use units::VolumeId;

const ONE: VolumeId = VolumeId([1; 16]);
const OTHER: VolumeId = VolumeId([2; 16]);

/// As a grant begins: epoch, then the change.
fn record(epoch: u64, change: u64) -> Vec<u8> {
    [epoch.to_le_bytes(), change.to_le_bytes()].concat()
}

fn store(world: &World, volume: VolumeId, record: &[u8]) {
    world.hand.run(world.array.facts().store(volume, record)).unwrap();
}

/// An array that ran split: each half alone. The first stored more often, the second knows more of volume ONE.
fn halves() -> [World; 2] {
    let world = World::new(2);
    store(&world, ONE, &record(7, 1));
    let cut: Vec<_> = world.disks.iter().map(|disk| disk.after_power_cut()).collect();
    let [a, b] = [0, 1].map(|one| World::reopen(vec![Rc::clone(&cut[one])], Start::Degraded).unwrap());
    for change in 1..20 {
        store(&a, OTHER, &record(1, change));
    }
    store(&a, ONE, &record(7, 2));
    store(&b, ONE, &record(7, 3));
    store(&b, ONE, &record(7, 4));
    [a, b]
}

/// Goal: of one epoch the higher change wins, whoever wrote more often (an incarnation must not go back). Method: both
/// halves of a split array at a start; then only the one that was written last by that start.
#[test]
fn of_one_epoch_the_later_change_wins_over_members() {
    let [a, b] = halves();
    [&a, &b].into_iter().for_each(|half| half.disks[0].log.borrow_mut().clear());
    let both = World::reopen(vec![Rc::clone(&a.disks[0]), Rc::clone(&b.disks[0])], Start::Degraded).unwrap();
    let facts = both.array.facts();
    assert_eq!(facts.load()[&ONE], record(7, 4));
    assert_eq!(facts.load()[&OTHER], record(1, 19));
    let mut all = facts.load_all(ONE);
    all.sort();
    assert_eq!(all, [record(7, 2), record(7, 4)], "the gate sees what each member held");
    both.write(0, 1).unwrap();
    both.hand.run(both.array.stop()).unwrap();
    let kept = both.disks.iter().find(|disk| !disk.log.borrow().is_empty()).unwrap();
    let again = World::reopen(vec![kept.after_power_cut()], Start::Degraded).unwrap();
    assert_eq!(again.array.facts().load()[&ONE], record(7, 4));
}

#[test]
fn a_stored_record_replaces_what_members_held() {
    let [a, b] = halves();
    let both = World::reopen(vec![Rc::clone(&a.disks[0]), Rc::clone(&b.disks[0])], Start::Degraded).unwrap();
    let facts = both.array.facts();
    for late in [record(7, 3), record(6, 9)] {
        assert!(matches!(both.hand.run(facts.store(ONE, &late)), Err(RaidError::EpochBack { .. })));
    }
    store(&both, ONE, &record(7, 5));
    assert_eq!(facts.load_all(ONE), [record(7, 5)]);
    assert_eq!(facts.load_all(VolumeId([9; 16])), Vec::<Vec<u8>>::new());
}

/// Goal: I12: a disk that ran elsewhere takes the epochs it saw along when it comes back, even if it is wiped. Method:
/// the other half granted a higher epoch; add it.
#[test]
fn a_wiped_half_hands_its_epochs_over() {
    let [a, b] = halves();
    store(&b, ONE, &record(9, 1));
    a.hand.run(a.array.add(member(&b.disks[0], "b"), true, [7; 16])).unwrap();
    assert_eq!(a.array.facts().load()[&ONE], record(9, 1));
    a.settle();
    let alone = World::reopen(vec![a.disks[0].after_power_cut()], Start::Degraded).unwrap();
    assert_eq!(alone.array.facts().load()[&ONE], record(9, 1));
}

/// Goal: rule "a member counts as in sync only once it holds the newest records" (RFD 0003), whenever the power goes.
/// Method: a member fails, records are stored without it, it is added and filled, with or without another store
/// meanwhile; cut at every operation. If its own superblock then says that it is in sync, its facts hold every record
/// that was stored.
#[test]
fn a_member_that_says_in_sync_holds_the_newest_records() {
    for store_meanwhile in [false, true] {
        let stories = (0..200).map(|cut| comes_in(cut, store_meanwhile));
        let told: Vec<bool> = stories.take_while(|(over, _)| !over).map(|(_, came_in)| came_in).collect();
        assert!(told.contains(&true) && told.contains(&false) && told.len() < 200, "{} cuts", told.len());
    }
}

/// One story: whether the power lasted, and whether the member says that it is in sync.
fn comes_in(cut: u64, store_meanwhile: bool) -> (bool, bool) {
    let (world, power) = (World::new(2), Power::until(cut));
    world.write(0, 1).unwrap();
    store(&world, ONE, &record(1, 1));
    world.hand.run(world.array.fail(1)).unwrap();
    world.write(0, 2).unwrap();
    store(&world, ONE, &record(5, 1));
    let mut stored = 5;
    world.disks.iter().for_each(|disk| disk.depend_on(&power));
    let added = world.hand.run(world.array.add(member(&world.disks[1], "b"), false, [7; 16])).is_ok();
    if added && store_meanwhile && world.hand.run(world.array.facts().store(ONE, &record(6, 1))).is_ok() {
        stored = 6;
    }
    world.settle();
    let superblock = superblock_on(&world.disks[1]);
    let current = superblock.events >= superblock_on(&world.disks[0]).events;
    let says_in_sync = current && !superblock.has(superblock::FEATURE_RECOVERY);
    if says_in_sync {
        let found = facts::Facts::newest(&world.disks[1].durable.borrow()[1 << 20..2 << 20]).unwrap();
        assert!(facts::epoch_of(&found.records[&ONE]).unwrap() >= stored, "cut {cut}");
    }
    (!power.is_out(), says_in_sync)
}

/// Goal: hostile or absurd content is an error, never a crash. Method: members whose records together are too many, and
/// counters at their end.
#[test]
fn too_many_records_together_are_refused() {
    let world = World::new(2);
    let cut: Vec<_> = world.disks.iter().map(|disk| disk.after_power_cut()).collect();
    for (half, disk) in (0..2u8).zip(&cut) {
        let ids = (0..500u16).map(|n| {
            let mut id = [half; 16];
            id[..2].copy_from_slice(&n.to_le_bytes());
            (VolumeId(id), record(1, 1))
        });
        let area = disk.live.borrow()[1 << 20..2 << 20].to_vec();
        let mut found = facts::Facts::newest(&area).unwrap();
        (found.sequence, found.records) = (found.sequence + 2, ids.collect());
        let at = usize::try_from(facts::slot_at(found.sequence).0).unwrap();
        let bytes = found.encode();
        disk.live.borrow_mut()[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    let refused = World::reopen(cut, Start::AsLeft).err();
    assert!(matches!(refused, Some(RaidError::Unsupported { .. })), "{refused:?}");
}

#[test]
fn counters_at_their_end_are_damage_not_a_crash() {
    let world = World::new(2);
    for disk in &world.disks {
        let mut superblock = superblock_on(disk);
        superblock.events = u64::MAX;
        disk.live.borrow_mut()[4096..8192].copy_from_slice(&superblock.encode());
    }
    let disks = world.disks.iter().map(|disk| MemDisk::holding(disk.live.borrow().clone())).collect();
    assert!(matches!(World::reopen(disks, Start::AsLeft), Err(RaidError::Superblock { .. })));

    let endless = facts::Facts {
        sequence: u64::MAX,
        ..facts::Facts::newest(&world.disks[0].live.borrow()[1 << 20..2 << 20]).unwrap()
    };
    assert_eq!(facts::Facts::decode(&endless.encode()), Err(facts::FactsError::Absent));
}

/// Goal: a returning member with more device numbers than the array knows is no crash. Method: give it number 150.
#[test]
fn a_former_member_with_a_number_past_the_array_s_is_filled_anew() {
    let world = World::new(2);
    world.hand.run(world.array.fail(1)).unwrap();
    let mut superblock = superblock_on(&world.disks[1]);
    superblock.roles.resize(200, superblock::Role::Spare);
    superblock.number = 150;
    superblock.roles[150] = superblock::Role::Active(1);
    world.disks[1].live.borrow_mut()[4096..8192].copy_from_slice(&superblock.encode());
    world.hand.run(world.array.add(member(&world.disks[1], "b"), false, [7; 16])).unwrap();
    world.settle();
    assert_eq!(world.standings(), [Standing::InSync; 2]);
}
