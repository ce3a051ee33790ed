//! The lines of the other files.

use super::Kind;
use crate::demo::guest::record::Boot;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A record whose receipt makes it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// When the referee had it.
    pub at_us: u64,
    /// Which boot of the guest wrote it.
    pub boot: Boot,
    /// Its number.
    pub n: u64,
    /// Of its content.
    pub crc: u32,
}

/// A probe's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// When it came.
    pub at_us: u64,
    /// When it was asked.
    pub sent_us: u64,
    /// The probe's number.
    pub n: u64,
    /// Which boot of the guest answered.
    pub boot: Boot,
}

/// A beacon on a guest's serial console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beacon {
    /// When it was read.
    pub at_us: u64,
    /// At which host.
    pub host: String,
    /// Which boot.
    pub boot: Boot,
    /// Counts up.
    pub counter: u64,
}

/// An I/O error that the guest told of on its serial console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestError {
    /// When it was read.
    pub at_us: u64,
    /// At which host.
    pub host: String,
    /// What it said.
    pub text: String,
}

/// What became of something the rogue tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was answered as done.
    Applied,
    /// It was answered, and refused.
    Refused,
    /// It was not answered.
    Lost,
}

/// Something the rogue tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RogueLine {
    /// When it was sent.
    pub at_us: u64,
    /// When it was over.
    pub done_us: u64,
    /// The fault that the rogue belongs to: `run` in its stamps.
    pub fault: u32,
    /// How its session came to be.
    pub what: Kind,
    /// The epoch it claims.
    pub epoch: u64,
    /// The incarnation it claims.
    pub incarnation: u64,
    /// Which of its writes; none: the attach itself was refused.
    pub seq: Option<u64>,
    /// What became of it.
    pub outcome: Outcome,
    /// What it was told.
    pub text: String,
}

/// A change of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreChange {
    /// Its place in the one order; changes of one transaction share it.
    pub revision: u64,
    /// Which object.
    pub key: String,
    /// Its new value, as JSON or as the store's text of it; none: it was removed.
    pub value: Option<Value>,
    /// The change was certainly not there before this moment: the lab looked and did not see it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_before_us: Option<u64>,
}

/// A line of a target's grant log. The file is the product's, so fields that are of no use here may come and go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantLine {
    /// When it was done, by the clock of the evidence: no acknowledgement is older.
    pub mono_us: u64,
    /// `grant`; reservations, floors and an operator's words are none.
    pub kind: String,
    /// Which volume.
    pub volume: String,
    /// Its epoch from here on.
    #[serde(default)]
    pub epoch: u64,
    /// Who owns it.
    #[serde(default)]
    pub owners: Vec<GrantOwner>,
}

/// An owner in a grant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GrantOwner {
    /// Its key.
    pub host: String,
    /// `rw` or `ro`.
    pub mode: String,
}

impl GrantLine {
    /// Whether it gives a volume to somebody, or to nobody.
    #[must_use]
    pub fn is_grant(&self) -> bool {
        self.kind == "grant"
    }

    /// Who may write.
    #[must_use]
    pub fn writers(&self) -> Vec<&str> {
        let mut all: Vec<&str> =
            self.owners.iter().filter(|owner| owner.mode == "rw").map(|owner| owner.host.as_str()).collect();
        all.sort_unstable();
        all
    }
}

/// What the check of the guest's disk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordsCheck {
    /// How many acknowledged records were looked for.
    pub acked: u64,
    /// How many of them are not there.
    pub missing: u64,
    /// How many are there in part.
    pub torn: u64,
}

/// A peer's tool that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OracleRun {
    /// `mdadm`, `lvm` or `e2fsck`.
    pub oracle: String,
    /// What was run.
    pub command: String,
    /// Its exit code.
    pub status: i32,
    /// Where its words are, in the evidence's folder.
    pub output: String,
    /// Whether it agrees with us.
    pub agrees: bool,
}
