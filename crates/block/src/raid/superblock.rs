//! The md superblock version 1.2: bytes ↔ values, nothing else.
//!
//! Source of every offset and constant: `include/uapi/linux/raid/md_p.h`, `struct mdp_superblock_1`; the checksum is
//! mdadm's `calc_sb_1_csum` (super1.c). Everything is little-endian. Invariant: `decode(encode(x)) == x`, and no bytes
//! make `decode` panic or allocate more than the 1920 roles that fit the 4 KiB.
//!
//! With at most [`ROLES_KEPT`] device numbers all that is checksummed lies in the first 512 bytes, so a torn write leaves
//! either the old superblock or the new one.

use std::fmt::{self, Write as _};
use units::{ArrayId, ByteOffset, Sectors};

/// Where version 1.2 keeps its superblock, and its size.
pub const SUPERBLOCK_AT: ByteOffset = ByteOffset(4096);
/// What is read and written for a superblock.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// How many device numbers we write: 256 bytes of header and 2 × 128 are exactly one sector.
pub const ROLES_KEPT: usize = 128;
/// No array is updated 2^62 times: a higher count is rot, and counting on from it must not overflow.
const EVENTS_MAX: u64 = 1 << 62;
/// `resync_offset` of an array whose members are equal (md: `MaxSector`).
pub const CLEAN: u64 = u64::MAX;

const MAGIC: u32 = 0xa92b_4efc;
const HEADER_BYTES: usize = 256;
const ROLES_MAX: usize = (SUPERBLOCK_BYTES - HEADER_BYTES) / 2;
const NAME_BYTES: usize = 32;

/// `MD_FEATURE_BITMAP_OFFSET`: there is a write-intent bitmap at `bitmap_offset`.
pub const FEATURE_BITMAP: u32 = 1;
/// `MD_FEATURE_RECOVERY_OFFSET`: this member is only good below `recovery_offset`.
pub const FEATURE_RECOVERY: u32 = 2;
/// `MD_FEATURE_BAD_BLOCKS`: the bad block log names places of this member that hold nothing.
pub const FEATURE_BAD_BLOCKS: u32 = 8;
/// `MD_FEATURE_RECOVERY_BITMAP`: what it lacks above that is only what the bitmap says.
pub const FEATURE_RECOVERY_BITMAP: u32 = 128;
const FEATURES_KNOWN: u32 = FEATURE_BITMAP | FEATURE_RECOVERY | FEATURE_BAD_BLOCKS | FEATURE_RECOVERY_BITMAP;
/// The names md_p.h gives the bits we refuse.
const FEATURE_NAMES: [(u32, &str); 9] = [
    (4, "a reshape in progress"),
    (16, "a replacement in progress"),
    (32, "a backwards reshape"),
    (64, "a moving data offset"),
    (256, "a clustered bitmap"),
    (512, "a journal device"),
    (1024, "a partial parity log (PPL)"),
    (2048, "several partial parity logs (PPL)"),
    (4096, "a RAID 0 layout"),
];

/// What a device number is in the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sits in this slot.
    Active(u16),
    /// Unused, or a spare.
    Spare,
    /// Failed.
    Faulty,
}

/// An array's name as it stands on its members: 32 bytes in whatever encoding, zeroes behind it, often `host:name`.
/// They are kept as they are; people are shown what of it is UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArrayName([u8; NAME_BYTES]);

impl ArrayName {
    /// `None` if the text has more than 32 bytes.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; NAME_BYTES];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self(bytes))
    }
}

impl fmt::Display for ArrayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.split(|&byte| byte == 0).next().unwrap_or_default();
        f.write_str(&String::from_utf8_lossy(text))
    }
}

