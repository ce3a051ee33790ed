//! Places of one member that hold nothing: md's bad block log, bytes ↔ ranges.
//!
//! A place gets here when a rebuild could not read it on any other member, or when the last member failed a write of it;
//! it leaves when it has been written. Reads are never answered from it. Format: 64-bit words, little-endian: a length in
//! the lowest 10 bits, 1 to 512, above it where it begins on the disk, both in sectors shifted by the superblock's
//! `bblog_shift`; a word of all ones ends the list. Sources: Linux `drivers/md/md.c` (`super_1_load`, `super_1_sync`),
//! `include/linux/badblocks.h` (`BB_MAX_LEN`). Invariant: ranges ascend and do not touch; `decode(encode(x))` covers x.
//!
//! The log is one block of 4096 bytes. A disk that tears it may lose an entry; up to 64 of them lie in one sector.

use super::layout::LogPlace;
use std::ops::Range;

/// The longest entry, in units.
const UNITS_MAX: u64 = 512;
const ENTRY_BYTES: usize = 8;
const SECTOR: u64 = 512;

/// Byte ranges of a member's disk that hold nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadBlocks(Vec<Range<u64>>);

impl BadBlocks {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of `range` is among them.
    #[must_use]
    pub fn touches(&self, range: &Range<u64>) -> bool {
        self.0.iter().any(|bad| bad.start < range.end && range.start < bad.end)
    }

    /// The ranges, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    /// Adds a range.
    pub fn insert(&mut self, mut range: Range<u64>) {
        self.0.retain(|bad| {
            let apart = bad.end < range.start || range.end < bad.start;
            if !apart {
                range = range.start.min(bad.start)..range.end.max(bad.end);
            }
            apart
        });
        let at = self.0.partition_point(|bad| bad.start < range.start);
        self.0.insert(at, range);
    }

    /// Takes out what was written.
    pub fn remove(&mut self, range: &Range<u64>) {
        let rest = |bad: &Range<u64>| {
            let parts = [bad.start..bad.end.min(range.start), bad.start.max(range.end)..bad.end];
            parts.into_iter().filter(|part| part.start < part.end)
        };
        self.0 = self.0.iter().flat_map(rest).collect();
    }

    /// The log as it lies on the disk; `None` if it has not so many entries.
    #[must_use]
    pub fn encode(&self, place: &LogPlace) -> Option<Vec<u8>> {
        let mut bytes = vec![0xff; place.bytes];
        let mut places = bytes.chunks_exact_mut(ENTRY_BYTES);
        let unit = SECTOR << place.shift;
        for bad in &self.0 {
            let (mut from, to) = (bad.start / unit, bad.end.div_ceil(unit));
            while from < to {
                let len = (to - from).min(UNITS_MAX);
                places.next()?.copy_from_slice(&(from << 10 | len).to_le_bytes());
                from += len;
            }
        }
        Some(bytes)
    }

    /// Reads a log.
    ///
    /// # Errors
    /// The entry that cannot be: it has no length, or lies past 2^63 bytes.
    pub fn decode(bytes: &[u8], place: &LogPlace) -> Result<Self, u64> {
        let mut all = Self::default();
        for word in bytes.chunks_exact(ENTRY_BYTES) {
            let word = u64::from_le_bytes(word.try_into().expect("chunks of eight"));
            if word == u64::MAX {
                break;
            }
            // A log that was never written, but only zeroed.
            if word == 0 {
                continue;
            }
            let (from, len, unit) = (word >> 10, word & 0x3ff, SECTOR << place.shift);
            let end = (from + len).checked_mul(unit).filter(|&end| end < 1 << 63);
            let end = end.filter(|_| (1..=UNITS_MAX).contains(&len)).ok_or(word)?;
            all.insert(from * unit..end);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use units::ByteOffset;

    fn place(shift: u8) -> LogPlace {
        LogPlace { at: ByteOffset(1_044_480), bytes: 4096, shift }
    }

    fn of(ranges: &[Range<u64>]) -> BadBlocks {
        let mut all = BadBlocks::default();
        ranges.iter().for_each(|range| all.insert(range.clone()));
        all
    }

    #[test]
    fn ranges_are_joined_and_cut() {
        let mut bad = of(&[8192..12_288, 0..4096, 4096..8192, 20_480..24_576]);
        assert_eq!(bad, of(&[0..12_288, 20_480..24_576]));
        bad.remove(&(4096..21_504));
        assert_eq!(bad.iter().collect::<Vec<_>>(), [0..4096, 21_504..24_576]);
        assert!(bad.touches(&(4095..4096)) && !bad.touches(&(4096..21_504)) && bad.touches(&(0..1 << 40)));
        bad.remove(&(0..1 << 40));
        assert!(bad.is_empty());
    }

    /// Goal: DA6: what is written is read again, with md's own numbers. Method: one entry by hand (sector 2048, 8 sectors:
    /// `2048 << 10 | 8`), a range of more than 512 sectors, units of 4096 bytes.
    #[test]
    fn a_log_is_read_as_it_was_written() {
        let mut bad = BadBlocks::default();
        bad.insert(1 << 20..(1 << 20) + 4096);
        let bytes = bad.encode(&place(0)).unwrap();
        assert_eq!(bytes[..8], (2048u64 << 10 | 8).to_le_bytes());
        assert!(bytes[8..].iter().all(|&byte| byte == 0xff) && bytes.len() == 4096);
        let long = of(&[1 << 20..3 << 20, 8 << 20..(8 << 20) + 512]);
        assert_eq!(BadBlocks::decode(&long.encode(&place(0)).unwrap(), &place(0)), Ok(long.clone()));
        let wide = BadBlocks::decode(&long.encode(&place(3)).unwrap(), &place(3)).unwrap();
        assert_eq!(wide, of(&[1 << 20..3 << 20, 8 << 20..(8 << 20) + 4096]), "whole units");
    }

    #[test]
    fn a_log_has_an_end_and_sound_entries() {
        let many = |count: u64| of(&(0..count).map(|n| n * 8192..n * 8192 + 512).collect::<Vec<_>>());
        assert!(many(512).encode(&place(0)).is_some() && many(513).encode(&place(0)).is_none());
        for word in [1 << 10, 513, u64::MAX - 1] {
            assert_eq!(BadBlocks::decode(&u64::to_le_bytes(word), &place(3)), Err(word), "{word:#x}");
        }
        assert_eq!(BadBlocks::decode(&[0; 64], &place(0)), Ok(BadBlocks::default()));
    }
}
