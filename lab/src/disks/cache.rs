//! The content of a disk with a volatile cache: what was flushed is in the backing file, what was only written is in
//! memory, every version of every sector, so that a power cut can lose any part of it that a real disk may lose.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use units::SECTOR_BYTES;

const SECTOR: usize = 512;
const _: () = assert!(SECTOR as u64 == SECTOR_BYTES);

/// When more than this is volatile the oldest part is written out, as a real cache does: nobody promised to lose it.
const CACHE_SECTORS: usize = (64 << 20) / SECTOR;

type Sector = Box<[u8; SECTOR]>;

/// What a disk holds.
pub struct Content {
    backing: File,
    len: u64,
    /// Every version since it was last durable, oldest first.
    volatile: BTreeMap<u64, Vec<Sector>>,
}

/// What survives of the un-flushed writes when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survive {
    /// Nothing.
    Nothing,
    /// Of each sector any version, the durable one or a later one, as this seed decides: writes are torn at 512 bytes.
    Random(u64),
}

impl Content {
    /// Opens the backing file, made `len` bytes long if it is new.
    ///
    /// # Errors
    /// When it cannot be opened, or has another length.
    pub fn open(backing: &Path, len: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(backing)?;
        match file.metadata()?.len() {
            0 => file.set_len(len)?,
            found if found == len => {}
            found => return Err(io::Error::other(format!("{} has {found} bytes, not {len}", backing.display()))),
        }
        Ok(Self { backing: file, len, volatile: BTreeMap::new() })
    }

    /// How long the disk is.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// How many sectors are volatile.
    pub fn volatile_sectors(&self) -> usize {
        self.volatile.len()
    }

    /// What a reader sees: the newest version of everything. `into` must lie inside the disk.
    ///
    /// # Errors
    /// The backing file's.
    pub fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.backing.read_exact_at(into, at)?;
        if into.is_empty() {
            return Ok(());
        }
        let end = at + into.len() as u64;
        for (sector, versions) in self.volatile.range(at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)) {
            let newest = versions.last().expect("a volatile sector has a version");
            let begin = sector * SECTOR_BYTES;
            let (from, to) = (begin.max(at), (begin + SECTOR_BYTES).min(end));
            into[index(from - at)..index(to - at)].copy_from_slice(&newest[index(from - begin)..index(to - begin)]);
        }
        Ok(())
    }

    /// Writes; `durable` as with force unit access: these very sectors, no others. `data` must lie inside the disk.
    ///
    /// # Errors
    /// The backing file's.
    pub fn write(&mut self, at: u64, data: &[u8], durable: bool) -> io::Result<()> {
        let end = at + data.len() as u64;
        let (first, last) = (at / SECTOR_BYTES, end.div_ceil(SECTOR_BYTES));
        // Whole sectors: the edges of an odd request keep what a reader sees there.
        let mut whole = vec![0; index((last - first) * SECTOR_BYTES)];
        let begin = first * SECTOR_BYTES;
        if whole.len() != data.len() {
            let visible = index((begin + whole.len() as u64).min(self.len) - begin);
            self.read(begin, &mut whole[..visible])?;
        }
        whole[index(at - begin)..index(end - begin)].copy_from_slice(data);
        if durable {
            self.backing.write_all_at(&whole, begin)?;
            self.forget(first, last);
            return Ok(());
        }
        for (sector, bytes) in (first..last).zip(whole.chunks_exact(SECTOR)) {
            let version = Box::new(<[u8; SECTOR]>::try_from(bytes).expect("chunks of a sector"));
            self.volatile.entry(sector).or_default().push(version);
        }
        if self.volatile.len() > CACHE_SECTORS { self.flush() } else { Ok(()) }
    }

    /// Makes a range read as zeroes, durably, and gives its space back.
    ///
    /// # Errors
    /// The backing file's.
    pub fn zero(&mut self, at: u64, len: u64) -> io::Result<()> {
        let (first, last) = (at.div_ceil(SECTOR_BYTES), (at + len) / SECTOR_BYTES);
        if first >= last {
            return self.write(at, &vec![0; index(len)], true);
        }
        let (begin, end) = (first * SECTOR_BYTES, last * SECTOR_BYTES);
        self.write(at, &vec![0; index(begin - at)], true)?;
        self.write(end, &vec![0; index(at + len - end)], true)?;
        let how = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.backing, how, begin, end - begin)?;
        self.forget(first, last);
        Ok(())
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// The backing file's.
    pub fn flush(&mut self) -> io::Result<()> {
        for (sector, versions) in std::mem::take(&mut self.volatile) {
            let newest = versions.last().expect("a volatile sector has a version");
            self.backing.write_all_at(newest.as_slice(), sector * SECTOR_BYTES)?;
        }
        Ok(())
    }

    /// The power goes: volatile writes are lost, but for what survives. Returns how many sectors were lost.
    ///
    /// # Errors
    /// The backing file's.
    pub fn power_cut(&mut self, survive: Survive) -> io::Result<usize> {
        let mut lost = 0;
        let mut dice = match survive {
            Survive::Nothing => None,
            Survive::Random(seed) => Some(Dice::new(seed)),
        };
        for (sector, versions) in std::mem::take(&mut self.volatile) {
            // 0 is the durable version, n the n-th later one.
            let kept = dice.as_mut().map_or(0, |dice| dice.below(versions.len() as u64 + 1));
            lost += usize::from(index(kept) < versions.len());
            if kept > 0 {
                self.backing.write_all_at(versions[index(kept) - 1].as_slice(), sector * SECTOR_BYTES)?;
            }
        }
        Ok(lost)
    }

    /// Copies what a reader sees to a file.
    ///
    /// # Errors
    /// The files'.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        self.copy_backing(&self.backing, &File::create(path)?)?;
        let copy = File::options().write(true).open(path)?;
        for (sector, versions) in &self.volatile {
            let newest = versions.last().expect("a volatile sector has a version");
            copy.write_all_at(newest.as_slice(), sector * SECTOR_BYTES)?;
        }
        Ok(())
    }

    /// Becomes what [`Content::save`] wrote, durably.
    ///
    /// # Errors
    /// The files'.
    pub fn restore(&mut self, path: &Path) -> io::Result<()> {
        let saved = File::open(path)?;
        if saved.metadata()?.len() != self.len {
            return Err(io::Error::other(format!("{} is no snapshot of this disk", path.display())));
        }
        self.volatile.clear();
        self.copy_backing(&saved, &self.backing)
    }

    /// Copies `len` bytes and leaves holes where the source has only zeroes.
    fn copy_backing(&self, from: &File, to: &File) -> io::Result<()> {
        to.set_len(0)?;
        to.set_len(self.len)?;
        let mut chunk = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.len {
            let len = index((self.len - at).min(chunk.len() as u64));
            from.read_exact_at(&mut chunk[..len], at)?;
            if chunk[..len].iter().any(|byte| *byte != 0) {
                to.write_all_at(&chunk[..len], at)?;
            }
            at += len as u64;
        }
        Ok(())
    }

    fn forget(&mut self, first: u64, last: u64) {
        let mut later = self.volatile.split_off(&first);
        self.volatile.append(&mut later.split_off(&last));
    }
}

