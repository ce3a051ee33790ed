//! One connection: bytes in, bytes out, and who is at the other end.
//!
//! Made for a loop that takes all there is in one receive, reads a large payload straight into its final buffer, and
//! sends all ready answers at once: nothing here waits except [`Transport::readable`] and [`Transport::writable`].
//!
//! Invariant: bytes come in the order in which they were sent, those given back by [`Transport::unread`] first.

use super::tls::Session;
use std::fmt;
use std::io::{self, IoSlice, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};
use units::HostKey;

/// Who is at the other end, as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address; it proves nothing.
    Tcp(SocketAddr),
    /// A process of this machine, as it was when it connected.
    Unix {
        /// Its user.
        user: u32,
        /// Its number, if the kernel tells.
        process: Option<i32>,
    },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(from) => write!(f, "{from}"),
            Self::Unix { user, process: Some(process) } => write!(f, "process {process} of user {user}"),
            Self::Unix { user, process: None } => write!(f, "a process of user {user}"),
        }
    }
}

/// A connection that belongs to one thread's loop.
pub struct Transport {
    pub(super) socket: Socket,
    pub(super) session: Option<Box<Session>>,
    unread: Unread,
    peer: Peer,
}

/// A connection taken apart: it may go to another thread and be put together there.
pub struct Parts {
    socket: StdSocket,
    session: Option<Box<Session>>,
    unread: Unread,
    peer: Peer,
}

pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

enum StdSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// Bytes that were received, given back, and not yet taken again.
#[derive(Default)]
struct Unread {
    bytes: Vec<u8>,
    taken: usize,
}

impl Unread {
    fn left(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let count = self.left().read(into).expect("reading from memory does not fail");
        self.taken += count;
        if self.left().is_empty() {
            *self = Self::default();
        }
        count
    }
}

impl Transport {
    pub(super) fn tcp(stream: TcpStream, peer: Peer) -> Self {
        Self { socket: Socket::Tcp(stream), session: None, unread: Unread::default(), peer }
    }

    pub(super) fn unix(stream: UnixStream) -> io::Result<Self> {
        let who = stream.peer_cred()?;
        let peer = Peer::Unix { user: who.uid(), process: who.pid() };
        Ok(Self { socket: Socket::Unix(stream), session: None, unread: Unread::default(), peer })
    }

    /// Who is at the other end, as the kernel tells.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The peer's proven identity, if this is TLS and it has one ([`super::ServerTls::load_for_strangers_too`]).
    #[must_use]
    pub fn host_key(&self) -> Option<HostKey> {
        self.session.as_ref().and_then(|session| session.peer_key())
    }

    /// Waits until [`Transport::try_read`] is worth a call. Safe to drop and call again.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn readable(&self) -> io::Result<()> {
        if !self.unread.left().is_empty() || self.session.as_ref().is_some_and(|session| session.holds_plaintext()) {
            return Ok(());
        }
        self.socket.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until [`Transport::try_write_vectored`] is worth a call. Safe to drop and call again.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.ready(Interest::WRITABLE).await.map(drop)
    }

    /// Takes what is there, as much as fits. `Ok(0)`: the peer has closed its side (or `into` is empty).
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing yet; `UnexpectedEof` if a TLS peer broke off without its closing word;
    /// `InvalidData` if it sent what is no TLS; what the kernel says.
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.unread.left().is_empty() {
            return Ok(self.unread.take(into));
        }
        match &mut self.session {
            None => self.socket.try_read(into),
            Some(session) => session.try_read(&self.socket, into),
        }
    }

    /// Sends as much as fits, from all of `pieces` at once; how many bytes were taken. Under TLS, bytes that were taken
    /// may not have left yet: while [`Transport::has_unsent`], wait for [`Transport::writable`] and call again, with
    /// nothing if there is nothing more.
    ///
    /// # Errors
    /// `WouldBlock` if nothing fits now; what the kernel says.
    pub fn try_write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.session {
            None => self.socket.try_write_vectored(pieces),
            Some(session) => session.try_write_vectored(&self.socket, pieces),
        }
    }

    /// Whether bytes that were taken have not left yet.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.has_unsent())
    }

    /// How far the peer's TCP has acknowledged what was sent; `None` where nobody counts that (Unix sockets).
    #[must_use]
    pub fn acknowledged(&self) -> Option<super::Acknowledged> {
        match &self.socket {
            Socket::Tcp(stream) => super::acked::acknowledged(stream.as_fd()).ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Gives received bytes back, to be read again before all others.
    pub fn unread(&mut self, bytes: &[u8]) {
        let later = std::mem::take(&mut self.unread);
        self.unread.bytes.extend_from_slice(bytes);
        self.unread.bytes.extend_from_slice(later.left());
    }

    /// Whether the next bytes are the socket's own.
    pub(super) fn is_plain_and_drained(&self) -> bool {
        self.session.is_none() && self.unread.left().is_empty()
    }

    /// All bytes given back, without reading on: what a peer sent before it begins TLS.
    pub(super) fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread).left().to_vec()
    }

    /// Says, under TLS, that no more will be sent, as far as that can be done without waiting.
    pub fn say_goodbye(&mut self) {
        if let Some(session) = &mut self.session {
            session.say_goodbye(&self.socket);
        }
    }

    /// Takes the connection apart for another thread.
    ///
    /// # Errors
    /// What the kernel says; then the connection is gone.
    pub fn into_parts(self) -> io::Result<Parts> {
        let socket = match self.socket {
            Socket::Tcp(stream) => StdSocket::Tcp(stream.into_std()?),
            Socket::Unix(stream) => StdSocket::Unix(stream.into_std()?),
        };
        Ok(Parts { socket, session: self.session, unread: self.unread, peer: self.peer })
    }

    /// Puts a connection together on this thread.
    ///
    /// # Errors
    /// What the kernel says; then the connection is gone.
    pub fn from_parts(parts: Parts) -> io::Result<Self> {
        let socket = match parts.socket {
            StdSocket::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
            StdSocket::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        };
        Ok(Self { socket, session: parts.session, unread: parts.unread, peer: parts.peer })
    }
}

impl Socket {
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
        }
    }

    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(into),
            Self::Unix(stream) => stream.try_read(into),
        }
    }

    pub(super) fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(pieces),
            Self::Unix(stream) => stream.try_write_vectored(pieces),
        }
    }
}
