//! `muskox deadman`: the small process of every machine that holds the lease, and is a witness of the others'.
//!
//! ```text
//!  other machines ── Renew, Vote, TLS ──▶ door ─┐                     ┌─ guests: QMP stop, freeze, ask, cont, kill
//!  other machines ◀── Renew, Vote, TLS ── link ─┼─▶ core: lease ─ kind ─┤
//!  node, ctl ── Votes, Status, Reload ──▶ local ┘     └─ record, by a thread of its own ──▶ the next life; the guard
//! ```
//! Invariant: no guest runs here longer than its lease, whatever else hangs: nothing on this thread waits for a disk or
//! for another process without a bound (docs/rfd/0007-witness.md). It does *not* know the store, jobs or volumes; with
//! every node dead nothing changes here.

pub mod config;
mod core;
mod door;
mod guest;
mod keeper;
mod link;
mod local;
mod marks;
mod record;
mod scribe;

use self::core::{Core, Kind};
use crate::config::ConfigError;
use crate::control;
use crate::credentials::Credentials;
use crate::trouble::Troubles;
use config::Config;
use door::Doors;
use host::net::{Listener, NetError, TlsError};
use host::runtime::{now, sleep_until};
/// Where it logs: whoever reads the log must not be able to keep guests running.
pub use host::urgent::Unhurried;
use host::urgent::{Manager, Priority};
use keeper::Keeper;
use local::{Local, check_own};
use marks::Marks;
pub use record::Record;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use units::{HostKey, Millis};

/// Threads that read files: one for certificates, one for the configuration. They end at once when they are done. The record's
/// writer is not one of them.
const READERS_MAX: usize = 2;
const READER_STACK_BYTES: usize = 256 << 10;
const READER_LINGERS: Duration = Duration::from_millis(10);
/// How often the service manager hears that all is well, however rare heartbeats are: it waits for 1 s (`WatchdogSec`).
const ALIVE_EVERY: Millis = Millis(250);

/// Why a dead-man did not start.
#[derive(Debug, thiserror::Error)]
pub enum DeadmanError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A socket cannot be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The configuration has every witness but this one.
    #[error("this machine's key {0} is not among the witnesses")]
    NotAWitness(HostKey),
    /// The system said no.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

impl DeadmanError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Config(error) => error.hint.clone(),
            Self::NotAWitness(_) => "write a [[witness]] with this key, or use this machine's certificate".to_owned(),
            // Their texts say it.
            Self::Tls(_) | Self::Net(_) | Self::System(_) => String::new(),
        }
    }
}

/// Whether a dead-man would start with this configuration: it is read, and so is the certificate. Nothing is touched.
///
/// # Errors
/// [`DeadmanError`].
pub fn check(config_file: &Path) -> Result<(), DeadmanError> {
    let config = Config::load(config_file)?;
    let credentials = Credentials::load_pinned(config.tls.clone())?;
    check_own(&config, credentials.me())
}

/// Runs a dead-man until SIGTERM or SIGINT. Guests are left as they are then: its next life goes on where it stood.
///
/// # Errors
/// [`DeadmanError`]; once it runs it ends only when told to.
pub fn run(config_file: &Path) -> Result<(), DeadmanError> {
    host::daemon::begin();
    let config = Config::load(config_file)?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(READERS_MAX).thread_stack_size(READER_STACK_BYTES);
    let runtime = runtime.thread_keep_alive(READER_LINGERS).build()?;
    let served = LocalSet::new().block_on(&runtime, serve(config_file, config));
    // A file that cannot be read must not keep the process.
    runtime.shutdown_background();
    served
}

async fn serve(file: &Path, config: Config) -> Result<(), DeadmanError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let credentials = Credentials::load_pinned(config.tls.clone())?;
    check_own(&config, credentials.me())?;
    // The control socket is the lock: a second dead-man does not get this far.
    let control = Listener::unix(&config.control)?;
    be_urgent();
    let troubles = Rc::<Troubles>::default();
    let marks = Marks::new(&troubles);
    let record = Record::at(&config.record())?;
    let core = Rc::new(Core::new(&config, credentials.me(), record, (&marks, &troubles))?);
    let keeper = config.vms.as_deref().map(|vms| {
        Keeper::new(Rc::clone(&core), (vms, config.timing.stop_cost_ms), (Rc::clone(&marks), Rc::clone(&troubles)))
    });
    // Guests first: they may have to be stopped while a listener is still in the way.
    tokio::task::spawn_local(beat(Rc::clone(&core), config.timing.heartbeat_ms, keeper.is_some()));
    if let Some(keeper) = &keeper {
        tokio::task::spawn_local(Rc::clone(keeper).keep());
    }
    let local = Rc::new(Local {
        file: file.to_owned(),
        doors: Doors::new(Rc::clone(&core), Rc::clone(&credentials)),
        core,
        credentials,
        keeper,
        links: RefCell::default(),
        listening: RefCell::default(),
        troubles,
        config: RefCell::new(config.clone()),
    });
    local.begin(&config);
    tokio::task::spawn_local(control::serve(control, local));
    tracing::info!("ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; guests stay as they are");
    Ok(())
}

/// The one place where time is counted. Without guests there is nobody to be asked for.
async fn beat(core: Rc<Core>, heartbeat: Millis, guests: bool) {
    let (kinds, manager, mut ready) = (core.kinds(), Manager::of_this_process(), false);
    loop {
        let until = core.beat();
        if !guests && *kinds.borrow() == Kind::Asking {
            core.resumed();
        }
        manager.alive();
        if !ready && core.has_written() {
            // The guard, which starts after this, finds a record.
            manager.ready();
            ready = true;
        }
        let next = now() + Millis(heartbeat.0.min(ALIVE_EVERY.0));
        sleep_until(until.map_or(next, |until| until.min(next))).await;
    }
}

/// Each is a wish; what is not granted is said.
fn be_urgent() {
    let wishes = [
        ("its memory is not locked: a disk that hangs may delay it", host::urgent::lock_memory()),
        ("no real-time priority: a busy machine may delay it", host::urgent::real_time(Priority::First)),
        ("it may be killed when memory runs out", host::urgent::outlive_others()),
    ];
    for (without, wish) in wishes {
        if let Err(error) = wish {
            tracing::warn!("{without} ({error}); run it as root");
        }
    }
}