/// One member's superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Bits of `MD_FEATURE_*` that we know.
    pub features: u32,
    /// The array's identity.
    pub array: ArrayId,
    /// The array's name.
    pub name: ArrayName,
    /// Seconds since 1970, with microseconds in the top 24 bits.
    pub created: u64,
    /// The RAID level.
    pub level: i32,
    /// Layout of levels that have one.
    pub layout: u32,
    /// What each member gives to the array.
    pub size: Sectors,
    /// Chunk of levels that have one.
    pub chunk: u32,
    /// How many slots.
    pub slots: u32,
    /// Sectors from the superblock to the bitmap; negative is before it.
    pub bitmap_offset: i32,
    /// Bytes 100 to 127, which belong to a reshape: what an ended one left there.
    pub reshape: [u8; 28],
    /// Where data starts on this member.
    pub data_offset: Sectors,
    /// How much could be used on this member.
    pub data_size: Sectors,
    /// Sectors of data below which a recovering member is good.
    pub recovery_offset: u64,
    /// This member's number in `roles`.
    pub number: u32,
    /// Read errors corrected by writing again.
    pub corrected_reads: u32,
    /// This member's identity.
    pub device: [u8; 16],
    /// Bit 0 write-mostly, bit 1 failfast.
    pub flags: u8,
    /// Bad block log: block shift.
    pub bad_block_shift: u8,
    /// Bad block log: reserved sectors.
    pub bad_block_sectors: u16,
    /// Bad block log: sectors from the superblock.
    pub bad_block_offset: i32,
    /// When it was written, like `created`.
    pub updated: u64,
    /// Grows with every update.
    pub events: u64,
    /// Sectors below which the members are known to be equal; [`CLEAN`] for all.
    pub resync_offset: u64,
    /// The array's logical blocks in bytes, as Linux 6.19 keeps them; 0 if whoever wrote this knew nothing of it.
    pub block_bytes: u32,
    /// Indexed by device number.
    pub roles: Vec<Role>,
}

/// Why bytes are not a superblock we can work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// No magic number: no md member, as far as version 1.2 goes.
    #[error("no md superblock version 1.2")]
    Absent,
    /// The checksum is wrong: a torn or rotten superblock.
    #[error("the md superblock's checksum is {found:08x}, it should be {expected:08x}: it is damaged")]
    Checksum {
        /// What stands there.
        found: u32,
        /// What the bytes give.
        expected: u32,
    },
    /// A field that cannot be.
    #[error("the md superblock's {field} is {value}, which cannot be")]
    Field {
        /// Which one.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A feature or level that this version does not do.
    #[error("the md array uses {0}, which muskox does not do yet: use mdadm to finish or undo it")]
    Unsupported(String),
}

impl Role {
    fn decode(raw: u16) -> Self {
        match raw {
            0xfffe => Self::Faulty,
            slot if slot < 0xff00 => Self::Active(slot),
            _ => Self::Spare,
        }
    }

    fn encode(self) -> u16 {
        match self {
            Self::Active(slot) => slot,
            Self::Spare => 0xffff,
            Self::Faulty => 0xfffe,
        }
    }
}

