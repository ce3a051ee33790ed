//! The gate: the one way to a volume, where old writers are refused by epoch (docs/rfd/0003-gate.md has the rules).
//!
//! [`Gate`] decides: a step machine per volume, fed with events and the moment, answering with commands; one branch
//! per operation ([`Gate::admit`], [`Gate::ended`]). [`GatedVolume`] acts: it joins a gate to a disk and a place where
//! grants are durable, and gives each session a disk of its own.
//!
//! Invariant: once a raise to an epoch is acknowledged, nothing of an older one is below the gate or ever passes it,
//! whatever is restarted. The gate does *not* know which protocol asks, what the disk is made of, nor what time it is.
//!
//! ```text
//! session ─▶ Session (a disk) ─▶ Gate: admit ─▶ volume … ─▶ Gate: ended
//!                                  ▲ raise, reserve, floor     │ Store(grant) ─▶ GrantStore: the array's facts area
//! ```

mod attach;
mod machine;
mod raise;
pub mod record;
mod refusal;
mod rights;
mod session;
mod sessions;
mod status;
#[cfg(test)]
mod test;
mod volume;

pub use attach::{STOCK_SILENCE, WAITING_MAX};
pub use machine::{AskId, Command, Event, Gate, Laggards};
pub use raise::{ASKS_MAX, FENCE_DRAIN_MAX, LAGGARDS_AGAIN};
pub use refusal::{Blocked, Declined, Refusal, Refused};
pub use session::Session;
pub use sessions::{Door, Kind, SESSIONS_MAX, SessionId, Ticket};
pub use status::{SessionStatus, State, Status};
pub use volume::{Found, GatedVolume, GrantStore, Parts};

use units::{Epoch, HostKey, Incarnation, Mode};

/// What a session was admitted as. Immutable: a queue never changes its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The TLS key, or the listener's identity; never what the client calls itself.
    pub host: HostKey,
    /// The epoch it was started for.
    pub epoch: Epoch,
    /// Which life of its initiator.
    pub incarnation: Incarnation,
    /// What it asked to do.
    pub mode: Mode,
}

/// What a session asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// By a muskox initiator: exactly this.
    Exact(Attachment),
    /// By a stock client, which knows neither epoch nor incarnation: the current epoch, and an incarnation that the
    /// gate assigns (a new one, or for who only reads that of the host's sessions).
    Stock {
        /// The TLS key, or the listener's identity.
        host: HostKey,
        /// What it asked to do.
        mode: Mode,
    },
}

/// What a raise grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The new epoch.
    pub epoch: Epoch,
    /// Whether several hosts may write.
    pub shared: bool,
    /// Each host once, in any order; nobody is fine.
    pub owners: Vec<(HostKey, Mode)>,
}
