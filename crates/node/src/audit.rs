//! Who asked this machine for what: `audit.jsonl` in the state folder, one JSON object a line. Every call that changes something and
//! is answered here, and every visit to a console of this host; so the cluster's calls are at the machine with the store.
//!
//! Invariant: before anything is done, a line that says who asked is durable; where that cannot be, nothing is done. A second
//! line says what came of it. At most twice [`FILE_MAX_BYTES`] are kept. It holds no request's text: that may have secrets in it.

use crate::root::unusable;
use api::{Code, Problem};
use serde::Serialize;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use units::NodeName;

/// The file's name.
const FILE: &str = "audit.jsonl";
/// Some 50 000 lines; the file before it is kept as well.
const FILE_MAX_BYTES: u64 = 8 << 20;
/// A disk writes a line in milliseconds; one that takes longer takes no call either.
const WRITE_MAX: Duration = Duration::from_secs(5);

/// The log of one machine.
pub struct Audit {
    file: Arc<LogFile>,
    since_ms: u64,
    count: Cell<u64>,
}

/// A call that was written down, and whose outcome is still to be.
pub struct Entry {
    id: String,
}

struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    /// One line after the other. Never waited for on the node's own thread.
    writing: Mutex<()>,
}

/// A line before anything is done.
#[derive(Serialize)]
struct Asked<'a> {
    id: &'a str,
    at_ms: u64,
    /// Which machine asked.
    member: &'a NodeName,
    /// Which user of that machine, as it says.
    user: Option<u32>,
    call: &'a str,
    /// What it is about; its name.
    name: &'a str,
}

/// A line when it is done.
#[derive(Serialize)]
struct Ended<'a> {
    id: &'a str,
    at_ms: u64,
    /// `done`, or the code of the refusal.
    result: &'a str,
}

impl Audit {
    /// The log in `folder`; its file is made with the first line.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self::with_limit(folder, FILE_MAX_BYTES)
    }

    fn with_limit(folder: &Path, max_bytes: u64) -> Self {
        let file = LogFile { path: folder.join(FILE), max_bytes, writing: Mutex::new(()) };
        Self { file: Arc::new(file), since_ms: now_ms(), count: Cell::new(0) }
    }

    /// Writes down who asks, durably.
    ///
    /// # Errors
    /// [`Code::Files`]: it could not be written, so nothing may be done.
    pub async fn asked(
        &self,
        (member, user): (&NodeName, Option<u32>),
        (call, name): (&str, &str),
    ) -> Result<Entry, Problem> {
        self.count.set(self.count.get() + 1);
        // Of this life of the node.
        let id = format!("{:x}-{}", self.since_ms, self.count.get());
        let name: String = name.chars().take(64).collect();
        let line = Asked { id: &id, at_ms: now_ms(), member, user, call, name: &name };
        self.write(serde_json::to_string(&line).expect("plain values are JSON")).await?;
        Ok(Entry { id })
    }

    /// Writes down what came of it. Where that cannot be, the node's log has it.
    pub async fn ended(&self, entry: &Entry, result: &str) {
        let line = Ended { id: &entry.id, at_ms: now_ms(), result };
        let line = serde_json::to_string(&line).expect("plain values are JSON");
        if let Err(problem) = self.write(line.clone()).await {
            tracing::error!("{problem}; what it should hold: {line}");
        }
    }

    /// Not on the node's own thread, which a sick disk must not hold up.
    async fn write(&self, line: String) -> Result<(), Problem> {
        let file = Arc::clone(&self.file);
        let writing = tokio::task::spawn_blocking(move || file.append(&line));
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let written = tokio::time::timeout(WRITE_MAX, writing).await.map_err(late);
        let written = written.and_then(|done| done.map_err(io::Error::other)?);
        written.map_err(|error| {
            let problem = unusable(&self.file.path, "written to", &error);
            let text = format!("who asks cannot be written down, so nothing was done: {}", problem.text);
            Problem::new(Code::Files, text, problem.hint)
        })
    }
}

impl LogFile {
    fn append(&self, line: &str) -> io::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if std::fs::metadata(&self.path).is_ok_and(|facts| facts.len() + line.len() as u64 > self.max_bytes) {
            std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
        }
        let new = !self.path.exists();
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_data()?;
        match self.path.parent() {
            Some(folder) if new => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod test {
    use super::*;
    use serde_json::Value;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("muskox-audit-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Goal: CA14: who asked is written before, what came of it after; the log is bounded; where it cannot be written nothing may
    /// be done. Method: a small log, filled; a folder that is gone.
    #[tokio::test]
    async fn who_asked_and_what_came_of_it() {
        let dir = folder("lines");
        let audit = Audit::with_limit(&dir, 2_000);
        let member: NodeName = "host1".parse().unwrap();
        let entry = audit.asked((&member, Some(0)), ("vm_start", "web1")).await.unwrap();
        let begun = lines(&dir.join(FILE));
        assert_eq!(begun.len(), 1);
        assert_eq!(
            (&begun[0]["member"], &begun[0]["user"], &begun[0]["call"]),
            (&"host1".into(), &0.into(), &"vm_start".into())
        );
        audit.ended(&entry, "done").await;
        let both = lines(&dir.join(FILE));
        assert_eq!((&both[1]["id"], &both[1]["result"]), (&both[0]["id"], &"done".into()));
        for _ in 0..60 {
            let entry = audit.asked((&member, None), ("token_create", &"x".repeat(500))).await.unwrap();
            audit.ended(&entry, "forbidden").await;
        }
        let (old, new) = (dir.join("audit.jsonl.1"), dir.join(FILE));
        for file in [&old, &new] {
            assert!(std::fs::metadata(file).unwrap().len() <= 2_000 && !lines(file).is_empty());
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
        std::fs::remove_dir_all(&dir).unwrap();
        let refused = audit.asked((&member, Some(0)), ("vm_stop", "web1")).await.map(drop).unwrap_err();
        assert!(refused.code == Code::Files && refused.text.contains("nothing was done"), "{refused:?}");
    }
}
