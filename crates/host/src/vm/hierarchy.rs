//! Where this process's control groups are, and groups of a machine's own below them.
//!
//! Sources: `cgroups(7)` (`/proc/PID/cgroup`), `proc_pid_mountinfo(5)`.

use super::cgroup::Cgroup;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel lets go of a killed process within milliseconds.
const REMOVE_AGAIN: Duration = Duration::from_millis(5);
const REMOVALS_MAX: usize = 40;

/// Makes the control group `name` below this process's own, where a hierarchy can freeze: v2, else v1's freezer. Never
/// both: a kill by one would wait for the thaw of the other. Where we may not make one there is none: a machine then is
/// stopped by its monitor and by signals. A group that is there already is thawed.
#[must_use]
pub fn make_group(name: &str) -> Option<Cgroup> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let made = folders(&own, &mounts).into_iter().filter_map(|folder| make(&folder.join(name)).ok());
    let group = made.filter_map(|path| Cgroup::open(&path).ok()).find(Cgroup::can_freeze)?;
    // One that is left from a machine that was frozen and killed: whoever enters it frozen never becomes a program.
    group.thaw().ok().map(|()| group)
}

/// Removes a group that nobody is in any more. A process that is just ending keeps it for a moment; one that is kept
/// longer is made use of again.
pub async fn remove_group(group: &Cgroup) {
    for _ in 0..REMOVALS_MAX {
        match std::fs::remove_dir(group.path()) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => tokio::time::sleep(REMOVE_AGAIN).await,
            _ => return,
        }
    }
}

fn make(path: &Path) -> io::Result<PathBuf> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path.to_owned()),
    }
}

/// The folders of our own groups, v2's and v1's freezer's.
fn folders(own: &str, mounts: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for kind in ["", "freezer"] {
        let controllers = |line: &&str| line.split(':').nth(1).is_some_and(|list| list.split(',').any(|it| it == kind));
        let Some(path) = own.lines().find(controllers).and_then(|line| line.splitn(3, ':').nth(2)) else { continue };
        found.extend(mounts.lines().find_map(|line| mount_point(line, kind, path)));
    }
    found
}

/// Where the group `path` of a hierarchy is seen, if this mount shows it: v2's, or the one of a v1 controller.
fn mount_point(line: &str, controller: &str, path: &str) -> Option<PathBuf> {
    let (before, after) = line.split_once(" - ")?;
    let (mut before, mut after) = (before.split(' ').skip(3), after.split(' '));
    let (root, point) = (before.next()?, before.next()?);
    let (kind, options) = (after.next()?, after.nth(1)?);
    let fits = match controller {
        "" => kind == "cgroup2",
        controller => kind == "cgroup" && options.split(',').any(|option| option == controller),
    };
    // In a container the mount may show only a part of the hierarchy.
    let below = Path::new(path).strip_prefix(root).ok()?;
    fits.then(|| Path::new(point).join(below))
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the folders are found in the three usual layouts. Method: the kernel's files of each as texts.
    #[test]
    fn our_groups_are_found() {
        let pure = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = folders("0::/system.slice/muskox.service\n", pure);
        assert_eq!(found, [PathBuf::from("/sys/fs/cgroup/system.slice/muskox.service")]);
        let hybrid = "41 32 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      42 32 0:37 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n";
        let found = folders("6:freezer:/a\n0::/b\n", hybrid);
        assert_eq!(found, ["/sys/fs/cgroup/unified/b", "/sys/fs/cgroup/freezer/a"].map(PathBuf::from));
        let part = "42 32 0:37 /docker/x /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n";
        assert_eq!(folders("6:cpu,freezer:/docker/x/y\n", part), [PathBuf::from("/sys/fs/cgroup/freezer/y")]);
        assert!(folders("6:freezer:/elsewhere\n0::/b\n", part).is_empty());
    }
}
