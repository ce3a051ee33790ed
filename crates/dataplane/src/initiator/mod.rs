//! `muskox initiator`: one process per running VM; its disks outlive target restarts, switch reboots and cut cables.
//!
//! ```text
//!  QEMU ── NBD, Unix socket ──▶ serve ──▶ block::hold ──▶ link ── NBD, TLS ──▶ the target's gate
//!                                              ▲ connect: portals in turn, a new incarnation each time
//! ```
//! Invariant: what the guest was answered stays true as long as this process lives, and a queue never changes its epoch
//! (docs/rfd/0006-initiator.md). It does *not* know the cluster: with the control plane dead all of this goes on.

pub mod config;
mod connect;
mod inbox;
mod incarnation;
mod link;
mod paths;
mod requests;
mod serve;
#[cfg(test)]
mod test;

use crate::config::ConfigError;
use crate::control::{self, Answering};
use crate::credentials::Credentials;
use block::hold::{ConnectError, Hold, HoldState};
use block::runtime::{Rt, sleep};
use config::{Config, Volume};
use connect::{Connect, Way};
use host::net::{Listener, NetError, TlsError};
use incarnation::{CounterError, Incarnations};
use paths::Paths;
use serve::Served;
use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::signal::unix::{SignalKind, signal};
use units::sabotage::{Bug, planted};
use units::{ByteLen, Millis, Moment};
use wire::control::{Code, HeldReport, HeldState, InitiatorReport, Refusal, Reply, Request};

/// Why an initiator did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum InitiatorError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A counter is of no use.
    #[error(transparent)]
    Counter(#[from] CounterError),
    /// A socket cannot be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Another initiator runs for this VM.
    #[error("{}: another initiator uses this state folder", .0.display())]
    Locked(PathBuf),
    /// The system said no.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

impl InitiatorError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Config(error) => error.hint.clone(),
            Self::Locked(_) => "stop the other one first: a VM has one initiator".to_owned(),
            // Their texts say it.
            Self::Tls(_) | Self::Counter(_) | Self::Net(_) | Self::System(_) => String::new(),
        }
    }
}

/// Whether an initiator would start with this configuration: it is read, and so is the certificate. Nothing is touched.
///
/// # Errors
/// [`InitiatorError`].
pub fn check(config_file: &Path) -> Result<(), InitiatorError> {
    Config::load(config_file)?.tls.map(Credentials::load).transpose()?;
    Ok(())
}

/// Runs an initiator until SIGTERM or SIGINT.
///
/// # Errors
/// [`InitiatorError`]; once it runs it ends only when told to.
pub fn run(config_file: &Path) -> Result<(), InitiatorError> {
    host::daemon::begin();
    let config = Config::load(config_file)?;
    host::runtime::block_on(|rt| serve_all(config, rt))?
}

async fn serve_all(config: Config, rt: Rt) -> Result<(), InitiatorError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let _lock = lock(&config.state_dir)?;
    let tls = config.tls.clone().map(Credentials::load).transpose()?;
    let control = Listener::unix(&config.control)?;
    let mut held = Vec::new();
    for volume in config.volumes {
        held.push(Rc::new(Held::new(volume, &config.state_dir, tls.as_ref(), &rt)?));
    }
    for held in &held {
        tokio::task::spawn_local(Rc::clone(held).keep_open());
        let way = Rc::clone(&held.way);
        tokio::task::spawn_local(async move { way.paths.knock().await });
    }
    let status = Rc::new(Initiator { started: rt.now(), held, rt });
    let asked = tokio::task::spawn_local(control::serve(control, status));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    asked.abort();
    Ok(())
}

