//! `muskox-lab guest-image` and `guest-try`: the guest alone, under plain QEMU on files, to see that image, program,
//! referee, prober, lookout and the check of the disks do what the demo needs of them.
//!
//! A try: boot, work, a sudden death, boot again from the same disks, work, the power button, and everything that was
//! acknowledged has to be there. It runs in a network namespace of its own; muskox has no part in it.

mod qemu;

use super::beacon::{Console, Lookout};
use super::check_disk::{self, Found};
use super::evidence::{Answer, Beacon, Receipt};
use super::guest::ECHO_PORT;
use super::guest::config::Config;
use super::image::Builder;
use super::probe::{self, Prober};
use super::referee::Referee;
use super::report::two_boots_us;
use super::{lines, now_us};
use crate::image::Workshop;
use crate::image::files::copy_sparse;
use crate::kills::stop::Stop;
use crate::ledger::{self, Ledger, Thing};
use anyhow::Context;
use qemu::Qemu;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The guest's address in a try, as in the demo on the lab's guest network.
const GUEST: &str = "10.77.4.50";
const CANARY_BYTES: u64 = 16 << 20;
/// What building everything, booting twice and looking at the disks may take beside the load.
const LIMIT: Duration = Duration::from_secs(900);
/// An emulated guest on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(60);
/// `muskox-lab guest-image`.
#[derive(Debug, clap::Args)]
pub struct ImageOptions {
    /// Where images are kept.
    #[arg(long, default_value = "target/lab/cache")]
    cache: PathBuf,
    /// The guest's program; without it the one beside this program.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Where the lab records what it puts on the machine.
    #[arg(long, default_value = "target/lab")]
    state: PathBuf,
}

/// `muskox-lab guest-try`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    image: ImageOptions,
    /// For how long the guest works in each of its two boots.
    #[arg(long, default_value_t = 10.0)]
    secs: f64,
    /// Records a second that the guest is told to write, at most.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Fewer are a failure. The demo needs 20; a guest that is alone has to do better.
    #[arg(long, default_value_t = 40.0)]
    rate_min: f64,
    /// Keep the folder with disks and logs.
    #[arg(long)]
    keep: bool,
}

/// What a try measured.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// From QEMU's start to the first acknowledged record, of each boot.
    pub boot_ms: Vec<u64>,
    /// The CPU time that QEMU used until then.
    pub boot_cpu_ms: Vec<u64>,
    /// How much of a CPU QEMU used while the guest worked.
    pub cpu_percent: f64,
    /// Acknowledged records a second, while it worked.
    pub records_per_s: f64,
    /// The longest time without an answer to a probe while it worked.
    pub longest_gap_ms: u64,
    /// Answered probes.
    pub answers: usize,
    /// Beacons.
    pub beacons: usize,
    /// Time in which two boots moved.
    pub overlap_ms: u64,
    /// What the guest complained about.
    pub guest_errors: u64,
    /// From the power button to QEMU's end.
    pub shutdown_ms: u64,
    /// What its disks held.
    pub found: Found,
}

/// Builds the image and says where it is.
///
/// # Errors
/// When it cannot be built.
pub fn run_image(options: &ImageOptions) -> anyhow::Result<i32> {
    let stop = Stop::after(LIMIT)?;
    let ledger = Ledger::open(&options.state)?;
    let built = build(options, &ledger, &stop);
    ledger.settle()?;
    match built {
        Err(_) if stop.code().is_some() => Ok(stop.code().unwrap_or(1)),
        Err(error) => Err(error),
        Ok(image) => {
            println!("{}", image.display());
            Ok(0)
        }
    }
}

/// Tries the guest, prints what was measured as JSON; 0 only if all is well.
///
/// # Errors
/// When something could not be done at all.
pub fn run(options: &Options) -> anyhow::Result<i32> {
    let stop = Stop::after(LIMIT + Duration::from_secs_f64(2.0 * options.secs))?;
    ledger::clean(&options.image.state)?;
    let ledger = Ledger::open(&options.image.state)?;
    let tried = build(&options.image, &ledger, &stop).and_then(|image| attempt(options, &image, &ledger, &stop));
    ledger.settle()?;
    let tried = match tried {
        Err(_) if stop.code().is_some() => return Ok(stop.code().unwrap_or(1)),
        tried => tried?,
    };
    println!("{}", serde_json::to_string_pretty(&tried)?);
    let wrong = tried.wrong(options.rate_min);
    wrong.iter().for_each(|line| eprintln!("guest-try: {line}"));
    Ok(i32::from(!wrong.is_empty()))
}

impl Tried {
    /// What is not as it has to be; fewer than `rate_min` records a second are not.
    pub fn wrong(&self, rate_min: f64) -> Vec<String> {
        let mut wrong = self.found.problems.clone();
        let mut expect = |fine: bool, what: String| wrong.extend((!fine).then_some(what));
        expect(self.found.is_fine(), "the disks do not hold what was acknowledged".into());
        expect(!self.found.replayed, "a guest that was shut down left a journal".into());
        expect(self.records_per_s >= rate_min, format!("{:.0} records a second", self.records_per_s));
        expect(self.overlap_ms == 0, format!("two boots moved for {} ms", self.overlap_ms));
        expect(self.guest_errors == 0, format!("the guest complained {} times", self.guest_errors));
        expect(self.beacons > 0 && self.answers > 0, "no beacons, or no answers".into());
        wrong
    }
}

fn build(options: &ImageOptions, ledger: &Ledger, stop: &Stop) -> anyhow::Result<PathBuf> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("muskox-guest"),
    };
    let say = |line: &str| eprintln!("{line}");
    let workshop = Workshop { cache: &options.cache, ledger, stop, say: &say };
    Builder { workshop, program: &program }.image()
}

