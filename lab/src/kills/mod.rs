//! `lab kills`: target, initiator, power and cables fail again and again under a verifying load, and the guest's side
//! may notice nothing but a wait.
//!
//! A round: a random moment of load, the fault, its end, everything that was asked before is answered, everything is
//! read back. It does *not* know how target and initiator survive; it knows what a guest may see.

mod delay;
pub mod keys;
mod stack;
pub mod stop;
mod table;

use crate::disks::cache::Dice;
use crate::ledger::{self, Ledger};
use crate::machine::{Role, Site};
use crate::net::{Network, SEGMENTS};
use crate::verify::{Load, Settings, one_line};
use anyhow::Context;
use serde::Serialize;
use stack::{Plan, Stack, Way};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stop::Stop;
use table::{Report, Round, Row};

const FOLDER_PREFIX: &str = "kills-";
const DISK_MIB: u64 = 128;
const VOLUME_MIB: u64 = 64;
/// What the load uses of the volume: read back as a whole after every round.
const SPAN_BYTES: u64 = 16 << 20;
const DEPTH: usize = 16;
/// Requests a second: enough to have some in flight whenever a fault comes, and little enough for a shared machine.
const RATE: u32 = 2000;
/// What a round may take at most, and what it takes to build everything, for the run's own deadline.
const ROUND_LIMIT: Duration = Duration::from_secs(30);
const BUILD_LIMIT: Duration = Duration::from_secs(120);
/// Everything works again and still something waits: then it is stuck.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// Reading 16 MiB back takes a tenth of a second, more on a machine that builds meanwhile.
const SWEEP_LIMIT: Duration = Duration::from_secs(30);

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The target is killed and started again.
    Target,
    /// The initiator is killed and started again.
    Initiator,
    /// The storage box loses its power, and its disks what was not flushed.
    TargetPower,
    /// One of the two storage segments is silent.
    Segment,
    /// Both are.
    Segments,
    /// The storage box stands still: what was on its way to it waits in its sockets, beside what was sent again.
    Freeze,
    /// What a lost connection had on the way arrives when its successor has written newer things.
    Late,
    /// All of the above in turn.
    All,
}

const EACH: [What; 7] =
    [What::Target, What::Initiator, What::TargetPower, What::Segment, What::Segments, What::Freeze, What::Late];

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Initiator => "initiator",
            Self::TargetPower => "target-power",
            Self::Segment => "segment",
            Self::Segments => "segments",
            Self::Freeze => "freeze",
            Self::Late => "late",
            Self::All => "all",
        }
    }

    /// Whether a write that nobody answered may be there and gone again.
    fn kills_storage(self) -> bool {
        matches!(self, Self::Target | Self::TargetPower)
    }
}

/// `lab kills`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many rounds of each kind.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// What moments and places are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What fails.
    #[arg(long, value_enum, default_value = "all")]
    what: What,
    /// No TLS between the machines.
    #[arg(long)]
    plaintext: bool,
    /// The muskox binary; the one beside this program if absent.
    #[arg(long)]
    program: Option<PathBuf>,
    /// The load waits this long for an answer before it says that the guest was let down.
    #[arg(long, default_value_t = 60)]
    bound_secs: u64,
    /// The whole run ends by then; what its rounds may need if absent.
    #[arg(long)]
    limit_secs: Option<u64>,
    /// Where leftovers are recorded, logs kept and kills.json is written.
    #[arg(long, default_value = "target/lab")]
    state: PathBuf,
}

