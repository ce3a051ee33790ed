//! `lab load`: a verifying load on the Unix socket that QEMU would use.
//!
//! It behaves as QEMU does with `reconnect-delay`: a socket that dies is connected again, within a bound, and what was
//! not answered is asked again. Every block it writes is unique, it knows what each block may hold ([`model`]), and it
//! reads back all the time. It does *not* know what is done to the servers behind the socket.

pub(crate) mod client;
mod engine;
pub mod model;
pub mod stamp;

use crate::signals::Requests;
use anyhow::Context;
use engine::Engine;
use model::Violation;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// After so many violations more of them say nothing new.
const VIOLATIONS_MAX: usize = 64;
const DEPTH_MAX: usize = 256;
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// `lab load`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The Unix socket.
    #[arg(long)]
    socket: PathBuf,
    /// The export's name.
    #[arg(long, default_value = "")]
    export: String,
    /// How many requests are in flight.
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// How long it runs, in seconds; then everything is read back once more.
    #[arg(long, default_value_t = 10.0)]
    secs: f64,
    /// How much of the export is used, in MiB.
    #[arg(long, default_value_t = 16)]
    span_mib: u64,
    /// How many requests a second at most; 0: as many as it can.
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// An answer, or a new connection, that takes longer is a violation. In milliseconds.
    #[arg(long, default_value_t = 600_000)]
    bound_ms: u64,
    /// What the choices are drawn from; the same seed asks for the same things, as far as answers come the same.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What a load is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The export's name.
    pub export: String,
    /// How many requests are in flight.
    pub depth: usize,
    /// How much of the export is used.
    pub span_bytes: u64,
    /// How many requests a second at most; 0 for no limit.
    pub rate: u32,
    /// An answer, or a new connection, that takes longer is a violation.
    pub bound: Duration,
    /// What the choices are drawn from.
    pub seed: u64,
}

/// What happened so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// Requests answered.
    pub operations: u64,
    /// Reads among them.
    pub reads: u64,
    /// Writes among them.
    pub writes: u64,
    /// Flushes among them.
    pub flushes: u64,
    /// Those answered with an error.
    pub errors: u64,
    /// How often the socket died and was connected again.
    pub reconnects: u64,
    /// The longest that a request waited for its answer.
    pub longest_stall_ms: u64,
    /// The same since [`Load::take_stall`].
    #[serde(skip)]
    pub window_stall_ms: u64,
    /// How often everything was read back.
    pub sweeps: u64,
    /// Why the connection broke last.
    #[serde(skip)]
    pub last_disconnect: String,
    /// What went wrong: the first ones.
    pub violations: Vec<Violation>,
    /// How much went wrong.
    pub violated: u64,
}

/// What the load's thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Run,
    /// Read everything back and go on.
    Sweep,
    /// Read everything back and end.
    Stop,
    Done,
}

struct Shared(Mutex<Inside>);

struct Inside {
    stats: Stats,
    order: Order,
    storm: Option<bool>,
    oldest: Option<Instant>,
}

impl Shared {
    fn inside<T>(&self, look: impl FnOnce(&mut Inside) -> T) -> T {
        look(&mut self.0.lock().expect("no panic under this lock"))
    }

    fn with(&self, change: impl FnOnce(&mut Stats)) {
        self.inside(|inside| change(&mut inside.stats));
    }

    fn order(&self) -> Order {
        self.inside(|inside| inside.order)
    }

    fn storm_order(&self) -> Option<bool> {
        self.inside(|inside| inside.storm.take())
    }

    fn swept(&self) {
        self.inside(|inside| {
            inside.stats.sweeps += 1;
            inside.order = match inside.order {
                Order::Stop | Order::Done => Order::Done,
                Order::Sweep | Order::Run => Order::Run,
            };
        });
    }

    /// Something waited since then.
    fn stalled(&self, since: Instant) {
        let waited_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.with(|stats| {
            stats.longest_stall_ms = stats.longest_stall_ms.max(waited_ms);
            stats.window_stall_ms = stats.window_stall_ms.max(waited_ms);
        });
    }

    fn set_oldest(&self, oldest: Option<Instant>) {
        self.inside(|inside| inside.oldest = oldest);
    }

    fn violated(&self, violation: Violation) {
        self.with(|stats| {
            stats.violated += 1;
            if stats.violations.len() < VIOLATIONS_MAX {
                stats.violations.push(violation);
            }
        });
    }
}

