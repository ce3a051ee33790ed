//! The store's engine on SQLite. Leases are kept in memory: they are hints, and a restart ends them all.

use cluster::store::{
    Backup, Change, Compare, Engine, Entry, HISTORY_MAX, Key, LeaseId, Listing, Op, Outcome, Revision, StoreError, Txn,
    merge_epochs,
};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use std::collections::BTreeMap;
use std::path::Path;
use units::{Millis, Moment};

/// The form of the tables; a newer one is refused, not guessed at.
const SCHEMA: i64 = 1;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS kv (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, created INTEGER NOT NULL, changed INTEGER NOT NULL, lease INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, revision INTEGER NOT NULL, key TEXT NOT NULL, value TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// A store in a file.
pub struct Sqlite {
    connection: Connection,
    leases: BTreeMap<LeaseId, Lease>,
}

#[derive(Clone, Copy)]
struct Lease {
    ttl: Millis,
    ends: Moment,
}

impl Sqlite {
    /// Opens the store in `path`, or makes it.
    ///
    /// # Errors
    /// [`StoreError::Failed`] with what SQLite says and the file's name.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let named = |error: rusqlite::Error| StoreError::Failed(format!("{}: {error}", path.display()));
        Self::prepare(Connection::open(path).map_err(named)?).map_err(|error| match error {
            StoreError::Failed(text) => StoreError::Failed(format!("{}: {text}", path.display())),
            other => other,
        })
    }

    fn prepare(connection: Connection) -> Result<Self, StoreError> {
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(failed)?;
        check(&connection)?;
        connection.execute_batch(TABLES).map_err(failed)?;
        let mut this = Self { connection, leases: BTreeMap::new() };
        let transaction = this.write()?;
        match meta(&transaction, "schema")? {
            0 => set_meta(&transaction, "schema", SCHEMA)?,
            SCHEMA => {}
            newer => {
                let text = format!("its schema is {newer}, this muskox knows {SCHEMA}: use the newer one");
                return Err(StoreError::Failed(text));
            }
        }
        end_leased(&transaction, "lease IS NOT NULL", 0)?;
        transaction.commit().map_err(failed)?;
        Ok(this)
    }

    fn write(&mut self) -> Result<Transaction<'_>, StoreError> {
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)
    }

    fn end(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        let transaction = self.write()?;
        end_leased(&transaction, "lease = ?1", number(lease.0)?)?;
        transaction.commit().map_err(failed)?;
        self.leases.remove(&lease);
        Ok(())
    }
}

/// A damaged store is heard of at the start, not in the middle of a decision. A few megabytes take milliseconds.
fn check(connection: &Connection) -> Result<(), StoreError> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if found == "ok" { Ok(()) } else { Err(failed(format!("it is damaged: {found}"))) }
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

/// SQLite's integers are signed; revisions stay far below.
fn number(n: u64) -> Result<i64, StoreError> {
    i64::try_from(n).map_err(failed)
}

fn revision(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    row.get::<_, i64>(column).map(|n| Revision(n.unsigned_abs()))
}

fn key(row: &Row<'_>, column: usize) -> rusqlite::Result<Key> {
    let text: String = row.get(column)?;
    Key::try_from(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: key(row, 0)?,
        value: row.get(1)?,
        created: revision(row, 2)?,
        changed: revision(row, 3)?,
        lease: row.get::<_, Option<i64>>(4)?.map(|n| LeaseId(n.unsigned_abs())),
    })
}

const ENTRY: &str = "SELECT key, value, created, changed, lease FROM kv";

fn meta(on: &Connection, name: &str) -> Result<i64, StoreError> {
    let found = on.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0));
    found.optional().map(|value| value.unwrap_or(0)).map_err(failed)
}

fn set_meta(on: &Connection, name: &str, value: i64) -> Result<(), StoreError> {
    let sql = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2";
    on.execute(sql, params![name, value]).map(drop).map_err(failed)
}

