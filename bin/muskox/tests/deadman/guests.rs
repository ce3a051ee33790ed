//! What happens to guests when their host is alone, and when it is back.

use crate::qemu::Fake;
use crate::support::{Cluster, LEASE, STOP_COST, runs, until};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use wire::control::{HeldState, StandingReport};

/// Three machines, the first with a fake guest; all run.
fn with_guest() -> (Cluster, Fake) {
    let cluster = Cluster::running(3);
    let fake = Fake::new(&cluster.path(0, "vms"), "web1");
    (cluster, fake)
}

fn others(cluster: &Cluster, signal: &str) {
    [1, 2].iter().for_each(|n| cluster.signal(*n, signal));
}

/// Goal: alone, the guest is stopped within lease + stop cost, and again if somebody lets it run; back, it goes on only
/// when its target answered after the asking began. A guest that others had paused is left alone. Method: both other
/// dead-men stopped and let go on; the initiator says one thing after the other.
#[test]
fn alone_it_is_stopped_and_back_it_is_asked_for() {
    let (cluster, fake) = with_guest();
    let theirs = Fake::new(&cluster.path(0, "vms"), "theirs");
    theirs.run(false);
    others(&cluster, "-STOP");
    let begun = Instant::now();
    until("a stop", || !fake.runs());
    let stopped = fake.monitor.stopped.lock().unwrap().unwrap().duration_since(begun);
    assert!(stopped < LEASE + STOP_COST, "stopped after {stopped:?}: {}", cluster.log(0));
    assert!(fake.is_marked() && !theirs.is_marked());
    fake.run(true);
    let again = Instant::now();
    until("another stop", || !fake.runs());
    assert!(again.elapsed() < Duration::from_millis(400), "stopped again after {:?}", again.elapsed());

    fake.volume(HeldState::Waiting, None);
    others(&cluster, "-CONT");
    cluster.wait(0, "the asking", |report| report.standing == StandingReport::Asking);
    for (state, heard, why) in [
        (HeldState::Waiting, Some(0), "has not answered"),
        (HeldState::Up, None, "has not answered"),
        (HeldState::Up, Some(60_000), "has not answered"),
    ] {
        fake.volume(state, heard);
        std::thread::sleep(Duration::from_millis(250));
        let report = cluster.try_status(0).unwrap();
        assert_eq!(report.standing, StandingReport::Asking);
        let guest = report.guests.iter().find(|guest| guest.name == "web1").unwrap();
        assert!(guest.paused_by_us && guest.waits_for.as_ref().unwrap().contains(why), "{guest:?}");
        assert_eq!(fake.conts(), 0);
    }
    fake.volume(HeldState::Up, Some(0));
    cluster.wait(0, "a lease", runs);
    assert!(fake.runs() && !fake.is_marked());
    assert_eq!((fake.conts(), theirs.conts(), theirs.runs()), (1, 0, false));
}

/// Goal: a guest that was started elsewhere in the meantime is destroyed, and the host goes on. Method: its initiator
/// says that the volume is fenced.
#[test]
fn a_fenced_guest_is_destroyed() {
    let (cluster, fake) = with_guest();
    let other = Fake::new(&cluster.path(0, "vms"), "web2");
    other.volume(HeldState::Up, Some(0));
    fake.volume(HeldState::Fenced, None);
    others(&cluster, "-STOP");
    until("two stops", || !fake.runs() && !other.runs());
    others(&cluster, "-CONT");
    cluster.wait(0, "a lease", runs);
    assert_eq!((fake.state(), other.state()), ('Z', 'S'));
    assert!(other.runs() && fake.conts() == 0 && !fake.is_marked());
    assert!(fake.folder.join("process").exists(), "the rest is the node's to clean up");
}

