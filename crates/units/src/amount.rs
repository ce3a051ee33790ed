//! How many and where: bytes and 512-byte sectors. Index, count and byte length are different types.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, Sub};

/// What Linux calls a sector everywhere outside a drive, whatever the drive's own block size is.
/// Source: `include/linux/blk_types.h`, `SECTOR_SHIFT` 9.
pub const SECTOR_BYTES: u64 = 512;

/// A place on a device, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteOffset(pub u64);

/// A length in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteLen(pub u64);

/// A length or place in sectors of [`SECTOR_BYTES`], as md and LVM2 count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

impl ByteOffset {
    /// The offset `len` further on; `None` past 2^64.
    #[must_use]
    pub fn checked_add(self, len: ByteLen) -> Option<Self> {
        self.0.checked_add(len.0).map(Self)
    }

    /// Whether this is a multiple of `block_bytes`, a power of two.
    #[must_use]
    pub fn is_aligned(self, block_bytes: u32) -> bool {
        debug_assert!(block_bytes.is_power_of_two());
        self.0 & u64::from(block_bytes - 1) == 0
    }
}

impl ByteLen {
    /// The length of a slice: `usize` is 64 bits on every machine muskox runs on.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(bytes.len() as u64)
    }

    /// `count` × 2^20 bytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// Whether this is a multiple of `block_bytes`, a power of two.
    #[must_use]
    pub fn is_aligned(self, block_bytes: u32) -> bool {
        debug_assert!(block_bytes.is_power_of_two());
        self.0 & u64::from(block_bytes - 1) == 0
    }
}

impl Sectors {
    /// In bytes.
    ///
    /// # Panics
    /// Past 2^64 bytes, which no device has; numbers from disk are checked before they become `Sectors`.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0.checked_mul(SECTOR_BYTES).expect("a device is shorter than 2^64 bytes")
    }

    /// The whole sectors in `len`, rounded down.
    #[must_use]
    pub const fn floor(len: ByteLen) -> Self {
        Self(len.0 / SECTOR_BYTES)
    }
}

impl Add<ByteLen> for ByteOffset {
    type Output = Self;
    fn add(self, len: ByteLen) -> Self {
        Self(self.0 + len.0)
    }
}

impl Sub for ByteOffset {
    type Output = ByteLen;
    fn sub(self, earlier: Self) -> ByteLen {
        ByteLen(self.0 - earlier.0)
    }
}

impl Add for ByteLen {
    type Output = Self;
    fn add(self, more: Self) -> Self {
        Self(self.0 + more.0)
    }
}

impl Sub for ByteLen {
    type Output = Self;
    fn sub(self, less: Self) -> Self {
        Self(self.0 - less.0)
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}", self.0)
    }
}

/// Binary units, one decimal at most: `512 B`, `1.5 GiB`.
impl fmt::Display for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut scale = 0;
        while scale + 1 < UNITS.len() && self.0 >> (10 * (scale + 1)) > 0 {
            scale += 1;
        }
        let whole = self.0 >> (10 * scale);
        let tenth = if scale == 0 { 0 } else { ((self.0 >> (10 * (scale - 1))) & 1023) * 10 / 1024 };
        if tenth == 0 { write!(f, "{whole} {}", UNITS[scale]) } else { write!(f, "{whole}.{tenth} {}", UNITS[scale]) }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn lengths_read_as_people_write_them() {
        let check = |bytes: u64, expect: &str| assert_eq!(ByteLen(bytes).to_string(), expect);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1 KiB");
        check(1536, "1.5 KiB");
        check(10 << 30, "10 GiB");
        check(u64::MAX, "15.9 EiB");
    }

    #[test]
    fn alignment_is_a_multiple_of_the_block() {
        assert!(ByteOffset(8192).is_aligned(4096));
        assert!(!ByteOffset(512).is_aligned(4096));
        assert!(ByteLen(0).is_aligned(512));
    }
}
