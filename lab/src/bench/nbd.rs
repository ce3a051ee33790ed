//! `bench nbd`: 4 KiB random at queue depth 1 and 32, 256 KiB at 4, reads and writes, one plaintext connection.
//!
//! Rounds are interleaved (every server in each), so that a slow minute of the machine hits all alike. Everything
//! runs in a network and a mount namespace without names, which end with their last process; TCP and memory there are the
//! same on every machine (`ground`).

use super::ground;
use super::report::{Report, Sample, Want};
use super::servers::{Medium, NBDKIT_FILE, NBDKIT_MEMORY, Place, QEMU, RAID1, Server, VOLUME};
use crate::disks::cache::Dice;
use crate::ledger::{Ledger, Thing};
use crate::load::Measured;
use crate::signals::Requests;
use anyhow::Context;
use nix::sched::{CloneFlags, sched_getaffinity, unshare};
use nix::unistd::Pid;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A server that does not listen by then is broken.
const START_LIMIT: Duration = Duration::from_secs(20);
/// On a disk the queue settles sooner than CPU figures do.
const DISK_SECS_MAX: f64 = 2.0;

/// `bench nbd`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The muskox binary (a release build).
    #[arg(long)]
    program: PathBuf,
    /// How often each server is measured in each cell.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// For how long each time.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// How large the volume is.
    #[arg(long, default_value_t = 512)]
    image_mib: u64,
    /// A directory on a tmpfs, as /dev/shm; if absent one of huge pages is mounted.
    #[arg(long)]
    tmpfs: Option<PathBuf>,
    /// A directory on a real disk.
    #[arg(long, default_value = "target/bench")]
    disk: PathBuf,
    /// Leave the real disk out.
    #[arg(long)]
    no_disk: bool,
    /// Where the figures are written.
    #[arg(long, default_value = "target/bench/nbd.json")]
    out: PathBuf,
    /// Where leftovers are recorded for `lab clean`.
    #[arg(long, default_value = "target/lab")]
    state: PathBuf,
    /// Exit 1 if a goal is missed.
    #[arg(long)]
    check: bool,
}

/// What is measured: name, kind, size, depth.
type Cell = (&'static str, &'static str, u32, u32);

const CELLS: [Cell; 6] = [
    ("4K read q1", "read", 4096, 1),
    ("4K write q1", "write", 4096, 1),
    ("4K read q32", "read", 4096, 32),
    ("4K write q32", "write", 4096, 32),
    ("256K read q4", "read", 262_144, 4),
    ("256K write q4", "write", 262_144, 4),
];

/// Runs it; returns the exit code.
///
/// # Errors
/// When the machine cannot be prepared, or a server cannot be measured.
pub fn run(options: &Options) -> anyhow::Result<i32> {
    let requests = Requests::collect()?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("private namespaces need root")?;
    ground::network()?;
    let ledger = Arc::new(Ledger::open(&options.state)?);
    let at_end = Arc::clone(&ledger);
    std::thread::spawn(move || {
        let code = requests.wait().unwrap_or(1);
        if let Err(error) = at_end.settle() {
            eprintln!("muskox-lab: {error:#}");
        }
        std::process::exit(code);
    });
    let kept = measure_all(options, &ledger);
    // Also when the measuring failed, and when it failed because a signal has just ended the servers.
    ledger.settle()?;
    Ok(i32::from(!kept? && options.check))
}

/// Measures, prints, writes; whether every goal was kept.
fn measure_all(options: &Options, ledger: &Ledger) -> anyhow::Result<bool> {
    let cpus = two_cpus()?;
    let mut memory = Report::default();
    measure(options, ledger, Medium::Tmpfs, &cpus, &mut memory)?;
    let mut disk = Report::default();
    if !options.no_disk {
        measure(options, ledger, Medium::Disk, &cpus, &mut disk)?;
    }
    set_goals(&mut memory);
    print(options, &memory, &disk);
    write(options, &memory)?;
    Ok(memory.goals().iter().all(|goal| goal.ok))
}

fn measure(
    options: &Options,
    ledger: &Ledger,
    medium: Medium,
    cpus: &[usize],
    report: &mut Report,
) -> anyhow::Result<()> {
    let under = match (medium, &options.tmpfs) {
        (Medium::Disk, _) => ground::folder(&options.disk)?,
        (Medium::Tmpfs, Some(there)) => ground::folder(there)?,
        (Medium::Tmpfs, None) => ground::memory(&options.out.with_file_name("memory"), options.image_mib)?,
    };
    let folder = under.join(format!("muskox-bench-{}", std::process::id()));
    ledger.record(Thing::Folder { path: folder.clone() })?;
    std::fs::create_dir_all(&folder)?;
    let image = folder.join("peer.img");
    fill(&image, options.image_mib)?;
    let logs = options.out.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(logs).with_context(|| format!("making {}", logs.display()))?;
    let image_bytes = options.image_mib << 20;
    let place = Place { medium, folder: &folder, image: &image, image_bytes, logs, program: &options.program, ledger };
    let servers = Server::all(&place).with_context(|| format!("what the servers said is in {}", logs.display()))?;
    servers.iter().try_for_each(|server| wait_for(server).and_then(|()| overwrite(server, &image)))?;

    // On a disk, CPU time per request says little: one table, on two CPUs.
    let modes: &[bool] = if medium == Medium::Tmpfs { &[true, false] } else { &[false] };
    let secs = if medium == Medium::Tmpfs { options.secs } else { options.secs.min(DISK_SECS_MAX) };
    for round in 0..options.rounds {
        eprintln!("round {} of {} ({medium:?})", round + 1, options.rounds);
        for pinned in modes {
            let cpus = if *pinned { &cpus[..1] } else { cpus };
            for cell in &CELLS {
                for server in &servers {
                    server.bind(cpus)?;
                    let measured =
                        load(server, cell, secs, cpus).with_context(|| format!("{}, {}", server.name, cell.0))?;
                    report.add(server.name, cell.0, *pinned, sample(&measured));
                }
            }
        }
    }
    drop(servers);
    std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
}

