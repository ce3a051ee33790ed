//! `lab disks`: files that are disks, over FUSE, in a process of its own that outlives whoever uses them.
//!
//! ```text
//! target ─▶ kernel ─▶ fuse ─▶ shelf ─▶ disk (faults) ─▶ cache (volatile) ─▶ backing file
//!                               ▲  └─▶ journal
//!             control socket ───┘
//! ```
//! Lost when this process is killed: un-flushed writes, as in a power cut. Ended by SIGTERM or SIGINT it writes them out.

pub mod applied;
pub mod cache;
pub mod control;
pub mod disk;
mod fuse;
pub mod journal;
pub mod running;
mod shelf;
pub mod stamp;

use crate::ledger::{Ledger, Thing, is_mounted};
use crate::signals::{Requests, ask_myself};
use anyhow::Context;
use control::{Answer, Command};
use rustix::mount::{UnmountFlags, unmount};
use shelf::Shelf;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

/// So many threads take requests from the kernel: one can be at a backing file while another answers.
const FUSE_THREADS: usize = 2;
/// A command is a short line; whoever sends more is not ours.
const COMMAND_BYTES: u64 = 64 << 10;

/// `lab disks`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The directory to show disk0, disk1, … in; made if it is missing.
    #[arg(long)]
    dir: PathBuf,
    /// The directory that keeps their content, snapshots and log (log.jsonl).
    #[arg(long)]
    backing: PathBuf,
    /// The control socket: one JSON command a line.
    #[arg(long)]
    control: PathBuf,
    /// How many disks.
    #[arg(long, default_value_t = 2)]
    count: usize,
    /// How large each is, in MiB.
    #[arg(long, default_value_t = 256)]
    size_mib: u64,
    /// O_DIRECT requests must be multiples of this: 512 or 4096.
    #[arg(long, default_value_t = 512)]
    block_bytes: u64,
    /// Look for rogue-stamped writes, and log them here.
    #[arg(long)]
    applied: Option<PathBuf>,
    /// How long a rogue-stamped write is on its way, in milliseconds.
    #[arg(long, default_value_t = 300)]
    stamp_delay_ms: u64,
    /// Where leftovers are recorded for `lab clean`.
    #[arg(long, default_value = "target/lab")]
    state: PathBuf,
}

/// Serves disks until it is asked to end; returns the exit code.
///
/// # Errors
/// When they cannot be mounted; nothing is left behind then.
pub fn run(options: &Options) -> anyhow::Result<i32> {
    let requests = Requests::collect()?;
    let ledger = Ledger::open(&options.state)?;
    let served = serve(options, &ledger, &requests);
    let settled = ledger.settle();
    let code = served?;
    settled.map(|()| code)
}

fn serve(options: &Options, ledger: &Ledger, requests: &Requests) -> anyhow::Result<i32> {
    std::fs::create_dir_all(&options.backing).with_context(|| format!("making {}", options.backing.display()))?;
    std::fs::create_dir_all(&options.dir).with_context(|| format!("making {}", options.dir.display()))?;
    let dir = options.dir.canonicalize().with_context(|| format!("looking at {}", options.dir.display()))?;
    anyhow::ensure!(!is_mounted(&dir), "{} is a mount point already: run `lab clean`, or take another", dir.display());

    let open = |number| disk::Disk::open(&options.backing, number, options.size_mib << 20, options.block_bytes);
    let disks = (0..options.count).map(open).collect::<Result<Vec<_>, _>>().context("opening the backing files")?;
    let journal = journal::Journal::open(&options.backing.join("log.jsonl")).context("opening the log")?;
    let rogues = options.applied.as_deref().map(applied::Applied::open).transpose()?;
    let rogues = rogues.map(|log| shelf::Rogues { log, delay_ms: options.stamp_delay_ms.into() });
    let shelf = Arc::new(Shelf::new(disks, journal, rogues));

    ledger.record(Thing::File { path: options.control.clone() })?;
    listen(options, &shelf)?;
    ledger.record(Thing::Mount { at: dir.clone() })?;
    let mut config = fuser::Config::default();
    config.mount_options =
        vec![fuser::MountOption::FSName("muskox-lab".into()), fuser::MountOption::NoDev, fuser::MountOption::NoSuid];
    config.n_threads = Some(FUSE_THREADS);
    let session = fuser::Session::new(fuse::Directory::new(Arc::clone(&shelf)), &dir, &config);
    let session = session.with_context(|| format!("mounting {}: root and /dev/fuse are needed", dir.display()))?;
    // The session ends when somebody else unmounts the directory: then there is nothing left to serve.
    std::thread::spawn(move || {
        let _ = session.run();
        ask_myself();
    });
    say_ready()?;

    let code = requests.wait()?;
    for number in 0..shelf.count() {
        shelf.with(number, |disk| disk.content.flush())?;
    }
    // Lazily: a hung user keeps its handles until this process is gone, and then gets an error.
    if is_mounted(&dir) {
        unmount(dir.as_path(), UnmountFlags::DETACH).with_context(|| format!("unmounting {}", dir.display()))?;
    }
    Ok(if code == 128 + libc::SIGTERM { 0 } else { code })
}

fn say_ready() -> anyhow::Result<()> {
    println!("ready");
    Ok(std::io::stdout().flush()?)
}

fn listen(options: &Options, shelf: &Arc<Shelf>) -> anyhow::Result<()> {
    let _ = std::fs::remove_file(&options.control);
    let listener =
        UnixListener::bind(&options.control).with_context(|| format!("listening on {}", options.control.display()))?;
    let shelf = Arc::clone(shelf);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shelf = Arc::clone(&shelf);
            // A connection that breaks was its user's choice.
            std::thread::spawn(move || converse(&stream, &shelf).ok());
        }
    });
    Ok(())
}

fn converse(stream: &UnixStream, shelf: &Shelf) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if std::io::Read::take(&mut reader, COMMAND_BYTES).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_str::<Command>(&line) {
            Ok(command) => shelf.obey(&command),
            Err(error) => Answer { ok: false, error: Some(error.to_string()), disks: Vec::new() },
        };
        let mut text = serde_json::to_string(&answer).expect("an answer has no maps");
        text.push('\n');
        (&*stream).write_all(text.as_bytes())?;
    }
}
