//! The messages. An unknown word is refused, an unknown field is passed over, a field that came later has a default: both
//! ends are the same version, or one is updated first. A guest's state that is not known is [`Guest::Unknown`].

use super::Brief;
use crate::past::{Kept, ToKeep};
use crate::secret::Secret;
use api::{NodeList, Problem};
use cluster::job::{Action, Guest, Order};
use cluster::lease::LeaseTiming;
use cluster::migrate::Measured;
use cluster::store::Revision;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use units::{ByteLen, Epoch, HostKey, Millis, NodeName, VmName, VolumeName};
use wire::control;

/// What is asked of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Ask {
    /// Of a host: carry out an action of a job. Answered at once with how things are; changes are told.
    Act(Box<Act>),
    /// Of a storage machine: ask its target.
    Target {
        /// What.
        request: control::Request,
    },
    /// Of any machine: what it is and has.
    Look,
    /// Of a host: take over what runs of a VM that it cannot tell about, as the store says it is.
    Adopt(Box<Adopt>),
    /// Of a host: end whatever runs of a VM that it cannot tell about, and what is kept of it.
    Forget {
        /// Which.
        vm: VmName,
    },
    /// Of the machine with the store: a guest of this host changed.
    Tell(Tell),
    /// Of the machine with the store, every second: how everything is here; answered with how it should be.
    Sync(Box<SyncReport>),
    /// Of the machine with the store: this machine wants to fill a volume that is nobody's.
    Claim {
        /// Which.
        volume: VolumeName,
        /// Which user of that machine asked for it.
        #[serde(default)]
        user: Option<u32>,
    },
    /// Of the machine with the store: this machine is done with it.
    Release {
        /// Which.
        volume: VolumeName,
        /// The claim's epoch; a later claim is not touched.
        epoch: Epoch,
    },
    /// Of the machine with the store: what this machine has claimed, also in a former life.
    Claims,
    /// Of any machine: whether it fills this volume right now.
    Filling {
        /// Which.
        volume: VolumeName,
    },
}

impl Ask {
    /// Whether only the machine with the store may ask for it: an order, or what is told to nobody else. A member that is
    /// in a stranger's hands must not destroy a guest or raise an epoch elsewhere.
    #[must_use]
    pub const fn is_the_stores(&self) -> bool {
        match self {
            Self::Act(_)
            | Self::Target { .. }
            | Self::Look
            | Self::Adopt(_)
            | Self::Forget { .. }
            | Self::Filling { .. } => true,
            Self::Tell(_) | Self::Sync(_) | Self::Claim { .. } | Self::Release { .. } | Self::Claims => false,
        }
    }
}

/// What is answered; one kind for each kind of question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply")]
pub enum Reply {
    /// To `Act`.
    Acted(Acted),
    /// To `Target`.
    Target {
        /// What it said.
        answer: Result<control::Reply, control::Refusal>,
    },
    /// To `Look`.
    Look(Box<HostReport>),
    /// To `Tell`.
    Heard,
    /// To `Adopt` and `Forget`.
    Done,
    /// To `Sync`.
    Synced(Box<Synced>),
    /// To `Claim`.
    Claimed(Claimed),
    /// To `Release`.
    Released,
    /// To `Claims`.
    Claims {
        /// Each with its epoch.
        claims: Vec<(VolumeName, Epoch)>,
    },
    /// To `Filling`.
    Filling {
        /// It does.
        goes_on: bool,
    },
    /// To anything: it was not done.
    Problem {
        /// Why not.
        problem: Problem,
    },
}

/// A volume that the asking machine may fill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// At this epoch.
    pub epoch: Epoch,
    /// Where its target listens, on each storage segment.
    pub portals: Vec<SocketAddr>,
    /// Who the target is.
    pub target: HostKey,
    /// How long it is.
    pub size: ByteLen,
}

/// An action for a host's VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// By what right.
    pub order: Order,
    /// What.
    pub action: Action,
    /// The VM.
    pub brief: Brief,
    /// The other end of a migration.
    pub other: Option<Other>,
}

