//! The internal write-intent bitmap: which chunks may differ between the members, or lack on a missing one.
//!
//! Format: 256 bytes of header, then one bit per chunk, least significant first; little-endian, version 4. Source:
//! mdadm's bitmap.h (`bitmap_super_t`) and drivers/md/md-bitmap.c. Invariant: before data of a chunk is written, its bit
//! is durable on every member that gets the data; it is cleared only after a flush of *all* slots of the array.

use super::chunks::ChunkSet;
use std::collections::BTreeSet;
use std::ops::Range;
use units::sabotage::{Bug, planted};
use units::{ArrayId, ByteLen, ByteOffset, Sectors};

/// The unit in which the bitmap is written.
pub const PAGE_BYTES: usize = 4096;
/// How long after its last write a chunk's bit is cleared, in seconds: mdadm's default `daemon_sleep`.
pub const LAZY_SECONDS: u32 = 5;

const MAGIC: u32 = 0x6d74_6962;
const VERSION: u32 = 4;
/// mdadm's smallest chunk; a smaller one could not be copied on disks with blocks of 4096 bytes.
const CHUNK_MIN: u32 = 4096;
const HEADER_BYTES: usize = 256;
/// Bit `BITMAP_STALE`: it is out of date; beside it md knows `BITMAP_WRITE_ERROR`. Source: drivers/md/md-bitmap.h.
const STATE_STALE: u32 = 1 << 1;
const STATE_KNOWN: u32 = STATE_STALE | 1 << 2;

/// The header of a member's bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose bitmap.
    pub array: ArrayId,
    /// The superblock's `events` when it was written.
    pub events: u64,
    /// `events` when bits were last cleared: who is older than that cannot come back by this bitmap.
    pub events_cleared: u64,
    /// What the bits are about.
    pub sync_size: Sectors,
    /// Bytes per bit.
    pub chunk_bytes: u32,
    /// What else it says.
    pub settings: Settings,
}

/// Why bytes are no header that we can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// It is none, is out of date, or cannot be: the bits behind it say nothing.
    Unusable,
    /// A kind of bitmap that this version does not do, by name: nothing of it may be written over.
    Unsupported(String),
}

/// What a header says beside the bits: kept as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Seconds after which bits are cleared.
    pub lazy_seconds: u32,
    /// Write-behind of write-mostly members.
    pub write_behind: u32,
    /// Sectors that are kept for the bitmap.
    pub sectors_reserved: u32,
    /// Bytes 72 to 255.
    pub rest: [u8; 184],
}

impl Default for Settings {
    fn default() -> Self {
        Self { lazy_seconds: LAZY_SECONDS, write_behind: 0, sectors_reserved: 0, rest: [0; 184] }
    }
}

/// The bits in memory, and which of them are on the members.
#[derive(Debug)]
pub struct Bitmap {
    /// What else its header says.
    pub settings: Settings,
    chunk_bytes: u64,
    events_cleared: u64,
    set: ChunkSet,
    durable: ChunkSet,
    dirty_pages: BTreeSet<usize>,
}

impl Header {
    /// Reads a header of version 4.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(HeaderError::Unusable)?;
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("fixed places"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("fixed places"));
        let header = Self {
            array: ArrayId(bytes[8..24].try_into().expect("fixed places")),
            events: u64_at(24),
            events_cleared: u64_at(32),
            sync_size: Sectors(u64_at(40)),
            chunk_bytes: u32_at(52),
            settings: Settings {
                lazy_seconds: u32_at(56),
                write_behind: u32_at(60),
                sectors_reserved: u32_at(64),
                rest: bytes[72..].try_into().expect("fixed places"),
            },
        };
        let state = u32_at(48);
        // The versions' names: `BITMAP_MAJOR_*` in drivers/md/md-bitmap.h.
        let unsupported = match (u32_at(0) == MAGIC, u32_at(4), u32_at(68)) {
            (true, 5, _) | (true, VERSION, 1..) => "a clustered bitmap".to_owned(),
            (true, 6, _) => "a lockless bitmap (version 6)".to_owned(),
            (true, version, _) if version != VERSION => format!("a bitmap of version {version}"),
            (true, ..) if state & !STATE_KNOWN != 0 => format!("a bitmap in the unknown state {state:#x}"),
            _ => String::new(),
        };
        if !unsupported.is_empty() {
            return Err(HeaderError::Unsupported(unsupported));
        }
        let sound = u32_at(0) == MAGIC
            && header.chunk_bytes.is_power_of_two()
            && header.chunk_bytes >= CHUNK_MIN
            && state & STATE_STALE == 0;
        if sound { Ok(header) } else { Err(HeaderError::Unusable) }
    }

    /// The 256 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_le_bytes());
        put(4, &VERSION.to_le_bytes());
        put(8, &self.array.0);
        put(24, &self.events.to_le_bytes());
        put(32, &self.events_cleared.to_le_bytes());
        put(40, &self.sync_size.0.to_le_bytes());
        put(52, &self.chunk_bytes.to_le_bytes());
        put(56, &self.settings.lazy_seconds.to_le_bytes());
        put(60, &self.settings.write_behind.to_le_bytes());
        put(64, &self.settings.sectors_reserved.to_le_bytes());
        put(72, &self.settings.rest);
        bytes
    }
}

