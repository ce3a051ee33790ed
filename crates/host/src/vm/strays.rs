//! Children of ours that have ended and that nobody waits for any more: whoever started them has let go of them.

use super::process::{Stat, read_of};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::collections::BTreeSet;
use std::io;

/// Collects children that nobody waits for. Who waits for one collects it within milliseconds of its end; so what lay there at
/// the last look, and lies there now, is nobody's.
#[derive(Debug, Default)]
pub struct Strays {
    /// Their pids and start times.
    seen: BTreeSet<(i32, u64)>,
}

impl Strays {
    /// Looks, and collects what lay there at the last look too; how many. To be called seconds apart.
    ///
    /// # Errors
    /// If the kernel's list cannot be read.
    pub fn collect(&mut self) -> io::Result<usize> {
        let me = i32::try_from(std::process::id()).expect("the kernel's pids fit");
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            // One that cannot be looked at is not ours.
            let Ok(Some(text)) = read_of(pid, "stat") else { continue };
            if let Some(stat) = Stat::parse(&text)
                && stat.is_dead()
                && stat.parent == me
            {
                found.insert((pid, stat.start_ticks));
            }
        }
        let mut collected = 0;
        for (pid, _) in found.intersection(&self.seen) {
            let Some(pid) = Pid::from_raw(*pid) else { continue };
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            // Somebody has waited for it after all: as good.
            collected += usize::from(matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_))));
        }
        self.seen = found;
        Ok(collected)
    }
}
