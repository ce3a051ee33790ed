//! The lab's disks, driven as a target drives them: plain file I/O, O_DIRECT, flock, and faults in between.

// A panic is the report, in helpers too.
#![allow(clippy::unwrap_used)]

use lab::disks::applied::{AppliedLine, now_us};
use lab::disks::control::{Command, Control, DiskStatus, On};
use lab::disks::journal::Line;
use lab::disks::stamp::{Kind, MAGIC, Stamp};
use lab::ledger;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A running `lab disks` in a directory of its own.
struct Lab {
    child: Child,
    root: PathBuf,
}

impl Lab {
    /// `None` if there is no FUSE here and that is allowed.
    fn start() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let allowed = std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1");
        if allowed && !(rustix::process::geteuid().is_root() && std::path::Path::new("/dev/fuse").exists()) {
            eprintln!("SKIP: FUSE disks need root and /dev/fuse");
            return None;
        }
        let root = std::env::temp_dir().join(format!(
            "muskox-lab-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&root).unwrap();
        let child = Self::spawn(&root);
        Some(Self { child, root })
    }

    fn spawn(root: &std::path::Path) -> Child {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_muskox-lab"));
        command.args(["disks", "--size-mib", "16"]);
        for name in ["dir", "backing", "control", "state", "applied"] {
            command.arg(format!("--{name}")).arg(root.join(name));
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the disks do not come up: is this root, is there /dev/fuse?");
        child
    }

    fn send(&self, command: &Command) -> Vec<DiskStatus> {
        Control::connect(&self.root.join("control")).unwrap().send(command).unwrap().disks
    }

    fn disk(&self, number: u32) -> File {
        self.open(number, OFlags::RDWR).unwrap()
    }

    fn open(&self, number: u32, flags: OFlags) -> std::io::Result<File> {
        Ok(File::from(open(self.root.join(format!("dir/disk{number}")), flags, Mode::empty())?))
    }

    fn log(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(self.root.join("backing/log.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn applied(&self) -> Vec<AppliedLine> {
        let text = std::fs::read_to_string(self.root.join("applied")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn is_mounted(&self) -> bool {
        ledger::is_mounted(&self.root.join("dir").canonicalize().unwrap_or_else(|_| self.root.join("dir")))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // SIGKILL, then what `lab clean` does: both ways out are walked by every test.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let cleaned = ledger::clean(&self.root.join("state"));
        let mounted = self.is_mounted();
        if !mounted {
            let _ = std::fs::remove_dir_all(&self.root);
        }
        if !std::thread::panicking() {
            cleaned.unwrap();
            assert!(!mounted, "the mount is still there");
        }
    }
}

fn sector(file: &File, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

fn errno<T>(done: std::io::Result<T>) -> Option<i32> {
    done.err().and_then(|error| error.raw_os_error())
}

/// Page-aligned memory without `unsafe`: the aligned part of something larger.
fn aligned(bytes: &mut [u8], len: usize) -> &mut [u8] {
    let skip = bytes.as_ptr().align_offset(4096);
    &mut bytes[skip..skip + len]
}

/// Goal: a disk is an ordinary disk while nobody touches it. Method: buffered and O_DIRECT I/O, odd sizes, the end.
#[test]
fn an_untouched_disk_is_a_disk() {
    let Some(lab) = Lab::start() else { return };
    let file = lab.disk(0);
    assert_eq!(file.metadata().unwrap().len(), 16 << 20);
    file.write_all_at(&[7; 3000], 100).unwrap();
    assert_eq!(sector(&file, 512), [7; 512]);
    assert_eq!(file.read_at(&mut [0; 10], 16 << 20).unwrap(), 0, "the end");
    assert_eq!(errno(file.write_at(&[1; 10], 16 << 20)), Some(libc::ENOSPC));
    assert_eq!(errno(file.set_len(1)), Some(libc::EINVAL));

    let direct = lab.open(0, OFlags::RDWR | OFlags::DIRECT).unwrap();
    let mut memory = vec![5; 16384];
    direct.write_all_at(aligned(&mut memory, 4096), 8192).unwrap();
    assert_eq!(sector(&direct, 8192), [5; 512]);
    assert_eq!(errno(direct.write_at(aligned(&mut memory, 100), 0)), Some(libc::EINVAL), "a disk has sectors");
    assert_eq!(sector(&lab.disk(1), 0), [0; 512]);
}

/// Goal: only what was flushed, or written with O_DSYNC, outlives a power cut; handles do not. Method: one of each.
#[test]
fn a_power_cut_loses_what_was_not_flushed() {
    let Some(lab) = Lab::start() else { return };
    let file = lab.disk(0);
    file.write_all_at(&[1; 512], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[2; 512], 0).unwrap();
    file.write_all_at(&[3; 512], 1024).unwrap();
    lab.open(0, OFlags::RDWR | OFlags::DSYNC).unwrap().write_all_at(&[4; 512], 512).unwrap();
    let flags = rustix::io::ReadWriteFlags::DSYNC;
    rustix::io::pwritev2(&file, &[std::io::IoSlice::new(&[5; 512])], 1536, flags).unwrap();
    assert_eq!(lab.send(&Command::Status)[0].volatile_sectors, 2);

    lab.send(&Command::PowerCut { disk: None, seed: None });
    assert_eq!(errno(file.read_at(&mut [0; 512], 0)), Some(libc::ENODEV), "a handle from before the cut");
    assert_eq!(errno(file.write_at(&[9; 512], 0)), Some(libc::ENODEV));
    let file = lab.disk(0);
    for (at, expect) in [(0, 1), (512, 4), (1024, 0), (1536, 5)] {
        assert_eq!(sector(&file, at), [expect; 512], "at {at}");
    }
    assert_eq!(lab.send(&Command::Status)[0].counters.sectors_lost, 2);
}

/// Goal: errors come where, when and as often as asked. Method: switch them on one by one and count.
#[test]
fn errors_come_as_asked() {
    let Some(lab) = Lab::start() else { return };
    let file = lab.disk(0);
    let eio = |on, count, range| Command::Eio { disk: Some(0), on, count, range };
    lab.send(&eio(On::Writes, Some(2), Some((4096, 512))));
    file.write_all_at(&[1; 512], 0).unwrap();
    assert_eq!(errno(file.write_at(&[1; 1024], 3584 + 512)), Some(libc::EIO));
    sector(&file, 4096);
    assert_eq!(errno(file.write_at(&[1; 1024], 3584)), Some(libc::EIO), "it reaches into the range");
    file.write_all_at(&[1; 512], 4096).unwrap();
    lab.send(&eio(On::Flush, None, None));
    assert_eq!(errno(file.sync_data()), Some(libc::EIO));
    lab.send(&eio(On::Reads, None, None));
    assert_eq!(errno(file.read_at(&mut [0; 512], 0)), Some(libc::EIO));
    assert_eq!(lab.send(&Command::Status)[0].counters.failed, 4);
    lab.send(&Command::Heal { disk: Some(0) });
    file.sync_data().unwrap();
    sector(&file, 0);
    let mut control = Control::connect(&lab.root.join("control")).unwrap();
    assert!(control.send(&Command::Heal { disk: Some(9) }).unwrap_err().to_string().contains("no disk 9"));
    assert!(control.send_text("{}").is_err());
}

/// Goal: a held write holds up no other disk nor read, applies nothing before its release, and then goes on.
/// Method: hang writes, write from a thread, look, release.
#[test]
fn a_hang_waits_for_its_release() {
    let Some(lab) = Lab::start() else { return };
    lab.send(&Command::Hang { disk: Some(0), on: On::Writes });
    let file = lab.disk(0);
    let writer = std::thread::spawn(move || file.write_all_at(&[1; 512], 0));
    wait_until(|| lab.send(&Command::Status)[0].waiting == 1);
    assert_eq!(sector(&lab.disk(0), 0), [0; 512]);
    lab.disk(1).write_all_at(&[2; 512], 0).unwrap();
    assert!(!writer.is_finished());
    lab.send(&Command::Release { disk: Some(0) });
    writer.join().unwrap().unwrap();
    assert_eq!(sector(&lab.disk(0), 0), [1; 512]);

    // A write that hangs when the disk is pulled has failed, and never reaches it.
    lab.send(&Command::Hang { disk: Some(0), on: On::Writes });
    let file = lab.disk(0);
    let writer = std::thread::spawn(move || file.write_at(&[3; 512], 0));
    wait_until(|| lab.send(&Command::Status)[0].waiting == 1);
    lab.send(&Command::Vanish { disk: Some(0) });
    assert_eq!(errno(writer.join().unwrap()), Some(libc::ENODEV));
    lab.send(&Command::Return { disk: Some(0), stale: None });
    assert_eq!(sector(&lab.disk(0), 0), [1; 512]);
}

/// Goal: a pulled disk has no name and no life, and may come back older than it went.
#[test]
fn a_disk_vanishes_and_comes_back_stale() {
    let Some(lab) = Lab::start() else { return };
    let file = lab.disk(1);
    file.write_all_at(&[1; 512], 0).unwrap();
    lab.send(&Command::Snapshot { disk: Some(1), name: "old".into() });
    file.write_all_at(&[2; 512], 0).unwrap();
    lab.send(&Command::Vanish { disk: Some(1) });
    assert_eq!(lab.open(1, OFlags::RDWR).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(errno(file.read_at(&mut [0; 512], 0)), Some(libc::ENODEV));
    assert_eq!(std::fs::read_dir(lab.root.join("dir")).unwrap().count(), 1);
    lab.send(&Command::Return { disk: Some(1), stale: Some("old".into()) });
    assert_eq!(errno(file.read_at(&mut [0; 512], 0)), Some(libc::ENODEV), "an old handle stays dead");
    assert_eq!(sector(&lab.disk(1), 0), [1; 512]);
}

/// Goal: the log says what reached the disk when, with its stamp; a delayed write is late and others are not.
#[test]
fn stamped_writes_are_delayed_and_logged() {
    let Some(lab) = Lab::start() else { return };
    let tag = "524f475545000000000000000000000a";
    lab.send(&Command::Watch { tag: tag.into() });
    lab.send(&Command::Delay { disk: None, tag: tag.into(), ms: 300 });
    let mut stamped = vec![0; 4096];
    stamped[512..528].copy_from_slice(b"ROGUE\0\0\0\0\0\0\0\0\0\0\x0a");
    stamped[528..544].fill(0xAB);
    let file = lab.disk(0);
    let begun = Instant::now();
    file.write_all_at(&[1; 512], 0).unwrap();
    assert!(begun.elapsed() < Duration::from_millis(250));
    file.write_all_at(&stamped, 8192).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    file.sync_data().unwrap();

    let log = lab.log();
    let of = |event: &str| log.iter().find(|line| line.event == event && !line.stamps.is_empty()).unwrap().clone();
    let (received, applied) = (of("received"), of("applied"));
    assert_eq!(received.id, applied.id);
    assert!(applied.t_ns - received.t_ns >= 300_000_000);
    assert_eq!((applied.disk, applied.at, applied.len), (0, Some(8192), Some(4096)));
    assert_eq!(applied.stamps, [format!("{tag}{}", "ab".repeat(16))]);
    assert!(log.is_sorted_by_key(|line| line.t_ns));
    assert!(log.iter().any(|line| line.event == "applied" && line.what.as_deref() == Some("flush")));
}

/// Goal: a rogue's write is known by its stamp, is 300 ms on its way, and its log has both moments; other writes are not
/// held up; how long is a command; one that is pulled with its disk has failed. Method: one of each on the real clock.
#[test]
fn rogue_writes_are_known_delayed_and_logged() {
    let Some(lab) = Lab::start() else { return };
    let mut stamped = [MAGIC.as_slice(), &7u64.to_be_bytes(), &18u64.to_be_bytes(), &1u64.to_be_bytes(), &[2]].concat();
    stamped.resize(4096, 0);
    let stamp = Stamp { run: 7, epoch: 18, seq: 1, kind: Kind::Queued };
    let (file, plain) = (lab.disk(0), lab.disk(0));
    let before_us = now_us();
    let writer = std::thread::spawn(move || file.write_all_at(&stamped, 8192).map(|()| (file, stamped)));
    wait_until(|| !lab.applied().is_empty());
    plain.write_all_at(&[1; 512], 0).unwrap();
    assert_eq!(lab.applied().len(), 1, "it is still on its way, others are not held up");
    let (file, stamped) = writer.join().unwrap().unwrap();
    let [received, ended] = lab.applied().try_into().unwrap();
    assert_eq!((received.completed_us, ended.failed), (None, false));
    assert_eq!((ended.id, ended.disk, ended.offset, ended.stamp), (received.id, 0, 8192, stamp));
    assert!(before_us <= received.received_us && received.received_us == ended.received_us);
    assert!(ended.completed_us.unwrap() - ended.received_us >= 300_000);

    lab.send(&Command::DelayStamped { ms: 0 });
    let begun = Instant::now();
    file.write_all_at(&stamped, 512).unwrap();
    assert!(begun.elapsed() < Duration::from_millis(250));
    assert_eq!(lab.applied()[3].offset, 512);
    lab.send(&Command::DelayStamped { ms: 400 });
    let writer = std::thread::spawn(move || file.write_all_at(&stamped, 0));
    wait_until(|| lab.applied().len() == 5);
    lab.send(&Command::PowerCut { disk: None, seed: None });
    assert_eq!(errno(writer.join().unwrap()), Some(libc::ENODEV));
    assert!(lab.applied()[5].failed, "what was pulled on its way is not on the disk");
}

/// Goal: flock works as on any file, and the lock of a killed owner is free. Method: two handles, then one dropped.
#[test]
fn flock_is_honoured() {
    let Some(lab) = Lab::start() else { return };
    let (first, second) = (lab.disk(0), lab.disk(0));
    flock(&first, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(flock(&second, FlockOperation::NonBlockingLockExclusive), Err(rustix::io::Errno::WOULDBLOCK));
    drop(first);
    flock(&second, FlockOperation::NonBlockingLockExclusive).unwrap();
}

/// Goal: asked to end, the lab writes volatile data out and leaves nothing, though a disk is open and hangs.
#[test]
fn sigterm_leaves_nothing_behind() {
    let Some(mut lab) = Lab::start() else { return };
    let file = lab.disk(0);
    file.write_all_at(&[6; 512], 0).unwrap();
    lab.send(&Command::Hang { disk: Some(1), on: On::Reads });
    let hung = lab.disk(1);
    let reader = std::thread::spawn(move || hung.read_at(&mut [0; 512], 0));
    wait_until(|| lab.send(&Command::Status)[1].waiting == 1);
    let pid = rustix::process::Pid::from_child(&lab.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(lab.child.wait().unwrap().success());
    assert!(!lab.is_mounted());
    assert!(reader.join().unwrap().is_err());
    assert!(!lab.root.join("control").exists());
    assert_eq!(std::fs::read_dir(lab.root.join("state")).unwrap().count(), 0);
    lab.child = Lab::spawn(&lab.root);
    assert_eq!(sector(&lab.disk(0), 0), [6; 512]);
}

fn wait_until(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it does not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}