/// A VM that a host takes over as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopt {
    /// What the VM is, as it was started.
    pub brief: Brief,
    /// The revision of the store's word on it: what was ordered before is of the past.
    pub at: Revision,
    /// Its epoch, for a QEMU whose initiator does not say.
    pub epoch: Epoch,
}

/// The other end of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// Who.
    pub key: HostKey,
    /// The name in its certificate.
    pub name: NodeName,
    /// Where.
    pub ip: IpAddr,
    /// Where its QEMU waits for memory, once that is known.
    pub port: Option<u16>,
    /// The key of this move, made where it goes to; known with the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub move_key: Option<Secret>,
}

/// How the VM is on this host, right after the order was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acted {
    /// False: nothing was done.
    pub admitted: bool,
    /// Why nothing was done, if not because the order is older than one heard before.
    #[serde(default)]
    pub why: Option<String>,
    /// As it is.
    pub told: Tell,
}

/// The place of what a host's agent says in the order of all that it says: two messages may go over two connections and
/// arrive swapped. The later one has the greater sequence, across restarts of the agent too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sequence {
    /// Which life of the agent.
    pub life: u64,
    /// The how-manieth word in it.
    pub number: u64,
}

/// How a VM is on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tell {
    /// Which VM.
    pub vm: VmName,
    /// When it was so, among all that this host says.
    #[serde(default)]
    pub sequence: Sequence,
    /// The newest order heard about it.
    pub at: Revision,
    /// How it is.
    pub guest: Guest,
    /// The epoch that its initiator attached at.
    pub epoch: Option<Epoch>,
    /// An action of that order that cannot be done, and why.
    pub refused: Option<(Action, String)>,
    /// What a migration measured here.
    pub measured: Measured,
    /// How long ago, when this was sent, its vCPUs were seen to stop (STOP) or to go on (RESUME).
    pub stopped_ago_ms: Option<Millis>,
    /// See `stopped_ago_ms`.
    pub resumed_ago_ms: Option<Millis>,
    /// Where its QEMU waits for memory.
    pub port: Option<u16>,
    /// The key without which it takes no memory: 32 random bytes of this one move. Told for as long as it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub move_key: Option<Secret>,
    /// The guest switched itself off; its QEMU was ended after it.
    pub powered_off: bool,
    /// The dead-man stands on it.
    pub paused: bool,
    /// Why it is like that, in words: a QEMU's last ones, a held volume.
    pub why: Option<String>,
    /// Its disks, as its initiator sees them; none: they are not known.
    #[serde(default)]
    pub disks: Vec<DiskTell>,
    /// With [`Guest::Unknown`]: no process of it runs here. What was heard of it is not known all the same.
    #[serde(default)]
    pub nothing_runs: bool,
}

impl Tell {
    /// A guest that is like this, and nothing else to say.
    #[must_use]
    pub fn new(vm: VmName, sequence: Sequence, guest: Guest) -> Self {
        Self {
            vm,
            sequence,
            at: Revision(0),
            guest,
            epoch: None,
            refused: None,
            measured: Measured::default(),
            stopped_ago_ms: None,
            resumed_ago_ms: None,
            port: None,
            move_key: None,
            powered_off: false,
            paused: false,
            why: None,
            disks: Vec::new(),
            nothing_runs: false,
        }
    }
}

/// How a VM reaches one of its volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskTell {
    /// Which.
    pub volume: VolumeName,
    /// Why the guest waits for it, if it does.
    #[serde(default)]
    pub waits: Option<String>,
    /// Portals of its target that cannot be used, and why.
    #[serde(default)]
    pub down: Vec<(SocketAddr, String)>,
    /// Portals that can.
    #[serde(default)]
    pub up: Vec<SocketAddr>,
}

