//! Machines with a real guest: started, adopted, stopped, broken, healed, killed. Under TCG, on this machine alone.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod vm_guest;

use host::vm::{
    Accelerator, Cgroup, Folder, Heard, How, Monitor, MonitorError, Nic, Patience, Start, Stopped, Vm, VmError,
    accelerator, attach, seed, trim_log,
};
use rustix::fd::AsFd;
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use units::Millis;
use vm_guest::support::{Scratch, have, tool};
use vm_guest::{Guest, NbdDisk, Reaper, hear, launch, owner, qemu, said, wrote};
use wire::qmp::{BlockAction, BlockOperation, Cont, EventKind, QueryCpusFast, QueryStatus, RunState, Stop};

const COMMAND: Millis = Millis(5000);
const PATIENCE: Patience = Patience { guest: Millis(20_000), quit: Millis(5000) };

async fn next(events: &mut tokio::sync::broadcast::Receiver<Heard>, wanted: impl Fn(&EventKind) -> bool) -> Heard {
    let search = async {
        loop {
            let heard = events.recv().await.expect("the connection holds and the test keeps up");
            if wanted(&heard.event.kind) {
                return heard;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), search).await.expect("the event comes")
}

/// Goal: a machine boots, is paused and resumed with events, is adopted by a successor of ours, is visited on its
/// console, and powers off when told. Method: one guest through its whole life; QEMU runs as a user of its own.
#[tokio::test]
async fn a_machine_lives_and_powers_off() {
    assert!(have("qemu-system-x86_64") && have("busybox"));
    let scratch = Scratch::new("vm-life");
    let mut launch = launch(Guest::get().machine("web1", "none"), &scratch, "vm");
    launch.machine.seed = Some(scratch.path("seed.img"));
    example_seed().write(&scratch.path("seed.img")).unwrap();
    let _reaper = Reaper(launch.folder.clone());
    let begun = std::time::Instant::now();
    let vm = Vm::start(&launch).await.unwrap();
    vm.running(COMMAND).await.unwrap();
    let running_ms = begun.elapsed().as_millis();
    let pid = vm.process().identity().pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = owner().map_or_else(|| rustix::process::geteuid().as_raw(), |owner| owner.uid);
    assert!(status.contains(&format!("Uid:\t{uid}\t{uid}")), "{status}");
    assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"), "{status}");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    // signal(7): SIGXFSZ is 25. The virtual CPUs' threads block it, the main thread does not.
    assert_eq!(ignored >> 24 & 1, 1, "a full log does not end QEMU, whoever writes to it");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().to_owned();
    assert_eq!(session, pid.to_string(), "it leads its own session");
    assert!(matches!(Vm::start(&launch).await, Err(VmError::Running { .. })), "not twice in one folder");
    hear(&launch.folder, "GUEST READY", |said| said.contains("GUEST READY")).await;
    println!("running after {running_ms} ms, booted after {} ms", begun.elapsed().as_millis());
    assert!(said(&launch.folder).contains("DISK cidata 2880"), "the guest sees its seed");

    let mut events = vm.qmp().events();
    vm.qmp().run(Stop {}, COMMAND).await.unwrap();
    let stopped = next(&mut events, |kind| *kind == EventKind::Stop).await;
    assert_eq!(vm.status().await.unwrap().status, RunState::Paused);
    tokio::time::sleep(Duration::from_millis(50)).await;
    vm.qmp().run(Cont {}, COMMAND).await.unwrap();
    let resumed = next(&mut events, |kind| *kind == EventKind::Resume).await;
    assert!(resumed.at.since(stopped.at) >= Millis(50), "{stopped:?} {resumed:?}");

    drop((vm, events));
    let folder = launch.folder.clone();
    let adopting = tokio::spawn(async move { Vm::adopt(&folder).await });
    let vm = adopting.await.unwrap().unwrap().expect("it outlived us");
    assert_eq!(vm.process().identity().pid, pid);
    std::fs::remove_file(launch.folder.path().join("process")).unwrap();
    drop(vm);
    let mut vm = Vm::adopt(&launch.folder).await.unwrap().expect("found without our note as well");
    let old = vm.qmp().clone();
    vm.reconnect(COMMAND).await.expect("the old connection makes room");
    assert!(matches!(old.run(QueryStatus {}, COMMAND).await, Err(MonitorError::Closed { .. })));
    assert_eq!(vm.qmp().run(QueryCpusFast {}, COMMAND).await.unwrap().len(), 1);
    assert!(vm.out_of_band(COMMAND).await.unwrap().ready().out_of_band);

    let mut console = attach(&launch.folder).await.unwrap();
    console.write_all(b"echo $((6*7))seven\n").await.unwrap();
    answer(&mut console, "42seven").await;
    full_log(&launch.folder, &mut console).await;
    assert_eq!(vm.shutdown(PATIENCE).await.unwrap(), Stopped::ByGuest);
    assert!(said(&launch.folder).contains("GUEST POWERS OFF"));
    assert!(Vm::adopt(&launch.folder).await.unwrap().is_none());
    assert_eq!(vm.shutdown(PATIENCE).await.unwrap(), Stopped::Before);
}

async fn answer(console: &mut UnixStream, wanted: &str) {
    let mut heard = Vec::new();
    let answer = async {
        while !String::from_utf8_lossy(&heard).contains(wanted) {
            assert_ne!(console.read_buf(&mut heard).await.unwrap(), 0);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answer).await.expect("the guest's shell answers");
}

/// A full console log costs what is said, not QEMU, and goes on once it is trimmed.
async fn full_log(folder: &Folder, console: &mut UnixStream) {
    let log = folder.console_log();
    assert!(!trim_log(&log).unwrap(), "a short log stays");
    std::fs::File::options().write(true).open(&log).unwrap().set_len(4 << 20).unwrap();
    console.write_all(b"echo $((6*8))eight\n").await.unwrap();
    answer(console, "48eight").await;
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 4 << 20, "nothing beyond the limit");
    assert!(trim_log(&log).unwrap());
    console.write_all(b"echo $((6*9))nine\n").await.unwrap();
    answer(console, "54nine").await;
    hear(folder, "the log", |said| said.contains("54nine") && !said.contains("GUEST READY")).await;
}

/// Goal: a disk that fails stops the guest, which goes on without an error once the disk is back; a killed QEMU is
/// noticed with its reason. Method: a guest that writes numbers, nbdkit's error filter, SIGKILL.
#[tokio::test]
async fn a_failing_disk_stops_the_guest_and_a_killed_qemu_is_noticed() {
    assert!(have("qemu-system-x86_64") && have("busybox") && have("nbdkit"));
    let scratch = Scratch::new("vm-disk");
    let nbd = NbdDisk::serve(&scratch);
    let mut machine = Guest::get().machine("web1", "write");
    machine.disks = vec![nbd.disk()];
    let launch = launch(machine, &scratch, "vm");
    let _reaper = Reaper(launch.folder.clone());
    let vm = Vm::start(&launch).await.unwrap();
    hear(&launch.folder, "WROTE 10", |said| said.contains("WROTE 10\n")).await;
    assert!(said(&launch.folder).contains("DISK test-root 131072"), "{}", said(&launch.folder));

    let mut events = vm.qmp().events();
    nbd.fail(true);
    let failed = next(&mut events, |kind| matches!(kind, EventKind::BlockIoError { .. })).await;
    let EventKind::BlockIoError { action, operation, .. } = &failed.event.kind else { unreachable!() };
    assert_eq!((*operation, *action), (BlockOperation::Write, BlockAction::Stop), "{failed:?}");
    next(&mut events, |kind| *kind == EventKind::Stop).await;
    assert_eq!(vm.status().await.unwrap().status, RunState::IoError);
    let late = vm.resume(Millis(1000)).await.unwrap_err();
    assert!(matches!(late, VmError::Deadline { .. }), "the disk still fails: {late}");
    let held = wrote(&launch.folder);
    nbd.fail(false);
    vm.resume(COMMAND).await.unwrap();
    hear(&launch.folder, "more writes", |_| wrote(&launch.folder) > held + 10).await;

    vm.process().signal(Signal::KILL).unwrap();
    let ended = vm.ended().await.unwrap();
    assert_eq!((ended.how, ended.to_string().contains("killed by signal 9")), (How::Signalled(9), true));
    assert!(vm.running(COMMAND).await.unwrap_err().to_string().contains("signal 9"));
    assert!(!said(&launch.folder).contains("GUEST ERROR"), "the guest saw nothing of it");
    assert_eq!(nbd.first_wrong(wrote(&launch.folder)), None, "what the guest wrote is there");
}

/// Goal: a QEMU that cannot start says why, and leaves nothing behind; a folder's QEMU is found though its monitor is
/// taken, and a guest that never boots is stopped by `quit`. Method: a wrong machine type; no guest at all.
#[tokio::test]
async fn a_start_that_fails_says_why() {
    assert!(have("qemu-system-x86_64"));
    let scratch = Scratch::new("vm-fails");
    let machine = host::vm::Machine::new("web1", "4f7c9e3a-8d51-4c0e-9f00-0123456789ab", 16, Accelerator::Tcg);
    let mut launch = launch(machine, &scratch, "vm");
    launch.machine.machine_type = "q36".into();
    let error = Vm::start(&launch).await.unwrap_err().to_string();
    assert!(error.contains("status 1") && error.contains("unsupported machine type"), "{error}");
    assert!(Vm::process_in(&launch.folder).unwrap().is_none());
    launch.qemu = "/nonexistent/qemu".into();
    launch.machine.machine_type = "q35".into();
    let error = Vm::start(&launch).await.unwrap_err().to_string();
    assert!(error.contains("starting /nonexistent/qemu: No such file"), "{error}");

    launch.qemu = qemu();
    launch.machine.start = Start::Paused;
    let _reaper = Reaper(launch.folder.clone());
    let vm = Vm::start(&launch).await.unwrap();
    assert_eq!(vm.qmp().run(QueryStatus {}, COMMAND).await.unwrap().status, RunState::Prelaunch);
    assert!(matches!(vm.running(Millis(100)).await, Err(VmError::Deadline { .. })));
    let socket = launch.folder.monitor(Monitor::Node);
    let second = host::vm::Qmp::connect(&socket, false, Millis(200)).await;
    assert!(second.is_err(), "a monitor has one visitor");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", vm.process().identity().pid)).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max file size") && line.contains("4194304")), "{limits}");
    assert_eq!(vm.shutdown(PATIENCE).await.unwrap(), Stopped::ByQuit);
}

