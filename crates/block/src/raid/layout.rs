//! Where things lie on a member, and how big a bitmap chunk is. The byte map for people: docs/formats/md.md.
//!
//! ```text
//! 0        4 KiB        8 KiB          1 MiB        2 MiB                 data_offset
//! | zeroes | superblock | bitmap  …  L | facts A, B | future stripe journal | data …
//! ```
//! L is the bad block log, the last 4 KiB before the facts; what stock md made has its own elsewhere.

use super::superblock::{SUPERBLOCK_AT, Superblock};
use units::{ByteLen, ByteOffset, Sectors};

/// Where the bitmap starts on members we made: right behind the superblock, as mdadm places it.
pub const BITMAP_AT: ByteOffset = ByteOffset(8192);
/// Where the facts area starts, and so where the bitmap ends at the latest.
pub const FACTS_AT: ByteOffset = ByteOffset(1 << 20);
/// The facts area: two slots of half of it.
pub const FACTS_BYTES: ByteLen = ByteLen(1 << 20);
/// The bad block log of members that have none: nothing else lies there, and there is none before there is a bad block.
const LOG_BYTES: u64 = 4096;
/// A log's units are at most 4096 bytes: a range of them is a range of whole blocks.
const LOG_SHIFT_MAX: u8 = 3;
/// From this size on a member has room for the large gap.
const LARGE_MEMBER: ByteLen = ByteLen(16 << 30);
const SMALL_DATA_OFFSET: ByteLen = ByteLen::mib(16);
const LARGE_DATA_OFFSET: ByteLen = ByteLen::mib(128);
/// mdadm's default chunk of an internal bitmap: 64 MiB.
const CHUNK_MAX: u64 = 64 << 20;
/// Below this a chunk would be rewritten more often than the data it is about.
const CHUNK_MIN: u64 = 64 << 10;
/// Small arrays get finer chunks, so that a resync of a few is still a small part.
const CHUNKS_WANTED: u64 = 1024;
/// 128 KiB of bits, as mdadm's largest default; arrays above 64 TiB get larger chunks.
const BITS_MAX: u64 = 1 << 20;
/// The header has 32 bits for it.
const CHUNK_FIELD_MAX: u64 = 1 << 31;
/// Usable sizes are cut to this, as md cuts them to its rounding.
const SIZE_ROUNDING: u64 = 1 << 20;

/// Where data starts on a member of this length: the gap also holds the future stripe journal.
#[must_use]
pub fn data_offset(member: ByteLen) -> Sectors {
    Sectors::floor(if member >= LARGE_MEMBER { LARGE_DATA_OFFSET } else { SMALL_DATA_OFFSET })
}

/// What a member of this length can give to an array; zero if it is too small.
#[must_use]
pub fn usable(member: ByteLen) -> Sectors {
    let bytes = member.0.saturating_sub(data_offset(member).bytes());
    Sectors::floor(ByteLen(bytes / SIZE_ROUNDING * SIZE_ROUNDING))
}

/// The chunk of the bitmap of an array of this size: a power of two.
#[must_use]
pub fn chunk_bytes(array: ByteLen) -> u64 {
    let wanted = (array.0 / CHUNKS_WANTED).max(1);
    let mut chunk = (1 << wanted.ilog2()).clamp(CHUNK_MIN, CHUNK_MAX);
    while array.0.div_ceil(chunk) > BITS_MAX && chunk < CHUNK_FIELD_MAX {
        chunk *= 2;
    }
    chunk
}

/// Where a member's bitmap starts, if it lies where we can keep it: 4 KiB aligned between superblock and facts, or
/// data where there is no room for facts; the last 4 KiB before the facts are the bad block log's.
#[must_use]
pub fn bitmap_at(superblock: &Superblock, bitmap_bytes: u64) -> Option<ByteOffset> {
    let at = u64::try_from(superblock.bitmap_offset).ok()? * 512 + SUPERBLOCK_AT.0;
    let end = at + bitmap_bytes.next_multiple_of(4096);
    let end = if has_facts_room(superblock) && end > FACTS_AT.0 - LOG_BYTES { u64::MAX } else { end };
    (at >= BITMAP_AT.0 && at.is_multiple_of(4096) && end <= superblock.data_offset.bytes()).then_some(ByteOffset(at))
}

/// Where a member's bad block log lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// Its first byte on the disk.
    pub at: ByteOffset,
    /// How long it is, at most 4096.
    pub bytes: usize,
    /// Its units are sectors of 512 bytes, shifted by this.
    pub shift: u8,
}

impl LogPlace {
    /// Whether a disk of such blocks can write it by itself.
    #[must_use]
    pub fn is_aligned(&self, block_bytes: u32) -> bool {
        self.at.is_aligned(block_bytes) && self.bytes.is_multiple_of(block_bytes as usize)
    }
}

/// Where a member has its bad block log, or may have one; `None` if it has no room, or one that we cannot keep. Linux reads
/// no log that is longer than a page (drivers/md/md.c, `super_1_load`).
#[must_use]
pub fn log_place(superblock: &Superblock) -> Option<LogPlace> {
    let (offset, sectors) = (superblock.bad_block_offset, superblock.bad_block_sectors);
    if offset == 0 || sectors == 0 {
        let ours = LogPlace { at: ByteOffset(FACTS_AT.0 - LOG_BYTES), bytes: 4096, shift: 0 };
        return (has_facts_room(superblock) && offset == 0).then_some(ours);
    }
    let at = u64::try_from(offset).ok()? * 512 + SUPERBLOCK_AT.0;
    let (bytes, shift) = (u64::from(sectors) * 512, superblock.bad_block_shift);
    let sound = at >= SUPERBLOCK_AT.0 + 4096 && bytes <= LOG_BYTES && shift <= LOG_SHIFT_MAX;
    let sound = sound && at + bytes <= superblock.data_offset.bytes();
    sound.then(|| LogPlace { at: ByteOffset(at), bytes: usize::try_from(bytes).expect("at most a page"), shift })
}

/// Whether a member has room for the facts, beside what stock md keeps in the gap: its bad block log.
#[must_use]
pub fn has_facts_room(superblock: &Superblock) -> bool {
    let log_end = i64::from(superblock.bad_block_offset) + i64::from(superblock.bad_block_sectors);
    let log_end = u64::try_from(log_end).unwrap_or(0) * 512 + SUPERBLOCK_AT.0;
    superblock.data_offset.bytes() >= FACTS_AT.0 + FACTS_BYTES.0 && log_end <= FACTS_AT.0
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn chunks_are_fine_for_small_arrays_and_bounded_for_large_ones() {
        let check = |size: u64, chunk: u64| assert_eq!(chunk_bytes(ByteLen(size)), chunk, "{size}");
        check(1 << 20, 64 << 10);
        check(1 << 30, 1 << 20);
        check(4 << 40, 64 << 20);
        check(256 << 40, 256 << 20);
        assert!((BITS_MAX / 8 + 256).next_multiple_of(4096) + BITMAP_AT.0 <= FACTS_AT.0 - LOG_BYTES);
    }

    #[test]
    fn the_gap_follows_the_member() {
        assert_eq!(data_offset(ByteLen::mib(100)), Sectors(32_768));
        assert_eq!(data_offset(ByteLen(16 << 30)), Sectors(262_144));
        assert_eq!(usable(ByteLen::mib(100)), Sectors(84 * 2048));
        assert_eq!(usable(ByteLen::mib(3)), Sectors(0));
    }
}