fn get(on: &Connection, wanted: &Key) -> Result<Option<Entry>, StoreError> {
    let mut query = on.prepare_cached(&format!("{ENTRY} WHERE key = ?1")).map_err(failed)?;
    query.query_row([wanted.as_str()], entry).optional().map_err(failed)
}

/// Keys are lower-case ASCII, so text order and a half-open range find a prefix.
fn range(on: &Connection, prefix: &str) -> Result<Vec<Entry>, StoreError> {
    let sql = format!("{ENTRY} WHERE key >= ?1 AND key < ?1 || char(1114111) ORDER BY key");
    let mut query = on.prepare_cached(&sql).map_err(failed)?;
    let rows = query.query_map([prefix], entry).map_err(failed)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failed)
}

fn holds(on: &Connection, compare: &Compare) -> Result<bool, StoreError> {
    Ok(match compare {
        Compare::Changed(key, at) => get(on, key)?.map_or(Revision(0), |entry| entry.changed) == *at,
        Compare::Value(key, value) => get(on, key)?.is_some_and(|entry| cluster::store::agrees(&entry.value, value)),
    })
}

/// Writes the changes at the next revision and returns the store's revision.
fn apply(on: &Connection, ops: &[Op]) -> Result<i64, StoreError> {
    let before = meta(on, "revision")?;
    let at = before + 1;
    let mut changed = 0;
    for op in ops {
        changed += apply_one(on, op, at)?;
    }
    if changed == 0 {
        return Ok(before);
    }
    set_meta(on, "revision", at)?;
    compact(on)?;
    Ok(at)
}

fn apply_one(on: &Connection, op: &Op, at: i64) -> Result<usize, StoreError> {
    let log = "INSERT INTO log (revision, key, value) VALUES (?1, ?2, ?3)";
    match op {
        Op::Put { key, value, lease } => {
            let sql = "INSERT INTO kv VALUES (?1, ?2, ?3, ?3, ?4)
                       ON CONFLICT (key) DO UPDATE SET value = ?2, changed = ?3, lease = ?4";
            let lease = lease.map(|lease| number(lease.0)).transpose()?;
            on.prepare_cached(sql)
                .and_then(|mut put| put.execute(params![key.as_str(), value, at, lease]))
                .map_err(failed)?;
            on.prepare_cached(log).and_then(|mut put| put.execute(params![at, key.as_str(), value])).map_err(failed)
        }
        Op::Delete(key) => {
            let gone = on.execute("DELETE FROM kv WHERE key = ?1", [key.as_str()]).map_err(failed)?;
            if gone > 0 {
                on.execute(log, params![at, key.as_str(), None::<String>]).map_err(failed)?;
            }
            Ok(gone)
        }
    }
}

