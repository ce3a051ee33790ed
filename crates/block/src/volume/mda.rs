//! A metadata area: one header sector, then a ring of metadata texts.
//!
//! ```text
//! +0    header: checksum, magic, version, start, size, slots of (offset, size, checksum, flags); slot 0 is committed
//! +512  ring: the committed text at slot 0's offset, older texts and free space around it;
//!       a text that reaches the end goes on at +512
//! ```
//! Source: lvm2 `lib/format_text/layout.h` and `format-text.c`; `pvck --dump headers`. Here is arithmetic only:
//! [`super::area`] does the reading and writing. Invariant: a new text never touches a byte of the committed one.

use super::checksum::checksum;
use super::error::Damage;
use super::label::Area;
use units::ByteLen;

/// The header's length; the ring begins behind it. Source: lvm2 `MDA_HEADER_SIZE`.
pub const HEADER_LEN: u64 = HEADER_BYTES as u64;
const HEADER_BYTES: usize = 512;

const MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
const VERSION: u32 = 1;
/// The checksum counts from behind itself to the end of the header.
const CHECKED_FROM: usize = 4;
const SLOTS_AT: usize = 40;
const SLOT_LEN: usize = 24;
/// `raw_locn.flags`: the area is not in use. Source: lvm2 `RAW_LOCN_IGNORED`.
const IGNORED: u32 = 1;
/// Texts begin on this boundary and the space between two is a multiple of it when there is room, so that writing
/// one never rewrites a physical block of the other. 4096 is the largest physical block of today's drives.
const GRAIN: u64 = 4096;

/// Where a text is: offsets count from the start of the area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where it begins.
    pub offset: u64,
    /// Its length with the NUL at its end.
    pub len: u64,
    /// The checksum of those bytes.
    pub checksum: u32,
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// No group yet.
    Nothing,
    /// The area is set aside (`pvchange --metadataignore y`).
    Ignored,
    /// The committed text.
    Text(Slot),
}

/// Reads the header of the area the label names.
///
/// # Errors
/// [`Damage`] if it is not the sound header of this area.
pub fn decode(header: &[u8; HEADER_BYTES], area: Area) -> Result<Committed, Damage> {
    let (stated, found) = (u32_at(header, 0), checksum(&header[CHECKED_FROM..]));
    if stated != found {
        return Err(damage(format!("its checksum is {stated:#010x}, its content has {found:#010x}")));
    }
    if &header[4..20] != MAGIC || u32_at(header, 20) != VERSION {
        return Err(damage("its magic or version is another"));
    }
    if u64_at(header, 24) != area.at.0 || u64_at(header, 32) != area.len.0 {
        return Err(damage("it says it is elsewhere than the label says"));
    }
    let slot = Slot {
        offset: u64_at(header, SLOTS_AT),
        len: u64_at(header, SLOTS_AT + 8),
        checksum: u32_at(header, SLOTS_AT + 16),
    };
    if u32_at(header, SLOTS_AT + 20) & IGNORED != 0 {
        return Ok(Committed::Ignored);
    }
    if slot.offset == 0 && slot.len == 0 {
        return Ok(Committed::Nothing);
    }
    if slot.offset < HEADER_LEN || slot.offset >= area.len.0 || slot.len == 0 || slot.len > ring_len(area) {
        return Err(damage(format!("its text at {} of {} bytes lies outside the ring", slot.offset, slot.len)));
    }
    Ok(Committed::Text(slot))
}

/// The header of `area` whose committed text is `slot`; the slot of half-done commits of stock tools is empty.
#[must_use]
pub fn encode(area: Area, slot: Option<Slot>) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[4..20].copy_from_slice(MAGIC);
    header[20..24].copy_from_slice(&VERSION.to_le_bytes());
    header[24..32].copy_from_slice(&area.at.0.to_le_bytes());
    header[32..40].copy_from_slice(&area.len.0.to_le_bytes());
    if let Some(slot) = slot {
        let field = &mut header[SLOTS_AT..SLOTS_AT + SLOT_LEN];
        field[..8].copy_from_slice(&slot.offset.to_le_bytes());
        field[8..16].copy_from_slice(&slot.len.to_le_bytes());
        field[16..20].copy_from_slice(&slot.checksum.to_le_bytes());
    }
    let sum = checksum(&header[CHECKED_FROM..]);
    header[..CHECKED_FROM].copy_from_slice(&sum.to_le_bytes());
    header
}

