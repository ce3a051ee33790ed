//! A disk that hangs, or fails, on command: one file in a FUSE directory of its own. Needs root and /dev/fuse; where they are
//! missing that is a failure, unless `MUSKOX_ALLOW_MISSING=1`.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

const NAME: &str = "disk";
const INODE: INodeNo = INodeNo(2);
/// The kernel lets so many asynchronous requests be on their way; its own default of 12 would hold back the rest.
const MAX_BACKGROUND: u16 = 4096;
/// Every look at the file asks us again.
const TTL: Duration = Duration::ZERO;

/// The disk; unmounted when it is dropped.
pub struct HangingDisk {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    _session: BackgroundSession,
}

struct State {
    content: Vec<u8>,
    hangs: bool,
    /// The next so many requests are answered with this errno.
    fails: (i32, usize),
    /// How many requests came.
    asked: usize,
    held: Vec<Held>,
}

/// Answers a request: does it, or says the errno. A held one is answered when the disk is released.
type Held = Box<dyn FnOnce(&mut State, Option<Errno>) + Send>;

struct Folder(Arc<Mutex<State>>);

impl HangingDisk {
    /// A disk of this many bytes in `dir`, which is made; `None` if there is no FUSE here and that is allowed.
    pub fn new(dir: &Path, size: usize) -> Option<Self> {
        let allowed = std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1");
        if allowed && !(rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists()) {
            eprintln!("SKIP: a disk that hangs needs root and /dev/fuse");
            return None;
        }
        std::fs::create_dir_all(dir).unwrap();
        let state = State { content: vec![0; size], hangs: false, fails: (0, 0), asked: 0, held: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("muskox-test".into()), MountOption::NoDev, MountOption::NoSuid];
        config.n_threads = Some(1);
        let session = fuser::spawn_mount(Folder(Arc::clone(&state)), dir, &config);
        let session = session.expect("root and /dev/fuse are needed");
        Some(Self { path: dir.join(NAME), state, _session: session })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on nothing is answered.
    pub fn hang(&self) {
        lock(&self.state).hangs = true;
    }

    /// The next so many requests fail.
    pub fn fail(&self, errno: i32, times: usize) {
        let mut state = lock(&self.state);
        (state.fails, state.asked) = ((errno, times), 0);
    }

    /// How many requests came since it was told to fail.
    pub fn asked(&self) -> usize {
        lock(&self.state).asked
    }

    /// How many requests wait.
    pub fn held(&self) -> usize {
        lock(&self.state).held.len()
    }

    /// Does what waits, and answers at once from now on.
    pub fn release(&self) {
        let mut state = lock(&self.state);
        state.hangs = false;
        let held = std::mem::take(&mut state.held);
        held.into_iter().for_each(|held| held(&mut state, None));
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        // A process that still waits for the disk would keep the directory from being unmounted.
        self.release();
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Folder {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_disk = inode == INODE;
        FileAttr {
            ino: inode,
            size: if is_disk { lock(&self.0).content.len() as u64 } else { 0 },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_disk { FileType::RegularFile } else { FileType::Directory },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn start(&self, work: Held) {
        let mut state = lock(&self.0);
        if state.hangs {
            return state.held.push(work);
        }
        state.asked += 1;
        let failed = (state.fails.1 > 0).then(|| Errno::from_i32(state.fails.0));
        state.fails.1 = state.fails.1.saturating_sub(1);
        work(&mut state, failed);
    }
}

fn range(at: u64, len: usize) -> std::ops::Range<usize> {
    let at = usize::try_from(at).unwrap();
    at..at + len
}

impl Filesystem for Folder {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(|_| std::io::Error::other("no asynchronous I/O"))?;
        config.set_max_background(MAX_BACKGROUND).map(drop).map_err(|_| std::io::Error::other("no deep queue"))
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&TTL, &self.attributes(INODE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(inode));
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(1), flags);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        at: u64,
        len: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.start(Box::new(move |state, failed| match failed {
            Some(errno) => reply.error(errno),
            None => reply.data(&state.content[range(at, len as usize)]),
        }));
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        at: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        self.start(Box::new(move |state, failed| {
            if let Some(errno) = failed {
                return reply.error(errno);
            }
            state.content[range(at, data.len())].copy_from_slice(&data);
            reply.written(u32::try_from(data.len()).unwrap());
        }));
    }

    fn fsync(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.start(Box::new(move |_, failed| match failed {
            Some(errno) => reply.error(errno),
            None => reply.ok(),
        }));
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        at: u64,
        len: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        self.start(Box::new(move |state, failed| {
            if let Some(errno) = failed {
                return reply.error(errno);
            }
            // Past the end there is nothing to zero.
            let end = (at + len).min(state.content.len() as u64);
            if at < end {
                state.content[range(at, usize::try_from(end - at).unwrap())].fill(0);
            }
            reply.ok();
        }));
    }

    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
