//! One suite for every engine, on a file and on a loop device (needs root and losetup, as an oracle does): what rule
//! 1 to 5 of the block device contract demand, seen from outside. Durability is judged by the kernel's own count of
//! flushes that reached the device.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is the report; patterns may wrap")]

#[path = "support/hanging.rs"]
mod hanging;
mod support;

use block::{DeviceError, Disk, Durability, IoBuf, IoData, IoFuture};
use hanging::HangingDisk;
use host::disk::{DiskErrorKind, Engine, Kind, Options, open, open_when_free, prepare};
use host::runtime::block_on;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::task::{Context, Waker};
use support::{Scratch, have, tool};
use units::{ByteLen, ByteOffset, Millis};

const ENGINES: [Engine; 3] = [Engine::Ring, Engine::Pool, Engine::Inline];
const SIZE: ByteLen = ByteLen::mib(8);
const LOCK_WAIT: Millis = Millis(5000);

/// A loop device that goes away with the test.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path, block_bytes: u32) -> Option<Self> {
        if !have("losetup") {
            return None;
        }
        let mut command = Command::new("losetup");
        let command = command.args(["--find", "--show", "--sector-size", &block_bytes.to_string()]).arg(file);
        Some(Self(PathBuf::from(tool(command).trim())))
    }

    /// How many flushes the device has done. Source: Linux `Documentation/block/stat.rst`, the 16th number.
    fn flushes(&self) -> u64 {
        let name = self.0.file_name().unwrap().to_str().unwrap();
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        stat.split_whitespace().nth(15).unwrap().parse().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        tool(Command::new("losetup").arg("--detach").arg(&self.0));
    }
}

fn options(engine: Engine) -> Options {
    Options { engine: Some(engine), ..Options::default() }
}

/// Runs `check` on every engine, over a file on a disk and over a loop device.
fn on_every_engine<F: Future<Output = ()>>(name: &str, check: impl Fn(Disk) -> F) {
    let scratch = Scratch::new(name);
    let file = scratch.disk("file", SIZE);
    let behind = scratch.disk("behind", SIZE);
    let device = Loop::over(&behind, 512);
    let places = [Some(file.as_path()), device.as_ref().map(|device| device.0.as_path())];
    for engine in ENGINES {
        for place in places.into_iter().flatten() {
            eprintln!("{name}: {engine:?} on {}", place.display());
            let opened = async |_| check(open_when_free(place, options(engine), LOCK_WAIT).await.unwrap()).await;
            block_on(opened).unwrap();
        }
    }
}

fn bytes(len: usize, seed: u8) -> IoData {
    let bytes: Vec<u8> = (0..len).map(|i| seed.wrapping_mul(31).wrapping_add((i % 251) as u8)).collect();
    IoBuf::copy_of(&bytes).freeze()
}

async fn read(disk: &Disk, at: u64, len: usize) -> Vec<u8> {
    disk.read(ByteOffset(at), IoBuf::new(len)).await.unwrap().to_vec()
}

async fn write(disk: &Disk, at: u64, data: &IoData, how: Durability) {
    disk.write(ByteOffset(at), data.clone(), how).await.unwrap();
}

/// Goal: what was written is read back, by every size, also after closing. Method: write, read, reopen, read.
#[test]
fn what_was_written_is_read_back() {
    on_every_engine("read-back", async |disk| {
        for (at, len, how) in
            [(0, 512, Durability::Cached), (4096, 4096, Durability::Fua), (1 << 20, 3 << 20, Durability::Cached)]
        {
            let data = bytes(len, 7);
            write(&disk, at, &data, how).await;
            assert_eq!(read(&disk, at, len).await, *data, "{len} at {at}");
        }
        let end = SIZE.0 - 512;
        write(&disk, end, &bytes(512, 9), Durability::Cached).await;
        assert_eq!(read(&disk, end, 512).await, *bytes(512, 9));
        disk.flush().await.unwrap();
        disk.read(ByteOffset(SIZE.0), IoBuf::new(0)).await.unwrap();
    });
}

