//! The fake disk keeps the contract it is a stand-in for.

use super::*;
use crate::executor::Stopped;

fn world(seed: u64) -> (Executor, Rc<SimDisk>) {
    let mut rng = Rng::new(seed);
    let exec = Executor::new(rng.fork());
    let disk = SimDisk::new(0, Model::plain(ByteLen(64 << 10)), &exec, rng.fork());
    (exec, disk)
}

/// The disk, for the machine itself.
fn opened(exec: &Executor, disk: &Rc<SimDisk>) -> Disk {
    disk.open(&exec.machine(), &Rc::default()).expect("nobody has it")
}

fn filled(byte: u8) -> IoData {
    IoBuf::copy_of(&[byte; 4096]).freeze()
}

/// Goal: a killed process leaves its operations to the kernel, and the successor's wait sees them end. Method: kill
/// while a write is in flight, wait for quiet, look at the media.
#[test]
fn a_killed_process_leaves_its_writes_to_the_kernel() {
    let (exec, disk) = world(3);
    let victim = exec.process();
    let handle = disk.open(&victim, &Rc::default()).expect("nobody has it");
    victim.go(async move {
        let _ = handle.write(ByteOffset(4096), filled(7), Durability::Cached).await;
        panic!("the answer comes after the kill");
    });
    exec.run(10, || false);
    victim.kill();
    assert!(disk.busy_at(8));
    let (waiter, quiet) = (Rc::clone(&disk), Rc::new(Cell::new(false)));
    let told = Rc::clone(&quiet);
    exec.machine().go(async move {
        waiter.quiet().await;
        told.set(true);
    });
    assert_eq!(exec.run(1_000_000, || quiet.get()), Stopped::Done);
    assert_eq!(disk.media().live().get(4096, 1)[0], 7);
}

/// Goal: whoever outlives a disk's power is told that the disk is gone, once. Method: cut, then run on.
#[test]
fn a_power_cut_is_told_to_who_outlives_it() {
    let (exec, disk) = world(4);
    let (handle, told) = (opened(&exec, &disk), Rc::new(Cell::new(None)));
    let answer = Rc::clone(&told);
    exec.machine().go(async move {
        answer.set(Some(handle.write(ByteOffset(0), filled(7), Durability::Fua).await));
    });
    exec.run(10, || false);
    disk.power_cut(true);
    assert_eq!(exec.run(1_000_000, || false), Stopped::Quiet);
    assert_eq!(told.get(), Some(Err(DeviceError::Failed { errno: ENODEV })));
}

/// Goal: operations complete out of order. Method: twenty writes to one place at once, many seeds; the last one asked
/// for is not always the one that stays.
#[test]
fn operations_in_flight_have_no_order() {
    let last = |seed| {
        let (exec, disk) = world(seed);
        let disk_of_all = opened(&exec, &disk);
        for byte in 1..20 {
            let handle = Rc::clone(&disk_of_all);
            exec.machine().go(async move {
                handle.write(ByteOffset(0), filled(byte), Durability::Cached).await.expect("a good disk");
            });
        }
        assert_eq!(exec.run(u64::MAX, || false), Stopped::Quiet);
        disk.media().live().get(0, 1)[0]
    };
    let seen: std::collections::BTreeSet<u8> = (0..40).map(last).collect();
    assert!(seen.len() > 5, "{seen:?}");
}

/// Goal: each fault of the manners happens and is counted. Method: turn everything on, do a thousand operations.
#[test]
fn faults_happen_and_are_counted() {
    let (exec, disk) = world(5);
    let manners = Manners { slower: 100, eio_once: 500, eio_read: 500, hang: 500, hang_ms: 100, ..Manners::QUICK };
    disk.manners.set(manners);
    let handle = opened(&exec, &disk);
    exec.machine().go(async move {
        for _ in 0..500 {
            let _ = handle.write(ByteOffset(0), filled(1), Durability::Cached).await;
            let _ = handle.read(ByteOffset(0), IoBuf::new(4096)).await;
        }
    });
    assert_eq!(exec.run(u64::MAX, || false), Stopped::Quiet);
    let happened = disk.happened.get();
    assert!(happened.eio_once > 0 && happened.eio_read > 0 && happened.hangs > 0 && happened.slow > 0, "{happened:?}");
}

