//! Why the gate says no, in facts for the caller and in words for people. This module decides nothing.

use super::attach::STOCK_SILENCE;
use super::record::OWNERS_MAX;
use std::fmt;
use units::{Epoch, HostKey, Incarnation, Millis, VolumeName};

/// Why an attach was refused: "volume web1 …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("volume {volume} {why}")]
pub struct Refusal {
    /// Which volume.
    pub volume: VolumeName,
    /// What was wrong.
    pub why: Refused,
}

/// What was wrong with an attach. The texts go on after "volume web1".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// For ever.
    #[error("is at {current}, you hold {held}: a later start or takeover has replaced this one for good")]
    OldEpoch {
        /// What the caller carries.
        held: Epoch,
        /// What the volume is at.
        current: Epoch,
    },
    /// Come back with a reservation, or after the raise.
    #[error(
        "is at {current}, you hold {held}, which is neither granted nor reserved for {host}: reserve or raise first"
    )]
    NotReserved {
        /// What the caller carries.
        held: Epoch,
        /// What the volume is at.
        current: Epoch,
        /// Who the caller is.
        host: HostKey,
    },
    /// Until a raise names this host.
    #[error("at {epoch} is not granted to {host}: grant it to that host first")]
    NotGranted {
        /// What the volume is at.
        epoch: Epoch,
        /// Who the caller is.
        host: HostKey,
    },
    /// The store is ahead of the grant: come back after the raise.
    #[error("is at {epoch}, which nobody was granted yet: wait for the raise that grants it")]
    NobodyOwns {
        /// The store's floor.
        epoch: Epoch,
    },
    /// The host asked for more than it has.
    #[error("at {epoch} is granted to {host} read-only: attach it read-only, or grant it rw")]
    GrantedReadOnly {
        /// What the volume is at.
        epoch: Epoch,
        /// Who the caller is.
        host: HostKey,
    },
    /// For ever: a later life of the same initiator was admitted.
    #[error(
        "has admitted {highest} of this host, you hold {held}: a later life of this initiator has replaced it for good"
    )]
    OldIncarnation {
        /// What the caller carries.
        held: Incarnation,
        /// The highest admitted.
        highest: Incarnation,
    },
    /// Incarnations start at 1.
    #[error("was asked for by incarnation 0: incarnations start at 1")]
    NoIncarnation,
    /// A stock client whose host writes already. What that connection may still deliver would land after what this one
    /// writes, so it would have to be closed.
    #[error(
        "is attached for writing by a client of this host already, heard {heard} ago: end that one first; one that is \
         silent for {STOCK_SILENCE} is replaced"
    )]
    InUse {
        /// How long ago that one sent something.
        heard: Millis,
    },
    /// A stock client of a host that once claimed the last incarnation there is.
    #[error("has no incarnation left for this host in {epoch}: raise it to a new epoch")]
    NoIncarnationLeft {
        /// What the volume is at.
        epoch: Epoch,
    },
    /// The gate serves nobody, or not this epoch; the state says why.
    #[error("is {0}")]
    Blocked(Blocked),
    /// The incarnation could not be made durable.
    #[error("could not store {held} with the grant: its array takes no writes; see to its disks, then try again")]
    StoreFailed {
        /// What the caller carries.
        held: Incarnation,
    },
    /// More sessions than the gate keeps, the closed ones that still drain included.
    #[error("has {max} sessions already: close some first")]
    TooManySessions {
        /// The bound.
        max: usize,
    },
    /// More attaches wait than the gate keeps.
    #[error("has {max} attaches waiting already: try again later")]
    TooManyWaiting {
        /// The bound.
        max: usize,
    },
    /// A mistake of the data plane: session ids are used once.
    #[error("was asked for twice by one session")]
    SessionKnown,
}

/// Why the gate does not serve the newest epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// A member is missing, and the store's floor is not known.
    Floor,
    /// The grant could not be made durable.
    Store,
    /// The box cannot record which members are in sync, and the grant waits for that.
    Witness,
    /// Operations of an older epoch hang on the last member the array can have.
    Fence,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Floor => {
                "blocked(floor): a member that may hold a higher grant is missing and the store is out of reach; \
                 bring back either, or override"
            }
            Self::Store => "blocked(store): the grant could not be written; see to the array's disks, then raise again",
            Self::Witness => {
                "blocked(store): this box cannot record which members are in sync, and nothing new is answered before \
                 it does; see to the target's state folder; the raise is acknowledged when it can"
            }
            Self::Fence => {
                "blocked(fence): operations of an older epoch hang on a disk that the array cannot do without; \
                 the raise is acknowledged when they end"
            }
        })
    }
}

/// Why a raise or a reservation was declined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// Epochs never go back.
    #[error("the volume is at {current} already, {asked} is over: read the store again")]
    Lower {
        /// What was asked for.
        asked: Epoch,
        /// What the volume is at.
        current: Epoch,
    },
    /// One epoch has one set of owners, for ever.
    #[error("{epoch} was granted to other owners: take a higher epoch")]
    OtherOwners {
        /// Which.
        epoch: Epoch,
    },
    /// More than one writer.
    #[error("{writers} hosts would write to a volume that is not marked shared")]
    NotShared {
        /// How many.
        writers: usize,
    },
    /// More owners than the record holds, or the same twice.
    #[error("{0} owners: a grant names at most {OWNERS_MAX} hosts, each once")]
    BadOwners(usize),
    /// A higher raise came while this one was under way.
    #[error("{asked} was overtaken by {by} while it was being raised")]
    Superseded {
        /// What was asked for.
        asked: Epoch,
        /// What came.
        by: Epoch,
    },
    /// An epoch is promised to one host only, and promises only go up.
    #[error("{promised} is promised already: take a higher epoch")]
    Promised {
        /// Which.
        promised: Epoch,
    },
    /// The store is ahead of the grant: a promise would be stored with the older epoch, which must only go up.
    #[error("nobody was granted {epoch} yet: raise it first")]
    NobodyOwns {
        /// The store's floor.
        epoch: Epoch,
    },
    /// The gate serves nobody.
    #[error("the volume is {0}")]
    Blocked(Blocked),
    /// The grant could not be made durable.
    #[error("the grant of {asked} could not be written; see to the array's disks, then ask again")]
    StoreFailed {
        /// What was asked for.
        asked: Epoch,
    },
    /// More callers wait for an answer than the gate keeps.
    #[error("{max} callers wait for this already")]
    TooMany {
        /// The bound.
        max: usize,
    },
}