/// Goal: more operations at once than any queue holds all end, each with its own bytes. Method: 1500 writes and then
/// 1500 reads in flight together.
#[test]
fn many_operations_at_once_all_end() {
    on_every_engine("many", async |disk| {
        const COUNT: u64 = 1500;
        let tasks: Vec<_> = (0..COUNT)
            .map(|i| {
                let write = disk.write(ByteOffset(i * 4096), bytes(4096, (i % 256) as u8), Durability::Cached);
                tokio::task::spawn_local(write)
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        let tasks: Vec<_> =
            (0..COUNT).map(|i| tokio::task::spawn_local(disk.read(ByteOffset(i * 4096), IoBuf::new(4096)))).collect();
        for (i, task) in tasks.into_iter().enumerate() {
            assert_eq!(*task.await.unwrap().unwrap(), *bytes(4096, (i % 256) as u8), "block {i}");
        }
    });
}

/// Goal: rule 1. Method: ask for what is not there or not on a block, and see nothing change.
#[test]
fn requests_off_the_device_or_its_blocks_touch_nothing() {
    on_every_engine("refused", async |disk| {
        let block = disk.geometry().block_bytes;
        assert_eq!(disk.geometry().size, SIZE);
        write(&disk, 0, &bytes(8192, 3), Durability::Cached).await;
        let off = disk.write(ByteOffset(1), bytes(4096, 4), Durability::Cached).await;
        assert!(matches!(off, Err(DeviceError::Unaligned { block_bytes, .. }) if block_bytes == block));
        let off = disk.read(ByteOffset(0), IoBuf::new(100)).await;
        assert!(matches!(off, Err(DeviceError::Unaligned { .. })));
        let past = disk.write(ByteOffset(SIZE.0 - 4096), bytes(8192, 4), Durability::Cached).await;
        assert!(matches!(past, Err(DeviceError::OutOfRange { .. })));
        let past = disk.read(ByteOffset(u64::MAX - 4095), IoBuf::new(4096)).await;
        assert!(matches!(past, Err(DeviceError::OutOfRange { .. })));
        let past = disk.discard(ByteOffset(SIZE.0), ByteLen(4096)).await;
        assert!(matches!(past, Err(DeviceError::OutOfRange { .. })));
        let past = disk.write_zeroes(ByteOffset(SIZE.0), ByteLen(4096), Durability::Fua, true).await;
        assert!(matches!(past, Err(DeviceError::OutOfRange { .. })));
        assert_eq!(read(&disk, 0, 8192).await, *bytes(8192, 3));
    });
}

/// Goal: rule 3. Method: poll a write once, drop it, flush, close; read it back through another disk.
#[test]
fn a_dropped_write_is_written() {
    fn poll_once(mut future: IoFuture<()>) {
        let _ = pin!(&mut future).poll(&mut Context::from_waker(Waker::noop()));
    }
    let scratch = Scratch::new("dropped");
    let path = scratch.disk("file", SIZE);
    for (seed, engine) in (1..).zip(ENGINES) {
        let kept = async |_| {
            let disk = open_when_free(&path, options(engine), LOCK_WAIT).await.unwrap();
            poll_once(disk.write(ByteOffset(4096), bytes(1 << 20, seed), Durability::Cached));
        };
        block_on(kept).unwrap();
        let seen = async |_| {
            let disk = open_when_free(&path, options(Engine::Inline), LOCK_WAIT).await.unwrap();
            assert_eq!(read(&disk, 4096, 1 << 20).await, *bytes(1 << 20, seed), "{engine:?}");
        };
        block_on(seen).unwrap();
    }
}

/// Goal: zeroes read as zeroes whichever way they are made, and only where asked. Method: fill, zero, discard, read.
#[test]
fn zeroes_are_where_they_were_asked_for() {
    on_every_engine("zeroes", async |disk| {
        for (how, may_unmap) in [(Durability::Cached, false), (Durability::Fua, true)] {
            write(&disk, 0, &bytes(4 << 20, 5), Durability::Cached).await;
            disk.write_zeroes(ByteOffset(4096), ByteLen(3 << 20), how, may_unmap).await.unwrap();
            let mut expect = bytes(4 << 20, 5).to_vec();
            expect[4096..4096 + (3 << 20)].fill(0);
            assert_eq!(read(&disk, 0, 4 << 20).await, expect, "may_unmap {may_unmap}");
        }
        assert!(disk.geometry().discard, "ext4, tmpfs and loop devices can discard");
        disk.discard(ByteOffset(0), ByteLen(4096)).await.unwrap();
        let first = read(&disk, 0, 4096).await;
        assert_eq!(read(&disk, 0, 4096).await, first, "the same on every read");
    });
}

/// Goal: a slice that begins anywhere in memory is written all the same. Method: write from an odd address.
#[test]
fn data_may_begin_anywhere_in_memory() {
    on_every_engine("anywhere", async |disk| {
        let whole = bytes(8192, 8);
        disk.write(ByteOffset(0), whole.slice(3, 4096), Durability::Cached).await.unwrap();
        assert_eq!(read(&disk, 0, 4096).await, whole[3..4099]);
    });
}

/// Goal: flush and FUA reach the device, and an ordinary write does not wait for it. Method: the kernel counts the
/// flushes of a loop device.
#[test]
fn flush_and_fua_reach_the_device() {
    let scratch = Scratch::new("flushes");
    let Some(device) = Loop::over(&scratch.disk("behind", SIZE), 512) else { return };
    for engine in ENGINES {
        let counted = async |_| {
            let disk = open_when_free(&device.0, options(engine), LOCK_WAIT).await.unwrap();
            assert!(disk.geometry().volatile_cache);
            let begun = device.flushes();
            write(&disk, 0, &bytes(4096, 1), Durability::Cached).await;
            assert_eq!(device.flushes(), begun, "{engine:?}: a cached write needs no flush");
            disk.flush().await.unwrap();
            let flushed = device.flushes();
            assert!(flushed > begun, "{engine:?}: flush");
            write(&disk, 0, &bytes(4096, 2), Durability::Fua).await;
            let forced = device.flushes();
            assert!(forced > flushed, "{engine:?}: FUA");
            disk.write_zeroes(ByteOffset(0), ByteLen(4096), Durability::Fua, false).await.unwrap();
            assert!(device.flushes() > forced, "{engine:?}: zeroes with FUA");
        };
        block_on(counted).unwrap();
    }
}

/// Goal: what the media cannot give is an error, not old bytes. Method: cut the file off under an open disk, on a
/// block and within one; let a loop device turn read-only under a writer.
#[test]
fn a_failing_disk_says_so() {
    let scratch = Scratch::new("failing");
    for engine in ENGINES {
        let path = scratch.disk("file", SIZE);
        let cut = async |_| {
            let disk = open_when_free(&path, options(engine), LOCK_WAIT).await.unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            for (end, at, len) in [(1 << 20, 2 << 20, 4096), (1 << 20, (1 << 20) - 4096, 8192), (1000, 0, 4096)] {
                file.set_len(end).unwrap();
                let answer = disk.read(ByteOffset(at), IoBuf::new(len)).await.map(|_| ());
                assert_eq!(answer, Err(DeviceError::Failed { errno: 5 }), "{engine:?}: {len} at {at} of {end}");
            }
        };
        block_on(cut).unwrap();
        let Some(device) = Loop::over(&scratch.disk("behind", SIZE), 512) else { continue };
        let protected = async |_| {
            let disk = open_when_free(&device.0, options(engine), LOCK_WAIT).await.unwrap();
            tool(Command::new("blockdev").arg("--setro").arg(&device.0));
            let answer = disk.write(ByteOffset(0), bytes(4096, 1), Durability::Cached).await;
            // The loop device keeps this word for its next user.
            tool(Command::new("blockdev").arg("--setrw").arg(&device.0));
            assert!(matches!(answer, Err(DeviceError::Failed { .. })), "{engine:?}: {answer:?}");
        };
        block_on(protected).unwrap();
    }
}

/// Goal: one opener at a time, and the second is told who has it and gets it afterwards. Method: open twice, then wait.
#[test]
fn a_second_opener_is_refused_and_may_wait() {
    let scratch = Scratch::new("locked");
    let path = scratch.disk("file", SIZE);
    let contest = async |_| {
        let disk = open(&path, Options::default()).unwrap();
        let refused = open(&path, Options::default()).map(|_| ()).expect_err("it is held");
        assert!(refused.is_busy());
        assert!(refused.to_string().contains("in use by this very process"), "{refused}");
        let waited = open_when_free(&path, Options::default(), Millis(100)).await.map(|_| ());
        assert!(waited.expect_err("still held").is_busy());
        let release = async {
            tokio::time::sleep(std::time::Duration::from_millis(120)).await;
            drop(disk);
        };
        let (next, ()) = tokio::join!(open_when_free(&path, Options::default(), LOCK_WAIT), release);
        next.unwrap();
    };
    block_on(contest).unwrap();

    let held = std::fs::File::open(&path).unwrap();
    let mut flock = Command::new("flock").arg(&path).args(["sleep", "60"]).spawn().unwrap();
    let named = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        prepare(&path, Options::default()).map(drop).err()
    });
    flock.kill().unwrap();
    flock.wait().unwrap();
    drop(held);
    let named = named.expect("flock(1) holds it within two seconds").to_string();
    assert!(named.contains(&format!("process {}", flock.id())), "{named}");
}

