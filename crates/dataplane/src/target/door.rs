//! Where initiators come in: a listener, the NBD handshake with its TLS, and the way to the pool that has the export.
//!
//! Invariants: a client has [`LOGIN_MAX`] for its part of the handshake and at most [`HALF_OPEN_MAX`] are in it at once;
//! identity comes from the TLS key or from the listener, never from what the client says. Runs on the control thread.

use crate::target::director::Director;
use crate::target::net::{Listening, Welcome, peer_text};
use crate::target::pool::{Claim, Knock, Opened};
use host::net::{TlsError, Transport};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use units::{HostKey, Millis};
use wire::nbd::{
    Closing, ExportName, Negotiated, OpenFor, Refusal as NbdRefusal, ServerCommand, ServerHandshake, TlsPolicy,
};

/// How long a client may take for its part of the handshake: seven round trips and one TLS handshake on a slow machine.
const LOGIN_MAX: Duration = Duration::from_secs(10);
/// Clients in the handshake per listener; more wait in the kernel's queue, so that a flood costs us this much memory.
const HALF_OPEN_MAX: usize = 64;
/// After a failed `accept` (no descriptors left): long enough to close some, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const READ_BYTES: usize = 16 << 10;

/// Lets clients in until the task is dropped.
pub async fn serve(listening: Listening, director: Rc<Director>) {
    let room = Arc::new(Semaphore::new(HALF_OPEN_MAX));
    loop {
        let place = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
        match listening.accept().await {
            Ok((transport, welcome)) => {
                let director = Rc::clone(&director);
                tokio::task::spawn_local(async move {
                    let _place = place;
                    let guest = Guest::new(transport, welcome);
                    let peer = guest.peer.clone();
                    match guest.shake_hands(&director).await {
                        Ok(()) | Err(Turned::Left) => {}
                        Err(error) => tracing::info!(peer, "{error}"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on {listening}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Why a client did not get in.
#[derive(Debug, thiserror::Error)]
enum Turned {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the client took longer than {} s", LOGIN_MAX.as_secs())]
    Slow,
    #[error("the client left")]
    Left,
    #[error("the client was refused: {0}")]
    Refused(NbdRefusal),
    #[error("{0}")]
    Broken(wire::nbd::WireError),
}

/// A client in its handshake.
struct Guest {
    transport: Transport,
    welcome: Welcome,
    host: Option<HostKey>,
    peer: String,
    machine: ServerHandshake,
    received: Vec<u8>,
    claim: Option<oneshot::Sender<Claim>>,
    deadline: Instant,
}

impl Guest {
    fn new(transport: Transport, welcome: Welcome) -> Self {
        let (policy, host) = match &welcome {
            Welcome::Tls(_) => (TlsPolicy::Required, None),
            Welcome::As(host) => (TlsPolicy::Off, Some(*host)),
        };
        Self {
            peer: peer_text(&transport),
            transport,
            welcome,
            host,
            machine: ServerHandshake::new(policy),
            received: Vec::new(),
            claim: None,
            deadline: Instant::now() + LOGIN_MAX,
        }
    }

    async fn shake_hands(mut self, director: &Director) -> Result<(), Turned> {
        loop {
            let mut input = &self.received[..];
            let command = self.machine.step(&mut input);
            let taken = self.received.len() - input.len();
            self.received.drain(..taken);
            match command {
                None => self.receive().await?,
                Some(ServerCommand::Send(bytes)) => self.send(&bytes).await?,
                Some(ServerCommand::StartTls) => self = self.start_tls().await?,
                Some(ServerCommand::ListExports) => {
                    let exports = director.exports(self.host()).await;
                    self.machine.answer_list(Ok(&exports));
                }
                Some(ServerCommand::OpenExport { name, why }) => self.open(director, &name, why).await,
                Some(ServerCommand::Transmission(negotiated)) => return self.hand_over(negotiated),
                Some(ServerCommand::Close(why)) => return self.close(why).await,
            }
        }
    }

    fn host(&self) -> HostKey {
        self.host.expect("the handshake asks for exports only when the identity is known")
    }

    async fn receive(&mut self) -> Result<(), Turned> {
        let mut buffer = [0; READ_BYTES];
        match in_time(self.deadline, self.transport.read(&mut buffer)).await? {
            0 => Err(Turned::Left),
            len => {
                self.received.extend_from_slice(&buffer[..len]);
                Ok(())
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Turned> {
        let sending = async {
            self.transport.write_all(bytes).await?;
            self.transport.flush().await
        };
        in_time(self.deadline, sending).await
    }

    async fn start_tls(mut self) -> Result<Self, Turned> {
        let Welcome::Tls(tls) = &self.welcome else { unreachable!("a plaintext listener's handshake refuses TLS") };
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limit = Millis(u64::try_from(left.as_millis()).expect("at most LOGIN_MAX"));
        self.transport = tls.accept(self.transport, limit).await?;
        self.host = Some(self.transport.host_key().expect("a TLS connection knows its peer's key"));
        self.machine.tls_started();
        Ok(self)
    }

    /// The time a pool takes to let somebody in is not the client's.
    async fn open(&mut self, director: &Director, name: &str, why: OpenFor) {
        let opened = match name.parse::<ExportName>() {
            Ok(name) => director.open(Knock { host: self.host(), name, why, peer: self.peer.clone() }).await,
            Err(error) => Err(NbdRefusal::unknown(error.to_string())),
        };
        self.deadline = Instant::now() + LOGIN_MAX;
        self.machine.answer_open(opened.map(|Opened { info, claim }| {
            self.claim = claim;
            info
        }));
    }

    fn hand_over(self, negotiated: Negotiated) -> Result<(), Turned> {
        let claim = self.claim.expect("the handshake ends with an export that was opened");
        let connection = self.transport.into_parts()?;
        // A pool that stopped meanwhile drops the connection, which tells the client.
        drop(claim.send(Claim { connection, received: self.received, negotiated }));
        Ok(())
    }

    async fn close(mut self, why: Closing) -> Result<(), Turned> {
        let _ = in_time(self.deadline, self.transport.shutdown()).await;
        match why {
            Closing::Aborted => Ok(()),
            Closing::Refused(refusal) => Err(Turned::Refused(refusal)),
            Closing::Broken(error) => Err(Turned::Broken(error)),
        }
    }
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = io::Result<T>>) -> Result<T, Turned> {
    match tokio::time::timeout_at(deadline, work).await {
        Ok(done) => Ok(done?),
        Err(_elapsed) => Err(Turned::Slow),
    }
}
