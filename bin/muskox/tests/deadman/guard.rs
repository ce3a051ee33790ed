//! The guard: what becomes of guests when their dead-man does not stop them.

use crate::qemu::Fake;
use crate::support::{Cluster, LEASE, STOP_COST, runs, until};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use wire::control::{HeldState, StandingReport};

/// Three machines, the first with a guest whose volume is up, and a guard.
fn guarded() -> (Cluster, Fake) {
    let mut cluster = Cluster::running(3);
    let fake = Fake::new(&cluster.path(0, "vms"), "web1");
    fake.volume(HeldState::Up, Some(0));
    cluster.start_guard(0);
    (cluster, fake)
}

fn is_frozen_by_guard(fake: &Fake) -> bool {
    fake.folder.join("frozen-by-guard").exists()
}

/// CA5. Goal: where the dead-man hangs or is gone, guests are frozen within the lease and what a stop costs; when it is back it asks
/// for them and lets them go on. Method: it is stopped by a signal, then killed; a clock beside it.
#[test]
fn guests_of_a_dead_man_that_hangs_or_is_gone_are_frozen() {
    let (mut cluster, fake) = guarded();
    let frozen_in_time = |begun: Instant, cluster: &Cluster| {
        until("a frozen process", || fake.state() == 'T');
        let took = begun.elapsed();
        println!("frozen {took:?} after the dead-man's last deed");
        assert!(took < LEASE + STOP_COST + Duration::from_millis(50), "{took:?}: {}", cluster.guard_log(0));
        assert!(is_frozen_by_guard(&fake) && fake.runs(), "frozen, not told to stop");
    };
    cluster.signal(0, "-STOP");
    frozen_in_time(Instant::now(), &cluster);
    cluster.signal(0, "-CONT");
    until("a thaw", || fake.state() == 'S' && !is_frozen_by_guard(&fake));
    cluster.wait(0, "a lease", runs);

    cluster.kill(0);
    frozen_in_time(Instant::now(), &cluster);
    // What the guard froze is not let go on before its target has answered.
    fake.volume(HeldState::Waiting, None);
    cluster.start(0);
    let report = cluster.wait(0, "a lease", runs);
    assert!(report.guests[0].paused_by_us);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(fake.state(), 'T');
    fake.volume(HeldState::Up, Some(0));
    until("a thaw", || fake.state() == 'S' && !is_frozen_by_guard(&fake) && !fake.is_marked());
    // Stopped by `stop` it was by the new life, which had no lease at first, or not at all.
    until("a guest that runs", || fake.runs());
}

/// CA5. Goal: the guard does nothing while a dead-man does its work: not for restarts within the lease, not for guests that the
/// dead-man stopped itself and keeps stopped. Method: four restarts; a host that is alone for three leases; the guard's marks.
#[test]
fn a_dead_man_that_does_its_work_is_left_alone() {
    let (mut cluster, fake) = guarded();
    for _ in 0..4 {
        cluster.kill(0);
        cluster.start(0);
        cluster.wait(0, "a lease", runs);
        std::thread::sleep(Duration::from_millis(150));
    }
    [1, 2].iter().for_each(|n| cluster.signal(*n, "-STOP"));
    until("a stop", || !fake.runs());
    std::thread::sleep(3 * LEASE);
    assert_eq!(fake.state(), 'S');
    [1, 2].iter().for_each(|n| cluster.signal(*n, "-CONT"));
    until("a guest that goes on", || fake.runs());
    assert!(!cluster.guard_log(0).contains("frozen"), "{}", cluster.guard_log(0));

    // A QEMU that does not answer is frozen by either of them, once, and both marks are undone.
    fake.monitor.silent.store(true, Ordering::SeqCst);
    [1, 2].iter().for_each(|n| cluster.signal(*n, "-STOP"));
    until("a frozen process", || fake.state() == 'T');
    fake.monitor.silent.store(false, Ordering::SeqCst);
    [1, 2].iter().for_each(|n| cluster.signal(*n, "-CONT"));
    until("a thaw", || fake.state() == 'S' && !is_frozen_by_guard(&fake) && !fake.is_marked());
}