/// Goal: a control group takes QEMU in, freezes, thaws and kills it. Method: the groups this machine has, both kinds
/// where both are mounted.
#[tokio::test]
async fn a_control_group_freezes_and_kills() {
    assert!(have("qemu-system-x86_64"));
    let mut tried = 0;
    for root in ["/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
        let path = Path::new(root).join(format!("muskox-test-{}", std::process::id()));
        if !Path::new(root).join("cgroup.procs").exists() || std::fs::create_dir(&path).is_err() {
            continue;
        }
        let _folder = RemoveDir(&path);
        let Ok(group) = Cgroup::open(&path) else { continue };
        if !group.can_freeze() {
            continue;
        }
        tried += 1;
        println!("control group: {root}");
        let scratch = Scratch::new("vm-cgroup");
        let machine = host::vm::Machine::new("web1", "4f7c9e3a-8d51-4c0e-9f00-0123456789ab", 16, Accelerator::Tcg);
        let mut launch = launch(machine, &scratch, "vm");
        launch.cgroups = vec![group.clone()];
        // The child, which is somebody else by then, joins by a descriptor that we opened.
        let _reaper = Reaper(launch.folder.clone());
        let vm = Vm::start(&launch).await.unwrap();
        assert!(group.pids().unwrap().contains(&vm.process().identity().pid));
        group.freeze(COMMAND).await.unwrap();
        assert!(group.is_frozen().unwrap());
        assert!(vm.qmp().run(QueryStatus {}, Millis(200)).await.is_err(), "a frozen QEMU does not answer");
        group.thaw().unwrap();
        vm.qmp().run(QueryStatus {}, COMMAND).await.expect("a thawed one does");
        group.freeze(COMMAND).await.unwrap();
        group.kill(COMMAND).await.unwrap();
        assert_eq!(vm.ended().await.unwrap().how, How::Signalled(9), "{root}");
    }
    assert!(tried > 0, "this machine has no control group that can freeze, or we are not root");
}

