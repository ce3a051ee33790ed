//! A job as it lies in the store.

use super::{Ownership, PREFIX, Plan};
use crate::store::{Compare, Entry, Key, Op, Txn, UnknownFields};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt;
use std::str::FromStr;
use units::{HostKey, Millis, Moment, VmName};

/// Notes kept of one job: the first and the newest. A migration without faults makes seven; a takeover makes one.
pub const HISTORY_MAX: usize = 32;

/// A job's id: a name that was never used before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(VmName);

impl FromStr for JobId {
    type Err = units::IdentError;
    fn from_str(text: &str) -> Result<Self, units::IdentError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a job came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "end")]
pub enum Outcome {
    /// As wished.
    Done,
    /// Everything is as before, and this is why.
    Undone {
        /// Why.
        why: String,
    },
    /// The guest does not run; a recovery is due.
    Lost {
        /// Why.
        why: String,
    },
    /// Somebody else changed what the job worked on; it let go.
    Conflict,
}

impl Outcome {
    /// Why it did not end as wished.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Done => None,
            Self::Undone { why } | Self::Lost { why } => Some(why),
            Self::Conflict => Some("the VM's ownership was changed by somebody else"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Done => "done",
            Self::Undone { .. } => "undone",
            Self::Lost { .. } => "lost",
            Self::Conflict => "conflict",
        };
        f.write_str(word)?;
        self.why().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

/// One line of a job's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Time the job had taken by then.
    pub after_ms: Millis,
    /// Who wrote it.
    pub by: HostKey,
    /// The stage that was entered.
    pub stage: String,
    /// Why, if not for the obvious reason.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

/// A job. Times are spans, added up by whoever worked on it: moments of two machines are never compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record<P> {
    /// Of this object's form.
    pub version: u32,
    /// Which job.
    pub id: JobId,
    /// Who works on it.
    pub owner: HostKey,
    /// How often it changed hands.
    pub term: u64,
    /// What is to be done and how far it is.
    pub plan: P,
    /// The VM's ownership as this job last wrote it.
    pub owned: Ownership,
    /// After this long it is undone, while that is possible.
    pub deadline_ms: Millis,
    /// Time taken so far.
    pub spent_ms: Millis,
    /// Time taken in the present stage so far.
    pub in_stage_ms: Millis,
    /// Somebody wishes that it be undone.
    pub cancel: bool,
    /// What it waits for, longer than it should.
    pub blocked: Option<String>,
    /// What it came to.
    pub outcome: Option<Outcome>,
    /// What happened, oldest first, at most [`HISTORY_MAX`].
    pub history: Vec<Note>,
    /// When this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    pub unknown_fields: UnknownFields,
}

/// A moment of a named clock: whoever reads it by the same clock knows how long ago it was. Moments of two clocks are never
/// compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Which clock: of one boot of one machine.
    pub clock: String,
    /// When: its milliseconds.
    pub at_ms: u64,
}

/// Why an object is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Not JSON of this form.
    #[error("the stored {what} cannot be read")]
    Unreadable {
        /// What kind of object.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// Written by a newer muskox.
    #[error("the stored {what} has version {version}, which this muskox does not know; update it first")]
    Version {
        /// What kind of object.
        what: &'static str,
        /// Its version.
        version: u32,
    },
    /// More volumes than one transaction moves.
    #[error("VM '{vm}' has {count} volumes; at most {} can move together", super::ownership::VOLUMES_MAX)]
    TooManyVolumes {
        /// Which VM.
        vm: VmName,
        /// How many.
        count: usize,
    },
    /// It is over.
    #[error("job {0} has ended")]
    Ended(JobId),
}

impl<P: Plan> Record<P> {
    /// The only form so far.
    pub const VERSION: u32 = 1;

    /// Its key.
    #[must_use]
    pub fn key(id: &JobId) -> Key {
        format!("{PREFIX}{id}").parse().expect("an id is a part of a key")
    }

    /// Reads the object.
    ///
    /// # Errors
    /// [`JobError::Unreadable`], [`JobError::Version`].
    pub fn read(value: &str) -> Result<Self, JobError> {
        let it: Self = serde_json::from_str(value).map_err(|source| JobError::Unreadable { what: "job", source })?;
        if it.version == Self::VERSION { Ok(it) } else { Err(JobError::Version { what: "job", version: it.version }) }
    }

    /// The change that stores it.
    #[must_use]
    pub fn put(&self) -> Op {
        Op::Put { key: Self::key(&self.id), value: serde_json::to_string(self).expect("plain data"), lease: None }
    }

    /// How long ago this was written, by that clock; none: it was written by another.
    #[must_use]
    pub fn silence(&self, clock: &str, now: Moment) -> Option<Millis> {
        let written = self.written.as_ref().filter(|written| written.clock == clock && !clock.is_empty())?;
        Some(now.since(Moment(written.at_ms)))
    }

    /// Adds a line to the history; of a long one the oldest after the first goes.
    pub(super) fn note(&mut self, why: Option<String>) {
        let (after_ms, by, stage) = (self.spent_ms, self.owner, self.plan.stage().to_owned());
        self.history.push(Note { after_ms, by, stage, why });
        if self.history.len() > HISTORY_MAX {
            self.history.remove(1);
        }
    }
}

/// The transaction that wishes a job undone. Not held: read it again and ask again.
///
/// # Errors
/// [`JobError::Ended`], or the object cannot be read.
pub fn cancel<P: Plan + DeserializeOwned>(entry: &Entry) -> Result<Txn, JobError> {
    let mut record = Record::<P>::read(&entry.value)?;
    if record.outcome.is_some() {
        return Err(JobError::Ended(record.id));
    }
    record.cancel = true;
    let compares = vec![Compare::Changed(entry.key.clone(), entry.changed)];
    Ok(Txn { compares, then: vec![record.put()], otherwise: Vec::new() })
}
