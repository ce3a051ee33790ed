//! Power cuts at every single operation, with the interrupted write torn, and every mix of "the cache was lost" and "the
//! cache was kept" over the members. What must hold after each: the array starts, an acknowledged and flushed write is
//! there, both members agree once they are in sync, and no epoch went back.

use super::*;
use crate::testing::Power;
use units::VolumeId;

const VOLUME: VolumeId = VolumeId([8; 16]);
/// More operations than any story has: a sweep that does not end is a bug.
const CUTS_MAX: u64 = 400;

/// What was acknowledged when the power went.
#[derive(Default)]
struct Acked {
    created: bool,
    /// The mark that was flushed last, and the one written after it, perhaps.
    flushed: u8,
    tried: u8,
    epoch: u64,
    epoch_tried: u64,
}

impl Acked {
    /// A write and a flush, and a record; false once the power is gone.
    fn step(&mut self, world: &World, mark: u8) -> bool {
        self.tried = mark;
        if world.write(0, mark).is_err() || world.flush().is_err() {
            return false;
        }
        self.flushed = mark;
        self.epoch_tried = u64::from(mark);
        let stored = world.hand.run(world.array.facts().store(VOLUME, &u64::from(mark).to_le_bytes()));
        if stored.is_ok() {
            self.epoch = u64::from(mark);
        }
        stored.is_ok()
    }
}

/// A story of an array, told until the power goes; returns what was acknowledged.
type Story = fn(&[Rc<MemDisk>]) -> Acked;

fn begin(disks: &[Rc<MemDisk>], count: usize, acked: &mut Acked) -> Option<World> {
    let hand = Hand::new();
    let made = hand.run(create(options(), members(&disks[..count]), &hand.rt(), &mut number_bytes()));
    let array = made.ok()?;
    acked.created = true;
    Some(World { hand, disks: disks.to_vec(), array })
}

fn create_and_stop(disks: &[Rc<MemDisk>]) -> Acked {
    let mut acked = Acked::default();
    let Some(world) = begin(disks, 2, &mut acked) else {
        return acked;
    };
    if acked.step(&world, 1) && acked.step(&world, 2) {
        world.settle();
        acked.step(&world, 3);
        let _ = world.hand.run(world.array.stop());
    }
    acked
}

fn fail_and_return(disks: &[Rc<MemDisk>]) -> Acked {
    let mut acked = Acked::default();
    let Some(world) = begin(disks, 2, &mut acked) else {
        return acked;
    };
    if !acked.step(&world, 1) || world.hand.run(world.array.fail(0)).is_err() || !acked.step(&world, 2) {
        return acked;
    }
    if world.hand.run(world.array.add(member(&disks[0], "a"), false, [7; 16])).is_ok() && acked.step(&world, 3) {
        world.settle();
        acked.step(&world, 4);
    }
    acked
}

fn grow_and_fill(disks: &[Rc<MemDisk>]) -> Acked {
    let mut acked = Acked::default();
    let Some(world) = begin(disks, 1, &mut acked) else {
        return acked;
    };
    if !acked.step(&world, 1) || world.hand.run(world.array.grow(2)).is_err() || !acked.step(&world, 2) {
        return acked;
    }
    if world.hand.run(world.array.add(member(&disks[1], "b"), false, [7; 16])).is_ok() {
        world.hand.turn();
        acked.step(&world, 3);
        let _ = world.hand.run(world.array.stop());
    }
    acked
}

fn check(disks: Vec<Rc<MemDisk>>, acked: &Acked, cut: u64) {
    let world = match World::reopen(disks, Start::Degraded) {
        Ok(world) => world,
        Err(error) => {
            assert!(!acked.created, "cut {cut}: it was there: {error}");
            return;
        }
    };
    let found = world.read(0).unwrap();
    assert!(found == acked.flushed || found == acked.tried, "cut {cut}: {found}, acknowledged {}", acked.flushed);
    let epoch = world.array.facts().load().get(&VOLUME).map_or(0, |record| facts::epoch_of(record).unwrap());
    assert!(epoch == acked.epoch || epoch == acked.epoch_tried, "cut {cut}: epoch {epoch} of {}", acked.epoch);
    world.settle();
    assert_eq!(world.read(0).unwrap(), found, "cut {cut}: it changed by itself");
    let seated = world.array.status().members;
    if world.standings() == [Standing::InSync; 2] {
        let of =
            |slot: usize| world.disks.iter().zip(["a", "b"]).find(|(_, label)| *label == seated[slot].label).unwrap().0;
        assert_eq!(data_of(of(0)), data_of(of(1)), "cut {cut}: in sync and different");
    }
}

fn sweep(story: Story) {
    for cut in 0..CUTS_MAX {
        let power = Power::until(cut);
        let disks = blank(2);
        disks.iter().for_each(|disk| disk.depend_on(&power));
        let acked = story(&disks);
        let over = !power.is_out();
        // Each member may have kept its cache or lost it: two of the four mixes a cut, all of them over the sweep.
        for mix in [cut % 4, (cut + 2) % 4] {
            let after = disks.iter().enumerate().map(|(index, disk)| match mix >> index & 1 {
                0 => disk.after_power_cut(),
                _ => MemDisk::holding(disk.live.borrow().clone()),
            });
            check(after.collect(), &acked, cut);
        }
        if over {
            assert!(acked.flushed >= 3, "the story came to its end");
            return;
        }
    }
    panic!("the story has more than {CUTS_MAX} operations");
}

#[test]
fn a_cut_anywhere_in_create_write_and_stop() {
    sweep(create_and_stop);
}

#[test]
fn a_cut_anywhere_in_fail_and_return() {
    sweep(fail_and_return);
}

#[test]
fn a_cut_anywhere_in_grow_and_fill() {
    sweep(grow_and_fill);
}
