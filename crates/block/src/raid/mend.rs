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
use crate::{IoBuf, IoData, IoFuture};
use std::collections::VecDeque;
use std::rc::Rc;
use units::sabotage::{Bug, planted};
use units::{ByteLen, ByteOffset, Millis, Moment};

/// So many read errors within [`WITHIN`] are a disk that dies. Source of the number: Linux `drivers/md/md.h`,
/// `MD_DEFAULT_MAX_CORRECTED_READ_ERRORS`.
pub(super) const READ_ERRORS_MAX: usize = 20;
const WITHIN: Millis = Millis(3_600_000);
/// What is said of a place that nobody has, as of media that fails. Source: `include/uapi/asm-generic/errno-base.h`.
pub(super) const EIO: i32 = 5;

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
        let alone = self.other_readers(&bad, at, len).is_empty();
        if alone && error.is_of_one_place() && self.some_in_sync(|leg| leg.lacks(at, len)) {
            // Of what the others lack, this one may have the only copy.
            return IoFuture::ready(Err(error));
        }
        if many || alone || !error.is_of_one_place() {
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
        let good = self.other_readers(bad, at, len);
        if good.is_empty() || !bad.is_in_sync() {
            return Ok(None);
        }
        let mut unread = None;
        for leg in good {
            let read = Joined::start(self, started, std::iter::once(leg), |leg| {
                leg.read(at, IoBuf::new(usize::try_from(len.0).expect("it was a buffer before")))
            });
            match read.await.pop() {
                Some((_, Outcome::Answered(Ok(filled)))) => {
                    self.write_again(bad, at, &IoBuf::copy_of(&filled).freeze()).await?;
                    return Ok(Some(filled));
                }
                // It has others that this one may lack, so none is failed for it.
                Some((_, Outcome::Answered(Err(error)))) => unread = Some(error),
                Some((_, Outcome::Abandoned)) | None => return Ok(None),
            }
        }
        Err(unread.expect("at least one was asked"))
    }

    /// A member gets what it could not read; or fails, if it had too many of that.
    pub(super) async fn give_back(self: &Rc<Self>, bad: &Rc<Leg>, at: ByteOffset, data: &IoData) {
        if bad.read_errors.borrow_mut().count(self.rt.now()) {
            let _ = self.fail(bad, &format!("{READ_ERRORS_MAX} reads within an hour failed"));
            return;
        }
        let _ = self.write_again(bad, at, data).await;
    }

    async fn write_again(self: &Rc<Self>, bad: &Rc<Leg>, at: ByteOffset, data: &IoData) -> Result<(), DeviceError> {
        let write = Joined::start(self, self.rt.now(), std::iter::once(Rc::clone(bad)), |leg| {
            leg.write(at, data.clone(), Durability::Fua)
        });
        match write.await.pop() {
            Some((_, Outcome::Answered(Ok(())))) => self.note_written(bad, at, data.byte_len()),
            Some((_, Outcome::Answered(Err(error)))) => {
                // The other one was in sync a moment ago; if it is not any more, the next read says so.
                let _ = self.fail(bad, &format!("writing back what could not be read: {error}"));
                Ok(())
            }
            Some((_, Outcome::Abandoned)) | None => Ok(()),
        }
    }

    /// A member has a range on its media: if its log of bad blocks named it, it does no more, from the next superblock on.
    /// An error if it is the last one in sync and the log has no place for what is left of a longer range.
    pub(super) fn note_written(
        self: &Rc<Self>,
        leg: &Rc<Leg>,
        at: ByteOffset,
        len: ByteLen,
    ) -> Result<(), DeviceError> {
        if !leg.lacks(at, len) {
            return Ok(());
        }
        if !leg.note_written(at, len) {
            let full = "its bad block log is full";
            return self.fail(leg, full).map_err(|LastOne| DeviceError::Failed { errno: EIO });
        }
        let generation = self.touch_superblocks();
        self.progress.answers_need.set(generation);
        Ok(())
    }

    /// What was read when some member in sync is known to hold nothing there: the content, which that member gets too.
    pub(super) async fn read_around(
        self: &Rc<Self>,
        at: ByteOffset,
        len: ByteLen,
    ) -> Result<Option<IoBuf>, DeviceError> {
        let lacks = |leg: &Rc<Leg>| leg.lacks(at, len) && !self.other_readers(leg, at, len).is_empty();
        let Some(bad) = self.in_sync().into_iter().find(lacks) else {
            return Ok(None);
        };
        let inner = Rc::clone(self);
        run_to_end(&self.rt, async move { inner.write_back(&bad, at, len).await }).await
    }

    /// The members that can answer for this range, other than this one.
    fn other_readers(&self, bad: &Rc<Leg>, at: ByteOffset, len: ByteLen) -> Vec<Rc<Leg>> {
        let chunks = self.chunks_of(at, len);
        let fits =
            |leg: &Rc<Leg>| !Rc::ptr_eq(leg, bad) && !leg.todo.borrow().touches(chunks.clone()) && !leg.lacks(at, len);
        self.in_sync().into_iter().filter(fits).collect()
    }
}
