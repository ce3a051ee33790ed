//! LVM2's identities and names, and how ours fit into them.
//!
//! An LVM2 id is 32 characters of `A-Z a-z 0-9 ! #`, shown in groups of 6-4-4-4-4-4-6
//! (source: lvm2 `lib/uuid/uuid.h`, `lib/uuid/uuid.c`). Ours are the 32 lower-case hexadecimal digits of a
//! [`VolumeId`]. A volume made by stock LVM keeps its own id on disk; its [`VolumeId`] is derived from that text, the
//! same on every machine: FNV-1a with 128 bits over the 32 characters.

use std::fmt;
use std::str::FromStr;
use units::VolumeId;

/// How many characters an LVM2 id has.
pub const ID_CHARS: usize = 32;

/// Lengths of the groups of an id in text. Source: lvm2 `lib/uuid/uuid.c`, `id_write_format`.
const GROUPS: [usize; 7] = [6, 4, 4, 4, 4, 4, 6];

/// FNV-1a's constants for 128 bits. Source: RFC 9923, sections 2 and 5 (offset basis and prime).
const FNV_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = (1 << 88) + 0x13b;

/// The id of a physical volume, a volume group or a logical volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LvmId([u8; ID_CHARS]);

impl LvmId {
    /// The id whose text is the hexadecimal digits of `bytes`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut chars = [0; ID_CHARS];
        for (pair, byte) in chars.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        Self(chars)
    }

    /// The id in the 32 bytes of a label, or `None` if a character is not allowed.
    #[must_use]
    pub fn from_chars(chars: [u8; ID_CHARS]) -> Option<Self> {
        chars.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'!' | b'#')).then_some(Self(chars))
    }

    /// The 32 characters without hyphens, as the label holds them.
    #[must_use]
    pub fn chars(&self) -> &[u8; ID_CHARS] {
        &self.0
    }

    /// The volume this names: its own digits, or derived from them (see the module's doc).
    #[must_use]
    pub fn volume_id(&self) -> VolumeId {
        let lower_hex = self.0.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        match self.plain().parse() {
            Ok(id) if lower_hex => id,
            _ => VolumeId(self.0.iter().fold(FNV_BASIS, fnv_step).to_be_bytes()),
        }
    }

    fn plain(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked to be ASCII when it was made")
    }
}

fn fnv_step(hash: u128, byte: &u8) -> u128 {
    (hash ^ u128::from(*byte)).wrapping_mul(FNV_PRIME)
}

impl From<VolumeId> for LvmId {
    fn from(id: VolumeId) -> Self {
        Self::from_bytes(&id.0)
    }
}

impl fmt::Display for LvmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.plain();
        for (index, len) in GROUPS.into_iter().enumerate() {
            let (group, after) = rest.split_at(len);
            write!(f, "{}{group}", if index == 0 { "" } else { "-" })?;
            rest = after;
        }
        Ok(())
    }
}

impl fmt::Debug for LvmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LvmId({self})")
    }
}

/// A text that is not an LVM2 id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 characters of A-Z a-z 0-9 ! # in groups of 6-4-4-4-4-4-6")]
pub struct NotAnId;

impl FromStr for LvmId {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let groups: Vec<&str> = text.split('-').collect();
        if !groups.iter().map(|group| group.len()).eq(GROUPS) {
            return Err(NotAnId);
        }
        let chars: [u8; ID_CHARS] = groups.concat().into_bytes().try_into().map_err(|_| NotAnId)?;
        Self::from_chars(chars).ok_or(NotAnId)
    }
}

/// What LVM2 keeps for its own sub-volumes. Source: the prefixes and parts that `lvcreate -n` of lvm2 2.03.16 refuses
/// ("Names starting … are reserved", "Names including … are reserved").
const RESERVED_PREFIXES: [&str; 2] = ["snapshot", "pvmove"];
const RESERVED_PARTS: [&str; 20] = [
    "_cdata",
    "_cmeta",
    "_corig",
    "_cpool",
    "_cvol",
    "_imeta",
    "_iorig",
    "_mimage",
    "_mlog",
    "_pmspare",
    "_rimage",
    "_rmeta",
    "_tdata",
    "_tmeta",
    "_vdata",
    "_vorigin",
    "_wcorig",
    "_extracted",
    "_mimagetmp",
    "_edata",
];

/// The part of `name` that LVM2 reserves, if any.
#[must_use]
pub fn reserved_part(name: &str) -> Option<&'static str> {
    let prefix = RESERVED_PREFIXES.into_iter().find(|prefix| name.starts_with(prefix));
    prefix.or_else(|| RESERVED_PARTS.into_iter().find(|part| name.contains(part)))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn our_ids_are_hex_digits_in_groups_and_come_back() {
        let id = VolumeId([0xa1; 16]);
        let on_disk = LvmId::from(id);
        assert_eq!(on_disk.to_string(), "a1a1a1-a1a1-a1a1-a1a1-a1a1-a1a1-a1a1a1");
        assert_eq!(on_disk.to_string().parse(), Ok(on_disk));
        assert_eq!(on_disk.volume_id(), id);
    }

    /// Goal: a stock volume has the same `VolumeId` for ever. Method: a golden value.
    #[test]
    fn a_stock_id_is_derived_the_same_everywhere() {
        let stock: LvmId = "w01W1y-SP3R-OLeA-BVbG-iERY-Qri8-TtMxVi".parse().expect("made by pvcreate");
        assert_eq!(stock.volume_id().to_string(), "b75bca5d7b7269320bc876110b9fa801");
        let upper: LvmId = "A1A1A1-A1A1-A1A1-A1A1-A1A1-A1A1-A1A1A1".parse().expect("legal characters");
        assert_ne!(upper.volume_id(), VolumeId([0xa1; 16]), "upper case is another id on disk");
    }

    #[test]
    fn texts_that_are_no_ids_are_refused() {
        for bad in [
            "",
            "-",
            "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1",
            "a1a1a1-a1a1-a1a1-a1a1-a1a1-a1a1-a1a1a",
            "a1a1a1-a1a1-a1a1-a1a1-a1a1-a1a1-a1a1a_",
            "a1a1a1-a1a1-a1a1-a1a1-a1a1-a1a1-a1a1ä",
        ] {
            assert!(bad.parse::<LvmId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_sub_volumes_are_reserved() {
        for (name, part) in
            [("snapshot1", "snapshot"), ("pvmove0", "pvmove"), ("a_mimage_0", "_mimage"), ("x_tdata", "_tdata")]
        {
            assert_eq!(reserved_part(name), Some(part), "{name}");
        }
        for name in ["web-1_b.c", "my-snapshot", "tdata", "a_pvmove"] {
            assert_eq!(reserved_part(name), None, "{name}");
        }
    }
}
