//! A pool: one thread that owns an array, its volume group, all its gates and all its sessions. No locks on the data
//! path; who is on another thread sends a [`Message`].
//!
//! ```text
//!  door (control thread)            pool's thread
//!    handshake ── Open ───────────▶ gate: attach ──▶ a session waits for its connection
//!    the rest of the handshake ◀─── what the export is like
//!    ── connection, by Opened ────▶ session loop (crate::session)
//! ```

mod admin;
mod array;
mod export;
mod grants;
mod membership;
mod places;
mod returning;
mod search;
mod thread;

pub use export::not_here;
pub use search::{Survey, Wanted};

use super::audit::Audit;
use host::net::Parts;
use host::runtime::DataThread;
use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use units::{ArrayId, HostKey, PoolName, VolumeName};
use wire::control::{Advice, Code, PoolReport, Refusal, Reply, Request, SessionReport, VolumeReport};
use wire::nbd::{ExportInfo, ExportName, ListedExport, Negotiated, OpenFor, Refusal as NbdRefusal};

/// Messages on their way to a pool's thread; more senders wait. The thread only ever hands them to tasks.
const INBOX_MAX: usize = 64;
/// A stop waits for sessions (10 s), for hanging operations and for the array's last writes; then the process may end
/// all the same: it is safe to kill.
const STOP_MAX: Duration = Duration::from_secs(30);

/// What a pool's thread is started with.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// Its name.
    pub pool: PoolName,
    /// How it comes to be.
    pub start: Start,
    /// Where it is remembered who was in sync.
    pub state_dir: PathBuf,
    /// Where it is recorded who was granted what.
    pub audit: Audit,
}

/// How a pool comes to be.
#[derive(Clone, Debug)]
pub enum Start {
    /// Newly made of these disks.
    Create {
        /// The disks.
        members: Vec<PathBuf>,
        /// Whether to overwrite what they hold.
        wipe: bool,
        /// Whether one disk, which mirrors nothing, is meant.
        single: bool,
    },
    /// Found on some of these disks.
    Assemble {
        /// Which array; `None`: the one of the pool's name.
        array: Option<ArrayId>,
        /// Where to look first: disks, or folders of disks.
        paths: Vec<PathBuf>,
        /// Whether to look at every free disk of the machine too.
        everywhere: bool,
        /// An operator's word that the missing members are lost.
        degraded: bool,
    },
}

/// What the pool's thread is told.
pub enum Message {
    /// Do what a control request asks.
    Ask(Request, oneshot::Sender<Result<Reply, Refusal>>),
    /// Say how you are.
    Look(oneshot::Sender<Look>),
    /// Say which exports this host may see.
    Exports(HostKey, oneshot::Sender<Vec<ListedExport>>),
    /// Open an export.
    Open(Knock, oneshot::Sender<Result<Opened, NbdRefusal>>),
    /// Stop serving and leave the members clean, then end.
    Stop(oneshot::Sender<Result<(), Refusal>>),
}

/// A client before an export.
#[derive(Clone, Debug)]
pub struct Knock {
    /// Who it is.
    pub host: HostKey,
    /// What it asked for.
    pub name: ExportName,
    /// Whether it wants in, or only to look.
    pub why: OpenFor,
    /// Where it comes from, for people.
    pub peer: String,
}

/// An export that was opened. Dropped without a connection, the session behind it is given up.
pub struct Opened {
    /// What it is like.
    pub info: ExportInfo,
    /// Where the connection goes; `None` if the client only looked.
    pub claim: Option<oneshot::Sender<Claim>>,
}

/// A connection whose handshake is over.
pub struct Claim {
    /// The connection.
    pub connection: Parts,
    /// What came behind the handshake.
    pub received: Vec<u8>,
    /// What was agreed.
    pub negotiated: Negotiated,
}

