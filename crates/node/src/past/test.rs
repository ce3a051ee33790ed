//! A store that was brought back, in memory, and what machines keep.

use super::*;
use crate::identity::Seat;
use crate::registry::{Settings, Standing, add_token, admit, found, members, remove, removed, standing};
use api::Role;
use cluster::store::Memory;

const HASH: [&str; 3] = [
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "11112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "22112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
];

fn record(n: u8) -> Record {
    let address = format!("192.0.2.{n}:10811").parse().unwrap();
    let name = format!("m{n}").parse().unwrap();
    Record::new(Seat { name, address, portals: Vec::new(), roles: vec![Role::Host] }, HostKey([n; 32]), 10)
}

fn key(n: u8) -> HostKey {
    HostKey([n; 32])
}

/// A store with machines 1 to `count`.
fn store(count: u8) -> Memory {
    let mut engine = Memory::new();
    found(&mut engine, &record(1), Settings::new(60)).unwrap();
    for n in 2..=count {
        add_token(&mut engine, HASH[0], 20, 5).unwrap();
        admit(&mut engine, HASH[0], &record(n)).unwrap();
    }
    engine
}

fn restored(backup: &Backup, current: &mut Memory) -> Memory {
    let entries = current.range("/").unwrap().entries;
    let mut engine = Memory::new();
    engine.restore(&forgetful(backup.clone(), &entries, 30).unwrap()).unwrap();
    engine
}

fn says(removed: &[u8], sets: &[&[u8]]) -> Kept {
    let removed = removed.iter().map(|n| Removed { key: key(*n), name: record(*n).name, removed_s: 25 }).collect();
    let sets = sets.iter().map(|set| set.iter().map(|n| key(*n)).collect()).collect();
    Kept { removed, sets, ..Kept::default() }
}

/// CA8. Goal: a token of a backup admits nobody, also where the store is still there; a machine that this store removed after the backup
/// is out, with its addresses free; one that stayed is a member. Method: a backup with a token and three machines, one of which
/// is removed; the same into a store that has lost everything.
#[test]
fn a_restore_brings_no_token_and_no_removed_machine_back() {
    let mut engine = store(3);
    add_token(&mut engine, HASH[1], 1_000, 5).unwrap();
    let backup = engine.backup().unwrap();
    remove(&mut engine, &record(2).name, &record(1).name, 25).unwrap();
    let mut there = restored(&backup, &mut engine);
    let mut lost = restored(&backup, &mut Memory::new());
    for engine in [&mut there, &mut lost] {
        for n in [1, 2, 3] {
            hear(engine, (key(n), key(1)), &Kept::default()).unwrap();
        }
        assert_eq!(admit(engine, HASH[1], &record(4)).unwrap_err().code, Code::TokenUnknown);
    }
    let names = |engine: &mut Memory| members(engine).unwrap().iter().map(|it| it.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&mut there), ["m1", "m3"]);
    assert_eq!(standing(&mut there, key(2)).unwrap(), Standing::Removed(record(2).name));
    add_token(&mut there, HASH[2], 1_000, 5).unwrap();
    let again = record(2);
    let seat = Seat { name: again.name, address: again.address, portals: again.portals, roles: again.roles };
    let same_place = Record::new(seat, key(9), 10);
    admit(&mut there, HASH[2], &same_place).expect("name and address are free");
    assert_eq!(names(&mut lost), ["m1", "m2", "m3"], "nobody said otherwise");
}

