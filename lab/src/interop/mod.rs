//! `muskox-lab interop-kernel`: the Linux kernel as oracle. A guest with Debian's own kernel, mdadm, lvm2, nbd-client and fio
//! takes over what muskox wrote and hands back what it wrote itself.
//!
//! ```text
//!   this machine, in a namespace          the oracle guest (QEMU)
//!   muskox target ── members (files) ──▶  the same files as SCSI disks: md, LVM2
//!        │
//!        └────────── NBD over a tap ────▶ the kernel's NBD client
//! ```
//! Each case is a story with both of them in it, and says what has to be so. This room believes the kernel, the tools of
//! others and the bytes in the members; of muskox it believes only what it promises.

mod cases;
mod guest;
mod image;
mod md;
mod network;
mod qmp;
mod report;
mod storage;
pub mod words;
mod writer;

use crate::image::Workshop;
use crate::kills::stop::Stop;
use crate::ledger::{self, Ledger, Thing};
use anyhow::Context;
use cases::CASES;
use guest::{Guest, Maker};
use network::Network;
use report::{Entry, Verdict};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::Plant;

/// The figures, for programs.
const REPORT: &str = "kernel.json";
/// For building the image and for each case.
const BUILD_LIMIT: Duration = Duration::from_secs(900);
const CASE_LIMIT: Duration = Duration::from_secs(180);

/// `muskox-lab interop-kernel`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only cases with this in their names; several may be named.
    #[arg(long)]
    only: Vec<String>,
    /// List the cases and end.
    #[arg(long)]
    list: bool,
    /// Only if the guest's image is in the cache; else nothing is tried and the exit code is 0.
    #[arg(long)]
    if_cached: bool,
    /// The muskox binary; the one beside this program if absent.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Where kernel.json is written.
    #[arg(long, default_value = "target/interop")]
    folder: PathBuf,
    /// Where the lab records what it puts on the machine, and keeps images.
    #[arg(long, default_value = "target/lab")]
    state: PathBuf,
}

/// Guests, one at a time: booted when one is needed, and again when the last one has ended.
pub struct Guests {
    maker: Maker,
    guest: Option<Guest>,
}

impl Guests {
    /// A guest that takes commands.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn get(&mut self) -> anyhow::Result<&mut Guest> {
        if self.guest.as_mut().is_some_and(Guest::has_ended) {
            self.guest = None;
        }
        match &mut self.guest {
            Some(guest) => Ok(guest),
            none => Ok(none.insert(self.maker.boot()?)),
        }
    }

    /// The network between guest and storage box.
    #[must_use]
    pub fn network(&self) -> Arc<Network> {
        Arc::clone(&self.maker.network)
    }

    /// The next case finds no disk of this one. A guest that cannot be cleared is not used again.
    fn clear(&mut self) {
        let cleared = self.guest.as_mut().map(Guest::clear);
        if cleared.is_some_and(|cleared| cleared.is_err()) {
            self.guest = None;
        }
    }
}

/// Tries the cases; the exit code is 0 only if all of them are well.
///
/// # Errors
/// When the guest or the machines cannot be made at all.
pub fn run(options: &Options) -> anyhow::Result<i32> {
    let cases: Vec<_> = CASES.iter().filter(|case| is_wanted(options, case.name)).collect();
    anyhow::ensure!(!cases.is_empty(), "no case has {} in its name: --list shows them", options.only.join(" or "));
    if options.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(0);
    }
    let possible = rustix::process::geteuid().is_root() && Path::new("/dev/net/tun").exists();
    if !possible && std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1") {
        println!("SKIP: namespaces and taps need root and /dev/net/tun");
        return Ok(0);
    }
    anyhow::ensure!(possible, "namespaces and taps need root and /dev/net/tun");
    if options.if_cached && !image::Image::is_cached(&options.state.join("cache"))? {
        println!("SKIP: the oracle guest's image was not built yet: `cargo xtask interop kernel` builds it");
        return Ok(0);
    }
    let count = u32::try_from(cases.len()).context("fewer cases")?;
    let stop = Stop::after(BUILD_LIMIT + CASE_LIMIT * count)?;
    ledger::clean(&options.state)?;
    let ledger = Arc::new(Ledger::open(&options.state)?);
    let tried = try_all(options, &cases, &ledger, &stop);
    ledger.settle()?;
    if let (Err(_), Some(code)) = (&tried, stop.code()) {
        eprintln!("stopped by a signal; everything is taken away");
        return Ok(code);
    }
    let entries = tried?;
    std::fs::create_dir_all(&options.folder).with_context(|| format!("making {}", options.folder.display()))?;
    report::write(&entries, &options.folder.join(REPORT))?;
    print!("\n{}", report::shown(&entries));
    let fine = report::is_fine(&entries);
    let wrong = entries.iter().filter(|entry| entry.fail + entry.skip > 0).count();
    println!("{}: {} cases, {wrong} not well", if fine { "ok" } else { "NOT OK" }, entries.len());
    Ok(i32::from(!fine))
}

fn is_wanted(options: &Options, name: &str) -> bool {
    options.only.is_empty() || options.only.iter().any(|part| name.contains(part.as_str()))
}

fn try_all(options: &Options, cases: &[&cases::Case], ledger: &Arc<Ledger>, stop: &Stop) -> anyhow::Result<Vec<Entry>> {
    let beside = std::env::current_exe().context("looking for this very program")?;
    let program = options.program.clone().unwrap_or_else(|| beside.with_file_name("muskox"));
    let program = program
        .canonicalize()
        .with_context(|| format!("looking for {}: `cargo build -p muskox` builds it", program.display()))?;
    let say = |line: &str| println!("{line}");
    let cache = options.state.join("cache");
    let image = image::Image::get(&Workshop { cache: &cache, ledger, stop, say: &say })?;
    let folder = options.state.canonicalize()?.join(format!("oracle-{}", std::process::id()));
    ledger.record(Thing::Folder { path: folder.clone() })?;
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let network = Arc::new(Network::build(ledger)?);
    let plant = Plant {
        program,
        folder: folder.clone(),
        network: Arc::clone(&network),
        ledger: Arc::clone(ledger),
        stop: stop.clone(),
    };
    let program = beside.with_file_name("muskox-oracle");
    let maker = Maker { image, program, folder, network, ledger: Arc::clone(ledger), stop: stop.clone() };
    let mut guests = Guests { maker, guest: None };
    let mut entries = Vec::new();
    for case in cases {
        let (begun, mut verdict) = (Instant::now(), Verdict::default());
        let ended = (case.story)(&plant, &mut guests, &mut verdict).err().map(|error| format!("{error:#}"));
        guests.clear();
        anyhow::ensure!(stop.code().is_none(), "stopped by a signal");
        let entry = verdict.entry(case.name, ended.clone());
        let mark = if entry.fail + entry.skip == 0 { '✓' } else { '✗' };
        let (name, pass, fail, seconds) = (&entry.name, entry.pass, entry.fail, begun.elapsed().as_secs_f64());
        println!(
            "{mark} {name}, {seconds:.1} s: {pass} pass, {fail} fail; {}",
            ended.as_ref().unwrap_or(&entry.detail)
        );
        entries.push(entry);
    }
    Ok(entries)
}