/// CA5. Goal: no record that can be read counts as a lease that has ended; a guest that others had frozen before is not noted as the
/// guard's, so nobody of us lets it go on. Method: the record is removed under a dead-man that was killed within its lease; another
/// process was stopped before.
#[test]
fn a_missing_record_is_a_lease_that_has_ended() {
    let (mut cluster, fake) = guarded();
    let theirs = Fake::new(&cluster.path(0, "vms"), "theirs");
    theirs.volume(HeldState::Up, Some(0));
    theirs.signal("-STOP");
    cluster.kill(0);
    std::fs::remove_file(cluster.path(0, "deadman.lease")).unwrap();
    let begun = Instant::now();
    until("a frozen process", || fake.state() == 'T');
    assert!(begun.elapsed() < Duration::from_millis(450), "{:?}", begun.elapsed());
    assert!(is_frozen_by_guard(&fake) && !is_frozen_by_guard(&theirs));
    assert!(cluster.guard_log(0).contains("cannot be read"), "{}", cluster.guard_log(0));
    cluster.start(0);
    until("a thaw", || fake.state() == 'S');
    assert_eq!(theirs.state(), 'T', "not ours");
}

/// CA5. Goal: with fewer than three witnesses nobody is frozen, whatever becomes of the dead-man. Method: two, the guest's is killed.
#[test]
fn two_witnesses_freeze_nobody() {
    let mut cluster = Cluster::new(2);
    (0..2).for_each(|n| cluster.start(n));
    cluster.wait(0, "its standing", |report| report.standing == StandingReport::Unwatched);
    let fake = Fake::new(&cluster.path(0, "vms"), "web1");
    until("a record", || cluster.path(0, "deadman.lease").exists());
    cluster.start_guard(0);
    cluster.kill(0);
    std::thread::sleep(2 * (LEASE + STOP_COST));
    assert_eq!(fake.state(), 'S', "{}", cluster.guard_log(0));
}

/// CA5. Goal: a record that cannot be written, because its write hangs, prolongs no guest's life: the pause is told first, and the write
/// is another thread's. The status says so. Method: a pipe that nobody reads in the place of the file that is written next.
#[test]
fn a_write_that_hangs_delays_no_pause() {
    let cluster = Cluster::running(3);
    let fake = Fake::new(&cluster.path(0, "vms"), "web1");
    let next = cluster.path(0, "deadman.lease.new");
    // Exchanged four times a second: until the pipe is what is opened next.
    until("a pipe in its place", || {
        let _ = std::fs::remove_file(&next);
        std::process::Command::new("mkfifo").arg(&next).status().unwrap().success()
    });
    cluster.wait(0, "the trouble", |report| {
        runs(report) && report.troubles.iter().any(|text| text.contains("has not ended for"))
    });
    [1, 2].iter().for_each(|n| cluster.signal(*n, "-STOP"));
    let begun = Instant::now();
    until("a stop", || !fake.runs());
    let stopped = fake.monitor.stopped.lock().unwrap().unwrap().duration_since(begun);
    assert!(stopped < LEASE + STOP_COST, "stopped after {stopped:?}: {}", cluster.log(0));
}

/// CA5. Goal: the service manager hears that a dead-man is up when its record is there, and then several times in each second, for as
/// long as it does its work; of one that hangs it hears nothing. Method: a socket in the manager's place.
#[test]
fn the_manager_hears_of_a_dead_man_that_is_well() {
    let mut cluster = Cluster::new(3);
    let at = cluster.path(0, "manager");
    let manager = UnixDatagram::bind(&at).unwrap();
    // Less than the units' `WatchdogSec`.
    manager.set_read_timeout(Some(Duration::from_millis(800))).unwrap();
    let hear = || {
        let mut said = [0; 64];
        manager.recv(&mut said).map(|len| String::from_utf8_lossy(&said[..len]).into_owned()).unwrap_or_default()
    };
    cluster.start_managed(0, &at);
    assert!((0..50).any(|_| hear() == "READY=1"), "{}", cluster.log(0));
    assert!(cluster.path(0, "deadman.lease").exists());
    (0..8).for_each(|n| assert_eq!(hear(), "WATCHDOG=1", "{n}: {}", cluster.log(0)));
    cluster.signal(0, "-STOP");
    while hear() == "WATCHDOG=1" {}
    assert_eq!(hear(), "");
    cluster.signal(0, "-CONT");
    assert_eq!(hear(), "WATCHDOG=1");
}
