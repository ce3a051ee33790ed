//! A connection to a monitor of QEMU's: typed commands, each with its own deadline, and its events with the moment we
//! heard them.

use crate::runtime::now;
use crate::users::connect_to_owner;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::AbortHandle;
use units::{Millis, Moment};
use wire::qmp::{Client, Command, CommandError, Event, Id, Incoming, Json, QmpError, Ready};

/// Events that wait for a slow listener; a migration of an hour makes about as many. Who falls behind is told so.
const EVENTS_MAX: usize = 1024;
/// Commands that wait to be sent.
const COMMANDS_MAX: usize = 16;
/// Bytes a read takes at most: one answer of the usual size.
const READ_BYTES: usize = 16 << 10;
/// A monitor that is not there yet, or still has its former client, is tried again this often.
const RETRY: Duration = Duration::from_millis(20);

/// Why a command has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MonitorError {
    /// There is no connection to be had.
    #[error("no connection to the monitor {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// QEMU refused the command: nothing was changed.
    #[error("QEMU refused {command}: {error}")]
    Refused {
        /// The command.
        command: &'static str,
        /// Why.
        error: CommandError,
    },
    /// No answer in time; the command may still be carried out.
    #[error("QEMU did not answer {command} within {limit}")]
    Deadline {
        /// The command.
        command: &'static str,
        /// How long it had.
        limit: Millis,
    },
    /// The connection is over; whether the command was carried out is not known.
    #[error("the connection to QEMU ended before it answered {command}")]
    Closed {
        /// The command.
        command: &'static str,
    },
    /// What came was not QMP, or the command cannot be sent.
    #[error(transparent)]
    Protocol(#[from] QmpError),
}

/// An event and when we heard it.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// On this machine's steady clock.
    pub at: Moment,
    /// What.
    pub event: Event,
}

type Answer = Result<Json, MonitorError>;

/// Puts a command into a connection's output.
type Put = dyn FnOnce(&mut Client) -> Result<Id, QmpError> + Send;

/// What the task of a connection is asked.
struct Ask {
    name: &'static str,
    put: Box<Put>,
    answer: oneshot::Sender<Answer>,
}

/// A connection to a monitor. Clones share it; when the last one is dropped it is closed.
#[derive(Clone, Debug)]
pub struct Qmp {
    ready: Ready,
    asks: mpsc::Sender<Ask>,
    task: AbortHandle,
    events: broadcast::WeakSender<Heard>,
    /// Listening from before the monitor was ready, so that the first event is not missed.
    first: Arc<std::sync::Mutex<Option<broadcast::Receiver<Heard>>>>,
}

