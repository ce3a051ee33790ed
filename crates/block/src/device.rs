//! The one trait every disk wears.
//!
//! Rules for whoever implements or calls it (docs/rfd/0002-block-device.md has the reasons):
//! 1. Requests are multiples of [`Geometry::block_bytes`] inside the device; anything else is
//!    [`DeviceError::OutOfRange`] or [`DeviceError::Unaligned`] and touches nothing.
//! 2. An answered write may still be volatile. It is durable once it was written with [`Durability::Fua`], or once a
//!    flush that *started after its answer* was answered.
//! 3. An operation that was polled once runs to its end even if its future is dropped. Leaf devices hand buffers to
//!    the kernel; composites wrap their work in [`crate::runtime::run_to_end`]. Nothing relies on cancelling a write.
//! 4. Operations in flight at the same time have no order among each other. Who needs an order awaits.
//! 5. A failed write or flush is never tried again into a success: the device below has failed for good. A leaf whose
//!    kernel was short of memory has not asked its device, and asks again.

use crate::buffer::{IoBuf, IoData};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use units::{ByteLen, ByteOffset, Epoch, Millis};

/// A disk shared by the devices and sessions of one thread.
pub type Disk = Rc<dyn BlockDevice>;

/// How big and how shaped a device is. It may grow while in use, never shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Usable length, a multiple of `block_bytes`.
    pub size: ByteLen,
    /// Offsets and lengths of all requests are multiples of this: 512 or 4096.
    pub block_bytes: u32,
    /// Requests of this size and alignment suit the device best.
    pub optimal_bytes: u32,
    /// Whether an answered write may be lost by a power cut before a flush.
    pub volatile_cache: bool,
    /// Whether `discard` does something useful.
    pub discard: bool,
}

/// How durable a write must be when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// May sit in a volatile cache.
    Cached,
    /// On the media ("force unit access").
    Fua,
}

/// Why an operation was not done. Each variant is something the caller does differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The caller's mistake: past the end.
    #[error("{len} at {at} is past the end ({size})")]
    OutOfRange {
        /// Where it began.
        at: ByteOffset,
        /// How long it was.
        len: ByteLen,
        /// How long the device is.
        size: ByteLen,
    },
    /// The caller's mistake: not a multiple of the block size.
    #[error("{len} at {at} is not aligned to {block_bytes} bytes")]
    Unaligned {
        /// Where it began.
        at: ByteOffset,
        /// How long it was.
        len: ByteLen,
        /// What it must be a multiple of.
        block_bytes: u32,
    },
    /// The media or the way to it failed; `errno` is what the kernel said (EIO, ENOSPC, ENODEV …).
    #[error("the device answered with errno {errno}{}", in_words(*errno))]
    Failed {
        /// The kernel's number.
        errno: i32,
    },
    /// Too many members are gone: nobody can say what stands here.
    #[error("{lost} members are lost, more than the array can miss")]
    DataLost {
        /// How many.
        lost: u32,
    },
    /// The attachment is `ro` or still standby.
    #[error("this attachment may not write")]
    ReadOnly,
    /// The attachment's epoch is over; it will never be served again.
    #[error("{held} is over, the volume is at {current}")]
    Fenced {
        /// What the attachment carries.
        held: Epoch,
        /// What the volume is at.
        current: Epoch,
    },
    /// The session to the target ended before the answer came: nobody knows whether it was done. Never an answer
    /// of a target; `hold` does the operation again on the next session.
    #[error("the connection to the target was lost")]
    Disconnected,
    /// The initiator's own: no session to the target for as long as the hold's bound.
    #[error("no path to the target for {held}")]
    HoldExpired {
        /// How long it waited.
        held: Millis,
    },
    /// The device is being closed.
    #[error("the device is closed")]
    Closed,
}

impl DeviceError {
    /// Whether it may be about this place of the device alone, and other places can be asked for: EIO, ENODATA (a medium
    /// error), EILSEQ (a wrong checksum), EREMOTEIO. Source: Linux `block/blk-core.c`, `blk_errors`. A device that is
    /// offline, gone or full says something else.
    #[must_use]
    pub fn is_of_one_place(&self) -> bool {
        matches!(self, Self::Failed { errno: 5 | 61 | 84 | 121 })
    }
}

