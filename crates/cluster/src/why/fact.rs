//! What is recorded about a VM.

use serde::{Deserialize, Serialize};
use units::{Epoch, Millis, VmName, VolumeName};

/// One recorded event. `at_ms` is the wall clock of the machine that wrote it, for people; nothing is decided by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub happened: Happened,
}

/// What happened. Hosts and targets are named as people named them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Happened {
    /// It was asked to run or to stop.
    Wished {
        /// By whom.
        by: String,
        /// What.
        running: bool,
    },
    /// It runs.
    Started {
        /// Where.
        host: String,
        /// With which epoch.
        epoch: Epoch,
    },
    /// Its host was voted dead.
    VotedDead {
        /// Which.
        host: String,
        /// Votes for it.
        votes: u64,
        /// Witnesses in all.
        of: u64,
        /// Silence by then.
        silent_ms: Millis,
    },
    /// Nobody can write with an older epoch any more.
    Fenced {
        /// The new epoch.
        epoch: Epoch,
        /// Targets that acknowledged.
        targets: u64,
        /// From asking to the last acknowledgement.
        took_ms: Millis,
    },
    /// A job waits.
    Blocked {
        /// Which job.
        job: String,
        /// For what.
        what: String,
    },
    /// It moved while it ran.
    Moved {
        /// From.
        from: String,
        /// To.
        to: String,
        /// In all.
        total_ms: Millis,
        /// Its vCPUs stood still.
        blackout_ms: Option<Millis>,
    },
    /// A move was undone.
    MoveUndone {
        /// It stayed there.
        host: String,
        /// Why.
        why: String,
    },
    /// It could not be started.
    NotStarted {
        /// Where it was tried last.
        host: String,
        /// In the words of whoever refused it.
        why: String,
    },
    /// Its QEMU ended by itself.
    Died {
        /// Where.
        host: String,
        /// As far as known.
        why: String,
    },
    /// It waits to be started again.
    BacksOff {
        /// How often it died at start.
        times: u64,
        /// This long.
        wait_ms: Millis,
    },
    /// Its host was alone; the dead-man paused it.
    Paused {
        /// Which.
        host: String,
    },
    /// It went on after a pause.
    WentOn {
        /// After this long.
        after_ms: Millis,
    },
    /// A volume cannot be reached; the guest waits.
    Held {
        /// Which.
        volume: VolumeName,
    },
    /// It can be reached again.
    Released {
        /// Which.
        volume: VolumeName,
        /// After this long.
        after_ms: Millis,
    },
    /// Somebody had the store agree with the hosts, after it was brought back from an older backup.
    Adopted {
        /// Who.
        by: String,
        /// The owner from then on.
        host: Option<String>,
        /// From then on.
        epoch: Epoch,
    },
    /// Somebody had a host take over what ran of it there, which the host could not tell about.
    TakenOver {
        /// Who.
        by: String,
        /// Which host.
        host: String,
    },
    /// Somebody had a host end what ran of it there, which the host could not tell about.
    Forgotten {
        /// Who.
        by: String,
        /// Which host.
        host: String,
    },
    /// Something might have been done and was not.
    NothingDone {
        /// Why not.
        why: String,
    },
}

/// How the VM is now, as the answering node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Which VM.
    pub vm: VmName,
    /// Meant to run.
    pub wished: bool,
    /// Its owner, if it has one.
    pub owner: Option<String>,
    /// It runs; none: its host does not answer.
    pub running: Option<bool>,
    /// The job that works on it, its kind and stage.
    pub job: Option<(String, String)>,
}
