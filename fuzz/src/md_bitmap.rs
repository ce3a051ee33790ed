//! md's bitmap: two bytes say how many chunks, the rest is header and bits.

use crate::Seed;
use block::raid::bitmap::{Bitmap, Header, PAGE_BYTES, Settings, bytes_on_disk, decode_bits};
use block::raid::chunks::ChunkSet;
use units::{ArrayId, Sectors};

/// What is decoded is written so that it decodes the same; a bit that cannot be read counts as set.
pub fn md_bitmap(data: &[u8]) {
    let Some((chunks, bytes)) = data.split_first_chunk() else { return };
    let chunks = usize::from(u16::from_le_bytes(*chunks));
    let set = decode_bits(bytes, chunks);
    assert!(set.len() <= chunks);
    let Ok(header) = Header::decode(bytes) else { return };
    assert_eq!(Header::decode(&header.encode()).as_ref(), Ok(&header));
    let mut bitmap = Bitmap::new(u64::from(header.chunk_bytes), set.clone(), header.events_cleared);
    let (pages, _) = bitmap.take_dirty(&header);
    let whole: Vec<u8> = pages.iter().flat_map(|(_, page)| *page).collect();
    assert_eq!(whole.len(), bytes_on_disk(chunks).next_multiple_of(PAGE_BYTES));
    assert_eq!(decode_bits(&whole, chunks), set);
    assert_eq!(Header::decode(&whole).map(|written| written.array), Ok(header.array));
}

pub fn seeds() -> Vec<Seed> {
    let header = Header {
        array: ArrayId([5; 16]),
        events: 9,
        events_cleared: 4,
        sync_size: Sectors(2048),
        chunk_bytes: 65_536,
        settings: Settings::default(),
    };
    let seed = |chunks: u16, set: std::ops::Range<usize>| {
        let set = ChunkSet::of_range(usize::from(chunks), set);
        let (pages, _) = Bitmap::new(65_536, set, 4).take_dirty(&header);
        let used = bytes_on_disk(usize::from(chunks));
        let bytes: Vec<u8> = pages.into_iter().flat_map(|(_, page)| page).take(used).collect();
        [&chunks.to_le_bytes()[..], &bytes].concat()
    };
    vec![("few", seed(16, 3..5)), ("all_set", seed(16, 0..16)), ("odd_count", seed(1003, 990..1003))]
}
