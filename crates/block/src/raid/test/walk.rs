//! A random walk: writes held and let go, members failed, returned and replaced, time passing, in any order.
//!
//! Goal: I3 and I6 in every interleaving that a seed leads to: what was acknowledged last is what every member in sync
//! holds. Method: one operation at a time per block, so that the model knows each block's content exactly.

use super::*;
use crate::device::IoFuture;
use crate::testing::poll;

const BLOCKS: usize = 64;
const SEEDS: u64 = 60;
const STEPS: usize = 120;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

struct Walk {
    world: World,
    random: Random,
    model: [u8; BLOCKS],
    /// Blocks with a write under way, and its mark.
    pending: Vec<(usize, u8, IoFuture<()>)>,
    spare: u8,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
        Self { world: World::new(2), random, model: [0; BLOCKS], pending: Vec::new(), spare: 100 }
    }

    fn step(&mut self) {
        match self.random.below(12) {
            0..=4 => self.begin_write(),
            5 => self.disk().held.set(true),
            // Held ones stay, later ones pass: members fall apart in time.
            6 => self.disk().held.set(false),
            7 => self.disk().release(),
            8 => self.world.hand.pass(700),
            9 => self.fail(),
            10 => self.add(),
            _ => self.world.hand.turn(),
        }
        self.collect();
    }

    fn disk(&mut self) -> Rc<MemDisk> {
        Rc::clone(&self.world.disks[self.random.below(self.world.disks.len())])
    }

    fn begin_write(&mut self) {
        let block = self.random.below(BLOCKS);
        if self.pending.iter().any(|(other, ..)| *other == block) {
            return;
        }
        let mark = self.model[block].wrapping_add(1);
        let data = IoBuf::copy_of(&[mark; 4096]).freeze();
        // Every eighth block lies in another bitmap chunk.
        let at = ByteOffset(place(block));
        self.pending.push((block, mark, self.world.array.disk().write(at, data, Durability::Cached)));
    }

    fn collect(&mut self) {
        let model = &mut self.model;
        self.pending.retain_mut(|(block, mark, write)| {
            let done = poll(write);
            if done {
                model[*block] = *mark;
            }
            !done
        });
    }

    fn release_all(&self) {
        self.world.disks.iter().for_each(|disk| disk.release());
    }

    fn fail(&mut self) {
        let slot = self.random.below(2);
        self.release_all();
        let _ = self.world.hand.run(self.world.array.fail(slot));
    }

    /// Brings the failed member back, or a blank one in its place.
    fn add(&mut self) {
        let status = self.world.array.status();
        let Some(failed) = status.members.iter().find(|member| member.standing == Standing::Faulty) else { return };
        self.release_all();
        let label = failed.label.clone();
        let index = usize::from(label.as_bytes()[0] - b'a');
        if self.random.below(2) == 0 {
            self.world.disks[index] = MemDisk::new(DISK_BYTES);
        }
        self.spare += 1;
        let member = member(&self.world.disks[index], &label);
        self.world.hand.run(self.world.array.add(member, false, [self.spare; 16])).unwrap();
    }

    fn finish(mut self, seed: u64) {
        self.release_all();
        // A write takes several polls: its range, its bit, its data, the record of a failure.
        for _ in 0..10 {
            self.world.hand.turn();
            self.collect();
        }
        assert!(self.pending.is_empty(), "seed {seed}: a write never ended");
        self.world.settle();
        for member in self.world.array.status().members {
            assert_ne!(member.standing, Standing::Recovering, "seed {seed}");
            if member.standing == Standing::InSync {
                let disk = &self.world.disks[usize::from(member.label.as_bytes()[0] - b'a')];
                for (block, mark) in self.model.iter().enumerate() {
                    let found = byte_of(disk, place(block));
                    assert_eq!(found, *mark, "seed {seed}: block {block} of {}", member.label);
                }
            }
        }
    }
}

fn place(block: usize) -> u64 {
    block as u64 * 8192
}

#[test]
pub(super) fn members_in_sync_hold_what_was_acknowledged() {
    for seed in 0..SEEDS {
        let mut walk = Walk::new(seed);
        (0..STEPS).for_each(|_| walk.step());
        walk.finish(seed);
    }
}
