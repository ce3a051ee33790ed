//! One request's work on the disk, and what a failure is called on the wire.

use crate::stream::Weight;
use block::{DeviceError, Disk, Durability, IoBuf, IoFuture};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use units::{ByteLen, ByteOffset};
use wire::nbd::{Limits, NbdError, Operation};

/// Zeroes are written in pieces of this length, each admitted by the gate for itself: one request may cover 4 GiB, and
/// a raise must not wait for all of that (`FENCE_DRAIN_MAX` is 1500 ms; a slow disk writes 4 MiB in 100 ms).
const ZERO_PIECE: ByteLen = ByteLen::mib(4);
/// Discards likewise: they move no data, but disks are slow at many of them.
const DISCARD_PIECE: ByteLen = ByteLen::mib(64);

/// `ENOSPC`. Source: Linux `include/uapi/asm-generic/errno-base.h`.
const ENOSPC: i32 = 28;

/// What the disk is doing for a request.
pub enum Doing {
    /// Reading.
    Read(IoFuture<IoBuf>),
    /// Anything else.
    Other(IoFuture<()>),
}

/// The answer of the disk: read data, or nothing.
pub type Answer = Result<Option<IoBuf>, DeviceError>;

/// A request whose answer is not there yet.
pub struct Work {
    cookie: u64,
    at: ByteOffset,
    weight: Weight,
    doing: Doing,
}

/// A request with its answer.
pub struct Finished {
    /// The client's name for it.
    pub cookie: u64,
    /// Where it was.
    pub at: ByteOffset,
    /// What it holds until the answer has left.
    pub weight: Weight,
    /// What the disk said.
    pub answer: Answer,
}

/// Begins an operation; `data` is the payload of a write.
///
/// # Panics
/// For a write without data, and for a block status, which is not the disk's business.
pub fn begin(disk: &Disk, operation: Operation, data: Option<IoBuf>) -> Doing {
    match operation {
        Operation::Read { at, len } => {
            Doing::Read(disk.read(at, IoBuf::new(usize::try_from(len).expect("usize has 64 bits"))))
        }
        Operation::Write { at, fua, .. } => {
            let data = data.expect("a write has its payload").freeze();
            Doing::Other(disk.write(at, data, durability(fua)))
        }
        Operation::Flush => Doing::Other(disk.flush()),
        Operation::Trim { at, len, fua } => Doing::Other(trim(disk, at, ByteLen(u64::from(len)), fua)),
        Operation::WriteZeroes { at, len, fua, may_unmap } => {
            Doing::Other(write_zeroes(disk, at, ByteLen(u64::from(len)), fua, may_unmap))
        }
        Operation::BlockStatus { .. } => unreachable!("the session answers it"),
    }
}

fn durability(fua: bool) -> Durability {
    if fua { Durability::Fua } else { Durability::Cached }
}

fn trim(disk: &Disk, at: ByteOffset, len: ByteLen, fua: bool) -> IoFuture<()> {
    if len <= DISCARD_PIECE && !fua {
        return disk.discard(at, len);
    }
    let disk = Rc::clone(disk);
    IoFuture::later(async move {
        for (at, len) in pieces(at, len, DISCARD_PIECE) {
            disk.discard(at, len).await?;
        }
        if fua { disk.flush().await } else { Ok(()) }
    })
}

fn write_zeroes(disk: &Disk, at: ByteOffset, len: ByteLen, fua: bool, may_unmap: bool) -> IoFuture<()> {
    if len <= ZERO_PIECE {
        return disk.write_zeroes(at, len, durability(fua), may_unmap);
    }
    let disk = Rc::clone(disk);
    IoFuture::later(async move {
        for (at, len) in pieces(at, len, ZERO_PIECE) {
            disk.write_zeroes(at, len, durability(fua), may_unmap).await?;
        }
        Ok(())
    })
}

/// A range cut at multiples of `piece` from its start.
fn pieces(at: ByteOffset, len: ByteLen, piece: ByteLen) -> impl Iterator<Item = (ByteOffset, ByteLen)> {
    let count = len.0.div_ceil(piece.0);
    (0..count).map(move |index| {
        let begin = ByteLen(index * piece.0);
        (at + begin, ByteLen(piece.0.min(len.0 - begin.0)))
    })
}

impl Doing {
    /// The answer if it is there already, or the work back.
    ///
    /// # Errors
    /// The work, when it has to be polled.
    pub fn try_now(self) -> Result<Answer, Self> {
        match self {
            Self::Read(future) => future.try_now().map(|answer| answer.map(Some)).map_err(Self::Read),
            Self::Other(future) => future.try_now().map(|answer| answer.map(|()| None)).map_err(Self::Other),
        }
    }
}

impl Work {
    /// A request that waits for the disk.
    pub fn new(cookie: u64, at: ByteOffset, weight: Weight, doing: Doing) -> Self {
        Self { cookie, at, weight, doing }
    }
}

impl Future for Work {
    type Output = Finished;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Finished> {
        let answer = match &mut self.doing {
            Doing::Read(future) => ready!(Pin::new(future).poll(cx)).map(Some),
            Doing::Other(future) => ready!(Pin::new(future).poll(cx)).map(|()| None),
        };
        Poll::Ready(Finished { cookie: self.cookie, at: self.at, weight: self.weight, answer })
    }
}

/// What a failure of the disk is called on the wire. A fenced writer gets "shutdown": EIO would tell a guest that its
/// disk is broken.
pub fn wire_error(error: DeviceError) -> NbdError {
    match error {
        DeviceError::Fenced { .. } | DeviceError::Closed => NbdError::Shutdown,
        DeviceError::ReadOnly => NbdError::Perm,
        DeviceError::OutOfRange { .. } | DeviceError::Unaligned { .. } => NbdError::Inval,
        DeviceError::Failed { errno: ENOSPC } => NbdError::NoSpc,
        DeviceError::Failed { .. }
        | DeviceError::DataLost { .. }
        | DeviceError::Disconnected
        | DeviceError::HoldExpired { .. } => NbdError::Io,
    }
}

/// What is told about a request that was refused before the disk saw it.
pub fn refusal_text(error: NbdError, limits: &Limits) -> String {
    match error {
        NbdError::Perm => "this attachment may not write".to_owned(),
        NbdError::NotSup => "zeroes are never faster than data here".to_owned(),
        NbdError::NoSpc => format!("past the end of the volume ({})", limits.size),
        _ => format!(
            "a request here is a multiple of {} bytes, not empty, within {} and with at most {} of payload",
            limits.block_bytes,
            limits.size,
            ByteLen(u64::from(limits.payload_max))
        ),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn pieces_cover_a_range_exactly() {
        let all: Vec<_> = pieces(ByteOffset(512), ByteLen::mib(9), ByteLen::mib(4)).collect();
        let mib = 1 << 20;
        let expect = [(512, 4 * mib), (512 + 4 * mib, 4 * mib), (512 + 8 * mib, mib)];
        assert_eq!(all, expect.map(|(at, len)| (ByteOffset(at), ByteLen(len))));
    }
}