/// How a pool is.
pub struct Look {
    /// Itself.
    pub pool: PoolReport,
    /// Its volumes.
    pub volumes: Vec<VolumeReport>,
    /// Their sessions.
    pub sessions: Vec<SessionReport>,
}

/// The names of a pool's volumes, for who routes requests to pools. Changes only when a volume is made or removed.
pub type Names = Arc<Mutex<Vec<VolumeName>>>;

/// A running pool, from another thread.
pub struct Handle {
    pool: PoolName,
    to: mpsc::Sender<Message>,
    names: Names,
    thread: RefCell<Option<DataThread<Message>>>,
}

impl Handle {
    /// Starts the thread and waits until the pool serves.
    ///
    /// # Errors
    /// Why it does not; the thread has ended then.
    pub async fn launch(blueprint: Blueprint) -> Result<(Self, PoolReport), Refusal> {
        let (names, pool) = (Names::default(), blueprint.pool.clone());
        let (ready, started) = oneshot::channel();
        let work = {
            let names = Arc::clone(&names);
            move |rt, inbox| thread::run(rt, inbox, blueprint, names, ready)
        };
        let thread = DataThread::start(&format!("pool-{pool}"), INBOX_MAX, work).map_err(|error| {
            Refusal::new(
                Code::Failed,
                format!("cannot start a thread for '{pool}': {error}"),
                "check the limits (ulimit -u)",
            )
        })?;
        let to = thread.sender().clone();
        let report = started.await.unwrap_or_else(|_| Err(gone(&pool)))?;
        Ok((Self { pool, to, names, thread: RefCell::new(Some(thread)) }, report))
    }

    /// Whether the pool has a volume of this name.
    pub fn has(&self, volume: &VolumeName) -> bool {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).contains(volume)
    }

    /// Passes a request on.
    ///
    /// # Errors
    /// The pool's answer.
    pub async fn ask(&self, request: Request) -> Result<Reply, Refusal> {
        self.send(|answer| Message::Ask(request, answer)).await.unwrap_or_else(|| Err(gone(&self.pool)))
    }

    /// How the pool is; `None` if it does not say within `limit`.
    pub async fn look(&self, limit: Duration) -> Option<Look> {
        tokio::time::timeout(limit, self.send(Message::Look)).await.ok().flatten()
    }

    /// What a host may see.
    pub async fn exports(&self, host: HostKey) -> Vec<ListedExport> {
        self.send(|answer| Message::Exports(host, answer)).await.unwrap_or_default()
    }

    /// Opens an export.
    ///
    /// # Errors
    /// What to tell the client.
    pub async fn open(&self, knock: Knock) -> Result<Opened, NbdRefusal> {
        let answer = self.send(|answer| Message::Open(knock, answer)).await;
        answer.unwrap_or_else(|| Err(NbdRefusal::shutdown("the pool stops")))
    }

    /// Stops the pool and waits for its thread.
    ///
    /// # Errors
    /// Why its members are not clean.
    pub async fn stop(&self) -> Result<(), Refusal> {
        let stopped = tokio::time::timeout(STOP_MAX, self.send(Message::Stop)).await;
        let thread = self.thread.borrow_mut().take();
        match stopped {
            Ok(answer) => {
                if let Some(thread) = thread {
                    // The thread has said its last word and only winds up: a few seconds at most.
                    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
                }
                answer.unwrap_or_else(|| Err(gone(&self.pool)))
            }
            Err(_elapsed) => {
                let text = format!("the pool '{}' has not stopped within {} s", self.pool, STOP_MAX.as_secs());
                let hint =
                    "a disk hangs: look at `dmesg`; ending the target is safe, the next start brings members together";
                Err(Refusal::new(Code::Failed, text, hint))
            }
        }
    }

    async fn send<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.to.send(message(answer)).await.ok()?;
        answered.await.ok()
    }
}

fn gone(pool: &PoolName) -> Refusal {
    Refusal::advised(Code::Failed, format!("the pool '{pool}' has ended: see the target's log"), Advice::StartPool)
}