impl Superblock {
    /// The role of this very member.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role_of(self.number)
    }

    /// The role this superblock gives to a device number.
    #[must_use]
    pub fn role_of(&self, number: u32) -> Role {
        usize::try_from(number).ok().and_then(|number| self.roles.get(number)).copied().unwrap_or(Role::Spare)
    }

    /// Whether a feature bit is set.
    #[must_use]
    pub fn has(&self, feature: u32) -> bool {
        self.features & feature != 0
    }

    /// The 4 KiB to write at [`SUPERBLOCK_AT`].
    ///
    /// # Panics
    /// If the roles do not fit: whoever made the value checked them.
    #[must_use]
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        assert!(self.roles.len() <= ROLES_MAX, "checked where the array was made");
        let mut bytes = [0; SUPERBLOCK_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_le_bytes());
        put(4, &1u32.to_le_bytes());
        put(8, &self.features.to_le_bytes());
        put(16, &self.array.0);
        put(32, &self.name.0);
        put(64, &self.created.to_le_bytes());
        put(72, &self.level.to_le_bytes());
        put(76, &self.layout.to_le_bytes());
        put(80, &self.size.0.to_le_bytes());
        put(88, &self.chunk.to_le_bytes());
        put(92, &self.slots.to_le_bytes());
        put(96, &self.bitmap_offset.to_le_bytes());
        put(100, &self.reshape);
        put(128, &self.data_offset.0.to_le_bytes());
        put(136, &self.data_size.0.to_le_bytes());
        put(144, &(SUPERBLOCK_AT.0 / 512).to_le_bytes());
        put(152, &self.recovery_offset.to_le_bytes());
        put(160, &self.number.to_le_bytes());
        put(164, &self.corrected_reads.to_le_bytes());
        put(168, &self.device);
        put(184, &[self.flags, self.bad_block_shift]);
        put(186, &self.bad_block_sectors.to_le_bytes());
        put(188, &self.bad_block_offset.to_le_bytes());
        put(192, &self.updated.to_le_bytes());
        put(200, &self.events.to_le_bytes());
        put(208, &self.resync_offset.to_le_bytes());
        put(220, &u32::try_from(self.roles.len()).expect("at most ROLES_MAX").to_le_bytes());
        put(224, &self.block_bytes.to_le_bytes());
        for (number, role) in self.roles.iter().enumerate() {
            put(HEADER_BYTES + 2 * number, &role.encode().to_le_bytes());
        }
        let sum = checksum(&bytes[..HEADER_BYTES + 2 * self.roles.len()]);
        bytes[216..220].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads what stands at [`SUPERBLOCK_AT`].
    ///
    /// # Errors
    /// [`SuperblockError`] says what is wrong with it.
    pub fn decode(bytes: &[u8; SUPERBLOCK_BYTES]) -> Result<Self, SuperblockError> {
        let field = Fields(bytes);
        if field.u32(0) != MAGIC || field.u32(4) != 1 {
            return Err(SuperblockError::Absent);
        }
        let bad = |field, value| Err(SuperblockError::Field { field, value });
        let roles = usize::try_from(field.u32(220)).expect("32 bits fit");
        if roles > ROLES_MAX {
            return bad("max_dev", roles as u64);
        }
        let (found, expected) = (field.u32(216), checksum(&bytes[..HEADER_BYTES + 2 * roles]));
        if found != expected {
            return Err(SuperblockError::Checksum { found, expected });
        }
        refuse_unknown(field.u32(8))?;
        field.refuse_new(roles)?;
        if field.u64(144) != SUPERBLOCK_AT.0 / 512 {
            return bad("super_offset", field.u64(144));
        }
        let superblock = field.superblock(roles);
        superblock.check_ranges()?;
        Ok(superblock)
    }

    /// Which array bytes at [`SUPERBLOCK_AT`] speak of, and its name, even if they cannot be used otherwise: for people.
    #[must_use]
    pub fn claims(bytes: &[u8; SUPERBLOCK_BYTES]) -> Option<(ArrayId, String)> {
        let field = Fields(bytes);
        let name: [u8; NAME_BYTES] = field.array(32);
        let name = String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned();
        (field.u32(0) == MAGIC && field.u32(4) == 1).then(|| (ArrayId(field.array(16)), name))
    }

    fn check_ranges(&self) -> Result<(), SuperblockError> {
        // Past 2^62 sectors nothing is a device, and sums below cannot overflow.
        const SECTORS_MAX: u64 = 1 << 54;
        let bad = |field, value| Err(SuperblockError::Field { field, value });
        for (field, value) in
            [("size", self.size.0), ("data_offset", self.data_offset.0), ("data_size", self.data_size.0)]
        {
            if value > SECTORS_MAX {
                return bad(field, value);
            }
        }
        // Counting on from here must not overflow.
        if self.events > EVENTS_MAX {
            return bad("events", self.events);
        }
        if !matches!(self.block_bytes, 0 | 512 | 4096) {
            return Err(SuperblockError::Unsupported(format!("blocks of {} bytes", self.block_bytes)));
        }
        match self {
            // Their members need not be of one size, so nothing stands there.
            Self { level: 0, .. } => Err(SuperblockError::Unsupported("RAID 0".to_owned())),
            Self { level: -1, .. } => Err(SuperblockError::Unsupported("the linear level".to_owned())),
            Self { slots: 0, .. } => bad("raid_disks", 0),
            Self { slots, .. } if *slots as usize > ROLES_MAX => bad("raid_disks", u64::from(*slots)),
            Self { number, roles, .. } if *number as usize >= roles.len() => bad("dev_number", u64::from(*number)),
            Self { events, .. } if *events > EVENTS_MAX => bad("events", *events),
            Self { size: Sectors(0), .. } => bad("size", 0),
            Self { size, data_size, .. } if size > data_size => bad("data_size", data_size.0),
            Self { data_offset: Sectors(offset @ ..16), .. } => bad("data_offset", *offset),
            _ => Ok(()),
        }
    }
}

