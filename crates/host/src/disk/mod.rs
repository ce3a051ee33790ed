//! Disks for the data plane: block devices and files as [`BlockDevice`].
//!
//! A disk is opened for this process alone (see `lock`), served past the page cache where that is possible, and answers
//! as `docs/rfd/0002-block-device.md` demands. One of three engines does its I/O:
//!
//! - [`Engine::Ring`]: io_uring, one ring per thread. The rule for real disks.
//! - [`Engine::Pool`]: threads that block, where io_uring is forbidden (seccomp, `kernel.io_uring_disabled`).
//! - [`Engine::Inline`]: the loop itself calls the kernel, and the answer is there at once. Right for files that live in
//!   memory and nowhere else (ramfs; tmpfs while no swap is in use), where a call is a copy and a ring would only hand
//!   the copy to a worker thread; wrong for everything that can wait, as the whole loop would wait with it.
//!
//! What it does *not* know: what is on a disk, and what to do when it fails.

mod error;
mod facts;
mod file;
mod find;
mod lanes;
mod lock;
mod pool;
mod ring;

pub use error::{DiskError, DiskErrorKind};
pub use facts::{Facts, Kind};
pub use find::{Identity, Machine, look_at};

use block::{BlockDevice, DeviceError, Disk, Durability, Geometry, IoBuf, IoData, IoFuture};
use file::{Job, OpenFile};
use lanes::{DiskKey, Lane};
use pool::Pool;
use ring::Ring;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use units::sabotage::{Bug, planted};
use units::{ByteLen, ByteOffset, Millis};

/// Who does the I/O of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// io_uring.
    Ring,
    /// Threads that block.
    Pool,
    /// The calling thread, at once.
    Inline,
}

/// How to open a disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `None`: what suits the disk. Tests and benches choose.
    pub engine: Option<Engine>,
    /// Refuse all changes.
    pub read_only: bool,
}

/// A disk that was opened and locked, not yet bound to a thread.
pub struct Opened {
    file: OpenFile,
    engine: Engine,
}

/// How often a busy disk is tried again.
const TRY_AGAIN: Millis = Millis(50);

/// Discards and zeroes of at most this length are done inline on a disk in memory; longer ones would hold up the loop
/// (freeing pages takes about 0.1 ms a MiB).
const INLINE_RANGE_MAX: ByteLen = ByteLen::mib(1);

/// Opens and locks `path` and binds it to this thread, whose loop must be running ([`crate::runtime`]). What a person
/// should know about the disk is logged; [`prepare`] gives it to the caller.
///
/// # Errors
/// [`DiskError`]; nothing was changed.
pub fn open(path: &Path, options: Options) -> Result<Disk, DiskError> {
    let opened = prepare(path, options)?;
    for note in &opened.facts().notes {
        tracing::info!(disk = %path.display(), "{note}");
    }
    opened.into_disk()
}

/// As [`open`], but waits at most `limit` for whoever holds the disk: the successor of a target that was just killed
/// waits for its last requests.
///
/// # Errors
/// [`DiskError`]; [`DiskErrorKind::Busy`] only when the time is up.
pub async fn open_when_free(path: &Path, options: Options, limit: Millis) -> Result<Disk, DiskError> {
    let until = crate::runtime::now() + limit;
    let mut told = false;
    loop {
        match open(path, options) {
            Err(error) if error.is_busy() && crate::runtime::now() < until => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("{error}; waiting up to {limit}");
                }
                crate::runtime::sleep_until(crate::runtime::now() + TRY_AGAIN).await;
            }
            opened => return opened,
        }
    }
}

/// Opens and locks `path` on any thread: looking at a dying disk may take long.
///
/// # Errors
/// [`DiskError`]; nothing was changed.
pub fn prepare(path: &Path, options: Options) -> Result<Opened, DiskError> {
    let (file, direct) = lock::claim(path, options.read_only)?;
    let facts = Facts::find(path, &file, direct, options.read_only)?;
    let engine = options.engine.unwrap_or_else(|| engine_for(&facts));
    Ok(Opened { file: OpenFile { file, facts }, engine })
}

fn engine_for(facts: &Facts) -> Engine {
    static RING_IS_POSSIBLE: OnceLock<bool> = OnceLock::new();
    match () {
        () if facts.in_memory => Engine::Inline,
        () if *RING_IS_POSSIBLE.get_or_init(Ring::is_possible) => Engine::Ring,
        () => Engine::Pool,
    }
}

impl Opened {
    /// What was found out about it.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.file.facts
    }

    /// Who will do its I/O.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Binds it to this thread, whose loop must be running.
    ///
    /// # Errors
    /// If the kernel refuses this thread a ring.
    pub fn into_disk(self) -> Result<Disk, DiskError> {
        let refused = |e| DiskError { path: self.file.facts.path.clone(), kind: DiskErrorKind::Ring(e) };
        let ring = match self.engine {
            Engine::Ring => Some(Ring::of_thread().map_err(refused)?),
            Engine::Pool | Engine::Inline => None,
        };
        let engines = Engines::new(ring, Pool::of_thread(), self.file.facts.queue_depth);
        let (file, engine) = (Arc::new(self.file), self.engine);
        Ok(Rc::new(FileDisk { file, engine, engines: Rc::new(engines), lane: Lane::Data }))
    }
}

