//! OD1, OD4: members that ran without each other, by whomever, are never joined by the bitmap.
//!
//! The whole matrix: who ran a, who ran b, which word stands for the other, whose events are higher, whether the box
//! remembers, in which order the disks are found. The oracle knows by construction who ran: it never looks at a superblock.

use super::stock::run_alone;
use super::superblock::Role;
use super::survivor::Memory;
use super::*;

const A_MARK: u8 = 0xaa;
const B_MARK: u8 = 0xbb;
/// One chunk of the bitmap each, so that a copy by bitmap of either would miss the other's.
const A_PLACE: u64 = 3 << 16;
const B_PLACE: u64 = 9 << 16;

/// Who ran a member without the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    Nobody,
    /// muskox itself, by an operator's word.
    Muskox,
    /// Linux, which says this of the other.
    Stock(Role),
}

const RUNNERS: [Runner; 4] = [Runner::Nobody, Runner::Muskox, Runner::Stock(Role::Spare), Runner::Stock(Role::Faulty)];

/// One cell of the matrix.
#[derive(Clone, Copy, Debug)]
struct Cell {
    a: Runner,
    b: Runner,
    /// How often each became active and clean again: whose events are higher.
    cycles: [u64; 2],
    /// The state folder is there.
    remembers: bool,
    /// b is found first.
    swapped: bool,
}

fn cells() -> impl Iterator<Item = Cell> {
    let runners = RUNNERS.into_iter().flat_map(|a| RUNNERS.into_iter().map(move |b| (a, b)));
    runners.flat_map(|(a, b)| {
        let orders = [([2, 1], false), ([1, 1], false), ([1, 1], true), ([1, 2], true)];
        orders.into_iter().flat_map(move |(cycles, swapped)| {
            [true, false].into_iter().map(move |remembers| Cell { a, b, cycles, remembers, swapped })
        })
    })
}

fn named(disk: &Rc<MemDisk>, name: &str) -> Member {
    Member { disk: disk.disk(), label: name.to_owned() }
}

/// Starts the array of these disks, which stay the same ones.
fn boot(disks: &[(&str, &Rc<MemDisk>)], how: Start, memory: &Rc<Memory>) -> Result<World, RaidError> {
    let hand = Hand::new();
    let members = disks.iter().map(|(name, disk)| named(disk, name)).collect();
    let array = hand.run(assemble_witnessed(members, &hand.rt(), start(how), Rc::<Memory>::clone(memory)))?;
    Ok(World { hand, disks: disks.iter().map(|(_, disk)| Rc::clone(disk)).collect(), array })
}

/// A mirror that was stopped clean, and what its box remembers.
fn stopped_pair() -> ([Rc<MemDisk>; 2], Rc<Memory>) {
    let (world, memory) = (World::new(2), Rc::<Memory>::default());
    world.hand.run(world.array.watch_by(Rc::<Memory>::clone(&memory))).unwrap();
    world.write(0, 1).unwrap();
    world.hand.run(world.array.stop()).unwrap();
    ([0, 1].map(|one| Rc::clone(&world.disks[one])), memory)
}

fn run(who: Runner, name: &str, disk: &Rc<MemDisk>, cycles: u64, at: u64, mark: u8, memory: &Rc<Memory>) {
    match who {
        Runner::Nobody => {}
        Runner::Stock(word) => run_alone(disk, word, 1 + 2 * cycles, at, mark),
        Runner::Muskox => {
            let world = boot(&[(name, disk)], Start::Degraded, memory).unwrap();
            for _ in 0..cycles {
                world.write(at, mark).unwrap();
                world.settle();
            }
            world.hand.run(world.array.stop()).unwrap();
        }
    }
}

fn marks(disk: &MemDisk) -> [u8; 2] {
    [byte_of(disk, A_PLACE), byte_of(disk, B_PLACE)]
}

fn assert_healthy_and_equal(world: &World, disks: &[Rc<MemDisk>; 2], holds: [u8; 2], why: &str) {
    world.settle();
    assert_eq!((world.state(), world.standings()), (ArrayState::Clean, vec![Standing::InSync; 2]), "{why}");
    assert_eq!([marks(&disks[0]), marks(&disks[1])], [holds; 2], "{why}");
    assert!(data_of(&disks[0]) == data_of(&disks[1]), "{why}: the members differ");
}

