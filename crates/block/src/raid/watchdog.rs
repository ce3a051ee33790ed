//! A member that does not answer is failed after a while, fence or not: a mirror that waits for ever is no mirror.
//!
//! Never the last one in sync that could still answer: if all are silent, it is the box that is stuck, and waiting loses
//! nothing. And never by our own fault: a process that was itself not scheduled discards the silence it counted.

use super::array::Inner;
use super::leg::{Leg, Standing};
use std::rc::Rc;
use units::{Millis, Moment};

/// How long one operation may take on a member: the kernel's own timeout of a SCSI command.
pub(super) const SILENCE_MAX: Millis = Millis(30_000);
/// How often it looks while anything is under way.
const LOOK_EVERY: Millis = Millis(1000);
/// A look that comes later than this after its time is by a process that was stopped.
const LATE: Millis = Millis(500);

impl Inner {
    /// Something is under way on a member: somebody looks after it until nothing is.
    #[inline]
    pub fn look_after(self: &Rc<Self>) {
        if self.looked_after.replace(true) {
            return;
        }
        let (inner, trusted) = (Rc::clone(self), self.rt.now());
        self.rt.spawn(Box::pin(async move {
            inner.look(trusted).await;
            inner.looked_after.set(false);
        }));
    }

    /// `trusted` is since when this process has been running without a pause.
    async fn look(self: &Rc<Self>, mut trusted: Moment) {
        while self.live().iter().any(|leg| leg.in_flight() > 0) {
            let due = self.rt.now() + LOOK_EVERY;
            self.rt.sleep_until(due).await;
            let now = self.rt.now();
            if now.since(due) > LATE {
                trusted = now;
            }
            self.fail_silent(trusted, now);
        }
    }

    fn fail_silent(self: &Rc<Self>, trusted: Moment, now: Moment) {
        let silent = |leg: &Rc<Leg>| leg.oldest().is_some_and(|oldest| now.since(oldest.max(trusted)) >= SILENCE_MAX);
        let others = self.in_sync().iter().any(|leg| !silent(leg));
        for leg in self.live().iter().filter(|leg| silent(leg)) {
            if others || leg.standing() == Standing::Recovering {
                // One that is not silent is left, so this is not the last.
                let _ = self.fail(leg, &format!("no answer for {SILENCE_MAX}"));
            }
        }
    }
}
