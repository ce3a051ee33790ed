//! The storage box: `muskox target` on files, driven as an operator would, by `muskox ctl`. Its volumes are reached by the
//! machine's own tools over a Unix socket, and by the guest over the network.

use super::network::{BOX, Network};
use crate::kills::stop::Stop;
use crate::ledger::Ledger;
use crate::{logs, signals};
use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Source: the IANA registry of port numbers, `nbd`.
pub const PORT: u16 = 10809;
/// The pool.
pub const POOL: &str = "p";
/// Who all clients are.
const IDENTITY: &str = "0707070707070707070707070707070707070707070707070707070707070707";
const PATIENCE: Duration = Duration::from_secs(60);
/// A resync of a gigabyte of sparse files on a busy machine.
const HEALTHY_MAX: Duration = Duration::from_secs(180);
const END_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A difference is told by its block.
const BLOCK_BYTES: u64 = 4096;

/// What storage boxes are made from.
pub struct Plant {
    /// The muskox binary.
    pub program: PathBuf,
    /// Where they put their files.
    pub folder: PathBuf,
    /// Where they are reached.
    pub network: Arc<Network>,
    /// Takes away what a crashed run leaves.
    pub ledger: Arc<Ledger>,
    /// Ends waiting.
    pub stop: Stop,
}

/// A storage box, running or not. Dropped, its target is killed and its files are removed.
pub struct Storage<'a> {
    plant: &'a Plant,
    folder: PathBuf,
    target: Option<Child>,
}

impl Plant {
    /// A storage box without disks; nothing runs yet.
    ///
    /// # Errors
    /// When its files cannot be made.
    pub fn storage(&self, name: &str) -> anyhow::Result<Storage<'_>> {
        let folder = self.folder.join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let path = |name: &str| format!("{:?}", folder.join(name).display().to_string());
        let text = format!(
            "control = {}\nstate_dir = {}\n[[listen]]\nnbd_unix = {}\nidentity = \"{IDENTITY}\"\n\
             [[listen]]\nnbd = \"{BOX}:{PORT}\"\nplaintext = true\nidentity = \"{IDENTITY}\"\n",
            path("ctl.sock"),
            path("state"),
            path("nbd.sock")
        );
        std::fs::write(folder.join("target.toml"), text)?;
        Ok(Storage { plant: self, folder, target: None })
    }
}

