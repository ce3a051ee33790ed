//! Application reads, writes and flushes.
//!
//! A write (1) takes its range, so that no resync window copies it meanwhile, (2) makes sure that the array is marked
//! active and the chunk's bit is set, durably, (3) goes to every live member at once, (4) fails the members that
//! failed it, and (5) is answered only when those failures are recorded on the others.
//!
//! Recovering members get every write, also above their recovery offset: the copy that comes later reads the same
//! content from a member in sync, under the range lock, so it can only repeat it; and there is no border at which a
//! write could be missed (B-01). They serve no reads.

use super::array::{ChunkUse, Inner, LastOne};
use super::leg::{Joined, Leg, Outcome};
use super::mend::EIO;
use super::resync::{PIECE_BYTES, Stop};
use crate::device::{BlockDevice, DeviceError, Durability, Geometry, IoFuture};
use crate::runtime::run_to_end;
use crate::{IoBuf, IoData};
use futures_util::future::{join_all, select_all};
use std::cell::Cell;
use std::iter::once;
use std::rc::Rc;
use units::sabotage::{Bug, planted};
use units::{ByteLen, ByteOffset, Millis, Moment};

/// The array as a disk.
pub(super) struct ArrayDisk(pub Rc<Inner>);

/// What a write does to its range.
enum Change {
    Data(IoData),
    Zeroes { may_unmap: bool },
}

/// The least speed of zeroes on a disk that has to write them, in bytes per millisecond.
const ZEROES_PER_MS: u64 = 10_000;

impl Change {
    /// How much longer than others it may take: one request may zero gigabytes.
    fn longer(&self, len: ByteLen) -> Millis {
        match self {
            Self::Data(_) => Millis(0),
            Self::Zeroes { .. } => Millis(len.0 / ZEROES_PER_MS),
        }
    }

    fn issue(&self, leg: &Leg, at: ByteOffset, len: ByteLen, how: Durability) -> IoFuture<()> {
        match self {
            Self::Data(data) => leg.write(at, data.clone(), how),
            Self::Zeroes { may_unmap } => leg.write_zeroes(at, len, how, *may_unmap),
        }
    }
}

impl BlockDevice for ArrayDisk {
    fn geometry(&self) -> Geometry {
        self.0.geometry.get()
    }

    fn read(&self, at: ByteOffset, into: IoBuf) -> IoFuture<IoBuf> {
        if let Err(error) = self.0.check(at, into.byte_len()) {
            return IoFuture::ready(Err(error));
        }
        let inner = Rc::clone(&self.0);
        IoFuture::later(async move { inner.read(at, into).await })
    }

    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        self.change(at, from.byte_len(), Change::Data(from), how)
    }

    fn flush(&self) -> IoFuture<()> {
        if let Err(error) = self.0.check_writable() {
            return IoFuture::ready(Err(error));
        }
        if planted(Bug::FlushNotPassedOn) {
            return IoFuture::ready(Ok(()));
        }
        let inner = Rc::clone(&self.0);
        run_to_end(&self.0.rt, async move { inner.flush().await })
    }

    /// Reads of two members must agree afterwards, so a discard writes zeroes, unmapping where that is possible.
    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        if !self.0.geometry.get().discard {
            return IoFuture::ready(self.0.check(at, len));
        }
        self.change(at, len, Change::Zeroes { may_unmap: true }, Durability::Cached)
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        self.change(at, len, Change::Zeroes { may_unmap }, how)
    }
}

impl ArrayDisk {
    fn change(&self, at: ByteOffset, len: ByteLen, what: Change, how: Durability) -> IoFuture<()> {
        if let Err(error) = self.0.check(at, len).and_then(|()| self.0.check_writable()) {
            return IoFuture::ready(Err(error));
        }
        if len == ByteLen(0) {
            return IoFuture::ready(Ok(()));
        }
        let how = if planted(Bug::FuaIgnored) { Durability::Cached } else { how };
        let inner = Rc::clone(&self.0);
        run_to_end(&self.0.rt, async move { inner.write(at, len, what, how).await })
    }
}