/// DA5: a disk whose operations were all answered is free as soon as it is dropped: a failed member can be added again.
/// Method: write, drop and open again at once, many times; another disk keeps the thread's workers and its ring. A few
/// are busy all the same: other tests of this process start programs, which have its files open until they are theirs.
#[test]
fn a_dropped_disk_is_free_at_once() {
    let scratch = Scratch::new("free");
    let (path, other) = (scratch.disk("file", SIZE), scratch.disk("other", SIZE));
    for engine in ENGINES {
        let again = async |_| {
            let stays = open(&other, options(engine)).unwrap();
            let mut busy = 0;
            for _ in 0..300 {
                let disk = match open(&path, options(engine)) {
                    Ok(disk) => disk,
                    Err(error) => {
                        assert!(error.is_busy(), "{error}");
                        busy += 1;
                        open_when_free(&path, options(engine), LOCK_WAIT).await.unwrap()
                    }
                };
                write(&disk, 0, &bytes(4096, 1), Durability::Cached).await;
                disk.flush().await.unwrap();
            }
            stays.flush().await.unwrap();
            assert!(busy < 15, "{engine:?}: busy {busy} times of 300");
        };
        block_on(again).unwrap();
    }
}

/// Goal: a block device in use by anybody is refused, with a name. Method: a second opener, then a mount.
#[test]
fn a_device_in_use_is_refused() {
    let scratch = Scratch::new("exclusive");
    let Some(device) = Loop::over(&scratch.disk("behind", SIZE), 4096) else { return };
    let opened = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        prepare(&device.0, Options::default()).ok()
    });
    let opened = opened.expect("nobody else wants it");
    assert_eq!((opened.facts().kind, opened.facts().geometry.block_bytes), (Kind::Block, 4096));
    assert!(opened.facts().direct);
    let refused = prepare(&device.0, Options::default()).map(drop).expect_err("it is held");
    assert!(matches!(refused.kind, DiskErrorKind::Busy { .. }), "{refused}");
    assert!(refused.to_string().contains(device.0.to_str().unwrap()), "{refused}");
}

