//! What a target tells about itself. Reports are snapshots: nothing decides by them.

use crate::control::Owner;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use units::{ArrayId, ByteLen, Epoch, HostKey, Incarnation, Millis, Mode, PoolName, VolumeId, VolumeName};

/// Everything at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The program's version.
    pub version: String,
    /// How long it has run.
    pub up: Millis,
    /// Its pools.
    pub pools: Vec<PoolReport>,
    /// Its volumes.
    pub volumes: Vec<VolumeReport>,
    /// Who is attached.
    pub sessions: Vec<SessionReport>,
    /// What keeps it from its work besides, in sentences: an address it cannot listen on.
    #[serde(default)]
    pub troubles: Vec<String>,
}

/// An initiator at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitiatorReport {
    /// The program's version.
    pub version: String,
    /// How long it has run.
    pub up: Millis,
    /// The VM's disks.
    pub volumes: Vec<HeldReport>,
}

/// One disk of a VM, as its initiator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldReport {
    /// Its name.
    pub volume: VolumeName,
    /// How it is.
    pub state: HeldState,
    /// How long it has waited for a path, if it does.
    pub waiting: Option<Millis>,
    /// How long ago the newest question was asked that the target answered at this epoch: then, at the earliest, the
    /// volume was still this host's.
    #[serde(default)]
    pub heard: Option<Millis>,
    /// The epoch it attaches at.
    pub epoch: Epoch,
    /// The last incarnation it took.
    pub incarnation: Incarnation,
    /// Connections made so far.
    pub sessions: u64,
    /// Answered and not yet durable at the target.
    pub unflushed: ByteLen,
    /// Ranges written again after reconnects, in total.
    pub rewritten: u64,
    /// Why the last connection ended or the last attempt failed.
    pub reason: Option<String>,
    /// Its ways to the target, in the order of its configuration.
    #[serde(default)]
    pub paths: Vec<PathReport>,
}

/// A way from an initiator to its target: one portal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// Where the target listens on it.
    pub portal: SocketAddr,
    /// The session goes over it, or went last.
    pub used: bool,
    /// Why it could not be used when it was tried last; none: it could, or was not tried yet.
    pub reason: Option<String>,
}

/// How a held disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldState {
    /// Has not been attached yet.
    Opening,
    /// No path: the guest waits.
    Waiting,
    /// Served.
    Up,
    /// Its epoch is over for good.
    Fenced,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    /// Its name.
    pub pool: PoolName,
    /// The array's identity, if it is known.
    pub array: Option<ArrayId>,
    /// How it is.
    pub state: PoolState,
    /// Why it is like that, when that is not plain.
    pub reason: Option<String>,
    /// What a person should know of it besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Room for volumes in all; zero while that is not known.
    pub size: ByteLen,
    /// Room left.
    pub free: ByteLen,
    /// Its members, in the array's order.
    pub members: Vec<MemberReport>,
    /// A resync in progress.
    pub resync: Option<WorkReport>,
}

/// How a pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolState {
    /// All members in sync.
    Healthy,
    /// Serving, with fewer members than it should have.
    Degraded,
    /// Serving, while a member is brought up to date.
    Recovering,
    /// Not serving: too few members, or it cannot be assembled.
    Failed,
    /// Not serving because it was told so.
    Stopped,
}

/// One member of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Where it is, or was last seen.
    pub path: String,
    /// Its place in the array.
    pub slot: Option<u32>,
    /// How it is.
    pub state: MemberState,
}

/// How a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// Holds everything.
    InSync,
    /// Is being brought up to date.
    Recovering,
    /// Out of use for good.
    Failed,
    /// Not there.
    Missing,
    /// There, without a place.
    Spare,
}

/// Long work in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkReport {
    /// How far.
    pub done: ByteLen,
    /// Of what.
    pub total: ByteLen,
    /// How long it will still take, once that can be guessed.
    pub left: Option<Millis>,
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// Its name; one that stock tools gave it need not be a [`VolumeName`].
    pub volume: String,
    /// Its identity.
    pub id: VolumeId,
    /// Where it lives.
    pub pool: PoolName,
    /// How long it is.
    pub size: ByteLen,
    /// Whether it is served.
    pub state: ServeState,
    /// Why it is not, when that is not plain.
    pub reason: Option<String>,
    /// Its effective epoch.
    pub epoch: Epoch,
    /// How many sessions are open.
    pub sessions: u32,
    /// Zeroing of a new volume in progress.
    pub zeroing: Option<WorkReport>,
}

/// Whether a volume is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServeState {
    /// To whom the grant names.
    Serving,
    /// A raise waits for older operations to end.
    Raising,
    /// Nobody until a floor, an override or a missing member comes.
    BlockedFloor,
    /// A raise waits for an operation that hangs on the last good member.
    BlockedFence,
    /// The grant could not be made durable.
    BlockedStore,
    /// It is being made.
    Zeroing,
    /// Its pool does not serve.
    Offline,
}

/// One attached session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// Of which volume.
    pub volume: VolumeName,
    /// Who.
    pub host: HostKey,
    /// From where.
    pub peer: String,
    /// At which epoch.
    pub epoch: Epoch,
    /// In which life.
    pub incarnation: Incarnation,
    /// What it may do.
    pub mode: Mode,
    /// Requests started and not answered.
    pub in_flight: u32,
    /// Requests answered.
    pub answered: u64,
}

/// A volume's grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantReport {
    /// Of which volume.
    pub volume: VolumeName,
    /// The effective epoch.
    pub epoch: Epoch,
    /// The epoch that was granted; lower while nobody owns the effective one yet.
    pub granted: Epoch,
    /// Who owns it.
    pub owners: Vec<Owner>,
    /// The promised next epoch.
    pub reservation: Option<ReservationReport>,
    /// Whether several may write.
    pub shared: bool,
    /// Whether it is served.
    pub state: ServeState,
    /// Why it is not, when that is not plain.
    pub reason: Option<String>,
    /// The operator's word that opened it while its floor was not known.
    pub overridden: Option<String>,
}

/// A promise of a higher epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationReport {
    /// Which.
    pub epoch: Epoch,
    /// To whom.
    pub host: HostKey,
}

impl PoolState {
    /// As people say it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Recovering => "recovering",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl PoolReport {
    /// A pool of which only the state is known, and why.
    #[must_use]
    pub fn without_members(pool: PoolName, state: PoolState, reason: &str) -> Self {
        let reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
        let (size, free) = (ByteLen(0), ByteLen(0));
        Self { pool, array: None, state, reason, note: None, size, free, members: Vec::new(), resync: None }
    }
}