fn compact(on: &Connection) -> Result<(), StoreError> {
    let keep = number(HISTORY_MAX)?;
    let sql = "SELECT seq, revision FROM log ORDER BY seq DESC LIMIT 1 OFFSET ?1";
    let last_dropped = on.prepare_cached(sql).and_then(|mut query| {
        query.query_row([keep], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()
    });
    let Some((seq, at)) = last_dropped.map_err(failed)? else { return Ok(()) };
    on.execute("DELETE FROM log WHERE seq <= ?1", [seq]).map_err(failed)?;
    set_meta(on, "oldest", at)
}

fn end_leased(on: &Connection, which: &str, lease: i64) -> Result<(), StoreError> {
    let sql = format!("SELECT key FROM kv WHERE {which} ORDER BY key");
    let mut query = on.prepare(&sql).map_err(failed)?;
    let bound: &[&dyn rusqlite::ToSql] = if query.parameter_count() == 1 { &[&lease] } else { &[] };
    let keys = query.query_map(bound, |row| key(row, 0)).map_err(failed)?;
    let ops = keys.map(|key| key.map(Op::Delete)).collect::<rusqlite::Result<Vec<_>>>().map_err(failed)?;
    apply(on, &ops).map(drop)
}

impl Engine for Sqlite {
    fn get(&mut self, key: &Key) -> Result<Option<Entry>, StoreError> {
        get(&self.connection, key)
    }

    fn range(&mut self, prefix: &str) -> Result<Listing, StoreError> {
        let at = Revision(meta(&self.connection, "revision")?.unsigned_abs());
        Ok(Listing { at, entries: range(&self.connection, prefix)? })
    }

    fn txn(&mut self, txn: &Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        let leases: Vec<LeaseId> = self.leases.keys().copied().collect();
        let transaction = self.write()?;
        let mut held = true;
        for compare in &txn.compares {
            held &= holds(&transaction, compare)?;
        }
        let ops = if held { &txn.then } else { &txn.otherwise };
        for op in ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !leases.contains(lease)
            {
                return Err(StoreError::NoLease(*lease));
            }
        }
        let at = apply(&transaction, ops)?;
        transaction.commit().map_err(failed)?;
        Ok(Outcome { held, at: Revision(at.unsigned_abs()) })
    }

    fn changes(&mut self, prefix: &str, from: Revision, most: usize) -> Result<Vec<Change>, StoreError> {
        let oldest = Revision(meta(&self.connection, "oldest")?.unsigned_abs());
        if from < oldest {
            return Err(StoreError::Compacted { asked: from, oldest });
        }
        let sql = "SELECT revision, key, value FROM log
                   WHERE revision > ?1 AND key >= ?2 AND key < ?2 || char(1114111) ORDER BY seq LIMIT ?3";
        let mut query = self.connection.prepare_cached(sql).map_err(failed)?;
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = query.query_map(params![number(from.0)?, prefix, limit], |row| {
            Ok(Change { at: revision(row, 0)?, key: key(row, 1)?, value: row.get(2)? })
        });
        rows.and_then(Iterator::collect).map_err(failed)
    }

    fn lease(&mut self, ttl: Millis, now: Moment) -> Result<LeaseId, StoreError> {
        let transaction = self.write()?;
        let last = meta(&transaction, "lease")? + 1;
        set_meta(&transaction, "lease", last)?;
        transaction.commit().map_err(failed)?;
        let id = LeaseId(last.unsigned_abs());
        self.leases.insert(id, Lease { ttl, ends: now + ttl });
        Ok(id)
    }

    fn keep(&mut self, lease: LeaseId, now: Moment) -> Result<(), StoreError> {
        let kept = self.leases.get_mut(&lease).ok_or(StoreError::NoLease(lease))?;
        kept.ends = now + kept.ttl;
        Ok(())
    }

    fn revoke(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        if self.leases.contains_key(&lease) { self.end(lease) } else { Err(StoreError::NoLease(lease)) }
    }

    fn expire(&mut self, now: Moment) -> Result<(), StoreError> {
        let over = self.leases.iter().filter(|(_, lease)| lease.ends <= now);
        let over: Vec<LeaseId> = over.map(|(id, _)| *id).collect();
        over.into_iter().try_for_each(|lease| self.end(lease))
    }

    fn backup(&mut self) -> Result<Backup, StoreError> {
        let listing = self.range("/")?;
        let lasting = listing.entries.into_iter().filter(|entry| entry.lease.is_none());
        let objects = lasting.map(|entry| (entry.key, entry.value)).collect();
        Ok(Backup { format: Backup::FORMAT, at: listing.at, objects })
    }

    fn lift(&mut self, heard: Revision) -> Result<Revision, StoreError> {
        let transaction = self.write()?;
        let lifted = Revision(meta(&transaction, "revision")?.unsigned_abs()).lifted(heard)?;
        set_meta(&transaction, "revision", number(lifted.0)?)?;
        transaction.commit().map_err(failed)?;
        Ok(lifted)
    }

    fn restore(&mut self, backup: &Backup) -> Result<(), StoreError> {
        if backup.format != Backup::FORMAT {
            return Err(StoreError::Failed(format!("a backup of format {} cannot be read here", backup.format)));
        }
        let current = self.range("/")?;
        let at = number(current.at.max(backup.at).0 + 1)?;
        let transaction = self.write()?;
        transaction.execute_batch("DELETE FROM kv; DELETE FROM log;").map_err(failed)?;
        for (key, value) in merge_epochs(&current.entries, backup) {
            let sql = "INSERT INTO kv VALUES (?1, ?2, ?3, ?3, NULL)";
            transaction.execute(sql, params![key.as_str(), value, at]).map_err(failed)?;
        }
        set_meta(&transaction, "revision", at)?;
        set_meta(&transaction, "oldest", at)?;
        transaction.commit().map_err(failed)?;
        self.leases.clear();
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn in_memory() -> Sqlite {
        Sqlite::prepare(Connection::open_in_memory().expect("memory")).expect("an empty store")
    }

    #[test]
    fn sqlite_keeps_the_contract() {
        cluster::store::conformance::run(&mut || Box::new(in_memory()));
    }

    /// Goal: what was answered is there after a restart, and leases are not. Method: close, open again.
    #[test]
    fn a_file_outlives_its_process() {
        let dir = std::env::temp_dir().join(format!("muskox-store-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a scratch folder");
        let path = dir.join("store.db");
        let key = |text: &str| text.parse::<Key>().expect("a key");
        let at = {
            let mut store = Sqlite::open(&path).expect("a new store");
            let lease = store.lease(Millis(60_000), Moment(0)).expect("a lease");
            let lasting = Op::Put { key: key("/vm/a"), value: "1".into(), lease: None };
            let leased = Op::Put { key: key("/vm/b"), value: "1".into(), lease: Some(lease) };
            let at = store.txn(&Txn { then: vec![lasting, leased], ..Txn::default() }).expect("a change").at;
            // The end of the lease is one more change.
            store.lift(Revision(98)).expect("lift works");
            at
        };
        let mut store = Sqlite::open(&path).expect("the same store");
        assert_eq!(store.range("/").expect("range works").at, Revision(99));
        assert_eq!(store.get(&key("/vm/a")).expect("get works").expect("lasting").changed, at);
        assert_eq!(store.get(&key("/vm/b")).expect("get works"), None);
        let other = Sqlite::open(&path);
        assert!(other.is_err(), "one process at a time");
        drop(store);
        std::fs::remove_dir_all(&dir).expect("our own folder");
    }

    /// Goal: damage is heard of at the start. Method: spoil one page of many, far from the header.
    #[test]
    fn a_damaged_file_is_refused() {
        let path = std::env::temp_dir().join(format!("muskox-store-damaged-{}.db", std::process::id()));
        {
            let mut store = Sqlite::open(&path).expect("a new store");
            for n in 0..50 {
                let key = format!("/vm/n{n}").parse().expect("a key");
                let op = Op::Put { key, value: format!("\"{}\"", "x".repeat(2000)), lease: None };
                store.txn(&Txn { then: vec![op], ..Txn::default() }).expect("a change");
            }
        }
        let mut bytes = std::fs::read(&path).expect("the file");
        let at = bytes.len() / 2 / 4096 * 4096;
        bytes[at..at + 4096].fill(0xff);
        std::fs::write(&path, bytes).expect("our own file");
        let Err(error) = Sqlite::open(&path) else { panic!("a damaged store was opened") };
        assert!(error.to_string().contains("damaged"), "{error}");
        std::fs::remove_file(&path).expect("our own file");
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let store = in_memory();
        set_meta(&store.connection, "schema", 2).expect("meta");
        let Err(error) = Sqlite::prepare(store.connection) else { panic!("a newer schema was taken") };
        assert!(error.to_string().contains("schema is 2"), "{error}");
    }
}
