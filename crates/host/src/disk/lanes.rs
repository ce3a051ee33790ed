//! Who is next: the order in which the disks of one thread get the kernel.
//!
//! Invariant: a disk that hangs keeps only what its own budget let it have. What waits for one disk holds up no other, what
//! an array notes about itself ([`Lane::Metadata`]) waits behind no data, and neither waits behind flushes or long
//! changes of ranges. Within a lane, first come, first served. It does *not* know what an operation is.

use std::collections::VecDeque;

/// What kind of operation it is. Each has a budget of its own on each disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// What an array writes about itself: a member's failure must be on record before anything is answered.
    Metadata,
    /// Reads and writes.
    Data,
    /// The kernel does each in a thread of its own, and a disk that hangs keeps that.
    Flush,
    /// Discards and zeroes: rare, and long.
    Range,
}

const LANES: [Lane; 4] = [Lane::Metadata, Lane::Data, Lane::Flush, Lane::Range];

/// How many operations of each lane one disk may have under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget(pub [usize; LANES.len()]);

/// A disk here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskKey(usize);

/// One operation's part of a budget, given back by [`Lanes::ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub disk: DiskKey,
    pub lane: Lane,
}

/// What waits, disk by disk.
pub(super) struct Lanes<T> {
    disks: Vec<Option<Queues<T>>>,
    /// Which disk is asked first the next time.
    turn: usize,
}

struct Queues<T> {
    waiting: [VecDeque<T>; LANES.len()],
    running: [usize; LANES.len()],
    budget: Budget,
    closed: bool,
}

impl Budget {
    /// All of it.
    pub(super) fn total(self) -> usize {
        self.0.iter().sum()
    }
}

impl<T> Queues<T> {
    fn is_idle(&self) -> bool {
        self.running.iter().all(|&count| count == 0) && self.waiting.iter().all(VecDeque::is_empty)
    }

    fn room(&self, lane: Lane) -> usize {
        self.budget.0[lane as usize] - self.running[lane as usize]
    }

    fn next(&mut self) -> Option<(Lane, T)> {
        let lane = LANES.into_iter().find(|&lane| self.room(lane) > 0 && !self.waiting[lane as usize].is_empty())?;
        self.running[lane as usize] += 1;
        self.waiting[lane as usize].pop_front().map(|operation| (lane, operation))
    }
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { disks: Vec::new(), turn: 0 }
    }
}

impl<T> Lanes<T> {
    /// A new disk.
    pub(super) fn open(&mut self, budget: Budget) -> DiskKey {
        let queues = Some(Queues { waiting: Default::default(), running: [0; LANES.len()], budget, closed: false });
        if let Some(free) = self.disks.iter().position(Option::is_none) {
            self.disks[free] = queues;
            return DiskKey(free);
        }
        self.disks.push(queues);
        DiskKey(self.disks.len() - 1)
    }

    /// No more comes for this disk; what waits and what runs still ends.
    pub(super) fn close(&mut self, disk: DiskKey) {
        self.queues(disk).closed = true;
        self.forget_if_done(disk);
    }

    /// An operation has come.
    pub(super) fn push(&mut self, Share { disk, lane }: Share, operation: T) {
        self.queues(disk).waiting[lane as usize].push_back(operation);
    }

    /// The next operation that may run now. Disks take turns, so that a busy one does not keep the others waiting.
    pub(super) fn next(&mut self) -> Option<(Share, T)> {
        let count = self.disks.len();
        for offset in 0..count {
            let index = (self.turn + offset) % count;
            if let Some((lane, operation)) = self.disks[index].as_mut().and_then(Queues::next) {
                self.turn = index + 1;
                return Some((Share { disk: DiskKey(index), lane }, operation));
            }
        }
        None
    }

    /// An operation has ended.
    ///
    /// # Panics
    /// If none of this kind was running.
    pub(super) fn ended(&mut self, Share { disk, lane }: Share) {
        let running = &mut self.queues(disk).running[lane as usize];
        *running = running.checked_sub(1).expect("only what was begun ends");
        self.forget_if_done(disk);
    }