/// Runs the rounds; returns the exit code.
///
/// # Errors
/// When the machines or programs cannot be set up.
pub fn run(options: &Options) -> anyhow::Result<i32> {
    let possible = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !possible && std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1") {
        println!("SKIP: namespaces and FUSE disks need root and /dev/fuse");
        return Ok(0);
    }
    anyhow::ensure!(possible, "namespaces and FUSE disks need root and /dev/fuse");
    let program = program(options.program.as_deref())?;
    let kinds: Vec<What> =
        EACH.into_iter().filter(|kind| matches!(options.what, What::All) || *kind == options.what).collect();
    let rounds = u32::try_from(options.rounds * kinds.len()).context("fewer rounds")?;
    let limit = options.limit_secs.map_or(BUILD_LIMIT + ROUND_LIMIT * rounds, Duration::from_secs);
    let stop = Stop::after(limit)?;
    let ledger = Arc::new(Ledger::open(&options.state)?);
    let state = options.state.canonicalize().with_context(|| format!("looking at {}", options.state.display()))?;
    remove_old_folders(&state);
    let folder = state.join(format!("{FOLDER_PREFIX}{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let plan = Plan {
        program: &program,
        folder: &folder,
        state: &state,
        disk_mib: DISK_MIB,
        volume_mib: VOLUME_MIB,
        tls: !options.plaintext,
        // Longer than the load's patience: that bound is the one that is judged.
        hold_ms: (options.bound_secs + 60) * 1000,
    };
    let done = play(options, &plan, &kinds, &ledger, &stop);
    ledger.settle()?;
    if let Some(code) = stop.code() {
        println!("stopped by a signal; logs are in {}", folder.display());
        return Ok(code);
    }
    let report = done.inspect_err(|_| println!("logs are in {}", folder.display()))?;
    report.print();
    report.write(&state.join("kills.json"))?;
    if report.ok {
        std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    } else {
        println!("logs are in {}", folder.display());
    }
    Ok(i32::from(!report.ok))
}

fn play(
    options: &Options,
    plan: &Plan<'_>,
    kinds: &[What],
    ledger: &Arc<Ledger>,
    stop: &Stop,
) -> anyhow::Result<Report> {
    println!("building machines, pool and volume; {} rounds of each kind, seed {}", options.rounds, options.seed);
    let mut stack = Stack::build(plan, ledger, stop)?;
    let load = Load::start(Settings {
        socket: stack.socket(),
        export: stack.export().to_owned(),
        depth: DEPTH,
        span_bytes: SPAN_BYTES,
        rate: RATE,
        bound: Duration::from_secs(options.bound_secs),
        seed: options.seed,
    });
    let load = load.with_context(|| format!("the initiator does not serve\n{}", stack.last_words()))?;
    let mut all: Vec<(What, Vec<Round>)> = kinds.iter().map(|kind| (*kind, Vec::new())).collect();
    let played = play_rounds(options, &mut stack, &load, &mut all, stop);
    load.stop();
    let patience = Duration::from_secs(options.bound_secs) + SWEEP_LIMIT;
    let ended = stop.wait(patience, "the load does not come to its end", || !load.lives());
    let ended = played.and(ended).err().map(|error| format!("{error:#}"));
    let load = load.stats();
    if stop.code().is_none() && (ended.is_some() || load.violated > 0) {
        print!("{}", stack.last_words());
    }
    let ok = ended.is_none() && load.violated == 0 && load.errors == 0;
    let rows = all.iter().map(|(what, rounds)| Row::new(*what, rounds)).collect();
    Ok(Report { ok, seed: options.seed, tls: !options.plaintext, rows, load, ended })
}

fn play_rounds(
    options: &Options,
    stack: &mut Stack,
    load: &Load,
    all: &mut [(What, Vec<Round>)],
    stop: &Stop,
) -> anyhow::Result<()> {
    let mut dice = Dice::new(options.seed);
    anyhow::ensure!(load.sweep(SWEEP_LIMIT, || stop.is_over()), "the first reading back does not end");
    for number in 1..=options.rounds {
        for (what, rounds) in all.iter_mut() {
            let round = Play { stack, load, dice: &mut dice, stop }.round(*what)?;
            rounds.push(round);
            println!(
                "{number:>3}/{} {:<12} outage {:>4} ms, stall {:>4} ms, {} errors, {} violations",
                options.rounds,
                what.name(),
                round.outage_ms,
                round.stall_ms,
                round.errors,
                round.violations
            );
            anyhow::ensure!(load.lives(), "the load gave up: {}", one_line(&load.stats()));
        }
        stack.forget_disk_log()?;
    }
    Ok(())
}

/// What a round works on.
struct Play<'a> {
    stack: &'a mut Stack,
    load: &'a Load,
    dice: &'a mut Dice,
    stop: &'a Stop,
}