/// Goal: what is no disk is refused in words, and nothing is made or changed. Method: one of each.
#[test]
fn what_is_no_disk_is_refused() {
    let scratch = Scratch::new("no-disk");
    let check = |path: &Path, words: &str| {
        let refused = prepare(path, Options::default()).map(drop).expect_err(words).to_string();
        assert!(refused.contains(words) && refused.contains(path.to_str().unwrap()), "{refused}");
    };
    check(&scratch.path("missing"), "does not exist");
    assert!(!scratch.path("missing").exists());
    check(Path::new("/dev/null"), "a character device");
    check(&std::env::temp_dir(), "a folder");
    check(&scratch.disk("empty", ByteLen(0)), "less than one block");
    check(&scratch.disk("short", ByteLen(100)), "less than one block");
}

/// Goal: a disk opened for looking is not changed. Method: every changing operation.
#[test]
fn a_read_only_disk_refuses_changes() {
    let scratch = Scratch::new("read-only");
    let path = scratch.disk("file", SIZE);
    let looked = async |_| {
        let disk = open(&path, Options { read_only: true, ..Options::default() }).unwrap();
        let answers = [
            disk.write(ByteOffset(0), bytes(4096, 1), Durability::Fua).await,
            disk.discard(ByteOffset(0), ByteLen(4096)).await,
            disk.write_zeroes(ByteOffset(0), ByteLen(4096), Durability::Cached, true).await,
        ];
        assert_eq!(answers, [Err(DeviceError::ReadOnly); 3]);
        assert_eq!(read(&disk, 0, 4096).await, vec![0; 4096]);
    };
    block_on(looked).unwrap();
}

/// Goal: a file in memory is served inline (without swap), one on a disk is not. Method: /dev/shm and the scratch.
#[test]
fn the_engine_suits_the_disk() {
    let scratch = Scratch::new("engine");
    let opened = prepare(&scratch.disk("file", SIZE), Options::default()).unwrap();
    assert!(opened.facts().in_memory || opened.engine() != Engine::Inline);

    let shm = PathBuf::from(format!("/dev/shm/muskox-engine-{}", std::process::id()));
    std::fs::File::create(&shm).unwrap().set_len(SIZE.0).unwrap();
    let opened = prepare(&shm, Options::default()).unwrap();
    std::fs::remove_file(&shm).unwrap();
    let swap = std::fs::read_to_string("/proc/swaps").unwrap().lines().count() > 1;
    assert_eq!(opened.engine() == Engine::Inline, !swap);
}

/// Begins so many operations that hang, and gives them time to arrive.
async fn begin_hanging<T: Unpin + 'static>(
    count: u64,
    begin: impl Fn(u64) -> IoFuture<T>,
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut tasks = Vec::new();
    for index in 0..count {
        let hanging = begin(index);
        tasks.push(tokio::task::spawn_local(async move { drop(hanging.await) }));
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    tasks
}

