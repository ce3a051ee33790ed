//! The label of a physical volume: one sector that says "this is LVM2", whose it is, and where its areas are.
//!
//! Layout (docs/formats/lvm2.md has the table; source: lvm2 `lib/label/label.h`, `lib/format_text/layout.h`, and
//! `pvck --dump headers`). All numbers are little-endian. Bytes come from a disk: nothing here panics on any of them.

use super::checksum::checksum;
use super::error::Damage;
use super::ident::{ID_CHARS, LvmId};
use units::{ByteLen, ByteOffset, SECTOR_BYTES};

/// The label is in one of the first four sectors. Source: lvm2 `lib/label/label.h`, `LABEL_SCAN_SECTORS`.
pub const SCAN_BYTES: usize = 4 * SECTOR;
/// `pv_header_extension.flags`: the volume belongs to a group. Source: lvm2 `PV_EXT_USED`.
pub const EXTENSION_USED: u32 = 1;
/// The version of the extension that has [`EXTENSION_USED`]. Source: lvm2 `PV_HEADER_EXTENSION_VSN`.
pub const EXTENSION_VERSION: u32 = 2;

const SECTOR: usize = 512;
const MAGIC: &[u8; 8] = b"LABELONE";
const TYPE: &[u8; 8] = b"LVM2 001";
/// Where the label's checksum begins to count: after itself and what is before it.
const CHECKED_FROM: usize = 20;
const HEADER_LEN: usize = 32;

/// A range on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Where it begins.
    pub at: ByteOffset,
    /// How long it is; 0 of a data area is "to the end".
    pub len: ByteLen,
}

/// What follows the areas since lvm2 2.02.99.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// 1 or 2.
    pub version: u32,
    /// [`EXTENSION_USED`] and what later versions add.
    pub flags: u32,
    /// Areas left to boot loaders.
    pub boot_areas: Vec<Area>,
}

/// A physical volume's label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The sector it stands in, 0 to 3. Stock tools and muskox write 1.
    pub sector: u64,
    /// Whose it is.
    pub id: LvmId,
    /// How long the device was when the label was written.
    pub device_size: ByteLen,
    /// Where extents are: one area that begins at `pe_start`.
    pub data_areas: Vec<Area>,
    /// Where the metadata is: up to two areas, or none.
    pub metadata_areas: Vec<Area>,
    /// Missing on very old volumes.
    pub extension: Option<Extension>,
}

/// The label in the first [`SCAN_BYTES`] of a device, `None` if no sector claims to be one.
///
/// # Errors
/// [`Damage`] if a sector claims to be a label and is not a sound one.
pub fn decode(head: &[u8]) -> Result<Option<Label>, Damage> {
    let mut sectors = head.chunks_exact(SECTOR).take(SCAN_BYTES / SECTOR).zip(0u64..);
    let Some((sector, index)) = sectors.find(|(sector, _)| sector.starts_with(MAGIC)) else { return Ok(None) };
    let mut input = sector;
    let header = take::<HEADER_LEN>(&mut input)?;
    let (stated, found) = (u32_at(&header, 16), checksum(&sector[CHECKED_FROM..]));
    if stated != found {
        return Err(damage(format!("its checksum is {stated:#010x}, its content has {found:#010x}")));
    }
    if u64_at(&header, 8) != index {
        return Err(damage(format!("it says sector {}, it stands in sector {index}", u64_at(&header, 8))));
    }
    if &header[24..32] != TYPE {
        return Err(damage("its type is not 'LVM2 001'"));
    }
    let start = usize::try_from(u32_at(&header, 20)).unwrap_or(usize::MAX);
    let body = sector.get(start..).filter(|_| start >= HEADER_LEN);
    decode_body(index, body.ok_or_else(|| damage("its content begins outside its sector"))?).map(Some)
}

fn decode_body(sector: u64, mut input: &[u8]) -> Result<Label, Damage> {
    let id =
        LvmId::from_chars(take::<ID_CHARS>(&mut input)?).ok_or_else(|| damage("its id has a strange character"))?;
    let device_size = ByteLen(u64::from_le_bytes(take(&mut input)?));
    let data_areas = areas(&mut input)?;
    let metadata_areas = areas(&mut input)?;
    // The rest is zeroes on volumes older than the extension, and may be cut off by the sector's end.
    let extension = match u32::from_le_bytes(take(&mut input).unwrap_or_default()) {
        0 => None,
        version => {
            let flags = u32::from_le_bytes(take(&mut input)?);
            Some(Extension { version, flags, boot_areas: areas(&mut input)? })
        }
    };
    Ok(Label { sector, id, device_size, data_areas, metadata_areas, extension })
}