/// Goal: a disk has one user: until that has let it go or died, and the kernel has nothing of it any more. Method: each.
#[test]
fn a_disk_has_one_user() {
    let (exec, disk) = world(6);
    let (first, second) = (exec.process(), exec.process());
    let busy =
        |process: &Process| disk.open(process, &Rc::default()).err() == Some(DeviceError::Failed { errno: EBUSY });
    let held = disk.open(&first, &Rc::default()).expect("nobody has it");
    assert!(busy(&second) && busy(&first));
    let metadata = held.for_metadata().expect("a lane of its own");
    drop(held);
    assert!(busy(&second), "half of it is still held");
    first.go(async move {
        let _ = metadata.write(ByteOffset(0), filled(1), Durability::Cached).await;
    });
    exec.run(10, || false);
    first.kill();
    assert!(busy(&second), "the kernel still writes");
    exec.run(1_000_000, || false);
    assert!(!busy(&second));
    assert_eq!(disk.happened.get().busy, 4);
    disk.manners.set(Manners { broken: Some(ENODEV), ..Manners::WELL });
    assert_eq!(disk.open(&second, &Rc::default()).err(), Some(DeviceError::Failed { errno: ENODEV }));
}

/// Goal: what is above a lane's budget waits in the process and dies with it; metadata waits behind no data. Method: a hung
/// disk full of writes, a superblock, a kill.
#[test]
fn what_waits_in_the_queue_dies_with_its_process() {
    let (exec, disk) = world(7);
    let victim = exec.process();
    let held = disk.open(&victim, &Rc::default()).expect("nobody has it");
    disk.manners.set(Manners { fast_us: 10_000, slow_us: 10_000, ..Manners::WELL });
    for place in 0..10 {
        let handle = Rc::clone(&held);
        victim.go(async move {
            let _ = handle.write(ByteOffset(place * 4096), filled(1), Durability::Cached).await;
        });
    }
    let metadata = held.for_metadata().expect("a lane of its own");
    victim.go(async move {
        let _ = metadata.write(ByteOffset(11 * 4096), filled(2), Durability::Fua).await;
    });
    exec.run(100, || false);
    let mut in_kernel = Vec::new();
    disk.each_in_flight(|_, at, _, _| in_kernel.push(at / 4096));
    assert_eq!(in_kernel.len(), Lane::Data.budget() + 1);
    assert!(in_kernel.contains(&11));
    victim.kill();
    exec.run(1_000_000, || false);
    let written = (0..16).filter(|page| disk.media().live().get(page * 4096, 1)[0] != 0).count();
    assert_eq!(written, Lane::Data.budget() + 1);
}

/// Goal: a flush that lasts keeps everything else waiting. Method: a read asked for behind it.
#[test]
fn a_flush_blocks_what_comes_behind_it() {
    let (exec, disk) = world(8);
    disk.manners.set(Manners { flush_ms: 3_000, ..Manners::QUICK });
    let (handle, ended) = (opened(&exec, &disk), Rc::new(RefCell::new(Vec::new())));
    for (name, delay) in [("flush", 0), ("read", 100)] {
        let (handle, ended, sleeper) = (Rc::clone(&handle), Rc::clone(&ended), exec.clone());
        exec.machine().go(async move {
            sleeper.sleep_us(delay).await;
            if name == "flush" {
                handle.flush().await.expect("a good disk");
            } else {
                handle.read(ByteOffset(0), IoBuf::new(4096)).await.expect("a good disk");
            }
            ended.borrow_mut().push((name, sleeper.now_us()));
        });
    }
    assert_eq!(exec.run(u64::MAX, || false), Stopped::Quiet);
    let ended = ended.borrow();
    assert_eq!(ended.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["flush", "read"]);
    assert!(ended[0].1 > 10_000, "it takes a while: {ended:?}");
    assert_eq!(disk.happened.get().behind_flush, 1);
}