/// How many bytes of data were written to a disk since its log was emptied.
fn copied(disk: &MemDisk) -> u64 {
    let log = disk.log.borrow();
    let writes = log.iter().filter_map(|seen| match seen {
        Seen::Write { at, len, .. } if *at >= DATA as u64 => Some(*len),
        _ => None,
    });
    writes.sum()
}

/// Goal: two that each ran alone are noticed, named and refused with or without the box's memory, and are joined only by
/// a word and a full copy; one that only stayed behind comes back by bitmap, without a word. Method: the matrix.
#[test]
fn who_ran_alone_is_never_joined_by_bitmap() {
    for cell in cells() {
        let (disks, memory) = stopped_pair();
        run(cell.a, "a", &disks[0], cell.cycles[0], A_PLACE, A_MARK, &memory);
        run(cell.b, "b", &disks[1], cell.cycles[1], B_PLACE, B_MARK, &memory);
        if !cell.remembers {
            memory.kept.replace(None);
        }
        match (cell.a == Runner::Nobody, cell.b == Runner::Nobody) {
            (true, true) => nobody_ran(&cell, &disks, &memory),
            (false, true) => one_ran(&cell, &disks, 0, &memory),
            (true, false) => one_ran(&cell, &disks, 1, &memory),
            (false, false) => both_ran(&cell, &disks, &memory),
        }
    }
}

fn found<'a>(cell: &Cell, disks: &'a [Rc<MemDisk>; 2]) -> [(&'static str, &'a Rc<MemDisk>); 2] {
    let [a, b] = [("a", &disks[0]), ("b", &disks[1])];
    if cell.swapped { [b, a] } else { [a, b] }
}

fn nobody_ran(cell: &Cell, disks: &[Rc<MemDisk>; 2], memory: &Rc<Memory>) {
    let world = boot(&found(cell, disks), Start::Witnessed, memory).unwrap();
    assert_healthy_and_equal(&world, disks, [0, 0], &format!("{cell:?}"));
}

/// The other one is an ordinary stale member.
fn one_ran(cell: &Cell, disks: &[Rc<MemDisk>; 2], who: usize, memory: &Rc<Memory>) {
    let why = format!("{cell:?}");
    let world = boot(&found(cell, disks), Start::Witnessed, memory).unwrap_or_else(|error| panic!("{why}: {error}"));
    let (name, stale) = (["b", "a"][who], &disks[1 - who]);
    let outsiders = world.array.status().outsiders;
    assert!(
        matches!(&outsiders[..], [(label, text)] if label == name && text.starts_with("stale")),
        "{why}: {outsiders:?}"
    );
    stale.log.borrow_mut().clear();
    let added = world.hand.run(world.array.add(named(stale, name), false, [77; 16]));
    assert!(added.is_ok(), "{why}: {added:?}");
    assert_healthy_and_equal(&world, disks, if who == 0 { [A_MARK, 0] } else { [0, B_MARK] }, &why);
    assert!(copied(stale) <= 4 << 16, "{why}: not by bitmap");
}

