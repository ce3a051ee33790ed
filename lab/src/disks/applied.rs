//! The log of stamped writes: when each reached a disk and when the disk had it, on the machine's monotonic clock.
//!
//! A write has two lines: one when it came, without `completed_us`, and one when it ended. So one that never ends is
//! evidence too, and a killed lab loses nothing that had come.

use super::stamp::Stamp;
use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppliedLine {
    /// The operation; both its lines share it.
    pub id: u64,
    /// When it came to the disk: `CLOCK_MONOTONIC`, microseconds.
    pub received_us: u64,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub completed_us: Option<u64>,
    /// Whether the disk refused it in the end: then its content is not there.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub failed: bool,
    /// Which disk.
    pub disk: usize,
    /// Where the stamp lies, in bytes.
    pub offset: u64,
    /// What it says.
    pub stamp: Stamp,
}

/// The log file.
pub struct Applied(Mutex<File>);

impl Applied {
    /// Opens it for appending.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        Ok(Self(Mutex::new(file.with_context(|| format!("opening {}", path.display()))?)))
    }

    /// Appends lines at once, without a buffer in this process.
    ///
    /// # Panics
    /// When the log cannot be written: a lab without evidence proves nothing.
    pub fn write(&self, lines: &[AppliedLine]) {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line).expect("a line has no maps");
            text.push(b'\n');
        }
        self.0.lock().expect("no panic under this lock").write_all(&text).expect("the log of stamps can be written");
    }
}

/// Now: `CLOCK_MONOTONIC` in microseconds, the clock of all evidence.
#[must_use]
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).expect("the monotonic clock is never negative");
    part(now.tv_sec) * 1_000_000 + part(now.tv_nsec) / 1000
}
