//! The stale survivor: who may start without the others, by the memory of the box.

use super::*;
use crate::device::IoFuture;
use crate::testing::{EIO, Power, poll};
use crate::wait::WaitList;
use std::cell::{Cell, RefCell};

/// A box's memory; it may refuse to take anything, and outlives power cuts.
#[derive(Default)]
pub(super) struct Memory {
    pub kept: Rc<RefCell<Option<Membership>>>,
    full: Cell<bool>,
    silent: Rc<Cell<bool>>,
    speaks: Rc<WaitList>,
}

impl MembershipWitness for Memory {
    fn recall(&self, _array: ArrayId) -> IoFuture<Option<Membership>> {
        IoFuture::ready(Ok(self.kept.borrow().clone()))
    }

    fn keep(&self, _array: ArrayId, membership: &Membership) -> IoFuture<()> {
        if self.full.get() {
            return IoFuture::ready(Err(DeviceError::Failed { errno: EIO }));
        }
        if !self.silent.get() {
            self.kept.replace(Some(membership.clone()));
            return IoFuture::ready(Ok(()));
        }
        let (kept, silent, speaks) = (Rc::clone(&self.kept), Rc::clone(&self.silent), Rc::clone(&self.speaks));
        let membership = membership.clone();
        IoFuture::later(async move {
            while silent.get() {
                speaks.wait().await;
            }
            kept.replace(Some(membership));
            Ok(())
        })
    }
}

fn watched(memory: &Rc<Memory>) -> World {
    let world = World::new(2);
    world.hand.run(world.array.watch_by(Rc::<Memory>::clone(memory))).unwrap();
    world
}

fn boot(disks: &[Rc<MemDisk>], how: Start, memory: &Rc<Memory>) -> Result<World, RaidError> {
    let hand = Hand::new();
    let disks: Vec<_> = disks.iter().map(|disk| disk.after_power_cut()).collect();
    let witness = Rc::<Memory>::clone(memory);
    let array = hand.run(assemble_witnessed(members(&disks), &hand.rt(), start(how), witness))?;
    Ok(World { hand, disks, array })
}

/// Goal: the old half of a mirror is not served because it is the only one found. Method: B fails, A goes on, then the
/// box finds B only; then A only; then both.
#[test]
pub(super) fn a_stale_survivor_is_not_started() {
    let memory = Rc::default();
    let world = watched(&memory);
    world.write(0, 1).unwrap();
    world.disks[1].broken.set(true);
    world.write(0, 2).unwrap();
    world.flush().unwrap();
    let [a, b] = [&world.disks[0], &world.disks[1]];

    let refused = boot(&[Rc::clone(b)], Start::Witnessed, &memory).err();
    assert!(matches!(refused, Some(RaidError::Superseded { .. })), "{refused:?}");
    assert_eq!(boot(&[Rc::clone(a)], Start::Witnessed, &memory).unwrap().read(0).unwrap(), 2);
    assert_eq!(boot(&world.disks, Start::Witnessed, &memory).unwrap().read(0).unwrap(), 2);

    // An operator may know that A is lost for good; from then on B is the one, even if A comes back.
    let forced = boot(&[Rc::clone(b)], Start::Degraded, &memory).unwrap();
    forced.write(0, 3).unwrap();
    forced.flush().unwrap();
    assert!(matches!(boot(&[Rc::clone(a)], Start::Witnessed, &memory), Err(RaidError::Superseded { .. })));
    let both = [Rc::clone(a), Rc::clone(&forced.disks[0])];
    assert_eq!(boot(&both, Start::Witnessed, &memory).unwrap().read(0).unwrap(), 3);
}

/// Goal: a member that the witness names starts alone, and what it acknowledges is its own from then on.
#[test]
fn either_of_two_equal_members_starts_alone_but_not_one_after_the_other() {
    let memory = Rc::default();
    let world = watched(&memory);
    world.write(0, 1).unwrap();
    world.flush().unwrap();
    let alone = boot(&world.disks[1..], Start::Witnessed, &memory).unwrap();
    alone.write(0, 2).unwrap();
    assert!(matches!(boot(&world.disks[..1], Start::Witnessed, &memory), Err(RaidError::Superseded { .. })));
}

/// Goal: nothing degraded is answered before the box remembers it. Method: the memory is full for a while.
#[test]
fn a_degraded_write_waits_for_the_witness() {
    let memory: Rc<Memory> = Rc::default();
    let world = watched(&memory);
    world.write(0, 1).unwrap();
    memory.full.set(true);
    world.disks[1].broken.set(true);
    let mut write = world.array.disk().write(ByteOffset(0), IoBuf::copy_of(&[2; 4096]).freeze(), Durability::Cached);
    for _ in 0..5 {
        assert!(!poll(&mut write));
        world.hand.turn();
        world.hand.pass(1000);
    }
    assert!(world.array.status().witness_blocked.unwrap().contains("errno 5"));
    memory.full.set(false);
    world.hand.turn();
    assert!(poll(&mut write));
    assert_eq!(world.array.status().witness_blocked, None);
    assert_eq!(memory.kept.borrow().as_ref().unwrap().in_sync.len(), 1);
}

