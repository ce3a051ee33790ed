//! The target under test: the production array and gate, in a process of the box.
//!
//! Everything here runs the real code; what is ours is only the joining that the data plane does as well: members from
//! disks, a [`GrantStore`] over the array's facts, a gate over the array.

use super::World;
use crate::checkers::Witness;
use crate::disk::SimDisk;
use crate::executor::Process;
use crate::rng::Rng;
use crate::stack::{self, Thread};
use block::gate::{
    Attachment, Claim, Declined as GateDeclined, Found, GatedVolume, GrantStore, Laggards, Parts, Refused, Request,
};
use block::raid::superblock::Role;
use block::raid::{Array, RaidError};
use block::volume::{EXTENT_LEN, Existing, GroupIds, VolumeError, VolumeGroup};
use block::{DeviceError, Disk, IoFuture};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use units::{ByteLen, Epoch, HostKey, Incarnation, Mode, Moment, VolumeId};

const VOLUME: VolumeId = VolumeId([7; 16]);

/// Where a group's extents begin on its disk.
const VOLUME_AT: u64 = 1 << 20;

/// How a target starts.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// This disk is not there.
    pub absent: Option<usize>,
    /// What the store says, if it is within reach.
    pub floor: Option<Epoch>,
}

/// Why an attach was refused, as far as a host cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// This epoch or incarnation is over.
    ForEver,
    /// It may work later.
    Later,
}

/// Why a raise was declined, as far as a manager cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declined {
    /// The epoch is over, or was granted to others.
    ForEver(String),
    /// It may work later.
    Later,
}

/// A session as a host holds it.
pub struct Session(RefCell<Option<Rc<block::gate::Session>>>);

/// A running target.
pub struct Target {
    thread: Thread,
    array: Rc<Array>,
    gate: GatedVolume,
    disks: Vec<Rc<SimDisk>>,
    /// Where the volume begins on each disk.
    start: u64,
    floor_known: Cell<bool>,
}

impl Target {
    /// Makes a new array of all disks and serves a volume on it.
    pub async fn create(world: &World, thread: Thread, rng: &mut Rng) -> Rc<Self> {
        let members = &world.disks[..world.knobs.slots];
        let array = stack::create(&thread, members, &world.memory, rng).await.expect("blank disks become an array");
        if world.knobs.group {
            make_volume(&thread, &array).await.expect("good disks");
        }
        Self::serve(world, thread, array, Some(Epoch(0))).await.expect("what was just made")
    }

    /// Starts on the disks that are there; the error is for people.
    pub async fn start(world: &World, thread: Thread, start: Start) -> Result<Rc<Self>, String> {
        let there = |disk: &&Rc<SimDisk>| Some(disk.number) != start.absent && disk.manners.get().broken.is_none();
        let disks: Vec<_> = world.disks.iter().filter(there).cloned().collect();
        let array = stack::assemble(&thread, &disks, &world.memory).await.map_err(|error| error.to_string())?;
        Self::serve(world, thread, array, start.floor).await
    }

    async fn serve(world: &World, thread: Thread, array: Rc<Array>, floor: Option<Epoch>) -> Result<Rc<Self>, String> {
        let disk = if world.knobs.group {
            let group = VolumeGroup::open(&thread.rt, &array.disk()).await;
            group.and_then(|mut group| group.volume(VOLUME)).map_err(|error| error.to_string())?
        } else {
            array.disk()
        };
        let facts = array.facts();
        let found = Found { records: facts.load().remove(&VOLUME).into_iter().collect(), complete: facts.complete() };
        let parts = Parts {
            id: VOLUME,
            name: "sim".parse().expect("a good name"),
            disk,
            store: Rc::new(Grants(Rc::clone(&array))),
            rt: Rc::clone(&thread.rt),
        };
        let gate = GatedVolume::open(parts, &found, floor);
        let disks = world.disks.clone();
        let start = stack::DATA_OFFSET + if world.knobs.group { VOLUME_AT } else { 0 };
        Ok(Rc::new(Self { thread, array, gate, disks, start, floor_known: Cell::new(floor.is_some()) }))
    }

    /// The process it runs in.
    pub fn process(&self) -> &Process {
        &self.thread.process
    }

    /// Lets a host in.
    pub async fn attach(&self, host: u8, epoch: Epoch, incarnation: Incarnation) -> Result<Session, Denied> {
        let attachment = Attachment { host: key(host), epoch, incarnation, mode: Mode::Rw };
        self.let_in(Request::Exact(attachment)).await
    }

    /// Lets a stock client of a host in.
    pub async fn attach_stock(&self, host: u8) -> Result<Session, Denied> {
        self.let_in(Request::Stock { host: key(host), mode: Mode::Rw }).await
    }

    async fn let_in(&self, request: Request) -> Result<Session, Denied> {
        match self.gate.attach(request).await {
            Ok(session) => Ok(Session(RefCell::new(Some(session)))),
            Err(refusal) => match refusal.why {
                Refused::OldEpoch { .. } | Refused::OldIncarnation { .. } | Refused::NotGranted { .. } => {
                    Err(Denied::ForEver)
                }
                _ => Err(Denied::Later),
            },
        }
    }

