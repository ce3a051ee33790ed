//! What happens lazily after writes: bits are cleared and the array is marked clean again.
//!
//! Invariant: a bit is cleared only when every slot is in sync, nothing writes its chunk, and everything written to it
//! was flushed on all members since; while a member is missing every bit stays, for its return.

use super::array::Inner;
use super::bitmap::{Bitmap, LAZY_SECONDS};
use crate::device::DeviceError;
use crate::runtime::sleep;
use futures_util::future::select;
use std::rc::Rc;
use units::{Millis, Moment};

/// Which chunks count as idle: those on which nothing was written after `begun`, and for `idle` before the flush that
/// began at `before`.
struct Idle {
    before: Moment,
    begun: u64,
    idle: Millis,
}

impl Inner {
    /// Sees to it that somebody tidies up a while from now.
    pub fn tidy_later(self: &Rc<Self>) {
        if self.tidying.replace(true) {
            return;
        }
        let inner = Rc::clone(self);
        self.rt.spawn(Box::pin(async move {
            let span = Millis(u64::from(LAZY_SECONDS) * 1000);
            while !inner.closed.get() && inner.broken.get().is_none() {
                select(Box::pin(sleep(&inner.rt, span)), Box::pin(inner.closing.wait())).await;
                if inner.closed.get() || inner.tidy(span).await.unwrap_or(true) {
                    break;
                }
            }
            inner.tidying.set(false);
            // A write between the last look and this line asked in vain.
            if !inner.board.borrow().clean && !inner.closed.get() && inner.broken.get().is_none() {
                inner.tidy_later();
            }
        }));
    }

    /// Clears what nobody wrote to for `idle`; true when the array is clean and there is nothing left to do.
    pub async fn tidy(self: &Rc<Self>, idle: Millis) -> Result<bool, DeviceError> {
        // What made the array whole (a member's coming in) is durable before a bit is cleared because of it.
        self.settle(self.progress.wanted.get()).await?;
        // What is looked at before the flush is covered by it: a copy that ends meanwhile is not.
        let (before, begun, whole) = (self.rt.now(), self.ranges.begun.get(), self.is_whole());
        let equal = self.in_sync().iter().all(|leg| leg.todo.borrow().is_empty());
        self.flush_members().await?;
        self.may_answer().await?;
        if whole {
            let idle = Idle { before, begun, idle };
            self.announce_clearing(&idle).await?;
            self.clear_bits(&idle).await?;
        }
        if equal { self.become_clean(begun).await } else { Ok(false) }
    }

    /// Before a bit is cleared, every member's header says that bits are cleared at this count of events: a bit that a
    /// torn page shows clear under the old header would take a member back that lacks its chunk.
    async fn announce_clearing(self: &Rc<Self>, idle: &Idle) -> Result<(), DeviceError> {
        if self.idle_chunks(idle).is_empty() {
            return Ok(());
        }
        let moved = {
            let mut board = self.board.borrow_mut();
            let events = board.events;
            board.bitmap.as_mut().is_some_and(|bitmap| bitmap.announce_clearing(events))
        };
        let generation = if moved { self.touch() } else { self.progress.wanted.get() };
        self.settle(generation).await
    }

    /// Clears the bits of idle chunks, unless a member failed or came in since that was announced: then the next time.
    async fn clear_bits(self: &Rc<Self>, idle: &Idle) -> Result<(), DeviceError> {
        let chunks = self.idle_chunks(idle);
        {
            let mut board = self.board.borrow_mut();
            let board = &mut *board;
            let announced = |bitmap: &&mut Bitmap| bitmap.events_cleared() == board.events;
            let Some(bitmap) = board.bitmap.as_mut().filter(announced).filter(|_| !chunks.is_empty()) else {
                return Ok(());
            };
            for &chunk in &chunks {
                bitmap.clear(chunk);
                board.uses.remove(&chunk);
            }
        }
        let generation = self.touch();
        self.settle(generation).await
    }

    /// The marked chunks that had been idle before the flush; none while a member lacks something. A write that ended
    /// while the flush ran is not covered by it.
    fn idle_chunks(&self, Idle { before, begun, idle }: &Idle) -> Vec<usize> {
        if !self.is_whole() {
            return Vec::new();
        }
        let board = self.board.borrow();
        let Some(bitmap) = &board.bitmap else {
            return Vec::new();
        };
        let uses = &board.uses;
        let is_idle = |chunk: &usize| {
            uses.get(chunk).is_none_or(|u| {
                let ended = u.in_flight == 0 && u.last_write <= *begun && u.last_end <= *before;
                ended && before.since(u.last_end) >= *idle
            })
        };
        bitmap.set().iter().filter(is_idle).collect()
    }

    /// Marks the array clean if nothing was written since `begun`, all of which was flushed, and no copy is due.
    async fn become_clean(self: &Rc<Self>, begun: u64) -> Result<bool, DeviceError> {
        let quiet = self.ranges.begun.get() == begun && self.ranges.writes.borrow().iter().all(Option::is_none);
        let settled = !self.is_whole() || self.board.borrow().bitmap.as_ref().is_none_or(|b| b.set().is_empty());
        if !(quiet && settled) {
            return Ok(false);
        }
        if !std::mem::replace(&mut self.board.borrow_mut().clean, true) {
            let generation = self.touch_superblocks();
            self.settle(generation).await?;
        }
        Ok(self.board.borrow().clean)
    }
}
