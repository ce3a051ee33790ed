//! A cgroup per machine: what is in it can be frozen, thawed and killed at once. Version 2 where it is mounted (also
//! beside version 1), else the freezer of version 1.
//!
//! Sources: the kernel's `Documentation/admin-guide/cgroup-v2.rst` (`cgroup.freeze`, `cgroup.kill`, `cgroup.events`) and
//! `cgroup-v1/freezer-subsystem.rst` (`freezer.state`).

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Processes that were killed, or frozen, are gone, or still, within this on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Freezer1,
    Unified2,
}

/// A cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
    version: Version,
}

impl Cgroup {
    /// Where a cgroup called `name` would be.
    ///
    /// # Errors
    /// When this machine has no cgroups.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
        let (root, version) = find(&mounts).context(
            "no cgroup hierarchy with a freezer is mounted: mount one, as in `mount -t cgroup2 none /sys/fs/cgroup`",
        )?;
        Ok(Self { path: root.join(name), version })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn make(&self) -> anyhow::Result<()> {
        std::fs::create_dir(&self.path).with_context(|| format!("making cgroup {}: is this root?", self.path.display()))
    }

    /// The file that takes a process's id.
    pub fn door(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Nothing in it runs any more, when this returns.
    ///
    /// # Errors
    /// When something in it does not come to rest.
    pub fn freeze(&self) -> anyhow::Result<()> {
        match self.version {
            Version::Unified2 => {
                self.write("cgroup.freeze", "1")?;
                self.until("cgroup.events", "frozen 1")
            }
            Version::Freezer1 => {
                self.write("freezer.state", "FROZEN")?;
                self.until("freezer.state", "FROZEN")
            }
        }
    }

    /// Everything in it goes on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn thaw(&self) -> anyhow::Result<()> {
        match self.version {
            Version::Unified2 => self.write("cgroup.freeze", "0"),
            Version::Freezer1 => self.write("freezer.state", "THAWED"),
        }
    }

    /// Everything in it is dead, when this returns, frozen or not.
    ///
    /// # Errors
    /// When something does not die.
    pub fn kill(&self) -> anyhow::Result<()> {
        // Writing there is one step for the kernel; without it, everything is stopped first so that nothing forks away.
        if !self.path.join("cgroup.kill").exists() || self.write("cgroup.kill", "1").is_err() {
            self.freeze()?;
            self.processes().into_iter().filter_map(Pid::from_raw).for_each(|pid| {
                let _ = kill_process(pid, Signal::KILL);
            });
            self.thaw()?;
        }
        let begun = Instant::now();
        while !self.processes().is_empty() {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "processes in {} do not die", self.path.display());
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Who is in it, and in those that were made below it.
    pub fn processes(&self) -> Vec<i32> {
        below(&self.path).iter().flat_map(|path| processes_in(path)).collect()
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path.join(file);
        std::fs::write(&path, text).with_context(|| format!("writing {text} to {}", path.display()))
    }

    fn until(&self, file: &str, line: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        let path = self.path.join(file);
        while !std::fs::read_to_string(&path)?.lines().any(|found| found == line) {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "{} does not say '{line}'", path.display());
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

/// A cgroup and those below it, the deepest first.
fn below(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.flat_map(|folder| below(&folder.path())).chain([path.to_owned()]).collect()
}

fn processes_in(path: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Kills what is in the cgroup at `path` and removes it; one that is gone is fine.
///
/// # Errors
/// When something in it does not die.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let version = if path.join("freezer.state").exists() { Version::Freezer1 } else { Version::Unified2 };
    Cgroup { path: path.to_owned(), version }.kill()?;
    // The kernel may need a moment between the last process's end and the removal.
    let begun = Instant::now();
    for path in below(path) {
        loop {
            match std::fs::remove_dir(&path) {
                Err(error) if begun.elapsed() > PATIENCE => {
                    return Err(error).with_context(|| format!("removing cgroup {}", path.display()));
                }
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => std::thread::sleep(LOOK_AGAIN),
                _ => break,
            }
        }
    }
    Ok(())
}

/// The best hierarchy in proc_pid_mountinfo(5): field 5 is the place; after ` - ` come type, source and options.
fn find(mounts: &str) -> Option<(PathBuf, Version)> {
    let hierarchies = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let (place, mut right) = (left.split(' ').nth(4)?, right.split(' '));
        let (kind, options) = (right.next()?, right.nth(1)?);
        match kind {
            "cgroup2" => Some((PathBuf::from(place), Version::Unified2)),
            "cgroup" if options.split(',').any(|option| option == "freezer") => {
                Some((PathBuf::from(place), Version::Freezer1))
            }
            _ => None,
        }
    });
    hierarchies.max_by_key(|(_, version)| *version == Version::Unified2)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_best_hierarchy_is_found() {
        let tmpfs = "30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n";
        let one = "31 30 0:27 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n";
        let memory = "32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
        let two = "33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let check = |mounts: &str, expect: Option<(&str, Version)>| {
            assert_eq!(find(mounts), expect.map(|(path, version)| (PathBuf::from(path), version)), "{mounts}");
        };
        check(&format!("{tmpfs}{memory}"), None);
        check(&format!("{tmpfs}{memory}{one}"), Some(("/sys/fs/cgroup/freezer", Version::Freezer1)));
        check(&format!("{two}{tmpfs}{one}"), Some(("/sys/fs/cgroup/unified", Version::Unified2)));
        check(&format!("{tmpfs}{one}{two}"), Some(("/sys/fs/cgroup/unified", Version::Unified2)));
    }

    /// Goal: both interfaces freeze, thaw and kill. Method: whichever this machine has mounted, with a shell that
    /// counts into a file; version 1 is tried although version 2 is there.
    #[test]
    fn what_is_in_it_stops_goes_on_and_dies() {
        let allowed = std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1");
        if allowed && !rustix::process::geteuid().is_root() {
            return;
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let lines = |kind: &str| mounts.lines().filter(|line| line.contains(kind)).collect::<Vec<_>>().join("\n");
        let found: Vec<_> = [lines(" - cgroup2 "), lines(" - cgroup ")].iter().filter_map(|text| find(text)).collect();
        assert!(!found.is_empty(), "this machine has no cgroups");
        for (root, version) in found {
            stops_goes_on_and_dies(&Cgroup { path: root.join(format!("muskox-test-{}", std::process::id())), version });
        }
    }

    fn stops_goes_on_and_dies(group: &Cgroup) {
        let counter = std::env::temp_dir().join(format!("muskox-cgroup-{}", std::process::id()));
        std::fs::write(&counter, "").unwrap();
        group.make().unwrap();
        let script = "echo $$ > \"$0\" && while :; do printf x >> \"$1\"; sleep 0.01; done";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .args([group.door(), counter.clone()])
            .spawn()
            .unwrap();
        let count = || std::fs::metadata(&counter).unwrap().len();
        let counts_on = || {
            let (begun, before) = (Instant::now(), count());
            while count() <= before {
                assert!(begun.elapsed() < PATIENCE, "it stands still");
                std::thread::sleep(LOOK_AGAIN);
            }
        };
        counts_on();
        group.freeze().unwrap();
        let before = count();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(count(), before, "it runs although it is frozen");
        group.thaw().unwrap();
        counts_on();
        group.freeze().unwrap();
        group.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        remove(&group.path).unwrap();
        assert!(!group.path.exists());
        remove(&group.path).unwrap();
        std::fs::remove_file(&counter).unwrap();
    }
}