    /// Grants `epoch` to `host` alone.
    pub async fn raise(&self, epoch: Epoch, host: u8) -> Result<(), Declined> {
        let claim = Claim { epoch, shared: false, owners: vec![(key(host), Mode::Rw)] };
        self.gate.raise(claim).await.map_err(|why| match why {
            GateDeclined::Blocked(_) | GateDeclined::StoreFailed { .. } | GateDeclined::TooMany { .. } => {
                Declined::Later
            }
            why => Declined::ForEver(why.to_string()),
        })
    }

    /// Promises `epoch` to `host`.
    pub async fn reserve(&self, epoch: Epoch, host: u8) -> Result<(), Declined> {
        self.gate.reserve(epoch, key(host)).await.map_err(|why| Declined::ForEver(why.to_string()))
    }

    /// Whether the store was heard since the start.
    pub fn knows_floor(&self) -> bool {
        self.floor_known.get()
    }

    /// The store is within reach again.
    pub fn floor(&self, epoch: Epoch) {
        self.floor_known.set(true);
        self.gate.floor(epoch);
    }

    /// Where the gate stands.
    pub fn epoch(&self) -> Epoch {
        self.gate.status().epoch
    }

    /// Whether every slot is in sync and nothing is to be copied.
    pub fn is_whole(&self) -> bool {
        stack::is_whole(&self.array)
    }

    /// Whether something is being copied to a member.
    pub fn is_filling(&self) -> bool {
        stack::is_filling(&self.array)
    }

    /// The disks that work in the array.
    pub fn at_work(&self) -> Vec<usize> {
        stack::at_work(&self.array)
    }

    /// Puts a disk into the array; what it refuses is for people.
    pub async fn add(&self, disk: usize, wipe: bool) -> Result<usize, String> {
        stack::add(&self.thread, &self.array, &self.disks[disk], wipe).await.map_err(|error| error.to_string())
    }

    /// Everything, for people.
    pub fn describe(&self) -> String {
        let status = self.array.status();
        let members: Vec<_> =
            status.members.iter().map(|member| format!("{} {:?}", member.label, member.standing)).collect();
        let blocked = status.resync_blocked.unwrap_or_default();
        format!("{:?} {members:?} {blocked} / {}", status.state, self.gate.status())
    }
}

impl Witness for Target {
    fn in_sync(&self) -> Option<Vec<bool>> {
        let in_sync = stack::in_sync(&self.array);
        self.thread.process.alive().then(|| self.disks.iter().map(|disk| in_sync.contains(&disk.number)).collect())
    }

    fn recorded_failed(&self, disk: usize) -> bool {
        let Some(number) = stack::durable_superblock(&self.disks[disk]).map(|superblock| superblock.number) else {
            return true; // It has no superblock any more: nobody takes it for a member.
        };
        let in_sync = stack::in_sync(&self.array);
        let others = self.disks.iter().filter(|other| other.number != disk && in_sync.contains(&other.number));
        others
            .filter_map(|other| stack::durable_superblock(other))
            .all(|superblock| superblock.role_of(number) == Role::Faulty)
    }

    fn data_offset(&self) -> u64 {
        self.start
    }
}

impl Session {
    /// As a disk. A closed session is never asked.
    pub fn disk(&self) -> Disk {
        self.0.borrow().as_ref().expect("asked only while it is open").disk()
    }

    /// What it was admitted as.
    pub fn attachment(&self) -> Attachment {
        self.0.borrow().as_ref().expect("asked only while it is open").attachment()
    }

    /// The client has sent something.
    pub fn heard(&self) {
        if let Some(session) = &*self.0.borrow() {
            session.heard();
        }
    }

    /// The connection is gone. What it started below goes on.
    pub fn close(&self) {
        let session = self.0.borrow_mut().take();
        drop(session);
    }
}

/// Makes the volume: two extents at the beginning of a new group.
async fn make_volume(thread: &Thread, array: &Array) -> Result<(), VolumeError> {
    const NOW: u64 = 1_767_225_600;
    let ids = GroupIds { group: [1; 16], physical: [2; 16] };
    let (pool, name) = ("pool".parse().expect("a good name"), "sim".parse().expect("a good name"));
    let mut group = VolumeGroup::create(&thread.rt, &array.disk(), &pool, ids, Existing::Refuse, NOW).await?;
    group.create_volume(&name, VOLUME, ByteLen(2 * EXTENT_LEN.0), NOW).await?;
    let zeroed = group.zeroing(VOLUME)?.run(|_| ()).await?;
    group.publish(zeroed, NOW).await.map(|_| ())
}

/// The array's facts as the gate's durable place.
pub(crate) struct Grants(pub Rc<Array>);

impl GrantStore for Grants {
    fn store(&self, volume: VolumeId, record: &[u8]) -> IoFuture<()> {
        let (facts, record) = (self.0.facts(), record.to_vec());
        IoFuture::later(async move { facts.store(volume, &record).await.map_err(|error| device_error(&error)) })
    }

    fn fail_laggards(&self, older_than: Moment) -> IoFuture<Laggards> {
        let array = Rc::clone(&self.0);
        IoFuture::later(
            async move { stack::fail_laggards(&array, older_than).await.map_err(|error| device_error(&error)) },
        )
    }
}

fn device_error(error: &RaidError) -> DeviceError {
    match error {
        RaidError::Broken(error) | RaidError::Disk { source: error, .. } => *error,
        _ => DeviceError::Closed,
    }
}

fn key(host: u8) -> HostKey {
    HostKey([host + 1; 32])
}
