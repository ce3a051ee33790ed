//! Reading and committing metadata on a disk: the label, the area's header, the text.
//!
//! A commit is three steps, each awaited: the new text into free space of the ring, a flush, the header (one sector,
//! FUA) that names it. A power cut leaves the old header and the old text, or the new header and the new text.

use super::checksum::checksum;
use super::error::{Damage, VolumeError};
use super::label::{self, Area, Label};
use super::mda::{self, Committed, HEADER_LEN, Slot};
use super::text::TEXT_MAX_BYTES;
use crate::{DeviceError, Disk, Durability, IoBuf};
use units::sabotage::{Bug, planted};
use units::{ByteLen, ByteOffset};

/// The metadata area of an opened group.
#[derive(Clone, Copy, Debug)]
pub struct MetadataArea {
    /// Where it is.
    pub area: Area,
    /// The text the header names.
    pub committed: Slot,
}

/// Reads the label.
///
/// # Errors
/// [`VolumeError::NoGroup`] if there is none, [`VolumeError::Damaged`] if it is not sound.
pub async fn read_label(disk: &Disk) -> Result<Label, VolumeError> {
    let head = ByteLen(label::SCAN_BYTES as u64);
    if disk.geometry().size < head {
        return Err(VolumeError::NoGroup);
    }
    let head = read_range(disk, Area { at: ByteOffset(0), len: head }).await?;
    label::decode(&head)?.ok_or(VolumeError::NoGroup)
}

/// Reads the committed text of the area: its place and its bytes.
///
/// # Errors
/// [`VolumeError::NoGroup`] if there is none, [`VolumeError::Damaged`] if it is not sound.
pub async fn read_text(disk: &Disk, area: Area) -> Result<(MetadataArea, Vec<u8>), VolumeError> {
    let header = read_range(disk, Area { at: area.at, len: ByteLen(HEADER_LEN) }).await?;
    let header = header.as_slice().try_into().expect("as long as asked for");
    let slot = match mda::decode(header, area)? {
        Committed::Text(slot) => slot,
        Committed::Nothing => return Err(VolumeError::NoGroup),
        Committed::Ignored => return Err(VolumeError::Unsupported("the metadata area is set to be ignored".into())),
    };
    if slot.len > TEXT_MAX_BYTES as u64 {
        return Err(damage(format!("it has {} bytes, more than any sound one", slot.len)).into());
    }
    let mut text = Vec::new();
    for part in mda::parts(area, slot.offset, slot.len) {
        text.extend_from_slice(&read_range(disk, part).await?);
    }
    let found = checksum(&text);
    if found != slot.checksum {
        return Err(damage(format!("its checksum is {:#010x}, its content has {found:#010x}", slot.checksum)).into());
    }
    Ok((MetadataArea { area, committed: slot }, text))
}

/// Commits `text`: see the module's doc. Returns where it is now.
///
/// # Errors
/// [`VolumeError::MetadataFull`] before anything is written; [`VolumeError::Device`] after which either text may be
/// the committed one.
pub async fn commit(disk: &Disk, area: Area, old: Option<Slot>, mut text: Vec<u8>) -> Result<Slot, VolumeError> {
    text.push(0);
    let len = text.len() as u64;
    let most = mda::text_max(area).min(TEXT_MAX_BYTES as u64);
    let full = VolumeError::MetadataFull { len: ByteLen(len), most: ByteLen(most) };
    if len > most {
        return Err(full);
    }
    let offset = mda::place(area, old, len).ok_or(full)?;
    let mut rest = text.as_slice();
    for part in mda::parts(area, offset, len) {
        let (now, later) = rest.split_at(usize::try_from(part.len.0).expect("a part of a text in memory"));
        write_range(disk, part.at, now, Durability::Cached).await?;
        rest = later;
    }
    if !(planted(Bug::LvmHeaderFirst) && old.is_some()) {
        disk.flush().await?;
    }
    let slot = Slot { offset, len, checksum: checksum(&text) };
    write_range(disk, area.at, &mda::encode(area, Some(slot)), Durability::Fua).await?;
    Ok(slot)
}

