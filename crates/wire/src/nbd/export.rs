//! What an export is: size, abilities, block sizes, texts. Both ends use these words.

use super::WireError;
use super::constant::{MIN_BLOCK_MAX, PAYLOAD_MAX, STRING_MAX};
use units::ByteLen;

/// What an export can do. Source: `doc/proto.md`, section "Transmission flags".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TransmissionFlags(pub u16);

impl TransmissionFlags {
    /// Always set.
    pub const HAS_FLAGS: Self = Self(1 << 0);
    /// Writes are refused.
    pub const READ_ONLY: Self = Self(1 << 1);
    /// `CMD_FLUSH` is understood.
    pub const SEND_FLUSH: Self = Self(1 << 2);
    /// `CMD_FLAG_FUA` is understood.
    pub const SEND_FUA: Self = Self(1 << 3);
    /// The media rotates.
    pub const ROTATIONAL: Self = Self(1 << 4);
    /// `CMD_TRIM` is understood.
    pub const SEND_TRIM: Self = Self(1 << 5);
    /// `CMD_WRITE_ZEROES` is understood.
    pub const SEND_WRITE_ZEROES: Self = Self(1 << 6);
    /// `CMD_FLAG_DF` is understood. The handshake sets it, exactly with structured replies.
    pub const SEND_DF: Self = Self(1 << 7);
    /// A flush over one connection covers answered writes of all.
    pub const CAN_MULTI_CONN: Self = Self(1 << 8);
    /// `CMD_CACHE` is understood.
    pub const SEND_CACHE: Self = Self(1 << 10);
    /// `CMD_FLAG_FAST_ZERO` is understood.
    pub const SEND_FAST_ZERO: Self = Self(1 << 11);

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// With `flags` set too.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// With `flags` clear.
    #[must_use]
    pub const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }
}

/// How requests must be shaped. Source: `doc/proto.md`, section "Block size constraints".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this: the logical block.
    pub min: u32,
    /// Requests of this size and alignment suit best.
    pub preferred: u32,
    /// Longest payload of one request.
    pub max: u32,
}

impl BlockSizes {
    /// What a client uses when the server says nothing: 512 bytes is the largest minimum that can be expected to
    /// work, and 32 MiB the largest payload.
    pub const DEFAULT: Self = Self { min: 512, preferred: 4096, max: PAYLOAD_MAX };

    /// Whether these are block sizes at all.
    ///
    /// # Errors
    /// Which rule of the document they break.
    pub fn validate(self) -> Result<(), WireError> {
        let broken = |what, got: u32| Err(WireError::new(what, u64::from(got)));
        if !self.min.is_power_of_two() || self.min > MIN_BLOCK_MAX {
            return broken("the minimum block size must be a power of two up to 65536", self.min);
        }
        if !self.preferred.is_power_of_two() || self.preferred < self.min.max(512) {
            return broken("the preferred block size must be a power of two from 512", self.preferred);
        }
        if self.max != u32::MAX && (!self.max.is_multiple_of(self.min) || self.max < self.min) {
            return broken("the maximum block size must be a multiple of the minimum", self.max);
        }
        Ok(())
    }
}

/// An export as the server describes it and the client uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// How long it is.
    pub size: ByteLen,
    /// What it can do.
    pub flags: TransmissionFlags,
    /// How requests must be shaped.
    pub block: BlockSizes,
    /// Its canonical name, if that is not how the client called it.
    pub name: Option<String>,
    /// A text for people.
    pub description: Option<String>,
}

impl ExportInfo {
    /// Whether this may cross the wire: sizes that make sense, also as the signed numbers that other clients keep them
    /// in (libnbd CVE-2023-5215), and strings that fit.
    ///
    /// # Errors
    /// Which rule is broken.
    pub fn validate(&self) -> Result<(), WireError> {
        self.block.validate()?;
        if i64::try_from(self.size.0).is_err() {
            return Err(WireError::new("an export is shorter than 2^63 bytes", self.size.0));
        }
        if !self.flags.has(TransmissionFlags::HAS_FLAGS) {
            return Err(WireError::new("the transmission flags lack HAS_FLAGS", u64::from(self.flags.0)));
        }
        for text in [&self.name, &self.description].into_iter().flatten() {
            if text.len() > STRING_MAX {
                return Err(WireError::new("a string is at most 4096 bytes", text.len() as u64));
            }
        }
        Ok(())
    }
}

/// One line of the list of exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedExport {
    /// What to ask for.
    pub name: String,
    /// A text for people, possibly empty.
    pub description: String,
}

#[cfg(test)]
mod test {
    use super::*;

    /// Block sizes that break a rule are named as such; the table has one row a rule.
    #[test]
    fn block_sizes_keep_the_documents_rules() {
        let check = |min, preferred, max| BlockSizes { min, preferred, max }.validate();
        for (min, preferred, max) in
            [(1, 512, 1 << 25), (512, 4096, 1 << 25), (65536, 65536, u32::MAX), (512, 512, 512)]
        {
            assert_eq!(check(min, preferred, max), Ok(()), "{min} {preferred} {max}");
        }
        let bad = [
            (0, 4096, 1 << 25),          // no minimum
            (513, 4096, 1 << 25),        // minimum no power of two
            (131_072, 1 << 17, 1 << 25), // minimum above 65536
            (512, 0, 1 << 25),           // no preferred
            (1, 256, 1 << 25),           // preferred below 512
            (4096, 512, 1 << 25),        // preferred below the minimum
            (512, 4097, 1 << 25),        // preferred no power of two
            (512, 4096, 1000),           // maximum no multiple
            (512, 4096, 0),              // maximum below the minimum
        ];
        for (min, preferred, max) in bad {
            assert!(check(min, preferred, max).is_err(), "{min} {preferred} {max}");
        }
    }
}
