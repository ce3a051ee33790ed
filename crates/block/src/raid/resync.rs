//! Filling members: one task that copies the chunks members lack from one in sync.
//!
//! Both kinds of work are the same: after a crash the members in sync lack the chunks whose bits are set (they may
//! differ there), and a new or returned member lacks all chunks, or those written while it was away. A window is copied
//! under the range lock: no application write is in it from before the read to after the write (B-02, B-04).
//!
//! What no member can read is no end of it: a window that cannot be read is halved down to [`PIECE_BYTES`], and a piece that
//! nobody has is noted in the bad block log of the members that should have got it, as md does (DA6).

use super::array::{Inner, LastOne};
use super::io::overlaps;
use super::leg::{Joined, Leg, Outcome, Standing};
use crate::device::{DeviceError, Durability};
use crate::runtime::sleep;
use crate::{IoBuf, IoData};
use futures_util::stream::{StreamExt, iter};
use std::rc::Rc;
use units::sabotage::{Bug, planted};
use units::{ByteLen, ByteOffset, Millis, Sectors};

/// One copy: large enough to stream, small enough that an application write waits for few milliseconds.
const WINDOW_BYTES: u64 = 512 << 10;
/// Copies under way at once: keeps both disks busy.
const WINDOWS_MAX: usize = 4;
/// A checkpoint at least every so many bytes: what a restart repeats at most.
const CHECKPOINT_BYTES: u64 = 256 << 20;
/// And at least every so often.
const CHECKPOINT_MS: u64 = 10_000;
/// While applications work, a resync goes on at this speed: some progress always, little harm.
const BUSY_BYTES_PER_SECOND: u64 = 20 << 20;

/// What is given up at once where no member can be read: a physical block of most disks.
pub(super) const PIECE_BYTES: u64 = 4096;

/// Why a chunk was not copied.
pub(super) enum Stop {
    Cancelled,
    /// Only one member is in sync, and its disk failed as a whole; or its metadata cannot be written.
    Source(DeviceError),
    /// A member's bad block log is full, or it has no room for one.
    NoLog {
        label: String,
        at: ByteOffset,
    },
}

impl Inner {
    /// Starts filling if a member lacks something and nobody does it yet.
    pub fn resync_later(self: &Rc<Self>) {
        if self.resync.running.get() || self.resync.cancel.get() || self.next_chunk().is_none() && !self.one_is_full() {
            return;
        }
        self.resync.running.set(true);
        self.resync.started.set(self.rt.now());
        self.resync.copied_bytes.set(0);
        self.resync.blocked.replace(None);
        let inner = Rc::clone(self);
        self.rt.spawn(Box::pin(async move {
            match inner.resync_all().await {
                Ok(()) | Err(Stop::Cancelled) => {}
                Err(Stop::Source(error)) => {
                    inner.resync.blocked.replace(Some(format!("the only member in sync cannot be read: {error}")));
                }
                Err(Stop::NoLog { label, at }) => {
                    let what = format!("no member can be read at {at}, and {label} has no room to record that");
                    inner.resync.blocked.replace(Some(what));
                }
            }
            inner.resync.running.set(false);
            inner.resync.ended.wake_all();
            if inner.resync.blocked.borrow().is_none() {
                inner.resync_later();
            }
        }));
    }

    fn lacking(&self) -> Vec<Rc<Leg>> {
        self.live().into_iter().filter(|leg| !leg.todo.borrow().is_empty()).collect()
    }

    fn one_is_full(&self) -> bool {
        self.live().iter().any(|leg| leg.standing() == Standing::Recovering && leg.todo.borrow().is_empty())
    }

    fn next_chunk(&self) -> Option<usize> {
        let asked = self.resync.asked.take();
        if let Some(asked) = asked.filter(|&chunk| self.lacking().iter().any(|leg| leg.todo.borrow().contains(chunk))) {
            return Some(asked);
        }
        self.lacking().iter().filter_map(|leg| leg.todo.borrow().first()).min()
    }

    async fn resync_all(self: &Rc<Self>) -> Result<(), Stop> {
        let (mut since_checkpoint, mut last) = (0, self.rt.now());
        loop {
            self.welcome_full().await?;
            let Some(chunk) = self.next_chunk() else {
                break;
            };
            since_checkpoint += self.copy_chunk(chunk).await?;
            if since_checkpoint >= CHECKPOINT_BYTES || self.rt.now().since(last) >= Millis(CHECKPOINT_MS) {
                self.checkpoint().await.map_err(Stop::Source)?;
                (since_checkpoint, last) = (0, self.rt.now());
            }
        }
        self.tidy_later();
        Ok(())
    }

