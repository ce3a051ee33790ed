//! Listeners as the configuration names them, and who comes in there.

use crate::credentials::Credentials;
use crate::target::config::{Endpoint, Listener, Trust};
use host::net::{Listener as Socket, NetError, Peer, ServerTls, TlsError, Transport};
use std::fmt;
use std::io;
use std::rc::Rc;
use units::HostKey;

/// A listening socket and how it learns who a client is.
pub struct Listening {
    socket: Socket,
    at: Endpoint,
    trusted: Trusted,
}

/// How it is learnt who a client is.
#[derive(Clone)]
pub enum Welcome {
    /// By the key of its certificate.
    Tls(ServerTls),
    /// Everybody who reaches the listener is this host.
    As(HostKey),
}

/// The same, for as long as a listener lives: certificates are renewed.
enum Trusted {
    Shown(Rc<Credentials>),
    As(HostKey),
}

/// Why nobody can come in.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address or the socket.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The certificate, the key or the CA.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Listening {
    /// Listens as configured.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn open(listener: &Listener) -> Result<Self, ListenError> {
        let trusted = match &listener.trust {
            Trust::Named(host) => Trusted::As(*host),
            Trust::Tls(files) => Trusted::Shown(Credentials::load(files.clone())?),
        };
        let socket = match &listener.at {
            Endpoint::Tcp(address) => Socket::tcp(*address)?,
            Endpoint::Unix(path) => Socket::unix(path)?,
        };
        if let (Endpoint::Tcp(address), Trusted::As(host)) = (&listener.at, &trusted) {
            tracing::warn!(%address, "plaintext: whoever reaches this address is taken for {host}, unseen and unchecked");
        }
        Ok(Self { socket, at: listener.at.clone(), trusted })
    }

    /// The next connection.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn accept(&self) -> io::Result<(Transport, Welcome)> {
        let transport = self.socket.accept().await?;
        let welcome = match &self.trusted {
            Trusted::Shown(credentials) => Welcome::Tls(credentials.server().await),
            Trusted::As(host) => Welcome::As(*host),
        };
        Ok((transport, welcome))
    }
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match &self.trusted {
            Trusted::Shown(_) => "TLS",
            Trusted::As(_) => "plaintext",
        };
        match &self.at {
            Endpoint::Tcp(address) => {
                let chosen = self.socket.tcp_address().ok().flatten().unwrap_or(*address);
                write!(f, "{chosen} ({how})")
            }
            Endpoint::Unix(path) => write!(f, "{} ({how})", path.display()),
        }
    }
}

/// Where a connection comes from, for people.
pub fn peer_text(transport: &Transport) -> String {
    match transport.peer() {
        Peer::Tcp(address) => address.to_string(),
        Peer::Unix { user, process: Some(process) } => format!("process {process} of user {user}"),
        Peer::Unix { user, process: None } => format!("user {user}"),
    }
}