/// A write's hold on its range and chunks.
struct Ticket {
    inner: Rc<Inner>,
    key: usize,
    at: ByteOffset,
    len: ByteLen,
    /// Whether its chunks count it: there was a bitmap when it was admitted.
    counted: bool,
}

impl Inner {
    fn check(&self, at: ByteOffset, len: ByteLen) -> Result<(), DeviceError> {
        if self.closed.get() {
            return Err(DeviceError::Closed);
        }
        self.geometry.get().check(at, len)
    }

    fn check_writable(&self) -> Result<(), DeviceError> {
        if self.closed.get() {
            return Err(DeviceError::Closed);
        }
        self.broken.get().map_or(Ok(()), Err)
    }

    async fn write(
        self: Rc<Self>,
        at: ByteOffset,
        len: ByteLen,
        what: Change,
        how: Durability,
    ) -> Result<(), DeviceError> {
        let started = self.rt.now();
        let ticket = self.admit(at, len).await;
        if self.closed.get() {
            // It was stopped while this waited for a window: nothing is written after that.
            return Err(DeviceError::Closed);
        }
        if !planted(Bug::BitmapAfterData) {
            self.intend(at, len).await?;
        }
        // A place that held nothing is on the media before the log of bad blocks forgets it.
        let how = if self.live().iter().any(|leg| leg.lacks(at, len)) { Durability::Fua } else { how };
        let issue = |leg: &Leg| what.issue(leg, at, len, how);
        if planted(Bug::FirstLegEndsTicket) && len > ByteLen(4096) {
            let each = self.live().into_iter().map(|leg| Joined::start(&self, started, once(leg), issue)).collect();
            return self.answer_by_first(each, ticket).await;
        }
        let joined = Joined::start_long(&self, started, what.longer(len), self.live().into_iter(), issue);
        let judged = self.judge(joined.await, "a write", Some((at, len)));
        if planted(Bug::BitmapAfterData) {
            self.intend(at, len).await?;
        }
        drop(ticket);
        // An error too: what it says of the place is recorded first.
        self.may_answer().await?;
        judged
    }

    /// Only a planted bug does this: the others go on after the answer.
    async fn answer_by_first(self: Rc<Self>, each: Vec<Joined<()>>, ticket: Ticket) -> Result<(), DeviceError> {
        let (first, _, others) = select_all(each).await;
        let inner = Rc::clone(&self);
        self.rt.spawn(Box::pin(async move {
            for other in join_all(others).await {
                let _ = inner.judge(other, "a write", None);
            }
            drop(ticket);
        }));
        self.judge(first, "a write", None)?;
        self.may_answer().await
    }

    async fn flush(self: Rc<Self>) -> Result<(), DeviceError> {
        self.flush_members().await?;
        self.may_answer().await
    }

    /// Flushes every live member; who cannot is failed.
    pub(super) async fn flush_members(self: &Rc<Self>) -> Result<(), DeviceError> {
        let joined = Joined::start(self, self.rt.now(), self.live().into_iter(), Leg::flush);
        self.judge(joined.await, "a flush", None)
    }

    /// Fails the members that did not do it. An error only if the last one in sync is among them; for good, unless that is
    /// about one place alone, which its bad block log can keep: one bad sector is not the end of every volume.
    fn judge(
        self: &Rc<Self>,
        answers: Vec<(Rc<Leg>, Outcome<()>)>,
        what: &str,
        place: Option<(ByteOffset, ByteLen)>,
    ) -> Result<(), DeviceError> {
        let mut refused = None;
        for (leg, outcome) in answers {
            match (outcome, place) {
                (Outcome::Answered(Ok(())), Some((at, len))) => self.note_written(&leg, at, len)?,
                (Outcome::Answered(Ok(())), None) | (Outcome::Abandoned, _) => {}
                (Outcome::Answered(Err(_)), _) if planted(Bug::EioRetried) => {}
                (Outcome::Answered(Err(error)), place) => {
                    let Err(LastOne) = self.fail(&leg, &format!("{what}: {error}")) else { continue };
                    let kept = place.filter(|_| error.is_of_one_place()).is_some_and(|(at, len)| leg.note_bad(at, len));
                    if kept {
                        refused = Some(error);
                        self.progress.answers_need.set(self.touch_superblocks());
                    } else {
                        leg.cause.replace(Some(format!("{what}: {error}")));
                        self.become_broken(error);
                    }
                }
            }
        }
        self.broken.get().or(refused).map_or(Ok(()), Err)
    }

