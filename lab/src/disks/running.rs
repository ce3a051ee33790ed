//! The disks as a process of a run: they are in no machine's cgroup, so that they stay when a machine's power goes.

use crate::kills::stop::Stop;
use crate::ledger::{Ledger, Thing};
use crate::logs;
use anyhow::Context;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// They are there within a second, several on a machine that builds meanwhile.
const START_MAX: Duration = Duration::from_secs(60);
/// Asked to end, they write out what they hold; that is at most 64 MiB each.
const END_MAX: Duration = Duration::from_secs(5);

/// How to start them. In `folder`: `disks/` shows them, `backing/` keeps their bytes, `disks.sock`, `disks.log`.
pub struct Plan<'a> {
    /// Everything of the run is in here.
    pub folder: &'a Path,
    /// The lab's state folder.
    pub state: &'a Path,
    /// How many.
    pub count: usize,
    /// How large each is.
    pub size_mib: u64,
    /// Where they log stamped writes, if they look for them.
    pub applied: Option<&'a Path>,
}

/// The process. Dropped, it is asked to end and waited for.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts them and waits until they are ready.
    ///
    /// # Errors
    /// Their last words.
    pub fn start(plan: &Plan<'_>, ledger: &Ledger, stop: &Stop) -> anyhow::Result<Self> {
        let here = |name: &str| plan.folder.join(name);
        let mut command = Command::new(std::env::current_exe().context("looking for this very program")?);
        command.arg("disks").args(["--count", &plan.count.to_string(), "--size-mib", &plan.size_mib.to_string()]);
        command.arg("--dir").arg(here("disks")).arg("--backing").arg(here("backing"));
        command.arg("--control").arg(here("disks.sock")).arg("--state").arg(plan.state);
        if let Some(applied) = plan.applied {
            command.arg("--applied").arg(applied);
        }
        let path = here("disks.log");
        let log = logs::open(&path)?;
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Killed disks leave their mount; whoever takes them away looks here too.
        ledger.record(Thing::Mount { at: here("disks") })?;
        let mut this = Self { child: command.spawn().context("starting the disks")?, log: path };
        ledger.record_child(this.child.id())?;
        let mut lives = Ok(());
        stop.wait(START_MAX, "the disks come up", || {
            lives = this.check_lives();
            lives.is_err() || std::fs::read_to_string(&this.log).is_ok_and(|text| text.contains("ready"))
        })?;
        lives.map(|()| this)
    }

    /// Whether they live.
    ///
    /// # Errors
    /// Their last words.
    pub fn check_lives(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("the disks ended ({status}):\n{}", logs::tail(&self.log)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Asked to end, they take away their mount and their own ledger.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < END_MAX {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
