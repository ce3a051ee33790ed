//! The fake disk keeps the contract it is a stand-in for.

use super::*;
use crate::executor::Stopped;

fn world(seed: u64) -> (Executor, Rc<SimDisk>) {
    let mut rng = Rng::new(seed);
    let exec = Executor::new(rng.fork());
    let disk = SimDisk::new(0, ByteLen(64 << 10), &exec, rng.fork());
    (exec, disk)
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
    let handle = disk.disk();
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
    let (handle, told) = (disk.disk(), Rc::new(Cell::new(None)));
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
        for byte in 1..20 {
            let handle = disk.disk();
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
    let manners = Manners {
        fast_us: 10,
        slow_us: 100,
        slower: 100,
        eio_once: 500,
        eio_read: 500,
        hang: 500,
        hang_ms: 100,
        broken: None,
    };
    disk.manners.set(manners);
    let handle = disk.disk();
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
