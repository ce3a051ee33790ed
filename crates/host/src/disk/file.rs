//! One open disk and the jobs it is given, done the blocking way. The ring does the same jobs without blocking.
//!
//! Invariant: a job ends as a whole or fails. A short transfer goes on where it stopped; the end of the file inside the
//! device, or a stop within a block, is EIO. A failure of the device is never tried again; a kernel that is short of
//! something has not asked the device, and is asked again ([`Patience`]).

use super::facts::{Facts, Kind};
use block::{DeviceError, IoBuf, IoData};
use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::{Errno, ReadWriteFlags, pread, pwritev2};
use std::fs::File;
use std::io::IoSlice;
use std::time::{Duration, Instant};
use units::{ByteLen, ByteOffset};

/// Zeroes are written in pieces of this size where the kernel cannot make them.
const ZERO_PIECE_BYTES: usize = 1 << 20;

/// A disk's open file description, locked (see `lock`), with what was found out about it.
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) facts: Facts,
}

/// What a disk is asked to do. Owns its buffers until it is done.
pub(super) enum Job {
    Read { at: ByteOffset, into: IoBuf },
    Write { at: ByteOffset, from: IoData, fua: bool },
    Flush,
    Discard { at: ByteOffset, len: ByteLen },
    WriteZeroes { at: ByteOffset, len: ByteLen, fua: bool, may_unmap: bool },
}

impl Job {
    /// The buffer a read filled.
    ///
    /// # Panics
    /// If this is no read.
    pub(super) fn into_buf(self) -> IoBuf {
        match self {
            Self::Read { into, .. } => into,
            _ => unreachable!("only reads have a buffer to give back"),
        }
    }

    /// How many bytes are moved through memory.
    pub(super) fn transfer_bytes(&self) -> usize {
        match self {
            Self::Read { into, .. } => into.len(),
            Self::Write { from, .. } => from.len(),
            Self::Flush | Self::Discard { .. } | Self::WriteZeroes { .. } => 0,
        }
    }
}

/// Counts what one call moved. `Ok(true)`: all of `want` is done; `Ok(false)`: go on at `done`.
///
/// # Errors
/// EIO if nothing was moved (the end of the file) or the call stopped within a block, where nobody can go on.
pub(super) fn advance(done: &mut usize, moved: usize, want: usize, block_bytes: u32) -> Result<bool, Errno> {
    *done += moved;
    assert!(*done <= want, "the kernel moves no more than it was asked to");
    let on_block = ByteOffset(*done as u64).is_aligned(block_bytes);
    if *done < want && (moved == 0 || !on_block) { Err(Errno::IO) } else { Ok(*done == want) }
}

pub(super) fn failed(errno: Errno) -> DeviceError {
    DeviceError::Failed { errno: errno.raw_os_error() }
}

/// Waiting for a kernel that is short of memory or of requests for a queue.
#[derive(Default)]
pub(super) struct Patience {
    since: Option<Instant>,
    rests: u32,
}

impl Patience {
    /// As long as the array's patience with a member that does not answer (30 s), twice: it is the one that decides.
    const ENDS: Duration = Duration::from_secs(60);
    const REST_MAX: Duration = Duration::from_millis(100);

    /// How long to wait before the job is tried again; `None` if that errno is an answer. Interrupted calls and calls that
    /// would have waited (EINTR, EAGAIN) have done nothing, and the block layer says ENOMEM for what it had no resources
    /// for. Source: Linux `block/blk-core.c`, `blk_errors`.
    pub(super) fn rest_after(&mut self, errno: Errno) -> Option<Duration> {
        if !matches!(errno, Errno::AGAIN | Errno::NOMEM | Errno::INTR) {
            return None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= Self::ENDS {
            return None;
        }
        let rest = Duration::from_millis(1 << self.rests.min(10)).min(Self::REST_MAX);
        self.rests += 1;
        Some(rest)
    }
}

impl OpenFile {
    /// Does `job`, blocking, and waits while the kernel is short of something.
    pub(super) fn run(&self, job: &mut Job) -> Result<(), DeviceError> {
        let mut patience = Patience::default();
        loop {
            match self.attempt(job) {
                Ok(()) => return Ok(()),
                Err(errno) => match patience.rest_after(errno) {
                    Some(rest) => std::thread::sleep(rest),
                    None => return Err(failed(errno)),
                },
            }
        }
    }

