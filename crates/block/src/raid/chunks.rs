//! Sets of chunks: the pieces of an array that a bitmap bit, or a resync, is about. Bounded by the array's size.

use std::ops::Range;

/// A set of chunk numbers below a fixed count.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ChunkSet {
    words: Vec<u64>,
    chunks: usize,
}

impl ChunkSet {
    /// The empty set of `chunks` possible chunks.
    #[must_use]
    pub fn empty(chunks: usize) -> Self {
        Self { words: vec![0; chunks.div_ceil(64)], chunks }
    }

    /// All chunks of `range` among `chunks` possible ones.
    #[must_use]
    pub fn of_range(chunks: usize, range: Range<usize>) -> Self {
        let mut set = Self::empty(chunks);
        range.for_each(|chunk| set.insert(chunk));
        set
    }

    /// How many chunks there could be.
    #[must_use]
    pub fn possible(&self) -> usize {
        self.chunks
    }

    /// Adds one.
    pub fn insert(&mut self, chunk: usize) {
        assert!(chunk < self.chunks, "chunk {chunk} of {}", self.chunks);
        self.words[chunk / 64] |= 1 << (chunk % 64);
    }

    /// Takes one out.
    pub fn remove(&mut self, chunk: usize) {
        self.words[chunk / 64] &= !(1 << (chunk % 64));
    }

    /// Whether it is in.
    #[must_use]
    pub fn contains(&self, chunk: usize) -> bool {
        self.words.get(chunk / 64).is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    /// Whether none is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// How many are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The lowest one.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        let (index, word) = self.words.iter().enumerate().find(|(_, word)| **word != 0)?;
        Some(index * 64 + word.trailing_zeros() as usize)
    }

    /// Whether any of `range` is in.
    #[must_use]
    pub fn touches(&self, mut range: Range<usize>) -> bool {
        range.any(|chunk| self.contains(chunk))
    }

    /// Adds all of another set of as many possible chunks.
    pub fn add_all(&mut self, other: &Self) {
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
    }

    /// Takes out what is not in the other set.
    pub fn keep_only(&mut self, other: &Self) {
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine &= theirs;
        }
    }

    /// Eight chunks as a byte, the lowest as its lowest bit; nothing past the end.
    #[must_use]
    pub fn byte(&self, index: usize) -> u8 {
        self.words.get(index / 8).map_or(0, |word| word.to_le_bytes()[index % 8])
    }

    /// The ones that are in, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.chunks).filter(|&chunk| self.contains(chunk))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_set_knows_what_is_in() {
        let mut set = ChunkSet::of_range(200, 60..70);
        set.insert(199);
        set.remove(65);
        assert_eq!(set.len(), 10);
        assert_eq!(set.first(), Some(60));
        assert!(set.touches(0..61) && !set.touches(70..199) && !set.contains(65) && !set.contains(500));
        let mut other = ChunkSet::empty(200);
        assert!(other.is_empty() && other.first().is_none());
        other.add_all(&set);
        assert_eq!(other.iter().collect::<Vec<_>>(), [60, 61, 62, 63, 64, 66, 67, 68, 69, 199]);
    }
}
