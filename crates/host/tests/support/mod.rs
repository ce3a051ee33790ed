//! For oracle tests: a scratch folder, a file as a disk (answered at once), a runtime that needs no loop, and
//! running a peer's tool. A missing tool is a failure unless `MUSKOX_ALLOW_MISSING=1` (laptops).
#![allow(dead_code, reason = "each oracle test uses its part")]

use block::device::{BlockDevice, DeviceError, Disk, Durability, Geometry, IoFuture};
use block::runtime::{Rt, Runtime, Task};
use block::{IoBuf, IoData};
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use units::{ByteLen, ByteOffset, Moment};

/// A folder that goes away with the test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("muskox-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// A sparse file of this length.
    pub fn disk(&self, name: &str, size: ByteLen) -> PathBuf {
        let path = self.0.join(name);
        File::create(&path).unwrap().set_len(size.0).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file as a disk.
pub struct FileDisk(File);

impl FileDisk {
    pub fn open(path: &Path) -> Disk {
        Rc::new(Self(OpenOptions::new().read(true).write(true).open(path).unwrap()))
    }
}

fn failed(error: &std::io::Error) -> DeviceError {
    DeviceError::Failed { errno: error.raw_os_error().unwrap_or(5) }
}

impl BlockDevice for FileDisk {
    fn geometry(&self) -> Geometry {
        let size = ByteLen(self.0.metadata().unwrap().len());
        Geometry { size, block_bytes: 512, optimal_bytes: 4096, volatile_cache: true, discard: false }
    }

    fn read(&self, at: ByteOffset, mut into: IoBuf) -> IoFuture<IoBuf> {
        let answer = self.geometry().check(at, into.byte_len());
        let answer = answer.and_then(|()| self.0.read_exact_at(&mut into, at.0).map_err(|e| failed(&e)));
        IoFuture::ready(answer.map(|()| into))
    }

    fn write(&self, at: ByteOffset, from: IoData, _how: Durability) -> IoFuture<()> {
        let answer = self.geometry().check(at, from.byte_len());
        IoFuture::ready(answer.and_then(|()| self.0.write_all_at(&from, at.0).map_err(|e| failed(&e))))
    }

    fn flush(&self) -> IoFuture<()> {
        IoFuture::ready(self.0.sync_data().map_err(|e| failed(&e)))
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        IoFuture::ready(self.geometry().check(at, len))
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, _may_unmap: bool) -> IoFuture<()> {
        self.write(at, IoData::zeroes(usize::try_from(len.0).unwrap()), how)
    }
}

/// Real time, tasks run while [`Bench::run`] waits.
#[derive(Default)]
pub struct Bench {
    tasks: RefCell<Vec<Task>>,
}

impl Bench {
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    pub fn rt(self: &Rc<Self>) -> Rt {
        Rc::<Self>::clone(self)
    }

    /// Polls `work` and all spawned tasks until it is done; spins politely for at most a minute.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let (mut work, begun) = (pin!(work), Instant::now());
        let mut cx = Context::from_waker(Waker::noop());
        while begun.elapsed().as_secs() < 60 {
            if let Poll::Ready(answer) = work.as_mut().poll(&mut cx) {
                return answer;
            }
            let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            let left =
                tasks.into_iter().filter_map(|mut task| task.as_mut().poll(&mut cx).is_pending().then_some(task));
            let left: Vec<Task> = left.collect();
            self.tasks.borrow_mut().extend(left);
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        panic!("not done after a minute");
    }
}

fn steady_ms() -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap()
}

impl Runtime for Bench {
    fn now(&self) -> Moment {
        Moment(steady_ms())
    }

    fn sleep_until(&self, when: Moment) -> Task {
        Box::pin(std::future::poll_fn(move |_| if steady_ms() >= when.0 { Poll::Ready(()) } else { Poll::Pending }))
    }

    fn spawn(&self, task: Task) {
        self.tasks.borrow_mut().push(task);
    }
}

/// Whether the oracle `tool` is here.
///
/// # Panics
/// If it is not and nobody allowed that.
pub fn have(tool: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/sbin", "/usr/sbin"].map(PathBuf::from))
        .any(|dir| dir.join(tool).is_file());
    let allowed = std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1");
    assert!(found || allowed, "the oracle '{tool}' is missing: run `cargo xtask setup`, or set MUSKOX_ALLOW_MISSING=1");
    if !found {
        eprintln!("SKIP: oracle '{tool}' is missing");
    }
    found
}

/// Runs a tool and returns what it printed to both streams.
///
/// # Panics
/// If it fails.
pub fn tool(command: &mut Command) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let done = command.env("PATH", format!("{path}:/sbin:/usr/sbin")).env("LC_ALL", "C").output();
    let done = done.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let printed = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?} failed ({}):\n{printed}", done.status);
    printed
}