    /// Waits until no resync window and no other write covers the range, and takes it. Two writes of one place at the
    /// same time would reach the members in two orders and leave them different for ever (I6).
    async fn admit(self: &Rc<Self>, at: ByteOffset, len: ByteLen) -> Ticket {
        let range = (at.0, at.0 + len.0);
        loop {
            if overlaps(&self.ranges.windows.borrow(), range) {
                self.ranges.window_closed.wait().await;
            } else if self.ranges.writes.borrow().iter().flatten().any(|&write| overlaps(&[write], range)) {
                self.ranges.write_ended.wait().await;
            } else {
                break;
            }
        }
        let mut writes = self.ranges.writes.borrow_mut();
        let key = self.ranges.free.borrow_mut().pop().unwrap_or(writes.len());
        if key == writes.len() {
            writes.push(None);
        }
        writes[key] = Some(range);
        let begun = self.ranges.begun.get() + 1;
        self.ranges.begun.set(begun);
        let mut board = self.board.borrow_mut();
        let counted = board.bitmap.is_some();
        if counted {
            for chunk in self.chunks_of(at, len) {
                let uses: &mut ChunkUse = board.uses.entry(chunk).or_default();
                uses.in_flight += 1;
                uses.last_write = begun;
            }
        }
        Ticket { inner: Rc::clone(self), key, at, len, counted }
    }

    /// Before data is written: the array is active and the chunks' bits are set, on every member that gets the data.
    async fn intend(self: &Rc<Self>, at: ByteOffset, len: ByteLen) -> Result<(), DeviceError> {
        if std::mem::replace(&mut self.board.borrow_mut().clean, false) {
            let generation = self.touch_superblocks();
            self.progress.writes_need.set(generation);
            self.tidy_later();
        }
        let chunks = self.chunks_of(at, len);
        loop {
            let (durable, marked) = match &mut self.board.borrow_mut().bitmap {
                Some(bitmap) if !bitmap.is_durable(chunks.clone()) => (false, bitmap.mark(chunks.clone())),
                _ => (true, false),
            };
            if durable {
                return self.settle(self.progress.writes_need.get()).await;
            }
            let generation = if marked { self.touch() } else { self.progress.wanted.get() };
            self.tidy_later();
            self.settle(generation).await?;
        }
    }

    async fn read(self: Rc<Self>, at: ByteOffset, into: IoBuf) -> Result<IoBuf, DeviceError> {
        let _reading = Reading::begin(&self);
        let len = into.byte_len();
        if self.some_in_sync(|leg| leg.todo.borrow().touches(self.chunks_of(at, len))) {
            self.make_equal(at, len).await?;
        }
        let piece = PIECE_BYTES.max(u64::from(self.shape.block_bytes));
        match self.read_whole(at, into).await {
            // Each member may lack another piece of it.
            Err(error) if error.is_of_one_place() && len.0 > piece && self.in_sync().len() > 1 => {
                self.read_pieces(at, len, piece).await
            }
            answer => answer,
        }
    }

    async fn read_pieces(self: &Rc<Self>, at: ByteOffset, len: ByteLen, piece: u64) -> Result<IoBuf, DeviceError> {
        let bytes = |len: u64| usize::try_from(len).expect("it was a buffer before");
        let mut whole = IoBuf::new(bytes(len.0));
        for from in (0..len.0).step_by(bytes(piece)) {
            let to = (from + piece).min(len.0);
            let part = self.read_whole(ByteOffset(at.0 + from), IoBuf::new(bytes(to - from))).await?;
            whole[bytes(from)..bytes(to)].copy_from_slice(&part);
        }
        Ok(whole)
    }

