//! The store's contract: one object one key, one order of changes, compare and swap. Reasons: docs/rfd/0004-store.md.
//!
//! Invariants: a transaction happens as a whole or not at all and is durable when answered; revisions only grow; a
//! watcher sees every change after its revision in order or hears [`StoreError::Compacted`]; no epoch ever goes back,
//! whatever is restored. An engine is synchronous and knows no clock: leases are told the moment.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod memory;
mod unknown;

pub use memory::Memory;
pub use unknown::{UnknownFields, agrees};

use serde::{Deserialize, Serialize};
use std::fmt;
use units::{Epoch, Millis, Moment};

/// A place in the one order of changes. Zero is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A key: `/kind/name[/part]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

/// A lease's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

/// Longest key and value, most operations and compares in a transaction: a whole failover of a VM with 16 volumes fits
/// twice; etcd's own limit is 128 operations.
pub const KEY_MAX_BYTES: usize = 256;
/// See [`KEY_MAX_BYTES`].
pub const VALUE_MAX_BYTES: usize = 64 << 10;
/// See [`KEY_MAX_BYTES`].
pub const TXN_MAX_OPS: usize = 64;
/// Changes kept for watchers; who is further behind ranges again.
pub const HISTORY_MAX: u64 = 10_000;
/// Furthest that a counter is lifted at once: a store that makes 1000 changes a second for 30 years. One wrong word must
/// not use the counter up.
pub const LIFT_MAX: u64 = 1 << 40;

/// Objects under this prefix carry an epoch in their JSON field `epoch`; a restore never lowers it.
pub const EPOCH_PREFIX: &str = "/epoch/";

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// JSON text.
    pub value: String,
    /// When it came to be (again).
    pub created: Revision,
    /// When it was last written.
    pub changed: Revision,
    /// The lease it vanishes with.
    pub lease: Option<LeaseId>,
}

/// All objects under a prefix, at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The revision that this is true at; watch from here.
    pub at: Revision,
    /// In order of key.
    pub entries: Vec<Entry>,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// The object was last changed at exactly this revision; zero: it does not exist.
    Changed(Key, Revision),
    /// The object has these fields with these values; see [`agrees`].
    Value(Key, String),
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Writes an object.
    Put {
        /// Where.
        key: Key,
        /// JSON text.
        value: String,
        /// The lease it vanishes with.
        lease: Option<LeaseId>,
    },
    /// Removes an object, if it is there.
    Delete(Key),
}

/// If all compares hold, all of `then` happens, otherwise all of `otherwise`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// If they hold.
    pub then: Vec<Op>,
    /// If not.
    pub otherwise: Vec<Op>,
}

/// What a transaction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the compares held.
    pub held: bool,
    /// The store's revision afterwards.
    pub at: Revision,
}

/// One change, as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at: Revision,
    /// Which object.
    pub key: Key,
    /// Its new value; none if it was removed.
    pub value: Option<String>,
}

/// Why a call did nothing.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not a key.
    #[error(
        "'{0}' is not a key: use /kind/name with 1 to 63 of a-z 0-9 - _ . in each part, at most {KEY_MAX_BYTES} bytes"
    )]
    BadKey(String),
    /// Longer than [`VALUE_MAX_BYTES`], or not JSON.
    #[error("the value of {0} is not JSON of at most {VALUE_MAX_BYTES} bytes")]
    BadValue(Key),
    /// More than [`TXN_MAX_OPS`] compares or changes, or one key changed twice.
    #[error("a transaction takes at most {TXN_MAX_OPS} compares and changes, each key changed once")]
    BadTxn,
    /// The lease is over or never was.
    #[error("lease {} is over", .0.0)]
    NoLease(LeaseId),
    /// The history does not reach back that far: range again, then watch from there.
    #[error("changes since revision {} are no longer kept (oldest: {})", .asked.0, .oldest.0)]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// What is there.
        oldest: Revision,
    },
    /// No store ever came so far: whoever heard of it is wrong.
    #[error("the store is at revision {}; it cannot have been at {}", .at.0, .heard.0)]
    TooFar {
        /// Where it is.
        at: Revision,
        /// Where it is said to have been.
        heard: Revision,
    },
    /// The engine's file or process failed; nothing was decided.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// What keeps the objects.
pub trait Engine {
    /// One object.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn get(&mut self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// All objects whose key starts with `prefix`.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn range(&mut self, prefix: &str) -> Result<Listing, StoreError>;

    /// Compares and changes as one; durable when answered.
    ///
    /// # Errors
    /// [`StoreError::BadTxn`], [`StoreError::BadValue`], [`StoreError::NoLease`], [`StoreError::Failed`]: nothing was changed.
    fn txn(&mut self, txn: &Txn) -> Result<Outcome, StoreError>;

    /// Every change after `from` under `prefix`, oldest first, at most `most` of them.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::Failed`].
    fn changes(&mut self, prefix: &str, from: Revision, most: usize) -> Result<Vec<Change>, StoreError>;

    /// A new lease that ends `ttl` after `now` unless kept.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn lease(&mut self, ttl: Millis, now: Moment) -> Result<LeaseId, StoreError>;

