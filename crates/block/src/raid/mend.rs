//! A block that one member cannot read: answered from another, and written back, as md does (`fix_read_error` in Linux
//! `drivers/md/raid1.c`). Disks relocate a bad sector when it is written; taking the member away for one would leave the
//! mirror with one copy for hours.
//!
//! Invariants: what is written back was read while no application write covered the range, and the range stays taken
//! until the write has ended (B-11). A member is failed if it cannot be written back, or at [`READ_ERRORS_MAX`] in an hour.
//! A failed *write* or flush stays final (I11).

use super::array::{Inner, LastOne};
use super::leg::{Joined, Leg, Outcome};
use super::resync::Window;
use crate::device::{DeviceError, Durability};
use crate::runtime::run_to_end;
use crate::{IoBuf, IoFuture};
use std::collections::VecDeque;
use std::rc::Rc;
use units::sabotage::{Bug, planted};
use units::{ByteLen, ByteOffset, Millis, Moment};

/// So many read errors within [`WITHIN`] are a disk that dies. Source of the number: Linux `drivers/md/md.h`,
/// `MD_DEFAULT_MAX_CORRECTED_READ_ERRORS`.
pub(super) const READ_ERRORS_MAX: usize = 20;
const WITHIN: Millis = Millis(3_600_000);

/// The read errors of one member within the last hour.
#[derive(Default)]
pub(super) struct ReadErrors(VecDeque<Moment>);

impl ReadErrors {
    /// Counts one; whether there are too many now.
    fn count(&mut self, now: Moment) -> bool {
        self.0.retain(|then| now.since(*then) < WITHIN);
        self.0.push_back(now);
        self.0.len() >= READ_ERRORS_MAX
    }
}

impl Inner {
    /// What to do about a read that failed: the content, if another member had it; `None`: ask again, members have changed.
    pub fn mend(
        self: &Rc<Self>,
        bad: Rc<Leg>,
        at: ByteOffset,
        len: ByteLen,
        error: DeviceError,
    ) -> IoFuture<Option<IoBuf>> {
        let many = bad.read_errors.borrow_mut().count(self.rt.now());
        if many || self.other_reader(&bad, at, len).is_none() {
            let failed = self.fail(&bad, &format!("a read: {error}")).map(|()| None).map_err(|LastOne| error);
            return IoFuture::ready(failed);
        }
        let inner = Rc::clone(self);
        run_to_end(&self.rt, async move { inner.write_back(&bad, at, len).await })
    }

    async fn write_back(
        self: &Rc<Self>,
        bad: &Rc<Leg>,
        at: ByteOffset,
        len: ByteLen,
    ) -> Result<Option<IoBuf>, DeviceError> {
        let started = self.rt.now();
        let (from, to) = (at.0, at.0 + len.0);
        let _window = if planted(Bug::MendWithoutWindow) { None } else { Some(Window::open(self, from, to).await) };
        let Some(good) = self.other_reader(bad, at, len).filter(|_| bad.is_in_sync()) else {
            return Ok(None);
        };
        let read = Joined::start(self, started, std::iter::once(good), |leg| {
            leg.read(at, IoBuf::new(usize::try_from(len.0).expect("it was a buffer before")))
        });
        let filled = match read.await.pop() {
            Some((_, Outcome::Answered(Ok(filled)))) => filled,
            // Neither has this block: each has others that the other may lack, so none is failed for it.
            Some((_, Outcome::Answered(Err(error)))) => return Err(error),
            Some((_, Outcome::Abandoned)) | None => return Ok(None),
        };
        let data = IoBuf::copy_of(&filled).freeze();
        let write = Joined::start(self, started, std::iter::once(Rc::clone(bad)), |leg| {
            leg.write(at, data.clone(), Durability::Fua)
        });
        if let Some((_, Outcome::Answered(Err(error)))) = write.await.pop() {
            // The other one was in sync a moment ago; if it is not any more, the next read says so.
            let _ = self.fail(bad, &format!("writing back what could not be read: {error}"));
        }
        Ok(Some(filled))
    }

    /// A member that can answer for this range, other than this one.
    fn other_reader(&self, bad: &Rc<Leg>, at: ByteOffset, len: ByteLen) -> Option<Rc<Leg>> {
        let chunks = self.chunks_of(at, len);
        let fits = |leg: &Rc<Leg>| !Rc::ptr_eq(leg, bad) && !leg.todo.borrow().touches(chunks.clone());
        self.in_sync().into_iter().find(fits)
    }
}