    async fn read_whole(self: &Rc<Self>, at: ByteOffset, mut into: IoBuf) -> Result<IoBuf, DeviceError> {
        let (started, len) = (self.rt.now(), into.byte_len());
        loop {
            if self.some_in_sync(|leg| leg.lacks(at, len))
                && let Some(filled) = self.read_around(at, len).await?
            {
                return Ok(filled);
            }
            let Some(leg) = self.reader(at, len) else {
                return Err(DeviceError::Failed { errno: EIO });
            };
            leg.next_read.set(at.0 + len.0);
            // One leg, issued once: the cell hands the buffer into a closure that may be called for several.
            let buffer = Cell::new(Some(into));
            let joined = Joined::start(self, started, std::iter::once(Rc::clone(&leg)), |leg| {
                leg.read(at, buffer.take().expect("one leg, one buffer"))
            });
            match joined.await.pop() {
                Some((_, Outcome::Answered(Ok(filled)))) => return Ok(filled),
                Some((_, Outcome::Answered(Err(error)))) => {
                    if let Some(filled) = self.mend(leg, at, len, error).await? {
                        return Ok(filled);
                    }
                }
                Some((_, Outcome::Abandoned)) | None => {}
            }
            into = IoBuf::new(usize::try_from(len.0).expect("it was a buffer before"));
        }
    }

    /// After a crash members may differ here. What is read is on all of them first: if the one that is read fails later,
    /// the next must not show something older (I3). The whole chunk is copied next.
    async fn make_equal(self: &Rc<Self>, at: ByteOffset, len: ByteLen) -> Result<(), DeviceError> {
        let inner = Rc::clone(self);
        let work = async move {
            let chunks = inner.chunks_of(at, len);
            let behind = |leg: &Rc<Leg>| leg.todo.borrow().touches(chunks.clone());
            let behind: Vec<Rc<Leg>> = inner.in_sync().into_iter().filter(behind).collect();
            inner.resync.asked.set(Some(chunks.start));
            match inner.copy_range(at.0, at.0 + len.0, &behind).await {
                Err(Stop::Source(error)) => Err(error),
                Ok(()) | Err(Stop::Cancelled | Stop::NoLog { .. }) => Ok(()),
            }
        };
        run_to_end(&self.rt, work).await
    }

    pub(super) fn some_in_sync(&self, what: impl Fn(&Leg) -> bool) -> bool {
        self.board.borrow().legs.iter().flatten().any(|leg| leg.is_in_sync() && what(leg))
    }

    /// Which member serves a read: one that needs no copy of this range; of those the one whose last read ended here,
    /// or else the least busy, or else the one whose head is nearest. `None`: none of them holds it.
    fn reader(&self, at: ByteOffset, len: ByteLen) -> Option<Rc<Leg>> {
        let chunks = self.chunks_of(at, len);
        let board = self.board.borrow();
        let holders = || board.legs.iter().flatten().filter(|leg| leg.is_in_sync() && !leg.lacks(at, len));
        let current = holders().filter(|leg| !leg.todo.borrow().touches(chunks.clone()));
        let score = |leg: &&Rc<Leg>| {
            let distance = leg.next_read.get().abs_diff(at.0);
            if distance == 0 { (0, 0) } else { (1 + leg.in_flight(), distance) }
        };
        current.min_by_key(score).or_else(|| holders().next()).map(Rc::clone)
    }
}

/// An application read under way: a resync gives way to it.
struct Reading<'a>(&'a Cell<u32>);

impl<'a> Reading<'a> {
    fn begin(inner: &'a Inner) -> Self {
        inner.ranges.reading.set(inner.ranges.reading.get() + 1);
        Self(&inner.ranges.reading)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pub(super) fn overlaps(ranges: &[(u64, u64)], (from, to): (u64, u64)) -> bool {
    ranges.iter().any(|&(other_from, other_to)| from < other_to && other_from < to)
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let now: Moment = self.inner.rt.now();
        if self.counted {
            let mut board = self.inner.board.borrow_mut();
            for chunk in self.inner.chunks_of(self.at, self.len) {
                if let Some(uses) = board.uses.get_mut(&chunk) {
                    uses.in_flight = uses.in_flight.saturating_sub(1);
                    uses.last_end = now;
                }
            }
        }
        self.inner.ranges.writes.borrow_mut()[self.key] = None;
        self.inner.ranges.free.borrow_mut().push(self.key);
        self.inner.ranges.write_ended.wake_all();
    }
}
