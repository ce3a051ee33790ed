//! A record: numbered, signed by the guest's boot, and checked. Little-endian.
//!
//! ```text
//! 0  magic "MXRECORD"   8  n   16  boot   24  filling computed from n and boot   508  CRC-32 of 0..508
//! ```

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How long a record is: a sector, the least that a disk writes.
pub const RECORD_BYTES: usize = 512;
const MAGIC: &[u8; 8] = b"MXRECORD";
const CRC_AT: usize = RECORD_BYTES - 4;
const HEAD: usize = 24;

/// One boot of the guest: 64 bits of the kernel's `boot_id`. In texts 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Boot(pub u64);

/// A record's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub n: u64,
    /// Who wrote it.
    pub boot: Boot,
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Zeroes: nothing was ever written here.
    Blank,
    /// A record that is not whole, or something else.
    Torn,
}

impl Record {
    /// Its bytes, and its checksum.
    pub fn encode(self) -> ([u8; RECORD_BYTES], u32) {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.n.to_le_bytes());
        bytes[16..HEAD].copy_from_slice(&self.boot.0.to_le_bytes());
        // xorshift64 (Marsaglia 2003): the filling differs between records in every word.
        let mut state = self.boot.0 ^ self.n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for word in bytes[HEAD..CRC_AT].chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        let crc = crc32(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// The record in these bytes, with its checksum.
    ///
    /// # Errors
    /// What they are instead.
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<(Self, u32), Damage> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let crc = u32::from_le_bytes(bytes[CRC_AT..].try_into().expect("four bytes"));
        if bytes[..8] == *MAGIC && crc == crc32(&bytes[..CRC_AT]) {
            return Ok((Self { n: word(8), boot: Boot(word(16)) }, crc));
        }
        Err(if bytes.iter().all(|byte| *byte == 0) { Damage::Blank } else { Damage::Torn })
    }
}

impl Boot {
    /// From the kernel's `/proc/sys/kernel/random/boot_id` (random(4)), a random UUID: its first 64 bits, of which
    /// four are the UUID's version.
    pub fn of_boot_id(text: &str) -> Option<Self> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        (digits.len() == 32).then(|| digits[..16].parse().ok())?
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

impl FromStr for Boot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        value.map(Self).ok_or_else(|| format!("'{text:.40}' is no boot: 16 hexadecimal digits"))
    }
}

impl From<Boot> for String {
    fn from(boot: Boot) -> Self {
        boot.to_string()
    }
}

impl TryFrom<String> for Boot {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// CRC-32 of IEEE 802.3, as zlib's and `cksum -a crc32b`'s.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| crc >> 8 ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index: u32 = 0;
    while index < 256 {
        let (mut crc, mut bit) = (index, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the checksum is the one it is called. Method: the check value of CRC-32/ISO-HDLC in the catalogue of
    /// parametrised CRC algorithms.
    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    /// Goal: a record comes back, and no changed byte of it does. Method: every byte, changed in turn.
    #[test]
    fn a_changed_byte_is_noticed() {
        let record = Record { n: 77, boot: Boot(0x0123_4567_89ab_cdef) };
        let (bytes, crc) = record.encode();
        assert_eq!(Record::decode(&bytes), Ok((record, crc)));
        for at in 0..RECORD_BYTES {
            let mut spoiled = bytes;
            spoiled[at] ^= 0x10;
            assert_eq!(Record::decode(&spoiled), Err(Damage::Torn), "byte {at}");
        }
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), Err(Damage::Blank));
        let (next, _) = Record { n: 78, ..record }.encode();
        let same = bytes.iter().zip(&next).filter(|(left, right)| left == right).count();
        assert!(same < 64, "{same} bytes of two records are the same");
    }

    /// Goal: a boot is one word of 16 digits everywhere. Method: a table.
    #[test]
    fn a_boot_is_sixteen_digits() {
        let boot = Boot::of_boot_id("0b6f1c9e-8d51-4c0e-9f00-0123456789ab\n").unwrap();
        assert_eq!(boot.to_string(), "0b6f1c9e8d514c0e");
        assert_eq!(serde_json::to_string(&boot).unwrap(), "\"0b6f1c9e8d514c0e\"");
        assert_eq!(serde_json::from_str::<Boot>("\"0b6f1c9e8d514c0e\"").unwrap(), boot);
        for text in ["", "0b6f1c9e8d514c0", "0b6f1c9e8d514c0e0", "+b6f1c9e8d514c0e", "0b6f1c9e8d514c0g"] {
            assert!(text.parse::<Boot>().is_err(), "{text}");
        }
        assert_eq!(Boot::of_boot_id("0b6f1c9e-8d51"), None);
    }
}
