//! This host's guests: stopped while no majority grants; each asked for by itself before it goes on.
//!
//! ```text
//!  Paused:  every running guest ─ QMP stop ─ no answer ─▶ frozen       every 100 ms again: who runs is stopped
//!  Asking:  the same, until none runs that was not stopped here; then the lease holds for the host
//!  Running: every guest that was stopped here, or frozen by the guard ─ its initiator ─ up, heard since ─▶ thaw, cont
//!                                                                       ─ fenced ───────▶ killed
//!                                                                       ─ else ─────────▶ kept stopped, asked again
//! ```
//! Invariant: a guest goes on only if it was stopped here, and only if its own target answered a question that was sent after the
//! lease was granted again. One that waits keeps no other one waiting.

use super::core::{Core, Kind};
use super::guest::{Guest, Settled, Stopped};
use super::marks::Marks;
use crate::guests::{Guests, Live, Marked};
use crate::trouble::Troubles;
use futures_util::future::join_all;
use host::runtime::{now, sleep_until};
use host::vm::Identity;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use units::{Millis, Moment};
use wire::control::GuestReport;

/// Between two looks while something has to be done.
const LOOK: Millis = Millis(100);
/// Between two looks for what the guard did while this process stood.
const LOOK_FOR_MARKS: Millis = Millis(1_000);

/// Keeps this host's guests as the lease wants them.
pub struct Keeper {
    core: Rc<Core>,
    guests: Guests,
    /// What a stop may take in all.
    stop_cost: Millis,
    marks: Rc<Marks>,
    troubles: Rc<Troubles>,
    /// Stopped guests that wait, and since when: what a target answered before does not count.
    waiting: RefCell<BTreeMap<String, Waiting>>,
}

/// A guest that waits for its target.
struct Waiting {
    who: Identity,
    since: Moment,
    why: String,
}

impl Keeper {
    /// A keeper of the machines whose folders are in `vms`.
    pub fn new(
        core: Rc<Core>,
        (vms, stop_cost): (&Path, Millis),
        (marks, troubles): (Rc<Marks>, Rc<Troubles>),
    ) -> Rc<Self> {
        let (guests, waiting) = (Guests::new(vms), RefCell::default());
        Rc::new(Self { core, guests, stop_cost, marks, troubles, waiting })
    }

    /// Does what the lease wants until the task is dropped.
    pub async fn keep(self: Rc<Self>) {
        let mut kinds = self.core.kinds();
        loop {
            let kind = *kinds.borrow_and_update();
            let again = tokio::select! {
                biased;
                // What was begun for another standing is begun anew; a stop is never broken off.
                changed = kinds.changed(), if kind != Kind::Paused => {
                    changed.expect("the core lives as long as this");
                    continue;
                }
                again = self.round(kind) => again,
            };
            tokio::select! {
                changed = kinds.changed() => changed.expect("the core lives as long as this"),
                () = sleep_until(now() + again) => {}
            }
        }
    }

    /// One look at every guest; when to look again.
    async fn round(&self, kind: Kind) -> Millis {
        if matches!(kind, Kind::Running | Kind::Unwatched) && !self.guests.some_marked() && !self.marks.are_unsaved() {
            self.waiting.borrow_mut().clear();
            return LOOK_FOR_MARKS;
        }
        let found = self.guests.look();
        self.troubles.note("guests", (!found.unknown.is_empty()).then(|| found.unknown.join("; ")));
        self.marks.save_again(&found.live);
        let all_seen = found.unknown.is_empty();
        let guests: Vec<Guest> = found.live.into_iter().map(|live| Guest::new(live, &self.marks)).collect();
        match kind {
            Kind::Paused | Kind::Asking => {
                self.waiting.borrow_mut().clear();
                let stops = join_all(guests.iter().map(|guest| guest.stop(self.stop_cost))).await;
                let all = all_seen && stops.iter().all(|stop| *stop != Stopped::No);
                match kind {
                    Kind::Asking if all => self.core.resumed(),
                    _ => self.core.guests_stopped(all),
                }
                LOOK
            }
            Kind::Running | Kind::Unwatched => {
                let names: Vec<&str> = guests.iter().map(Guest::name).collect();
                self.waiting.borrow_mut().retain(|name, _| names.contains(&name.as_str()));
                let settled = join_all(guests.iter().map(|guest| self.settle(guest))).await;
                if settled.into_iter().all(|settled| settled) { LOOK_FOR_MARKS } else { LOOK }
            }
        }
    }

    /// Asks for a guest that was stopped here; whether there is nothing more to do about it.
    async fn settle(&self, guest: &Guest) -> bool {
        if guest.mark() == Marked::No {
            self.waiting.borrow_mut().remove(guest.name());
            return true;
        }
        let since = self.waits_since(guest);
        // Whoever let it run meanwhile had no leave to.
        guest.stop(self.stop_cost).await;
        let settled = guest.settle(since).await;
        let why = match settled {
            Settled::GoesOn => {
                tracing::info!(guest = guest.name(), "its volumes are this host's: it goes on");
                None
            }
            Settled::Gone => {
                tracing::warn!(guest = guest.name(), "it is gone");
                None
            }
            Settled::Waits(why) => Some(why),
        };
        let mut waiting = self.waiting.borrow_mut();
        let Some(why) = why else {
            waiting.remove(guest.name());
            return true;
        };
        if let Some(entry) = waiting.get_mut(guest.name())
            && entry.why != why
        {
            tracing::warn!(guest = guest.name(), "stays stopped: {why}");
            entry.why = why;
        }
        false
    }

    /// Since when a guest waits under this lease: what it waits for must have been said after that.
    fn waits_since(&self, guest: &Guest) -> Moment {
        let mut waiting = self.waiting.borrow_mut();
        let fresh = || Waiting { who: guest.identity().clone(), since: now(), why: String::new() };
        let entry = waiting.entry(guest.name().to_owned()).or_insert_with(fresh);
        if entry.who != *guest.identity() {
            *entry = fresh();
        }
        entry.since
    }

    /// The guests, for the status.
    pub fn report(&self) -> Vec<GuestReport> {
        let report = |live: Rc<Live>| GuestReport {
            paused_by_us: self.marks.of(&live) != Marked::No,
            waits_for: self.waiting.borrow().get(&live.name).map(|it| it.why.clone()).filter(|why| !why.is_empty()),
            name: live.name.clone(),
        };
        self.guests.look().live.into_iter().map(report).collect()
    }
}
