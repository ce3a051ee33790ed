//! This host's guests: stopped while no majority grants, asked for before they go on.
//!
//! ```text
//!  Paused: every running guest ─ QMP stop ─ no answer ─▶ frozen          every 100 ms again: who runs is stopped
//!  Asking: every guest that we stopped ─ its initiator ─ up, heard since ─▶ thaw, cont
//!                                                       ─ fenced ─────────▶ killed
//!                                                       ─ else ───────────▶ asked again
//! ```
//! Invariant: a guest goes on only if it was stopped here, and only if its target answered after the asking began.

mod group;
mod guest;
mod mark;

use super::core::{Core, Kind};
use guest::{Guest, Settled, Stopped};
use host::runtime::{now, sleep_until};
use host::vm::{Folder, Identity, Vm};
use mark::Mark;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use units::{Millis, Moment};
use wire::control::GuestReport;

/// Between two looks while something has to be done.
const LOOK: Millis = Millis(100);
/// More machines than a host runs.
const GUESTS_MAX: usize = 1024;

/// Keeps this host's guests as the lease wants them.
pub struct Keeper {
    core: Rc<Core>,
    vms: PathBuf,
    /// What a stop may take in all.
    stop_cost: Millis,
    /// Guests that were asked for since the lease came back, and went on.
    cleared: RefCell<Vec<Identity>>,
    /// Per guest, why it does not go on yet.
    waits: RefCell<BTreeMap<String, String>>,
}

impl Keeper {
    /// A keeper of the machines whose folders are in `vms`.
    pub fn new(core: Rc<Core>, vms: PathBuf, stop_cost: Millis) -> Rc<Self> {
        Rc::new(Self { core, vms, stop_cost, cleared: RefCell::default(), waits: RefCell::default() })
    }

    /// Does what the lease wants until the task is dropped.
    pub async fn keep(self: Rc<Self>) {
        let mut kinds = self.core.kinds();
        loop {
            let kind = *kinds.borrow_and_update();
            let done = tokio::select! {
                biased;
                // What was begun for another standing is begun anew; a stop is never broken off.
                changed = kinds.changed(), if kind != Kind::Paused => {
                    changed.expect("the core lives as long as this");
                    continue;
                }
                done = self.round(kind) => done,
            };
            if done && kind != Kind::Paused {
                let changed = kinds.changed().await;
                changed.expect("the core lives as long as this");
                continue;
            }
            tokio::select! {
                changed = kinds.changed() => changed.expect("the core lives as long as this"),
                () = sleep_until(now() + LOOK) => {}
            }
        }
    }

    /// One look at every guest; whether there is nothing more to do.
    async fn round(&self, kind: Kind) -> bool {
        let guests = live(&self.vms);
        match kind {
            Kind::Paused => {
                self.cleared.borrow_mut().clear();
                futures_util::future::join_all(guests.iter().map(|guest| guest.stop(self.stop_cost))).await;
                false
            }
            Kind::Asking => {
                let settled = self.settle_all(&guests, true).await;
                if settled {
                    self.core.resumed();
                }
                settled
            }
            Kind::Running | Kind::Unwatched => self.settle_all(&guests, false).await,
        }
    }

    /// Asks for every guest that was stopped here; whether none is left. With `stop`, who runs without having been asked
    /// for is stopped first.
    async fn settle_all(&self, guests: &[Guest], stop: bool) -> bool {
        let since = self.core.since();
        let settled = guests.iter().map(|guest| self.settle(guest, since, stop));
        let settled = futures_util::future::join_all(settled).await;
        let names: Vec<&str> = guests.iter().map(|guest| guest.name.as_str()).collect();
        self.waits.borrow_mut().retain(|name, _| names.contains(&name.as_str()));
        settled.into_iter().all(|settled| settled)
    }

    async fn settle(&self, guest: &Guest, since: Moment, stop: bool) -> bool {
        if guest.mark().is_none() {
            let clear = !stop || self.cleared.borrow().contains(guest.identity());
            if clear || guest.stop(self.stop_cost).await == Stopped::ByOthers {
                return true;
            }
        }
        match guest.settle(since).await {
            Settled::GoesOn => {
                tracing::info!(guest = guest.name, "its volumes are this host's: it goes on");
                self.cleared.borrow_mut().push(guest.identity().clone());
                self.waits.borrow_mut().remove(&guest.name);
                true
            }
            Settled::Gone => {
                tracing::warn!(guest = guest.name, "it is gone");
                self.waits.borrow_mut().remove(&guest.name);
                true
            }
            Settled::Waits(why) => {
                let before = self.waits.borrow_mut().insert(guest.name.clone(), why.clone());
                if before.as_ref() != Some(&why) {
                    tracing::warn!(guest = guest.name, "stays paused: {why}");
                }
                false
            }
        }
    }

    /// The guests, for the status.
    pub fn report(&self) -> Vec<GuestReport> {
        let report = |guest: Guest| GuestReport {
            paused_by_us: guest.mark().is_some(),
            waits_for: self.waits.borrow().get(&guest.name).cloned(),
            name: guest.name,
        };
        live(&self.vms).into_iter().map(report).collect()
    }
}

/// Whether a former life stopped guests that still wait.
pub fn some_wait(vms: &Path) -> bool {
    live(vms).iter().any(|guest| guest.mark().is_some())
}

/// Every machine that has a live QEMU.
fn live(vms: &Path) -> Vec<Guest> {
    let entries = match std::fs::read_dir(vms) {
        Ok(entries) => entries,
        // No machine has been started here yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::error!(%error, "cannot look for guests in {}", vms.display());
            return Vec::new();
        }
    };
    let folders = entries.filter_map(|entry| Folder::new(&entry.ok()?.path()).ok()).take(GUESTS_MAX);
    folders.filter_map(|folder| find(&folder)).collect()
}

/// The machine of a folder, if its QEMU lives. The mark of one that does not is taken away.
fn find(folder: &Folder) -> Option<Guest> {
    let process = match Vm::process_in(folder) {
        Ok(process) => process,
        Err(error) => {
            // Not known is not dead: its mark stays.
            tracing::error!(%error, "cannot look at {}", folder.path().display());
            return None;
        }
    };
    let Some(process) = process else {
        Mark::remove(folder);
        return None;
    };
    Guest::new(folder.clone(), process)
}
