//! A member that does not answer is failed after a while, fence or not: a mirror that waits for ever is no mirror.
//!
//! Never the last one in sync that could still answer: if all are silent, it is the box that is stuck, and waiting loses
//! nothing. They may come back one after the other (a controller's reset), so the time of each begins anew then. And never by our own fault: a process that was itself not scheduled discards the silence it counted, here and
//! when a fence asks who lags ([`Inner::trusted`]).

use super::array::Inner;
use super::leg::{Leg, Standing};
use std::cell::Cell;
use std::rc::Rc;
use units::{Millis, Moment};

/// How long one operation may take on a member: the kernel's own timeout of a SCSI command.
pub(super) const SILENCE_MAX: Millis = Millis(30_000);
/// How often it looks while anything is under way: a pause is noticed within a fence's patience of 1500 ms.
const LOOK_EVERY: Millis = Millis(250);
/// A look that comes later than this after its time is by a process that was stopped.
const LATE: Millis = Millis(500);

/// Whether this process itself was running.
#[derive(Default)]
pub(super) struct Pulse {
    /// Since when it has been running without a pause, as far as anything was under way.
    trusted: Cell<Moment>,
    /// When it looks next; nothing is under way if that is not set.
    due: Cell<Option<Moment>>,
    /// When all members in sync had been silent together. What was before counts for nobody.
    all_silent: Cell<Moment>,
    /// When a fence last found operations hanging on all of them together.
    pub(super) all_hung: Cell<Option<Moment>>,
}

impl Inner {
    /// Something is under way on a member: somebody looks after it until nothing is.
    #[inline]
    pub fn look_after(self: &Rc<Self>) {
        if self.pulse.due.get().is_some() {
            return;
        }
        let (inner, now) = (Rc::clone(self), self.rt.now());
        self.pulse.trusted.set(now);
        self.pulse.due.set(Some(now + LOOK_EVERY));
        self.rt.spawn(Box::pin(async move { inner.look().await }));
    }

    async fn look(self: &Rc<Self>) {
        while let Some(due) = self.pulse.due.get() {
            self.rt.sleep_until(due).await;
            let now = self.rt.now();
            let trusted = self.trusted(now);
            self.fail_silent(trusted, now);
            let busy = self.live().iter().any(|leg| leg.in_flight() > 0);
            self.pulse.due.set(busy.then(|| now + LOOK_EVERY));
        }
    }

    /// Since when this process has been running without a pause: silence from before that proves nothing. Whoever asks
    /// first after a pause notices it, be it the watchdog or a fence.
    pub fn trusted(&self, now: Moment) -> Moment {
        if self.pulse.due.get().is_some_and(|due| now.since(due) > LATE) {
            self.pulse.trusted.set(now);
            // Noticed once.
            self.pulse.due.set(Some(now));
        }
        self.pulse.trusted.get()
    }

    fn fail_silent(self: &Rc<Self>, trusted: Moment, now: Moment) {
        let counted = trusted.max(self.pulse.all_silent.get());
        let silent = |leg: &Rc<Leg>| leg.oldest().is_some_and(|oldest| now.since(oldest.max(counted)) >= SILENCE_MAX);
        let others = self.in_sync().iter().any(|leg| !silent(leg));
        if !others {
            self.pulse.all_silent.set(now);
        }
        for leg in self.live().iter().filter(|leg| silent(leg)) {
            if others || leg.standing() == Standing::Recovering {
                // One that is not silent is left, so this is not the last.
                let _ = self.fail(leg, &format!("no answer for {SILENCE_MAX}"));
            }
        }
    }
}
