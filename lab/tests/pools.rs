//! Members of a real target on the lab's disks: one that hangs, one that is pulled.

// A panic is the report, in helpers too.
#![allow(clippy::unwrap_used)]

mod support;

use lab::disks::control::{Command as Tell, Control, On};
use std::path::Path;
use std::time::{Duration, Instant};
use support::Processes;

const PATIENCE: Duration = Duration::from_secs(60);
/// By itself a member that hangs is failed after 30 s.
const FAILS_WITHIN: Duration = Duration::from_secs(20);

/// A target with a mirror `tank` of two of the lab's disks.
struct StorageBox(Processes);

impl StorageBox {
    /// `None` if there is no FUSE here and that is allowed.
    fn start() -> Option<Self> {
        let allowed = std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1");
        if allowed && !(rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists()) {
            eprintln!("SKIP: FUSE disks need root and /dev/fuse");
            return None;
        }
        let root = std::env::temp_dir().join(format!("muskox-pools-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let applied = root.join("applied");
        let this = Self(Processes::start(root, &applied, ""));
        this.wait("a target", |it| it.0.log().contains("ready"));
        this.ctl(&["pool", "create", "tank", &this.disk(0), &this.disk(1)]).unwrap();
        this.wait("a mirror in sync", Self::is_healthy);
        Some(this)
    }

    fn disk(&self, number: u32) -> String {
        self.0.disk(number)
    }

    fn tell(&self, command: &Tell) {
        Control::connect(&self.0.root.join("control")).unwrap().send(command).unwrap();
    }

    /// What a control command printed; what it complained, if it was refused.
    fn ctl(&self, words: &[&str]) -> Result<String, String> {
        let done = self.0.ctl(words);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
    }

    fn shown(&self) -> String {
        self.ctl(&["pool", "show", "tank"]).unwrap()
    }

    fn is_healthy(&self) -> bool {
        let shown = self.shown();
        shown.contains("state   healthy") && !shown.contains("resync")
    }

    fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "no {what} in time: {}", self.0.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Goal: DA5: a failed member on which operations hang is refused with what runs on it, until that has ended; then it is
/// taken, while the target runs. A disk that was pulled failed, and waits for a word when it is plugged in again. Method:
/// hang one under the zeroing of a volume, fail it, add it; release it, add it; pull it under another one.
#[test]
fn a_failed_member_is_taken_back_when_it_has_let_go() {
    let Some(storage) = StorageBox::start() else { return };
    let (disk, disk_number) = (storage.disk(1), Some(1));
    storage.tell(&Tell::Hang { disk: disk_number, on: On::Writes });
    let waiting = || {
        let mut control = Control::connect(&storage.0.root.join("control")).unwrap();
        control.send(&Tell::Status).unwrap().disks[1].waiting
    };
    let refused = std::thread::scope(|scope| {
        let making = scope.spawn(|| storage.ctl(&["volume", "create", "tank", "web1", "16M"]));
        storage.wait("an operation that hangs", |_| waiting() > 0);
        let asked = Instant::now();
        storage.ctl(&["pool", "fail", "tank", &disk]).unwrap();
        assert!(asked.elapsed() < FAILS_WITHIN, "{:?}: nobody waits for the hung disk to be failed", asked.elapsed());
        making.join().unwrap().unwrap();
        storage.ctl(&["pool", "add", "tank", &disk]).unwrap_err()
    });
    assert!(refused.contains("from before") && refused.contains("still run"), "{refused}");
    assert!(refused.contains(&disk) && refused.contains("wait until the disk has answered"), "{refused}");
    storage.tell(&Tell::Release { disk: disk_number });
    storage.wait("its letting go", |it| it.ctl(&["pool", "add", "tank", &disk]).is_ok());
    storage.wait("a mirror in sync", StorageBox::is_healthy);

    storage.tell(&Tell::Vanish { disk: disk_number });
    storage.ctl(&["volume", "create", "tank", "web2", "8M"]).unwrap();
    storage.wait("a failed member", |it| it.shown().contains("failed"));
    storage.tell(&Tell::Return { disk: disk_number, stale: None });
    storage.ctl(&["pool", "add", "tank", &disk]).unwrap();
    storage.wait("a mirror in sync", StorageBox::is_healthy);
}