/// The parts of the area that `len` bytes from `offset` cover: one, or two if they go round the end.
#[must_use]
pub fn parts(area: Area, offset: u64, len: u64) -> Vec<Area> {
    let first = len.min(area.len.0 - offset);
    let whole = [(offset, first), (HEADER_LEN, len - first)];
    let parts = whole.into_iter().filter(|(_, len)| *len > 0);
    parts.map(|(offset, len)| Area { at: area.at + ByteLen(offset), len: ByteLen(len) }).collect()
}

/// The longest text that may be committed. LVM2 takes no longer one than half of the ring, so that two always fit.
/// Source: lvm2 `lib/format_text/format-text.c`, `_vg_write_raw`.
#[must_use]
pub fn text_max(area: Area) -> u64 {
    (ring_len(area) / 2).saturating_sub(HEADER_LEN)
}

/// The longest text that a change may grow to: beside one of this length another one always finds blocks of its own, so
/// that what frees space, and what finishes what was begun, is never refused. Three grains are what two texts lose to
/// rounding at most: behind the first one, at the end of the ring and at its beginning.
#[must_use]
pub fn growth_max(area: Area) -> u64 {
    ring_len(area).saturating_sub(3 * GRAIN) / 2
}

/// Where a new text of `len` bytes goes: behind the committed one, or at the beginning, or round the end; `None` if
/// it would touch the committed one everywhere. Two texts of [`text_max`] always fit.
#[must_use]
pub fn place(area: Area, committed: Option<Slot>, len: u64) -> Option<u64> {
    assert!(len > 0, "a text has its NUL");
    let behind = committed.map_or(GRAIN, |slot| round_up(end_of(area, slot)));
    let padded = round_up(len);
    let straight = [behind, GRAIN].into_iter();
    let straight = straight.filter(|start| start.checked_add(padded).is_some_and(|end| end <= area.len.0));
    let mut free = straight.filter(|start| committed.is_none_or(|slot| apart(area, (*start, padded), slot, GRAIN)));
    free.next().or_else(|| {
        let slot = committed.filter(|_| len <= ring_len(area))?;
        // Round the end, the text shares blocks with the header; the area's writer reads those before it writes. The last
        // resort, only beside a text of stock tools longer than ours grow: it begins in the committed text's last block.
        let tight = Some(end_of(area, slot).next_multiple_of(HEADER_LEN))
            .map(|at| if at < area.len.0 { at } else { HEADER_LEN });
        let round = [Some(behind).filter(|at| *at < area.len.0), tight].into_iter().flatten();
        round.into_iter().find(|start| apart(area, (*start, len), slot, HEADER_LEN))
    })
}

/// Whether the bytes `new` (offset, length) and the committed text share no block of `grain` bytes.
fn apart(area: Area, new: (u64, u64), committed: Slot, grain: u64) -> bool {
    let blocks = |part: &Area| (part.at.0 / grain, (part.at.0 + part.len.0).div_ceil(grain));
    let old = parts(area, committed.offset, committed.len);
    let new = parts(area, new.0, new.1);
    let meets = |a: &Area, b: &Area| blocks(a).0 < blocks(b).1 && blocks(b).0 < blocks(a).1;
    !new.iter().any(|part| old.iter().any(|other| meets(part, other)))
}

fn end_of(area: Area, slot: Slot) -> u64 {
    let end = slot.offset + slot.len;
    if end > area.len.0 { end - area.len.0 + HEADER_LEN } else { end }
}

fn ring_len(area: Area) -> u64 {
    area.len.0 - HEADER_LEN
}

fn round_up(len: u64) -> u64 {
    len.next_multiple_of(GRAIN)
}

fn u32_at(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes inside the header"))
}

fn u64_at(header: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes inside the header"))
}

fn damage(what: impl Into<String>) -> Damage {
    Damage::new("the LVM2 metadata area", what)
}

#[cfg(test)]
mod test {
    use super::*;
    use units::ByteOffset;

    const AREA: Area = Area { at: ByteOffset(4096), len: ByteLen(1_044_480) };

    fn small(len: u64) -> Area {
        Area { at: ByteOffset(4096), len: ByteLen(len) }
    }

    fn slot(offset: u64, len: u64) -> Slot {
        Slot { offset, len, checksum: 7 }
    }

    /// Goal: byte for byte what `vgcreate` writes. Method: the checksum lvm2 2.03.16 stored over the same fields.
    #[test]
    fn a_header_is_what_vgcreate_wrote() {
        let text = Slot { offset: 512, len: 921, checksum: 0x97bd_1cf9 };
        let header = encode(AREA, Some(text));
        assert_eq!(&header[..4], &0x6905_b777_u32.to_le_bytes());
        assert_eq!(decode(&header, AREA), Ok(Committed::Text(text)));
        assert_eq!(decode(&encode(AREA, None), AREA), Ok(Committed::Nothing));
    }

