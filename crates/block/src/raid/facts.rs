//! muskox's own facts, kept on every member in the gap before the data: the codec and the table of records.
//!
//! Two slots, A and B, are written alternately with a growing sequence number, each with a checksum over all of it: a
//! torn write leaves the other slot. Byte map: docs/formats/facts.md. A record is opaque but for its first eight bytes,
//! its epoch, and the eight behind, its change: among members the highest wins, so an epoch never goes back (I12), whatever stock md
//! did to the array in between. What a record means, this module does *not* know.

use super::layout::{FACTS_AT, FACTS_BYTES};
use std::collections::{BTreeMap, HashMap};
use units::{ArrayId, ByteOffset, VolumeId};

/// The longest record.
pub const RECORD_MAX_BYTES: usize = 512;
/// The most records: at their longest they fit a slot.
pub const RECORDS_MAX: usize = 900;
/// One of the two slots.
pub const SLOT_BYTES: usize = 512 << 10;

const MAGIC: [u8; 8] = *b"MUSKOXF\0";
const VERSION: u32 = 1;
/// Nobody writes that often; adding to it must not overflow.
pub const SEQUENCE_MAX: u64 = 1 << 62;
const HEADER_BYTES: usize = 128;
const RECORD_HEADER_BYTES: usize = 24;
const _: () = assert!(HEADER_BYTES + RECORDS_MAX * (RECORD_HEADER_BYTES + RECORD_MAX_BYTES) <= SLOT_BYTES);
const _: () = assert!(2 * SLOT_BYTES as u64 == FACTS_BYTES.0);

/// The records of all volumes: opaque bytes that begin with a little-endian epoch.
pub type Records = BTreeMap<VolumeId, Vec<u8>>;

/// What one slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Grows with every write; the higher of two sound slots is the newer.
    pub sequence: u64,
    /// Whose facts.
    pub array: ArrayId,
    /// The member's slot in the array.
    pub role: u16,
    /// The superblock's `events` before the update that these facts go with.
    pub events_before: u64,
    /// The superblock's `events` after it.
    pub events: u64,
    /// The volumes' records.
    pub records: Records,
}

/// Why a slot cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// Never written, or torn, or written by something else.
    #[error("no facts")]
    Absent,
    /// Written by a newer muskox.
    #[error("facts of version {0}, this muskox knows version 1: use the newer one")]
    Newer(u32),
}