fn refuse_unknown(features: u32) -> Result<(), SuperblockError> {
    let unknown = features & !FEATURES_KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let mut text = String::new();
    for (bit, name) in FEATURE_NAMES {
        if unknown & bit != 0 {
            write!(text, "{}{name}", if text.is_empty() { "" } else { ", " }).expect("a String takes all");
        }
    }
    let named = FEATURE_NAMES.iter().fold(0, |all, (bit, _)| all | bit);
    if unknown & !named != 0 {
        let comma = if text.is_empty() { "" } else { ", " };
        write!(text, "{comma}unknown features {:#x}", unknown & !named).expect("a String takes all");
    }
    Err(SuperblockError::Unsupported(text))
}

/// The 32-bit little-endian words with the checksum's own as zero, added in 64 bits, both halves added.
fn checksum(bytes: &[u8]) -> u32 {
    let mut sum: u64 = 0;
    for (index, word) in bytes.chunks(4).enumerate() {
        if index != 216 / 4 {
            let mut whole = [0; 4];
            whole[..word.len()].copy_from_slice(word);
            sum += u64::from(u32::from_le_bytes(whole));
        }
    }
    let low = u32::try_from(sum & 0xffff_ffff).expect("masked");
    low.wrapping_add(u32::try_from(sum >> 32).expect("a sum of a thousand words"))
}

