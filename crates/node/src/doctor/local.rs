//! What only the machine itself can see, besides what its agent says; each with what to do.

use crate::image::find_tool;
use crate::root::Root;
use units::ByteLen;

/// The store, its log and a backup fit many times.
const ROOM_MIN: ByteLen = ByteLen::mib(256);

/// What is not as it should be here.
#[must_use]
pub fn complaints(root: &Root) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let state = root.state();
    match rustix::fs::statvfs(&state) {
        Ok(facts) => {
            let free = ByteLen(facts.f_bavail.saturating_mul(facts.f_frsize));
            if free < ROOM_MIN {
                let text = format!("'{}' has {free} left; the store needs room to decide anything", state.display());
                found.push((text, "make room on that file system".to_owned()));
            }
        }
        Err(error) => {
            let text = format!("'{}' cannot be looked at: {error}", state.display());
            found.push((text, "check its file system".to_owned()));
        }
    }
    if let Err(problem) = find_tool() {
        found.push((problem.text, problem.hint));
    }
    found
}
