//! What stock Linux md would leave on members: superblock and bitmap rewritten as its kernel does, data and all.
//!
//! Sources: drivers/md/md.c `super_1_sync` (roles: `ffff` for every number that is not in the running array, `fffe` for one
//! that failed in it), `md_update_sb` (events + 1 for each update of a degraded array), drivers/md/md-bitmap.c (the
//! header's events follow the superblock's, bits stay while a member is missing).

use super::superblock::{CLEAN, Role, Superblock};
use super::*;

const BITMAP: usize = 8192;
const BITS: usize = BITMAP + 256;
const CHUNK: u64 = 64 << 10;

/// Changes bytes of a disk, on the media too.
pub fn edit(disk: &MemDisk, at: usize, bytes: &[u8]) {
    for content in [&disk.live, &disk.durable] {
        content.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Writes a changed superblock back.
pub fn edit_superblock(disk: &MemDisk, change: impl FnOnce(&mut Superblock)) {
    let mut superblock = superblock_on(disk);
    change(&mut superblock);
    edit(disk, 4096, &superblock.encode());
}

/// Linux runs this member without the others, which it calls `others`, writes `mark` into a chunk and stops clean.
pub fn run_alone(disk: &MemDisk, others: Role, updates: u64, at: u64, mark: u8) {
    edit_superblock(disk, |superblock| {
        let own = superblock.number as usize;
        let roles = superblock.roles.iter_mut().enumerate();
        roles.filter(|(number, _)| *number != own).for_each(|(_, role)| {
            *role = if *role == Role::Spare { Role::Spare } else { others };
        });
        superblock.events += updates;
        superblock.resync_offset = CLEAN;
    });
    edit(disk, BITMAP + 24, &superblock_on(disk).events.to_le_bytes());
    let chunk = usize::try_from(at / CHUNK).unwrap();
    let byte = disk.durable.borrow()[BITS + chunk / 8] | 1 << (chunk % 8);
    edit(disk, BITS + chunk / 8, &[byte]);
    edit(disk, DATA + usize::try_from(at).unwrap(), &[mark; 4096]);
}