/// Two initiators with one counter would take turns at throwing each other out.
fn lock(dir: &Path) -> Result<File, InitiatorError> {
    std::fs::create_dir_all(dir)?;
    let file = File::create(dir.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(InitiatorError::Locked(dir.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// One volume of the VM.
struct Held {
    config: Volume,
    way: Rc<Way>,
    rt: Rt,
    hold: RefCell<Option<Hold>>,
    /// Why it is not open, and whether that is final.
    unopened: RefCell<(String, bool)>,
}

impl Held {
    fn new(config: Volume, state_dir: &Path, tls: Option<&Rc<Credentials>>, rt: &Rt) -> Result<Self, InitiatorError> {
        let tls = config.target.map(|key| (Rc::clone(tls.expect("the configuration was checked")), key));
        let way = Way {
            volume: config.name.clone(),
            epoch: config.epoch,
            mode: config.mode,
            paths: Paths::new(config.portals.clone()),
            tls,
            incarnations: Rc::new(Incarnations::open(state_dir, &config.name)?),
            timing: config.timing,
            rt: Rc::clone(rt),
            heard: Rc::default(),
        };
        let unopened = RefCell::new((String::new(), false));
        Ok(Self { config, way: Rc::new(way), rt: Rc::clone(rt), hold: RefCell::default(), unopened })
    }

    /// Opens the volume, however long that takes, then serves it; the socket appears when it can be used.
    async fn keep_open(self: Rc<Self>) {
        assert!(!planted(Bug::TaskPanics), "planted");
        let mut pause = self.config.hold.retry_first;
        let hold = loop {
            match Hold::open(&self.rt, self.config.hold, Box::new(Connect(Rc::clone(&self.way)))).await {
                Ok(hold) => break hold,
                Err(ConnectError::Fenced { held, current }) => {
                    let text = format!("{held} is over, the volume is at {current}");
                    tracing::error!(volume = %self.config.name, "fenced: {text}");
                    *self.unopened.borrow_mut() = (text, true);
                    return;
                }
                Err(ConnectError::Later(text)) => self.not_yet(text),
            }
            sleep(&self.rt, pause).await;
            pause = Millis(pause.0 * 2).min(self.config.hold.retry_most);
        };
        *self.hold.borrow_mut() = Some(hold.clone());
        // What kept it from being opened is over.
        self.unopened.take();
        tokio::task::spawn_local(Rc::clone(&self).log_changes(hold.clone()));
        let served = Served { name: self.config.name.clone(), mode: self.config.mode, disk: Rc::new(hold) };
        // It may have been restarted: QEMU, another user, connects again by itself.
        match Listener::unix_of_folder(&self.config.socket) {
            Ok(listener) => {
                tracing::info!(volume = %self.config.name, "served on {}", self.config.socket.display());
                serve::serve(listener, Rc::new(served)).await;
            }
            Err(error) => {
                tracing::error!(volume = %self.config.name, "{error}");
                *self.unopened.borrow_mut() = (error.to_string(), true);
            }
        }
    }

    /// Logged when it is news.
    fn not_yet(&self, reason: String) {
        if self.unopened.borrow().0 != reason {
            tracing::warn!(volume = %self.config.name, "cannot attach yet: {reason}");
        }
        *self.unopened.borrow_mut() = (reason, false);
    }

    async fn log_changes(self: Rc<Self>, hold: Hold) {
        loop {
            hold.changed().await;
            let status = hold.status();
            match status.state {
                HoldState::Up => tracing::info!(volume = %self.config.name, "the path is back"),
                HoldState::Waiting(_) => tracing::warn!(volume = %self.config.name, "no path: {}", status.reason),
                HoldState::Fenced { .. } => tracing::error!(volume = %self.config.name, "{}", status.reason),
            }
        }
    }

    fn report(&self, now: Moment) -> HeldReport {
        let mut report = HeldReport {
            volume: self.config.name.clone(),
            state: HeldState::Opening,
            waiting: None,
            heard: self.way.heard.get().map(|heard| now.since(heard)),
            epoch: self.config.epoch,
            incarnation: self.way.incarnations.last(),
            sessions: 0,
            unflushed: ByteLen(0),
            rewritten: 0,
            reason: None,
            paths: self.way.paths.report(),
        };
        let (reason, last) = self.unopened.borrow().clone();
        report.reason = (!reason.is_empty()).then_some(reason);
        if let Some(hold) = &*self.hold.borrow() {
            let status = hold.status();
            (report.state, report.waiting) = match status.state {
                HoldState::Up => (HeldState::Up, None),
                HoldState::Waiting(since) => (HeldState::Waiting, Some(now.since(since))),
                HoldState::Fenced { .. } => (HeldState::Fenced, None),
            };
            report.sessions = status.sessions;
            report.unflushed = ByteLen(status.unflushed_bytes);
            report.rewritten = status.rewritten;
            report.reason = (!status.reason.is_empty()).then_some(status.reason).or(report.reason);
        } else if last {
            report.state = HeldState::Fenced;
        }
        report
    }
}

/// What the control socket asks.
struct Initiator {
    started: Moment,
    held: Vec<Rc<Held>>,
    rt: Rt,
}

impl Answering for Initiator {
    async fn answer(&self, request: Request) -> Result<Reply, Refusal> {
        let now = self.rt.now();
        match request {
            Request::Status => Ok(Reply::Initiator(InitiatorReport {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                up: now.since(self.started),
                volumes: self.held.iter().map(|held| held.report(now)).collect(),
            })),
            _ => Err(Refusal::new(
                Code::Invalid,
                "an initiator can only be asked for its status",
                "ask the target, or `muskox deadman`",
            )),
        }
    }
}