/// Goal: a fence that waits for the box's memory is not kept from saying so. Method: a memory that is full, then one that
/// does not answer, under a member that hangs; then it answers.
#[test]
fn a_fence_is_told_that_nothing_can_be_recorded() {
    for silent in [false, true] {
        let memory: Rc<Memory> = Rc::default();
        let world = watched(&memory);
        world.write(0, 1).unwrap();
        memory.silent.set(silent);
        memory.full.set(!silent);
        world.disks[1].held.set(true);
        let mut write =
            world.array.disk().write(ByteOffset(0), IoBuf::copy_of(&[2; 4096]).freeze(), Durability::Cached);
        assert!(!poll(&mut write));
        for _ in 0..6 {
            world.hand.turn();
            world.hand.pass(250);
        }
        let now = world.hand.rt().now();
        let array = Rc::clone(&world.array);
        let mut fence = Box::pin(async move { array.fail_laggards(now).await });
        assert!(!poll(&mut fence));
        for _ in 0..3 {
            world.hand.turn();
            world.hand.pass(500);
        }
        world.hand.turn();
        let told = world.hand.run(fence);
        assert!(matches!(&told, Err(RaidError::Unrecorded(why)) if why.contains("cannot be recorded")), "{told:?}");
        assert!(!poll(&mut write), "nothing degraded is answered meanwhile");
        memory.full.set(false);
        memory.silent.set(false);
        memory.speaks.wake_all();
        world.hand.pass(1000);
        world.hand.turn();
        assert!(poll(&mut write));
        assert_eq!(world.array.status().witness_blocked, None);
        let array = Rc::clone(&world.array);
        world.hand.run(async move { array.fail_laggards(now).await }).unwrap();
        world.disks[1].release();
    }
}

/// Goal: without a memory a box starts by itself only as it was left, and a split is shown. Method: two halves that
/// each went on.
#[test]
fn without_memory_fewer_members_or_a_split_are_an_operators_matter() {
    let (memory, none) = (Rc::default(), Rc::<Memory>::default());
    let world = watched(&memory);
    world.write(0, 1).unwrap();
    let [a, b] = [0, 1].map(|one| boot(&world.disks[one..=one], Start::Degraded, &none).unwrap());
    a.write(0, 2).unwrap();
    b.write(0, 3).unwrap();
    let halves = [Rc::clone(&a.disks[0]), Rc::clone(&b.disks[0])];
    none.kept.replace(None);
    assert!(matches!(boot(&world.disks[1..], Start::Witnessed, &none), Err(RaidError::Incomplete { .. })));
    assert!(matches!(boot(&halves, Start::Witnessed, &none), Err(RaidError::Split { .. })));
    assert!(boot(&halves, Start::Degraded, &none).is_ok());
}

/// Goal: in every crash of a member's failure and return, what a box starts by itself, with either member or both,
/// holds what was acknowledged. Method: the power goes at every operation; all three starts after each.
#[test]
fn a_cut_anywhere_leaves_no_stale_survivor() {
    for cut in 0..200 {
        let (memory, power): (Rc<Memory>, _) = (Rc::default(), Power::until(cut));
        let world = watched(&memory);
        world.disks.iter().for_each(|disk| disk.depend_on(&power));
        let mut acked = 0;
        let mut tried = 0;
        let mut step = |mark| {
            tried = mark;
            let done = world.write(0, mark).is_ok() && world.flush().is_ok();
            acked = if done { mark } else { acked };
            done
        };
        let add = || world.hand.run(world.array.add(member(&world.disks[1], "b"), false, [9; 16])).is_ok();
        if step(1) && world.hand.run(world.array.fail(1)).is_ok() && step(2) && add() {
            world.settle();
            if step(3) && world.hand.run(world.array.fail(0)).is_ok() {
                step(4);
            }
        }
        for some in [&world.disks[..1], &world.disks[1..], &world.disks[..]] {
            let copy = Memory { kept: Rc::new((*memory.kept).clone()), ..Memory::default() };
            let started = boot(some, Start::Witnessed, &Rc::new(copy));
            if let Ok(started) = started {
                let found = started.read(0).unwrap();
                assert!(found == acked || found == tried, "cut {cut}, {} members: {found}, acked {acked}", some.len());
            } else {
                assert!(some.len() < 2, "cut {cut}: both are here: {:?}", started.err());
            }
        }
        if !power.is_out() {
            assert_eq!(acked, 4);
            return;
        }
    }
    panic!("the story does not end");
}

/// Goal: the copy of a member that an operator started by force is the member from then on. Method: an older image of
/// the only member that is named.
#[test]
fn a_forced_older_copy_is_remembered() {
    let memory: Rc<Memory> = Rc::default();
    let world = watched(&memory);
    let image = world.disks[0].after_power_cut();
    world.write(0, 1).unwrap();
    world.hand.run(world.array.fail(1)).unwrap();
    for _ in 0..3 {
        world.write(0, 2).unwrap();
        world.settle();
    }
    let newer = boot(&world.disks[..1], Start::Witnessed, &memory).unwrap();
    drop(newer);
    memory.kept.borrow_mut().as_mut().unwrap().events = superblock_on(&world.disks[0]).events;
    assert!(matches!(boot(&[Rc::clone(&image)], Start::Witnessed, &memory), Err(RaidError::Superseded { .. })));
    let forced = boot(&[image], Start::Degraded, &memory).unwrap();
    assert!(boot(&forced.disks, Start::Witnessed, &memory).is_ok());
}