/// What a machine is and has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// When it was so, among all that this host says; its guests are told right after.
    #[serde(default)]
    pub sequence: Sequence,
    /// Memory in all.
    pub memory: ByteLen,
    /// Memory that new guests could use.
    pub free: ByteLen,
    /// Processors.
    pub cpus: u32,
    /// QEMU's version, if there is one.
    pub qemu: Option<(u32, u32)>,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Bridges that guests can be plugged into, and that lead where they should.
    pub bridges: Vec<String>,
    /// Bridges that no guest is sent to: those without their port or a carrier, each with why.
    #[serde(default)]
    pub bridges_out: Vec<(String, String)>,
    /// The machine type that VMs are made of, if its QEMU does not offer it.
    #[serde(default)]
    pub lacks_machine: Option<String>,
    /// What guests see of its processor, once that is known. Only in an answer to [`Ask::Look`]: it is long.
    #[serde(default)]
    pub processor: Option<Processor>,
    /// Guests that are here, whatever they do.
    pub guests: Vec<Tell>,
    /// Why others may be here that are not listed: then nobody is absent.
    #[serde(default)]
    pub unlisted: Option<String>,
    /// How long its target has run, if it has one that answers.
    pub target_up: Option<Millis>,
    /// Its dead-man answers.
    pub deadman: bool,
    /// Why no guest is let run there now: its dead-man's word. It goes on by itself.
    #[serde(default)]
    pub withheld: Option<String>,
    /// The witnesses that its dead-man knows, sorted.
    #[serde(default)]
    pub witnesses: Vec<HostKey>,
    /// What is not as it should be, each with what to do.
    pub complaints: Vec<(String, String)>,
    /// What keeps a part of the machine from its work, a process or a bridge, each with what to do.
    #[serde(default)]
    pub faults: Vec<(String, String)>,
}

/// What guests of a host see of its processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// As `GenuineIntel`.
    pub vendor: String,
    /// The flags of QEMU's model `max`.
    pub flags: BTreeSet<String>,
    /// All models, each with its flags that guests do not get.
    pub lacking: BTreeMap<String, BTreeSet<String>>,
}

/// A machine's regular call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// When the certificate it uses ends, in seconds since 1970.
    pub certificate_until_s: u64,
    /// The muskox version it runs.
    pub version: String,
    /// How it is.
    pub report: HostReport,
    /// How many removed machines it keeps (`cluster.json`); none: that cannot be read there.
    #[serde(default)]
    pub keeps: Option<usize>,
    /// What it keeps of the cluster, if the store asked for it.
    #[serde(default)]
    pub kept: Option<Kept>,
}

/// How it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// Who belongs to the cluster.
    pub members: NodeList,
    /// The VMs that concern this host: those it owns, those it may still have, those it says it has.
    pub assignments: Vec<Assignment>,
    /// Everybody with a vote, and where their dead-men listen; the same on all machines.
    pub witnesses: Vec<WitnessAt>,
    /// The times of the lease, the same on all machines.
    pub timing: LeaseTiming,
    /// The store's revision that all this was read at.
    #[serde(default)]
    pub at: Revision,
    /// VMs that this host says it knows and the store does not: deleted ones. Never one that was heard of after `at`: a
    /// store that was brought back from a backup knows less than its hosts.
    #[serde(default)]
    pub unknown: Vec<VmName>,
    /// What it is to keep of the cluster.
    #[serde(default)]
    pub keep: ToKeep,
}

/// What the store says about one VM, for one host. Acted on only while no job works on it. What the VM is its host knows: only
/// an order says that, so that a host with hundreds of VMs is told of all of them in one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The VM.
    pub vm: VmName,
    /// This host owns it.
    pub owner: bool,
    /// Its epoch.
    pub epoch: Epoch,
    /// When its ownership or wish last changed: an order of this revision.
    pub at: Revision,
    /// A job works on it: keep off.
    pub job: bool,
    /// It should run.
    pub running: bool,
    /// How long the guest may take to shut down if it should not.
    pub patience_ms: Millis,
}

/// A witness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessAt {
    /// Who.
    pub key: HostKey,
    /// Its name.
    pub name: NodeName,
    /// Where its dead-man listens, on every network.
    pub portals: Vec<SocketAddr>,
}
