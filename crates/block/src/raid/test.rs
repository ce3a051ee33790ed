//! Tests of the running mirror; power cuts are in `test/cuts.rs`, resyncs in `test/fill.rs`.

mod apart;
mod away;
mod cuts;
mod fill;
mod hung;
mod pages;
#[cfg(feature = "sabotage")]
mod planted;
mod serve;
mod split;
mod stock;
mod survivor;
mod unknown;
mod unread;
mod used;
mod walk;

use super::*;
use crate::testing::{Hand, MemDisk, Seen};
use crate::{Durability, IoBuf};
use std::rc::Rc;
use units::{ByteLen, ByteOffset};

/// The data of these tests' members begins here: a small member's gap.
const DATA: usize = 16 << 20;
const DISK_BYTES: ByteLen = ByteLen(18 << 20);

/// Members, the array made of them, and the hand that moves time.
struct World {
    hand: Rc<Hand>,
    disks: Vec<Rc<MemDisk>>,
    array: Rc<Array>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.hand.end();
    }
}

fn member(disk: &Rc<MemDisk>, label: &str) -> Member {
    Member { disk: disk.disk(), label: label.to_owned() }
}

fn members(disks: &[Rc<MemDisk>]) -> Vec<Member> {
    disks.iter().zip(["a", "b", "c", "d"]).map(|(disk, label)| member(disk, label)).collect()
}

fn options() -> CreateOptions {
    CreateOptions {
        name: "pool".into(),
        id: ArrayId([5; 16]),
        unix_seconds: 1_800_000_000,
        wipe: false,
        assume_clean: true,
    }
}

fn start(start: Start) -> AssembleOptions {
    AssembleOptions { start, unix_seconds: 1_800_000_100 }
}

fn blank(count: usize) -> Vec<Rc<MemDisk>> {
    (0..count).map(|_| MemDisk::new(DISK_BYTES)).collect()
}

fn number_bytes() -> impl FnMut(&mut [u8]) {
    let mut next = 0;
    move |bytes: &mut [u8]| {
        next += 1;
        bytes.fill(next);
    }
}

impl World {
    fn new(count: usize) -> Self {
        Self::of(blank(count), options())
    }

    fn of(disks: Vec<Rc<MemDisk>>, options: CreateOptions) -> Self {
        let hand = Hand::new();
        let array = hand.run(create(options, members(&disks), &hand.rt(), &mut number_bytes())).unwrap();
        Self { hand, disks, array }
    }

    fn reopen(disks: Vec<Rc<MemDisk>>, how: Start) -> Result<Self, RaidError> {
        let hand = Hand::new();
        let array = hand.run(assemble(members(&disks), &hand.rt(), start(how)))?;
        Ok(Self { hand, disks, array })
    }

    fn write(&self, at: u64, mark: u8) -> Result<(), DeviceError> {
        let data = IoBuf::copy_of(&[mark; 4096]).freeze();
        self.hand.run(self.array.disk().write(ByteOffset(at), data, Durability::Cached))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.hand.run(self.array.disk().flush())
    }

    fn read(&self, at: u64) -> Result<u8, DeviceError> {
        self.hand.run(self.array.disk().read(ByteOffset(at), IoBuf::new(4096))).map(|bytes| bytes[0])
    }

    /// Lets background work go on until there is none, moving time.
    fn settle(&self) {
        for _ in 0..40 {
            self.hand.turn();
            self.hand.pass(1000);
        }
    }

    fn state(&self) -> ArrayState {
        self.array.status().state
    }

    fn standings(&self) -> Vec<Standing> {
        self.array.status().members.iter().map(|member| member.standing).collect()
    }
}

fn byte_of(disk: &MemDisk, at: u64) -> u8 {
    disk.live.borrow()[DATA + usize::try_from(at).unwrap()]
}

fn superblock_on(disk: &MemDisk) -> superblock::Superblock {
    let live = disk.durable.borrow();
    superblock::Superblock::decode(live[4096..8192].try_into().unwrap()).unwrap()
}

/// What a member's data begins with, as after reading it at its data offset.
fn data_of(disk: &MemDisk) -> Vec<u8> {
    disk.live.borrow()[DATA..DATA + (1 << 20)].to_vec()
}

/// Where the log has the first write of data at `at`, and whether the bitmap was written before.
fn data_write(disk: &MemDisk, at: u64) -> Option<usize> {
    let place = at + DATA as u64;
    disk.log.borrow().iter().position(|seen| matches!(seen, Seen::Write { at, .. } if *at == place))
}
