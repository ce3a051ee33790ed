//! The header of a metadata area, and the arithmetic of the ring behind it.
//!
//! First byte: bit 0 makes the checksum right. Four bytes: how many sectors the area has. Four bytes: the length of a
//! text to place. The rest is the header; its own place and length are made right with bit 1.

use crate::{Seed, seal};
use block::volume::label::Area;
use block::volume::mda::{Committed, HEADER_LEN, Slot, decode, encode, parts, place};
use units::{ByteLen, ByteOffset};

const AREA_AT: ByteOffset = ByteOffset(4096);
/// The least that a group is opened with (`metadata_area` in volume/group.rs).
const SECTORS_MIN: u32 = 8;

/// The committed text lies in the ring, and a new text never touches it.
pub fn lvm_mda(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<9>() else { return };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let area = Area { at: AREA_AT, len: ByteLen(u64::from(word(1).max(SECTORS_MIN)) * 512) };
    let mut header = [0; 512];
    let len = rest.len().min(512);
    header[..len].copy_from_slice(&rest[..len]);
    if head[0] & 2 == 2 {
        header[24..32].copy_from_slice(&area.at.0.to_le_bytes());
        header[32..40].copy_from_slice(&area.len.0.to_le_bytes());
    }
    if head[0] & 1 == 1 {
        seal::lvm_header(&mut header);
    }
    match decode(&header, area) {
        Ok(Committed::Text(slot)) => {
            assert_eq!(decode(&encode(area, Some(slot)), area), Ok(Committed::Text(slot)));
            let old = in_ring(area, slot.offset, slot.len);
            placed(area, Some(slot), &old, word(5));
        }
        Ok(Committed::Nothing) => placed(area, None, &[], word(5)),
        Ok(Committed::Ignored) | Err(_) => {}
    }
}

fn in_ring(area: Area, offset: u64, len: u64) -> Vec<Area> {
    let parts = parts(area, offset, len);
    assert_eq!(parts.iter().map(|part| part.len.0).sum::<u64>(), len);
    for part in &parts {
        assert!(part.at >= area.at + ByteLen(HEADER_LEN), "a text in the header");
        assert!(part.at + part.len <= area.at + area.len, "a text behind the area");
    }
    parts
}

fn placed(area: Area, committed: Option<Slot>, old: &[Area], len: u32) {
    let len = u64::from(len.max(1));
    let Some(offset) = place(area, committed, len) else { return };
    for new in in_ring(area, offset, len) {
        let meets = |old: &&Area| new.at < old.at + old.len && old.at < new.at + new.len;
        assert_eq!(old.iter().find(meets), None, "the new text touches the committed one");
    }
}

pub fn seeds() -> Vec<Seed> {
    let seed = |sectors: u32, text: u32, slot: Option<(u64, u64)>| {
        let area = Area { at: AREA_AT, len: ByteLen(u64::from(sectors) * 512) };
        let slot = slot.map(|(offset, len)| Slot { offset, len, checksum: 7 });
        [&[3][..], &sectors.to_le_bytes(), &text.to_le_bytes(), &encode(area, slot)[..64]].concat()
    };
    vec![
        ("nothing_yet", seed(2040, 900, None)),
        ("ours", seed(2040, 900, Some((4096, 900)))),
        ("round_the_end", seed(64, 9000, Some((28_672, 9000)))),
        ("smallest", seed(8, 100, Some((512, 100)))),
    ]
}
