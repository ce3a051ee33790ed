//! A source that waits before the switch-over and hears nobody: whether its host gives the move up and lets the guest run on.
//!
//! The guest stands while it waits, and whoever directs the move may be dead. Running on is safe only while nobody else
//! can have its memory or its disks:
//! - `migrate-continue` was not passed on to QEMU: the destination has not got everything, and will not get it;
//! - the host's lease holds: nobody can have voted it dead and started the guest elsewhere;
//! - every target answered, at the guest's epoch, a question that was sent after the silence began: the epoch is not
//!   closed. If it is closed right after, the guest's disks refuse it, the job finds a source that runs, and takes it back at
//!   a new epoch (RFD 0009).
//!
//! Each of them alone nearly is enough; together they leave no order of events that makes two copies (`job::test`).

use super::Limits;
use crate::job::Guest;
use units::Millis;
use units::sabotage::{Bug, planted};

/// What a host knows of its guest that waits before the switch-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// How the guest is.
    pub guest: Guest,
    /// How long nobody has said anything about it, while it waited.
    pub silent: Millis,
    /// The migration was begun by this life of the agent, and `migrate-continue` was not passed on: what a former life did
    /// is not known.
    pub holds_back: bool,
    /// The lease holds. Fewer than three witnesses grant none.
    pub leased: bool,
    /// For how long it has been since the question was sent that the last of its targets answered at its epoch; none: one
    /// has not answered.
    pub heard: Option<Millis>,
}

/// Why a guest stays stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stays {
    /// It does not wait, or somebody has spoken lately.
    #[error("it is being moved")]
    Directed,
    /// The rest of its memory may be on its way.
    #[error("the rest of its memory may have been sent")]
    SentOn,
    /// Nobody vouches that it was not voted dead.
    #[error("its host holds no lease")]
    NoLease,
    /// Its epoch may be closed.
    #[error("not every target has said that its epoch is still open")]
    NotAsked,
}

impl Waiting {
    /// Whether its host may give the move up and let it run on.
    ///
    /// # Errors
    /// [`Stays`].
    pub fn may_run_on(&self) -> Result<(), Stays> {
        let hasty = planted(Bug::RunOnUnasked);
        let stands = matches!(self.guest, Guest::PreSwitchover)
            || hasty && matches!(self.guest, Guest::Switching | Guest::PostMigrate);
        match () {
            () if !stands || self.silent < Limits::SILENCE => Err(Stays::Directed),
            () if hasty => Ok(()),
            () if !self.holds_back => Err(Stays::SentOn),
            () if !self.leased => Err(Stays::NoLease),
            () if self.heard.is_none_or(|heard| heard >= self.silent) => Err(Stays::NotAsked),
            () => Ok(()),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// D3. Goal: a guest that waits runs on only if all of it holds; what is missing is said. Method: one that may, spoilt in one
    /// thing at a time.
    #[test]
    fn a_guest_runs_on_alone_only_if_nobody_can_have_it() {
        let (guest, silent, heard) = (Guest::PreSwitchover, Limits::SILENCE, Some(Millis(1_999)));
        let good = Waiting { guest, silent, holds_back: true, leased: true, heard };
        assert_eq!(good.may_run_on(), Ok(()));
        for guest in
            [Guest::Running, Guest::Copying, Guest::Switching, Guest::PostMigrate, Guest::Stopped, Guest::Unknown]
        {
            assert_eq!(Waiting { guest, ..good }.may_run_on(), Err(Stays::Directed), "{guest:?}");
        }
        assert_eq!(Waiting { silent: Millis(1_999), ..good }.may_run_on(), Err(Stays::Directed));
        assert_eq!(Waiting { holds_back: false, ..good }.may_run_on(), Err(Stays::SentOn));
        assert_eq!(Waiting { leased: false, ..good }.may_run_on(), Err(Stays::NoLease));
        for heard in [None, Some(Millis(2_000)), Some(Millis(9_000))] {
            assert_eq!(
                Waiting { heard, ..good }.may_run_on(),
                Err(Stays::NotAsked),
                "asked before the silence: {heard:?}"
            );
        }
    }
}