/// The epoch a record begins with; `None` if it is too short to be a record.
#[must_use]
pub fn epoch_of(record: &[u8]) -> Option<u64> {
    record.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// What says which of two records of a volume is newer: the epoch, then the change, a little-endian number that follows
/// it (0 in a record without one). Not the sequence: a half of a split array may have written more often, and know less.
#[must_use]
pub fn rank_of(record: &[u8]) -> (u64, u64) {
    let change = record.get(8..).and_then(epoch_of).unwrap_or(0);
    (epoch_of(record).unwrap_or(0), change)
}

/// Where the slot of this sequence number lies on a member.
#[must_use]
pub fn slot_at(sequence: u64) -> ByteOffset {
    ByteOffset(FACTS_AT.0 + sequence % 2 * SLOT_BYTES as u64)
}

impl Facts {
    /// The bytes of a slot, a multiple of 4096.
    ///
    /// # Panics
    /// If a record or their count is past its bound: they are checked when they come in.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.records.len() <= RECORDS_MAX, "checked when a record is stored");
        let mut bytes = vec![0; HEADER_BYTES];
        for (volume, record) in &self.records {
            assert!(record.len() <= RECORD_MAX_BYTES, "checked when a record is stored");
            bytes.extend_from_slice(&volume.0);
            bytes.extend_from_slice(&u32::try_from(record.len()).expect("at most 512").to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(record);
        }
        let used = u32::try_from(bytes.len()).expect("within a slot");
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(16, &used.to_le_bytes());
        put(20, &u32::try_from(self.records.len()).expect("at most 900").to_le_bytes());
        put(24, &self.sequence.to_le_bytes());
        put(32, &self.array.0);
        put(48, &self.role.to_le_bytes());
        put(56, &self.events_before.to_le_bytes());
        put(64, &self.events.to_le_bytes());
        let sum = crc32c::crc32c(&bytes);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes
    }

    /// Reads a slot.
    ///
    /// # Errors
    /// [`FactsError`]; hostile bytes are never more than that.
    pub fn decode(bytes: &[u8]) -> Result<Self, FactsError> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(FactsError::Absent)?;
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("fixed places"));
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("fixed places"));
        let used = u32_at(16) as usize;
        if header[..8] != MAGIC || used < HEADER_BYTES || used > bytes.len().min(SLOT_BYTES) {
            return Err(FactsError::Absent);
        }
        let rest = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &[0; 4]);
        if crc32c::crc32c_append(rest, &bytes[16..used]) != u32_at(12) {
            return Err(FactsError::Absent);
        }
        if u32_at(8) != VERSION {
            return Err(FactsError::Newer(u32_at(8)));
        }
        if u64_at(24) > SEQUENCE_MAX {
            return Err(FactsError::Absent);
        }
        let records = decode_records(&bytes[HEADER_BYTES..used], u32_at(20)).ok_or(FactsError::Absent)?;
        Ok(Self {
            sequence: u64_at(24),
            array: ArrayId(header[32..48].try_into().expect("fixed places")),
            role: u16::from_le_bytes([header[48], header[49]]),
            events_before: u64_at(56),
            events: u64_at(64),
            records,
        })
    }

    /// The newer of two slots, `area` being all of the facts area.
    ///
    /// # Errors
    /// [`FactsError::Newer`] if either says so: an older muskox must not go on with the older slot.
    pub fn newest(area: &[u8]) -> Result<Self, FactsError> {
        let slot = |index: usize| {
            Self::decode(area.get(index * SLOT_BYTES..).map_or(&[][..], |rest| &rest[..rest.len().min(SLOT_BYTES)]))
        };
        match (slot(0), slot(1)) {
            (Err(newer @ FactsError::Newer(_)), _) | (_, Err(newer @ FactsError::Newer(_))) => Err(newer),
            (Ok(a), Ok(b)) => Ok(if a.sequence > b.sequence { a } else { b }),
            (Ok(only), Err(_)) | (Err(_), Ok(only)) => Ok(only),
            (Err(FactsError::Absent), Err(FactsError::Absent)) => Err(FactsError::Absent),
        }
    }
}

fn decode_records(mut bytes: &[u8], count: u32) -> Option<Records> {
    let mut records = Records::new();
    for _ in 0..usize::try_from(count).ok().filter(|&count| count <= RECORDS_MAX)? {
        let (header, rest) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let len = u32::from_le_bytes(header[16..20].try_into().expect("fixed places")) as usize;
        let (record, rest) = rest.split_at_checked(len).filter(|_| (8..=RECORD_MAX_BYTES).contains(&len))?;
        records.insert(VolumeId(header[..16].try_into().expect("fixed places")), record.to_vec());
        bytes = rest;
    }
    bytes.is_empty().then_some(records)
}

/// What members say of each volume, each content once.
#[must_use]
pub fn each(members: &[Facts]) -> HashMap<VolumeId, Vec<Vec<u8>>> {
    let mut all: HashMap<VolumeId, Vec<Vec<u8>>> = HashMap::new();
    for (volume, record) in members.iter().flat_map(|facts| &facts.records) {
        let of_volume = all.entry(*volume).or_default();
        if !of_volume.contains(record) {
            of_volume.push(record.clone());
        }
    }
    all
}

/// What all members say together: per volume the highest epoch wins, then the highest change, then the higher sequence.
#[must_use]
pub fn merge(mut members: Vec<Facts>) -> Records {
    members.sort_by_key(|facts| facts.sequence);
    let mut merged = Records::new();
    for (volume, record) in members.into_iter().flat_map(|facts| facts.records) {
        let older = merged.get(&volume).is_some_and(|held: &Vec<u8>| rank_of(held) > rank_of(&record));
        if !older {
            merged.insert(volume, record);
        }
    }
    merged
}

#[cfg(test)]
mod test {
    use super::*;

