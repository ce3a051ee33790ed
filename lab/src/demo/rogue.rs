//! The rogue writer: a libnbd client with a host's real key and attachment that stands outside the host's cgroup, so
//! that it goes on when the host is frozen. What it does is in `rogue.py`; this starts it on the host's networks and
//! writes what it tells into the evidence.
//!
//! It is not our own client, and it does not know the gate: what it proves is what any stranger would see.

use super::evidence::{Outcome, RogueLine, Writer};
use crate::kills::keys::Keys;
use crate::ledger::Ledger;
use anyhow::Context;
use serde::Serialize;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Debian's libnbd belongs to Debian's python.
const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = include_str!("rogue.py");
/// The script gives each request 5 s; what is in flight at its end takes that long once more.
const END_PATIENCE: Duration = Duration::from_secs(12);
/// Writes in flight on the second connection: some of them wait in its queue whenever a fence falls.
const DEPTH: u32 = 8;

/// Whom it pretends to be, and what it spoils.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The network namespace it runs in; this process's own if none.
    pub namespace: Option<PathBuf>,
    /// The storage box's portals, `ADDRESS:PORT`, taken in turn.
    pub portals: Vec<String>,
    /// The host's files; without them it speaks plaintext.
    pub keys: Option<&'a Credentials>,
    /// The volume: the canary.
    pub volume: String,
    /// The host's epoch.
    pub epoch: u64,
    /// The incarnation of the host's initiator: a lower one is refused, a higher one would end the initiator's sessions.
    pub incarnation: u64,
    /// The number of the fault, in every stamp.
    pub fault: u32,
    /// Where its blocks begin, in bytes; nobody else may write there.
    pub offset: u64,
    /// How many blocks of 4 KiB.
    pub blocks: u64,
}

/// A host's certificate, key and CA, in a folder as libnbd wants it.
#[derive(Debug)]
pub struct Credentials {
    folder: PathBuf,
}

/// What it achieved so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Writes that were answered as done.
    pub applied: AtomicU64,
    /// Writes and attaches that were refused.
    pub refused: AtomicU64,
    /// Writes and attaches without an answer.
    pub lost: AtomicU64,
}

/// A running rogue.
pub struct Rogue {
    child: Child,
    reader: Option<JoinHandle<anyhow::Result<()>>>,
    tally: Arc<Tally>,
    complaints: Arc<Mutex<String>>,
}

#[derive(Serialize)]
struct Orders<'a> {
    portals: &'a [String],
    certificates: Option<&'a Path>,
    volume: &'a str,
    epoch: u64,
    incarnation: u64,
    run: u32,
    offset: u64,
    blocks: u64,
    depth: u32,
    erase: bool,
}

impl Credentials {
    /// Links a host's files into `folder` under the names that libnbd looks for. Source: nbd_set_tls_certificates(3).
    ///
    /// # Errors
    /// When the folder cannot be made or a file is not there.
    pub fn gather(folder: &Path, certificate: &Path, key: &Path, ca: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        for (name, file) in [("client-cert.pem", certificate), ("client-key.pem", key), ("ca-cert.pem", ca)] {
            let file = file.canonicalize().with_context(|| format!("looking for {}", file.display()))?;
            let link = folder.join(name);
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(file, &link).with_context(|| format!("making {}", link.display()))?;
        }
        Ok(Self { folder: folder.canonicalize()? })
    }

    /// The same for keys that the lab made.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn of(folder: &Path, keys: &Keys) -> anyhow::Result<Self> {
        let [certificate, key, ca] = keys.files();
        Self::gather(folder, certificate, key, ca)
    }
}

