//! What one life of a dead-man leaves to the next, and to the guard: what it was granted, what it voted, from when on guests must
//! not be found running, and marks that could not be written where they belong (docs/rfd/0007-witness.md).
//!
//! Invariant: a vote is in the file before it is told. The file belongs to one boot of the machine: moments of another
//! boot mean nothing. It lies where nothing waits for a disk (`/run`), and is replaced whole. Once it was written twice, no
//! more room is needed for it: a file system that is full stops neither votes nor leases.
//!
//! Versions: 1 has no word for the guard. In 2 `witnesses` and `freeze_at` are for the guard, and mean the same in every
//! version after it; what a reader does not know it passes over. What must not be passed over takes a new version.

use crate::guests::Mark;
use cluster::lease::{GuardOrder, HolderPast, WitnessPast};
use host::overwrite::Overwritten;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use units::{HostKey, Moment};

/// The file's version, and the one before it, which is read.
const VERSION: u16 = 2;
const WITHOUT_GUARD: u16 = 1;
/// What is longer is something else.
const FILE_MAX_BYTES: u64 = 64 << 10;
/// 32 machines' grants and votes and a hundred marks fit: the file never grows, so it needs no room later.
const ROOM_BYTES: usize = 16 << 10;
/// Marks of guests that are kept here at most; each is 80 bytes.
const MARKS_MAX: usize = 100;
/// It is replaced four times a second, and read in microseconds.
const READS_MAX: u32 = 4;
/// Who this boot is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file.
pub struct Record {
    file: Overwritten,
    boot: String,
}

/// What is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The lease.
    pub held: HolderPast,
    /// The votes.
    pub voted: WitnessPast,
    /// For the guard.
    pub order: GuardOrder,
    /// Guests that were stopped and whose folders do not say so: who, and how.
    pub marks: Vec<(String, Mark)>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    version: u16,
    boot: String,
    paused: bool,
    granted: Vec<(HostKey, u64)>,
    votes: Vec<(HostKey, u64)>,
    grants_from: u64,
    witnesses: Option<usize>,
    freeze_at: Option<u64>,
    #[serde(default)]
    marks: Vec<(String, bool, bool)>,
}

/// As much of it as the guard knows, whatever else it says.
#[derive(Deserialize)]
struct ForGuard {
    version: u16,
    boot: String,
    witnesses: Option<usize>,
    freeze_at: Option<u64>,
}

impl Record {
    /// The record at `path`; nothing is read yet.
    ///
    /// # Errors
    /// If the kernel does not say which boot this is.
    pub fn at(path: &Path) -> io::Result<Self> {
        let boot = std::fs::read_to_string(BOOT_ID)?.trim().to_owned();
        Ok(Self { file: Overwritten::new(path, ROOM_BYTES), boot })
    }