/// Goal: a bad sector stays bad until it is written, and on a worn disk for good; the others are not touched by it.
#[test]
fn a_bad_sector_is_bad_until_it_is_written() {
    let (exec, disk) = world(9);
    disk.spoil(9);
    let (handle, told) = (opened(&exec, &disk), Rc::new(RefCell::new(Vec::new())));
    let (answers, faulty) = (Rc::clone(&told), Rc::clone(&disk));
    exec.machine().go(async move {
        let read = async |at: u64| handle.read(ByteOffset(at), IoBuf::new(4096)).await.is_ok();
        let mut all = vec![read(0).await, read(4096).await, read(4096).await];
        faulty.manners.set(Manners { worn: true, ..Manners::WELL });
        let write = async || handle.write(ByteOffset(4096), filled(3), Durability::Cached).await.is_ok();
        all.extend([write().await, read(4096).await]);
        faulty.manners.set(Manners::WELL);
        all.extend([write().await, read(4096).await]);
        answers.replace(all);
    });
    assert_eq!(exec.run(u64::MAX, || false), Stopped::Quiet);
    assert_eq!(*told.borrow(), [true, false, false, false, false, true, true]);
    assert_eq!((disk.bad_sectors(), disk.happened.get().bad_reads, disk.happened.get().replaced), (0, 4, 1));
}

/// Goal: blocks of 4096 bytes are the unit of every request, and what a discard leaves is chance. Method: requests of 512
/// bytes; a discard of sixteen pages, many seeds.
#[test]
fn blocks_and_discards_are_the_models() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..10 {
        let mut rng = Rng::new(seed);
        let exec = Executor::new(rng.fork());
        let model = Model { len: ByteLen(64 << 10), block_bytes: 4096, discard: true };
        let disk = SimDisk::new(0, model, &exec, rng.fork());
        let handle = opened(&exec, &disk);
        let unaligned = handle.read(ByteOffset(512), IoBuf::new(4096)).try_now();
        assert!(matches!(unaligned, Ok(Err(DeviceError::Unaligned { block_bytes: 4096, .. }))));
        exec.machine().go(async move {
            for page in 0..16 {
                handle.write(ByteOffset(page * 4096), filled(7), Durability::Cached).await.expect("a good disk");
            }
            handle.discard(ByteOffset(0), ByteLen(64 << 10)).await.expect("it is supported");
        });
        assert_eq!(exec.run(u64::MAX, || false), Stopped::Quiet);
        seen.extend((0..16).map(|page| disk.media().live().get(page * 4096, 1)[0]));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 7, 0xdd]);
}

/// Goal: a disk can lie: a write lands elsewhere, or nowhere; a bit turns. Method: each once.
#[test]
fn a_disk_can_lie() {
    let (exec, disk) = world(10);
    let handle = opened(&exec, &disk);
    let write = |lies: Lies| {
        disk.lies.set(lies);
        let handle = Rc::clone(&handle);
        exec.machine().go(async move {
            handle.write(ByteOffset(0), filled(5), Durability::Fua).await.expect("it says so");
        });
        exec.run(exec.now_us() + 1_000_000, || false);
        (0..16).filter(|page| disk.media().live().get(page * 4096, 1)[0] == 5).collect::<Vec<_>>()
    };
    assert_eq!(write(Lies { forget: 10_000, misdirect: 0 }), [] as [usize; 0]);
    let elsewhere = write(Lies { misdirect: 10_000, forget: 0 });
    assert!(elsewhere.len() == 1 && elsewhere[0] != 0, "{elsewhere:?}");
    disk.rot(8 * 4096 + 1, 3);
    assert_eq!(disk.media().live().get(8 * 4096, 2), [0, 8]);
    assert_eq!((disk.happened.get().lies, disk.happened.get().rotten), (2, 1));
}