fn attempt(options: &Options, image: &Path, ledger: &Ledger, stop: &Stop) -> anyhow::Result<Tried> {
    let folder = options.image.state.canonicalize()?.join(format!("guest-try-{}", std::process::id()));
    if !options.keep {
        ledger.record(Thing::Folder { path: folder.clone() })?;
    }
    std::fs::create_dir_all(&folder)?;
    copy_sparse(image, &folder.join("root.raw"))?;
    std::fs::File::create(folder.join("canary.raw"))?.set_len(CANARY_BYTES)?;
    let config = Config { rate: options.rate, canary: Some(qemu::CANARY.into()), ..Config::of_the_lab() };
    qemu::make_seed(&folder, GUEST, &config)?;
    let namespace = qemu::make_network(ledger, &config)?;
    let file = crate::net::namespace_file(&namespace);
    let referee = Referee::start(Some(&file), config.referee, &folder.join("referee.jsonl"))?;
    let guest = SocketAddr::new(GUEST.parse().expect("it is an address"), ECHO_PORT);
    let prober = Prober::start(Some(&file), guest, &folder.join("probe.jsonl"))?;
    let console = Console { host: "alone".into(), log: folder.join("console.log") };
    let lookout = Lookout::start(vec![console], &folder.join("beacons.jsonl"), &folder.join("guest-errors.jsonl"))?;

    let work = Duration::from_secs_f64(options.secs);
    let mut lives = Vec::new();
    for end in [End::Death, End::PowerButton] {
        let mut qemu = Qemu::start(&folder, &namespace, ledger)?;
        lives.push(live(&mut qemu, &referee, stop, work, end).with_context(|| qemu.tail())?);
    }
    let guest_errors = lookout.errors();
    lookout.end()?;
    prober.end()?;
    referee.end()?;
    let tried = Logs::read(&folder)?.tried(&lives, &folder)?;
    Ok(Tried { guest_errors, ..tried })
}

/// How a life of the guest ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Death,
    PowerButton,
}

/// A life of the guest.
struct Life {
    boot: Duration,
    boot_cpu: Duration,
    /// From its first record until its end began.
    from_us: u64,
    to_us: u64,
    cpu: Duration,
    shutdown: Duration,
}

fn live(qemu: &mut Qemu, referee: &Referee, stop: &Stop, work: Duration, end: End) -> anyhow::Result<Life> {
    let (begun, begun_us) = (Instant::now(), now_us());
    let is_at_work = || referee.heard().last.is_some_and(|last| last.at_us > begun_us);
    stop.wait(BOOT_LIMIT, "the guest's first record", || is_at_work() || qemu.has_ended())?;
    let (boot, boot_cpu, from_us) = (begun.elapsed(), qemu.cpu_time(), now_us());
    stop.nap(work)?;
    let (to_us, cpu, ending) = (now_us(), qemu.cpu_time().saturating_sub(boot_cpu), Instant::now());
    anyhow::ensure!(!qemu.has_ended(), "QEMU ended by itself");
    if end == End::PowerButton {
        qemu.press_power_button()?;
        stop.wait(SHUTDOWN_LIMIT, "the guest's shutdown", || qemu.has_ended())?;
    }
    qemu.kill()?;
    Ok(Life { boot, boot_cpu, from_us, to_us, cpu, shutdown: ending.elapsed() })
}

struct Logs {
    receipts: Vec<Receipt>,
    answers: Vec<Answer>,
    beacons: Vec<Beacon>,
}

impl Logs {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            receipts: lines::read(&folder.join("referee.jsonl"))?,
            answers: lines::read(&folder.join("probe.jsonl"))?,
            beacons: lines::read(&folder.join("beacons.jsonl"))?,
        })
    }

    fn tried(&self, lives: &[Life], folder: &Path) -> anyhow::Result<Tried> {
        let scratch = folder.join("scratch");
        std::fs::create_dir_all(&scratch)?;
        let canary = folder.join("canary.raw");
        let found = check_disk::check(&folder.join("root.raw"), Some(&canary), &self.receipts, &scratch)?;
        let is_work = |at_us: u64| lives.iter().any(|life| (life.from_us..life.to_us).contains(&at_us));
        let records = self.receipts.iter().filter(|receipt| is_work(receipt.at_us)).count();
        let worked_us: u64 = lives.iter().map(|life| life.to_us - life.from_us).sum();
        let worked_s = Duration::from_micros(worked_us).as_secs_f64();
        let cpu: Duration = lives.iter().map(|life| life.cpu).sum();
        let gaps = lives.iter().map(|life| probe::longest_gap(&self.answers, life.from_us, life.to_us).len_us);
        let whole_ms = |time: Duration| u64::try_from(time.as_millis()).expect("a try takes minutes");
        Ok(Tried {
            boot_ms: lives.iter().map(|life| whole_ms(life.boot)).collect(),
            boot_cpu_ms: lives.iter().map(|life| whole_ms(life.boot_cpu)).collect(),
            cpu_percent: (cpu.as_secs_f64() / worked_s * 100.0).round(),
            records_per_s: (f64::from(u32::try_from(records)?) / worked_s).round(),
            longest_gap_ms: gaps.max().unwrap_or(0) / 1000,
            answers: self.answers.len(),
            beacons: self.beacons.len(),
            overlap_ms: two_boots_us(&self.beacons, 0, u64::MAX) / 1000,
            guest_errors: 0,
            shutdown_ms: lives.last().map_or(0, |life| whole_ms(life.shutdown)),
            found,
        })
    }
}
