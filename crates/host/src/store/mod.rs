//! Where the store's objects live: SQLite in one file of this machine (docs/rfd/0004-store.md).
//!
//! WAL with `synchronous=FULL`: an answered transaction outlives a power cut. `sqlite3` opens the file for rescue.
//! This room does *not* know what the objects mean, except that an epoch never goes back.

mod sqlite;

pub use sqlite::Sqlite;