/// DA3: a disk that hangs takes nothing from another disk of the same thread. Method: as many operations hang on A as ever
/// went to the kernel at once; then one of each kind on B, in each engine.
#[test]
fn a_hung_disk_holds_up_no_other() {
    let scratch = Scratch::new("hung");
    let Some(hanging) = HangingDisk::new(&scratch.path("mount"), 8 << 20) else { return };
    let beside = scratch.disk("beside", SIZE);
    let begin_write = |disk: &Disk, index| disk.write(ByteOffset(index * 4096), bytes(4096, 1), Durability::Cached);
    let begin_zeroes =
        |disk: &Disk, index| disk.write_zeroes(ByteOffset(index * 4096), ByteLen(4096), Durability::Cached, true);
    for (engine, count) in [(Engine::Pool, 16), (Engine::Pool, 600), (Engine::Ring, 16), (Engine::Ring, 600)] {
        let contest = async |_| {
            let a = open(hanging.path(), options(engine)).unwrap();
            let b = open(&beside, options(engine)).unwrap();
            hanging.hang();
            let writes = begin_hanging(count, |index| begin_write(&a, index)).await;
            let reads = begin_hanging(count, |index| a.read(ByteOffset(index * 4096), IoBuf::new(4096))).await;
            let flushes = begin_hanging(count, |_| a.flush()).await;
            let zeroes = begin_hanging(count, |index| begin_zeroes(&a, index)).await;
            assert!(hanging.held() >= 16, "{engine:?}: only {} hang", hanging.held());
            let begun = std::time::Instant::now();
            let beside = async {
                write(&b, 0, &bytes(4096, 2), Durability::Fua).await;
                b.flush().await.unwrap();
                assert_eq!(read(&b, 0, 4096).await, *bytes(4096, 2));
                b.write_zeroes(ByteOffset(4096), ByteLen(4096), Durability::Cached, true).await.unwrap();
            };
            let done = tokio::time::timeout(std::time::Duration::from_secs(1), beside).await;
            let took = begun.elapsed();
            hanging.release();
            for task in writes.into_iter().chain(reads).chain(flushes).chain(zeroes) {
                task.await.unwrap();
            }
            assert!(
                done.is_ok(),
                "{engine:?} with {count} of each kind hanging: nothing on the other disk in {took:?}"
            );
        };
        block_on(contest).unwrap();
    }
}

/// DA14: a kernel that is short of memory is no dead disk: the operation is tried again. An error of the disk is not. Method:
/// a disk that says ENOMEM or EAGAIN a few times, then EIO once.
#[test]
fn a_kernel_that_is_short_of_something_is_asked_again() {
    // Source: Linux `include/uapi/asm-generic/errno-base.h`.
    const EIO: i32 = 5;
    const EAGAIN: i32 = 11;
    const ENOMEM: i32 = 12;
    let scratch = Scratch::new("short");
    let Some(disk) = HangingDisk::new(&scratch.path("mount"), 8 << 20) else { return };
    for engine in ENGINES {
        let tried = async |_| {
            let opened = open_when_free(disk.path(), options(engine), LOCK_WAIT).await.unwrap();
            for errno in [EAGAIN, ENOMEM] {
                disk.fail(errno, 6);
                write(&opened, 4096, &bytes(4096, 3), Durability::Fua).await;
                assert_eq!(disk.asked(), 7, "{engine:?}: a write");
                disk.fail(errno, 6);
                assert_eq!(read(&opened, 4096, 4096).await, *bytes(4096, 3));
                assert_eq!(disk.asked(), 7, "{engine:?}: a read");
                disk.fail(errno, 6);
                opened.flush().await.unwrap();
                assert_eq!(disk.asked(), 7, "{engine:?}: a flush");
                disk.fail(errno, 6);
                opened.write_zeroes(ByteOffset(4096), ByteLen(4096), Durability::Cached, true).await.unwrap();
                assert_eq!(disk.asked(), 7, "{engine:?}: zeroes");
            }
            disk.fail(EIO, 1);
            let answer = opened.write(ByteOffset(0), bytes(4096, 4), Durability::Cached).await;
            assert_eq!((answer, disk.asked()), (Err(DeviceError::Failed { errno: EIO }), 1), "{engine:?}");
            disk.fail(EIO, 1);
            assert_eq!(
                (opened.flush().await, disk.asked()),
                (Err(DeviceError::Failed { errno: EIO }), 1),
                "{engine:?}"
            );
        };
        block_on(tried).unwrap();
    }
}
