//! What a job asks of the world and what the world says back. Every action is a wish for a state, so that asking again
//! is harmless: a raise that happened is acknowledged again, a guest that runs already is reported as running.

use crate::migrate::Measured;
use serde::{Deserialize, Serialize};
use std::fmt;
use units::{Epoch, HostKey, Moment};

/// Something to be done for the job's VM. `node` sends those with a host to that host's agent, with the [`super::Order`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Action {
    /// Promise the epoch to the host, at every target of every volume. Answer: [`Report::Done`] when all have.
    Reserve {
        /// The promised epoch.
        epoch: Epoch,
        /// To whom.
        host: HostKey,
    },
    /// Raise to the epoch at every target of every volume. Answer: [`Report::Done`] when all have acknowledged.
    Raise {
        /// The epoch.
        epoch: Epoch,
        /// Who may write from now on; nobody while a VM is handed over.
        owner: Option<HostKey>,
    },
    /// Attach standby at the reserved epoch and start a QEMU that waits for memory and never runs by itself.
    Incoming {
        /// Where.
        host: HostKey,
        /// Reserved.
        epoch: Epoch,
    },
    /// Copy the memory while the guest runs, stop before switching over. A migration that is under way goes on.
    Migrate {
        /// From.
        host: HostKey,
        /// To.
        destination: HostKey,
    },
    /// Let a source that waits before switching over send the rest.
    Continue {
        /// Where.
        host: HostKey,
    },
    /// Say how the guest is, now and whenever that changes.
    Watch {
        /// Where.
        host: HostKey,
    },
    /// Let the loaded guest run, at this epoch.
    Cont {
        /// Where.
        host: HostKey,
        /// Granted.
        epoch: Epoch,
    },
    /// Give the migration up: the guest runs on under the epoch it has.
    Cancel {
        /// Where.
        host: HostKey,
    },
    /// Give the migration up after the epoch was closed: free a hung monitor (`yank`), attach anew at this epoch, run.
    Return {
        /// Where.
        host: HostKey,
        /// Granted.
        epoch: Epoch,
    },
    /// Start the guest from its disk at this epoch. Anything of the VM at a lower epoch is destroyed first.
    Start {
        /// Where.
        host: HostKey,
        /// Granted.
        epoch: Epoch,
    },
    /// End the VM's QEMU, whatever it does. Answer: [`Guest::Absent`].
    Destroy {
        /// Where.
        host: HostKey,
    },
    /// Ask the witnesses whether the host is dead. Answered only if it is.
    Ask {
        /// Which.
        host: HostKey,
    },
    /// Switch the host off, and say so when it has been seen to be off.
    PowerOff {
        /// Which.
        host: HostKey,
    },
}

/// How a VM's QEMU is on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    /// There is none, and the agent will start none without a newer order.
    Absent,
    /// It waits for memory.
    Incoming,
    /// All memory is there; it is paused.
    Loaded,
    /// Its vCPUs run (the RESUME event, not `query-status`).
    Running,
    /// Its vCPUs run and its memory is being copied.
    Copying,
    /// Stopped and flushed, waiting to be told to send the rest.
    PreSwitchover,
    /// Sending the rest.
    Switching,
    /// Everything was sent.
    PostMigrate,
    /// Stopped for another reason: an I/O error, the dead-man.
    Stopped,
    /// Its host cannot tell: what it kept of the VM cannot be read, or a state was named that only a newer version knows. It
    /// may run; nobody fences, starts or destroys it as long as its host lives.
    #[serde(other)]
    Unknown,
}

/// As a deed, for people: what somebody could not do.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserve { epoch, .. } => write!(f, "reserve {epoch}"),
            Self::Raise { epoch, .. } => write!(f, "fence off what is older than {epoch}"),
            Self::Incoming { epoch, .. } => write!(f, "prepare to take its memory at {epoch}"),
            Self::Migrate { .. } => f.write_str("copy its memory"),
            Self::Continue { .. } => f.write_str("send the rest of its memory"),
            Self::Watch { .. } => f.write_str("watch it"),
            Self::Cont { epoch, .. } => write!(f, "let it go on at {epoch}"),
            Self::Cancel { .. } => f.write_str("give the move up"),
            Self::Return { epoch, .. } => write!(f, "take it back at {epoch}"),
            Self::Start { epoch, .. } => write!(f, "start it at {epoch}"),
            Self::Destroy { .. } => f.write_str("end its QEMU"),
            Self::Ask { .. } => f.write_str("ask the witnesses"),
            Self::PowerOff { .. } => f.write_str("switch the host off"),
        }
    }
}

/// How the VM is, for people.
impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "off",
            Self::Incoming => "waiting for its memory",
            Self::Loaded => "loaded and paused",
            Self::Running => "running",
            Self::Copying => "running, its memory is being copied",
            Self::PreSwitchover => "stopped for the switch-over",
            Self::Switching => "sending the rest of its memory",
            Self::PostMigrate => "moved away",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        })
    }
}

/// Why no guest of a host can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A majority of witnesses votes it dead; good until this moment of the clock that asked.
    Votes {
        /// Counted from before the question.
        until: Moment,
    },
    /// It was switched off and seen to be off.
    Power,
    /// A person's audited word.
    Word,
}

/// What the world says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Done as asked (for what is asked of targets).
    Done(Action),
    /// It cannot be done; asking again is pointless.
    Refused(Action, String),
    /// How the guest is on a host.
    Guest {
        /// Where.
        host: HostKey,
        /// How.
        guest: Guest,
        /// At which epoch its volumes are attached, if they are.
        epoch: Option<Epoch>,
    },
    /// No guest of this host runs.
    Gone {
        /// Which host.
        host: HostKey,
        /// How that is known.
        proof: Proof,
    },
    /// What a migration measured.
    Measured(Measured),
}