impl Qmp {
    /// Connects to the monitor at `path`, and tries again while nobody listens there, at most until `limit`.
    ///
    /// # Errors
    /// If there is no monitor ready within `limit`.
    pub async fn connect(path: &Path, out_of_band: bool, limit: Millis) -> Result<Self, MonitorError> {
        let late = |source: io::Error| MonitorError::Connect { path: path.to_owned(), source: Arc::new(source) };
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        let attempts = async {
            loop {
                match connect_to_owner(path).await {
                    Ok(stream) => return Self::over(stream, out_of_band).await,
                    Err(error) => last = error,
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        match tokio::time::timeout(limit.into(), attempts).await {
            Ok(done) => done,
            Err(_) => Err(late(last)),
        }
    }

    /// A connection over `stream`, once the monitor is ready.
    pub(super) async fn over(stream: UnixStream, out_of_band: bool) -> Result<Self, MonitorError> {
        let (asks, inbox) = mpsc::channel(COMMANDS_MAX);
        let (events, first) = broadcast::channel(EVENTS_MAX);
        let (ready_to, ready) = oneshot::channel();
        let weak = events.downgrade();
        let link =
            Link { stream, client: Client::new(out_of_band), waiting: BTreeMap::new(), events, ready: Some(ready_to) };
        let task = tokio::spawn(link.run(inbox)).abort_handle();
        let ready = ready.await.map_err(|_| MonitorError::Closed { command: "qmp_capabilities" })?;
        Ok(Self { ready, asks, task, events: weak, first: Arc::new(std::sync::Mutex::new(Some(first))) })
    }

    /// Which QEMU this is, and whether commands may go out of band.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The events from here on; the first listener also gets those since the connection was made. The receiver ends
    /// with the connection, and says so if it fell behind: ask for the state again then.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Heard> {
        let first = self.first.lock().expect("nobody panics while holding it").take();
        let ended = || broadcast::channel(1).1;
        first.or_else(|| self.events.upgrade().map(|events| events.subscribe())).unwrap_or_else(ended)
    }

    /// Closes the connection, for every clone, also where QEMU does not read: a monitor has one visitor at a time.
    pub fn close(&self) {
        self.task.abort();
    }

    /// Sends `command` and waits for its answer, at most until `limit`.
    ///
    /// # Errors
    /// If there is none, or it is a refusal.
    pub async fn run<C: Command + Send + 'static>(&self, command: C, limit: Millis) -> Result<C::Reply, MonitorError> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask { name: C::NAME, put: Box::new(move |client| client.execute(&command)), answer };
        let closed = MonitorError::Closed { command: C::NAME };
        let exchange = async {
            self.asks.send(ask).await.map_err(|_| closed.clone())?;
            answered.await.map_err(|_| closed.clone())?
        };
        let late = |_| MonitorError::Deadline { command: C::NAME, limit };
        let value = tokio::time::timeout(limit.into(), exchange).await.map_err(late)??;
        Ok(Client::decode::<C>(value)?)
    }
}

/// The task that owns a connection.
struct Link {
    stream: UnixStream,
    client: Client,
    waiting: BTreeMap<Id, (&'static str, oneshot::Sender<Answer>)>,
    events: broadcast::Sender<Heard>,
    ready: Option<oneshot::Sender<Ready>>,
}

impl Link {
    /// Runs until the other end closes, speaks no QMP, or nobody is left to ask. Dropping the waiting tells the askers.
    async fn run(mut self, mut inbox: mpsc::Receiver<Ask>) {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            let going_on = tokio::select! {
                read = self.stream.read(&mut bytes) => match read {
                    Ok(0) => Ok(false),
                    Ok(len) => self.heard(&bytes[..len]).map(|()| true).map_err(io::Error::other),
                    Err(error) => Err(error),
                },
                ask = inbox.recv() => Ok(ask.map(|ask| self.asked(ask)).is_some()),
            };
            let sent = match going_on {
                Ok(true) => self.stream.write_all(&self.client.take_output()).await,
                Ok(false) => return,
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                tracing::warn!(%error, "a connection to QEMU's monitor ended");
                return;
            }
        }
    }

    fn asked(&mut self, ask: Ask) {
        // Askers that gave up leave their places when QEMU answers; until then they count, so memory stays bounded.
        match (ask.put)(&mut self.client) {
            Ok(id) => {
                self.waiting.insert(id, (ask.name, ask.answer));
            }
            Err(error) => {
                let _ = ask.answer.send(Err(error.into()));
            }
        }
    }

    fn heard(&mut self, mut bytes: &[u8]) -> Result<(), QmpError> {
        while let Some(incoming) = self.client.receive(&mut bytes)? {
            match incoming {
                Incoming::Ready(ready) => {
                    if let Some(to) = self.ready.take() {
                        let _ = to.send(ready);
                    }
                }
                Incoming::Event(event) => {
                    // Nobody listening is nobody's loss.
                    let _ = self.events.send(Heard { at: now(), event });
                }
                Incoming::Reply { id, result } => {
                    let Some((command, to)) = self.waiting.remove(&id) else { continue };
                    let _ = to.send(result.map_err(|error| MonitorError::Refused { command, error }));
                }
            }
        }
        Ok(())
    }
}
