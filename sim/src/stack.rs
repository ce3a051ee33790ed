//! The production block stack on fake disks: the few calls that the world and the crash harness share.

use crate::disk::{Model, Queue, SimDisk};
use crate::executor::{Executor, Process};
use crate::memory::BoxMemory;
use crate::rng::Rng;
use block::gate::Laggards;
use block::raid::superblock::{FEATURE_RECOVERY, SUPERBLOCK_BYTES, Superblock};
use block::raid::{
    self, Array, ArrayState, AssembleOptions, CreateOptions, Member, MemberStatus, RaidError, Standing, Start,
};
use block::runtime::Rt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use units::{ArrayId, ByteLen, Moment};

/// Where an array's data begins on members below 16 GiB (`block::raid::layout`).
pub const DATA_OFFSET: u64 = 16 << 20;
/// A member: twelve mebibytes of data are 192 chunks of the bitmap, few enough to fill, enough to find one unmarked, and
/// room for two extents of a volume group.
pub const MODEL: Model = Model::plain(ByteLen::mib(28));
/// A wall clock that stands still: 2026-01-01.
const UNIX_SECONDS: u64 = 1_767_225_600;

/// A data-plane thread: a process, and the way of its operations to the kernel.
#[derive(Clone)]
pub struct Thread {
    /// What is killed.
    pub process: Process,
    /// As the code under test takes it.
    pub rt: Rt,
    queue: Rc<Queue>,
}

impl Thread {
    /// A new process with one thread.
    #[must_use]
    pub fn new(exec: &Executor) -> Self {
        let process = exec.process();
        Self { rt: Rc::new(process.clone()), process, queue: Rc::default() }
    }

    /// A disk as the array takes it; the label is how it is found again in a status.
    ///
    /// # Errors
    /// The disk is not there, or somebody has it.
    pub fn member(&self, disk: &Rc<SimDisk>) -> Result<Member, RaidError> {
        let label = disk.number.to_string();
        match disk.open(&self.process, &self.queue) {
            Ok(disk) => Ok(Member { disk, label }),
            Err(source) => Err(RaidError::Disk { label, source }),
        }
    }
}

/// Makes an array of blank disks, remembered by the box.
///
/// # Errors
/// What the array says.
pub async fn create(
    thread: &Thread,
    disks: &[Rc<SimDisk>],
    memory: &Rc<BoxMemory>,
    rng: &mut Rng,
) -> Result<Rc<Array>, RaidError> {
    let options = CreateOptions {
        name: "sim".to_owned(),
        id: ArrayId([5; 16]),
        unix_seconds: UNIX_SECONDS,
        wipe: false,
        assume_clean: true,
    };
    let mut random = |bytes: &mut [u8]| {
        for byte in bytes {
            *byte = rng.word().to_le_bytes()[0];
        }
    };
    let members = disks.iter().map(|disk| thread.member(disk)).collect::<Result<_, _>>()?;
    let array = raid::create(options, members, &thread.rt, &mut random).await?;
    array.watch_by(memory.witness()).await?;
    Ok(array)
}

/// Starts the array on the disks that are there, as a box does by itself: with fewer only if it remembers one of them.
///
/// # Errors
/// What the array says.
pub async fn assemble(thread: &Thread, disks: &[Rc<SimDisk>], memory: &Rc<BoxMemory>) -> Result<Rc<Array>, RaidError> {
    let options = AssembleOptions { start: Start::Witnessed, unix_seconds: UNIX_SECONDS };
    let members = disks.iter().filter_map(|disk| thread.member(disk).ok()).collect();
    raid::assemble_witnessed(members, &thread.rt, options, memory.witness()).await
}

/// The disks whose members stand like this.
fn standing(array: &Array, wanted: impl Fn(Standing) -> bool) -> Vec<usize> {
    let members = array.status().members.into_iter().filter(|member| wanted(member.standing));
    members.map(|member| member.label.parse().expect("labels are numbers of disks")).collect()
}

/// The disks that are in sync.
#[must_use]
pub fn in_sync(array: &Array) -> Vec<usize> {
    standing(array, |standing| standing == Standing::InSync)
}

/// The disks that get writes.
#[must_use]
pub fn at_work(array: &Array) -> Vec<usize> {
    standing(array, |standing| standing != Standing::Faulty)
}

/// Whether every slot is in sync and nothing is to be copied.
#[must_use]
pub fn is_whole(array: &Array) -> bool {
    matches!(array.status().state, ArrayState::Clean | ArrayState::Active)
}

/// Whether something is still to be copied. An array with a member missing calls itself degraded, whatever it copies.
#[must_use]
pub fn is_filling(array: &Array) -> bool {
    let lacks = |member: &MemberStatus| member.standing == Standing::Recovering || member.lacking > ByteLen(0);
    array.status().members.iter().any(|member| member.standing != Standing::Faulty && lacks(member))
}

/// Puts a disk in. A disk of this array is taken as it is; its identity, if it needs a new one, is its number.
///
/// # Errors
/// What the array says.
pub async fn add(thread: &Thread, array: &Array, disk: &Rc<SimDisk>, wipe: bool) -> Result<usize, RaidError> {
    let device = u8::try_from(disk.number).expect("few disks") + 100;
    array.add(thread.member(disk)?, wipe, [device; 16]).await
}

/// Fails the member on a disk.
///
/// # Errors
/// What the array says.
pub async fn fail(array: &Array, disk: usize) -> Result<(), RaidError> {
    let members = array.status().members;
    match members.iter().find(|member| member.label == disk.to_string()) {
        Some(member) => array.fail(member.slot).await,
        None => Ok(()),
    }
}

/// Fails who hangs, as the gate wants it said.
///
/// # Errors
/// What the array says, but for the last member and the box's memory, which are answers.
pub async fn fail_laggards(array: &Array, older_than: Moment) -> Result<Laggards, RaidError> {
    match array.fail_laggards(older_than).await {
        Ok(()) => Ok(Laggards::Failed),
        Err(RaidError::LastMember(_)) => Ok(Laggards::LastMember),
        Err(RaidError::Unrecorded(_)) => Ok(Laggards::Unrecorded),
        Err(error) => Err(error),
    }
}

/// The superblock that a power cut would leave.
#[must_use]
pub fn durable_superblock(disk: &SimDisk) -> Option<Superblock> {
    const AT: usize = 4096;
    let mut bytes = [0; SUPERBLOCK_BYTES];
    disk.media().durable().read(AT, &mut bytes);
    Superblock::decode(&bytes).ok()
}

/// Whether the disk's own superblock says, durably, that it is not being filled.
#[must_use]
pub fn says_in_sync(disk: &SimDisk) -> bool {
    durable_superblock(disk).is_some_and(|superblock| !superblock.has(FEATURE_RECOVERY))
}

/// Runs two futures to their ends, at the same time.
pub async fn both(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let mut left = [true, true];
    poll_fn(|cx| {
        left[0] = left[0] && first.as_mut().poll(cx).is_pending();
        left[1] = left[1] && second.as_mut().poll(cx).is_pending();
        if left == [false, false] { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