/// Reproducible chance (SplitMix64, Steele and others 2014).
pub struct Dice(u64);

impl Dice {
    /// The same seed throws the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is small: the bias of the remainder does not matter here.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.throw() % limit
    }
}

/// A length inside one request or disk: `usize` is 64 bits on every machine muskox runs on.
fn index(number: u64) -> usize {
    usize::try_from(number).expect("usize has 64 bits")
}

#[cfg(test)]
mod test {
    use super::*;

    struct Scratch(std::path::PathBuf);
    impl Scratch {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("muskox-cache-{}-{name}", std::process::id())))
        }
        fn open(&self) -> Content {
            Content::open(&self.0, 1 << 20).unwrap()
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn seen(content: &Content, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        content.read(at, &mut bytes).unwrap();
        bytes
    }

    /// Goal: flushed and FUA data survive, other data is lost, readers see the newest. Method: one sector of each.
    #[test]
    fn a_power_cut_loses_exactly_what_was_not_flushed() {
        let scratch = Scratch::new("cut");
        let mut content = scratch.open();
        content.write(0, &[1; 512], false).unwrap();
        content.flush().unwrap();
        content.write(0, &[2; 512], false).unwrap();
        content.write(512, &[3; 512], true).unwrap();
        content.write(1024, &[4; 512], false).unwrap();
        assert_eq!(seen(&content, 0, 1536), [[2; 512], [3; 512], [4; 512]].concat());
        assert_eq!(content.power_cut(Survive::Nothing).unwrap(), 2);
        assert_eq!(seen(&content, 0, 1536), [[1; 512], [3; 512], [0; 512]].concat());
    }

    /// Goal: what survives by chance is some version of each sector, the same for the same seed, and writes are torn.
    #[test]
    fn a_seeded_cut_tears_writes() {
        let cut = |seed| {
            let scratch = Scratch::new(&format!("torn-{seed}"));
            let mut content = scratch.open();
            content.write(0, &[1; 64 * 512], true).unwrap();
            content.write(0, &[2; 64 * 512], false).unwrap();
            content.write(0, &[3; 64 * 512], false).unwrap();
            content.power_cut(Survive::Random(seed)).unwrap();
            let bytes = seen(&content, 0, 64 * 512);
            bytes
                .chunks(512)
                .map(|sector| {
                    assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn");
                    sector[0]
                })
                .collect::<Vec<u8>>()
        };
        let survived = cut(7);
        assert_eq!(survived, cut(7));
        assert_ne!(survived, cut(8));
        assert!((1..=3).all(|version| survived.contains(&version)), "{survived:?}");
    }

    /// Goal: odd requests, FUA over volatile data and zeroing agree with a plain array. Method: random work, both ways.
    #[test]
    fn readers_see_an_ordinary_disk() {
        let scratch = Scratch::new("model");
        let (mut content, mut model) = (scratch.open(), vec![0_u8; 1 << 20]);
        let mut dice = Dice::new(1);
        for round in 0..2000_u64 {
            let (at, len) = (dice.below(1 << 20), dice.below(5000));
            let len = len.min((1 << 20) - at);
            let range = index(at)..index(at + len);
            let byte = u8::try_from(round % 251).unwrap();
            match dice.below(8) {
                0 => content.flush().unwrap(),
                1 => {
                    content.zero(at, len).unwrap();
                    model[range].fill(0);
                }
                kind => {
                    content.write(at, &vec![byte; index(len)], kind == 2).unwrap();
                    model[range].fill(byte);
                }
            }
        }
        assert!(seen(&content, 0, 1 << 20) == model);
        let saved = Scratch::new("saved");
        content.save(&saved.0).unwrap();
        content.write(0, &[9; 4096], true).unwrap();
        content.restore(&saved.0).unwrap();
        assert!(seen(&content, 0, 1 << 20) == model);
    }
}
