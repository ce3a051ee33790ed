//! Who a QEMU is, by the kernel's word: whether it can be this folder's, and whether it has a control group of its own.
//!
//! Sources: `proc(5)` (status, cgroup, mountinfo), `cgroups(7)`.

use host::vm::Cgroup;
use std::path::{Path, PathBuf};

/// The control group that holds this process and nothing else, and can freeze it.
pub fn own_group(pid: i32) -> Option<Cgroup> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let candidates = folders(&groups, &mounts).into_iter().filter_map(|path| Cgroup::open(&path).ok());
    candidates.into_iter().find(|group| group.can_freeze() && group.pids().is_ok_and(|pids| pids == [pid]))
}

/// The folders of a process's control groups: that of v2, and that of v1's freezer.
fn folders(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let v2 = number == "0" && controllers.is_empty();
        let freezer = controllers.split(',').any(|controller| controller == "freezer");
        // A whole hierarchy is nobody's own.
        if path != "/" && (v2 || freezer) {
            found.extend(mounts.lines().filter_map(|mount| mounted(mount, v2, path)));
        }
    }
    found
}

/// Where `path` of a hierarchy is, if this mount shows that hierarchy.
fn mounted(mount: &str, v2: bool, path: &str) -> Option<PathBuf> {
    let (before, after) = mount.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let mut kind = after.split(' ');
    let (file_system, options) = (kind.next()?, kind.nth(1)?);
    let fits = match v2 {
        true => file_system == "cgroup2",
        false => file_system == "cgroup" && options.split(',').any(|option| option == "freezer"),
    };
    let inside = Path::new(path).strip_prefix(root).ok()?;
    fits.then(|| Path::new(point).join(inside))
}

#[cfg(test)]
mod test {
    use super::*;

    const MOUNTS: &str = "\
        31 25 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
        32 31 0:28 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
        33 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        34 31 0:30 / /sys/fs/cgroup/freezer rw shared:9 - cgroup cgroup rw,freezer\n";

    /// Goal: both kinds of groups are found, a whole hierarchy never. Method: the kernel's texts.
    #[test]
    fn groups_are_found_where_they_are_mounted() {
        let all = "9:freezer:/vms/web1\n2:cpu,cpuacct:/x\n0::/vms.slice/web1.scope\n";
        assert_eq!(
            folders(all, MOUNTS),
            [
                PathBuf::from("/sys/fs/cgroup/freezer/vms/web1"),
                PathBuf::from("/sys/fs/cgroup/unified/vms.slice/web1.scope")
            ]
        );
        assert!(folders("9:freezer:/\n0::/\n", MOUNTS).is_empty());
        let bound = "34 31 0:30 /lab /groups rw - cgroup cgroup rw,freezer\n";
        assert_eq!(folders("9:freezer:/lab/web1\n", bound), [PathBuf::from("/groups/web1")]);
        assert!(folders("9:freezer:/other\n", bound).is_empty());
    }
}