fn both_ran(cell: &Cell, disks: &[Rc<MemDisk>; 2], memory: &Rc<Memory>) {
    let why = format!("{cell:?}");
    // The box remembers one of them if it was muskox that ran one last: that one's data was acknowledged by this box.
    let kept = memory.kept.borrow().as_ref().map_or(0, |kept| kept.in_sync.len());
    let (world, serves) = match boot(&found(cell, disks), Start::Witnessed, memory) {
        Ok(world) => {
            assert!(cell.remembers && kept == 1, "{why}: nobody can say which one to serve");
            let serves = usize::from(world.array.status().members[0].label == "b");
            let newest = if cell.b == Runner::Muskox { 1 } else { 0 };
            assert_eq!(serves, newest, "{why}: the box remembers the other one");
            (world, serves)
        }
        Err(error) => {
            assert!(!(cell.remembers && kept == 1), "{why}: {error}");
            let RaidError::Split { first, second } = &error else { panic!("{why}: {error}") };
            assert!([first.as_str(), second.as_str()] == ["a", "b"] || [first.as_str(), second.as_str()] == ["b", "a"]);
            // An operator decides for either.
            let choice = usize::from(cell.cycles[0] < cell.cycles[1]);
            let world = boot(&[(["a", "b"][choice], &disks[choice])], Start::Degraded, memory).unwrap();
            (world, choice)
        }
    };
    let (name, other) = (["b", "a"][serves], &disks[1 - serves]);
    let before = (world.standings(), other.live.borrow().clone());
    for (label, text) in world.array.status().outsiders {
        assert!(label == name && text.contains("ran") && text.contains("without the others"), "{why}: {text}");
        let newer = superblock_on(other).events > world.array.status().events;
        assert_eq!(text.contains("newer than the array: it ran elsewhere"), newer, "{why}: {text}");
    }
    let refused = world.hand.run(world.array.add(named(other, name), false, [77; 16]));
    let text = refused.as_ref().err().map(ToString::to_string).unwrap_or_default();
    assert!(text.starts_with(name) && text.contains("without the others"), "{why}: {refused:?}");
    let looked = world.hand.run(world.array.check_successor(&named(other, name), false));
    assert!(looked.is_err(), "{why}: a look at it as a successor says something else");
    assert!(before == (world.standings(), other.live.borrow().clone()), "{why}: a refusal changed something");

    other.log.borrow_mut().clear();
    world.hand.run(world.array.add(named(other, name), true, [77; 16])).unwrap();
    assert_healthy_and_equal(&world, disks, if serves == 0 { [A_MARK, 0] } else { [0, B_MARK] }, &why);
    assert!(copied(other) >= 2 << 20, "{why}: not a full copy");
}

/// Goal: an ordinary former member is no split because a number given out after it left is a spare entry in its record.
/// Method: b fails, c takes its place, a fails: no member knows b. At a start all three or only b and c are found, and b
/// is added: without a word, by a full copy.
#[test]
fn a_member_that_left_before_the_others_joined_is_taken_without_a_word() {
    for with_a in [false, true] {
        let world = World::new(2);
        let c = MemDisk::new(DISK_BYTES);
        world.write(0, 1).unwrap();
        world.hand.run(world.array.fail(1)).unwrap();
        world.hand.run(world.array.add(named(&c, "c"), false, [70; 16])).unwrap();
        world.settle();
        world.hand.run(world.array.fail(0)).unwrap();
        world.write(A_PLACE, A_MARK).unwrap();
        world.hand.run(world.array.stop()).unwrap();
        let [a, b] = [&world.disks[0], &world.disks[1]];
        let found = [("a", a), ("b", b), ("c", &c)];
        let world = boot(if with_a { &found } else { &found[1..] }, Start::AsLeft, &Rc::default()).unwrap();
        assert_eq!(world.array.status().members[0].label, "c");
        let outsiders = world.array.status().outsiders;
        assert!(outsiders.iter().all(|(_, text)| text.starts_with("stale")), "{outsiders:?}");
        b.log.borrow_mut().clear();
        world.hand.run(world.array.add(named(b, "b"), false, [71; 16])).unwrap();
        assert_healthy_and_equal(&world, &[Rc::clone(b), Rc::clone(&c)], [A_MARK, 0], "b");
        assert!(copied(b) >= 2 << 20, "c's bitmap says nothing of what b lacks");
    }
}

/// Goal: OD6: a spare that stock mdadm set up is called one, also where its count of updates is ahead, and can be added.
/// Method: lay one down beside a pair, as Linux writes it: number 2, role `ffff`, the members' roles; free a slot, add it.
#[test]
fn a_stock_spare_is_called_a_spare() {
    for ahead in [0, 7] {
        let ([a, b], memory) = stopped_pair();
        let spare = a.after_power_cut();
        super::stock::edit_superblock(&spare, |superblock| {
            (superblock.number, superblock.device) = (2, [60; 16]);
            superblock.events += ahead;
        });
        let world = boot(&[("a", &a), ("b", &b), ("c", &spare)], Start::Witnessed, &memory).unwrap();
        let status = world.array.status();
        assert_eq!((status.state, world.standings()), (ArrayState::Clean, vec![Standing::InSync; 2]));
        assert!(
            matches!(&status.outsiders[..], [(label, text)] if label == "c" && text.starts_with("a spare of this array"))
        );
        world.hand.run(world.array.fail(0)).unwrap();
        world.write(A_PLACE, A_MARK).unwrap();
        world.hand.run(world.array.add(named(&spare, "c"), false, [61; 16])).unwrap();
        assert_healthy_and_equal(&world, &[b, spare], [A_MARK, 0], "spare");
    }
}