    /// Does `job` without waiting; `None`: the kernel is short of something, try again.
    pub(super) fn run_at_once(&self, job: &mut Job) -> Option<Result<(), DeviceError>> {
        match self.attempt(job) {
            Ok(()) => Some(Ok(())),
            Err(errno) => Patience::default().rest_after(errno).is_none().then(|| Err(failed(errno))),
        }
    }

    fn attempt(&self, job: &mut Job) -> Result<(), Errno> {
        match job {
            Job::Read { at, into } => self.read(*at, into),
            Job::Write { at, from, fua } => self.write(*at, from, *fua),
            Job::Flush => fdatasync(&self.file),
            Job::Discard { at, len } => self.discard(*at, *len),
            Job::WriteZeroes { at, len, fua, may_unmap } => self.write_zeroes(*at, *len, *fua, *may_unmap),
        }
    }

    fn read(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), Errno> {
        self.transfer(into.len(), |done| pread(&self.file, &mut into[done..], at.0 + done as u64))
    }

    /// RWF_DSYNC makes exactly this write durable before it is answered; Linux has it since 4.7.
    fn write(&self, at: ByteOffset, from: &[u8], fua: bool) -> Result<(), Errno> {
        let flags = if fua { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        self.transfer(from.len(), |done| {
            pwritev2(&self.file, &[IoSlice::new(&from[done..])], at.0 + done as u64, flags)
        })
    }

    fn transfer(&self, want: usize, mut step: impl FnMut(usize) -> Result<usize, Errno>) -> Result<(), Errno> {
        let (mut done, block_bytes) = (0, self.facts.geometry.block_bytes);
        while done < want {
            match step(done) {
                Ok(moved) => {
                    advance(&mut done, moved, want, block_bytes)?;
                }
                // A signal came before anything was moved.
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> Result<(), Errno> {
        let done = match self.facts.kind {
            Kind::Block => discard_blocks(&self.file, at, len),
            Kind::Regular => self.punch_hole(at, len),
        };
        // Discarding is a hint: a device that cannot has done all it can.
        if done == Err(Errno::OPNOTSUPP) { Ok(()) } else { done }
    }

    fn punch_hole(&self, at: ByteOffset, len: ByteLen) -> Result<(), Errno> {
        fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at.0, len.0)
    }

    /// On block devices PUNCH_HOLE is "zero, unmapping, by the device itself" and ZERO_RANGE "zero, keeping the
    /// space". Source: Linux `block/fops.c`, `blkdev_fallocate`.
    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, fua: bool, may_unmap: bool) -> Result<(), Errno> {
        let mut done = Err(Errno::OPNOTSUPP);
        if may_unmap {
            done = self.punch_hole(at, len);
        }
        if done == Err(Errno::OPNOTSUPP) {
            done = fallocate(&self.file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, at.0, len.0);
        }
        if done == Err(Errno::OPNOTSUPP) {
            done = self.write_zeroes_by_hand(at, len);
        }
        done?;
        if fua { fdatasync(&self.file) } else { Ok(()) }
    }

    fn write_zeroes_by_hand(&self, at: ByteOffset, len: ByteLen) -> Result<(), Errno> {
        let zeroes = IoBuf::zeroed(ZERO_PIECE_BYTES);
        let mut done = 0;
        while done < len.0 {
            let piece = usize::try_from(len.0 - done).map_or(ZERO_PIECE_BYTES, |left| left.min(ZERO_PIECE_BYTES));
            self.write(at + ByteLen(done), &zeroes[..piece], false)?;
            done += piece as u64;
        }
        Ok(())
    }
}

/// BLKDISCARD is `_IO(0x12, 119)` and takes two u64: start and length in bytes. Source: `include/uapi/linux/fs.h`,
/// `block/ioctl.c`.
const BLKDISCARD: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 119);

#[allow(unsafe_code, reason = "an ioctl that rustix has no name for")]
fn discard_blocks(file: &File, at: ByteOffset, len: ByteLen) -> Result<(), Errno> {
    // SAFETY: BLKDISCARD reads two u64 from the pointer it is given and writes nothing back; `Setter` passes a pointer
    // to this array, which lives until the call has returned. On any other kind of file the kernel answers ENOTTY.
    unsafe {
        let range = rustix::ioctl::Setter::<BLKDISCARD, [u64; 2]>::new([at.0, len.0]);
        rustix::ioctl::ioctl(file, range)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_transfer_goes_on_at_a_block_and_nowhere_else() {
        let check = |moved, expect| assert_eq!(advance(&mut 512, moved, 2048, 512), expect, "{moved}");
        check(1536, Ok(true));
        check(512, Ok(false));
        check(0, Err(Errno::IO));
        check(100, Err(Errno::IO));
    }
}