    /// Members that lack nothing any more become in sync: flushed first, recorded before anything else.
    async fn welcome_full(self: &Rc<Self>) -> Result<(), Stop> {
        if !self.one_is_full() {
            return Ok(());
        }
        self.flush_members().await.map_err(Stop::Source)?;
        for leg in self.live() {
            if leg.standing() == Standing::Recovering && leg.todo.borrow().is_empty() {
                leg.become_in_sync();
            }
        }
        let whole = self.is_whole();
        self.board.borrow_mut().complete |= whole;
        let generation = self.touch_superblocks();
        self.settle(generation).await.map_err(Stop::Source)
    }

    /// Makes the progress durable: what was copied first, then the word about it.
    pub async fn checkpoint(self: &Rc<Self>) -> Result<(), DeviceError> {
        let chunk = self.shape.chunk_bytes;
        let reached: Vec<(Rc<Leg>, Sectors)> = self
            .live()
            .into_iter()
            .filter_map(|leg| {
                let first = leg.todo.borrow().first()?;
                (leg.standing() == Standing::Recovering).then(|| (leg, Sectors(first as u64 * chunk / 512)))
            })
            .collect();
        if reached.iter().all(|(leg, sectors)| leg.recovered.get() == *sectors) {
            return Ok(());
        }
        self.flush_members().await?;
        reached.iter().for_each(|(leg, sectors)| leg.recovered.set(*sectors));
        let generation = self.touch_superblocks();
        self.settle(generation).await
    }

    /// Copies one chunk to all who lack it; returns how many bytes it has.
    async fn copy_chunk(self: &Rc<Self>, chunk: usize) -> Result<u64, Stop> {
        let from = chunk as u64 * self.shape.chunk_bytes;
        let to = (from + self.shape.chunk_bytes).min(self.geometry.get().size.0).max(from);
        let targets: Vec<Rc<Leg>> =
            self.lacking().into_iter().filter(|leg| leg.todo.borrow().contains(chunk)).collect();
        let starts = (from..to).step_by(usize::try_from(WINDOW_BYTES).expect("half a mebibyte"));
        let copies = iter(starts).map(|at| self.copy_window(at, (at + WINDOW_BYTES).min(to), &targets));
        let done: Vec<Result<(), Stop>> = copies.buffer_unordered(WINDOWS_MAX).collect().await;
        done.into_iter().collect::<Result<(), Stop>>()?;
        targets.iter().for_each(|leg| leg.todo.borrow_mut().remove(chunk));
        Ok(to - from)
    }

    async fn copy_window(self: &Rc<Self>, from: u64, to: u64, targets: &[Rc<Leg>]) -> Result<(), Stop> {
        if self.resync.cancel.get() {
            return Err(Stop::Cancelled);
        }
        self.give_way(to - from).await;
        self.copy_range(from, to, targets).await?;
        self.resync.copied_bytes.set(self.resync.copied_bytes.get() + (to - from));
        Ok(())
    }

    /// Makes a range of the targets what the members in sync have there.
    pub(super) async fn copy_range(self: &Rc<Self>, from: u64, to: u64, targets: &[Rc<Leg>]) -> Result<(), Stop> {
        let _window = Window::open(self, from, to).await;
        let piece = PIECE_BYTES.max(u64::from(self.shape.block_bytes));
        let mut rest = vec![(from, to)];
        while let Some((from, to)) = rest.pop() {
            let (at, len) = (ByteOffset(from), ByteLen(to - from));
            match self.read_source(at, len, len.0 <= piece).await? {
                Some(data) => self.write_targets(at, &data, targets).await?,
                None if len.0 > piece => {
                    let middle = from + (len.0 / 2).next_multiple_of(piece);
                    rest.extend([(middle, to), (from, middle)]);
                }
                None => self.give_up(at, len, targets)?,
            }
        }
        Ok(())
    }

    async fn write_targets(self: &Rc<Self>, at: ByteOffset, data: &IoData, targets: &[Rc<Leg>]) -> Result<(), Stop> {
        let (started, len) = (self.rt.now(), data.byte_len());
        let targets = targets.iter().filter(|leg| leg.is_live()).map(Rc::clone);
        // What the log of bad blocks names is on the media before it is taken out there.
        let how = |leg: &Leg| if leg.lacks(at, len) { Durability::Fua } else { Durability::Cached };
        let joined = Joined::start(self, started, targets, |leg| leg.write(at, data.clone(), how(leg)));
        for (leg, outcome) in joined.await {
            match outcome {
                Outcome::Answered(Ok(())) => self.note_written(&leg, at, len).map_err(Stop::Source)?,
                Outcome::Answered(Err(error)) => {
                    self.fail(&leg, &format!("a resync write: {error}")).map_err(|LastOne| Stop::Source(error))?;
                }
                Outcome::Abandoned => {}
            }
        }
        Ok(())
    }

