//! The disks as files in a FUSE directory: `disk0`, `disk1`, …
//!
//! Files are opened with FOPEN_DIRECT_IO, so that each read and write arrives as it was made, and with parallel writes,
//! so that one that hangs holds up no other. A write's own flags carry O_DSYNC also when only RWF_DSYNC was asked for
//! (Linux, `fs/fuse/file.c`, `fuse_write_flags`), which is what makes it durable here. flock stays in the kernel.

use super::disk::Work;
use super::shelf::{Operation, Reply, Shelf};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The kernel asks again each time: a disk may be gone the next moment.
const TTL: Duration = Duration::ZERO;
/// The largest request; the kernel splits what is longer. Its own default limit is 256 pages.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// So many asynchronous requests may be on their way; the kernel's default of 12 would throttle io_uring.
const MAX_BACKGROUND: u16 = 512;
/// Inode 1 is the directory.
const FIRST_DISK: u64 = 2;

/// The directory.
pub struct Directory {
    shelf: Arc<Shelf>,
}

impl Directory {
    /// Shows `shelf`.
    pub fn new(shelf: Arc<Shelf>) -> Self {
        Self { shelf }
    }

    fn number(&self, ino: INodeNo) -> Option<usize> {
        let number = usize::try_from(u64::from(ino).checked_sub(FIRST_DISK)?).ok()?;
        (number < self.shelf.count()).then_some(number)
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match self.number(ino) {
            Some(number) => (FileType::RegularFile, 0o600, self.shelf.with(number, |disk| disk.content.len_bytes())),
            None if ino == INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            None => return None,
        };
        let never = UNIX_EPOCH;
        Some(FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: never,
            mtime: never,
            ctime: never,
            crtime: never,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn start(&self, ino: INodeNo, handle: FileHandle, flags: i32, work: Work, reply: Reply) {
        let direct = flags & libc::O_DIRECT != 0;
        let Some(number) = self.number(ino) else { return reply(Err(libc::EISDIR)) };
        self.shelf.start(number, Operation { work, insertion: u64::from(handle), direct, reply });
    }
}

fn errno(number: i32) -> Errno {
    Errno::from_i32(number)
}

fn answer_empty(reply: ReplyEmpty) -> Reply {
    Box::new(move |done| match done {
        Ok(_) => reply.ok(),
        Err(number) => reply.error(errno(number)),
    })
}

impl Filesystem for Directory {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let refused = |what| std::io::Error::other(format!("the kernel's FUSE refuses {what}"));
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(|_| refused("asynchronous direct I/O"))?;
        config.set_max_write(MAX_WRITE_BYTES).map_err(|_| refused("1 MiB requests"))?;
        config.set_max_background(MAX_BACKGROUND).map_err(|_| refused("that many requests"))?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|name| name.strip_prefix("disk")?.parse::<usize>().ok());
        let number = number.filter(|number| *number < self.shelf.count() && parent == INodeNo::ROOT);
        let present = number.filter(|number| self.shelf.with(*number, |disk| disk.present));
        match present.and_then(|number| self.attributes(INodeNo(number as u64 + FIRST_DISK))) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.attributes(ino) {
            // A disk does not change its size.
            Some(attributes) if size.is_none_or(|size| size == attributes.size) => reply.attr(&TTL, &attributes),
            Some(_) => reply.error(Errno::EINVAL),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let Some(number) = self.number(ino) else { return reply.error(Errno::EISDIR) };
        let insertion = self.shelf.with(number, |disk| {
            disk.counters.gone += u64::from(!disk.present);
            disk.present.then_some(disk.insertion)
        });
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        match insertion {
            Some(insertion) => reply.opened(FileHandle(insertion), flags),
            None => reply.error(Errno::ENXIO),
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let reply: Reply = Box::new(move |done| match done {
            Ok(bytes) => reply.data(&bytes),
            Err(number) => reply.error(errno(number)),
        });
        self.start(ino, handle, flags.0, Work::Read { at: offset, len: size as usize }, reply);
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let len = u32::try_from(data.len()).expect("at most MAX_WRITE_BYTES");
        let reply: Reply = Box::new(move |done| match done {
            Ok(_) => reply.written(len),
            Err(number) => reply.error(errno(number)),
        });
        let fua = flags.0 & libc::O_DSYNC != 0;
        self.start(ino, handle, flags.0, Work::Write { at: offset, data: data.to_vec(), fua }, reply);
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.start(ino, handle, 0, Work::Flush, answer_empty(reply));
    }

    /// Closing a file is no promise about its data.
    fn flush(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zeroing = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        if mode & zeroing == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        self.start(ino, handle, 0, Work::Zero { at: offset, len: length }, answer_empty(reply));
    }

    fn readdir(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let present = (0..self.shelf.count()).filter(|number| self.shelf.with(*number, |disk| disk.present));
        let disks = present.map(|number| (number as u64 + FIRST_DISK, FileType::RegularFile, format!("disk{number}")));
        let dots = [".", ".."].map(|name| (1, FileType::Directory, name.to_owned()));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (ino, kind, name)) in dots.into_iter().chain(disks).enumerate().skip(skip) {
            if reply.add(INodeNo(ino), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
