//! `muskox node store-backup` and `store-restore`: the store's objects as one file, and back.
//!
//! Invariant: a backup is of one moment and for its owner's eyes only; a restore never lowers an epoch that the store knows,
//! never runs beside a node, never makes a join token good again, and never brings another cluster's objects. What only *targets* know stays higher anyhow: the
//! maximum wins there (docs/rfd/0003-gate.md, rule 8).

use crate::client;
use crate::clock::now_s;
use crate::identity::Identity;
use crate::past;
use crate::registry;
use crate::root::{Root, unusable, unusable_given};
use crate::service::{Keeper, Node};
use crate::store::failed;
use api::{Call, Code, Done, Problem, StoreBackupRequest};
use cluster::job::{PREFIX, Record, Task};
use cluster::store::{Backup, Engine};
use host::net::connect_unix;
use host::store::Sqlite;
use serde::Deserialize;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A cluster of hundreds of VMs has a few megabytes.
const BACKUP_MAX_BYTES: u64 = 256 << 20;
const OWNER_ONLY: u32 = 0o600;

/// Answers `store_backup`: the running node writes the file.
///
/// # Errors
/// [`Code::NotTheStore`], [`Code::Files`], [`Code::StoreFailed`].
pub async fn answer(node: &Node, request: StoreBackupRequest) -> Result<Done, Problem> {
    let Some(Keeper { store, .. }) = &node.keeper else { return Err(not_here()) };
    let backup = store.ask(|engine| engine.backup().map_err(|error| failed(&error))).await?;
    write(Path::new(&request.path), &backup)
}

/// Backs the store up: by the node if it runs, otherwise from its file.
///
/// # Errors
/// As [`answer`]; nothing is left of a file that could not be written whole.
pub async fn backup(root: &Root, file: &Path) -> Result<Done, Problem> {
    let file = std::path::absolute(file).map_err(|error| unusable(file, "found", &error))?;
    if let Ok(transport) = connect_unix(&root.socket()).await {
        let path = file.to_str().ok_or_else(|| {
            Problem::new(Code::BadRequest, format!("the path '{}' is not UTF-8", file.display()), "use another")
        })?;
        let request = StoreBackupRequest { path: path.to_owned() };
        return client::call(transport, Call::named("store_backup"), &request).await;
    }
    let mut engine = open(root)?;
    write(&file, &engine.backup().map_err(|error| failed(&error))?)
}

/// Brings a backup back, while the node does not run.
///
/// # Errors
/// [`Code::InUse`]: it runs; [`Code::BadRequest`]: the file is no backup of this cluster; [`Code::StoreFailed`]: nothing was
/// changed.
pub async fn restore(root: &Root, file: &Path) -> Result<Done, Problem> {
    if connect_unix(&root.socket()).await.is_ok() {
        let text = "this machine's node runs";
        return Err(Problem::new(Code::InUse, text, "stop it first: `systemctl stop muskox-node`; guests run on"));
    }
    let identity = Identity::load(root)?;
    if identity.store.is_some() {
        return Err(not_here());
    }
    let backup = without_jobs(read(file)?);
    check_cluster(root, &identity, file, &backup)?;
    let (path, fresh) = (root.store(), root.store().with_extension("restored"));
    if path.is_file() {
        let mut engine = Sqlite::open(&path).map_err(|error| failed(&error))?;
        let current = engine.range("/").map_err(|error| failed(&error))?.entries;
        engine.restore(&past::forgetful(backup.clone(), &current, now_s())?).map_err(|error| failed(&error))?;
        return Ok(restored(&backup, "no epoch that it knew was lowered"));
    }
    // A store that is lost: made beside, so that half of one is never taken for it.
    for left in leftovers(&fresh) {
        match std::fs::remove_file(&left) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(unusable(&left, "removed", &error));
            }
            _ => {}
        }
    }
    let mut engine = Sqlite::open(&fresh).map_err(|error| failed(&error))?;
    engine.restore(&past::forgetful(backup.clone(), &[], now_s())?).map_err(|error| failed(&error))?;
    drop(engine);
    let moved = std::fs::rename(&fresh, &path).and_then(|()| File::open(root.state())?.sync_all());
    moved.map_err(|error| unusable(&path, "written", &error))?;
    Ok(restored(
        &backup,
        "the former store was gone: what was decided after the backup is forgotten; `muskox doctor` names VMs on which the store is behind",
    ))
}

/// Jobs that went on when the backup was made are of the past, and so are their orders: none is taken up again. The VM that
/// one worked on is free, and is looked at as it is.
fn without_jobs(mut backup: Backup) -> Backup {
    // One that cannot be read is a newer muskox's, which will say so.
    let goes_on = |value: &str| Record::<Task>::read(value).is_ok_and(|record| record.outcome.is_none());
    backup.objects.retain(|(key, value)| !(key.as_str().starts_with(PREFIX) && goes_on(value)));
    backup
}

fn restored(backup: &Backup, more: &str) -> Done {
    let text =
        format!("the store holds the {} objects of the backup, but for its join tokens; {more}", backup.objects.len());
    Done { text }
}

fn leftovers(path: &Path) -> [PathBuf; 3] {
    let beside = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    [path.to_owned(), beside("-wal"), beside("-shm")]
}

fn open(root: &Root) -> Result<Sqlite, Problem> {
    let identity = Identity::load(root)?;
    let path = root.store();
    if identity.store.is_some() {
        return Err(not_here());
    }
    if !path.is_file() {
        let text = format!("the store '{}' is gone", path.display());
        return Err(Problem::new(Code::StoreFailed, text, "bring it back with `muskox node store-restore FILE`"));
    }
    Sqlite::open(&path).map_err(|error| failed(&error))
}

