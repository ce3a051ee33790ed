//! A file of JSON lines that grows while the demo runs.

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
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

/// Reads a file of JSON lines while it grows.
pub struct Reader<T> {
    path: PathBuf,
    at: u64,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> Reader<T> {
    /// Of a file that need not be there yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), at: 0, of: PhantomData }
    }

    /// The whole lines that have come since the last time.
    ///
    /// # Errors
    /// When it cannot be read, or a line is not what it should be.
    pub fn more(&mut self) -> anyhow::Result<Vec<T>> {
        let what = || format!("reading {}", self.path.display());
        let mut text = String::new();
        let mut file = File::open(&self.path).with_context(what)?;
        file.seek(SeekFrom::Start(self.at)).with_context(what)?;
        file.read_to_string(&mut text).with_context(what)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let line = |line| {
            serde_json::from_str(line).with_context(|| format!("{} from byte {} on", self.path.display(), self.at))
        };
        let lines = text[..whole].lines().map(line).collect::<anyhow::Result<_>>()?;
        self.at += whole as u64;
        Ok(lines)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: every line is read once, and half a line when it is whole. Method: a file that grows by half a line.
    #[test]
    fn a_growing_file_is_read_once() {
        let path = std::env::temp_dir().join(format!("muskox-lines-{}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        let mut reader: Reader<u64> = Reader::new(&path);
        let mut read = Vec::new();
        for text in ["1\n2", "3\n", "", "4\n5\n"] {
            file.write_all(text.as_bytes()).unwrap();
            read.push(reader.more().unwrap());
        }
        file.write_all(b"x\n").unwrap();
        assert!(reader.more().is_err());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read, [vec![1], vec![23], vec![], vec![4, 5]]);
    }
}
