//! The stamp of a rogue write: what the lab's own hostile client puts at the start of every 512-byte sector it writes,
//! so that the disks know whose write they hold, and under which epoch it was sent.
//!
//! ```text
//!  0        16      24       32       40     41           512
//!  │ magic  │ run   │ epoch  │ seq    │ kind │ zeroes      │    numbers big-endian
//! ```

use serde::{Deserialize, Serialize};

/// What a stamp begins with.
pub const MAGIC: &[u8; 16] = b"muskox-rogue-v1\0";
/// A stamp is in the first bytes of a sector.
pub const STAMP_BYTES: usize = 41;
const SECTOR: usize = 512;

/// What a stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// Which fault of the run the writer belongs to.
    pub run: u64,
    /// The epoch that the writer claimed.
    pub epoch: u64,
    /// Which of its writes.
    pub seq: u64,
    /// How the session came to be.
    pub kind: Kind,
}

/// How a rogue's session came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Over a session from before the fence, one write after the other.
    Write,
    /// Over a session from before the fence, many in flight: some wait in its queue when the fence falls.
    Queued,
    /// Over a new session of the same attachment.
    Attach,
    /// Over a new session that names another incarnation or epoch.
    Reattach,
}

impl Kind {
    /// All of them, in the order of their numbers in a stamp, from 1.
    pub const ALL: [Self; 4] = [Self::Write, Self::Queued, Self::Attach, Self::Reattach];
}

impl Stamp {
    /// The stamp at the start of `sector`.
    #[must_use]
    pub fn read(sector: &[u8]) -> Option<Self> {
        let rest = sector.strip_prefix(MAGIC)?;
        let number = |at: usize| Some(u64::from_be_bytes(rest.get(at..at + 8)?.try_into().ok()?));
        let kind = usize::from(*rest.get(24)?).checked_sub(1)?;
        Some(Self { run: number(0)?, epoch: number(8)?, seq: number(16)?, kind: *Kind::ALL.get(kind)? })
    }
}

/// The stamps in a write, with their distance from the write's begin; equal neighbours count once. Whoever stamps writes
/// whole sectors.
#[must_use]
pub fn stamps(data: &[u8]) -> Vec<(u64, Stamp)> {
    let sectors = (0u64..).step_by(SECTOR).zip(data.chunks(SECTOR));
    let mut found: Vec<_> = sectors.filter_map(|(at, sector)| Some((at, Stamp::read(sector)?))).collect();
    found.dedup_by_key(|(_, stamp)| *stamp);
    found
}

#[cfg(test)]
mod test {
    use super::*;

    fn sector(epoch: u64, kind: u8) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [3, epoch, 9] {
            bytes.extend(u64::to_be_bytes(number));
        }
        bytes.push(kind);
        assert_eq!(bytes.len(), STAMP_BYTES);
        bytes.resize(SECTOR, 0);
        bytes
    }

    /// Goal: a stamp is found at the start of any sector and nowhere else. Method: sectors with and without.
    #[test]
    fn stamps_stand_at_sectors() {
        let mut data = vec![0xEE; SECTOR];
        data.extend(sector(7, 2));
        data.extend(sector(7, 2));
        data.extend(sector(7, 5));
        data[100..100 + STAMP_BYTES].copy_from_slice(&sector(8, 1)[..STAMP_BYTES]);
        let found = Stamp { run: 3, epoch: 7, seq: 9, kind: Kind::Queued };
        assert_eq!(stamps(&data), [(512, found)], "kind 5 is nobody's");
        assert_eq!(Stamp::read(&sector(7, 1)[..STAMP_BYTES - 1]), None, "cut off");
        assert_eq!(stamps(&[]), []);
    }
}
