//! Who was granted what, and when: `grants.jsonl` in the state folder, one JSON object per line, for people and for
//! whoever proves afterwards that nobody wrote out of turn.
//!
//! Invariants: a line is durable before the answer to its request leaves, unless the state folder takes none: then the
//! log has it, and the answer leaves all the same, for the grant itself stands on the pool's members and a failover must
//! not hang on a boot disk. At most twice [`FILE_MAX_BYTES`] are kept. Nothing here decides; nobody in the data plane
//! reads it.

use host::replace::sync_folder_of;
use serde::Serialize;
use std::fs::{File, rename};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use units::{Epoch, HostKey, VolumeName};
use wire::control::Owner;

const FILE: &str = "grants.jsonl";
/// Some 30 000 lines; the file before it is kept as well.
const FILE_MAX_BYTES: u64 = 8 << 20;
/// How long an answer waits for its line: a boot disk writes a line in milliseconds, and a failover has five seconds.
const WRITE_MAX: Duration = Duration::from_millis(500);

/// The log of one state folder, shared by all pools' threads.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Mutex<Log>>);

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Deed {
    /// A raise was acknowledged: durable on every member, everything older drained.
    Grant {
        /// When it was asked for, on the machine's CLOCK_MONOTONIC in microseconds: nothing older is admitted after it.
        asked_mono_us: u64,
        /// The epoch.
        epoch: Epoch,
        /// Who may use it.
        owners: Vec<Owner>,
        /// Whether several hosts may write.
        shared: bool,
    },
    /// A promise was made, durably.
    Reservation {
        /// The epoch.
        epoch: Epoch,
        /// To whom.
        host: HostKey,
    },
    /// The store's floor changed something.
    Floor {
        /// The epoch.
        epoch: Epoch,
    },
    /// An operator's word.
    Override {
        /// The word.
        word: String,
    },
}

/// A line of the file.
#[derive(Serialize)]
struct Line<'a> {
    /// Milliseconds since 1970.
    at_ms: u64,
    /// CLOCK_MONOTONIC when it was done, in microseconds.
    mono_us: u64,
    volume: &'a VolumeName,
    #[serde(flatten)]
    deed: &'a Deed,
}

impl Audit {
    /// The log in `dir`; the file is opened with the first line.
    pub fn new(dir: &Path) -> Self {
        Self(Arc::new(Mutex::new(Log { path: dir.join(FILE), max_bytes: FILE_MAX_BYTES, open: None })))
    }

    /// Writes a line; what was done, was done now.
    pub async fn record(&self, volume: &VolumeName, deed: &Deed) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(since.as_millis()).expect("milliseconds since 1970 fit for ages");
        let line = Line { at_ms, mono_us: host::runtime::monotonic_us(), volume, deed };
        let mut text = serde_json::to_string(&line).expect("names, numbers and words are JSON");
        tracing::info!("audit: {text}");
        text.push('\n');
        if let Err(error) = self.write(text).await {
            tracing::error!(%volume, "the line above is missing in {FILE} in the state folder: {error}");
        }
    }

    /// One line at a time: if the disk hangs, one thread hangs with it, whatever else is asked for.
    async fn write(&self, line: String) -> io::Result<()> {
        let until = Instant::now() + WRITE_MAX;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "its disk does not answer");
        let mut log = timeout_at(until, Arc::clone(&self.0).lock_owned()).await.map_err(late)?;
        let written = tokio::task::spawn_blocking(move || log.append(line.as_bytes()));
        timeout_at(until, written).await.map_err(late)?.map_err(io::Error::other)?
    }
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    max_bytes: u64,
    open: Option<(File, u64)>,
}

impl Log {
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        // Taken out while it is written: after a failure the next line opens it anew and looks at its end.
        let (mut file, mut len) = self.open.take().map_or_else(|| open(&self.path), Ok)?;
        if len > 0 && len + line.len() as u64 > self.max_bytes {
            rename(&self.path, self.path.with_extension("jsonl.1"))?;
            (file, len) = open(&self.path)?;
        }
        file.write_all(line)?;
        file.sync_data()?;
        self.open = Some((file, len + line.len() as u64));
        Ok(())
    }
}

/// The file and its length, ready for a new line: one that a crash cut short is ended.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = File::options().create(true).read(true).append(true).open(path)?;
    let mut len = file.metadata()?.len();
    if len > 0 {
        let mut last = [0];
        file.seek(SeekFrom::Start(len - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            len += 1;
        }
    }
    sync_folder_of(path)?;
    Ok((file, len))
}

#[cfg(test)]
mod test {
    use super::*;

    struct Dir(PathBuf);
    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("muskox-audit-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Goal: lines follow each other over restarts, also over a line that a crash cut. Method: write, tear, write again.
    #[tokio::test]
    async fn lines_are_whole_whatever_was_there() {
        let dir = Dir::new("whole");
        let volume: VolumeName = "web1".parse().unwrap();
        let deed = Deed::Reservation { epoch: Epoch(8), host: HostKey([7; 32]) };
        Audit::new(&dir.0).record(&volume, &deed).await;
        let path = dir.0.join(FILE);
        File::options().append(true).open(&path).unwrap().write_all(b"{\"kind\":\"gra").unwrap();
        let audit = Audit::new(&dir.0);
        audit.record(&volume, &deed).await;
        audit.record(&volume, &Deed::Override { word: "me: \"lost\"\nfor good".into() }).await;
        let lines = lines(&path);
        assert_eq!(lines.len(), 4, "{lines:?}");
        for whole in [0, 2, 3] {
            let value: serde_json::Value = serde_json::from_str(&lines[whole]).unwrap();
            assert!(value["at_ms"].is_u64() && value["mono_us"].is_u64() && value["volume"] == "web1", "{value}");
        }
        assert!(lines[2].contains("\"kind\":\"reservation\"") && lines[2].contains("\"epoch\":8"), "{}", lines[2]);
    }

    /// Goal: two files at most, none longer than its bound, the newest lines in them. Method: a small bound, many lines.
    #[test]
    fn the_log_is_bounded() {
        let dir = Dir::new("bounded");
        let path = dir.0.join(FILE);
        let mut log = Log { path: path.clone(), max_bytes: 100, open: None };
        for n in 10..40 {
            log.append(format!("line {n}\n").as_bytes()).unwrap();
        }
        let (old, new) = (lines(&dir.0.join("grants.jsonl.1")), lines(&path));
        let all: Vec<String> = old.iter().chain(&new).cloned().collect();
        let expect: Vec<String> = (40 - all.len()..40).map(|n| format!("line {n}")).collect();
        assert_eq!((all, old.len()), (expect, 12));
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 2);
    }

    /// Goal: a folder that takes no line holds nobody up, and what comes after is written. Method: a folder in the file's
    /// place, then none.
    #[tokio::test]
    async fn a_line_that_cannot_be_written_holds_nobody_up() {
        let dir = Dir::new("refused");
        let (path, volume) = (dir.0.join(FILE), "web1".parse().unwrap());
        std::fs::create_dir(&path).unwrap();
        let audit = Audit::new(&dir.0);
        audit.record(&volume, &Deed::Floor { epoch: Epoch(1) }).await;
        std::fs::remove_dir(&path).unwrap();
        audit.record(&volume, &Deed::Floor { epoch: Epoch(2) }).await;
        assert_eq!(lines(&path).len(), 1);
    }
}
