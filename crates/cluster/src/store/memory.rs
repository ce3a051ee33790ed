//! The store in memory: for the simulator, and the model the other engines are compared with.

use super::{
    Backup, Change, Compare, Engine, Entry, HISTORY_MAX, Key, LeaseId, Listing, Op, Outcome, Revision, StoreError, Txn,
    agrees, merge_epochs,
};
use std::collections::{BTreeMap, VecDeque};
use units::{Millis, Moment};

/// A store that forgets with its owner.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    at: Revision,
    objects: BTreeMap<Key, Entry>,
    history: VecDeque<Change>,
    /// Watching from before this is refused.
    oldest: Revision,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Millis,
    ends: Moment,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Changed(key, at) => self.objects.get(key).map_or(Revision(0), |entry| entry.changed) == *at,
            Compare::Value(key, value) => self.objects.get(key).is_some_and(|entry| agrees(&entry.value, value)),
        }
    }

    fn apply(&mut self, ops: &[Op]) {
        let at = Revision(self.at.0 + 1);
        let changes: Vec<Change> = ops.iter().filter_map(|op| self.apply_one(op, at)).collect();
        if !changes.is_empty() {
            self.at = at;
            self.history.extend(changes);
        }
        while self.history.len() as u64 > HISTORY_MAX {
            self.oldest = self.history.pop_front().expect("longer than its bound").at;
        }
    }

    fn apply_one(&mut self, op: &Op, at: Revision) -> Option<Change> {
        match op {
            Op::Put { key, value, lease } => {
                let created = self.objects.get(key).map_or(at, |entry| entry.created);
                let entry = Entry { key: key.clone(), value: value.clone(), created, changed: at, lease: *lease };
                self.objects.insert(key.clone(), entry);
                Some(Change { at, key: key.clone(), value: Some(value.clone()) })
            }
            Op::Delete(key) => self.objects.remove(key).map(|_| Change { at, key: key.clone(), value: None }),
        }
    }

    fn end(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let gone = self.objects.values().filter(|entry| entry.lease == Some(lease));
        let ops: Vec<Op> = gone.map(|entry| Op::Delete(entry.key.clone())).collect();
        self.apply(&ops);
    }
}

impl Engine for Memory {
    fn get(&mut self, key: &Key) -> Result<Option<Entry>, StoreError> {
        Ok(self.objects.get(key).cloned())
    }

    fn range(&mut self, prefix: &str) -> Result<Listing, StoreError> {
        let entries = self.objects.values().filter(|entry| entry.key.as_str().starts_with(prefix));
        Ok(Listing { at: self.at, entries: entries.cloned().collect() })
    }

    fn txn(&mut self, txn: &Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        let held = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if held { &txn.then } else { &txn.otherwise };
        for op in ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::NoLease(*lease));
            }
        }
        self.apply(ops);
        Ok(Outcome { held, at: self.at })
    }

    fn changes(&mut self, prefix: &str, from: Revision, most: usize) -> Result<Vec<Change>, StoreError> {
        if from < self.oldest {
            return Err(StoreError::Compacted { asked: from, oldest: self.oldest });
        }
        let wanted = self.history.iter().filter(|change| change.at > from && change.key.as_str().starts_with(prefix));
        Ok(wanted.take(most).cloned().collect())
    }

    fn lease(&mut self, ttl: Millis, now: Moment) -> Result<LeaseId, StoreError> {
        self.last_lease += 1;
        let id = LeaseId(self.last_lease);
        self.leases.insert(id, Lease { ttl, ends: now + ttl });
        Ok(id)
    }

    fn keep(&mut self, lease: LeaseId, now: Moment) -> Result<(), StoreError> {
        let kept = self.leases.get_mut(&lease).ok_or(StoreError::NoLease(lease))?;
        kept.ends = now + kept.ttl;
        Ok(())
    }

    fn revoke(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        if !self.leases.contains_key(&lease) {
            return Err(StoreError::NoLease(lease));
        }
        self.end(lease);
        Ok(())
    }

    fn expire(&mut self, now: Moment) -> Result<(), StoreError> {
        let over = self.leases.iter().filter(|(_, lease)| lease.ends <= now);
        let over: Vec<LeaseId> = over.map(|(id, _)| *id).collect();
        over.into_iter().for_each(|lease| self.end(lease));
        Ok(())
    }

    fn backup(&mut self) -> Result<Backup, StoreError> {
        let lasting = self.objects.values().filter(|entry| entry.lease.is_none());
        let objects = lasting.map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        Ok(Backup { format: Backup::FORMAT, at: self.at, objects })
    }

    fn lift(&mut self, heard: Revision) -> Result<Revision, StoreError> {
        self.at = self.at.lifted(heard)?;
        Ok(self.at)
    }

    fn restore(&mut self, backup: &Backup) -> Result<(), StoreError> {
        if backup.format != Backup::FORMAT {
            return Err(StoreError::Failed(format!("a backup of format {} cannot be read here", backup.format)));
        }
        let current: Vec<Entry> = self.objects.values().cloned().collect();
        let merged = merge_epochs(&current, backup);
        self.at = Revision(self.at.max(backup.at).0 + 1);
        self.oldest = self.at;
        self.history.clear();
        self.leases.clear();
        let entry = |(key, value): (Key, String)| {
            (key.clone(), Entry { key, value, created: self.at, changed: self.at, lease: None })
        };
        self.objects = merged.into_iter().map(entry).collect();
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn memory_keeps_the_contract() {
        super::super::conformance::run(&mut || Box::new(Memory::new()));
    }
}
