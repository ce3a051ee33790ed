//! This machine's guard, which freezes guests where the dead-man does not stop them (docs/rfd/0007-witness.md).

use super::deadman;
use super::place::{ENVIRONMENT, Place};
use super::unit::Unit;
use crate::install;
use crate::root::Root;
use api::{Code, Problem};
use cluster::lease::WITNESSES_MIN;
use host::vm::Daemon;
use std::ffi::OsString;
use std::path::PathBuf;

/// What it is told on its command line. It reads no configuration: nothing can be wrong with it.
#[must_use]
pub fn arguments(root: &Root) -> Vec<OsString> {
    let vms = root.below("run/muskox/vm");
    vec!["guard".into(), "--record".into(), record_of(root).into(), "--vms".into(), vms.into()]
}

/// What the dead-man writes for it. Source: `dataplane::deadman`: beside its control socket.
#[must_use]
pub fn record_of(root: &Root) -> PathBuf {
    root.below("run/muskox/deadman.lease")
}

/// Its process.
#[must_use]
pub fn daemon(place: &Place) -> Daemon {
    Daemon {
        program: place.program.clone(),
        arguments: arguments(place.root()),
        environment: ENVIRONMENT.to_vec(),
        note: place.run("guard.process"),
        log: place.log("guard"),
        cgroups: Vec::new(),
    }
}

/// Who keeps it where systemd runs.
#[must_use]
pub fn unit(place: &Place) -> Unit {
    Unit::of(place, install::GUARD_UNIT)
}

/// Whether there is something to guard by: without a record it would freeze guests that nobody has to watch.
#[must_use]
pub fn has_record(place: &Place) -> bool {
    matches!(record_of(place.root()).try_exists(), Ok(true))
}

/// What is wrong with it, with what to do; nothing where no guest has to be guarded.
#[must_use]
pub fn fault(place: &Place) -> Option<Problem> {
    if deadman::witness_count(place).is_ok_and(|count| count < WITNESSES_MIN) {
        return None;
    }
    let why = match daemon(place).find() {
        Ok(Some(_)) => return None,
        Ok(None) => "it does not run".to_owned(),
        Err(error) => error.to_string(),
    };
    let text = format!("the guard: {why}; guests of this host run on if its dead-man hangs");
    Some(Problem::new(Code::Failed, text, "see `journalctl -u muskox-guard` or var/log/muskox/guard.log there"))
}
