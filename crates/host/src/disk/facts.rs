//! What can be found out about an open disk without changing it: size, blocks, cache, what it can do.

use super::{DiskError, DiskErrorKind};
use block::Geometry;
use rustix::fs::{AtFlags, FallocateFlags, StatxFlags, fallocate, fstatfs, ioctl_blkpbszget, ioctl_blksszget, statx};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use units::ByteLen;

/// Block device or file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A block device.
    Block,
    /// A regular file.
    Regular,
}

/// What was found out when a disk was opened.
#[derive(Clone, Debug)]
pub struct Facts {
    /// As the caller named it.
    pub path: PathBuf,
    /// Block device or file.
    pub kind: Kind,
    /// Size, blocks, cache, discard.
    pub geometry: Geometry,
    /// Whether I/O goes past the page cache (O_DIRECT).
    pub direct: bool,
    /// Whether the file lives in memory and nowhere else, so that no I/O on it ever waits for a device.
    pub in_memory: bool,
    /// Whether writes are refused here.
    pub read_only: bool,
    /// Memory handed to the kernel starts on a multiple of this (1 if I/O goes through the page cache).
    pub memory_align: usize,
    /// How many operations the device's own queue takes.
    pub queue_depth: usize,
    /// What a person should know about this disk.
    pub notes: Vec<String>,
}

/// What a file is given at once: how deep the queue behind it is, nobody says.
const FILE_QUEUE_DEPTH: usize = 64;

/// Linux: `include/uapi/linux/magic.h`.
const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;

const SMALL_BLOCK: u32 = 512;
const LARGE_BLOCK: u32 = 4096;

/// What O_DIRECT demands of a file.
struct DirectAlign {
    offset: u32,
    memory: usize,
}

impl Facts {
    pub(super) fn find(path: &Path, mut file: &File, direct: bool, read_only: bool) -> Result<Self, DiskError> {
        let fail = |kind| DiskError { path: path.to_owned(), kind };
        let meta = file.metadata().map_err(|e| fail(DiskErrorKind::Probe(e)))?;
        let kind = if meta.file_type().is_block_device() { Kind::Block } else { Kind::Regular };
        let end = file.seek(SeekFrom::End(0)).map_err(|e| fail(DiskErrorKind::Probe(e)))?;

        let mut notes = Vec::new();
        let align = direct_align(file, kind, direct);
        let block_bytes = block_bytes(file, kind, align.offset).map_err(fail)?;
        let size = end - end % u64::from(block_bytes);
        if size == 0 {
            return Err(fail(DiskErrorKind::Empty { found: ByteLen(end), block_bytes }));
        }
        if size < end {
            notes.push(format!("the last {} bytes are not used: blocks are {block_bytes} bytes", end - size));
        }
        let in_memory = kind == Kind::Regular && lives_in_memory(file, &mut notes);
        if !direct && !in_memory {
            notes.push("the file system knows no O_DIRECT: I/O goes through the page cache".to_owned());
        }
        let queue = Queue::of(kind, &meta);
        let geometry = Geometry {
            size: ByteLen(size),
            block_bytes,
            optimal_bytes: optimal_bytes(file, kind, &queue, block_bytes),
            volatile_cache: queue.volatile_cache(),
            discard: !read_only && can_discard(file, kind, &queue, end),
        };
        let (path, memory_align, queue_depth) = (path.to_owned(), align.memory, queue.depth());
        Ok(Self { path, kind, geometry, direct, in_memory, read_only, memory_align, queue_depth, notes })
    }
}

/// Since Linux 6.1 statx says what O_DIRECT demands. An older kernel is met with what every device takes: files in
/// blocks of 4096, memory on 512.
fn direct_align(file: &File, kind: Kind, direct: bool) -> DirectAlign {
    if !direct {
        return DirectAlign { offset: SMALL_BLOCK, memory: 1 };
    }
    let known = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    let known = known.filter(|found| found.stx_dio_offset_align > 0 && found.stx_dio_mem_align > 0);
    known.map_or(
        DirectAlign { offset: if kind == Kind::Block { SMALL_BLOCK } else { LARGE_BLOCK }, memory: 512 },
        |found| DirectAlign {
            offset: found.stx_dio_offset_align,
            memory: usize::try_from(found.stx_dio_mem_align).expect("an alignment fits memory"),
        },
    )
}