impl Play<'_> {
    fn round(&mut self, what: What) -> anyhow::Result<Round> {
        let before = self.load.stats();
        self.load.take_stall();
        self.nap(50, 800)?;
        if what.kills_storage() {
            self.load.storm(true);
        }
        let failed = Instant::now();
        let at_risk = self.fail(what)?;
        // What was asked from now on finds everything whole; what was asked before still has to be answered.
        let whole = Instant::now();
        self.wait_past(whole)?;
        self.load.storm(false);
        let stall_ms = self.load.take_stall();
        let swept = !self.load.lives() || self.load.sweep(SWEEP_LIMIT, || self.stop.is_over());
        anyhow::ensure!(swept, "reading back does not end");
        let after = self.load.stats();
        Ok(Round {
            errors: after.errors - before.errors,
            violations: after.violated - before.violated,
            outage_ms: u64::try_from((whole - failed).as_millis()).unwrap_or(u64::MAX),
            stall_ms,
            at_risk,
        })
    }

    /// Lets it fail and makes it whole; how much was at risk.
    fn fail(&mut self, what: What) -> anyhow::Result<u64> {
        match what {
            What::Target => {
                self.stack.kill_target()?;
                self.nap(0, 1000)?;
                self.stack.start_target()?;
            }
            What::Initiator => {
                self.stack.kill_initiator()?;
                self.nap(0, 500)?;
                self.stack.start_initiator(Way::Direct)?;
            }
            What::TargetPower => {
                let seed = (self.dice.below(2) == 0).then(|| self.dice.throw());
                let at_risk = self.stack.power_off(seed)?;
                self.nap(0, 1500)?;
                self.stack.power_on()?;
                return Ok(at_risk as u64);
            }
            What::Segment => {
                let segment = if self.dice.below(2) == 0 { SEGMENTS[0] } else { SEGMENTS[1] };
                // Long enough for the initiator to find the other one, most of the time.
                self.cut(&[segment], 6000)?;
            }
            What::Segments => self.cut(&SEGMENTS, 3000)?,
            What::Freeze => {
                self.stack.site.machine(Role::Storage).freeze()?;
                self.nap(1000, 3000)?;
                self.stack.site.machine(Role::Storage).thaw()?;
            }
            What::Late => return self.be_late(),
            What::All => {}
        }
        Ok(0)
    }

    /// The initiator is led over the slow wire, which keeps its connection's requests until the next one has written
    /// newer things; then it is led back. Returns how many bytes were late.
    fn be_late(&mut self) -> anyhow::Result<u64> {
        let before = self.stack.delay()?.late_bytes();
        self.lead(Way::Delayed)?;
        self.nap(100, 400)?;
        self.stack.delay()?.keep();
        // By then as much waits as may be in flight, and the initiator has taken the silence for what it is.
        self.nap(600, 700)?;
        self.wait_past(Instant::now())?;
        self.nap(200, 600)?;
        self.stack.delay()?.deliver();
        self.nap(200, 400)?;
        let late = self.stack.delay()?.late_bytes() - before;
        self.lead(Way::Direct)?;
        Ok(late)
    }

    fn lead(&mut self, way: Way) -> anyhow::Result<()> {
        self.stack.kill_initiator()?;
        self.stack.start_initiator(way)?;
        self.wait_past(Instant::now())
    }

    /// Waits until everything that was asked before `moment` is answered.
    fn wait_past(&mut self, moment: Instant) -> anyhow::Result<()> {
        let (load, stack) = (self.load, &mut *self.stack);
        let mut lives = Ok(());
        let past = self.stop.wait(RECOVERY_LIMIT, "requests wait on although all is whole", || {
            lives = stack.check_lives();
            lives.is_err() || load.is_past(moment) || !load.lives()
        });
        lives.and(past)
    }

    fn cut(&mut self, networks: &[Network], most_ms: u64) -> anyhow::Result<()> {
        let cut = |site: &Site| site.switch.cut(&site.machine(Role::Storage).ports(networks));
        cut(&self.stack.site)?;
        self.nap(1000, most_ms)?;
        self.stack.site.switch.put_back(&self.stack.site.machine(Role::Storage).ports(networks))
    }

    fn nap(&mut self, least_ms: u64, most_ms: u64) -> anyhow::Result<()> {
        self.stop.nap(Duration::from_millis(least_ms + self.dice.below(most_ms - least_ms)))
    }
}

fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().context("looking for this very program")?.with_file_name("muskox"),
    };
    path.canonicalize().with_context(|| format!("{}: `cargo build -p muskox` makes it", path.display()))
}

/// A failed run keeps its folder for whoever looks; the next run takes it away, unless it is still in use.
fn remove_old_folders(state: &Path) {
    for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(FOLDER_PREFIX).and_then(|pid| pid.parse::<i32>().ok());
        if pid.is_some_and(|pid| ledger::start_of(pid).is_none()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
