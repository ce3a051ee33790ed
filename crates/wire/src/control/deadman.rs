//! What dead-men and witnesses say: votes, and how a dead-man stands.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use units::{HostKey, Millis, NodeName};

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RenewalReport {
    /// The lease counts from before the renewal was sent.
    Granted,
    /// Nothing is granted for this long.
    Refused(Millis),
}

/// One witness's vote on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VoteReport {
    /// It was silent for the detection time, and is granted nothing for this long, counted from before the question.
    Dead(Millis),
    /// It was heard this long ago.
    Alive(Millis),
    /// The witness knows nothing.
    Unsure(Doubt),
}

/// Why a witness votes nobody dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doubt {
    /// It hears no majority of witnesses.
    Alone,
    /// It heard none until recently and gives everybody this much more time.
    Grace(Millis),
    /// Fewer than three witnesses are configured.
    TooFew,
}

/// What one witness answered when all were asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CastReport {
    /// Who.
    pub witness: HostKey,
    /// Its name.
    pub name: NodeName,
    /// Its vote; `None`: no answer in time.
    pub vote: Option<VoteReport>,
    /// How long before this reply the witness was asked. A vote's validity counts from before the question: from before
    /// the caller asked us, which is safe, or at most this long before the reply was sent.
    pub asked_ago: Millis,
    /// Why there is no vote.
    pub reason: Option<String>,
}

/// A dead-man at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadmanReport {
    /// The program's version.
    pub version: String,
    /// How long it has run.
    pub up: Millis,
    /// This machine.
    pub me: HostKey,
    /// Where its guests stand.
    pub standing: StandingReport,
    /// Why its witness would vote nobody dead now; `None`: it counts silence and votes.
    pub doubt: Option<Doubt>,
    /// How often this process was not scheduled in time.
    pub late: u64,
    /// The witnesses, itself included.
    pub peers: Vec<PeerReport>,
    /// The machines here that have a live QEMU.
    pub guests: Vec<GuestReport>,
    /// What keeps it from its work, in sentences.
    #[serde(default)]
    pub troubles: Vec<String>,
}

/// Where a host's guests stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StandingReport {
    /// They may run for this long without another grant.
    Running(Millis),
    /// They are stopped: no majority grants.
    Paused,
    /// A majority grants again; the targets are asked whose the volumes are.
    Asking,
    /// Fewer than three witnesses: nothing is ever paused.
    Unwatched,
}

/// One witness, as a dead-man sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Who.
    pub witness: HostKey,
    /// Its name.
    pub name: NodeName,
    /// How long ago anything authentic came from it, on whatever way.
    pub heard: Option<Millis>,
    /// How long ago the newest renewal was sent that it granted.
    pub granted: Option<Millis>,
    /// It refused the last renewal, for this long.
    pub refused: Option<Millis>,
    /// The ways to it; none to itself.
    pub portals: Vec<PortalReport>,
}

/// One way to a witness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortalReport {
    /// Where it listens.
    pub address: SocketAddr,
    /// How long ago it answered here.
    pub heard: Option<Millis>,
    /// Why there is no connection now.
    pub reason: Option<String>,
}

/// One machine with a live QEMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestReport {
    /// Its folder's name.
    pub name: String,
    /// Whether this dead-man stopped it and has not let it go on yet.
    pub paused_by_us: bool,
    /// What it waits for.
    pub waits_for: Option<String>,
}
