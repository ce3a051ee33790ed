//! Planted bugs: each checker and each demo goal must be seen to fail. The bugs exist only with the cargo feature
//! `sabotage`; without it [`planted`] is a constant `false` and the compiler removes the branch.

/// A bug somebody once had, planted where it would be made again (docs/rfd/0005-planted-bugs.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// The gate admits every write, whatever its epoch (I1).
    NoGate,
    /// A raise is acknowledged while admitted writes are still below the gate (I1).
    AckBeforeDrain,
    /// A write refused for its old epoch is queued again under the new one (I1).
    RequeueNewEpoch,
    /// A grant is kept in memory only and is lost by a restart (I1, I12).
    GrantNotDurable,
    /// A restarted target with a member missing and no floor serves by the members it has (I12).
    DegradedServes,
    /// A newer incarnation is admitted while operations of the older one are still in flight (B-11).
    IncarnationOvertakes,
    /// A stock client's new connection joins its older one, which may still deliver writes (B-11).
    StockOvertakes,
    /// A flush is answered without being passed to every member (I3).
    FlushNotPassedOn,
    /// FUA is treated as an ordinary write (I3).
    FuaIgnored,
    /// Resync copies a block without keeping application writes away from it (I6, B-04).
    ResyncOverwritesNewer,
    /// A failed write is tried again and reported as a success (I11).
    EioRetried,
    /// A superblock, bitmap or facts write fails and the member stays (I11).
    MetadataEioIgnored,
    /// A degraded write is answered before the failed member is recorded in the superblocks (I6).
    DegradedAckFirst,
    /// The write-intent bit is written after the data instead of before (I6, B-01).
    BitmapAfterData,
    /// A partially recovered member is taken as in sync at assembly (I6, B-03).
    PartialRecoveryTrusted,
    /// A write-intent bit is cleared although what it stands for was not flushed (I6, I3).
    BitClearedBeforeFlush,
    /// Bits are cleared under a bitmap header that does not say so (I6: a member from before comes back by bitmap).
    ClearingUnannounced,
    /// A member's superblock is written before the bitmap and the facts that it vouches for (md's order).
    SuperblockFirst,
    /// The box's memory of who is in sync is changed before the members are (I14: nobody is known at the next start).
    WitnessFirst,
    /// A resync reads the member that is to be filled, not the one that has it (I6).
    ResyncFromTarget,
    /// A block is written back to a member that could not read it without keeping application writes away (I6).
    MendWithoutWindow,
    /// A returning disk is known by its slot alone (I6: its slot had another member meanwhile).
    ReaddBySlot,
    /// A mirrored write counts as done when one member has it (I1).
    FirstLegEndsTicket,
    /// A newer incarnation waits for some sessions of the older one, not for all of them (B-11).
    SiblingNotDrained,
    /// The facts are written over the newest of the two slots (I12).
    FactsOverNewest,
    /// A volume group's header names a text that is not flushed yet (I3).
    LvmHeaderFirst,
    /// A volume counts as zeroed while its zeroes are still on their way (I3).
    ZeroedTooEarly,
    /// What a target may have forgotten is not written again after a reconnect (I3).
    LogNotRewritten,
    /// A discarded range stays in the log of un-flushed data and is written again (I3).
    LogKeptOverDiscard,
    /// A job acts without the store's transaction that its step needs (I9).
    CasSkip,
    /// A destination is let go on before the store says that it is the owner (I9, I2).
    ContBeforeCommit,
    /// The source's epoch is closed only after the memory has arrived (I9: a source that resumes by itself writes on).
    FenceAfterCompletion,
    /// A destination that won is cleaned up because its source does not answer (I9, B-21).
    TargetCleanupAlthoughWon,
    /// A guest is started before every target acknowledged the new epoch (I1).
    StartBeforeAck,
    /// A guest is started although nothing proves that its old host's stopped (I2).
    StartWithoutProof,
    /// The dead-man lets guests run without a lease (I2).
    NoDeadman,
    /// The guard freezes nobody, whatever became of the dead-man (I2).
    NoGuard,
    /// A host obeys a controller whose job was taken over (I9).
    OldOrderObeyed,
    /// A task that nobody waits for panics (T: the daemon ends).
    TaskPanics,
    /// A source that hears nobody runs on whatever it has sent, and without asking the targets (I2).
    RunOnUnasked,
}

/// Whether `bug` is planted in this thread.
#[cfg(not(feature = "sabotage"))]
#[must_use]
pub const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "sabotage")]
pub use planting::{plant, plant_in_process, planted};

#[cfg(feature = "sabotage")]
mod planting {
    use super::Bug;
    use std::cell::Cell;
    use std::sync::OnceLock;

    thread_local! {
        static HERE: Cell<Option<Bug>> = const { Cell::new(None) };
    }
    static EVERYWHERE: OnceLock<Bug> = OnceLock::new();

    /// Whether `bug` is planted in this thread or in the whole process.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        HERE.get() == Some(bug) || EVERYWHERE.get() == Some(&bug)
    }

    /// Plants `bug` in this thread until the guard is dropped: the simulator's way.
    pub fn plant(bug: Bug) -> impl Drop {
        struct Uproot(Option<Bug>);
        impl Drop for Uproot {
            fn drop(&mut self) {
                HERE.set(self.0);
            }
        }
        Uproot(HERE.replace(Some(bug)))
    }

    /// Plants `bug` for the life of the process: the lab's way. The first bug stays.
    pub fn plant_in_process(bug: Bug) {
        let _ = EVERYWHERE.set(bug);
    }
}
