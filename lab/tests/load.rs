//! The verifying load against nbdkit, which is killed, turned back in time, spoilt and taken away.

// A panic is the report, in helpers too.
#![allow(clippy::unwrap_used)]

use lab::verify::model::Wrong;
use lab::verify::stamp::BLOCK;
use lab::verify::{Load, Settings, Stats};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SPAN: u64 = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(20);
const BOUND: Duration = Duration::from_secs(20);

/// A folder with an image and a server.
struct Server {
    root: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// `None` if there is no nbdkit and that is allowed.
    fn start() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let found = Command::new("nbdkit").arg("--version").stdout(Stdio::null()).status().is_ok();
        if !found && std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1") {
            eprintln!("SKIP: nbdkit is missing");
            return None;
        }
        assert!(found, "nbdkit is missing: `cargo xtask setup` installs it");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("muskox-load-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::File::create(root.join("image")).unwrap().set_len(SPAN).unwrap();
        let mut server = Self { root, child: None };
        server.serve(&[]);
        Some(server)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn serve(&mut self, filter: &[&str]) {
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(self.path("socket"));
        if !filter.is_empty() {
            command.arg("--filter=error");
        }
        command.arg("file").arg(self.path("image")).args(filter).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let _ = std::fs::remove_file(self.path("socket"));
    }

    fn load(&self, bound: Duration) -> Load {
        let settings = Settings {
            socket: self.path("socket"),
            export: String::new(),
            depth: 8,
            span_bytes: SPAN,
            rate: 2000,
            bound,
            seed: 3,
        };
        let load = Load::start(settings).unwrap();
        assert!(load.sweep(PATIENCE, || false));
        load
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn some_load() {
    std::thread::sleep(Duration::from_millis(150));
}

fn finish(load: Load) -> Stats {
    load.stop();
    load.join().unwrap()
}

fn found(stats: &Stats) -> Vec<Wrong> {
    stats.violations.iter().map(|violation| violation.wrong).collect()
}

/// Goal: a server that dies and comes back is only a wait. Method: three kills under load, everything read back.
#[test]
fn kills_are_only_a_wait() {
    let Some(mut server) = Server::start() else { return };
    let load = server.load(BOUND);
    for _ in 0..3 {
        some_load();
        load.take_stall();
        server.kill();
        std::thread::sleep(Duration::from_millis(200));
        let whole = Instant::now();
        server.serve(&[]);
        while !load.is_past(whole) {
            assert!(load.lives() && whole.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(load.take_stall() >= 190, "the wait is measured");
        assert!(load.sweep(PATIENCE, || false));
    }
    let stats = finish(load);
    assert_eq!(found(&stats), [], "{:?}", stats.violations);
    assert_eq!((stats.reconnects, stats.errors), (3, 0));
    assert!(stats.writes > 100 && stats.reads > 100 && stats.flushes > 5 && stats.sweeps == 5, "{stats:?}");
}

/// What is done to the image between a kill and a restart, and what has to be found.
fn spoil(how: impl FnOnce(&Path, &Path)) -> Option<Stats> {
    let mut server = Server::start()?;
    let load = server.load(BOUND);
    std::fs::copy(server.path("image"), server.path("old")).unwrap();
    some_load();
    server.kill();
    how(&server.path("image"), &server.path("old"));
    server.serve(&[]);
    assert!(load.sweep(PATIENCE, || false));
    Some(finish(load))
}

/// Goal: lost writes are found. Method: an older image takes the place of the newer one.
#[test]
fn an_old_image_is_found() {
    let Some(stats) = spoil(|image, old| assert!(std::fs::copy(old, image).is_ok())) else { return };
    let found = found(&stats);
    assert!(found.contains(&Wrong::LostWrite) || found.contains(&Wrong::Overtaken), "{found:?}");
    assert!(found.iter().all(|wrong| matches!(wrong, Wrong::LostWrite | Wrong::Overtaken)), "{found:?}");
    let text = stats.violations[0].to_string();
    assert!(text.contains("expected write") && text.contains("got write"), "{text}");
}

/// Goal: blocks in the wrong place are found. Method: the two halves of the image change places.
#[test]
fn misplaced_blocks_are_found() {
    let swap = |image: &Path, _: &Path| {
        let mut bytes = std::fs::read(image).unwrap();
        let half = bytes.len() / 2;
        bytes.rotate_left(half);
        std::fs::write(image, bytes).unwrap();
    };
    let Some(stats) = spoil(swap) else { return };
    let found = found(&stats);
    assert!(!found.is_empty() && found.iter().all(|wrong| *wrong == Wrong::Foreign), "{found:?}");
}

/// Goal: torn blocks are found. Method: one sector of every block comes from an older image.
#[test]
fn torn_blocks_are_found() {
    let tear = |image: &Path, old: &Path| {
        let (image, old) =
            (std::fs::File::options().write(true).open(image).unwrap(), std::fs::File::open(old).unwrap());
        let mut sector = [0; 512];
        for at in (1024..SPAN).step_by(BLOCK) {
            old.read_exact_at(&mut sector, at).unwrap();
            image.write_all_at(&sector, at).unwrap();
        }
    };
    let Some(stats) = spoil(tear) else { return };
    let text = stats.violations.first().map(ToString::to_string).unwrap_or_default();
    assert!(text.contains("bytes 0..1024 write") && text.contains("bytes 1024..1536 write"), "{text}");
}

/// Goal: an error is a violation. Method: nbdkit answers some requests with EIO.
#[test]
fn errors_are_found() {
    let Some(mut server) = Server::start() else { return };
    let load = server.load(BOUND);
    server.kill();
    server.serve(&["error=EIO", "error-rate=5%"]);
    some_load();
    some_load();
    let stats = finish(load);
    assert!(stats.errors > 0 && found(&stats).contains(&Wrong::Error), "{stats:?}");
}

/// Goal: silence beyond the bound is a violation and ends the load. Method: the server does not come back.
#[test]
fn silence_is_found() {
    let Some(mut server) = Server::start() else { return };
    let load = server.load(Duration::from_millis(500));
    server.kill();
    let begun = Instant::now();
    while load.lives() {
        assert!(begun.elapsed() < PATIENCE, "it waits for ever");
        std::thread::sleep(Duration::from_millis(5));
    }
    let stats = load.join().unwrap();
    assert_eq!(found(&stats), [Wrong::Silence]);
    assert!(stats.longest_stall_ms >= 500, "{stats:?}");
}