    /// Nobody has this piece: a member that is being filled goes on without it, and says so. One in sync had the same right
    /// to what stood there as the source, and cannot read it either.
    fn give_up(self: &Rc<Self>, at: ByteOffset, len: ByteLen, targets: &[Rc<Leg>]) -> Result<(), Stop> {
        for leg in targets.iter().filter(|leg| leg.standing() == Standing::Recovering) {
            if !leg.note_bad(at, len) {
                return Err(Stop::NoLog { label: leg.label.clone(), at });
            }
            self.touch_superblocks();
        }
        Ok(())
    }

    /// The content of a range; `None` if no member can be read there, all of it in one. A member that could not and should
    /// have it gets it back. After a crash any member in sync may be asked for what the source cannot read, but only for
    /// that: elsewhere the source's content has been served.
    async fn read_source(
        self: &Rc<Self>,
        at: ByteOffset,
        len: ByteLen,
        by_anyone: bool,
    ) -> Result<Option<IoData>, Stop> {
        let chunks = self.chunks_of(at, len);
        'again: loop {
            let (mut current, mut others): (Vec<_>, Vec<_>) =
                self.in_sync().into_iter().partition(|leg| !leg.todo.borrow().touches(chunks.clone()));
            assert!(!current.is_empty(), "promote_source leaves one in sync that lacks nothing");
            if planted(Bug::ResyncFromTarget) && !others.is_empty() {
                std::mem::swap(&mut current, &mut others);
            }
            current.extend(others.into_iter().filter(|_| by_anyone));
            let mut unread = Vec::new();
            for source in current.into_iter().filter(|leg| !leg.lacks(at, len)) {
                let joined = Joined::start(self, self.rt.now(), std::iter::once(Rc::clone(&source)), |leg| {
                    leg.read(at, IoBuf::new(usize::try_from(len.0).expect("a window")))
                });
                match joined.await.pop() {
                    Some((_, Outcome::Answered(Ok(filled)))) => {
                        let data = filled.freeze();
                        for leg in unread {
                            self.give_back(&leg, at, &data).await;
                        }
                        return Ok(Some(data));
                    }
                    Some((leg, Outcome::Answered(Err(error)))) if error.is_of_one_place() => unread.push(leg),
                    Some((leg, Outcome::Answered(Err(error)))) => {
                        self.fail(&leg, &format!("a resync read: {error}")).map_err(|LastOne| Stop::Source(error))?;
                        continue 'again;
                    }
                    Some((_, Outcome::Abandoned)) | None => continue 'again,
                }
            }
            return Ok(None);
        }
    }

    /// Lets applications go first: while they work, windows begin at the least speed, all of them together.
    pub(super) async fn give_way(&self, bytes: u64) {
        let busy = self.ranges.reading.get() > 0 || self.ranges.writes.borrow().iter().any(Option::is_some);
        if busy {
            let now = self.rt.now();
            let begin = self.resync.paced.get().max(now) + Millis(bytes * 1000 / BUSY_BYTES_PER_SECOND);
            self.resync.paced.set(begin);
            sleep(&self.rt, begin.since(now)).await;
        }
    }
}

/// A range that a resync has for itself.
pub(super) struct Window<'a> {
    inner: &'a Rc<Inner>,
    range: (u64, u64),
}

impl<'a> Window<'a> {
    /// New writes wait from now on; returns when those that were under way have ended.
    pub async fn open(inner: &'a Rc<Inner>, from: u64, to: u64) -> Self {
        if planted(Bug::ResyncOverwritesNewer) {
            return Self { inner, range: (u64::MAX, u64::MAX) };
        }
        inner.ranges.windows.borrow_mut().push((from, to));
        let window = Self { inner, range: (from, to) };
        let busy = || inner.ranges.writes.borrow().iter().flatten().any(|&write| overlaps(&[write], (from, to)));
        while busy() {
            inner.ranges.write_ended.wait().await;
        }
        window
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        // One of them: two may cover the same range.
        let mut windows = self.inner.ranges.windows.borrow_mut();
        if let Some(own) = windows.iter().position(|range| *range == self.range) {
            windows.swap_remove(own);
        }
        drop(windows);
        self.inner.ranges.window_closed.wake_all();
    }
}
