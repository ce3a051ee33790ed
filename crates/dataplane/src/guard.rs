//! `muskox guard`: freezes this host's guests when the lease has ended and the dead-man has not stopped them: because it hangs, or is
//! gone and nobody starts it again.
//!
//! ```text
//!  deadman.lease ── every 250 ms, and at the moment it names ─▶ over? ── no ──▶ again
//!                                                                └─ yes, or it cannot be read ──▶ every QEMU is frozen, every 100 ms
//! ```
//! Invariant: it waits for nothing but the clock: no socket, no lock, no disk, no other process. It never lets a guest go on: that is
//! the dead-man's, which finds the marks that are left here (docs/rfd/0007-witness.md). It does *not* know what a lease is.

use crate::deadman::Record;
use crate::guests::{self, Guests, Live, Mark, Who};
use cluster::lease::GuardOrder;
use host::runtime::{now, rest_until};
use host::urgent::{Manager, Priority};
use host::vm::Identity;
use std::path::Path;
use units::sabotage::{Bug, planted};
use units::{Millis, Moment};

/// Between two looks at the record: it is written as often.
const LOOK: Millis = Millis(250);
/// Between two looks at guests that must stand.
const LOOK_AGAIN: Millis = Millis(100);
/// A record that cannot be read is read once more after this, before it counts as one that has ended.
const READ_AGAIN: Millis = Millis(50);

/// Guards until it is killed. `record`: what the dead-man writes; `vms`: the folders of this host's VMs.
///
/// # Errors
/// If the kernel does not say which boot this is.
pub fn run(record: &Path, vms: &Path) -> std::io::Result<()> {
    host::daemon::begin();
    let (record, manager) = (Record::at(record)?, Manager::of_this_process());
    be_urgent();
    tracing::info!("guarding the VMs in '{}'", vms.display());
    manager.ready();
    let mut guard = Guard { guests: Guests::new(vms), frozen: Vec::new(), said: None };
    loop {
        manager.alive();
        assert!(!planted(Bug::TaskPanics), "planted");
        let next = match order(&record) {
            Ok(None) => {
                guard.say(
                    "the dead-man is older than the guard and does not say when its lease ends: nobody is guarded",
                );
                now() + LOOK
            }
            Ok(Some(order)) if !GuardOrder::is_due(Some(&order), now()) => {
                guard.rest();
                if order.freeze_at > now() { order.freeze_at.min(now() + LOOK) } else { now() + LOOK }
            }
            Ok(Some(_)) => guard.freeze("the lease ended and the dead-man has not stopped the guests"),
            Err(_) if !GuardOrder::is_due(None, now()) => now() + LOOK,
            Err(why) => guard.freeze(&format!("nothing is known of a lease: {why}")),
        };
        rest_until(next);
    }
}

fn order(record: &Record) -> Result<Option<GuardOrder>, String> {
    record.order().or_else(|_| {
        rest_until(now() + READ_AGAIN);
        record.order()
    })
}

struct Guard {
    guests: Guests,
    /// Whom it froze since the lease ended, and whether that is noted.
    frozen: Vec<(Identity, bool)>,
    /// What was said last.
    said: Option<String>,
}

impl Guard {
    fn say(&mut self, text: &str) {
        if self.said.as_deref() != Some(text) {
            tracing::warn!("{text}");
            self.said = Some(text.to_owned());
        }
    }

    /// There is nothing to do.
    fn rest(&mut self) {
        if self.said.take().is_some() {
            tracing::info!("the dead-man does its work: guests that were frozen are its to let go on");
        }
        self.frozen.clear();
    }

    /// Freezes who is not frozen; when to look again.
    fn freeze(&mut self, why: &str) -> Moment {
        let found = self.guests.look();
        if !found.live.is_empty() || !found.unknown.is_empty() {
            self.say(why);
        }
        for unknown in &found.unknown {
            tracing::error!("{unknown}");
        }
        for guest in &found.live {
            self.freeze_one(guest);
        }
        now() + LOOK_AGAIN
    }

    fn freeze_one(&mut self, guest: &Live) {
        let frozen = guests::is_frozen(&guest.process);
        let known = self.frozen.iter().position(|(who, _)| who == guest.identity());
        let Some(at) = known else {
            // Who was stopped by others before is not let go on by anybody of us.
            if !frozen {
                let noted = note(guest);
                self.frozen.push((guest.identity().clone(), noted));
                freeze(guest, guests::begin_freeze(&guest.process));
            }
            return;
        };
        self.frozen[at].1 = self.frozen[at].1 || note(guest);
        if !frozen {
            // Thawed by somebody, or by its group it does not freeze: by a signal then.
            freeze(guest, guests::begin_freeze(&guest.process).and_then(|()| guests::signal_stop(&guest.process)));
        }
    }
}

fn freeze(guest: &Live, done: Result<(), String>) {
    match done {
        Ok(()) => tracing::warn!(guest = guest.name, "frozen"),
        Err(error) => tracing::error!(guest = guest.name, "{error}"),
    }
}

/// Notes that it is frozen here, before it is; whether that stands in its folder.
fn note(guest: &Live) -> bool {
    match (Mark { stopped: false, frozen: true }).write(&guest.folder, guest.identity(), Who::Guard) {
        Ok(()) => true,
        Err(error) => {
            // Frozen it is in any case, and this is tried again.
            tracing::error!(guest = guest.name, %error, "cannot note that it is frozen here");
            false
        }
    }
}

/// Each is a wish; what is not granted is said.
fn be_urgent() {
    let wishes = [
        ("its memory is not locked: a disk that hangs may delay it", host::urgent::lock_memory()),
        // Also where a dead-man runs wild, and there is one processor.
        ("no real-time priority: a busy machine may delay it", host::urgent::real_time(Priority::BeforeThose)),
        ("it may be killed when memory runs out", host::urgent::outlive_others()),
    ];
    for (without, wish) in wishes {
        if let Err(error) = wish {
            tracing::warn!("{without} ({error}); run it as root");
        }
    }
}