fn not_here() -> Problem {
    Problem::new(Code::NotTheStore, "this machine does not hold the store", "do it on the machine that ran `init`")
}

/// The backup knows this machine by its key, so it is of this cluster.
fn check_cluster(root: &Root, identity: &Identity, file: &Path, backup: &Backup) -> Result<(), Problem> {
    let own = format!("/node/{}", identity.name);
    let found = backup.objects.iter().find(|(key, _)| key.as_str() == own);
    let record = found.and_then(|(_, value)| serde_json::from_str::<registry::Record>(value).ok());
    let request = crate::authority::request_for(&crate::root::read_secret(&root.key())?)?;
    let key = crate::authority::key_of_request(&request)?;
    if record.is_some_and(|record| record.key == key) {
        return Ok(());
    }
    let text = format!("'{}' is a backup of another cluster: it does not know this machine's key", file.display());
    Err(Problem::new(Code::BadRequest, text, "bring etc/muskox back together with the store's backup"))
}

#[derive(Deserialize)]
struct Form {
    format: u64,
}

/// A new file for its owner only; durable when it is said to be done.
fn write(file: &Path, backup: &Backup) -> Result<Done, Problem> {
    if !file.is_absolute() {
        return Err(Problem::new(Code::BadRequest, "the path is not absolute", "write it from / on"));
    }
    let bytes = serde_json::to_vec(backup).expect("plain data");
    let made = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(file);
    let mut made = made.map_err(|error| unusable_given(file, "made", &error))?;
    let folder = file.parent().expect("an absolute file has a folder");
    let written = made.write_all(&bytes).and_then(|()| made.sync_all()).and_then(|()| File::open(folder)?.sync_all());
    if let Err(error) = written {
        let _ = std::fs::remove_file(file);
        return Err(unusable_given(file, "written", &error));
    }
    let (count, at) = (backup.objects.len(), backup.at.0);
    let text =
        format!("'{}' holds the store's {count} objects at revision {at}; back up etc/muskox too", file.display());
    Ok(Done { text })
}

fn read(file: &Path) -> Result<Backup, Problem> {
    let mut text = String::new();
    let opened = File::open(file).and_then(|file| file.take(BACKUP_MAX_BYTES).read_to_string(&mut text));
    opened.map_err(|error| unusable(file, "read", &error))?;
    let wrong = |what: String| {
        let text = format!("'{}' is no whole backup of a store: {what}", file.display());
        Problem::new(Code::BadRequest, text, "use a file that `muskox node store-backup` made; nothing was changed")
    };
    let form: Form = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if form.format != u64::from(Backup::FORMAT) {
        return Err(wrong(format!("its form is {}, this muskox knows {}", form.format, Backup::FORMAT)));
    }
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod test {
    use super::*;
    use cluster::ha::Recovery;
    use cluster::job::{Command, Outcome, Ownership, Run};
    use cluster::store::{Op, Revision};
    use units::{HostKey, Millis, Moment};

    /// CA14. Goal: a backup with a field too many is read, one too few is named, a newer form is refused by its number. Method: each.
    #[test]
    fn a_backup_of_another_version_is_read_or_refused_by_name() {
        let file = std::env::temp_dir().join(format!("muskox-backup-{}", std::process::id()));
        let said = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read(&file).map_err(|problem| problem.text)
        };
        let good = said(r#"{"format":1,"at":7,"objects":[["/vm/a","{}"]],"colour":"red"}"#).unwrap();
        assert_eq!((good.at, good.objects.len()), (Revision(7), 1));
        for (field, text) in [
            ("format", r#"{"at":7,"objects":[]}"#),
            ("at", r#"{"format":1,"objects":[]}"#),
            ("objects", r#"{"format":1,"at":7}"#),
            ("its form is 9", r#"{"format":9,"at":7,"objects":[]}"#),
            ("its form is 9", r#"{"format":9,"things":[]}"#),
        ] {
            let why = said(text).unwrap_err();
            assert!(why.contains(field), "{text}: {why}");
        }
        std::fs::remove_file(file).unwrap();
    }

    /// Goal: a job that went on is of the past and is not taken up again; one that had ended is history, and what cannot be
    /// read stays. Method: a job's own first words to the store, then the same with an outcome.
    #[test]
    fn a_backup_brings_no_jobs_back() {
        let host = HostKey([1; 32]);
        let owned = Ownership::new("web1".parse().unwrap(), Vec::new()).unwrap();
        let (plan, after) = Recovery::new(&owned, host, Vec::new(), false);
        let by = (host, "j1".parse().unwrap(), "");
        let (_, commands) = Run::create(by, Task::Recover(plan), (&owned, &after), Millis(1), Moment(0));
        let [Command::Store(_, txn)] = &commands[..] else { panic!("{commands:?}") };
        let mut objects: Vec<_> = txn
            .then
            .iter()
            .map(|op| match op {
                Op::Put { key, value, .. } => (key.clone(), value.clone()),
                Op::Delete(key) => panic!("{key} is removed"),
            })
            .collect();
        let job = objects.iter().find(|(key, _)| key.as_str() == "/job/j1").expect("its record").1.clone();
        let ended = Record { outcome: Some(Outcome::Done), ..Record::<Task>::read(&job).unwrap() };
        objects.push(("/job/j0".parse().unwrap(), serde_json::to_string(&ended).unwrap()));
        objects.push(("/job/j2".parse().unwrap(), r#"{"version":99}"#.to_owned()));
        let backup = Backup { format: Backup::FORMAT, at: Revision(7), objects: objects.clone() };
        let left = without_jobs(backup).objects;
        objects.retain(|(key, _)| key.as_str() != "/job/j1");
        assert_eq!(left, objects);
        assert!(left.len() == 3, "the ownership, and what is not a job that goes on: {left:?}");
    }
}
