//! How a fake disk is made, how it behaves, and what became of that.

use units::ByteLen;

/// What the kernel says when media fails. Source: `include/uapi/asm-generic/errno-base.h`.
pub const EIO: i32 = 5;
/// What it says to a second user of a disk that somebody has for itself. Source: the same.
pub const EBUSY: i32 = 16;
/// What it says when the device is gone. Source: the same.
pub const ENODEV: i32 = 19;
/// The file system is full.
pub const ENOSPC: i32 = 28;

/// What never changes of a disk while somebody uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// How long it is.
    pub len: ByteLen,
    /// The size of its blocks: 512 or 4096.
    pub block_bytes: u32,
    /// It takes discards. What stands there afterwards is chance, as for a drive that promises nothing.
    pub discard: bool,
}

impl Model {
    /// A disk of this length with blocks of 512 bytes, without discard.
    #[must_use]
    pub const fn plain(len: ByteLen) -> Self {
        Self { len, block_bytes: 512, discard: false }
    }
}

/// How a disk behaves, changed by the nemesis while it runs. Chances are parts of 10 000 per operation.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Latency of one operation, at least.
    pub fast_us: u64,
    /// Latency of one operation, at most.
    pub slow_us: u64,
    /// Multiplies both: 1 to 1000.
    pub slower: u64,
    /// How much longer than that a flush takes, at most. Meanwhile the disk does nothing else.
    pub flush_ms: u64,
    /// A write or flush fails once, and later ones succeed.
    pub eio_once: u32,
    /// A read fails once.
    pub eio_read: u32,
    /// An operation hangs for up to `hang_ms`.
    pub hang: u32,
    /// How long at most.
    pub hang_ms: u64,
    /// A bad sector is not replaced by another one when it is written: the write fails as well.
    pub worn: bool,
    /// Every operation fails with this from now on.
    pub broken: Option<i32>,
}

impl Manners {
    /// A disk that is well.
    pub const WELL: Self = Self {
        fast_us: 30,
        slow_us: 400,
        slower: 1,
        flush_ms: 0,
        eio_once: 0,
        eio_read: 0,
        hang: 0,
        hang_ms: 0,
        worn: false,
        broken: None,
    };
    /// One in a workload whose every event is looked at: nothing but the order of things matters.
    pub const QUICK: Self = Self { fast_us: 10, slow_us: 40, ..Self::WELL };
}

/// What a disk says and does not do, in parts of 10 000 per write. No mirror survives that: checkers must see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lies {
    /// A write lands somewhere else and is answered as done.
    pub misdirect: u32,
    /// A write is answered as done and does not happen.
    pub forget: u32,
}

/// How often each fault really happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Happened {
    /// Single EIOs of writes and flushes.
    pub eio_once: u64,
    /// EIOs of reads.
    pub eio_read: u64,
    /// Reads of sectors that are bad until they are written.
    pub bad_reads: u64,
    /// Bad sectors that a write replaced.
    pub replaced: u64,
    /// Operations refused by a broken disk.
    pub broken: u64,
    /// Operations that hung.
    pub hangs: u64,
    /// Operations on a disk at least ten times slower than normal.
    pub slow: u64,
    /// Operations that waited for a flush.
    pub behind_flush: u64,
    /// Operations that waited in the thread's queue.
    pub queued: u64,
    /// Users that were turned away because the disk had one.
    pub busy: u64,
    /// Writes that landed elsewhere, or nowhere.
    pub lies: u64,
    /// Bits that changed by themselves.
    pub rotten: u64,
    /// Sectors that a power cut took out of a cache.
    pub lost_sectors: u64,
    /// Writes that a power cut caught in flight.
    pub cut_in_flight: u64,
}

impl Happened {
    /// Each fault by its name.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 14] {
        let Self { eio_once, eio_read, bad_reads, replaced, broken, hangs, slow, .. } = *self;
        let Self { behind_flush, queued, busy, lies, rotten, lost_sectors, cut_in_flight, .. } = *self;
        [
            ("disk: single EIO of a write or flush", eio_once),
            ("disk: EIO of a read", eio_read),
            ("disk: reads of bad sectors", bad_reads),
            ("disk: bad sectors replaced by a write", replaced),
            ("disk: operations refused by a broken or absent disk", broken),
            ("disk: operations that hung", hangs),
            ("disk: operations at least 10 times slower", slow),
            ("disk: operations that waited for a flush", behind_flush),
            ("disk: operations that waited in the thread's queue", queued),
            ("disk: opened while somebody had it", busy),
            ("disk: writes that landed elsewhere or nowhere", lies),
            ("disk: bits that changed by themselves", rotten),
            ("disk: cached sectors lost by a power cut", lost_sectors),
            ("disk: writes in flight at a power cut", cut_in_flight),
        ]
    }
}
