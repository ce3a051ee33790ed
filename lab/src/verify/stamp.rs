//! What the verifying load writes: every sector says who wrote it, when and where, and the rest of it is computed from
//! that, so that a sector is either exactly one write's or nobody's.
//!
//! ```text
//! 0      4       8          16                                   512
//! | run  | block | sequence | dice seeded with all three and the  |
//! |  u32 |  u32  |   u64    | sector's number in the block        |   little endian
//! ```

use crate::disks::cache::Dice;

/// What a disk writes as a whole.
pub const SECTOR: usize = 512;
/// What the load counts in: a write is one or more of these.
pub const BLOCK: usize = 4096;
const SECTORS: usize = BLOCK / SECTOR;
const STAMP: usize = 16;

/// Who wrote a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which run of the load.
    pub run: u32,
    /// Which block.
    pub block: u32,
    /// Which write, counted from one.
    pub sequence: u64,
}

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// What this write put there, to the last byte.
    Stamp(Stamp),
    /// Nothing but zeroes.
    Zeroes,
    /// Anything else.
    Garbage,
}

impl std::fmt::Display for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stamp(stamp) => {
                write!(formatter, "write {} of block {} in run {:08x}", stamp.sequence, stamp.block, stamp.run)
            }
            Self::Zeroes => formatter.write_str("zeroes"),
            Self::Garbage => formatter.write_str("bytes that no write of this load made"),
        }
    }
}

impl Stamp {
    fn bytes(self) -> [u8; STAMP] {
        let mut bytes = [0; STAMP];
        bytes[0..4].copy_from_slice(&self.run.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.block.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Self {
        Self {
            run: u32::from_le_bytes(bytes[0..4].try_into().expect("four bytes")),
            block: u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes")),
            sequence: u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes")),
        }
    }

    fn fill_sector(self, number: usize, sector: &mut [u8]) {
        sector[..STAMP].copy_from_slice(&self.bytes());
        let seed = u64::from(self.run) << 32 ^ u64::from(self.block) << 3 ^ number as u64;
        let mut dice = Dice::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ self.sequence);
        for word in sector[STAMP..].chunks_exact_mut(8) {
            word.copy_from_slice(&dice.throw().to_le_bytes());
        }
    }

    /// What this write puts into its block.
    pub fn fill(self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK);
        for (number, sector) in block.chunks_exact_mut(SECTOR).enumerate() {
            self.fill_sector(number, sector);
        }
    }
}

/// What each sector of a block holds.
pub fn look(block: &[u8]) -> [Found; SECTORS] {
    assert_eq!(block.len(), BLOCK);
    std::array::from_fn(|number| {
        let sector = &block[number * SECTOR..][..SECTOR];
        if sector.iter().all(|byte| *byte == 0) {
            return Found::Zeroes;
        }
        let stamp = Stamp::read(sector);
        let mut expect = [0; SECTOR];
        stamp.fill_sector(number, &mut expect);
        if expect == sector { Found::Stamp(stamp) } else { Found::Garbage }
    })
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: whatever one byte of a block becomes, it is seen, and so are sectors that changed places.
    #[test]
    fn a_changed_byte_is_seen() {
        let stamp = Stamp { run: 7, block: 9, sequence: 11 };
        let mut block = vec![0; BLOCK];
        assert_eq!(look(&block), [Found::Zeroes; 8]);
        stamp.fill(&mut block);
        assert_eq!(look(&block), [Found::Stamp(stamp); 8]);
        for at in (0..BLOCK).step_by(37) {
            block[at] ^= 1;
            let found = look(&block);
            assert_eq!(found[at / SECTOR], Found::Garbage, "byte {at}");
            assert_eq!(found.iter().filter(|found| **found == Found::Stamp(stamp)).count(), 7);
            block[at] ^= 1;
        }
        let (first, second) = block.split_at_mut(SECTOR);
        first.swap_with_slice(&mut second[..SECTOR]);
        assert_eq!(look(&block)[..3], [Found::Garbage, Found::Garbage, Found::Stamp(stamp)]);
    }
}
