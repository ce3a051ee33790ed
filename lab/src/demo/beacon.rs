//! Beacons: which boot of the guest runs on which host, read from the serial consoles' logs on the hosts themselves.
//! It needs neither the guest's disks nor any network, so two running copies are seen whatever else is broken.
//! What they come to (when a guest moved, when two copies did) is said in `report/overlap.rs`.

use super::evidence::{Beacon, GuestError};
use super::guest::record::Boot;
use super::guest::words::{Said, read_console};
use super::lines::Lines;
use super::now_us;
use super::report::STILL_US;
use super::task::{Ending, Task};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LOOK_AGAIN: Duration = Duration::from_millis(5);
const READ_BYTES: usize = 64 << 10;
/// No line of a console is longer; what is, has no end and is let go.
const LINE_MAX: usize = 4096;

/// A host's console log to follow. It may appear later, be trimmed while it grows (what it held is in `NAME.old` then), or be
/// another file one day.
pub struct Console {
    /// The host's name.
    pub host: String,
    /// The log of the VM's console there.
    pub log: PathBuf,
}

#[derive(Default)]
struct Seen {
    last: HashMap<(String, Boot), Beacon>,
    errors: u64,
}

/// Whoever reads the consoles.
pub struct Lookout {
    task: Task,
    seen: Arc<Mutex<Seen>>,
}

impl Lookout {
    /// Follows the consoles from now on; what a log holds already is history. Notes beacons and errors in two files.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn start(consoles: Vec<Console>, beacons: &Path, errors: &Path) -> anyhow::Result<Self> {
        let (mut beacons, mut errors) = (Lines::create(beacons)?, Lines::create(errors)?);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let tails: Vec<_> = consoles.into_iter().map(|console| (console.host, Tail::at_the_end(console.log))).collect();
        let work = move |mut tails: Vec<(String, Tail)>, ending: &Ending| {
            while !ending.is_near() {
                for (host, tail) in &mut tails {
                    let at_us = now_us();
                    for line in tail.lines() {
                        note(&shared, &mut beacons, &mut errors, (at_us, host, &line))?;
                    }
                }
                beacons.tick()?;
                errors.tick()?;
                std::thread::sleep(LOOK_AGAIN);
            }
            match tails.iter().find(|(_, tail)| tail.lost) {
                Some((host, tail)) => {
                    let log = tail.path.display();
                    anyhow::bail!("{log} of {host} was trimmed before all of it was read: evidence is lost")
                }
                None => Ok(()),
            }
        };
        let task = Task::begin("lookout", None, || Ok(tails), work)?;
        Ok(Self { task, seen })
    }

    /// Which boots move now, and where: the latest beacon of each.
    pub fn moving(&self) -> Vec<Beacon> {
        let now_us = now_us();
        let seen = self.seen.lock().expect("no panic under this lock");
        let fresh = |beacon: &&Beacon| now_us.saturating_sub(beacon.at_us) <= STILL_US;
        let mut moving: Vec<Beacon> = seen.last.values().filter(fresh).cloned().collect();
        moving.sort_by(|left, right| left.host.cmp(&right.host).then(left.boot.cmp(&right.boot)));
        moving
    }

    /// How often the guest complained about a disk.
    pub fn errors(&self) -> u64 {
        self.seen.lock().expect("no panic under this lock").errors
    }

    /// Ends it; the logs are whole then.
    ///
    /// # Errors
    /// When they could not be written.
    pub fn end(self) -> anyhow::Result<()> {
        self.task.end()
    }
}

fn note(
    seen: &Mutex<Seen>,
    beacons: &mut Lines,
    errors: &mut Lines,
    (at_us, host, line): (u64, &str, &str),
) -> anyhow::Result<()> {
    match read_console(line) {
        None => Ok(()),
        Some(Said::Beacon { boot, counter }) => {
            let beacon = Beacon { at_us, host: host.to_owned(), boot, counter };
            beacons.append(&beacon)?;
            seen.lock().expect("no panic under this lock").last.insert((host.to_owned(), boot), beacon);
            Ok(())
        }
        Some(Said::Error(text)) => {
            seen.lock().expect("no panic under this lock").errors += 1;
            errors.append(&GuestError { at_us, host: host.to_owned(), text })
        }
    }
}

/// The end of a growing file.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    at: u64,
    line: Vec<u8>,
    /// A part of the file was trimmed away before it was read.
    lost: bool,
}

impl Tail {
    fn at_the_end(path: PathBuf) -> Self {
        let file = File::open(&path).ok();
        let at = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |facts| facts.len());
        Self { path, file, at, line: Vec::new(), lost: false }
    }

    /// The whole lines that have come since the last look.
    fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.look(&mut lines).is_ok() {
            self.read(&mut lines);
        }
        lines
    }

    /// Sees to it that it is still the file it was. Before another one is begun the old one is read to its end, and what was
    /// trimmed is read where `trim_log` of crates/host/src/vm/console.rs puts it.
    fn look(&mut self, lines: &mut Vec<String>) -> io::Result<()> {
        let there = std::fs::metadata(&self.path)?;
        let ours = self.file.as_ref().map(File::metadata).transpose()?;
        let is_same = ours.as_ref().is_some_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()));
        if is_same && there.len() >= self.at {
            return Ok(());
        }
        if ours.is_some_and(|ours| ours.len() < self.at) {
            let mut name = self.path.clone().into_os_string();
            name.push(".old");
            let log = std::mem::replace(&mut self.file, File::open(name).ok());
            let trimmed = self.file.as_ref().and_then(|old| old.metadata().ok()).map_or(0, |facts| facts.len());
            self.lost |= trimmed < self.at;
            self.read(lines);
            (self.file, self.at) = (log, 0);
        }
        if !is_same {
            self.read(lines);
            self.line.clear();
            (self.file, self.at) = (Some(File::open(&self.path)?), 0);
        }
        Ok(())
    }

    fn read(&mut self, lines: &mut Vec<String>) {
        let Some(file) = &self.file else { return };
        let mut bytes = vec![0; READ_BYTES];
        while let Ok(len @ 1..) = file.read_at(&mut bytes, self.at) {
            self.at += len as u64;
            for byte in &bytes[..len] {
                match byte {
                    b'\n' => lines.push(String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned()),
                    _ if self.line.len() < LINE_MAX => self.line.push(*byte),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod test;