/// CA8. Goal: what members keep is merged: who was removed is out again, and that is kept by all; nobody is admitted before a majority has
/// said what it keeps; who has not is named; the word of the last one is taken when it comes. The store's own machine is removed by no
/// word. Method: a store of four that is lost; one word after the other.
#[test]
fn what_members_keep_is_merged_before_anyone_is_admitted() {
    let backup = store(4).backup().unwrap();
    let mut engine = restored(&backup, &mut Memory::new());
    add_token(&mut engine, HASH[1], 1_000, 5).unwrap();
    let refused = admit(&mut engine, HASH[1], &record(5)).unwrap_err();
    assert_eq!(refused.code, Code::Busy);
    assert!(["'m1'", "'m2'", "'m3'", "'m4'"].iter().all(|name| refused.text.contains(name)), "{refused:?}");
    for n in [1, 3] {
        hear(&mut engine, (key(n), key(1)), &says(&[], &[])).unwrap();
    }
    assert_eq!(admit(&mut engine, HASH[1], &record(5)).unwrap_err().code, Code::Busy, "two of four");
    hear(&mut engine, (key(4), key(1)), &says(&[2, 1], &[])).unwrap();
    assert_eq!(standing(&mut engine, key(2)).unwrap(), Standing::Removed(record(2).name));
    assert!(matches!(standing(&mut engine, key(1)).unwrap(), Standing::Member(_)), "the store's own machine");
    assert_eq!(unheard(&mut engine).unwrap(), [], "all that are left have said it");
    assert_eq!(removed(&mut engine).unwrap(), says(&[2], &[]).removed);
    let keep = to_keep(&mut engine, key(3), Some(0)).unwrap();
    assert_eq!((keep.removed, keep.tell), (says(&[2], &[]).removed, false));
    assert!(to_keep(&mut engine, key(3), Some(1)).unwrap().removed.is_empty(), "it keeps as many");
    admit(&mut engine, HASH[1], &record(5)).unwrap();
    // Another one's word is of no more use.
    hear(&mut engine, (key(5), key(1)), &says(&[3], &[])).unwrap();
    assert!(matches!(standing(&mut engine, key(3)).unwrap(), Standing::Member(_)));
}

/// CA8. Goal: a set of witnesses that came after the backup counts again as soon as one machine says it: then a majority of it has to be
/// heard too. Method: a backup of three; the second one says that there were five.
#[test]
fn sets_of_witnesses_that_came_later_count() {
    let backup = store(3).backup().unwrap();
    let mut engine = restored(&backup, &mut Memory::new());
    let later: &[&[u8]] = &[&[1, 2, 3], &[1, 2, 3, 4, 5]];
    hear(&mut engine, (key(2), key(1)), &says(&[], later)).unwrap();
    hear(&mut engine, (key(3), key(1)), &says(&[], later)).unwrap();
    let all = members(&mut engine).unwrap();
    let sets = witness_sets(&mut engine, &all).unwrap();
    assert!(sets.contains(&says(&[], later).sets[1]), "{sets:?}");
    assert_eq!(check_heard(&mut engine).unwrap_err().code, Code::Busy, "two of five");
    assert!(check_heard(&mut engine).unwrap_err().text.contains("'m1'"));
    hear(&mut engine, (key(1), key(1)), &says(&[], later)).unwrap();
    check_heard(&mut engine).expect("three of five, and all machines");
    let much = Kept { sets: vec![Vec::new(); SETS_MAX + 1], ..Kept::default() };
    let mut again = restored(&backup, &mut Memory::new());
    assert_eq!(hear(&mut again, (key(2), key(1)), &much).unwrap_err().code, Code::BadRequest);
}

/// CA8. Goal: a machine forgets no removed one, and no set while the store asks for it; a file that cannot be read is not replaced.
/// Method: words one after the other; a torn file, and one of a newer version.
#[test]
fn what_a_machine_keeps_is_not_lost_to_a_store_of_the_past() {
    let told = |removed, sets, tell| {
        let Kept { removed, sets, .. } = says(removed, sets);
        ToKeep { removed, sets, tell }
    };
    let kept = Kept::default().after(&told(&[2, 3], &[&[1, 4]], false));
    assert_eq!(kept, says(&[2, 3], &[&[1, 4]]));
    let asked = kept.after(&told(&[], &[&[1, 2]], true));
    assert_eq!(asked, says(&[2, 3], &[&[1, 4], &[1, 2]]));
    assert_eq!(asked.after(&told(&[3, 5], &[&[1, 2]], false)), says(&[2, 3, 5], &[&[1, 2]]));
    let base = std::env::temp_dir().join(format!("muskox-kept-{}", std::process::id()));
    let root = Root::new(&base);
    root.make_folders().unwrap();
    assert_eq!(Kept::load(&root).unwrap(), Kept::default());
    kept.save(&root).unwrap();
    assert_eq!(Kept::load(&root).unwrap(), kept);
    for text in ["{\"version\":", "{\"version\":9,\"removed\":[],\"sets\":[]}"] {
        std::fs::write(Kept::file(&root), text).unwrap();
        assert_eq!(Kept::load(&root).unwrap_err().code, Code::Files);
    }
    std::fs::remove_dir_all(base).unwrap();
}
