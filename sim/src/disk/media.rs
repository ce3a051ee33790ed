//! What a disk remembers: the media, and the volatile cache in front of it, in sectors.
//!
//! Invariant: an answered write is in the cache or on the media; a flush moves to the media what was answered before it
//! began; a write with FUA goes to both. A power cut keeps, per write, all of it, some of its 512-byte sectors or none,
//! whatever the order of the writes was. A sector is never half old and half new (docs/rfd/0002-block-device.md; the
//! 512-byte promise is the drives').

use super::sparse::Sparse;
use crate::rng::Rng;
use block::IoData;
use std::collections::{BTreeMap, BTreeSet};

/// The unit that a power cut does not tear.
pub const SECTOR: usize = 512;

/// The content of one member disk.
#[derive(Clone)]
pub struct Media {
    live: Sparse,
    durable: Sparse,
    cached: BTreeMap<usize, Vec<Version>>,
    next_write: u64,
}

/// A version of a sector that a power cut may lose.
#[derive(Clone)]
struct Version {
    write: u64,
    data: IoData,
    start: usize,
}

impl Media {
    /// `len` zeroes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self::holding(Sparse::new(len))
    }

    /// A disk with this content, all of it durable.
    #[must_use]
    pub fn holding(content: Sparse) -> Self {
        assert!(content.size().is_multiple_of(SECTOR), "a disk is whole sectors");
        Self { durable: content.clone(), live: content, cached: BTreeMap::new(), next_write: 0 }
    }

    /// What a reader sees.
    #[must_use]
    pub fn live(&self) -> &Sparse {
        &self.live
    }

    /// What certainly survives a power cut.
    #[must_use]
    pub fn durable(&self) -> &Sparse {
        &self.durable
    }

    /// How many sectors a power cut may lose.
    #[must_use]
    pub fn cached_sectors(&self) -> usize {
        self.cached.len()
    }

    /// A write takes effect.
    pub fn write(&mut self, at: usize, data: &IoData, fua: bool) {
        self.live.write(at, data);
        let write = self.next_write;
        self.next_write += 1;
        if fua {
            self.durable.write(at, data);
        }
        for start in (0..data.len()).step_by(SECTOR) {
            let sector = (at + start) / SECTOR;
            if fua {
                self.cached.remove(&sector);
            } else {
                self.cached.entry(sector).or_default().push(Version { write, data: data.clone(), start });
            }
        }
    }

    /// A bit of what is on the media changes by itself, in the cache's copy as well if that was read from there.
    pub fn flip(&mut self, at: usize, bit: u8) {
        let turn = |content: &mut Sparse| {
            let byte = content.get(at, 1)[0] ^ (1 << (bit % 8));
            content.write(at, &[byte]);
        };
        turn(&mut self.durable);
        if !self.cached.contains_key(&(at / SECTOR)) {
            turn(&mut self.live);
        }
    }

    /// The mark a flush that begins now has to reach.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.next_write
    }

    /// A flush that began at `mark` ends: what was written before is durable.
    pub fn flush(&mut self, mark: u64) {
        let durable = &mut self.durable;
        self.cached.retain(|&sector, versions| {
            let old = versions.partition_point(|version| version.write < mark);
            if let Some(last) = old.checked_sub(1) {
                put(durable, sector, &versions[last]);
                versions.drain(..old);
            }
            !versions.is_empty()
        });
    }

    /// The power goes: what is left of the cache is chance, and the cache is empty. Returns how many sectors were lost.
    pub fn power_cut(&mut self, rng: &mut Rng, torn: bool) -> u64 {
        let mut fates = rng.fork();
        self.cut(rng, |_| Fate::of(&mut fates, torn))
    }

    /// The same, with a say in what becomes of each write.
    pub fn cut(&mut self, rng: &mut Rng, mut fate: impl FnMut(u64) -> Fate) -> u64 {
        let mut known = BTreeMap::new();
        let mut lost = 0;
        for (sector, versions) in std::mem::take(&mut self.cached) {
            for version in &versions {
                let its_fate: Fate = *known.entry(version.write).or_insert_with(|| fate(version.write));
                if its_fate.keeps(rng) {
                    put(&mut self.durable, sector, version);
                } else {
                    lost += 1;
                }
            }
        }
        self.live = self.durable.clone();
        lost
    }

    /// The writes that a power cut may lose.
    #[must_use]
    pub fn volatile(&self) -> BTreeSet<u64> {
        self.cached.values().flatten().map(|version| version.write).collect()
    }
}

fn put(into: &mut Sparse, sector: usize, version: &Version) {
    let bytes = &version.data[version.start..version.start + SECTOR];
    into.write(sector * SECTOR, bytes);
}

/// What a power cut makes of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is on the media.
    Kept,
    /// It is gone.
    Lost,
    /// Some of its sectors are on the media.
    Torn,
}

impl Fate {
    fn of(rng: &mut Rng, torn: bool) -> Self {
        match rng.below(if torn { 3 } else { 2 }) {
            0 => Self::Kept,
            1 => Self::Lost,
            _ => Self::Torn,
        }
    }

    fn keeps(self, rng: &mut Rng) -> bool {
        match self {
            Self::Kept => true,
            Self::Lost => false,
            Self::Torn => rng.coin(),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use block::IoBuf;

    fn byte(media: &Media, at: usize) -> u8 {
        media.live().get(at, 1)[0]
    }

    fn filled(byte: u8, sectors: usize) -> IoData {
        IoBuf::copy_of(&vec![byte; sectors * SECTOR]).freeze()
    }

    /// Goal: a power cut loses only what no flush and no FUA covered. Method: all three kinds of write, 200 seeds; each
    /// volatile write is seen kept and lost at least once, and torn where tearing is on.
    #[test]
    fn flush_and_fua_survive_and_the_rest_is_chance() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut media = Media::new(16 * SECTOR);
            media.write(0, &filled(1, 2), false);
            let mark = media.mark();
            media.write(2 * SECTOR, &filled(2, 2), false);
            media.flush(mark);
            media.write(4 * SECTOR, &filled(3, 2), true);
            assert_eq!(byte(&media, 2 * SECTOR), 2);
            media.power_cut(&mut Rng::new(seed), true);
            assert_eq!(byte(&media, 0), 1, "written before the flush began");
            assert_eq!(byte(&media, 4 * SECTOR), 3, "written with FUA");
            seen.insert((byte(&media, 2 * SECTOR), byte(&media, 3 * SECTOR)));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(0, 0), (0, 2), (2, 0), (2, 2)]);
    }

    /// Goal: FUA over a cached write wins for good. Method: write, overwrite with FUA, cut.
    #[test]
    fn an_older_cached_write_does_not_come_back_over_fua() {
        for seed in 0..50 {
            let mut media = Media::new(4 * SECTOR);
            media.write(0, &filled(1, 4), false);
            media.write(SECTOR, &filled(2, 1), true);
            media.power_cut(&mut Rng::new(seed), true);
            assert_eq!(byte(&media, SECTOR), 2);
        }
    }
}
