//! Pools and volumes: what the storage machines protect and serve.

use crate::schema::{message, words};
use units::{NodeName, PoolName, VmName, VolumeName};

words! {
    /// How a pool is.
    pub enum PoolState {
        /// All members in sync.
        Healthy = "healthy",
        /// Serving, with fewer members than it should have.
        Degraded = "degraded",
        /// Serving, while a member is brought up to date.
        Recovering = "recovering",
        /// Not serving: too few members, or it cannot be assembled.
        Failed = "failed",
        /// Not serving because it was told so.
        Stopped = "stopped",
        /// Its machine does not answer.
        Unknown = "unknown",
    }
}

words! {
    /// How a volume is.
    pub enum VolumeState {
        /// Served to whom its grant names.
        Serving = "serving",
        /// A raise waits for older operations to end.
        Raising = "raising",
        /// Serves nobody; the reason says what it waits for.
        Blocked = "blocked",
        /// It is being made.
        Zeroing = "zeroing",
        /// Its pool does not serve.
        Down = "down",
        /// Its machine does not answer.
        Unknown = "unknown",
    }
}

message! {
    /// Long work in progress, in bytes.
    pub struct Progress {
        /// How far.
        pub done: u64,
        /// Of how much.
        pub total: u64,
        /// How long it will still take in milliseconds, once that can be guessed.
        pub left_ms: Option<u64>,
    }
}

message! {
    /// One member disk of a pool.
    pub struct PoolMember {
        /// Where it is on its machine, or was last seen.
        pub path: String,
        /// Its place in the array.
        pub slot: Option<u64>,
        /// `in-sync`, `recovering`, `failed`, `missing` or `spare`.
        pub state: String,
    }
}

message! {
    /// A pool: a redundant array with a volume group on it.
    pub struct Pool {
        /// Its name.
        pub name: PoolName,
        /// The machine that has its disks.
        pub node: NodeName,
        /// How it is.
        pub state: PoolState,
        /// Why it is like that, when that is not plain.
        pub reason: Option<String>,
        /// What a person should know of it besides.
        pub note: Option<String>,
        /// Room for volumes in all, in bytes; none while that is not known.
        pub size: Option<u64>,
        /// Room left, in bytes; none while that is not known.
        pub free: Option<u64>,
        /// Its members, in the array's order.
        pub members: Vec<PoolMember>,
        /// A resync in progress.
        pub resync: Option<Progress>,
    }
}

message! {
    /// All pools.
    pub struct PoolList {
        /// By name.
        pub pools: Vec<Pool>,
    }
}

message! {
    /// Asks for a pool: a mirror of these disks with an empty volume group on it.
    #[serde(deny_unknown_fields)]
    pub struct PoolCreateRequest {
        /// Its name.
        pub name: PoolName,
        /// The machine that has the disks; without it the only one with role storage.
        pub node: Option<NodeName>,
        /// Paths of block devices or files on that machine.
        pub members: Vec<String>,
        /// Use them even if they hold something.
        #[serde(default)]
        pub wipe: bool,
        /// One disk is enough: no mirror.
        #[serde(default)]
        pub single: bool,
    }
}

message! {
    /// Puts a disk in the place of one that failed or is missing; a resync follows. A member that failed is taken back with what
    /// was written since.
    #[serde(deny_unknown_fields)]
    pub struct PoolAddRequest {
        /// The path of the disk.
        pub disk: String,
        /// Use it even if it holds something.
        #[serde(default)]
        pub wipe: bool,
    }
}

message! {
    /// Puts a new disk in the place of another; a resync follows.
    #[serde(deny_unknown_fields)]
    pub struct PoolReplaceRequest {
        /// The path of the member that goes; it may have failed or be missing.
        pub old: String,
        /// The path of the disk that comes.
        pub new: String,
        /// Use the new disk even if it holds something.
        #[serde(default)]
        pub wipe: bool,
    }
}

message! {
    /// Starts a pool that is not assembled.
    #[serde(deny_unknown_fields)]
    pub struct PoolStartRequest {
        /// Where to look besides the paths known already.
        #[serde(default)]
        pub members: Vec<String>,
        /// Start although members are missing that may hold newer data: what only they hold is lost for good.
        #[serde(default)]
        pub degraded: bool,
    }
}

message! {
    /// A volume: what a VM sees as a disk.
    pub struct Volume {
        /// Its name.
        pub name: VolumeName,
        /// The pool that it lives on.
        pub pool: PoolName,
        /// The machine that serves it.
        pub node: NodeName,
        /// How long it is, in bytes.
        pub size: u64,
        /// How it is.
        pub state: VolumeState,
        /// Why it does not serve, when that is not plain.
        pub reason: Option<String>,
        /// Its epoch at the target.
        pub epoch: u64,
        /// The VM that it belongs to.
        pub vm: Option<VmName>,
        /// Sessions that are open.
        pub sessions: u64,
        /// Zeroing of a new volume in progress.
        pub zeroing: Option<Progress>,
    }
}

message! {
    /// A volume that a pool has and the cluster does not serve: stock tools made it, or another store.
    pub struct OtherVolume {
        /// Its name, which need not be possible in muskox.
        pub name: String,
        /// The pool that it lives on.
        pub pool: PoolName,
        /// The machine that has it.
        pub node: NodeName,
        /// How long it is, in bytes.
        pub size: u64,
        /// Why it is not served.
        pub reason: String,
    }
}

message! {
    /// All volumes.
    pub struct VolumeList {
        /// By name.
        pub volumes: Vec<Volume>,
        /// What the pools have besides.
        pub others: Vec<OtherVolume>,
    }
}

message! {
    /// Asks for a volume.
    #[serde(deny_unknown_fields)]
    pub struct VolumeCreateRequest {
        /// Its name, unique in the cluster.
        pub name: VolumeName,
        /// On which pool; without it the only one.
        pub pool: Option<PoolName>,
        /// How long, in bytes; rounded up to whole extents.
        pub size: u64,
    }
}
