//! What a disk holds: asked before anything is written to a disk that came in.
//!
//! Nothing is trusted or mounted. Signatures give a name; what nobody knows is not empty all the same: any byte that is
//! not zero in the first or the last 32 MiB is somebody's. Invariant: a disk that counts as empty reads as zeroes there.

mod signatures;

use crate::buffer::IoBuf;
use crate::device::{DeviceError, Disk, Durability};
use signatures::{Signature, all};
use std::ops::Range;
use units::{ByteLen, ByteOffset};

/// How much of a disk's beginning and of its end must be zeroes. Of libblkid's signatures the furthest from the start lies
/// at 4 MiB, but for btrfs's copies, the furthest from the end at 1.5 MiB; what muskox itself keeps lies before 16 MiB, or
/// before 128 MiB on a large disk, where its places are looked at one by one.
pub const EDGE: ByteLen = ByteLen::mib(32);
/// Read at once.
const PIECE: u64 = 1 << 20;
/// What is read where a signature lies between the edges.
const SPOT: u64 = 4096;
/// Names in one refusal.
const NAMES_MAX: usize = 3;
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// What `disk` holds, in words that finish "it holds …"; `None` if it is empty.
///
/// # Errors
/// The disk's, if it cannot be read.
pub async fn what_is_on(disk: &Disk) -> Result<Option<String>, DeviceError> {
    let size = disk.geometry().size;
    let (mut first, mut found) = (None, Vec::new());
    for edge in edges(size) {
        for at in (edge.start..edge.end).step_by(usize::try_from(PIECE).expect("a megabyte")) {
            let piece = read(disk, at..edge.end.min(at + PIECE)).await?;
            if let Some(used) = first_used(&piece) {
                first = first.or(Some(at + used));
                look(&piece, at, size, &mut found);
            }
        }
    }
    for spot in spots(size) {
        let piece = read(disk, spot.clone()).await?;
        look(&piece, spot.start, size, &mut found);
    }
    Ok(in_words(first, &found))
}

/// What signatures stand in bytes that are laid out as a disk of this length, in words that finish "it holds …"; `None`: none. `read`
/// gives a part of them.
///
/// # Errors
/// What `read` said.
pub fn named<E>(size: ByteLen, mut read: impl FnMut(Range<u64>) -> Result<Vec<u8>, E>) -> Result<Option<String>, E> {
    let mut starts: Vec<u64> = all().flat_map(|signature| signature.places(size)).map(|at| at - at % SPOT).collect();
    starts.sort_unstable();
    starts.dedup();
    let mut found = Vec::new();
    for start in starts {
        look(&read(start..size.0.min(start + SPOT))?, start, size, &mut found);
    }
    Ok(in_words(None, &found))
}

/// Empties what [`what_is_on`] looks at, and the first `head` bytes too. Not durable before the next flush.
///
/// # Errors
/// The disk's.
pub async fn wipe(disk: &Disk, head: ByteLen) -> Result<(), DeviceError> {
    let size = disk.geometry().size;
    let head = 0..size.0.min(head.0);
    for range in edges(size).into_iter().chain(spots(size)).chain([head]).filter(|range| !range.is_empty()) {
        let len = ByteLen(range.end - range.start);
        disk.write_zeroes(ByteOffset(range.start), len, Durability::Cached, true).await?;
    }
    Ok(())
}

/// The beginning and the end; all of a disk that has no more than these. In whole blocks, as a disk is.
fn edges(size: ByteLen) -> [Range<u64>; 2] {
    if size.0 <= 2 * EDGE.0 {
        return [0..size.0, size.0..size.0];
    }
    // A disk's length need not be a multiple of 4 KiB, its blocks are no larger: the tail begins on any block's start.
    let tail = (size.0 - EDGE.0) / SPOT * SPOT;
    [0..EDGE.0, tail..size.0]
}

/// Where signatures lie between the edges.
fn spots(size: ByteLen) -> Vec<Range<u64>> {
    let edges = edges(size);
    let between = |place: &u64| !edges.iter().any(|edge| edge.contains(place));
    let mut spots: Vec<u64> = all().flat_map(|signature| signature.places(size)).filter(between).collect();
    spots.iter_mut().for_each(|place| *place -= *place % SPOT);
    spots.sort_unstable();
    spots.dedup();
    spots.into_iter().map(|start| start..size.0.min(start + SPOT)).collect()
}

async fn read(disk: &Disk, range: Range<u64>) -> Result<IoBuf, DeviceError> {
    let len = usize::try_from(range.end - range.start).expect("at most a megabyte");
    disk.read(ByteOffset(range.start), IoBuf::new(len)).await
}

/// The first byte that is not zero. Compared in runs, because a byte at a time takes seconds without optimisation.
fn first_used(piece: &[u8]) -> Option<u64> {
    let used = |run: &&[u8]| **run != ZEROES[..run.len()];
    let run = piece.chunks(ZEROES.len()).position(|run| used(&run))?;
    let start = run * ZEROES.len();
    let inside = piece[start..].iter().position(|byte| *byte != 0)?;
    Some((start + inside) as u64)
}

/// Adds the signatures that lie in the piece of a disk that begins at `start`.
fn look(piece: &[u8], start: u64, size: ByteLen, found: &mut Vec<&'static Signature>) {
    let holds = |place: u64, magic: &[u8]| {
        let at = place.checked_sub(start).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| piece.get(at..)).is_some_and(|rest| rest.starts_with(magic))
    };
    let stands = |signature: &&Signature| {
        signature.places(size).any(|place| signature.magics.iter().any(|magic| holds(place, magic)))
    };
    found.extend(all().filter(stands));
}

fn in_words(first: Option<u64>, found: &[&Signature]) -> Option<String> {
    let strong = found.iter().filter(|signature| !signature.weak).map(|signature| signature.what);
    let weak = found.iter().map(|signature| signature.what).take(1);
    let mut names: Vec<&str> = Vec::new();
    for name in strong.chain(weak) {
        let settled = names.len() == NAMES_MAX || names.contains(&name);
        if !settled {
            names.push(name);
        }
    }
    if names.is_empty() {
        return first
            .map(|at| format!("data that muskox does not know (the first byte that is not zero is byte {at})"));
    }
    Some(names.join(" and "))
}

#[cfg(test)]
mod test;
