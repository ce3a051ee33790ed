//! A process of this machine that systemd keeps by a unit of its own: the dead-man and the guard, which must be started again at
//! once also where no node runs, and be ended when they hang (sd_notify(3), `WatchdogSec`).

use super::place::Place;
use crate::install;
use host::vm::{Daemon, Process};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long systemd may take to start a small program.
const START_MAX: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A unit that this machine may have.
#[derive(Clone, Debug)]
pub struct Unit {
    name: &'static str,
    /// Its file; none: these are a rehearsal's files, of which systemd knows nothing.
    file: Option<PathBuf>,
}

impl Unit {
    /// The unit of this name.
    #[must_use]
    pub fn of(place: &Place, name: &'static str) -> Self {
        Self { name, file: place.unit(name) }
    }

    /// Whether systemd keeps the process: it runs this machine, which has the unit.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        self.file.as_deref().is_some_and(Path::is_file) && Path::new(install::SYSTEMD_RUNS).is_dir()
    }

    /// Whether this process is the unit's. One that cannot be looked at is taken for it.
    #[must_use]
    pub fn has(&self, process: &Process) -> bool {
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", process.identity().pid));
        groups.map_or(true, |groups| names(&groups, self.name))
    }

    /// Has systemd start the process of `daemon`.
    ///
    /// # Errors
    /// Why it does not run, for people.
    pub async fn start(&self, daemon: &Daemon) -> Result<Process, String> {
        let mut command = Command::new("systemctl");
        // It may wait for its own start anew: nothing is gained by waiting with it.
        command.args(["--no-block", "start", self.name]);
        let done = tokio::task::spawn_blocking(move || command.output()).await;
        let done = done.map_err(|error| error.to_string())?.map_err(|error| format!("systemctl: {error}"))?;
        if !done.status.success() {
            return Err(format!("systemctl: {}", String::from_utf8_lossy(&done.stderr).trim()));
        }
        let started = async {
            loop {
                match daemon.find() {
                    Ok(Some(process)) => return Ok(process),
                    Ok(None) => tokio::time::sleep(LOOK_AGAIN).await,
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        let late = |_| {
            Err(format!(
                "systemd has not started it within {} s; see `journalctl -u {}`",
                START_MAX.as_secs(),
                self.name
            ))
        };
        tokio::time::timeout(START_MAX, started).await.unwrap_or_else(late)
    }
}

/// Whether one of a process's control groups is that of a unit. Source: cgroups(7), `/proc/PID/cgroup`.
fn names(groups: &str, unit: &str) -> bool {
    groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| path.split('/').any(|part| part == unit))
}

#[cfg(test)]
mod test {
    use super::*;

    /// CA5. Goal: a process that the node started itself is told from the unit's, in both kinds of control groups. Method: the
    /// kernel's texts.
    #[test]
    fn a_units_process_is_known_by_its_group() {
        for (groups, is_units) in [
            ("0::/system.slice/muskox-deadman.service\n", true),
            ("12:freezer:/\n1:name=systemd:/system.slice/muskox-deadman.service\n", true),
            ("0::/system.slice/muskox-node.service\n", false),
            ("0::/system.slice/muskox-deadman.service.d\n", false),
            ("", false),
        ] {
            assert_eq!(names(groups, install::DEADMAN_UNIT), is_units, "{groups}");
        }
    }
}
