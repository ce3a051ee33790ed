//! `lab migrate`: a guest at work moves to and fro, and each time something else breaks at some moment of the move. It
//! must always end running on exactly one side. Nodes die besides, one by one and all at once, and no guest may notice.
//!
//! A round: a migration is begun, its job's stage is watched through the API, the fault falls in the chosen stage, ends,
//! and within a minute everything is at rest. This code believes the guest's receipts and beacons, the API's words and the
//! bytes on the disks; it does *not* know how muskox moves a guest.

mod fault;
mod judge;
mod outage;
mod prey;
mod rest;
mod round;
mod table;

use crate::demo::Setting;
use crate::demo::evidence::{BEACONS, Beacon, RecordsCheck};
use crate::demo::lines::Reader;
use crate::demo::play::Play;
use crate::disks::cache::Dice;
use crate::kills::stop::Stop;
use crate::ledger::{self, Ledger};
use crate::machine::Role;
use anyhow::Context;
use fault::{Deck, Kind, Phase};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use table::{Outage, Report, Round};

/// Everything of the run is in here, below the lab's folder.
const FOLDER: &str = "migrate";
const REPORT: &str = "migrate.json";
/// A run of so many rounds is a long one: in it a fault has to fall in every stage.
const EVERY_STAGE_FROM: usize = 40;
/// Stages that last 30 ms are to be seen.
const FEED_EVERY: Duration = Duration::from_millis(3);
/// For the run's own deadline: building and checking everything, a round, a time without nodes.
const BUILD_LIMIT: Duration = Duration::from_secs(400);
const ROUND_LIMIT: Duration = Duration::from_secs(200);

/// `lab migrate`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How many migrations.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// What faults, moments and places are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What befalls them.
    #[arg(long, value_enum, default_value = "all")]
    what: Kind,
    /// In which stage; without it the seed says.
    #[arg(long, value_enum)]
    phase: Option<Phase>,
    /// How often every node is killed for 20 s, before the rounds.
    #[arg(long, default_value_t = 0)]
    nodes: usize,
    /// How often a single node is killed, before the rounds.
    #[arg(long, default_value_t = 0)]
    node_kills: usize,
    /// The muskox binary; the one beside this program if absent.
    #[arg(long)]
    program: Option<PathBuf>,
    /// A planted bug, by name; the binary has to be built with the feature `sabotage`.
    #[arg(long)]
    sabotage: Option<String>,
    /// How large each of the three disks is, in MiB; they are sparse.
    #[arg(long, default_value_t = 1024)]
    disk_mib: u64,
    /// The whole run ends by then; what its rounds may need if absent.
    #[arg(long)]
    limit_secs: Option<u64>,
    /// Where leftovers are recorded, images kept, evidence stays and migrate.json is written.
    #[arg(long, default_value = "target/lab")]
    state: PathBuf,
}

/// Plays the rounds; returns the exit code.
///
/// # Errors
/// When the machines or the guest cannot be set up.
pub fn run(options: &Options) -> anyhow::Result<i32> {
    let possible = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !possible && std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1") {
        println!("SKIP: namespaces and FUSE disks need root and /dev/fuse");
        return Ok(0);
    }
    anyhow::ensure!(possible, "namespaces and FUSE disks need root and /dev/fuse");
    let count = u32::try_from(options.rounds + options.nodes + options.node_kills).context("fewer rounds")?;
    let stop = Stop::after(options.limit_secs.map_or(BUILD_LIMIT + ROUND_LIMIT * count, Duration::from_secs))?;
    ledger::clean(&options.state)?;
    let ledger = Arc::new(Ledger::open(&options.state)?);
    let state = options.state.canonicalize().with_context(|| format!("looking at {}", options.state.display()))?;
    let folder = state.join(FOLDER);
    let begun = Instant::now();
    let done = play(options, &folder, &ledger, &stop);
    ledger.settle()?;
    if let Some(code) = stop.code() {
        println!("stopped by a signal; what was seen is in {}", folder.display());
        return Ok(code);
    }
    let report = done.inspect_err(|_| println!("what was seen is in {}", folder.display()))?;
    report.print();
    report.write(&state.join(REPORT))?;
    if report.ok {
        std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    } else {
        println!("what was seen is in {}", folder.display());
    }
    println!("{} s", begun.elapsed().as_secs());
    Ok(i32::from(!report.ok))
}

fn play(options: &Options, folder: &Path, ledger: &Arc<Ledger>, stop: &Stop) -> anyhow::Result<Report> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("looking for this very program")?.with_file_name("muskox"),
    };
    let setting = Setting {
        program: &program,
        build: "cargo build -p muskox",
        folder,
        state: &options.state,
        disk_mib: options.disk_mib,
        seed: options.seed,
        rounds: u32::try_from(options.rounds).context("fewer rounds")?,
        sabotage: options.sabotage.as_deref(),
        feed_every: FEED_EVERY,
    };
    let play = Play::new(setting.props(ledger, stop)?)?;
    let mut moves = Moves {
        console: Reader::new(&play.writer.path(BEACONS)),
        beacons: Vec::new(),
        misses: Vec::new(),
        play,
        dice: Dice::new(options.seed),
        rounds: Vec::new(),
        outages: Vec::new(),
        records: None,
        oracles_agree: false,
    };
    let played = moves.all(options);
    let wrong = moves.judge_whole(options);
    let Moves { play, rounds, misses, outages, records, oracles_agree, .. } = moves;
    let ended = play.end(played).err().map(|error| format!("{error:#}"));
    let whole = records.is_some_and(|it| it.missing == 0 && it.torn == 0 && it.acked > 0) && oracles_agree;
    let complete = rounds.len() == options.rounds && outages.len() == options.nodes + options.node_kills;
    let mut report =
        Report { ok: false, seed: options.seed, rounds, misses, wrong, outages, records, oracles_agree, ended };
    report.ok = report.ended.is_none() && whole && complete && report.wrongs() == 0;
    Ok(report)
}

/// The rounds under way.
struct Moves {
    play: Play,
    /// Where the lookout writes down what it reads on the consoles, and all that was read of it.
    console: Reader<Beacon>,
    beacons: Vec<Beacon>,
    dice: Dice,
    rounds: Vec<Round>,
    misses: Vec<Round>,
    outages: Vec<Outage>,
    records: Option<RecordsCheck>,
    oracles_agree: bool,
}

impl Moves {
    fn all(&mut self, options: &Options) -> anyhow::Result<()> {
        self.play.screen.step("a cluster, a guest at work on host1");
        self.play.found()?;
        self.play.pool()?;
        self.play.import()?;
        self.play.start()?;
        self.play.screen.done("");
        for _ in 0..options.nodes {
            self.every_node_dies()?;
        }
        for _ in 0..options.node_kills {
            self.a_node_dies()?;
        }
        let mut deck = Deck::new(options.what);
        for number in 1..=options.rounds {
            let kind = deck.draw(&mut self.dice);
            self.round(number, kind, options.phase)?;
        }
        self.play.screen.step("the VM stops, everything is checked");
        let (records, agree) = self.play.inspect()?;
        self.play.screen.done(&self.play.outcome);
        (self.records, self.oracles_agree) = (Some(records), agree);
        Ok(())
    }

    /// The other of the two hosts.
    fn other(role: Role) -> Role {
        if role == Role::Host1 { Role::Host2 } else { Role::Host1 }
    }

    fn nap(&self, time: Duration) -> anyhow::Result<()> {
        self.play.cluster.stop.nap(time)
    }
}