/// What the kernel means by the numbers that disks answer with. Source: Linux `include/uapi/asm-generic/errno-base.h` and
/// `errno.h`; what block devices mean by them: `block/blk-core.c`, `blk_errors`.
const fn in_words(errno: i32) -> &'static str {
    match errno {
        5 => " (an I/O error)",
        6 | 19 => " (it is not there any more)",
        12 => " (the kernel had no memory)",
        28 => " (no space is left on it)",
        30 => " (it is write-protected)",
        61 => " (it cannot read a sector)",
        110 => " (it did not answer in time)",
        _ => "",
    }
}

/// What every method of [`BlockDevice`] returns: an answer that is already there, or work to be polled.
///
/// The ready form costs no allocation: memory-backed disks and refusals use it.
pub struct IoFuture<T>(State<T>);

enum State<T> {
    Ready(Option<Result<T, DeviceError>>),
    Later(Pin<Box<dyn Future<Output = Result<T, DeviceError>>>>),
}

impl<T: Unpin> IoFuture<T> {
    /// An answer that is already there.
    pub fn ready(answer: Result<T, DeviceError>) -> Self {
        Self(State::Ready(Some(answer)))
    }

    /// Work to be polled.
    pub fn later(work: impl Future<Output = Result<T, DeviceError>> + 'static) -> Self {
        Self(State::Later(Box::pin(work)))
    }

    /// The answer if it is there already, or the future back.
    ///
    /// # Errors
    /// The future itself, when it has to be polled.
    pub fn try_now(self) -> Result<Result<T, DeviceError>, Self> {
        match self.0 {
            State::Ready(Some(answer)) => Ok(answer),
            state => Err(Self(state)),
        }
    }
}

impl<T: Unpin> Future for IoFuture<T> {
    type Output = Result<T, DeviceError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(answer) => Poll::Ready(answer.take().expect("polled again after it was ready")),
            State::Later(work) => work.as_mut().poll(cx),
        }
    }
}

/// A disk. See the rules in the module's doc.
pub trait BlockDevice {
    /// How big and how shaped it is.
    fn geometry(&self) -> Geometry;

    /// The same disk for what an array writes about itself, which must not wait behind the data of its guests. `None`:
    /// nothing queues here.
    fn for_metadata(&self) -> Option<Disk> {
        None
    }

    /// Fills `into` from `at` and gives it back. The length is `into.len()`.
    fn read(&self, at: ByteOffset, into: IoBuf) -> IoFuture<IoBuf>;

    /// Writes `from` at `at`.
    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()>;

    /// Makes every write that was answered before this call durable.
    fn flush(&self) -> IoFuture<()>;

    /// Says that the content of a range is not needed any more. It may read as anything afterwards, the same on
    /// every read until it is written again.
    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()>;

    /// Makes a range read as zeroes; `may_unmap` allows giving the space back.
    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()>;
}

impl Geometry {
    /// Whether a request keeps rule 1.
    ///
    /// # Errors
    /// [`DeviceError::Unaligned`] or [`DeviceError::OutOfRange`].
    pub fn check(&self, at: ByteOffset, len: ByteLen) -> Result<(), DeviceError> {
        if !at.is_aligned(self.block_bytes) || !len.is_aligned(self.block_bytes) {
            return Err(DeviceError::Unaligned { at, len, block_bytes: self.block_bytes });
        }
        match at.checked_add(len) {
            Some(end) if end.0 <= self.size.0 => Ok(()),
            _ => Err(DeviceError::OutOfRange { at, len, size: self.size }),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn requests_stay_on_the_device_and_on_its_blocks() {
        let geometry = Geometry {
            size: ByteLen(8192),
            block_bytes: 512,
            optimal_bytes: 4096,
            volatile_cache: true,
            discard: false,
        };
        let check = |at, len| geometry.check(ByteOffset(at), ByteLen(len));
        assert!(check(0, 8192).is_ok());
        assert!(check(8192, 0).is_ok());
        assert!(matches!(check(8192, 512), Err(DeviceError::OutOfRange { .. })));
        assert!(matches!(check(u64::MAX - 511, 512), Err(DeviceError::OutOfRange { .. })));
        assert!(matches!(check(1, 512), Err(DeviceError::Unaligned { .. })));
        assert!(matches!(check(0, 100), Err(DeviceError::Unaligned { .. })));
    }
}