fn sample(measured: &Measured) -> Sample {
    let Measured { kiops, mb_per_s, p50_us, p99_us, .. } = *measured;
    Sample { kiops, mb_per_s, p50_us, p99_us, cpu_us: measured.server_cpu_us.unwrap_or_default() }
}

/// The load runs as a process of its own, bound to `cpus` like the server.
fn load(server: &Server, (_, kind, size, depth): &Cell, secs: f64, cpus: &[usize]) -> anyhow::Result<Measured> {
    let list: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    let mut command = Command::new("taskset");
    command.args(["-c", &list.join(",")]).arg(std::env::current_exe()?);
    command.args(["nbd-load", "--connect", &server.address, "--export", server.export, "--kind", kind]);
    command.args(["--size", &size.to_string(), "--depth", &depth.to_string(), "--secs", &secs.to_string()]);
    command.args(["--server-pid", &server.pid().to_string()]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let done = command.output().context("running the load")?;
    anyhow::ensure!(done.status.success(), "the load failed: {}", String::from_utf8_lossy(&done.stdout));
    serde_json::from_slice(&done.stdout).context("reading what the load measured")
}

fn wait_for(server: &Server) -> anyhow::Result<()> {
    let begun = Instant::now();
    while std::net::TcpStream::connect(&server.address).is_err() {
        anyhow::ensure!(begun.elapsed() < START_LIMIT, "{} does not listen on {}", server.name, server.address);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Writes everywhere once, so that no server is measured while the kernel finds it memory.
fn overwrite(server: &Server, image: &Path) -> anyhow::Result<()> {
    let url = format!("nbd://{}/{}", server.address, server.export);
    let mut command = Command::new("qemu-img");
    let done = command.args(["convert", "-n", "-f", "raw", "-O", "raw"]).arg(image).arg(url).output();
    let done = done.context("running qemu-img")?;
    anyhow::ensure!(done.status.success(), "filling {}: {}", server.name, String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// An image full of data: holes would be read for nothing.
fn fill(image: &Path, mib: u64) -> anyhow::Result<()> {
    let mut dice = Dice::new(2);
    let chunk: Vec<u8> = std::iter::repeat_with(|| dice.throw().to_le_bytes()).flatten().take(1 << 20).collect();
    let mut file = std::fs::File::create(image).with_context(|| format!("making {}", image.display()))?;
    (0..mib).try_for_each(|_| file.write_all(&chunk))?;
    Ok(file.sync_all()?)
}

/// Two CPUs that we may use.
fn two_cpus() -> anyhow::Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let cpus: Vec<usize> =
        (0..nix::sched::CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true)).take(2).collect();
    anyhow::ensure!(cpus.len() == 2, "this bench needs two CPUs");
    Ok(cpus)
}

/// The goals of the milestone: our CPU time and throughput beside nbdkit's file plugin.
fn set_goals(report: &mut Report) {
    for (cell, kind, _, depth) in CELLS {
        let cpu = if depth == 32 { 0.8 } else { 1.0 };
        report.goal((VOLUME, NBDKIT_FILE), cell, true, "cpu_us", Want::AtMost(cpu));
        if depth == 32 {
            report.goal((VOLUME, NBDKIT_FILE), cell, false, "kiops", Want::AtLeast(1.2));
        }
        let cpu = if kind == "read" { 1.0 } else { 1.2 };
        report.goal((RAID1, NBDKIT_FILE), cell, true, "cpu_us", Want::AtMost(cpu));
    }
}

fn print(options: &Options, memory: &Report, disk: &Report) {
    let servers = [NBDKIT_FILE, NBDKIT_MEMORY, QEMU, VOLUME, RAID1];
    let cells = CELLS.map(|cell| cell.0);
    let of = format!("{} rounds of {} s, medians", options.rounds, options.secs);
    let ground = if options.tmpfs.is_some() { "tmpfs as given" } else { "tmpfs of huge pages" };
    memory.print(&format!("{ground}, server and client on one CPU ({of})"), &servers, &cells, true);
    memory.print(&format!("{ground}, two CPUs ({of})"), &servers, &cells, false);
    if !options.no_disk {
        let secs = options.secs.min(DISK_SECS_MAX);
        disk.print(
            &format!("disk at {}, two CPUs ({} rounds of {secs} s, medians)", options.disk.display(), options.rounds),
            &servers,
            &cells,
            false,
        );
    }
    memory.print_goals();
}

fn write(options: &Options, memory: &Report) -> anyhow::Result<()> {
    let figures = serde_json::json!({ "rows": memory.rows(), "goals": memory.goals() });
    std::fs::write(&options.out, serde_json::to_vec_pretty(&figures)?)
        .with_context(|| format!("writing {}", options.out.display()))?;
    println!("\nfigures: {}", options.out.display());
    Ok(())
}
