//! A process of the product's that is to die: found by the note that muskox leaves of it, and never taken for another.

use crate::ledger::start_of;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::path::Path;

/// A process, as its note says: `PID START_TICKS BOOT_ID` (docs/runbooks/node.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prey {
    pid: i32,
    start: u64,
}

impl Prey {
    /// The living process that the note names.
    pub fn noted(note: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(note).ok()?;
        let mut words = text.split_ascii_whitespace();
        let prey = Self { pid: words.next()?.parse().ok()?, start: words.next()?.parse().ok()? };
        prey.lives().then_some(prey)
    }

    /// Whether it lives.
    pub fn lives(&self) -> bool {
        start_of(self.pid) == Some(self.start)
    }

    /// Kills it; one that is gone is not hit, and neither is who has its number now.
    pub fn kill(&self) -> bool {
        self.signal(Signal::KILL)
    }

    /// Sends it a signal, under the same rule.
    pub fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        self.lives() && pidfd_send_signal(&held, signal).is_ok()
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::process::Command;

    /// Goal: the process that is noted dies, one with another start does not. Method: a sleeper and two notes.
    #[test]
    fn only_the_noted_process_dies() {
        let note = std::env::temp_dir().join(format!("muskox-prey-{}", std::process::id()));
        let mut sleeper = Command::new("sleep").arg("60").spawn().expect("sleep is there");
        let pid = i32::try_from(sleeper.id()).expect("a pid");
        let start = start_of(pid).expect("it lives");
        std::fs::write(&note, format!("{pid} {} boot\n", start + 1)).expect("a note");
        assert_eq!(Prey::noted(&note), None);
        assert!(!Prey { pid, start: start + 1 }.kill());
        assert!(sleeper.try_wait().expect("ours").is_none());
        std::fs::write(&note, format!("{pid} {start} boot\n")).expect("a note");
        let prey = Prey::noted(&note).expect("it lives");
        assert!(prey.kill());
        sleeper.wait().expect("ours");
        assert!(!prey.lives() && !prey.kill());
        assert_eq!(Prey::noted(&note), None);
        std::fs::remove_file(&note).expect("ours");
    }
}