/// The engines of this thread, and this disk's place in them.
struct Engines {
    ring: Option<(Rc<Ring>, DiskKey)>,
    pool: Rc<Pool>,
    in_pool: DiskKey,
}

impl Engines {
    fn new(ring: Option<Rc<Ring>>, pool: Rc<Pool>, queue_depth: usize) -> Self {
        let in_pool = pool.open();
        let in_ring = |ring: Rc<Ring>| {
            let key = ring.open(queue_depth);
            (ring, key)
        };
        Self { ring: ring.map(in_ring), pool, in_pool }
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        self.pool.close(self.in_pool);
        if let Some((ring, key)) = &self.ring {
            ring.close(*key);
        }
    }
}

struct FileDisk {
    file: Arc<OpenFile>,
    engine: Engine,
    engines: Rc<Engines>,
    /// Where its reads and writes queue.
    lane: Lane,
}

impl FileDisk {
    fn check_change(&self, at: ByteOffset, len: ByteLen) -> Result<(), DeviceError> {
        if self.file.facts.read_only {
            return Err(DeviceError::ReadOnly);
        }
        self.geometry().check(at, len)
    }

    /// Does a read, a write or a flush; `then` takes the answer out of the finished job.
    fn transfer<T: Unpin + 'static>(&self, mut job: Job, then: fn(Job) -> T) -> IoFuture<T> {
        let file = Arc::clone(&self.file);
        let lane = if matches!(job, Job::Flush) { Lane::Flush } else { self.lane };
        match (self.engine, &self.engines.ring) {
            (Engine::Inline, _) => match file.run_at_once(&mut job) {
                Some(done) => IoFuture::ready(done.map(|()| then(job))),
                None => self.by_pool(lane, job, then),
            },
            (Engine::Ring, Some(_)) => {
                let engines = Rc::clone(&self.engines);
                IoFuture::later(async move {
                    let (ring, key) = engines.ring.as_ref().expect("seen above");
                    ring.start(*key, lane, file, job).await.map(then)
                })
            }
            _ => self.by_pool(lane, job, then),
        }
    }

    /// Does a discard or a write of zeroes: rare, and long in the kernel.
    fn change_range(&self, mut job: Job, len: ByteLen) -> IoFuture<()> {
        if self.engine == Engine::Inline
            && len <= INLINE_RANGE_MAX
            && let Some(done) = self.file.run_at_once(&mut job)
        {
            return IoFuture::ready(done);
        }
        self.by_pool(Lane::Range, job, drop)
    }

    fn by_pool<T: Unpin + 'static>(&self, lane: Lane, job: Job, then: fn(Job) -> T) -> IoFuture<T> {
        let (engines, file) = (Rc::clone(&self.engines), Arc::clone(&self.file));
        IoFuture::later(async move {
            let pool = Rc::clone(&engines.pool);
            pool.run(engines.in_pool, lane, file, job).await.map(then)
        })
    }

    /// The same bytes where O_DIRECT takes them from: a slice of a larger buffer may begin anywhere.
    fn aligned(&self, from: IoData) -> IoData {
        if from.as_ptr().addr().is_multiple_of(self.file.facts.memory_align) {
            return from;
        }
        IoBuf::copy_of(&from).freeze()
    }
}

fn is_fua(how: Durability) -> bool {
    how == Durability::Fua && !planted(Bug::FuaIgnored)
}

impl BlockDevice for FileDisk {
    fn geometry(&self) -> Geometry {
        self.file.facts.geometry
    }

    fn for_metadata(&self) -> Option<Disk> {
        let (file, engines) = (Arc::clone(&self.file), Rc::clone(&self.engines));
        Some(Rc::new(Self { file, engines, engine: self.engine, lane: Lane::Metadata }))
    }

    fn read(&self, at: ByteOffset, into: IoBuf) -> IoFuture<IoBuf> {
        match self.geometry().check(at, into.byte_len()) {
            Ok(()) if into.is_empty() => IoFuture::ready(Ok(into)),
            Ok(()) => self.transfer(Job::Read { at, into }, Job::into_buf),
            Err(error) => IoFuture::ready(Err(error)),
        }
    }

    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        match self.check_change(at, from.byte_len()) {
            Ok(()) if from.is_empty() => IoFuture::ready(Ok(())),
            Ok(()) => self.transfer(Job::Write { at, from: self.aligned(from), fua: is_fua(how) }, drop),
            Err(error) => IoFuture::ready(Err(error)),
        }
    }

    fn flush(&self) -> IoFuture<()> {
        self.transfer(Job::Flush, drop)
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        match self.check_change(at, len) {
            Ok(()) if len.0 == 0 || !self.geometry().discard => IoFuture::ready(Ok(())),
            Ok(()) => self.change_range(Job::Discard { at, len }, len),
            Err(error) => IoFuture::ready(Err(error)),
        }
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        match self.check_change(at, len) {
            Ok(()) if len.0 == 0 => IoFuture::ready(Ok(())),
            Ok(()) => self.change_range(Job::WriteZeroes { at, len, fua: is_fua(how), may_unmap }, len),
            Err(error) => IoFuture::ready(Err(error)),
        }
    }
}
