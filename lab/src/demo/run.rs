//! `muskox-lab demo`: an image, a cluster, the play, the report.

use super::cluster::{Cluster, Plan};
use super::evidence::{APPLIED, Writer};
use super::image::Builder;
use super::play::{Play, Props};
use super::report;
use super::screen::{self, Screen};
use crate::image::Workshop;
use crate::kills::stop::Stop;
use crate::ledger::{self, Ledger};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The evidence's folder, in the demo's.
const EVIDENCE: &str = "evidence";
/// What is of no use after the run, in the demo's folder.
const RUN: &str = "run";
/// Moments of the report that come from the store are late by at most this.
const FEED_EVERY: Duration = Duration::from_millis(20);

/// `muskox-lab demo`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The muskox binary.
    #[arg(long, default_value = "target/release/muskox")]
    program: PathBuf,
    /// Where everything of the demo is: report.json, report.html, evidence/.
    #[arg(long, default_value = "target/demo")]
    folder: PathBuf,
    /// How often the migrations and faults are gone through.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// A planted bug, by name; the binary has to be built with the feature `sabotage`.
    #[arg(long)]
    sabotage: Option<String>,
    /// Decides what is random.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// How large each of the three disks is, in MiB; they are sparse.
    #[arg(long, default_value_t = 1024)]
    disk_mib: u64,
    /// Where the lab records what it puts on the machine, and keeps images.
    #[arg(long, default_value = "target/lab")]
    state: PathBuf,
    /// End in any case after this many seconds.
    #[arg(long, default_value_t = 3600)]
    limit_secs: u64,
    /// Keep the machines' files and the disks.
    #[arg(long)]
    keep: bool,
}

/// Plays the demo; 0 only if its report is ok.
///
/// # Errors
/// When it could not be played at all.
pub fn run(options: &Options) -> anyhow::Result<i32> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "the demo makes network namespaces and mounts: run it as root"
    );
    let begun = Instant::now();
    let stop = Stop::after(Duration::from_secs(options.limit_secs))?;
    ledger::clean(&options.state)?;
    let ledger = Arc::new(Ledger::open(&options.state)?);
    let played = play(options, &ledger, &stop);
    ledger.settle()?;
    if let (Err(_), Some(code)) = (&played, stop.code()) {
        eprintln!("stopped by a signal; everything is taken away");
        return Ok(code);
    }
    let folder = absolute(&options.folder)?;
    if let Err(error) = &played {
        eprintln!("the demo ended before its time: {error:#}");
    }
    let report = report::write(&folder.join(EVIDENCE), &folder)?;
    println!("{}", screen::table(&report));
    println!(
        "{} after {} s; {} and report.html beside it",
        if report.ok { "ok" } else { "NOT OK" },
        begun.elapsed().as_secs(),
        folder.join("report.json").display()
    );
    Ok(i32::from(!report.ok || played.is_err()))
}

fn play(options: &Options, ledger: &Arc<Ledger>, stop: &Stop) -> anyhow::Result<()> {
    let setting = Setting {
        program: &options.program,
        build: "cargo build --release -p muskox",
        folder: &options.folder,
        state: &options.state,
        disk_mib: options.disk_mib,
        seed: options.seed,
        rounds: options.rounds,
        sabotage: options.sabotage.as_deref(),
        feed_every: FEED_EVERY,
    };
    let props = setting.props(ledger, stop)?;
    let run = props.folder.clone();
    Play::new(props)?.run()?;
    if !options.keep {
        let _ = std::fs::remove_dir_all(&run);
    }
    Ok(())
}

/// What a play with a guest is set up from.
pub(crate) struct Setting<'a> {
    /// The muskox binary.
    pub program: &'a Path,
    /// What builds it.
    pub build: &'a str,
    /// Everything is in here: `evidence/`, and `run/`, which is of no use afterwards.
    pub folder: &'a Path,
    /// Where the lab records what it puts on the machine, and keeps images.
    pub state: &'a Path,
    /// How large each disk is.
    pub disk_mib: u64,
    /// Decides what is random.
    pub seed: u64,
    /// How often the steps of a round are done.
    pub rounds: u32,
    /// The planted bug.
    pub sabotage: Option<&'a str>,
    /// How often the store is looked at.
    pub feed_every: Duration,
}

impl Setting<'_> {
    /// The image, the machines and the disks; nothing of muskox runs yet.
    pub(crate) fn props(&self, ledger: &Arc<Ledger>, stop: &Stop) -> anyhow::Result<Props> {
        let screen = Screen::default();
        let folder = absolute(self.folder)?;
        let looking = || format!("looking for {}: `{}` builds it", self.program.display(), self.build);
        let program = self.program.canonicalize().with_context(looking)?;
        for old in [EVIDENCE, RUN] {
            let old = folder.join(old);
            if old.exists() {
                std::fs::remove_dir_all(&old).with_context(|| format!("taking {} away", old.display()))?;
            }
        }
        let run = folder.join(RUN);
        std::fs::create_dir_all(&run).with_context(|| format!("making {}", run.display()))?;
        let guest = std::env::current_exe()?.with_file_name("muskox-guest");
        let say = |line: &str| screen.note(line);
        let cache = self.state.join("cache");
        let image =
            Builder { workshop: Workshop { cache: &cache, ledger, stop, say: &say }, program: &guest }.image()?;
        let image = absolute(&image)?;
        let writer = Arc::new(Writer::create(&folder.join(EVIDENCE))?);
        let plan = Plan {
            program: &program,
            folder: &run,
            state: self.state,
            applied: &writer.path(APPLIED),
            disk_mib: self.disk_mib,
            sabotage: self.sabotage,
        };
        let cluster = Cluster::build(&plan, ledger, stop)?;
        Ok(Props {
            cluster,
            writer,
            screen,
            image,
            folder: run,
            ledger: Arc::clone(ledger),
            seed: self.seed,
            rounds: self.rounds,
            sabotage: self.sabotage.map(str::to_owned),
            feed_every: self.feed_every,
        })
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is no path", path.display()))
}