    /// How many could run now.
    pub(super) fn ready(&self) -> usize {
        let of = |queues: &Queues<T>| -> usize {
            LANES.into_iter().map(|lane| queues.room(lane).min(queues.waiting[lane as usize].len())).sum()
        };
        self.disks.iter().flatten().map(of).sum()
    }

    /// How many may run at once, if every disk hangs.
    pub(super) fn budget(&self) -> usize {
        self.disks.iter().flatten().map(|queues| queues.budget.total()).sum()
    }

    /// Whether nothing waits and nothing runs.
    pub(super) fn is_idle(&self) -> bool {
        self.disks.iter().flatten().all(Queues::is_idle)
    }

    fn queues(&mut self, disk: DiskKey) -> &mut Queues<T> {
        self.disks[disk.0].as_mut().expect("a disk stays until it was closed and all of it has ended")
    }

    fn forget_if_done(&mut self, disk: DiskKey) {
        let queues = self.queues(disk);
        if queues.closed && queues.is_idle() {
            self.disks[disk.0] = None;
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const SMALL: Budget = Budget([1, 2, 1, 1]);

    fn push(lanes: &mut Lanes<u32>, disk: DiskKey, lane: Lane, operations: std::ops::Range<u32>) {
        operations.for_each(|operation| lanes.push(Share { disk, lane }, operation));
    }

    fn all(lanes: &mut Lanes<u32>) -> Vec<u32> {
        std::iter::from_fn(|| lanes.next()).map(|(_, operation)| operation).collect()
    }

    /// DA3: what one disk has under way or waiting takes nothing from another, nor from its own metadata. Method: one with
    /// more of everything than its budget, that never answers; then one operation of each kind on another.
    #[test]
    fn a_disk_that_answers_nothing_keeps_its_own_budget_only() {
        let mut lanes = Lanes::default();
        let (hung, other) = (lanes.open(SMALL), lanes.open(SMALL));
        push(&mut lanes, hung, Lane::Data, 0..10);
        push(&mut lanes, hung, Lane::Flush, 10..20);
        push(&mut lanes, hung, Lane::Range, 20..30);
        assert_eq!((lanes.ready(), lanes.budget()), (4, 10));
        assert_eq!(all(&mut lanes), [0, 1, 10, 20]);
        push(&mut lanes, hung, Lane::Metadata, 30..32);
        assert_eq!(all(&mut lanes), [30]);
        for (number, lane) in (100..).zip(LANES) {
            push(&mut lanes, other, lane, number..number + 1);
        }
        assert_eq!(all(&mut lanes), [100, 101, 102, 103]);
        assert_eq!(lanes.ready(), 0);
        lanes.ended(Share { disk: hung, lane: Lane::Data });
        assert_eq!(all(&mut lanes), [2]);
    }

    #[test]
    fn metadata_comes_first_and_disks_take_turns() {
        let mut lanes = Lanes::default();
        let (one, two) = (lanes.open(Budget([9; 4])), lanes.open(Budget([9; 4])));
        push(&mut lanes, one, Lane::Data, 0..3);
        push(&mut lanes, one, Lane::Metadata, 3..4);
        push(&mut lanes, two, Lane::Data, 4..6);
        assert_eq!(all(&mut lanes), [3, 4, 0, 5, 1, 2]);
    }

    #[test]
    fn a_closed_disk_is_forgotten_when_all_of_it_has_ended() {
        let mut lanes = Lanes::default();
        let (first, second) = (lanes.open(SMALL), lanes.open(SMALL));
        push(&mut lanes, first, Lane::Data, 0..3);
        let shares: Vec<Share> = std::iter::from_fn(|| lanes.next()).map(|(share, _)| share).collect();
        lanes.close(first);
        shares.into_iter().for_each(|share| lanes.ended(share));
        assert!(!lanes.is_idle());
        let (share, operation) = lanes.next().unwrap();
        assert_eq!(operation, 2);
        lanes.ended(share);
        assert!(lanes.is_idle());
        assert_eq!(lanes.open(SMALL), first, "its place is free again");
        assert_ne!(second, first);
    }
}