/// Devices with blocks between 512 and 4096 bytes are served in blocks of 4096, a multiple of theirs.
fn block_bytes(file: &File, kind: Kind, direct_offset: u32) -> Result<u32, DiskErrorKind> {
    let logical = match kind {
        Kind::Block => ioctl_blksszget(file).map_err(|e| DiskErrorKind::Probe(e.into()))?,
        Kind::Regular => SMALL_BLOCK,
    };
    match logical.max(direct_offset) {
        ..=SMALL_BLOCK => Ok(SMALL_BLOCK),
        found if found <= LARGE_BLOCK && found.is_power_of_two() => Ok(LARGE_BLOCK),
        found => Err(DiskErrorKind::BlockSize(found)),
    }
}

fn optimal_bytes(file: &File, kind: Kind, queue: &Queue, block_bytes: u32) -> u32 {
    let physical = if kind == Kind::Block { ioctl_blkpbszget(file).unwrap_or(0) } else { 0 };
    let advised = queue.number("optimal_io_size").and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(0);
    [physical, advised, LARGE_BLOCK].into_iter().filter(|bytes| bytes % block_bytes == 0).max().unwrap_or(block_bytes)
}

/// A mirror turns a discard into zeroes, so only what zeroes by itself and gives space back counts: elsewhere the kernel would
/// write the zeroes, for each `fstrim` as much as was trimmed (DA13). Of a file, a range past the end has nothing to lose:
/// whether punching there is known tells whether it is anywhere.
fn can_discard(file: &File, kind: Kind, queue: &Queue, end: u64) -> bool {
    match kind {
        Kind::Block => gives_space_back(|name| queue.number(name)),
        Kind::Regular => {
            let past = end.next_multiple_of(u64::from(LARGE_BLOCK));
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(file, flags, past, u64::from(LARGE_BLOCK)).is_ok()
        }
    }
}

/// tmpfs and ramfs keep files in memory; but with swap in use a page of a tmpfs may be on a disk, and reading it waits.
fn lives_in_memory(file: &File, notes: &mut Vec<String>) -> bool {
    let magic = fstatfs(file).ok().and_then(|found| u32::try_from(found.f_type).ok());
    match magic {
        Some(RAMFS_MAGIC) => true,
        Some(TMPFS_MAGIC) if swap_in_use() => {
            notes.push("a tmpfs with swap in use may wait for a disk: it is not served inline".to_owned());
            false
        }
        Some(TMPFS_MAGIC) => true,
        _ => false,
    }
}

/// The first line of /proc/swaps is a heading. Without /proc nobody knows: yes.
fn swap_in_use() -> bool {
    std::fs::read_to_string("/proc/swaps").map_or(true, |text| text.lines().count() > 1)
}

/// Source: Linux `Documentation/ABI/stable/sysfs-block`: `write_zeroes_max_bytes` is 0 where the kernel has to write zeroes
/// itself (`block/blk-lib.c`, `blkdev_issue_zeroout`), `discard_max_bytes` where nothing is given back.
fn gives_space_back(limit: impl Fn(&str) -> Option<u64>) -> bool {
    let some = |name| limit(name).is_some_and(|bytes| bytes > 0);
    some("discard_max_bytes") && some("write_zeroes_max_bytes")
}

/// A block device's folder of queue settings in sysfs; a partition's is its disk's.
struct Queue(Option<PathBuf>);

impl Queue {
    fn of(kind: Kind, meta: &std::fs::Metadata) -> Self {
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let found = ["queue", "../queue"].map(|queue| device.join(queue)).into_iter().find(|queue| queue.is_dir());
        Self(found.filter(|_| kind == Kind::Block))
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.0.as_ref()?.join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// A request above this waits in the kernel. Source: Linux `Documentation/ABI/stable/sysfs-block`, `queue/nr_requests`.
    fn depth(&self) -> usize {
        self.number("nr_requests").and_then(|count| usize::try_from(count).ok()).unwrap_or(FILE_QUEUE_DEPTH)
    }

    /// Whether an answered write may be lost. Anything but a clear "write through" is a yes.
    /// Source: Linux `Documentation/ABI/stable/sysfs-block`, `queue/write_cache`.
    fn volatile_cache(&self) -> bool {
        self.text("write_cache").is_none_or(|cache| cache != "write through")
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// DA13: a discard is passed on only to a device that zeroes by itself; one that the kernel would have to write for is not
    /// asked. Method: the two limits of sysfs in every combination.
    #[test]
    fn a_discard_never_becomes_a_write() {
        for (discard, zeroes, expect) in [
            (Some(1 << 30), Some(1 << 30), true),
            (Some(1 << 30), Some(0), false),
            (Some(0), Some(1 << 30), false),
            (Some(1 << 30), None, false),
            (None, None, false),
        ] {
            let limit = |name: &str| if name == "discard_max_bytes" { discard } else { zeroes };
            assert_eq!(gives_space_back(limit), expect, "{discard:?} {zeroes:?}");
        }
    }
}
