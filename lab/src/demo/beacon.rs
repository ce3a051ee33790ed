//! Beacons: which boot of the guest runs on which host, read from the serial consoles' logs on the hosts themselves.
//! It needs neither the guest's disks nor any network, so two running copies are seen whatever else is broken.
//!
//! **Moving.** Beacons of one boot on one host, each at most 250 ms after the one before, are a series: the guest moved
//! from its first to its last. A beacon that begins a series proves that the guest also ran the 40 ms before it (the
//! period is 50, reading takes up to 10), unless it is the first of its boot, or the boot's beacon before it was on
//! another host (it has just been handed over: a migration).
//! **Overlap** is the time in which two or more series of the VM move: two boots, or one boot on two hosts.

use super::guest::record::Boot;
use super::guest::words::{Said, read_console};
use super::lines::Lines;
use super::now_us;
use super::task::{Ending, Task};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A guest that was silent for longer stood still: four beacons are missing.
const STILL_US: u64 = 250_000;
/// What a beacon that begins a series proves of the time before it.
const PROVES_US: u64 = 40_000;
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const READ_BYTES: usize = 64 << 10;
/// No line of a console is longer; what is, has no end and is let go.
const LINE_MAX: usize = 4096;

/// A line of `beacons.jsonl`: the guest said that it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beacon {
    /// When it was read.
    pub at_us: u64,
    /// On which host.
    pub host: String,
    /// Which boot.
    pub boot: Boot,
    /// The how-manieth beacon of the guest's program.
    pub counter: u64,
}

/// A line of `guest-errors.jsonl`: the guest's program or kernel said that a disk refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestError {
    /// When it was read.
    pub at_us: u64,
    /// On which host.
    pub host: String,
    /// What was said.
    pub text: String,
}

/// A time in which one boot moved on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Where.
    pub host: String,
    /// Which boot.
    pub boot: Boot,
    /// From here.
    pub from_us: u64,
    /// To here.
    pub to_us: u64,
}

/// A host's console log to follow. It may appear later, be cut to nothing (`trim_log`), or be another file one day.
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
            Ok(())
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
}

impl Tail {
    fn at_the_end(path: PathBuf) -> Self {
        let file = File::open(&path).ok();
        let at = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |facts| facts.len());
        Self { path, file, at, line: Vec::new() }
    }

    /// The whole lines that have come since the last look.
    fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.look().is_err() {
            return lines;
        }
        let Some(file) = &self.file else { return lines };
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
        lines
    }

    /// Whether it is still the file it was: a new one begins at its begin, and so does one that was cut.
    fn look(&mut self) -> io::Result<()> {
        let there = std::fs::metadata(&self.path)?;
        let ours = self.file.as_ref().map(File::metadata).transpose()?;
        let is_same = ours.is_some_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()));
        if !is_same {
            self.file = Some(File::open(&self.path)?);
        }
        if !is_same || there.len() < self.at {
            self.at = 0;
            self.line.clear();
        }
        Ok(())
    }
}

/// The times in which boots moved, in the order of their begin.
pub fn series(beacons: &[Beacon]) -> Vec<Series> {
    let mut sorted: Vec<&Beacon> = beacons.iter().collect();
    sorted.sort_by_key(|beacon| beacon.at_us);
    let mut found: Vec<Series> = Vec::new();
    let mut running: HashMap<(&str, Boot), usize> = HashMap::new();
    let mut last_host: HashMap<Boot, &str> = HashMap::new();
    for beacon in sorted {
        let key = (beacon.host.as_str(), beacon.boot);
        let last = running.get(&key).map(|index| &mut found[*index]);
        match last.filter(|series| beacon.at_us - series.to_us <= STILL_US) {
            Some(series) => series.to_us = beacon.at_us,
            None => {
                let handed_over = last_host.get(&beacon.boot).is_some_and(|host| *host != beacon.host);
                let proves_us = if handed_over || beacon.counter == 0 { 0 } else { PROVES_US };
                running.insert(key, found.len());
                found.push(Series {
                    host: beacon.host.clone(),
                    boot: beacon.boot,
                    from_us: beacon.at_us.saturating_sub(proves_us),
                    to_us: beacon.at_us,
                });
            }
        }
        last_host.insert(beacon.boot, &beacon.host);
    }
    found.sort_by_key(|series| series.from_us);
    found
}

/// The time between `from_us` and `to_us` in which two or more series moved.
pub fn overlap_us(series: &[Series], from_us: u64, to_us: u64) -> u64 {
    let clipped = series.iter().map(|series| (series.from_us.max(from_us), series.to_us.min(to_us)));
    let mut steps: Vec<(u64, i32)> = clipped
        .filter(|(from_us, to_us)| from_us < to_us)
        .flat_map(|(from_us, to_us)| [(from_us, 1), (to_us, -1)])
        .collect();
    steps.sort_unstable();
    let (mut moving, mut since_us, mut overlap_us) = (0, 0, 0);
    for (at_us, step) in steps {
        if moving >= 2 {
            overlap_us += at_us - since_us;
        }
        moving += step;
        since_us = at_us;
    }
    overlap_us
}

#[cfg(test)]
mod test;