/// The sector that holds `label`.
///
/// # Panics
/// If there are more areas than a sector holds: our own labels have two.
#[must_use]
pub fn encode(label: &Label) -> [u8; SECTOR] {
    let mut body = Vec::with_capacity(SECTOR);
    body.extend_from_slice(TYPE);
    body.extend_from_slice(label.id.chars());
    body.extend_from_slice(&label.device_size.0.to_le_bytes());
    put_areas(&mut body, &label.data_areas);
    put_areas(&mut body, &label.metadata_areas);
    if let Some(extension) = &label.extension {
        body.extend_from_slice(&extension.version.to_le_bytes());
        body.extend_from_slice(&extension.flags.to_le_bytes());
        put_areas(&mut body, &extension.boot_areas);
    }
    let mut sector = [0; SECTOR];
    let body_start = HEADER_LEN - TYPE.len();
    assert!(body_start + body.len() <= SECTOR, "a label fits its sector");
    sector[..8].copy_from_slice(MAGIC);
    sector[8..16].copy_from_slice(&label.sector.to_le_bytes());
    sector[20..24].copy_from_slice(&u32::try_from(HEADER_LEN).expect("32").to_le_bytes());
    sector[body_start..body_start + body.len()].copy_from_slice(&body);
    let sum = checksum(&sector[CHECKED_FROM..]);
    sector[16..20].copy_from_slice(&sum.to_le_bytes());
    sector
}

/// Areas up to the pair of zeroes that ends a list. The sector bounds their number.
fn areas(input: &mut &[u8]) -> Result<Vec<Area>, Damage> {
    let mut found = Vec::new();
    loop {
        let at = ByteOffset(u64::from_le_bytes(take(input)?));
        let len = ByteLen(u64::from_le_bytes(take(input)?));
        if at.0 == 0 {
            return Ok(found);
        }
        if !at.0.is_multiple_of(SECTOR_BYTES) || !len.0.is_multiple_of(SECTOR_BYTES) || at.checked_add(len).is_none() {
            return Err(damage(format!("an area at {at} of {len} cannot be")));
        }
        found.push(Area { at, len });
    }
}

fn put_areas(body: &mut Vec<u8>, areas: &[Area]) {
    let end = Area { at: ByteOffset(0), len: ByteLen(0) };
    for area in areas.iter().chain([&end]) {
        body.extend_from_slice(&area.at.0.to_le_bytes());
        body.extend_from_slice(&area.len.0.to_le_bytes());
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], Damage> {
    let (field, rest) = input.split_first_chunk::<N>().ok_or_else(|| damage("it runs past the end of its sector"))?;
    *input = rest;
    Ok(*field)
}

/// The number at `at` of a header whose length the caller knows.
fn u32_at(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(header: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"))
}

fn damage(what: impl Into<String>) -> Damage {
    Damage::new("the LVM2 label", what)
}

#[cfg(test)]
mod test {
    use super::*;

    fn example() -> Label {
        Label {
            sector: 1,
            id: "w01W1y-SP3R-OLeA-BVbG-iERY-Qri8-TtMxVi".parse().expect("an id"),
            device_size: ByteLen::mib(64),
            data_areas: vec![Area { at: ByteOffset(1 << 20), len: ByteLen(0) }],
            metadata_areas: vec![Area { at: ByteOffset(4096), len: ByteLen(1_044_480) }],
            extension: Some(Extension { version: 2, flags: EXTENSION_USED, boot_areas: Vec::new() }),
        }
    }

    fn disk_with(sector: &[u8; SECTOR], index: usize) -> Vec<u8> {
        let mut head = vec![0; SCAN_BYTES];
        head[index * SECTOR..][..SECTOR].copy_from_slice(sector);
        head
    }

    /// Goal: byte for byte what `pvcreate` writes. Method: the checksum lvm2 2.03.16 stored for this very label
    /// covers all of its bytes.
    #[test]
    fn a_label_is_what_pvcreate_wrote() {
        let sector = encode(&example());
        assert_eq!(&sector[16..20], &0xae4c_b576_u32.to_le_bytes());
        assert_eq!(decode(&disk_with(&sector, 1)), Ok(Some(example())));
    }

    #[test]
    fn no_label_is_no_error() {
        assert_eq!(decode(&[0; SCAN_BYTES]), Ok(None));
        assert_eq!(decode(&[]), Ok(None));
    }

    #[test]
    fn a_label_in_the_wrong_sector_or_with_any_byte_changed_is_refused() {
        let sector = encode(&example());
        assert!(decode(&disk_with(&sector, 2)).is_err());
        for at in 8..SECTOR {
            let mut broken = sector;
            broken[at] ^= 0x10;
            assert!(decode(&disk_with(&broken, 1)).is_err(), "byte {at}");
        }
    }

    /// Goal: no bytes make the decoder panic. Method: overwrite fields with extremes under a right checksum.
    #[test]
    fn hostile_fields_under_a_right_checksum_are_refused_or_read() {
        for at in (20..SECTOR - 8).step_by(4) {
            for value in [0, 1, 31, 33, 480, 511, 512, u64::from(u32::MAX), u64::MAX] {
                let mut sector = encode(&example());
                sector[at..at + 8].copy_from_slice(&value.to_le_bytes());
                let sum = checksum(&sector[CHECKED_FROM..]);
                sector[16..20].copy_from_slice(&sum.to_le_bytes());
                let _ = decode(&disk_with(&sector, 1));
            }
        }
        let mut full = [0xff; SECTOR];
        full[..24].copy_from_slice(&encode(&example())[..24]);
        let sum = checksum(&full[CHECKED_FROM..]);
        full[16..20].copy_from_slice(&sum.to_le_bytes());
        assert!(decode(&disk_with(&full, 1)).is_err());
    }
}
