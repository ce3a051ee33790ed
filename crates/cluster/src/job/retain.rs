//! Ended jobs are kept for a while, by number: the newest tell what happened.

use super::{Plan, Record};
use crate::store::{Compare, Entry, Op, Txn};

/// Ended jobs kept: of the store's few megabytes, at 8 KiB each, less than one.
pub const KEEP_MAX: usize = 100;

/// What removes the oldest ended jobs beyond [`KEEP_MAX`], each by its own transaction. Jobs that cannot be read (of a
/// newer version) are left alone.
#[must_use]
pub fn expired<P: Plan>(jobs: &[Entry]) -> Vec<Txn> {
    let ended = |entry: &&Entry| Record::<P>::read(&entry.value).is_ok_and(|record| record.outcome.is_some());
    let mut ended: Vec<&Entry> = jobs.iter().filter(ended).collect();
    ended.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.changed));
    let remove = |entry: &&Entry| Txn {
        compares: vec![Compare::Changed(entry.key.clone(), entry.changed)],
        then: vec![Op::Delete(entry.key.clone())],
        otherwise: Vec::new(),
    };
    ended.iter().skip(KEEP_MAX).map(remove).collect()
}
