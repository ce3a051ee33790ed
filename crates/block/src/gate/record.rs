//! The durable grant: who may use a volume, as bytes in the array's facts area (docs/formats/grant.md has the map).
//!
//! Invariant: one grant has exactly one byte form; bytes that are not that form of some grant are an error, never a
//! guess. The facts area keeps the bytes whole (checksum, copies); this module does *not* know where they lie.

use units::{Epoch, HostKey, Incarnation, Mode};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Owners of one volume: one for a VM's disk, the hosts of a small cluster for a shared one.
pub const OWNERS_MAX: usize = 8;
/// How long the byte form is, always.
pub const RECORD_BYTES: usize = size_of::<Raw>();
/// No volume is changed 2^62 times: a higher number is rot, and adding to it must not overflow.
const CHANGE_MAX: u64 = 1 << 62;
/// What is read is at most half of that, so that what is read can always be changed and stored.
const CHANGE_READ_MAX: u64 = CHANGE_MAX / 2;
const MAGIC: [u8; 4] = *b"MXGR";
const VERSION: u16 = 1;
const FLAG_SHARED: u8 = 1;
const FLAG_RESERVED: u8 = 2;
const RAW_RO: u8 = 1;
const RAW_RW: u8 = 2;

/// Who may use a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The volume's epoch; 0 means that it was never granted.
    pub epoch: Epoch,
    /// Grows with every change, so that of two records of one epoch the newer is known.
    pub change: u64,
    /// Whether several hosts may write at once: a cluster file system, never a VM's disk.
    pub shared: bool,
    /// By host key, each once, at most [`OWNERS_MAX`].
    pub owners: Vec<Owner>,
    /// A higher epoch promised to one host.
    pub reservation: Option<Reservation>,
}

/// One host that the current epoch was granted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its identity.
    pub host: HostKey,
    /// The most it may do.
    pub mode: Mode,
    /// The highest admitted in this epoch; 0 means none yet.
    pub incarnation: Incarnation,
}

/// An epoch that a compare-and-swap in the store promised to one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Higher than the grant's.
    pub epoch: Epoch,
    /// To whom.
    pub host: HostKey,
    /// The highest standby incarnation admitted; 0 means none yet.
    pub incarnation: Incarnation,
}

