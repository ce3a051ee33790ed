//! md's superblock. First byte: bit 0 makes the checksum right. The rest is the superblock, filled up with zeroes.

use crate::{Seed, seal};
use block::raid::layout::{bitmap_at, has_facts_room};
use block::raid::superblock::{ArrayName, CLEAN, FEATURE_BITMAP, FEATURE_RECOVERY, Role, SUPERBLOCK_BYTES, Superblock};
use units::{ArrayId, Sectors};

/// What is decoded is encoded to what decodes the same.
pub fn md_superblock(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let mut bytes = [0; SUPERBLOCK_BYTES];
    let len = rest.len().min(bytes.len());
    bytes[..len].copy_from_slice(&rest[..len]);
    if choice & 1 == 1 {
        seal::md_superblock(&mut bytes);
    }
    let Ok(superblock) = Superblock::decode(&bytes) else { return };
    assert_eq!(Superblock::decode(&superblock.encode()).as_ref(), Ok(&superblock));
    let _ = superblock.role();
    let room = has_facts_room(&superblock);
    if let Some(at) = bitmap_at(&superblock, 4096) {
        let end = at.0 + 4096;
        assert!(at.0 >= 8192 && end <= superblock.data_offset.bytes(), "a bitmap in the data");
        assert!(!room || end <= 1 << 20, "a bitmap in the facts");
    }
}

pub fn seeds() -> Vec<Seed> {
    let clean = Superblock {
        features: FEATURE_BITMAP,
        array: ArrayId([5; 16]),
        name: ArrayName::new("host:pool").expect("short"),
        created: 1_800_000_000,
        level: 1,
        layout: 0,
        size: Sectors(2048),
        chunk: 0,
        slots: 2,
        bitmap_offset: 8,
        reshape: [0; 28],
        data_offset: Sectors(32_768),
        data_size: Sectors(4096),
        recovery_offset: 0,
        number: 1,
        corrected_reads: 0,
        device: [7; 16],
        flags: 0,
        bad_block_shift: 0,
        bad_block_sectors: 0,
        bad_block_offset: 0,
        updated: 1_800_000_000,
        events: 9,
        resync_offset: CLEAN,
        block_bytes: 512,
        roles: vec![Role::Active(0), Role::Active(1), Role::Faulty, Role::Spare],
    };
    let recovering = Superblock {
        features: FEATURE_BITMAP | FEATURE_RECOVERY,
        recovery_offset: 1024,
        resync_offset: 0,
        bad_block_sectors: 8,
        bad_block_offset: 16,
        roles: vec![Role::Active(0), Role::Active(1)],
        ..clean.clone()
    };
    let seed = |superblock: &Superblock| [&[1][..], &superblock.encode()[..512]].concat();
    vec![("clean", seed(&clean)), ("recovering", seed(&recovering))]
}
