//! `lab nbd-load`: a load on one NBD connection, lean enough that it measures the server and not itself.
//!
//! One thread. All requests of free slots leave in one gathered send; one receive takes whatever has come; payloads
//! are skipped where they lie. Data is not verified here: this is a stop-watch, not a checker.

pub(crate) mod nbd;

use crate::disks::cache::Dice;
use anyhow::Context;
use nbd::{Connection, Replies, Request};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Runs before the stop-watch: the server's threads, caches and the CPU's clock settle.
const WARM_UP: Duration = Duration::from_millis(300);
/// More in flight than any client of ours has; a reply's cookie is the slot.
const DEPTH_MAX: usize = 1024;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Random reads.
    Read,
    /// Random writes.
    Write,
}

/// `lab nbd-load`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// HOST:PORT.
    #[arg(long, required_unless_present = "unix")]
    connect: Option<String>,
    /// The path of a Unix socket instead.
    #[arg(long, conflicts_with = "connect")]
    unix: Option<PathBuf>,
    /// The export's name.
    #[arg(long, default_value = "")]
    export: String,
    /// What is done.
    #[arg(long, value_enum, default_value = "read")]
    kind: Kind,
    /// How large a request is, in bytes.
    #[arg(long, default_value_t = 4096)]
    size: u32,
    /// How many are in flight.
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// How long the stop-watch runs.
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// Whose CPU time is measured meanwhile, with its children.
    #[arg(long)]
    server_pid: Option<i32>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Requests answered well.
    pub ios: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Thousands of requests a second.
    pub kiops: f64,
    /// Millions of bytes a second.
    pub mb_per_s: f64,
    /// Half of them were answered within this, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 were.
    pub p99_us: f64,
    /// The server's CPU time per request, in microseconds.
    pub server_cpu_us: Option<f64>,
    /// Ours.
    pub client_cpu_us: f64,
}

/// Runs the load and prints [`Measured`] as one JSON line; returns the exit code.
///
/// # Errors
/// When there is no server, or it speaks otherwise.
pub fn run(options: &Options) -> anyhow::Result<i32> {
    let measured = measure(options)?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(i32::from(measured.errors > 0))
}

fn measure(options: &Options) -> anyhow::Result<Measured> {
    anyhow::ensure!((1..=DEPTH_MAX).contains(&options.depth), "--depth is 1 to {DEPTH_MAX}");
    anyhow::ensure!(options.size > 0 && options.size.is_multiple_of(512), "--size is a multiple of 512");
    let mut connection = match (&options.connect, &options.unix) {
        (_, Some(path)) => Connection::unix(path, &options.export)?,
        (Some(address), None) => Connection::tcp(address, &options.export)?,
        (None, None) => anyhow::bail!("give --connect or --unix"),
    };
    let places = connection.size() / u64::from(options.size);
    anyhow::ensure!(places > 0, "the export is smaller than one request");
    let mut load = Load::new(options, places);
    load.run_for(&mut connection, WARM_UP)?;
    load.reset();
    let clocks = Clocks::read(options.server_pid)?;
    let begun = Instant::now();
    load.run_for(&mut connection, Duration::from_secs_f64(options.secs))?;
    let took = begun.elapsed().as_secs_f64();
    let spent = Clocks::read(options.server_pid)?;
    Ok(load.summary(took, &clocks, &spent))
}

struct Load {
    kind: Kind,
    size: u32,
    places: u64,
    dice: Dice,
    payload: Vec<u8>,
    /// When the request of each slot left.
    since: Vec<Instant>,
    free: Vec<usize>,
    latencies_ns: Vec<u32>,
    errors: u64,
}

impl Load {
    fn new(options: &Options, places: u64) -> Self {
        let mut dice = Dice::new(1);
        let bytes = options.size as usize;
        let payload = std::iter::repeat_with(|| dice.throw().to_le_bytes()).flatten().take(bytes).collect();
        let (since, free) = (vec![Instant::now(); options.depth], (0..options.depth).collect());
        Self {
            kind: options.kind,
            size: options.size,
            places,
            dice,
            payload,
            since,
            free,
            latencies_ns: Vec::new(),
            errors: 0,
        }
    }

