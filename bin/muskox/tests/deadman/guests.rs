//! What happens to guests when their host is alone, and when it is back.

use crate::qemu::{Fake, serve_initiator_in};
use crate::support::{Cluster, LEASE, STOP_COST, have, runs, until};
use host::vm::{Accelerator, Folder, Launch, Machine, Owner, Process, Signal, Vm};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use wire::control::{DeadmanReport, HeldState};
use wire::qmp::RunState;

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
/// when its target answered after the lease came back, and is kept stopped until then whoever lets it run. A guest that others
/// had paused is left alone. Method: both other dead-men stopped and let go on; the initiator says one thing after the other.
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
    cluster.wait(0, "a lease", runs);
    for (state, heard, why) in [
        (HeldState::Waiting, Some(0), "has not answered"),
        (HeldState::Up, None, "has not answered"),
        (HeldState::Up, Some(60_000), "has not answered"),
    ] {
        fake.volume(state, heard);
        fake.run(true);
        std::thread::sleep(Duration::from_millis(250));
        assert!(!fake.runs(), "it was let run by somebody else");
        let report = cluster.try_status(0).unwrap();
        assert!(runs(&report));
        let guest = report.guests.iter().find(|guest| guest.name == "web1").unwrap();
        assert!(guest.paused_by_us && guest.waits_for.as_ref().unwrap().contains(why), "{guest:?}");
        assert_eq!(fake.conts(), 0);
    }
    fake.volume(HeldState::Up, Some(0));
    until("a guest that goes on", || fake.runs() && !fake.is_marked());
    assert_eq!((fake.conts(), theirs.conts(), theirs.runs()), (1, 0, false));
}

/// CA6. Goal: one guest whose target is away keeps neither the host nor another guest from going on, and is kept stopped itself; the
/// dead-man's next life knows which is which. Method: two guests, one of which waits for ever; the dead-man is killed meanwhile.
#[test]
fn a_guest_that_waits_bars_nobody() {
    let (mut cluster, waits) = with_guest();
    let other = Fake::new(&cluster.path(0, "vms"), "web2");
    waits.volume(HeldState::Waiting, None);
    other.volume(HeldState::Up, Some(0));
    others(&cluster, "-STOP");
    until("two stops", || !waits.runs() && !other.runs());
    others(&cluster, "-CONT");
    let is_held = |report: &DeadmanReport| {
        let held = |name: &str| report.guests.iter().find(|guest| guest.name == name).unwrap().paused_by_us;
        runs(report) && held("web1") && !held("web2")
    };
    cluster.wait(0, "a lease, and one that waits", is_held);
    cluster.kill(0);
    cluster.start(0);
    cluster.wait(0, "the same again", is_held);
    assert!(other.runs() && other.conts() == 1 && !waits.runs() && waits.conts() == 0);
    waits.volume(HeldState::Up, Some(0));
    until("the other one too", || waits.runs() && !waits.is_marked());
    assert!(other.conts() == 1 && waits.conts() == 1);
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
    until("the one's end, the other one's going on", || fake.state() == 'Z' && other.runs() && !fake.is_marked());
    assert!(other.state() == 'S' && fake.conts() == 0);
    assert!(fake.folder.join("process").exists(), "the rest is the node's to clean up");
}

/// Goal: a QEMU that does not answer is frozen within the stop cost, and thawed when its volumes are this host's; its
/// guest, which others may have paused, is not told to go on, since it was not told to stop. Method: a monitor that says
/// nothing.
#[test]
fn a_silent_qemu_is_frozen() {
    let (cluster, fake) = with_guest();
    fake.run(false);
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
    until("a thaw", || fake.state() == 'S' && !fake.is_marked());
    assert_eq!(fake.conts(), 0);

    fake.monitor.silent.store(true, Ordering::SeqCst);
    others(&cluster, "-STOP");
    until("a frozen process", || fake.state() == 'T');
    fake.volume(HeldState::Fenced, None);
    others(&cluster, "-CONT");
    until("its end", || fake.state() == 'Z');
}

/// Kills a QEMU when its test ends, however it ends.
struct Reaper<'a>(&'a Process);

impl Drop for Reaper<'_> {
    fn drop(&mut self) {
        let _ = self.0.signal(Signal::KILL);
    }
}

/// Goal: the same with a real QEMU, whose monitor is where its folder says. Method: a machine without disks, started as
/// the node does it; its status is asked for over the node's own monitor.
#[test]
fn a_real_qemu_is_stopped_and_goes_on() {
    if !have("qemu-system-x86_64") {
        return;
    }
    let cluster = Cluster::running(3);
    let folder = cluster.path(0, "vms").join("web1");
    let launch = Launch {
        qemu: "/usr/bin/qemu-system-x86_64".into(),
        machine: Machine::new("web1", "4f7c9e3a-8d51-4c0e-9f00-0123456789ab", 32, Accelerator::Tcg),
        folder: Folder::new(&folder).unwrap(),
        owner: rustix::process::geteuid().is_root().then_some(Owner { uid: 2_100_600_002, gid: 2_100_600_002 }),
        cgroups: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let vm = runtime.block_on(Vm::start(&launch)).unwrap();
    let _reaper = Reaper(vm.process());
    let initiator = serve_initiator_in(&folder);
    let status = || runtime.block_on(vm.status()).unwrap().status;
    assert_eq!(status(), RunState::Running);
    others(&cluster, "-STOP");
    until("a stop", || status() == RunState::Paused);
    *initiator.lock().unwrap() = (HeldState::Up, Some(0));
    others(&cluster, "-CONT");
    until("a guest that goes on", || status() == RunState::Running);
    others(&cluster, "-STOP");
    until("a stop", || status() == RunState::Paused);
    *initiator.lock().unwrap() = (HeldState::Fenced, None);
    others(&cluster, "-CONT");
    runtime.block_on(vm.ended()).unwrap();
    cluster.wait(0, "a lease", runs);
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
    until("a thaw", || !frozen());
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
    until("a stop, and a guest that goes on", || fake.conts() == 1 && fake.runs());
    assert!(fake.monitor.stopped.lock().unwrap().is_some(), "{}", cluster.log(0));

    // Killed while the guest waits: the next life knows that it has to ask for it.
    others(&cluster, "-STOP");
    until("a stop", || !fake.runs());
    cluster.kill(0);
    others(&cluster, "-CONT");
    cluster.start(0);
    until("a guest that goes on", || fake.conts() == 2 && fake.runs());
}