/// A load in a thread of its own.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    /// Connects and starts; the first thing it does is to write everything once.
    ///
    /// # Errors
    /// When nobody is there within the bound, or the settings make no sense.
    pub fn start(settings: Settings) -> anyhow::Result<Self> {
        anyhow::ensure!((1..=DEPTH_MAX).contains(&settings.depth), "--depth is 1 to {DEPTH_MAX}");
        let inside = Inside { stats: Stats::default(), order: Order::Run, storm: None, oldest: None };
        let shared = Arc::new(Shared(Mutex::new(inside)));
        let engine = Engine::start(settings, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || engine.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What happened so far.
    pub fn stats(&self) -> Stats {
        self.shared.inside(|inside| inside.stats.clone())
    }

    /// The longest that a request waited since this was asked last, those still waiting included.
    pub fn take_stall(&self) -> u64 {
        self.shared.inside(|inside| {
            let waiting = inside.oldest.map_or(0, |oldest| oldest.elapsed().as_millis());
            let stall = std::mem::take(&mut inside.stats.window_stall_ms);
            stall.max(u64::try_from(waiting).unwrap_or(u64::MAX))
        })
    }

    /// Whether nothing that was asked before `moment` still waits.
    pub fn is_past(&self, moment: Instant) -> bool {
        self.shared.inside(|inside| inside.oldest.is_none_or(|oldest| oldest > moment))
    }

    /// Whether it goes on at all: it ends by itself when the bound is broken.
    pub fn lives(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// From now on, until `false`, writes that nobody answered may come and go ([`model::Model::storm`]).
    pub fn storm(&self, rages: bool) {
        self.shared.inside(|inside| inside.storm = Some(rages));
        // The storm must not begin before the load knows.
        while self.lives() && self.shared.inside(|inside| inside.storm.is_some()) {
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Reads everything back; whether it was done within `patience`. It is abandoned when `stop` says so.
    pub fn sweep(&self, patience: Duration, stop: impl Fn() -> bool) -> bool {
        let begun = Instant::now();
        let before = self.shared.inside(|inside| {
            inside.order = Order::Sweep;
            inside.stats.sweeps
        });
        while self.stats().sweeps == before {
            if begun.elapsed() > patience || !self.lives() || stop() {
                return false;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        true
    }

    /// Asks it to read everything back once more and to end.
    pub fn stop(&self) {
        self.shared.inside(|inside| inside.order = Order::Stop);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it panicked.
    pub fn join(mut self) -> anyhow::Result<Stats> {
        let thread = self.thread.take().context("it is joined once")?;
        anyhow::ensure!(thread.join().is_ok(), "the load itself broke; its words are above");
        Ok(self.stats())
    }
}

/// Runs the load and prints [`Stats`] as JSON; returns the exit code.
///
/// # Errors
/// When there is no server, or the options make no sense.
pub fn run(options: &Options) -> anyhow::Result<i32> {
    let requests = Requests::collect()?;
    let load = Load::start(Settings {
        socket: options.socket.clone(),
        export: options.export.clone(),
        depth: options.depth,
        span_bytes: options.span_mib << 20,
        rate: options.rate,
        bound: Duration::from_millis(options.bound_ms),
        seed: options.seed,
    })?;
    let shared = Arc::clone(&load.shared);
    std::thread::spawn(move || {
        let code = requests.wait().unwrap_or(1);
        eprintln!("muskox-lab: stopped before the end: {}", one_line(&shared.inside(|inside| inside.stats.clone())));
        std::process::exit(code);
    });
    let begun = Instant::now();
    let mut said = begun;
    while load.lives() && begun.elapsed().as_secs_f64() < options.secs {
        std::thread::sleep(LOOK_AGAIN);
        if said.elapsed() >= Duration::from_secs(1) {
            said = Instant::now();
            eprintln!("{:>4} s  {}", begun.elapsed().as_secs(), one_line(&load.stats()));
        }
    }
    load.stop();
    let stats = load.join()?;
    println!("{}", serde_json::to_string(&stats)?);
    stats.violations.iter().for_each(|violation| eprintln!("{violation}"));
    Ok(i32::from(stats.violated > 0))
}

/// The counters for people.
pub fn one_line(stats: &Stats) -> String {
    let Stats { operations, errors, reconnects, longest_stall_ms, violated, .. } = stats;
    format!(
        "{operations} operations, {errors} errors, {reconnects} reconnects, longest stall {longest_stall_ms} ms, \
         {violated} violations"
    )
}
