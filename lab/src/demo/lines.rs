//! A file of JSON lines that grows while the demo runs.

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a lab that is killed may lose of its notes.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// A growing file of JSON lines.
pub struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
    flushed: Instant,
}

impl Lines {
    /// Begins the file anew.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), flushed: Instant::now() })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn append(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text).with_context(|| format!("writing {}", self.path.display()))?;
        self.tick()
    }

    /// Has the lines written that have waited long enough. To be called also when there is nothing to add.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn tick(&mut self) -> anyhow::Result<()> {
        if self.flushed.elapsed() < FLUSH_AFTER {
            return Ok(());
        }
        self.flushed = Instant::now();
        self.file.flush().with_context(|| format!("writing {}", self.path.display()))
    }
}

/// Reads a file of JSON lines back. A line that is none is an error: evidence is whole or it is no evidence.
///
/// # Errors
/// When it cannot be read, or a line is not what it should be.
pub fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let line =
        |(index, line)| serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), index + 1));
    text.lines().enumerate().map(line).collect()
}
