//! Writes evidence: every line is one `write` to a file opened for appending, so it is there when the call returns,
//! whatever happens to this process, and lines of several threads do not mix.

use super::{
    APPLIED, BEACONS, EVENTS, Event, GUEST_ERRORS, OUTPUTS, PROBE, REFEREE, ROGUE, STORE, What, grants_file, now_us,
};
use super::{Answer, Beacon, GuestError, Receipt, RogueLine, StoreChange};
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A folder of evidence that is being filled.
pub struct Writer {
    folder: PathBuf,
    files: BTreeMap<&'static str, Mutex<File>>,
}

/// Every file of lines, so that a reader can tell "nothing happened" from "nobody looked".
const FILES: [&str; 8] = [EVENTS, REFEREE, PROBE, BEACONS, GUEST_ERRORS, APPLIED, ROGUE, STORE];

impl Writer {
    /// Makes the folder, which must be empty or missing: evidence of two runs proves nothing about either.
    ///
    /// # Errors
    /// When it cannot be made, or holds something.
    pub fn create(folder: &Path) -> anyhow::Result<Self> {
        let outputs = folder.join(OUTPUTS);
        if let Ok(mut entries) = std::fs::read_dir(folder) {
            anyhow::ensure!(entries.next().is_none(), "{} holds something: take it away first", folder.display());
        }
        std::fs::create_dir_all(&outputs).with_context(|| format!("making {}", outputs.display()))?;
        let open = |name: &'static str| {
            let file = File::options().append(true).create(true).open(folder.join(name));
            Ok((name, Mutex::new(file.with_context(|| format!("opening {name} in {}", folder.display()))?)))
        };
        let files = FILES.into_iter().map(open).collect::<anyhow::Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), files })
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of a file, for a process that writes it itself.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Something happens now; returns the moment.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn event(&self, what: What) -> anyhow::Result<u64> {
        let at_us = now_us();
        self.event_at(at_us, what).map(|()| at_us)
    }

    /// Something happened at a moment that was told later.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn event_at(&self, at_us: u64, what: What) -> anyhow::Result<()> {
        self.line(EVENTS, &Event { at_us, what })
    }

    /// The referee received a record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn receipt(&self, line: &Receipt) -> anyhow::Result<()> {
        self.line(REFEREE, line)
    }

    /// A probe was answered.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn probe(&self, line: &Answer) -> anyhow::Result<()> {
        self.line(PROBE, line)
    }

    /// A beacon was read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn beacon(&self, line: &Beacon) -> anyhow::Result<()> {
        self.line(BEACONS, line)
    }

    /// The guest told of an error.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn guest_error(&self, line: &GuestError) -> anyhow::Result<()> {
        self.line(GUEST_ERRORS, line)
    }

    /// The rogue tried something.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn rogue(&self, line: &RogueLine) -> anyhow::Result<()> {
        self.line(ROGUE, line)
    }

    /// The store changed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, line: &StoreChange) -> anyhow::Result<()> {
        self.line(STORE, line)
    }

    /// Copies a target's grant log out of its state folder: the file and, if there is one, the rotated one before it.
    ///
    /// # Errors
    /// When there is none, or it cannot be copied.
    pub fn grants(&self, machine: &str, state_dir: &Path) -> anyhow::Result<()> {
        let log = state_dir.join("grants.jsonl");
        let older = std::fs::read(log.with_extension("jsonl.1")).unwrap_or_default();
        let newer = std::fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
        let name = grants_file(machine);
        std::fs::write(self.folder.join(&name), [older, newer].concat()).with_context(|| format!("writing {name}"))
    }

    /// A whole document, such as `records.json` or `jobs.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn document(&self, name: &str, what: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(what).with_context(|| format!("writing {name}"))?;
        std::fs::write(self.folder.join(name), text).with_context(|| format!("writing {name}"))
    }

    /// What a tool said; returns its place in the folder, for an `OracleRun`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn output(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let place = format!("{OUTPUTS}/{name}.txt");
        std::fs::write(self.folder.join(&place), text).with_context(|| format!("writing {place}"))?;
        Ok(place)
    }

    fn line(&self, name: &'static str, line: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(line).with_context(|| format!("writing {name}"))?;
        text.push(b'\n');
        let mut file = self.files[name].lock().expect("no panic under this lock");
        file.write_all(&text).with_context(|| format!("writing {name}"))
    }
}