/// Little-endian fields at known places.
struct Fields<'a>(&'a [u8; SUPERBLOCK_BYTES]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("a fixed place within 4 KiB")
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    /// What a newer md may have put where there was nothing: writing over it would undo what it means. Linux 6.19 refuses
    /// the same bytes (drivers/md/md.c, `super_1_load`: "Some padding is non-zero").
    fn refuse_new(&self, roles: usize) -> Result<(), SuperblockError> {
        for range in [12..16, 228..HEADER_BYTES] {
            if self.0[range.clone()].iter().any(|&byte| byte != 0) {
                let what = format!("something new in bytes {} to {} of its superblock", range.start, range.end - 1);
                return Err(SuperblockError::Unsupported(what));
            }
        }
        match (0..roles).map(|number| self.u16(HEADER_BYTES + 2 * number)).find(|role| (0xff00..0xfffe).contains(role))
        {
            Some(0xfffd) => Err(SuperblockError::Unsupported("a journal device".into())),
            Some(role) => Err(SuperblockError::Unsupported(format!("the unknown role {role:#06x}"))),
            None => Ok(()),
        }
    }

    fn superblock(&self, roles: usize) -> Superblock {
        Superblock {
            features: self.u32(8),
            array: ArrayId(self.array(16)),
            name: ArrayName(self.array(32)),
            created: self.u64(64),
            level: i32::from_le_bytes(self.array(72)),
            layout: self.u32(76),
            size: Sectors(self.u64(80)),
            chunk: self.u32(88),
            slots: self.u32(92),
            bitmap_offset: i32::from_le_bytes(self.array(96)),
            reshape: self.array(100),
            data_offset: Sectors(self.u64(128)),
            data_size: Sectors(self.u64(136)),
            recovery_offset: self.u64(152),
            number: self.u32(160),
            corrected_reads: self.u32(164),
            device: self.array(168),
            flags: self.0[184],
            bad_block_shift: self.0[185],
            bad_block_sectors: self.u16(186),
            bad_block_offset: i32::from_le_bytes(self.array(188)),
            updated: self.u64(192),
            events: self.u64(200),
            resync_offset: self.u64(208),
            block_bytes: self.u32(224),
            roles: (0..roles).map(|number| Role::decode(self.u16(HEADER_BYTES + 2 * number))).collect(),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn sample() -> Superblock {
        let mut roles = vec![Role::Spare; ROLES_KEPT];
        roles[0] = Role::Active(0);
        roles[1] = Role::Faulty;
        roles[2] = Role::Active(1);
        Superblock {
            features: FEATURE_BITMAP | FEATURE_RECOVERY,
            array: ArrayId([7; 16]),
            name: ArrayName::new("box:pool").unwrap(),
            created: 1_700_000_000,
            level: 1,
            layout: 0,
            size: Sectors(40_960),
            chunk: 0,
            slots: 2,
            bitmap_offset: -8,
            reshape: [6; 28],
            data_offset: Sectors(32_768),
            data_size: Sectors(50_000),
            recovery_offset: 1024,
            number: 2,
            corrected_reads: 3,
            device: [9; 16],
            flags: 1,
            bad_block_shift: 2,
            bad_block_sectors: 8,
            bad_block_offset: -16,
            updated: 1_700_000_001,
            events: 42,
            resync_offset: CLEAN,
            block_bytes: 4096,
            roles,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let superblock = sample();
        assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock.clone()));
        assert_eq!(superblock.role(), Role::Active(1));
        assert!(superblock.encode()[512..].iter().all(|&byte| byte == 0), "all of it lies in one sector");
    }

    /// Goal: hostile bytes neither panic nor pass. Method: every single byte of a good one set to several values; a
    /// change is either noticed by the checksum or, outside the checksummed part, means nothing.
    #[test]
    fn any_byte_that_counts_is_missed() {
        let good = sample().encode();
        for at in 0..SUPERBLOCK_BYTES {
            for flip in [0xff, 0x01, 0x80] {
                let mut bytes = good;
                bytes[at] ^= flip;
                let decoded = Superblock::decode(&bytes);
                assert_eq!(decoded.is_ok(), at >= 512 || (4..8).contains(&at) && decoded.is_ok(), "byte {at}");
            }
        }
    }

    #[test]
    fn fields_that_cannot_be_are_named() {
        let broken = |change: fn(&mut Superblock)| {
            let mut superblock = sample();
            change(&mut superblock);
            Superblock::decode(&superblock.encode()).expect_err("it is broken").to_string()
        };
        assert!(broken(|s| s.slots = 0).contains("raid_disks"));
        assert!(broken(|s| s.number = 500).contains("dev_number"));
        assert!(broken(|s| s.size = Sectors(u64::MAX)).contains("size"));
        assert!(broken(|s| s.data_offset = Sectors(3)).contains("data_offset"));
        assert!(broken(|s| s.events = u64::MAX).contains("events"));
        assert!(broken(|s| s.features |= 4 | 16).contains("a reshape in progress, a replacement in progress"));
        assert!(broken(|s| s.block_bytes = 8192).contains("blocks of 8192 bytes"));
        assert!(broken(|s| s.features |= 1 << 30).contains("unknown features 0x40000000"));
    }

    /// A15, A18: what this version does not know is refused by name, or written again as it was found. Method: every byte of
    /// a sound superblock is set to something else under a right checksum; what is accepted gives the same bytes again.
    #[test]
    fn what_is_not_known_is_refused_or_kept() {
        let mut refused = Vec::new();
        for at in 0..SUPERBLOCK_BYTES.min(HEADER_BYTES + 2 * ROLES_KEPT) {
            let mut bytes = sample().encode();
            bytes[at] ^= 0xf6;
            let sum = checksum(&bytes[..HEADER_BYTES + 2 * ROLES_KEPT]).to_le_bytes();
            bytes[216..220].copy_from_slice(&sum);
            match Superblock::decode(&bytes) {
                Ok(superblock) => {
                    let len = HEADER_BYTES + 2 * superblock.roles.len();
                    assert!(superblock.encode()[..len] == bytes[..len], "byte {at}");
                }
                Err(error) => refused.push((at, error.to_string())),
            }
        }
        let text = |at| refused.iter().find(|(refused, _)| *refused == at).map(|(_, text)| text.as_str());
        assert_eq!(text(35), None, "a name need not be UTF-8");
        assert!(text(12).unwrap().contains("something new in bytes 12 to 15 of its superblock"));
        assert!(text(240).unwrap().contains("something new in bytes 228 to 255 of its superblock"));
        assert!(text(226).unwrap().contains("blocks of"));
        assert_eq!(ArrayName::new("p\u{f6}l").unwrap().to_string(), "p\u{f6}l");
        let mut latin = sample().encode();
        latin[33] = 0xf6;
        let sum = checksum(&latin[..HEADER_BYTES + 2 * ROLES_KEPT]).to_le_bytes();
        latin[216..220].copy_from_slice(&sum);
        assert_eq!(Superblock::decode(&latin).unwrap().name.to_string(), "b\u{fffd}x:pool");
    }

    #[test]
    fn a_torn_superblock_is_the_old_or_the_new() {
        let (old, mut new) = (sample().encode(), sample());
        new.events += 1;
        new.roles[0] = Role::Faulty;
        let new = new.encode();
        for sector in 0..=8 {
            let mut torn = old;
            torn[..sector * 512].copy_from_slice(&new[..sector * 512]);
            let events = Superblock::decode(&torn).expect("never torn within a sector").events;
            assert_eq!(events, if sector == 0 { 42 } else { 43 });
        }
    }
}
