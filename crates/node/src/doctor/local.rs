//! What only the machine itself can see, besides what its agent says; each with what to do.

use crate::image::find_tool;
use crate::peer::HostReport;
use crate::root::Root;
use std::path::Path;
use units::ByteLen;

/// The store, its log and a backup fit many times.
const ROOM_MIN: ByteLen = ByteLen::mib(256);
/// The store's log grows to some MiB before it is folded in, a VM's seed has up to 2 MiB: with less, starts and calls begin to fail.
const ROOM_NONE: ByteLen = ByteLen::mib(16);

/// Takes into a machine's report what is not as it should be here.
pub fn look(root: &Root, report: &mut HostReport) {
    let state = root.state();
    match rustix::fs::statvfs(&state) {
        Ok(facts) => judge_room(&state, ByteLen(facts.f_bavail.saturating_mul(facts.f_frsize)), report),
        Err(error) => {
            let text = format!("'{}' cannot be looked at: {error}", state.display());
            report.faults.push((text, "check its file system".to_owned()));
        }
    }
    if let Err(problem) = find_tool() {
        report.complaints.push((problem.text, problem.hint));
    }
}

/// D4: without room no VM starts here, and where the store is nothing is decided.
fn judge_room(state: &Path, free: ByteLen, report: &mut HostReport) {
    let text = format!("'{}' has {free} left", state.display());
    let hint = "make room on that file system".to_owned();
    match free {
        ByteLen(_) if free < ROOM_NONE => {
            let text = format!("{text}: no VM can be started here, and a store that is here decides nothing");
            report.faults.push((text, hint));
        }
        ByteLen(_) if free < ROOM_MIN => report.complaints.push((format!("{text}: that is little"), hint)),
        ByteLen(_) => {}
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::doctor::test::report;

    /// Goal: D4: a full disk is bad, little room a warning. Method: both sides of both limits.
    #[test]
    fn a_full_disk_is_bad() {
        for (free, faults, complaints) in [
            (ByteLen(0), 1, 0),
            (ByteLen(ROOM_NONE.0 - 1), 1, 0),
            (ROOM_NONE, 0, 1),
            (ByteLen(ROOM_MIN.0 - 1), 0, 1),
            (ROOM_MIN, 0, 0),
        ] {
            let mut report = report();
            judge_room(Path::new("/var/lib/muskox"), free, &mut report);
            assert_eq!((report.faults.len(), report.complaints.len()), (faults, complaints), "{free}");
        }
    }
}