    /// What the former life left in this boot, and why there is nothing.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn load(&self) -> Result<Written, String> {
        let text: Text = self.read()?;
        self.check(&text.boot)?;
        if ![WITHOUT_GUARD, VERSION].contains(&text.version) {
            let what = format!("is of version {}, this muskox knows {WITHOUT_GUARD} and {VERSION}", text.version);
            return Err(format!("{} {what}", self.file.path().display()));
        }
        let moments = |list: Vec<(HostKey, u64)>| list.into_iter().map(|(key, at)| (key, Moment(at))).collect();
        let marks = text.marks.into_iter().map(|(who, stopped, frozen)| (who, Mark { stopped, frozen }));
        Ok(Written {
            held: HolderPast { granted: moments(text.granted), paused: text.paused },
            voted: WitnessPast { votes: moments(text.votes), grants_from: Moment(text.grants_from) },
            order: GuardOrder {
                witnesses: text.witnesses.unwrap_or_default(),
                freeze_at: Moment(text.freeze_at.unwrap_or_default()),
            },
            marks: marks.collect(),
        })
    }

    /// What the guard has to know; `None`: its writer is older than the guard, and says nothing about guests.
    ///
    /// # Errors
    /// The reason why nothing is known, for people.
    pub fn order(&self) -> Result<Option<GuardOrder>, String> {
        let text: ForGuard = self.read()?;
        self.check(&text.boot)?;
        match (text.version, text.witnesses, text.freeze_at) {
            (WITHOUT_GUARD, ..) => Ok(None),
            (_, Some(witnesses), Some(at)) => Ok(Some(GuardOrder { witnesses, freeze_at: Moment(at) })),
            _ => Err(format!("{} does not say when the lease ends", self.file.path().display())),
        }
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        let bytes = self.bytes();
        let bytes = bytes.map_err(|error| format!("{} cannot be read: {error}", self.file.path().display()))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| format!("{} is no record of mine: {error}", self.file.path().display()))
    }

    /// All of one content: a file that was opened before it was exchanged may be written over while it is read.
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let who = |facts: &Metadata| (facts.ino(), facts.mtime(), facts.mtime_nsec());
        for _ in 0..READS_MAX {
            let (file, mut bytes) = (File::open(self.file.path())?, Vec::new());
            let before = who(&file.metadata()?);
            file.take(FILE_MAX_BYTES).read_to_end(&mut bytes)?;
            if who(&std::fs::metadata(self.file.path())?) == before {
                return Ok(bytes);
            }
        }
        Err(io::Error::new(io::ErrorKind::WouldBlock, "it changes all the time"))
    }

    fn check(&self, boot: &str) -> Result<(), String> {
        match boot == self.boot {
            true => Ok(()),
            false => Err(format!("{} is of another boot of this machine", self.file.path().display())),
        }
    }

    /// Replaces the file. Not made durable: the boot's end is its end.
    ///
    /// # Errors
    /// What the system said; then the old content stands.
    pub fn save(&self, written: &Written) -> io::Result<()> {
        let numbers = |list: &[(HostKey, Moment)]| list.iter().map(|(key, at)| (*key, at.0)).collect();
        let marks = written.marks.iter().take(MARKS_MAX).map(|(who, how)| (who.clone(), how.stopped, how.frozen));
        let text = Text {
            version: VERSION,
            boot: self.boot.clone(),
            paused: written.held.paused,
            granted: numbers(&written.held.granted),
            votes: numbers(&written.voted.votes),
            grants_from: written.voted.grants_from.0,
            witnesses: Some(written.order.witnesses),
            freeze_at: Some(written.order.freeze_at.0),
            marks: marks.collect(),
        };
        self.file.replace(&serde_json::to_vec(&text)?)
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use serde_json::{Value, json};

    fn written() -> Written {
        Written {
            held: HolderPast { granted: vec![(HostKey([1; 32]), Moment(5))], paused: true },
            voted: WitnessPast { votes: vec![(HostKey([2; 32]), Moment(7))], grants_from: Moment(3) },
            order: GuardOrder { witnesses: 3, freeze_at: Moment(9) },
            marks: vec![("7 9 b".to_owned(), Mark { stopped: true, frozen: false })],
        }
    }

    fn record(what: &str) -> (Record, std::path::PathBuf) {
        let dir = std::env::temp_dir().join(format!("muskox-record-{what}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        (Record::at(&dir.join("deadman.lease")).unwrap(), dir)
    }

    /// Goal: what was left is found again, in the same boot and only there. Method: save, load, spoil.
    #[test]
    fn a_record_is_found_again_in_its_boot_only() {
        let (record, dir) = record("boot");
        assert!(record.load().is_err() && record.order().is_err());
        record.save(&written()).unwrap();
        assert_eq!(record.load().unwrap(), written());
        assert_eq!(record.order().unwrap(), Some(written().order));
        let other = Record { boot: "another".into(), file: Overwritten::new(record.file.path(), ROOM_BYTES) };
        assert!(other.load().unwrap_err().contains("another boot") && other.order().is_err());
        std::fs::write(record.file.path(), "{").unwrap();
        assert!(record.load().unwrap_err().contains("no record") && record.order().is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    /// CA2. Goal: a record with a field too many is read, by the next life and by the guard; one of a newer version is refused by
    /// name by the next life, which then knows nothing, and read by the guard, for whom two words never change; one without a
    /// field is refused; one from before there was a guard has a next life, and no order. Method: texts of each kind.
    #[test]
    fn a_record_of_another_version_is_read_or_refused_by_name() {
        let (record, dir) = record("version");
        record.save(&written()).unwrap();
        let good: Value = serde_json::from_slice(&std::fs::read(record.file.path()).unwrap()).unwrap();
        let spoilt = |spoil: &dyn Fn(&mut serde_json::Map<String, Value>)| {
            let mut text = good.clone();
            spoil(text.as_object_mut().unwrap());
            std::fs::write(record.file.path(), text.to_string()).unwrap();
            (record.load(), record.order())
        };
        let (life, guard) = spoilt(&|text| drop(text.insert("colour".into(), json!("red"))));
        assert_eq!((life.unwrap(), guard.unwrap()), (written(), Some(written().order)));
        let (life, guard) = spoilt(&|text| drop(text.insert("version".into(), json!(3))));
        assert!(life.unwrap_err().contains("is of version 3, this muskox knows 1 and 2"));
        assert_eq!(guard.unwrap(), Some(written().order));
        for field in ["version", "boot", "witnesses", "freeze_at"] {
            let (_, guard) = spoilt(&|text| drop(text.remove(field)));
            assert!(guard.is_err(), "without {field} the guard knows nothing: {guard:?}");
        }
        for field in ["version", "boot", "paused", "granted", "votes", "grants_from"] {
            let (life, _) = spoilt(&|text| drop(text.remove(field)));
            assert!(life.unwrap_err().contains(field));
        }
        let (life, guard) = spoilt(&|text| {
            ["witnesses", "freeze_at", "marks"].iter().for_each(|field| drop(text.remove(*field)));
            text.insert("version".into(), json!(1));
        });
        let life = life.unwrap();
        assert_eq!((life.held, life.voted, life.marks), (written().held, written().voted, Vec::new()));
        assert_eq!(guard.unwrap(), None);
        std::fs::remove_dir_all(dir).unwrap();
    }

    /// Goal: as many machines and marks as there may be fit, without a longer file. Method: all of them.
    #[test]
    fn the_longest_record_fits_its_room() {
        let (record, dir) = record("room");
        let all: Vec<(HostKey, Moment)> = (0..32).map(|n| (HostKey([n; 32]), Moment(u64::MAX))).collect();
        let boot = "01234567-89ab-cdef-0123-456789abcdef";
        let marks = (0..200).map(|n| (format!("{} {} {boot}", 4_000_000 + n, u64::MAX), Mark::default()));
        record
            .save(&Written {
                held: HolderPast { granted: all.clone(), paused: true },
                voted: WitnessPast { votes: all, grants_from: Moment(u64::MAX) },
                order: GuardOrder { witnesses: 32, freeze_at: Moment(u64::MAX) },
                marks: marks.collect(),
            })
            .unwrap();
        assert_eq!(std::fs::metadata(record.file.path()).unwrap().len(), ROOM_BYTES as u64);
        assert_eq!(record.load().unwrap().marks.len(), MARKS_MAX);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