    #[test]
    fn a_header_that_is_not_sound_is_refused() {
        let header = encode(AREA, Some(slot(512, 10)));
        for at in 0..header.len() {
            let mut broken = header;
            broken[at] ^= 1;
            assert!(decode(&broken, AREA).is_err(), "byte {at}");
        }
        assert!(decode(&header, small(8192)).is_err(), "another area");
        for (offset, len) in [(0, 5), (511, 5), (AREA.len.0, 1), (u64::MAX, 1), (512, 0), (512, AREA.len.0)] {
            assert!(decode(&encode(AREA, Some(slot(offset, len))), AREA).is_err(), "{offset} {len}");
        }
    }

    #[test]
    fn a_text_goes_behind_the_last_one_then_to_the_beginning_then_round_the_end() {
        let ring = small(8 * 4096);
        let check = |committed, len, expect| assert_eq!(place(ring, committed, len), expect, "{committed:?} {len}");
        check(None, 100, Some(4096));
        check(Some(slot(512, 921)), 5000, Some(4096));
        check(Some(slot(4096, 4096)), 100, Some(8192));
        check(Some(slot(6 * 4096, 5000)), 4096, Some(4096));
        check(Some(slot(3 * 4096, 4096)), 5 * 4096, Some(4 * 4096));
        check(Some(slot(3 * 4096, 4096)), 7 * 4096, None);
        check(Some(slot(3 * 4096, 4096 - 100)), 7 * 4096 - 512, Some(4 * 4096));
        check(Some(slot(3 * 4096, 4096 - 600)), 7 * 4096, Some(4 * 4096 - 512));
        check(Some(slot(512, 7 * 4096)), 4096, None);
        check(Some(slot(7 * 4096, 8192)), 8192, Some(2 * 4096));
    }

    /// Goal: a new text never touches the committed one, and texts up to a third of the ring always fit.
    /// Method: every length and offset of a small ring, each against the bytes it covers.
    #[test]
    fn no_new_text_touches_the_committed_one() {
        let ring = small(6 * 4096);
        let covered = |offset, len| {
            let parts = parts(ring, offset, len);
            parts
                .into_iter()
                .flat_map(|part| part.at.0 / 256..(part.at.0 + part.len.0).div_ceil(256))
                .collect::<Vec<_>>()
        };
        for offset in (512..ring.len.0).step_by(512) {
            for len in (256..ring.len.0 - 512).step_by(1024) {
                for new_len in (256..ring.len.0 - 512).step_by(1024) {
                    let Some(start) = place(ring, Some(slot(offset, len)), new_len) else { continue };
                    let old = covered(offset, len);
                    assert!(
                        covered(start, new_len).iter().all(|block| !old.contains(block)),
                        "{offset} {len} {new_len}"
                    );
                }
            }
        }
    }

    /// A20: goal: beside a text as long as any may grow, another one finds blocks of its own, and beside one as long as
    /// any may be committed another one finds a place: what makes room is never refused for want of it. Method: every
    /// offset of small rings and of the real one, texts at the limits and just below.
    #[test]
    fn beside_the_longest_text_another_one_always_fits() {
        for area in [small(8 * 4096), small(9 * 4096 + 512), small(16 * 4096), AREA] {
            for offset in (HEADER_LEN..area.len.0).step_by(512) {
                let (grown, longest) = (growth_max(area), text_max(area));
                for less in [0, 1, 511, 513, 4095, 4097] {
                    let (old, new) = (slot(offset, grown - less), grown);
                    let start = place(area, Some(old), new);
                    let own = start.is_some_and(|start| apart_by_blocks(area, start, new, old));
                    assert!(own, "{new} beside {old:?} of {area:?}: {start:?}");
                    let old = slot(offset, longest - less);
                    assert!(place(area, Some(old), longest).is_some(), "{longest} beside {old:?} of {area:?}");
                }
            }
        }
    }

    /// No block of 4096 bytes behind the header's is touched by both.
    fn apart_by_blocks(area: Area, start: u64, len: u64, old: Slot) -> bool {
        let blocks = |offset, len| {
            let parts = parts(area, offset, len).into_iter();
            let all = parts
                .flat_map(|part| (part.at.0 - area.at.0) / GRAIN..(part.at.0 + part.len.0 - area.at.0).div_ceil(GRAIN));
            all.filter(|block| *block > 0).collect::<Vec<_>>()
        };
        let old = blocks(old.offset, old.len);
        blocks(start, len).iter().all(|block| !old.contains(block))
    }
}
