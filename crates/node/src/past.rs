//! A store that is brought back from a backup has forgotten what came after: who was removed, and by which witnesses a host may still
//! hold its lease. Every machine keeps both (`cluster.json`), as it was told them each second, and says them to such a store.
//!
//! Invariant: after a restore nobody is admitted and nobody is dead before a majority of the machines, by every set of witnesses
//! that is known, has said what it keeps. Who has not is named (`muskox doctor`); its word is taken whenever it comes.

use crate::director::{keep_sets, witness_sets};
use crate::registry::{self, Record};
use crate::root::{Root, read_text, write_secret};
use crate::store::{failed, parse_object};
use crate::versions::check_version;
use api::{Code, Problem};
use cluster::lease::{MEMBERS_MAX, majority};
use cluster::store::{Backup, Compare, Engine, Entry, Key, Op, Revision, Txn, UnknownFields};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use units::{HostKey, NodeName};

/// The only form of the file and of the object so far.
const FORM: u32 = 1;
/// Machines that a cluster may have removed in its life: ten times what it may have.
const REMOVED_MAX: usize = 10 * MEMBERS_MAX;
/// Sets that one machine may keep: twice what the store ever told at once.
const SETS_MAX: usize = 16;

/// A machine that was removed for good.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Removed {
    /// Who it was.
    pub key: HostKey,
    /// What it was called.
    pub name: NodeName,
    /// When, in seconds since 1970.
    pub removed_s: u64,
}

/// What a machine keeps of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    version: u32,
    /// Who was removed, by key.
    pub removed: Vec<Removed>,
    /// Every set of witnesses that a host may go by.
    pub sets: Vec<Vec<HostKey>>,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    unknown_fields: UnknownFields,
}

impl Default for Kept {
    fn default() -> Self {
        let (removed, sets, unknown_fields) = (Vec::new(), Vec::new(), UnknownFields::default());
        Self { version: FORM, removed, sets, unknown_fields }
    }
}

/// What the store tells a machine, to be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToKeep {
    /// All who were removed; nobody, if the machine keeps as many.
    #[serde(default)]
    pub removed: Vec<Removed>,
    /// Every set of witnesses that a host may go by.
    #[serde(default)]
    pub sets: Vec<Vec<HostKey>>,
    /// The store was brought back from a backup: the machine is to say what it keeps.
    #[serde(default)]
    pub tell: bool,
}

impl Kept {
    fn file(root: &Root) -> PathBuf {
        root.state().join("cluster.json")
    }

    /// What this machine keeps; nothing yet, if there is no file.
    ///
    /// # Errors
    /// [`Code::Files`]: it cannot be read. It is not replaced then: what it says may be needed.
    pub fn load(root: &Root) -> Result<Self, Problem> {
        let path = Self::file(root);
        if Root::first_that_exists(std::slice::from_ref(&path))?.is_none() {
            return Ok(Self::default());
        }
        let wrong = |what: String| {
            let text = format!("what this machine keeps of the cluster cannot be read: '{}': {what}", path.display());
            let hint = "move the file away if no store has to be brought back; the store tells it anew";
            Problem::new(Code::Files, text, hint)
        };
        Self::parse(&read_text(&path)?).map_err(wrong)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_version(text, FORM)?;
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Writes it down.
    ///
    /// # Errors
    /// [`Code::Files`]: the old content stands.
    pub fn save(&self, root: &Root) -> Result<(), Problem> {
        write_secret(&Self::file(root), &serde_json::to_string(self).expect("plain data"))
    }

    /// What is kept after this was told. Who was removed is never forgotten; sets are, when the store says that no host goes by
    /// them any more, and knows what this machine knows.
    #[must_use]
    pub fn after(&self, told: &ToKeep) -> Self {
        let mut next = self.clone();
        next.removed.extend(told.removed.iter().cloned());
        next.removed.sort_unstable();
        next.removed.dedup_by_key(|it| it.key);
        match (told.tell, told.sets.is_empty()) {
            (_, true) => {}
            (false, false) => next.sets.clone_from(&told.sets),
            (true, false) => {
                let more = told.sets.iter().filter(|set| !self.sets.contains(set)).cloned();
                next.sets.extend(more.take(SETS_MAX.saturating_sub(self.sets.len())));
            }
        }
        next
    }
}

/// `/cluster/restored`: the store was brought back, and not every machine has said what it keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    version: u32,
    /// When, in seconds since 1970.
    pub restored_s: u64,
    /// Who has said it.
    pub told: Vec<HostKey>,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    unknown_fields: UnknownFields,
}

/// What a machine is to keep. `keeps`: how many removed machines it keeps already.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn to_keep(engine: &mut dyn Engine, from: HostKey, keeps: Option<usize>) -> Result<ToKeep, Problem> {
    let members = registry::members(engine)?;
    let mut removed = registry::removed(engine)?;
    if keeps == Some(removed.len()) {
        removed.clear();
    }
    let sets = witness_sets(engine, &members)?;
    let tell = open(engine)?.is_some_and(|(restored, _)| !restored.told.contains(&from));
    Ok(ToKeep { removed, sets, tell })
}