/// How many chunks an array has.
#[must_use]
pub fn chunk_count(size: ByteLen, chunk_bytes: u64) -> usize {
    usize::try_from(size.0.div_ceil(chunk_bytes)).expect("bounded by the chunk's choice")
}

/// The chunks that a range of the array touches.
#[must_use]
pub fn chunks_of(at: ByteOffset, len: ByteLen, chunk_bytes: u64) -> Range<usize> {
    let index = |byte: u64| usize::try_from(byte).expect("within the array");
    index(at.0 / chunk_bytes)..index((at.0 + len.0).div_ceil(chunk_bytes))
}

/// The length of a bitmap on disk.
#[must_use]
pub fn bytes_on_disk(chunks: usize) -> usize {
    HEADER_BYTES + chunks.div_ceil(8)
}

/// Reads the bits behind a header, all of the bitmap being `bytes`.
#[must_use]
pub fn decode_bits(bytes: &[u8], chunks: usize) -> ChunkSet {
    let bits = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let mut set = ChunkSet::empty(chunks);
    for chunk in 0..chunks {
        if bits.get(chunk / 8).is_none_or(|byte| byte >> (chunk % 8) & 1 == 1) {
            set.insert(chunk);
        }
    }
    set
}

impl Bitmap {
    /// A bitmap whose bits are `set`, none of them known to be on disk.
    #[must_use]
    pub fn new(chunk_bytes: u64, set: ChunkSet, events_cleared: u64) -> Self {
        let durable = ChunkSet::empty(set.possible());
        let settings = Settings::default();
        let mut bitmap = Self { settings, chunk_bytes, events_cleared, set, durable, dirty_pages: BTreeSet::new() };
        bitmap.rewrite_all();
        bitmap
    }

    /// Bytes per bit.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// The bits that are set.
    #[must_use]
    pub fn set(&self) -> &ChunkSet {
        &self.set
    }

    /// `events` when bits were last cleared.
    #[must_use]
    pub fn events_cleared(&self) -> u64 {
        self.events_cleared
    }

    /// Whether all of `chunks` are set on the members.
    #[must_use]
    pub fn is_durable(&self, mut chunks: Range<usize>) -> bool {
        chunks.all(|chunk| self.durable.contains(chunk))
    }

    /// Sets bits; true if there is something to write now.
    pub fn mark(&mut self, chunks: Range<usize>) -> bool {
        for chunk in chunks {
            if !self.set.contains(chunk) {
                self.set.insert(chunk);
                self.dirty_pages.insert(page_of(chunk));
            }
        }
        !self.dirty_pages.is_empty()
    }

    /// Bits are about to be cleared at this count of `events`. The header that says so goes out first, for a bit that
    /// is clear under an older header takes a member back that lacks its chunk. True if there is something to write now.
    pub fn announce_clearing(&mut self, events: u64) -> bool {
        let moved = self.events_cleared != events;
        if moved {
            self.events_cleared = events;
            // Linux does the same: `need_sync` in drivers/md/md-bitmap.c.
            if !planted(Bug::ClearingUnannounced) {
                self.rewrite_header();
            }
        }
        moved
    }

    /// Clears one bit, announced before; from this moment it does not count as durable.
    pub fn clear(&mut self, chunk: usize) {
        self.set.remove(chunk);
        self.durable.remove(chunk);
        self.dirty_pages.insert(page_of(chunk));
    }

    /// All of it has to be written again, as for a member that comes in.
    pub fn rewrite_all(&mut self) {
        self.dirty_pages = (0..bytes_on_disk(self.set.possible()).div_ceil(PAGE_BYTES)).collect();
    }

    /// The first page holds the header, which carries `events`.
    pub fn rewrite_header(&mut self) {
        self.dirty_pages.insert(0);
    }

    /// Takes the pages that have to be written, and what to tell [`Bitmap::written`] afterwards.
    pub fn take_dirty(&mut self, header: &Header) -> (Vec<(usize, [u8; PAGE_BYTES])>, ChunkSet) {
        let pages = std::mem::take(&mut self.dirty_pages);
        let pages = pages.into_iter().map(|page| (page, self.page(page, header))).collect();
        (pages, self.set.clone())
    }

    /// What was set when the pages were taken is on the members now, unless it was cleared since.
    pub fn written(&mut self, snapshot: &ChunkSet) {
        let mut durable = snapshot.clone();
        durable.keep_only(&self.set);
        self.durable = durable;
    }