    fn record(epoch: u64, mark: u8) -> Vec<u8> {
        [&epoch.to_le_bytes()[..], &[mark; 100]].concat()
    }

    fn facts(sequence: u64, records: &[(u8, Vec<u8>)]) -> Facts {
        let records = records.iter().map(|(volume, record)| (VolumeId([*volume; 16]), record.clone())).collect();
        Facts { sequence, array: ArrayId([1; 16]), role: 1, events_before: 4, events: 5, records }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for facts in [facts(1, &[]), facts(7, &[(1, record(3, 1)), (2, vec![9; RECORD_MAX_BYTES])])] {
            assert_eq!(Facts::decode(&facts.encode()), Ok(facts));
        }
        let mut full = facts(1, &[]);
        for n in 0..u16::try_from(RECORDS_MAX).unwrap() {
            let mut id = [0; 16];
            id[..2].copy_from_slice(&n.to_le_bytes());
            full.records.insert(VolumeId(id), vec![1; RECORD_MAX_BYTES]);
        }
        assert_eq!(Facts::decode(&full.encode()), Ok(full));
    }

    /// Goal: a cut anywhere leaves the old facts or the new ones. Method: tear the newer slot at every 512 bytes.
    #[test]
    fn a_torn_slot_leaves_the_older_one() {
        let (old, new) = (facts(2, &[(1, record(3, 1))]), facts(3, &[(1, record(4, 2)), (2, vec![5; 512])]));
        let mut area = vec![0; 2 * SLOT_BYTES];
        area[..old.encode().len()].copy_from_slice(&old.encode());
        let bytes = new.encode();
        for cut in (0..=bytes.len()).step_by(512) {
            let mut torn = area.clone();
            torn[SLOT_BYTES..SLOT_BYTES + cut].copy_from_slice(&bytes[..cut]);
            let found = Facts::newest(&torn).unwrap();
            assert_eq!(found, if cut >= 1024 { new.clone() } else { old.clone() }, "cut at {cut}");
        }
        assert_eq!(Facts::newest(&[]), Err(FactsError::Absent));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let good = facts(3, &[(1, record(4, 2))]);
        let bytes = good.encode();
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0x41;
            let unharmed = Facts::decode(&broken).is_ok();
            assert_eq!(unharmed, at >= HEADER_BYTES + RECORD_HEADER_BYTES + 108, "byte {at}");
        }
        for len in 0..300 {
            assert!(Facts::decode(&bytes[..len]).is_ok() == (len >= HEADER_BYTES + RECORD_HEADER_BYTES + 108));
        }
    }

    /// Goal: the next write's sequence does not wrap round to an older one. Method: the highest number of a sound slot.
    #[test]
    fn a_sequence_that_cannot_be_counted_on_is_no_fact() {
        assert_eq!(Facts::decode(&facts(u64::MAX, &[]).encode()), Err(FactsError::Absent));
        assert!(Facts::decode(&facts(SEQUENCE_MAX, &[]).encode()).is_ok());
    }

    #[test]
    fn the_highest_epoch_wins_over_members_and_sequences() {
        let one = facts(9, &[(1, record(3, 1)), (2, record(1, 1))]);
        let two = facts(4, &[(1, record(5, 2)), (3, record(1, 2))]);
        let merged = merge(vec![one.clone(), two.clone()]);
        assert_eq!(merged, merge(vec![two, one]));
        let found: Vec<_> = merged.values().map(|r| (epoch_of(r).unwrap(), r[8])).collect();
        assert_eq!(found, [(5, 2), (1, 1), (1, 2)]);
        let same = merge(vec![facts(2, &[(1, record(3, 2))]), facts(1, &[(1, record(3, 1))])]);
        assert_eq!(same[&VolumeId([1; 16])][8], 2, "of equal epochs the one written last");
    }

    #[test]
    fn a_newer_version_is_not_overwritten_unseen() {
        let mut bytes = facts(3, &[]).encode();
        bytes[8] = 2;
        bytes[12..16].fill(0);
        let sum = crc32c::crc32c(&bytes[..HEADER_BYTES]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Facts::newest(&bytes), Err(FactsError::Newer(2)));
    }
}
