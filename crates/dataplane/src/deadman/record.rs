//! What one life of a dead-man leaves to the next: what it was granted and what it voted (docs/rfd/0007-witness.md).
//!
//! Invariant: a vote is in the file before it is told. The file belongs to one boot of the machine: moments of another
//! boot mean nothing. It lies where nothing waits for a disk (`/run`), and is replaced whole.

use cluster::lease::{HolderPast, WitnessPast};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use units::{HostKey, Moment};

/// The file's version.
const VERSION: u16 = 1;
/// A few hundred hosts' moments fit; what is longer is something else.
const FILE_MAX_BYTES: u64 = 64 << 10;
/// Who this boot is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file.
pub struct Record {
    path: PathBuf,
    new: PathBuf,
    boot: String,
}

#[derive(Serialize, Deserialize)]
struct Text {
    version: u16,
    boot: String,
    paused: bool,
    granted: Vec<(HostKey, u64)>,
    votes: Vec<(HostKey, u64)>,
    grants_from: u64,
}

impl Record {
    /// The record at `path`; nothing is read yet.
    ///
    /// # Errors
    /// If the kernel does not say which boot this is.
    pub fn at(path: &Path) -> io::Result<Self> {
        let boot = std::fs::read_to_string(BOOT_ID)?.trim().to_owned();
        Ok(Self { path: path.to_owned(), new: path.with_extension("lease.new"), boot })
    }

    /// What the former life left in this boot, and why there is nothing.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn load(&self) -> Result<(HolderPast, WitnessPast), String> {
        let mut bytes = Vec::new();
        let opened = File::open(&self.path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut bytes));
        opened.map_err(|error| format!("{} cannot be read: {error}", self.path.display()))?;
        let text: Text = serde_json::from_slice(&bytes)
            .map_err(|error| format!("{} is no record of mine: {error}", self.path.display()))?;
        if text.version != VERSION || text.boot != self.boot {
            return Err(format!("{} is of another boot or another version", self.path.display()));
        }
        let moments = |list: Vec<(HostKey, u64)>| list.into_iter().map(|(key, at)| (key, Moment(at))).collect();
        let held = HolderPast { granted: moments(text.granted), paused: text.paused };
        Ok((held, WitnessPast { votes: moments(text.votes), grants_from: Moment(text.grants_from) }))
    }

    /// Replaces the file. Not made durable: the boot's end is its end.
    ///
    /// # Errors
    /// What the system said; then the old content stands.
    pub fn save(&self, held: &HolderPast, voted: &WitnessPast) -> io::Result<()> {
        let numbers = |list: &[(HostKey, Moment)]| list.iter().map(|(key, at)| (*key, at.0)).collect();
        let text = Text {
            version: VERSION,
            boot: self.boot.clone(),
            paused: held.paused,
            granted: numbers(&held.granted),
            votes: numbers(&voted.votes),
            grants_from: voted.grants_from.0,
        };
        let bytes = serde_json::to_vec(&text)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.new)?;
        file.write_all(&bytes)?;
        std::fs::rename(&self.new, &self.path)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: what was left is found again, in the same boot and only there. Method: save, load, spoil.
    #[test]
    fn a_record_is_found_again_in_its_boot_only() {
        let dir = std::env::temp_dir().join(format!("muskox-record-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let record = Record::at(&dir.join("deadman.lease")).unwrap();
        assert!(record.load().is_err());
        let held = HolderPast { granted: vec![(HostKey([1; 32]), Moment(5))], paused: true };
        let voted = WitnessPast { votes: vec![(HostKey([2; 32]), Moment(7))], grants_from: Moment(3) };
        record.save(&held, &voted).unwrap();
        assert_eq!(record.load().unwrap(), (held, voted));
        let other = Record { boot: "another".into(), path: record.path.clone(), new: record.new.clone() };
        assert!(other.load().unwrap_err().contains("another boot"));
        std::fs::write(&record.path, "{").unwrap();
        assert!(record.load().unwrap_err().contains("no record"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