impl Storage<'_> {
    /// An empty disk.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn disk(&self, name: &str, mib: u64) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        File::create(&path)?.set_len(mib << 20).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// A file of its own.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts the target, and waits until its pools have started or cannot.
    ///
    /// # Errors
    /// When it does not come up, with its last words.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let _ = std::fs::remove_file(self.path("nbd.sock"));
        let mut command = self.plant.network.command(&self.plant.program);
        command.arg("target").arg("--config").arg(self.path("target.toml"));
        let log = logs::open(&self.path("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = signals::spawn(&mut command);
        let child = child.with_context(|| format!("running {}", self.plant.program.display()))?;
        self.plant.ledger.record_child(child.id())?;
        self.target = Some(child);
        let started = |pools: Value| {
            let pools = pools["pools"].as_array().cloned().unwrap_or_default();
            !pools.iter().any(|pool| pool["reason"].as_str().is_some_and(|why| why.contains("being started")))
        };
        let up = || self.json(&["pool", "list"]).is_ok_and(started);
        self.plant.stop.wait(PATIENCE, "the target comes up", up).map_err(|error| self.explained(&error))
    }

    /// Ends it in an orderly way (SIGTERM); how long that took.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub fn end(&mut self) -> anyhow::Result<Duration> {
        let mut child = self.target.take().context("the target does not run")?;
        let begun = Instant::now();
        let pid = Pid::from_raw(child.id().cast_signed()).context("a child has a pid")?;
        kill_process(pid, Signal::TERM)?;
        let mut ended = None;
        let waited = self.plant.stop.wait(END_MAX, "the target ends", || {
            ended = child.try_wait().ok().flatten();
            ended.is_some()
        });
        if waited.is_err() {
            child.kill()?;
            child.wait()?;
        }
        waited.map_err(|error| self.explained(&error))?;
        anyhow::ensure!(ended.is_some_and(|status| status.success()), "the target ended badly:\n{}", self.last_words());
        Ok(begun.elapsed())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.target.take().context("the target does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// `muskox ctl`: what it printed.
    ///
    /// # Errors
    /// Its words, if it refuses.
    pub fn ctl(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.plant.program);
        command.arg("ctl").arg("--socket").arg(self.path("ctl.sock")).args(words).stdin(Stdio::null()).process_group(0);
        let done = command.output().with_context(|| format!("running {}", self.plant.program.display()))?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&done.stderr);
        anyhow::ensure!(done.status.success(), "muskox ctl {}: {}{said}", words.join(" "), complaint.trim());
        Ok(said)
    }

    /// The words of a `muskox ctl` that has to refuse; none if it does not.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn refusal(&self, words: &[&str]) -> Option<String> {
        self.ctl(words).err().map(|error| format!("{error:#}"))
    }

    /// The same with `--json`.
    ///
    /// # Errors
    /// As [`Self::ctl`].
    pub fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let mut all = words.to_vec();
        all.push("--json");
        serde_json::from_str(&self.ctl(&all)?)
            .with_context(|| format!("muskox ctl {} printed no JSON", words.join(" ")))
    }

    /// The pool as `pool show` has it.
    ///
    /// # Errors
    /// As [`Self::ctl`].
    pub fn pool(&self) -> anyhow::Result<Value> {
        Ok(self.json(&["pool", "show", POOL])?["pool"].clone())
    }

    /// What `pool show` tells people.
    #[must_use]
    pub fn shown(&self) -> String {
        self.ctl(&["pool", "show", POOL]).unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Waits until every member is in sync; how long that took.
    ///
    /// # Errors
    /// When it does not come to that, with what the pool is instead.
    pub fn healthy(&self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let healthy = || self.pool().is_ok_and(|pool| pool["state"] == "healthy");
        let waited = self.plant.stop.wait(HEALTHY_MAX, "the pool is healthy", healthy);
        waited.map_err(|error| anyhow::anyhow!("{error:#}: {}", self.shown()))?;
        Ok(begun.elapsed())
    }

    /// Makes a pool of disks.
    ///
    /// # Errors
    /// As [`Self::ctl`].
    pub fn make_pool(&self, disks: &[&Path]) -> anyhow::Result<()> {
        let disks: Vec<String> = disks.iter().map(|disk| disk.display().to_string()).collect();
        let single = (disks.len() == 1).then_some("--single");
        let disks = disks.iter().map(String::as_str);
        let words: Vec<&str> = ["pool", "create", POOL].into_iter().chain(disks).chain(single).collect();
        self.ctl(&words).map(drop)
    }

    /// Makes a volume, zeroed and granted to all clients.
    ///
    /// # Errors
    /// As [`Self::ctl`].
    pub fn make_volume(&self, name: &str, mib: u64) -> anyhow::Result<()> {
        self.ctl(&["volume", "create", POOL, name, &format!("{mib}M")])?;
        self.grant(name, 1)
    }

    /// Grants a volume to all clients, as soon as it can be.
    ///
    /// # Errors
    /// As [`Self::ctl`].
    pub fn grant(&self, volume: &str, epoch: u64) -> anyhow::Result<()> {
        let epoch = epoch.to_string();
        let words = ["grant", "raise", volume, &epoch, "--owner", IDENTITY];
        let mut last = Ok(String::new());
        let granted = self.plant.stop.wait(PATIENCE, "the volume is granted", || {
            last = self.ctl(&words);
            last.is_ok()
        });
        last?;
        granted
    }

    /// A volume's place for NBD clients of this machine.
    #[must_use]
    pub fn uri(&self, volume: &str) -> String {
        format!("nbd+unix:///{volume}?socket={}", self.path("nbd.sock").display())
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("nbd.sock")
    }

    /// Runs commands of qemu-io on a volume.
    ///
    /// # Errors
    /// Its words, if one fails.
    pub fn qemu_io(&self, volume: &str, commands: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw"]);
        for line in commands {
            command.args(["-c", line]);
        }
        let said = tool(command.arg(self.uri(volume)))?;
        // It ends well also when a command failed.
        anyhow::ensure!(!said.contains("failed") && !said.contains("error"), "qemu-io: {said}");
        Ok(())
    }

    /// The SHA-256 of all of a volume.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sum(&self, volume: &str) -> anyhow::Result<String> {
        let script = "set -o pipefail; nbdcopy \"$0\" - | sha256sum";
        let said = tool(Command::new("bash").args(["-c", script, &self.uri(volume)]))?;
        Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// What the target has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits.
    ///
    /// # Errors
    /// When the run is over.
    pub fn nap(&self, time: Duration) -> anyhow::Result<()> {
        self.plant.stop.nap(time)
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn until(&self, what: &str, mut so: impl FnMut() -> bool) -> anyhow::Result<()> {
        self.plant.stop.wait(PATIENCE, what, || {
            let is_so = so();
            if !is_so {
                std::thread::sleep(LOOK_AGAIN);
            }
            is_so
        })
    }

    /// An error with the target's last words.
    fn explained(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow::anyhow!("{error:#}; its last words:\n{}", self.last_words())
    }

    fn last_words(&self) -> String {
        logs::tail(&self.path("log"))
    }
}

impl Drop for Storage<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.target.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Runs a tool of this machine's to its end; what it printed.
///
/// # Errors
/// Its words, if it fails.
pub fn tool(command: &mut Command) -> anyhow::Result<String> {
    let path = format!("{}:/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    crate::image::tool(command.env("PATH", path).env("LC_ALL", "C"))
}

/// Where a mirror's data begin on a member, in bytes, and how many there are, as mdadm says.
///
/// # Errors
/// When mdadm does not know it.
pub fn data_of(member: &Path) -> anyhow::Result<(u64, u64)> {
    let said = tool(Command::new("mdadm").arg("--examine").arg(member))?;
    let number = |name: &str| -> anyhow::Result<u64> {
        let line = said.lines().find(|line| line.trim_start().starts_with(name));
        let number = line.and_then(|line| line.split_once(':')?.1.split_whitespace().next()?.parse::<u64>().ok());
        number.with_context(|| format!("mdadm says no '{name}' of {}", member.display()))
    };
    // Sectors of 512 bytes, and KiB.
    Ok((number("Data Offset")? * 512, number("Array Size")? * 1024))
}

/// Where two members hold something different within an array's data; none: nowhere. A data offset may differ.
///
/// # Errors
/// When one cannot be read.
pub fn first_difference(one: &Path, other: &Path) -> anyhow::Result<Option<u64>> {
    use std::os::unix::fs::FileExt;
    const PIECE: usize = 1 << 20;
    let ((one_at, len), (other_at, _)) = (data_of(one)?, data_of(other)?);
    let (one, other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    while at < len {
        let many = usize::try_from((len - at).min(PIECE as u64)).context("a piece is small")?;
        one.read_exact_at(&mut left[..many], one_at + at)?;
        other.read_exact_at(&mut right[..many], other_at + at)?;
        if left[..many] != right[..many] {
            let within = left.iter().zip(&right).position(|(left, right)| left != right).unwrap_or(0) as u64;
            return Ok(Some((at + within) / BLOCK_BYTES * BLOCK_BYTES));
        }
        at += many as u64;
    }
    Ok(None)
}