    /// The lease now ends its ttl after `now`.
    ///
    /// # Errors
    /// [`StoreError::NoLease`], [`StoreError::Failed`].
    fn keep(&mut self, lease: LeaseId, now: Moment) -> Result<(), StoreError>;

    /// Ends a lease: its objects vanish.
    ///
    /// # Errors
    /// [`StoreError::NoLease`], [`StoreError::Failed`].
    fn revoke(&mut self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends every lease whose time is up.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn expire(&mut self, now: Moment) -> Result<(), StoreError>;

    /// Everything, at one revision. Objects under a lease are not part of it.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn backup(&mut self) -> Result<Backup, StoreError>;

    /// The counter of revisions goes on from `heard`, if it is not there yet: the next change is above it. Nothing else is
    /// changed, and it never goes back. Durable when answered with where the counter stands. For a store that was brought
    /// back and is behind what it once said.
    ///
    /// # Errors
    /// [`StoreError::TooFar`], [`StoreError::Failed`]: nothing was changed.
    fn lift(&mut self, heard: Revision) -> Result<Revision, StoreError>;

    /// Replaces everything by the backup, except that no epoch goes back ([`merge_epochs`]). Watchers hear
    /// [`StoreError::Compacted`].
    ///
    /// # Errors
    /// [`StoreError::Failed`]: nothing was changed.
    fn restore(&mut self, backup: &Backup) -> Result<(), StoreError>;
}

/// A consistent copy of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Of this form; [`Backup::FORMAT`].
    pub format: u32,
    /// The revision it was taken at.
    pub at: Revision,
    /// Key and value, in order.
    pub objects: Vec<(Key, String)>,
}

impl Revision {
    /// Where a counter that stands here stands after [`Engine::lift`].
    ///
    /// # Errors
    /// [`StoreError::TooFar`].
    pub fn lifted(self, heard: Self) -> Result<Self, StoreError> {
        if heard.0.saturating_sub(self.0) > LIFT_MAX {
            return Err(StoreError::TooFar { at: self, heard });
        }
        Ok(self.max(heard))
    }
}

impl Backup {
    /// The only form so far.
    pub const FORMAT: u32 = 1;
}

impl Key {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Key {
    type Error = StoreError;
    fn try_from(text: String) -> Result<Self, StoreError> {
        let part_ok = |part: &str| {
            let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
            part.len() <= 63
                && part.bytes().next().is_some_and(plain)
                && part.bytes().all(|c| plain(c) || matches!(c, b'-' | b'_' | b'.'))
        };
        let parts_ok = text.strip_prefix('/').is_some_and(|rest| rest.contains('/') && rest.split('/').all(part_ok));
        if parts_ok && text.len() <= KEY_MAX_BYTES { Ok(Self(text)) } else { Err(StoreError::BadKey(text)) }
    }
}

impl std::str::FromStr for Key {
    type Err = StoreError;
    fn from_str(text: &str) -> Result<Self, StoreError> {
        text.to_owned().try_into()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl Txn {
    /// What every engine refuses before it looks at its objects.
    ///
    /// # Errors
    /// [`StoreError::BadTxn`] or [`StoreError::BadValue`].
    pub fn check(&self) -> Result<(), StoreError> {
        for ops in [&self.then, &self.otherwise] {
            let mut keys: Vec<&Key> = ops.iter().map(Op::key).collect();
            keys.sort_unstable();
            keys.dedup();
            if keys.len() != ops.len() || ops.len() > TXN_MAX_OPS || self.compares.len() > TXN_MAX_OPS {
                return Err(StoreError::BadTxn);
            }
        }
        let values = self.then.iter().chain(&self.otherwise).filter_map(|op| match op {
            Op::Put { key, value, .. } => Some((key, value)),
            Op::Delete(_) => None,
        });
        for (key, value) in values {
            let json = value.len() <= VALUE_MAX_BYTES && serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok();
            if !json {
                return Err(StoreError::BadValue(key.clone()));
            }
        }
        Ok(())
    }
}

impl Op {
    /// The object it changes.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// The epoch that an object carries, if it does.
#[must_use]
pub fn epoch_of(key: &Key, value: &str) -> Option<Epoch> {
    #[derive(Deserialize)]
    struct Carrier {
        epoch: Epoch,
    }
    key.as_str()
        .starts_with(EPOCH_PREFIX)
        .then(|| serde_json::from_str::<Carrier>(value).ok())
        .flatten()
        .map(|it| it.epoch)
}

/// What a restore puts in place: the backup's objects, but of every object that carries an epoch, whichever of the two
/// is higher. A backup of last week must not give a fenced host its volumes back (I12).
#[must_use]
pub fn merge_epochs(current: &[Entry], backup: &Backup) -> Vec<(Key, String)> {
    let mut merged: std::collections::BTreeMap<Key, String> = backup.objects.iter().cloned().collect();
    for entry in current {
        let Some(here) = epoch_of(&entry.key, &entry.value) else {
            continue;
        };
        let there = merged.get(&entry.key).and_then(|value| epoch_of(&entry.key, value));
        if there.is_none_or(|there| there < here) {
            merged.insert(entry.key.clone(), entry.value.clone());
        }
    }
    merged.into_iter().collect()
}