impl Rogue {
    /// Starts it. What it does from the first moment on goes to `evidence`.
    ///
    /// # Errors
    /// When python or libnbd's module for it is missing.
    pub fn start(plan: &Plan<'_>, ledger: &Ledger, evidence: &Arc<Writer>) -> anyhow::Result<Self> {
        let mut command = command(plan, false)?;
        let mut child = command.stdin(Stdio::piped()).spawn().context("starting the rogue")?;
        ledger.record_child(child.id())?;
        let (tally, complaints) = (Arc::new(Tally::default()), Arc::new(Mutex::new(String::new())));
        let (out, words) = (child.stdout.take().expect("it is piped"), child.stderr.take().expect("it is piped"));
        let (counts, evidence, heard) = (Arc::clone(&tally), Arc::clone(evidence), Arc::clone(&complaints));
        std::thread::spawn(move || {
            let text = std::io::read_to_string(words).unwrap_or_default();
            heard.lock().expect("no panic under this lock").push_str(&text);
        });
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                let line = line?;
                let line: RogueLine = serde_json::from_str(&line).with_context(|| format!("the rogue said {line}"))?;
                counts.count(line.outcome);
                evidence.rogue(&line)?;
            }
            Ok(())
        });
        Ok(Self { child, reader: Some(reader), tally, complaints })
    }

    /// What it achieved so far: once something is applied it is in, and has writes in flight.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether it still tries; else its last words.
    ///
    /// # Errors
    /// Those.
    pub fn check_lives(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("the rogue ended by itself ({status}): {}", self.last_words()),
        }
    }

    /// Ends it: it waits for what is in flight. All it did is in the evidence then.
    ///
    /// # Errors
    /// When it ended by itself before, or does not end.
    ///
    /// # Panics
    /// If its reader did.
    pub fn end(mut self) -> anyhow::Result<Arc<Tally>> {
        self.check_lives()?;
        let told = self.child.stdin.take().expect("it is piped").write_all(b"end\n");
        told.context("telling the rogue to end")?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            anyhow::ensure!(begun.elapsed() < END_PATIENCE, "the rogue does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let reader = self.reader.take().expect("only this takes it");
        reader.join().expect("it does not panic")?;
        anyhow::ensure!(status.success(), "the rogue failed ({status}): {}", self.last_words());
        Ok(Arc::clone(&self.tally))
    }

    fn last_words(&self) -> String {
        self.complaints.lock().expect("no panic under this lock").trim().to_owned()
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        // Its pipes close with it, and so its reader ends.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tally {
    fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Applied => &self.applied,
            Outcome::Refused => &self.refused,
            Outcome::Lost => &self.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Overwrites the stamps with zeroes, by a session of the present owner's own attachment, which `plan` names by keys, epoch and
/// incarnation: a later resync would copy them to another disk, where they would look like stale writes.
///
/// # Errors
/// When the owner is refused, with what it was told.
pub fn erase(plan: &Plan<'_>, ledger: &Ledger) -> anyhow::Result<()> {
    let child = command(plan, true)?.stdin(Stdio::null()).spawn().context("erasing the rogue's stamps")?;
    // It may be gone already.
    let _ = ledger.record_child(child.id());
    let done = child.wait_with_output()?;
    let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).join(" ");
    anyhow::ensure!(done.status.success(), "erasing the rogue's stamps: {said}");
    Ok(())
}

fn command(plan: &Plan<'_>, erase: bool) -> anyhow::Result<Command> {
    let orders = Orders {
        portals: &plan.portals,
        certificates: plan.keys.map(|keys| keys.folder.as_path()),
        volume: &plan.volume,
        epoch: plan.epoch,
        incarnation: plan.incarnation,
        run: plan.fault,
        offset: plan.offset,
        blocks: plan.blocks,
        depth: DEPTH,
        erase,
    };
    let mut command = match &plan.namespace {
        None => Command::new(PYTHON),
        Some(namespace) => {
            let mut netns = std::ffi::OsString::from("--net=");
            netns.push(namespace);
            let mut command = Command::new("nsenter");
            command.arg(netns).args(["--", PYTHON]);
            command
        }
    };
    // In a process group of its own: Ctrl-C at a terminal reaches the lab, which ends things in their order.
    command.args(["-c", SCRIPT]).arg(serde_json::to_string(&orders)?).process_group(0);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}
