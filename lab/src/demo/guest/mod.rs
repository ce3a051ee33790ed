//! What the guest's program (`muskox-guest`, in the image) and the lab agree on: the record on disk, the words on the
//! wires, the seed. Pure: bytes and texts in, values out.
//!
//! ```text
//! root disk   RECORDS_PATH   record n at byte n * 512, one after the other, zeroes behind the last; after a crash the
//!                            guest goes on behind the last whole one
//! canary      block 0        CANARY_MAGIC
//!             4096 + s * 512 slot s = n mod SLOTS: the latest record of that slot
//!             from 1 MiB on  not the guest's: the rogue writer may write there
//! ```

pub mod config;
pub mod record;
pub mod seed;
pub mod words;

/// The file of records on the guest's root disk.
pub const RECORDS_PATH: &str = "/var/lib/muskox-guest/records";
/// More records would not fit the image's root; at 50 a second they last for more than 80 minutes.
pub const RECORDS_MAX: u64 = 1 << 18;

/// What a canary begins with. The guest writes it to a disk of zeroes only: it overwrites nobody's disk.
pub const CANARY_MAGIC: &[u8; 16] = b"muskox canary 1\n";
/// Where the slots begin: behind a block of the largest size that disks have.
pub const SLOTS_AT: u64 = 4096;
/// How many slots a canary has.
pub const SLOTS: u64 = 1024;
/// From here on a canary is the rogue writer's.
pub const CANARY_GUEST_BYTES: u64 = 1 << 20;

/// Where the referee listens, in the client's namespace.
pub const REFEREE_PORT: u16 = 7071;
/// Where the guest answers probes.
pub const ECHO_PORT: u16 = 7072;

/// Where in the canary record `n` belongs.
pub fn slot_at(n: u64) -> u64 {
    SLOTS_AT + n % SLOTS * record::RECORD_BYTES as u64
}