/// Why bytes are not a grant. The gate treats each as a member it cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Too short or without the magic.
    #[error("these {len} bytes are not a grant record")]
    NotAGrant {
        /// How many bytes there were.
        len: usize,
    },
    /// Written by a later muskox.
    #[error("the grant record has version {0}, this muskox reads version {VERSION}: use the later one")]
    Version(u16),
    /// A field holds what no muskox writes.
    #[error("the grant record is damaged: {0}")]
    Damaged(&'static str),
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    epoch: U64,
    change: U64,
    magic: [u8; 4],
    version: U16,
    flags: u8,
    owners: u8,
    reserved_epoch: U64,
    reserved_incarnation: U64,
    reserved_host: [u8; 32],
    owner: [RawOwner; OWNERS_MAX],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawOwner {
    host: [u8; 32],
    incarnation: U64,
    mode: u8,
    zero: [u8; 7],
}

impl Grant {
    /// The byte form.
    ///
    /// # Panics
    /// If the grant breaks a rule of [`Grant::check`]: such a grant must never reach a disk.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        self.check().expect("only grants that keep the rules are stored");
        let mut raw = Raw::new_zeroed();
        raw.epoch = U64::new(self.epoch.0);
        raw.change = U64::new(self.change);
        raw.magic = MAGIC;
        raw.version = U16::new(VERSION);
        raw.flags = if self.shared { FLAG_SHARED } else { 0 };
        raw.owners = u8::try_from(self.owners.len()).expect("at most OWNERS_MAX, checked above");
        if let Some(reservation) = self.reservation {
            raw.flags |= FLAG_RESERVED;
            raw.reserved_epoch = U64::new(reservation.epoch.0);
            raw.reserved_incarnation = U64::new(reservation.incarnation.0);
            raw.reserved_host = reservation.host.0;
        }
        for (slot, owner) in raw.owner.iter_mut().zip(&self.owners) {
            slot.host = owner.host.0;
            slot.incarnation = U64::new(owner.incarnation.0);
            slot.mode = if owner.mode == Mode::Rw { RAW_RW } else { RAW_RO };
        }
        let mut bytes = [0; RECORD_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// The grant in `bytes`, which may be padded with zeroes.
    ///
    /// # Errors
    /// [`RecordError`] for everything that [`Grant::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let not_a_grant = RecordError::NotAGrant { len: bytes.len() };
        let (raw, padding) = Raw::read_from_prefix(bytes).map_err(|_| not_a_grant)?;
        if raw.magic != MAGIC {
            return Err(not_a_grant);
        }
        if raw.version.get() != VERSION {
            return Err(RecordError::Version(raw.version.get()));
        }
        let grant = Self {
            epoch: Epoch(raw.epoch.get()),
            change: raw.change.get(),
            shared: raw.flags & FLAG_SHARED != 0,
            owners: decode_owners(&raw)?,
            reservation: (raw.flags & FLAG_RESERVED != 0).then(|| Reservation {
                epoch: Epoch(raw.reserved_epoch.get()),
                host: HostKey(raw.reserved_host),
                incarnation: Incarnation(raw.reserved_incarnation.get()),
            }),
        };
        grant.check()?;
        if grant.change > CHANGE_READ_MAX {
            return Err(RecordError::Damaged("impossibly many changes"));
        }
        if grant.encode() != raw.as_bytes() || padding.iter().any(|&byte| byte != 0) {
            return Err(RecordError::Damaged("a byte that must be zero is not"));
        }
        Ok(grant)
    }

    /// The newest of the records that the readable members hold, and how many of them are no grants.
    pub fn newest<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> (Option<Self>, usize) {
        let (good, bad): (Vec<_>, Vec<_>) = records.into_iter().map(Self::decode).partition(Result::is_ok);
        let newest = good.into_iter().flatten().max_by_key(|grant| (grant.epoch, grant.change));
        (newest, bad.len())
    }

    /// The rules of a grant: owners bounded, in order, each once, one writer unless shared; the reservation ahead.
    ///
    /// # Errors
    /// [`RecordError::Damaged`] naming the broken rule.
    pub fn check(&self) -> Result<(), RecordError> {
        let writers = self.owners.iter().filter(|owner| owner.mode == Mode::Rw).count();
        let rules = [
            (self.change <= CHANGE_MAX, "impossibly many changes"),
            (self.owners.len() <= OWNERS_MAX, "too many owners"),
            (self.owners.is_sorted_by(|a, b| a.host < b.host), "owners out of order"),
            (self.shared || writers <= 1, "two writers on a volume that is not shared"),
            (self.epoch.0 > 0 || self.owners.is_empty(), "owners of epoch 0"),
            (self.reservation.is_none_or(|r| r.epoch > self.epoch), "a reservation that is not ahead"),
        ];
        rules.iter().find(|(kept, _)| !kept).map_or(Ok(()), |(_, broken)| Err(RecordError::Damaged(broken)))
    }
}

fn decode_owners(raw: &Raw) -> Result<Vec<Owner>, RecordError> {
    let used = raw.owner.get(..usize::from(raw.owners)).ok_or(RecordError::Damaged("too many owners"))?;
    let owner = |slot: &RawOwner| {
        let mode = match slot.mode {
            RAW_RO => Mode::Ro,
            RAW_RW => Mode::Rw,
            _ => return Err(RecordError::Damaged("an unknown mode")),
        };
        Ok(Owner { host: HostKey(slot.host), mode, incarnation: Incarnation(slot.incarnation.get()) })
    };
    used.iter().map(owner).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn owner(key: u8, mode: Mode, incarnation: u64) -> Owner {
        Owner { host: HostKey([key; 32]), mode, incarnation: Incarnation(incarnation) }
    }

    fn samples() -> Vec<Grant> {
        let reservation =
            Some(Reservation { epoch: Epoch(9), host: HostKey([7; 32]), incarnation: Incarnation(u64::MAX) });
        let one = Grant { epoch: Epoch(7), change: 3, owners: vec![owner(1, Mode::Rw, 5)], ..Grant::default() };
        let full = (0..8).map(|key| owner(key, if key % 2 == 0 { Mode::Rw } else { Mode::Ro }, u64::from(key)));
        vec![
            Grant::default(),
            one.clone(),
            Grant { reservation, ..one.clone() },
            Grant { shared: true, owners: full.collect(), epoch: Epoch(u64::MAX), change: CHANGE_READ_MAX, ..one },
        ]
    }

    /// Goal: nothing is lost or reordered on disk. Method: round trip of each shape, padded as a facts slot is.
    #[test]
    fn a_grant_survives_its_byte_form() {
        for grant in samples() {
            let bytes = grant.encode();
            assert_eq!(Grant::decode(&bytes), Ok(grant.clone()));
            let mut slot = [0; 512];
            slot[..RECORD_BYTES].copy_from_slice(&bytes);
            assert_eq!(Grant::decode(&slot), Ok(grant.clone()));
            assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()), grant.epoch.0, "the epoch leads");
        }
    }

    /// Goal: docs/formats/grant.md is what is written. Method: the bytes of one grant, spelled out.
    #[test]
    fn the_byte_map_is_as_documented() {
        let bytes = samples()[2].encode();
        assert_eq!(bytes.len(), 456);
        let mut expect = vec![7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'M', b'X', b'G', b'R', 1, 0, 2, 1];
        expect.extend([9, 0, 0, 0, 0, 0, 0, 0]);
        expect.extend([255; 8]);
        expect.extend([7; 32]);
        expect.extend([1; 32]);
        expect.extend([5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        expect.resize(456, 0);
        assert_eq!(bytes.to_vec(), expect);
    }

    /// Goal: hostile bytes are an error or exactly one grant, never a panic. Method: every length, every byte changed
    /// to several values; what still decodes must encode to the very same bytes.
    #[test]
    fn hostile_bytes_are_an_error_or_exactly_one_grant() {
        for grant in samples() {
            let bytes = grant.encode();
            for len in 0..RECORD_BYTES {
                assert_eq!(Grant::decode(&bytes[..len]), Err(RecordError::NotAGrant { len }));
            }
            for at in 0..RECORD_BYTES {
                for value in [0, 1, 2, 3, 8, 9, 127, 128, 255, bytes[at] ^ 1] {
                    let mut hostile = bytes;
                    hostile[at] = value;
                    if let Ok(other) = Grant::decode(&hostile) {
                        assert_eq!(other.encode(), hostile);
                    }
                }
            }
        }
    }

    /// Goal: each rule is checked. Method: break one field of a good record.
    #[test]
    fn each_kind_of_damage_is_named() {
        let good = samples()[2].encode();
        let broken = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            Grant::decode(&bytes).unwrap_err()
        };
        assert_eq!(broken(16, b'x'), RecordError::NotAGrant { len: 456 });
        assert_eq!(broken(20, 2), RecordError::Version(2));
        assert_eq!(broken(15, 255), RecordError::Damaged("impossibly many changes"));
        assert_eq!(broken(22, 4 | 2), RecordError::Damaged("a byte that must be zero is not"));
        assert_eq!(broken(22, 0), RecordError::Damaged("a byte that must be zero is not"));
        assert_eq!(broken(23, 9), RecordError::Damaged("too many owners"));
        assert_eq!(broken(23, 2), RecordError::Damaged("an unknown mode"));
        assert_eq!(broken(24, 7), RecordError::Damaged("a reservation that is not ahead"));
        assert_eq!(broken(112, 3), RecordError::Damaged("an unknown mode"));
        assert_eq!(broken(0, 0), RecordError::Damaged("owners of epoch 0"));
        let twins = Grant { owners: vec![owner(1, Mode::Ro, 0); 2], epoch: Epoch(1), ..Grant::default() };
        assert_eq!(twins.check(), Err(RecordError::Damaged("owners out of order")));
        let rivals = vec![owner(1, Mode::Rw, 0), owner(2, Mode::Rw, 0)];
        let rivals = Grant { owners: rivals, epoch: Epoch(1), ..Grant::default() };
        assert_eq!(rivals.check(), Err(RecordError::Damaged("two writers on a volume that is not shared")));
    }

    /// Goal: a grant that was read can be changed and stored. Method: the highest change that is read.
    #[test]
    fn what_is_read_can_be_counted_on_from() {
        let mut grant = Grant { epoch: Epoch(1), change: CHANGE_MAX, ..Grant::default() };
        while Grant::decode(&raw_with_change(&grant)).is_err() {
            grant.change /= 2;
        }
        grant.change += 1 << 32;
        assert!(grant.check().is_ok(), "{} is not stored any more", grant.change);
    }

    fn raw_with_change(grant: &Grant) -> [u8; RECORD_BYTES] {
        let mut bytes = Grant { change: 1, ..grant.clone() }.encode();
        bytes[8..16].copy_from_slice(&grant.change.to_le_bytes());
        bytes
    }

    /// Goal: a stale member never wins, not even within one epoch. Method: records of several ages, one of them rot.
    #[test]
    fn the_newest_record_is_by_epoch_and_then_by_change() {
        let at = |epoch, change| Grant { epoch: Epoch(epoch), change, ..Grant::default() };
        let records = [at(7, 1).encode(), at(7, 2).encode(), at(6, 9).encode(), [0xff; RECORD_BYTES]];
        let (newest, bad) = Grant::newest(records.iter().map(<[u8; RECORD_BYTES]>::as_slice));
        assert_eq!((newest, bad), (Some(at(7, 2)), 1));
        assert_eq!(Grant::newest([]), (None, 0));
    }
}
