//! A control group of one machine, v2 or v1: put QEMU in, freeze, thaw, kill.
//!
//! Sources: the kernel's `admin-guide/cgroup-v2.rst` (cgroup.freeze, cgroup.kill, cgroup.events) and
//! `admin-guide/cgroup-v1/freezer-subsystem.rst`.

use super::VmError;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use units::Millis;

/// A freeze or a kill normally takes under a millisecond; the kernel is asked this often.
const ASK_AGAIN: Duration = Duration::from_millis(2);

/// How long a kill waits for the freeze before it.
const FREEZE_FIRST: Millis = Millis(500);

/// Which kind of control group a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    V2,
    /// With the freezer controller.
    V1Freezer,
    /// With another controller: it only counts or limits.
    V1Other,
}

/// A control group that exists; made and removed by whoever owns the hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
    kind: Kind,
}

impl Cgroup {
    /// The control group at `path`.
    ///
    /// # Errors
    /// If it is none.
    pub fn open(path: &Path) -> Result<Self, VmError> {
        let has = |name: &str| path.join(name).exists();
        let kind = match () {
            () if has("cgroup.freeze") => Kind::V2,
            () if has("freezer.state") => Kind::V1Freezer,
            () if has("cgroup.procs") => Kind::V1Other,
            () => return Err(VmError::Description { what: format!("{} is no control group", path.display()) }),
        };
        Ok(Self { path: path.to_owned(), kind })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its list of processes, for a child that puts itself in before it becomes QEMU.
    pub(super) fn procs(&self) -> Result<OwnedFd, VmError> {
        let path = self.path.join("cgroup.procs");
        let opened = OpenOptions::new().write(true).open(&path);
        opened.map(OwnedFd::from).map_err(|source| VmError::io(format!("opening {}", path.display()), source))
    }

    /// Puts a process in. From outside, for one that put itself into a frozen group would stop before it is a program, and
    /// whoever starts it would wait for the thaw.
    pub(super) fn take_in(&self, pid: i32) -> Result<(), VmError> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Whether it can freeze.
    #[must_use]
    pub fn can_freeze(&self) -> bool {
        self.kind != Kind::V1Other
    }

    /// Stops every process in it, and says when they have.
    ///
    /// # Errors
    /// If it cannot, or has not within `limit`; it goes on trying then.
    pub async fn freeze(&self, limit: Millis) -> Result<(), VmError> {
        self.begin_freeze()?;
        self.until(limit, "freezing", Self::is_frozen).await
    }

    /// Has the kernel stop every process in it, and does not wait: see [`Cgroup::is_frozen`].
    ///
    /// # Errors
    /// If it cannot.
    pub fn begin_freeze(&self) -> Result<(), VmError> {
        match self.kind {
            Kind::V2 => self.write("cgroup.freeze", "1"),
            Kind::V1Freezer => self.write("freezer.state", "FROZEN"),
            Kind::V1Other => Err(VmError::Description { what: self.cannot("freeze") }),
        }
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// If it cannot.
    pub fn thaw(&self) -> Result<(), VmError> {
        match self.kind {
            Kind::V2 => self.write("cgroup.freeze", "0"),
            Kind::V1Freezer => self.write("freezer.state", "THAWED"),
            Kind::V1Other => Err(VmError::Description { what: self.cannot("thaw") }),
        }
    }

    /// Whether every process in it is stopped.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn is_frozen(&self) -> Result<bool, VmError> {
        Ok(match self.kind {
            Kind::V2 => self.read("cgroup.events")?.lines().any(|line| line == "frozen 1"),
            Kind::V1Freezer => self.read("freezer.state")?.trim() == "FROZEN",
            Kind::V1Other => false,
        })
    }

    /// Kills every process in it, also a frozen one, and says when none is left.
    ///
    /// # Errors
    /// If it cannot, or somebody is left after `limit`.
    pub async fn kill(&self, limit: Millis) -> Result<(), VmError> {
        if self.kind == Kind::V2 {
            self.write("cgroup.kill", "1")?;
        }
        if self.kind == Kind::V1Freezer {
            // Frozen, nobody can fork away; the kill is carried out at the thaw. What does not freeze, because it
            // hangs in a disk, is killed all the same.
            let froze = self.freeze(FREEZE_FIRST.min(limit)).await;
            self.signal_all()?;
            self.thaw()?;
            if let Err(error) = froze {
                tracing::warn!(%error, "killed without a freeze");
            }
        }
        self.until(limit, "killing", |group| {
            group.signal_all()?;
            Ok(group.pids()?.is_empty())
        })
        .await
    }

    /// The processes in it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>, VmError> {
        Ok(self.read("cgroup.procs")?.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Kills who is in it now. A pidfd first, then the list again: a pid recycled in between is not in it.
    fn signal_all(&self) -> Result<(), VmError> {
        for raw in self.pids()? {
            let Some(pid) = Pid::from_raw(raw) else { continue };
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if self.pids()?.contains(&raw) {
                // Gone already is as good.
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        Ok(())
    }

    async fn until(
        &self,
        limit: Millis,
        what: &str,
        done: impl Fn(&Self) -> Result<bool, VmError>,
    ) -> Result<(), VmError> {
        let patience = async {
            while !done(self)? {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Ok(())
        };
        let late = || VmError::Deadline { what: format!("{what} the control group {}", self.path.display()), limit };
        tokio::time::timeout(limit.into(), patience).await.map_err(|_| late())?
    }

    fn cannot(&self, what: &str) -> String {
        format!("{}: this control group cannot {what}; give the one of the freezer", self.path.display())
    }

    fn write(&self, name: &str, value: &str) -> Result<(), VmError> {
        let path = self.path.join(name);
        // No truncation and no creation: these are the kernel's files.
        let written = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
        written.map_err(|source| VmError::io(format!("writing {value} to {}", path.display()), source))
    }

    fn read(&self, name: &str) -> Result<String, VmError> {
        let path = self.path.join(name);
        std::fs::read_to_string(&path).map_err(|source| VmError::io(format!("reading {}", path.display()), source))
    }
}