struct RemoveDir<'a>(&'a Path);

impl Drop for RemoveDir<'_> {
    fn drop(&mut self) {
        // A test that failed may leave a frozen QEMU, which a signal reaches at the thaw only.
        let _ = Cgroup::open(self.0).and_then(|group| group.thaw());
        for _ in 0..100 {
            if std::fs::remove_dir(self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Goal: the accelerator is found out in bounded time and remembered. Method: the probe; where it says KVM, a machine
/// with KVM starts.
#[tokio::test]
async fn the_accelerator_is_found_out() {
    assert!(have("qemu-system-x86_64"));
    let scratch = Scratch::new("vm-probe");
    let begun = std::time::Instant::now();
    let found = accelerator(&qemu(), &scratch.path(""), owner()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    assert_eq!(accelerator(&qemu(), &scratch.path(""), owner()).await.unwrap(), found);
    assert!(begun.elapsed() < Duration::from_millis(50), "it is remembered");
    assert_eq!(std::fs::read_dir(scratch.path("")).unwrap().count(), 0, "the probe leaves nothing");
    println!("accelerator: {found:?}");
}

fn example_seed() -> seed::Seed {
    seed::Seed {
        instance_id: "4f7c9e3a-8d51-4c0e-9f00-0123456789ab".into(),
        hostname: "web1".into(),
        ssh_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me@home".into()],
        user_data: None,
        network_config: None,
        files: Vec::new(),
    }
}

/// A05. Goal: the seed is a sound FAT with the names cloud-init asks for, and with those that people give. Method: dosfstools, mtools and
/// `blkid` read it.
#[test]
fn peers_read_the_seed() {
    assert!(have("fsck.vfat") && have("mcopy") && have("blkid"));
    let scratch = Scratch::new("vm-seed");
    let image = scratch.path("seed.img");
    let long = "x".repeat(63);
    let files = ["cloud.cfg", "a.b.c", long.as_str()].map(|name| (name.to_owned(), format!("{name}\n"))).into();
    let seed = seed::Seed { network_config: Some("version: 2\n".repeat(300)), files, ..example_seed() };
    seed.write(&image).unwrap();
    let checked = tool(Command::new("fsck.vfat").args(["-n", "-v"]).arg(&image));
    // fsck counts the label as a file.
    assert!(checked.contains("7 files, 12/2847 clusters") && !checked.contains("differ"), "{checked}");
    let facts = tool(Command::new("blkid").args(["-p", "-o", "export"]).arg(&image));
    assert!(facts.contains("LABEL=CIDATA") && facts.contains("TYPE=vfat"), "{facts}");
    let read = |name: &str| tool(Command::new("mtype").arg("-i").arg(&image).arg(format!("::{name}")));
    assert!(read("meta-data").contains("local-hostname: \"web1\""));
    assert!(read("user-data").starts_with("#cloud-config\n"));
    assert_eq!(read("network-config"), seed.network_config.unwrap());
    for (name, text) in &seed.files {
        assert_eq!(read(name), *text);
    }
}

/// Goal: QEMU takes a tap that belongs to its user, without any right of its own. Method: a tap in a network namespace of
/// the test's own, which this thread enters; the tap has a carrier while QEMU holds it.
#[tokio::test]
async fn a_tap_of_its_users_is_taken() {
    assert!(have("qemu-system-x86_64") && have("ip"));
    let scratch = Scratch::new("vm-tap");
    let name = format!("mxvm{}", std::process::id());
    tool(Command::new("ip").args(["netns", "add", &name]));
    let _namespace = RemoveNamespace(&name);
    let ip = |words: &str| tool(Command::new("ip").args(["-n", &name]).args(words.split(' ')));
    let uid = owner().expect("taps are root's to make").uid;
    ip(&format!("tuntap add dev mxtap0 mode tap user {uid}"));
    ip("link set mxtap0 up");
    assert!(ip("link show mxtap0").contains("NO-CARRIER"));
    // Each test has a thread of its own, and what it starts is where it is.
    let entered = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(entered.as_fd(), Some(kind)).unwrap();

    let machine = host::vm::Machine::new("web1", "4f7c9e3a-8d51-4c0e-9f00-0123456789ab", 16, Accelerator::Tcg);
    let mut launch = launch(machine, &scratch, "vm");
    launch.machine.start = Start::Paused;
    launch.machine.nics = vec![Nic { tap: "mxtap0".into(), mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56] }];
    let _reaper = Reaper(launch.folder.clone());
    let vm = Vm::start(&launch).await.unwrap();
    assert!(ip("link show mxtap0").contains("LOWER_UP"), "{}", ip("link show mxtap0"));
    assert_eq!(vm.shutdown(PATIENCE).await.unwrap(), Stopped::ByQuit);
}

struct RemoveNamespace<'a>(&'a str);

impl Drop for RemoveNamespace<'_> {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", self.0]).status();
    }
}
