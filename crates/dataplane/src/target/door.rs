//! Where initiators come in: a listener, the NBD handshake with its TLS, and the way to the pool that has the export.
//!
//! ```text
//!  accept ─▶ a stranger: greeting, STARTTLS, TLS ─▶ a host, known by its key: options, open ─▶ the pool's thread
//!            4096 places, 2048 of an address        4096 places, 512 of a host
//! ```
//! Invariants: accepting waits for nobody who is in; a client has [`PROVE_MAX`] until TLS is there and [`LOGIN_MAX`] for what
//! follows; identity comes from the TLS key or from the listener, never from what the client says. Runs on the control thread.

use crate::target::director::Director;
use crate::target::net::{Listening, Welcome, peer_text};
use crate::target::pool::{Claim, Knock, Opened};
use host::net::{Listener, Lobby, Place, Places, Source, TlsError, Transport};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::Instant;
use units::{HostKey, Millis};
use wire::nbd::{
    Closing, ExportName, Negotiated, OpenFor, Refusal as NbdRefusal, ServerCommand, ServerHandshake, TlsPolicy,
};

/// Clients of which nothing is proven, at all listeners together. One address has room for every disk of a busy host, which
/// attaches all at once when the target is back. Each costs a descriptor and a few KiB.
const STRANGERS: Places = Places { all: 4096, of_one: 2048 };
/// Hosts in the handshake: the pool takes its time for each volume.
const HOSTS: Places = Places { all: 4096, of_one: 512 };
/// How long a client may take until TLS is there: four round trips and signatures of both sides on a slow machine.
const PROVE_MAX: Duration = Duration::from_secs(5);
/// How long a client may take for the rest of the handshake: five round trips.
const LOGIN_MAX: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 16 << 10;

/// All doors of this target.
pub struct Doors {
    director: Rc<Director>,
    strangers: Rc<Lobby>,
    hosts: Rc<Lobby>,
}

impl Doors {
    /// Doors that lead to this director's pools.
    pub fn new(director: Rc<Director>) -> Rc<Self> {
        Rc::new(Self { director, strangers: Lobby::new(STRANGERS), hosts: Lobby::new(HOSTS) })
    }

    /// Lets clients in until the task is dropped.
    pub async fn serve(self: Rc<Self>, socket: Listener, listening: Rc<Listening>) {
        let receive = |transport, place| {
            let (this, listening) = (Rc::clone(&self), Rc::clone(&listening));
            async move { this.receive(transport, listening.welcome().await, place).await }
        };
        self.strangers.let_in(&socket, receive).await;
    }

    async fn receive(&self, transport: Transport, welcome: Welcome, place: Place) {
        let guest = Guest::new(transport, welcome, place);
        let (peer, place) = (guest.peer.clone(), Rc::clone(&guest.place));
        let guest = match place.hold(guest.prove()).await {
            Some(Ok(guest)) => guest,
            Some(Err(Turned::Left)) => return,
            Some(Err(error)) => return self.strangers.say(|| format!("{peer}: {error}")),
            None => return self.strangers.say(|| format!("{peer} was sent away: newer ones needed its place")),
        };
        // Whom the listener takes for a host has proven nothing.
        let (place, who) = match &guest.welcome {
            Welcome::Tls(_) => (Rc::new(self.hosts.enter(Source::Key(guest.host()))), &self.hosts),
            Welcome::As(_) => (place, &self.strangers),
        };
        let guest = Guest { place: Rc::clone(&place), ..guest };
        match place.hold(guest.shake_hands(&self.director)).await {
            Some(Ok(()) | Err(Turned::Left)) => {}
            Some(Err(error)) => who.say(|| format!("{peer}: {error}")),
            None => who.say(|| format!("{peer} was sent away: newer ones needed its place")),
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
    #[error("the client took longer than {} s for its part of the handshake", .0.as_secs())]
    Slow(Duration),
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
    place: Rc<Place>,
    host: Option<HostKey>,
    peer: String,
    machine: ServerHandshake,
    received: Vec<u8>,
    claim: Option<oneshot::Sender<Claim>>,
    limit: Duration,
    deadline: Instant,
}

impl Guest {
    fn new(transport: Transport, welcome: Welcome, place: Place) -> Self {
        let (policy, host, limit) = match &welcome {
            Welcome::Tls(_) => (TlsPolicy::Required, None, PROVE_MAX),
            Welcome::As(host) => (TlsPolicy::Off, Some(*host), LOGIN_MAX),
        };
        Self {
            peer: peer_text(&transport),
            transport,
            welcome,
            place: Rc::new(place),
            host,
            machine: ServerHandshake::new(policy),
            received: Vec::new(),
            claim: None,
            limit,
            deadline: Instant::now() + limit,
        }
    }

    /// The handshake until it is known who the client is.
    async fn prove(mut self) -> Result<Self, Turned> {
        while self.host.is_none() {
            match self.step() {
                None => self.receive().await?,
                Some(ServerCommand::Send(bytes)) => self.send(&bytes).await?,
                Some(ServerCommand::StartTls) => self = self.start_tls().await?,
                Some(ServerCommand::Close(why)) => return Err(self.close(why).await.err().unwrap_or(Turned::Left)),
                Some(other) => unreachable!("{other:?}: where TLS is required nothing else is heard before it"),
            }
        }
        Ok(self)
    }

    /// The rest of it.
    async fn shake_hands(mut self, director: &Director) -> Result<(), Turned> {
        loop {
            match self.step() {
                None => self.receive().await?,
                Some(ServerCommand::Send(bytes)) => self.send(&bytes).await?,
                Some(ServerCommand::StartTls) => {
                    unreachable!("TLS within TLS, and TLS at a plaintext listener, is refused")
                }
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

    fn step(&mut self) -> Option<ServerCommand> {
        let mut input = &self.received[..];
        let command = self.machine.step(&mut input);
        let taken = self.received.len() - input.len();
        self.received.drain(..taken);
        command
    }

    fn host(&self) -> HostKey {
        self.host.expect("the handshake asks for exports only when the identity is known")
    }

    async fn receive(&mut self) -> Result<(), Turned> {
        let mut buffer = [0; READ_BYTES];
        match in_time(self.deadline, self.limit, self.transport.read(&mut buffer)).await? {
            0 => Err(Turned::Left),
            len => {
                self.place.heard();
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
        in_time(self.deadline, self.limit, sending).await
    }

    async fn start_tls(mut self) -> Result<Self, Turned> {
        let Welcome::Tls(tls) = &self.welcome else { unreachable!("a plaintext listener's handshake refuses TLS") };
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limit = Millis(u64::try_from(left.as_millis()).expect("at most PROVE_MAX"));
        self.transport = tls.accept(self.transport, limit).await?;
        self.host = Some(self.transport.host_key().expect("a TLS connection knows its peer's key"));
        self.machine.tls_started();
        (self.limit, self.deadline) = (LOGIN_MAX, Instant::now() + LOGIN_MAX);
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
        let _ = in_time(self.deadline, self.limit, self.transport.shutdown()).await;
        match why {
            Closing::Aborted => Ok(()),
            Closing::Refused(refusal) => Err(Turned::Refused(refusal)),
            Closing::Broken(error) => Err(Turned::Broken(error)),
        }
    }
}

async fn in_time<T>(
    deadline: Instant,
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, Turned> {
    match tokio::time::timeout_at(deadline, work).await {
        Ok(done) => Ok(done?),
        Err(_elapsed) => Err(Turned::Slow(limit)),
    }
}