    fn reset(&mut self) {
        self.latencies_ns.clear();
        self.errors = 0;
    }

    fn run_for(&mut self, connection: &mut Connection, span: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut now = begun;
        let mut replies = Replies::new(if self.kind == Kind::Read { self.size as usize } else { 0 });
        while now - begun < span {
            self.ask(connection, now)?;
            connection.receive(&mut replies)?;
            now = Instant::now();
            self.take(&mut replies, now)?;
        }
        // Nothing stays in flight between two runs.
        while self.free.len() < self.since.len() {
            connection.receive(&mut replies)?;
            self.take(&mut replies, Instant::now())?;
        }
        Ok(())
    }

    fn ask(&mut self, connection: &mut Connection, now: Instant) -> anyhow::Result<()> {
        let mut requests = Vec::with_capacity(self.free.len());
        for slot in self.free.drain(..) {
            self.since[slot] = now;
            let at = self.dice.below(self.places) * u64::from(self.size);
            requests
                .push(Request { write: self.kind == Kind::Write, cookie: slot as u64, at, len: self.size }.encode());
        }
        let payload = if self.kind == Kind::Write { self.payload.as_slice() } else { &[] };
        connection.send(&requests, payload)
    }

    fn take(&mut self, replies: &mut Replies, now: Instant) -> anyhow::Result<()> {
        for (cookie, error) in replies.drain() {
            let slot = usize::try_from(cookie).ok().filter(|slot| *slot < self.since.len());
            let slot = slot.with_context(|| format!("the server answered a request that was never made ({cookie})"))?;
            let took_ns = (now - self.since[slot]).as_nanos();
            match error {
                0 => self.latencies_ns.push(u32::try_from(took_ns).unwrap_or(u32::MAX)),
                _ => self.errors += 1,
            }
            self.free.push(slot);
        }
        Ok(())
    }

    fn summary(&mut self, took: f64, before: &Clocks, after: &Clocks) -> Measured {
        self.latencies_ns.sort_unstable();
        let ios = self.latencies_ns.len();
        let percentile = |part: usize| {
            self.latencies_ns.get((ios * part / 100).min(ios.saturating_sub(1))).map_or(0.0, |ns| f64::from(*ns) / 1e3)
        };
        let count = ratio(ios as u64, 1).max(1.0);
        Measured {
            ios: ios as u64,
            errors: self.errors,
            kiops: ratio(ios as u64, 1000) / took,
            mb_per_s: ratio(ios as u64, 1) * f64::from(self.size) / took / 1e6,
            p50_us: percentile(50),
            p99_us: percentile(99),
            server_cpu_us: after
                .server_ns
                .zip(before.server_ns)
                .map(|(after, before)| ratio(after.saturating_sub(before), 1000) / count),
            client_cpu_us: ratio(after.client_ns - before.client_ns, 1000) / count,
        }
    }
}

/// CPU time used so far. A process's clock counts all its threads, ended ones too, in nanoseconds; `/proc/PID/stat`
/// would count in hundredths of a second.
struct Clocks {
    server_ns: Option<u64>,
    client_ns: u64,
}

impl Clocks {
    fn read(server: Option<i32>) -> anyhow::Result<Self> {
        let server_ns = server.map(|pid| tree(pid).into_iter().map(cpu_ns).sum::<anyhow::Result<u64>>()).transpose()?;
        Ok(Self { server_ns, client_ns: clock_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID)? })
    }
}

/// A process and its descendants.
fn tree(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", found[at]));
        for task in tasks.into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
        at += 1;
    }
    found
}

fn cpu_ns(pid: i32) -> anyhow::Result<u64> {
    clock_ns(clock_getcpuclockid(Pid::from_raw(pid)).with_context(|| format!("the server ({pid}) is gone"))?)
}

fn clock_ns(clock: ClockId) -> anyhow::Result<u64> {
    let now = clock.now()?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}

/// For figures: counts here are far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn ratio(number: u64, by: u64) -> f64 {
    number as f64 / by as f64
}