    fn page(&self, page: usize, header: &Header) -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        let from = page * PAGE_BYTES;
        for (at, byte) in bytes.iter_mut().enumerate() {
            if let Some(bit_byte) = (from + at).checked_sub(HEADER_BYTES) {
                *byte = self.set.byte(bit_byte);
            }
        }
        if page == 0 {
            bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        }
        bytes
    }
}

fn page_of(chunk: usize) -> usize {
    (HEADER_BYTES + chunk / 8) / PAGE_BYTES
}

#[cfg(test)]
mod test {
    use super::*;

    fn header() -> Header {
        Header {
            array: ArrayId([3; 16]),
            events: 9,
            events_cleared: 8,
            sync_size: Sectors(2048),
            chunk_bytes: 65_536,
            settings: Settings { lazy_seconds: 30, write_behind: 256, sectors_reserved: 8, rest: [3; 184] },
        }
    }

    #[test]
    fn a_header_survives_and_a_broken_one_is_refused() {
        let bytes = header().encode();
        assert_eq!(Header::decode(&bytes), Ok(header()));
        for (at, value) in [(0, 1), (52, 3), (48, 2)] {
            let mut broken = bytes;
            broken[at] = value;
            assert_eq!(Header::decode(&broken), Err(HeaderError::Unusable), "byte {at}");
        }
        assert_eq!(Header::decode(&bytes[..255]), Err(HeaderError::Unusable));
    }

    /// A16: other kinds of bitmap are called by name; they were taken for none and written over.
    #[test]
    fn other_versions_are_refused_by_name() {
        for (at, value, what) in [
            (4, 3, "version 3"),
            (4, 5, "clustered"),
            (4, 6, "lockless"),
            (4, 7, "version 7"),
            (68, 2, "clustered"),
            (48, 8, "unknown state 0x8"),
        ] {
            let mut other = header().encode();
            other[at] = value;
            let Err(HeaderError::Unsupported(text)) = Header::decode(&other) else { panic!("byte {at}: {value}") };
            assert!(text.contains(what), "{text}");
        }
    }

    /// Goal: a bit counts as durable only between being written and being cleared. Method: clear and set again while
    /// a write of the page is under way.
    #[test]
    fn durable_is_what_was_written_and_not_cleared_since() {
        let mut bitmap = Bitmap::new(65_536, ChunkSet::empty(40_000), 0);
        let (pages, snapshot) = bitmap.take_dirty(&header());
        assert_eq!(pages.len(), 2);
        bitmap.written(&snapshot);

        assert!(bitmap.mark(33_000..33_002));
        assert!(!bitmap.is_durable(33_000..33_001));
        let (pages, snapshot) = bitmap.take_dirty(&header());
        assert_eq!(pages.iter().map(|(page, _)| *page).collect::<Vec<_>>(), [1]);
        bitmap.clear(33_001);
        bitmap.written(&snapshot);
        assert!(bitmap.is_durable(33_000..33_001));
        assert!(!bitmap.is_durable(33_001..33_002));
        assert!(bitmap.mark(33_001..33_002), "it has to be written again");
    }

    /// DA2: the header goes out whenever `events_cleared` moves, also when only bits of later pages are cleared. Method: a
    /// bitmap of two pages, all of it written, a bit of the second cleared.
    #[test]
    fn the_header_is_written_when_events_cleared_moves() {
        let mut bitmap = Bitmap::new(65_536, ChunkSet::of_range(40_000, 33_001..33_003), 0);
        let pages = |bitmap: &mut Bitmap| -> Vec<usize> {
            let taken = bitmap.take_dirty(&header()).0;
            taken.iter().map(|(page, _)| *page).collect()
        };
        assert_eq!(pages(&mut bitmap), [0, 1]);
        assert!(bitmap.announce_clearing(9));
        assert_eq!(pages(&mut bitmap), [0]);
        bitmap.clear(33_001);
        assert_eq!(pages(&mut bitmap), [1]);
        assert!(!bitmap.announce_clearing(9), "it stands there already");
        bitmap.clear(33_002);
        assert_eq!(pages(&mut bitmap), [1]);
    }

    #[test]
    fn bits_on_disk_are_the_bits_in_memory() {
        let set = ChunkSet::of_range(40_000, 32_500..32_777);
        let mut bitmap = Bitmap::new(65_536, set.clone(), 0);
        let bytes: Vec<u8> = bitmap.take_dirty(&header()).0.into_iter().flat_map(|(_, page)| page).collect();
        assert_eq!(decode_bits(&bytes, 40_000), set);
        assert_eq!(decode_bits(&bytes[..300], 1000).len(), 1000 - 44 * 8, "what cannot be read counts as set");
    }
}