/// Goal: a QEMU that does not answer is frozen within the stop cost, and thawed when its volumes are this host's; it is
/// not told to go on, since it was not told to stop. Method: a monitor that says nothing.
#[test]
fn a_silent_qemu_is_frozen() {
    let (cluster, fake) = with_guest();
    fake.monitor.silent.store(true, Ordering::SeqCst);
    others(&cluster, "-STOP");
    let begun = Instant::now();
    until("a frozen process", || fake.state() == 'T');
    let frozen = begun.elapsed();
    assert!(frozen < LEASE + STOP_COST + Duration::from_millis(50), "frozen after {frozen:?}");
    fake.monitor.silent.store(false, Ordering::SeqCst);
    fake.volume(HeldState::Up, Some(0));
    others(&cluster, "-CONT");
    cluster.wait(0, "a lease", runs);
    assert_eq!((fake.state(), fake.conts(), fake.is_marked()), ('S', 0, false));

    fake.monitor.silent.store(true, Ordering::SeqCst);
    others(&cluster, "-STOP");
    until("a frozen process", || fake.state() == 'T');
    fake.volume(HeldState::Fenced, None);
    others(&cluster, "-CONT");
    until("its end", || fake.state() == 'Z');
}

/// Goal: with a control group of its own QEMU is frozen and thawed by it. Method: a freezer group of v1 or v2, made here.
#[test]
fn a_silent_qemu_is_frozen_by_its_own_group() {
    let (cluster, fake) = with_guest();
    let name = format!("muskox-deadman-test-{}", std::process::id());
    let roots = ["/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(std::path::Path::new);
    let made = roots.iter().map(|root| root.join(&name)).find(|group| {
        std::fs::create_dir(group).is_ok()
            && (group.join("freezer.state").exists() || group.join("cgroup.freeze").exists())
            && std::fs::write(group.join("cgroup.procs"), fake.process_id().to_string()).is_ok()
    });
    let allowed = std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1");
    let Some(group) = made else {
        assert!(allowed, "no control group can be made: run as root, or set MUSKOX_ALLOW_MISSING=1");
        return;
    };
    let frozen = || host::vm::Cgroup::open(&group).unwrap().is_frozen().unwrap();
    fake.monitor.silent.store(true, Ordering::SeqCst);
    others(&cluster, "-STOP");
    until("a frozen group", frozen);
    assert_ne!(fake.state(), 'T', "by the group, not by a signal");
    fake.monitor.silent.store(false, Ordering::SeqCst);
    fake.volume(HeldState::Up, Some(0));
    others(&cluster, "-CONT");
    cluster.wait(0, "a lease", runs);
    assert!(!frozen());
    drop(fake);
    until("an empty group", || std::fs::remove_dir(&group).is_ok());
}

/// Goal: a dead-man that is killed and started again stops no guest without need; one that lost what it knew pauses at
/// once. Method: killed three times under a lease; then its record is removed.
#[test]
fn a_restarted_dead_man_goes_on_where_it_stood() {
    let (mut cluster, fake) = with_guest();
    fake.volume(HeldState::Up, Some(0));
    for _ in 0..3 {
        cluster.kill(0);
        cluster.start(0);
        cluster.wait(0, "a lease", runs);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(fake.monitor.stopped.lock().unwrap().is_none(), "{}", cluster.log(0));
    cluster.kill(0);
    std::fs::remove_file(cluster.path(0, "deadman.lease")).unwrap();
    cluster.start(0);
    cluster.wait(0, "a lease", runs);
    assert!(fake.monitor.stopped.lock().unwrap().is_some(), "{}", cluster.log(0));
    assert!(fake.runs() && fake.conts() == 1);

    // Killed while the guest waits: the next life knows that it has to ask for it.
    others(&cluster, "-STOP");
    until("a stop", || !fake.runs());
    cluster.kill(0);
    others(&cluster, "-CONT");
    cluster.start(0);
    cluster.wait(0, "a lease", runs);
    assert!(fake.runs() && fake.conts() == 2);
}
