//! `muskox target`: the process of a storage box that serves volumes over NBD through the gate.
//!
//! ```text
//!  control thread                                   a thread per pool
//!    control ─ ctl, node ─▶ director ─ messages ──▶   pool: array, volumes, gates
//!    door ─── handshake ───▶ director ─ messages ──▶   session loops
//! ```
//! Invariant: killing it at any moment loses nothing that was acknowledged; a stop only makes the next start quicker. It
//! does *not* know the cluster: grants and floors are told to it over the control socket.

mod audit;
pub mod config;
mod director;
mod door;
mod known;
mod net;
mod pool;

use crate::config::ConfigError;
use crate::control;
use crate::credentials::Credentials;
use crate::trouble::Troubles;
use config::{Config, Trust};
use director::Director;
use door::Doors;
use host::net::{Listener, NetError, TlsError, when_there};
use known::{Known, KnownError};
use net::Listening;
use std::path::Path;
use std::rc::Rc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// Why a target did not start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state folder is of no use.
    #[error(transparent)]
    Known(#[from] KnownError),
    /// The control socket cannot be had. A listener that cannot is tried again.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A listener's certificate, key or CA.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system gives no loop or no signals.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

impl TargetError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Config(error) => error.hint.clone(),
            Self::Known(error) => error.hint().to_owned(),
            // Their texts say it.
            Self::Net(_) | Self::Tls(_) => String::new(),
            Self::System(_) => "check the limits of this process (ulimit -a)".to_owned(),
        }
    }
}

/// Whether a target would start with this configuration: it is read, and so are the certificates. Nothing is touched.
///
/// # Errors
/// [`TargetError`].
pub fn check(config_file: &Path) -> Result<(), TargetError> {
    for listener in Config::load(config_file)?.listeners {
        if let Trust::Tls(files) = listener.trust {
            Credentials::load(files)?;
        }
    }
    Ok(())
}

/// Runs a target until SIGTERM or SIGINT.
///
/// # Errors
/// [`TargetError`]; once it runs it ends only when told to.
pub fn run(config_file: &Path) -> Result<(), TargetError> {
    host::daemon::begin();
    let config = Config::load(config_file)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = LocalSet::new().block_on(&runtime, serve(config));
    // A disk that hangs must not keep the process: what it still does, the kernel's lock covers.
    runtime.shutdown_background();
    served
}

async fn serve(config: Config) -> Result<(), TargetError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let known = Known::open(&config.state_dir)?;
    let control = Listener::unix(&config.control)?;
    let troubles = Rc::<Troubles>::default();
    let mut listening = Vec::new();
    for listener in &config.listeners {
        let wanted = Rc::new(Listening::new(listener)?);
        // Who comes while the pools start waits in the kernel's queue.
        let about = format!("listening on {wanted}");
        let socket = wanted.open().inspect_err(|error| troubles.note(&about, Some(error.to_string()))).ok();
        listening.push((wanted, about, socket));
    }
    let director = Director::new(config, known, Rc::clone(&troubles));
    let mut doors = vec![tokio::task::spawn_local(control::serve(control, director.clone()))];
    tokio::select! {
        () = director.start_known() => {}
        _ = terminate.recv() => {
            director.stop_all().await;
            return Ok(());
        }
    }
    doors.push(tokio::task::spawn_local(director.clone().start_what_waits()));
    let all = Doors::new(director.clone());
    for (wanted, about, socket) in listening {
        let (all, troubles) = (Rc::clone(&all), Rc::clone(&troubles));
        doors.push(tokio::task::spawn_local(async move {
            let told = |wrong: Option<&NetError>| troubles.note(&about, wrong.map(ToString::to_string));
            let socket = match socket {
                Some(socket) => socket,
                None => when_there(|| wanted.open(), told).await,
            };
            all.serve(socket, wanted).await;
        }));
    }
    tracing::info!("ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    doors.iter().for_each(tokio::task::JoinHandle::abort);
    director.stop_all().await;
    Ok(())
}