/// Takes over what a machine keeps. Nothing, if this store was not brought back.
///
/// # Errors
/// [`Code::StoreFailed`]; [`Code::BadRequest`]: more than any machine keeps.
pub fn hear(engine: &mut dyn Engine, (from, holder): (HostKey, HostKey), kept: &Kept) -> Result<(), Problem> {
    if open(engine)?.is_none() {
        return Ok(());
    }
    let fits = kept.removed.len() <= REMOVED_MAX && kept.sets.len() <= SETS_MAX;
    if !fits || kept.sets.iter().any(|set| set.len() > MEMBERS_MAX) {
        let text =
            format!("a machine keeps at most {REMOVED_MAX} removed machines and {SETS_MAX} sets of {MEMBERS_MAX}");
        return Err(Problem::new(Code::BadRequest, text, "see var/lib/muskox/cluster.json there"));
    }
    keep_sets(engine, &kept.sets)?;
    // Nobody decides anything without the store's own machine.
    for removed in kept.removed.iter().filter(|it| it.key != holder) {
        if registry::remove_again(engine, removed)? {
            tracing::warn!(
                "'{}' ({}) had been removed before the store was brought back: it is out again",
                removed.name,
                removed.key
            );
        }
    }
    // Last: a crash before this has it said once more.
    let Some((mut restored, at)) = open(engine)? else { return Ok(()) };
    if !restored.told.contains(&from) {
        restored.told.push(from);
    }
    let all = registry::members(engine)?.iter().all(|member| restored.told.contains(&member.key));
    let op = if all { Op::Delete(key()) } else { registry::put(&key(), &restored) };
    let txn = Txn { compares: vec![Compare::Changed(key(), at)], then: vec![op], otherwise: Vec::new() };
    engine.txn(&txn).map(drop).map_err(|error| failed(&error))
}

/// Members that have not said what they keep since the store was brought back.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn unheard(engine: &mut dyn Engine) -> Result<Vec<Record>, Problem> {
    let Some((restored, _)) = open(engine)? else { return Ok(Vec::new()) };
    let mut members = registry::members(engine)?;
    members.retain(|member| !restored.told.contains(&member.key));
    Ok(members)
}

/// Refuses what must wait until enough machines have said what they keep.
///
/// # Errors
/// [`Code::Busy`], with their names; [`Code::StoreFailed`].
pub fn check_heard(engine: &mut dyn Engine) -> Result<(), Problem> {
    let Some((restored, _)) = open(engine)? else { return Ok(()) };
    let members = registry::members(engine)?;
    let mut sets = witness_sets(engine, &members)?;
    sets.push(members.iter().map(|member| member.key).collect());
    let heard = |set: &Vec<HostKey>| set.iter().filter(|key| restored.told.contains(key)).count();
    if sets.iter().all(|set| heard(set) >= majority(set.len())) {
        return Ok(());
    }
    let names: Vec<String> =
        members.iter().filter(|it| !restored.told.contains(&it.key)).map(|it| format!("'{}'", it.name)).collect();
    let text = format!(
        "the store was brought back from a backup, and too few machines have said whom it forgot: {} not yet",
        names.join(", ")
    );
    let hint =
        "a node says it within seconds of its start; remove machines that are gone for good (`muskox node remove`)";
    Err(Problem::new(Code::Busy, text, hint))
}

fn open(engine: &mut dyn Engine) -> Result<Option<(Restored, Revision)>, Problem> {
    let entry = engine.get(&key()).map_err(|error| failed(&error))?;
    entry.map(|entry| Ok((parse_object(&entry)?, entry.changed))).transpose()
}

fn key() -> Key {
    "/cluster/restored".parse().expect("a word of letters is a part of a key")
}

/// A backup as it is brought back: no token of it is good any more, who was removed since stays out as far as the store that is
/// still there knows, and its machines are to say what they keep.
///
/// # Errors
/// [`Code::StoreFailed`]: an object of either is a newer version's.
pub fn forgetful(backup: Backup, current: &[Entry], restored_s: u64) -> Result<Backup, Problem> {
    let entry =
        |(key, value): (Key, String)| Entry { key, value, created: Revision(1), changed: Revision(1), lease: None };
    let Backup { format, at, objects } = backup;
    let mut objects: BTreeMap<Key, String> = objects.into_iter().collect();
    objects.retain(|key, _| !key.as_str().starts_with(registry::TOKENS));
    for gone in current.iter().filter(|it| it.key.as_str().starts_with(registry::REMOVED)) {
        let removed = registry::removed_of(gone)?;
        let nodes: Vec<(Key, String)> = objects
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(registry::NODES))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for node in nodes {
            let record: Record = parse_object(&entry(node))?;
            if record.key == removed.key {
                registry::keys_of(&record).iter().for_each(|key| drop(objects.remove(key)));
            }
        }
        objects.insert(gone.key.clone(), gone.value.clone());
    }
    let (told, unknown_fields) = (Vec::new(), UnknownFields::default());
    let restored = Restored { version: FORM, restored_s, told, unknown_fields };
    objects.insert(key(), serde_json::to_string(&restored).expect("plain data"));
    Ok(Backup { format, at, objects: objects.into_iter().collect() })
}

#[cfg(test)]
mod test;