/// Reads any bytes, aligned or not.
pub async fn read_range(disk: &Disk, range: Area) -> Result<Vec<u8>, DeviceError> {
    let (start, whole) = around(disk, range.at, range.len);
    let read = disk.read(start, IoBuf::new(usize::try_from(whole.0).expect("a metadata area fits memory"))).await?;
    let skip = usize::try_from((range.at - start).0).expect("less than a block");
    let len = usize::try_from(range.len.0).expect("a metadata area fits memory");
    Ok(read[skip..skip + len].to_vec())
}

/// Writes any bytes: what else is in the blocks they touch is read before and stays.
pub async fn write_range(disk: &Disk, at: ByteOffset, bytes: &[u8], how: Durability) -> Result<(), DeviceError> {
    let (start, whole) = around(disk, at, ByteLen::of(bytes));
    let skip = usize::try_from((at - start).0).expect("less than a block");
    let len = usize::try_from(whole.0).expect("a metadata area fits memory");
    let mut buf = if len == bytes.len() { IoBuf::new(len) } else { disk.read(start, IoBuf::new(len)).await? };
    buf[skip..skip + bytes.len()].copy_from_slice(bytes);
    disk.write(start, buf.freeze(), how).await
}

/// The blocks that hold a range.
fn around(disk: &Disk, at: ByteOffset, len: ByteLen) -> (ByteOffset, ByteLen) {
    let block = u64::from(disk.geometry().block_bytes);
    let start = ByteOffset(at.0 - at.0 % block);
    let end = (at + len).0.next_multiple_of(block);
    (start, ByteOffset(end) - start)
}

fn damage(what: impl Into<String>) -> Damage {
    Damage::new("the LVM2 text", what)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::testing::{Hand, MemDisk};

    const SMALL: Area = Area { at: ByteOffset(4096), len: ByteLen(8 * 4096) };

    /// Goal: a text round the end of the ring is read back, and the one before it is still whole when the header
    /// changes. Method: long texts in a small ring until some went round, the bytes of the last one looked at.
    #[test]
    fn texts_go_round_the_end_and_spare_the_last_one() {
        let (hand, memory) = (Hand::new(), MemDisk::new(ByteLen(64 * 4096)));
        let disk = memory.disk();
        let (mut last, mut rounds): (Option<(Slot, Vec<u8>)>, u32) = (None, 0);
        for len in [9000, 7000, 15_000, 15_600, 15_000, 15_600, 300, 15_600, 9000, 15_600, 15_600, 12_000] {
            let text = vec![b'a' + u8::try_from(len % 26).expect("below 26"); len];
            let old = last.as_ref().map(|(slot, _)| *slot);
            let slot = match hand.run(commit(&disk, SMALL, old, text.clone())) {
                Err(VolumeError::MetadataFull { .. }) => continue,
                answer => answer.expect("the disk works"),
            };
            rounds += u32::from(slot.offset + slot.len > SMALL.len.0);
            let (found, bytes) = hand.run(read_text(&disk, SMALL)).expect("sound");
            assert_eq!((found.committed, &bytes[..len]), (slot, &text[..]));
            if let Some((old, text)) = last {
                let parts = mda::parts(SMALL, old.offset, old.len).into_iter();
                let kept = parts.flat_map(|part| hand.run(read_range(&disk, part)).expect("readable"));
                assert!(kept.eq(text), "the text at {} was touched", old.offset);
            }
            last = Some((slot, bytes));
        }
        assert!(rounds > 0, "no text went round: the lengths test nothing");
    }

    #[test]
    fn a_text_longer_than_half_of_the_ring_is_refused_before_anything_is_written() {
        let (hand, memory) = (Hand::new(), MemDisk::new(ByteLen(64 * 4096)));
        let answer = hand.run(commit(&memory.disk(), SMALL, None, vec![b'x'; 4 * 4096]));
        let most = ByteLen(mda::text_max(SMALL));
        assert_eq!(answer, Err(VolumeError::MetadataFull { len: ByteLen(4 * 4096 + 1), most }));
        assert!(memory.log.borrow().is_empty());
    }
}
