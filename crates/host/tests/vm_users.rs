//! QEMUs are neighbours: each has a user of its own, and what a guest could do that has taken its QEMU over ends there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod vm_guest;

use host::vm::{Accelerator, Folder, Launch, Machine, Monitor, Owner, Vm};
use rustix::process::{Gid, Pid, Signal, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use units::Millis;
use vm_guest::support::{Scratch, have};
use vm_guest::{Reaper, launch, qemu, set_mode};
use wire::qmp::{QueryStatus, RunState};

const COMMAND: Millis = Millis(5000);
const UUID: &str = "4f7c9e3a-8d51-4c0e-9f00-0123456789ab";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A machine without disks in a folder of its own, as a user of its own.
fn neighbour(scratch: &Scratch, name: &str, uid: u32) -> Launch {
    let mut launch = launch(Machine::new(name, UUID, 16, Accelerator::Tcg), scratch, name);
    launch.owner = Some(Owner { uid, gid: uid });
    launch
}

/// Does something as another user, in a thread of its own that ends.
fn as_user<T: Send>(owner: Owner, work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        let (user, group) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(group, group, group).unwrap();
        set_thread_res_uid(user, user, user).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// What a user gets of a machine: its sockets, its files, its memory, a signal.
fn reached(owner: Owner, folder: &Folder, pid: i32) -> Vec<(String, bool)> {
    let sockets = Monitor::ALL.map(|monitor| folder.monitor(monitor));
    let sockets = sockets.into_iter().chain([folder.console(), folder.path().join("disk0.sock")]);
    let files = ["qemu.pid", "seed.img", "console.log"].map(|name| folder.path().join(name));
    as_user(owner, || {
        let mut reached: Vec<(String, bool)> =
            sockets.map(|path| (path.display().to_string(), UnixStream::connect(path).is_ok())).collect();
        reached.extend(files.map(|path| (path.display().to_string(), File::open(path).is_ok())));
        reached.push(("its folder".into(), std::fs::read_dir(folder.path()).is_ok()));
        let memory = OpenOptions::new().read(true).open(format!("/proc/{pid}/mem"));
        reached.push(("its memory".into(), memory.is_ok()));
        // Signal 0 of kill(2): only whether it could be sent.
        let signal = rustix::process::test_kill_process(Pid::from_raw(pid).unwrap());
        reached.push(("a signal".into(), signal.is_ok()));
        reached
    })
}

/// Goal: CA3: a QEMU that its guest has taken over reaches nothing of its neighbour. Method: two QEMUs; the user of one tries
/// every socket and file of the other, its memory and a signal; the same attempts as the other's own user succeed.
#[tokio::test]
async fn a_neighbour_is_out_of_reach() {
    if !is_root() {
        return;
    }
    assert!(have("qemu-system-x86_64"));
    let scratch = Scratch::new("vm-neighbours");
    let (one, other) = (neighbour(&scratch, "one", 2_100_700_001), neighbour(&scratch, "other", 2_100_700_002));
    let _reapers = [&one, &other].map(|launch| Reaper(launch.folder.clone()));
    let running = (Vm::start(&one).await.unwrap(), Vm::start(&other).await.unwrap());
    // As the initiator and the node leave them.
    let disk = other.folder.path().join("disk0.sock");
    let _disk = UnixListener::bind(&disk).unwrap();
    let owner = other.owner.unwrap();
    chown(&disk, Some(owner.uid), Some(owner.gid)).unwrap();
    File::create(other.folder.path().join("seed.img")).unwrap();
    let pid = running.1.process().identity().pid;
    for (what, got) in reached(one.owner.unwrap(), &other.folder, pid) {
        assert!(!got, "{what} is open to the neighbour");
    }
    for (what, got) in reached(owner, &other.folder, pid) {
        // QEMU holds its own memory closed: it has changed user (PR_SET_DUMPABLE of prctl(2)), or is none of this thread's.
        assert!(got || what == "its memory", "{what} is closed to its own user: the attempt proves nothing");
    }
    // And nobody is led by it to another socket: not the node, which would speak there as root.
    let monitor = one.folder.monitor(Monitor::OutOfBand);
    std::fs::remove_file(&monitor).unwrap();
    symlink(other.folder.monitor(Monitor::OutOfBand), &monitor).unwrap();
    let refused = running.0.out_of_band(Millis(200)).await.unwrap_err().to_string();
    assert!(refused.contains("user 2100700002 answers there"), "{refused}");
    for vm in [&running.0, &running.1] {
        vm.qmp().run(QueryStatus {}, COMMAND).await.unwrap();
        vm.kill().await.unwrap();
    }
}

/// Goal: CA3: QEMU is never root. Method: a start as root without a user, and with root as the user.
#[tokio::test]
async fn qemu_is_never_root() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("vm-root");
    let mut launch = neighbour(&scratch, "vm", 0);
    for owner in [None, Some(Owner { uid: 0, gid: 0 })] {
        launch.owner = owner;
        let refused = Vm::start(&launch).await.unwrap_err().to_string();
        assert!(refused.contains("QEMU is not run as root"), "{refused}");
        assert!(!launch.folder.path().exists(), "nothing was made");
    }
}

/// Goal: a folder that was another user's becomes the new one's, so that a VM that ran as `muskox-vm` or as root before starts
/// again; and no file of ours is given away by it. Above it nothing need be open to QEMU's user. Method: a folder as a former QEMU
/// left it, with links to a file of root's in it, below a folder that is closed.
#[tokio::test]
async fn a_folder_is_handed_over() {
    if !is_root() {
        return;
    }
    assert!(have("qemu-system-x86_64"));
    let scratch = Scratch::new("vm-handed-over");
    let launch = neighbour(&scratch, "vm", 2_100_700_003);
    let folder = launch.folder.path();
    let former = Owner { uid: 65_534, gid: 65_534 };
    launch.folder.make(Some(former)).unwrap();
    let (secret, at) = (scratch.path("secret"), |name: &str| folder.join(name));
    std::fs::write(&secret, "root's").unwrap();
    set_mode(&secret, 0o600);
    for name in ["qemu.pid", "console.log"] {
        std::fs::write(at(name), "former\n").unwrap();
        set_mode(&at(name), 0o600);
        chown(at(name), Some(former.uid), Some(former.gid)).unwrap();
    }
    std::fs::hard_link(&secret, at("hard")).unwrap();
    symlink(&secret, at("soft")).unwrap();
    std::fs::create_dir_all(at("deep/er")).unwrap();
    set_mode(&scratch.path(""), 0o700);

    let _reaper = Reaper(launch.folder.clone());
    let vm = Vm::start(&launch).await.unwrap();
    let owner = |path: &Path| std::fs::symlink_metadata(path).map(|facts| facts.uid());
    let uid = launch.owner.unwrap().uid;
    assert_eq!((owner(folder).unwrap(), owner(&at("console.log")).unwrap()), (uid, uid));
    assert_eq!(launch.folder.owner().unwrap(), launch.owner.unwrap());
    for gone in ["hard", "soft", "deep"] {
        assert_eq!(owner(&at(gone)).unwrap_err().kind(), io::ErrorKind::NotFound, "{gone}");
    }
    assert_eq!(owner(&secret).unwrap(), 0);
    assert!(std::fs::read_to_string(at("console.log")).unwrap().starts_with("former\n"), "logs are kept");
    // Found by where it runs, also without our note.
    let pid = vm.process().identity().pid;
    std::fs::remove_file(at("process")).unwrap();
    let found = Vm::process_in(&launch.folder).unwrap().expect("it runs in its folder");
    assert_eq!(found.identity().pid, pid);
    found.signal(Signal::KILL).unwrap();
    vm.ended().await.unwrap();
}

/// Goal: a QEMU that an earlier muskox started, as root and with its folder on the command line, is found, spoken to and ended.
/// Method: one started like that by hand, in root's folder, without a note.
#[tokio::test]
async fn one_of_an_earlier_version_is_adopted() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("vm-former");
    let folder = Folder::new(&scratch.path("vm")).unwrap();
    folder.make(None).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut command = Command::new(qemu());
    command.args([
        "-nodefaults",
        "-display",
        "none",
        "-machine",
        "q35",
        "-m",
        "16",
        "-S",
        "-pidfile",
        &path("qemu.pid"),
    ]);
    command.args(["-chardev", &format!("socket,id=m,path={},server=on,wait=off", path("node.sock"))]);
    let mut former = command.args(["-mon", "chardev=m,mode=control"]).spawn().unwrap();
    let _reaper = Reaper(folder.clone());
    let begun = Instant::now();
    let vm = loop {
        match Vm::adopt(&folder).await {
            Ok(Some(vm)) => break vm,
            _ => assert!(begun.elapsed() < Duration::from_secs(20), "it is not found"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(u32::try_from(vm.process().identity().pid).unwrap(), former.id());
    assert_eq!(vm.status().await.unwrap().status, RunState::Prelaunch);
    vm.kill().await.unwrap();
    // Collected by then: ours to ask all the same.
    let _ = former.wait();
}
