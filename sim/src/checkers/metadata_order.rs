//! Order of a member's metadata: the bitmap's header, durably, before the superblock that counts one update more. Linux takes
//! a bitmap with fewer `events` than the superblock for out of date (drivers/md/md-bitmap.c, `md_bitmap_read_sb`), and
//! every bit counts as set then: a copy of everything instead of a few chunks.

use super::{Invariant, Verdict};
use crate::disk::Sparse;
use block::raid::bitmap::Header;
use block::raid::superblock::{FEATURE_BITMAP, SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock};

/// A superblock is about to be on the medium of `disk`, which holds `durable`.
///
/// # Errors
/// `Order`, if it is newer than the bitmap.
pub fn superblock(disk: usize, data: &[u8], durable: &Sparse) -> Verdict {
    const HEADER_BYTES: usize = 256;
    let Some(Ok(superblock)) = data.first_chunk::<SUPERBLOCK_BYTES>().map(Superblock::decode) else {
        return Ok(()); // Somebody else's block, or zeroes.
    };
    if !superblock.has(FEATURE_BITMAP) {
        return Ok(());
    }
    let at = i64::try_from(SUPERBLOCK_AT.0).expect("4096") + i64::from(superblock.bitmap_offset) * 512;
    let header = usize::try_from(at).ok().and_then(|at| Header::decode(&durable.get(at, HEADER_BYTES)).ok());
    let events = header.map(|header| header.events);
    if events.is_some_and(|events| events >= superblock.events) {
        return Ok(());
    }
    let own = superblock.events;
    Err((Invariant::Order, format!("disk {disk} gets a superblock of events {own}, its bitmap is at {events:?}")))
}
