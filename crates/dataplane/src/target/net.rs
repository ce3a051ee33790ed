//! Listeners as the configuration names them, and who comes in there.

use crate::credentials::Credentials;
use crate::target::config::{Endpoint, Listener, Trust};
use host::net::{Listener as Socket, NetError, Peer, ServerTls, TlsError, Transport};
use std::fmt;
use std::rc::Rc;
use units::HostKey;

/// Where to listen, and how it is learnt who a client is.
pub struct Listening {
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
#[derive(Clone)]
enum Trusted {
    Shown(Rc<Credentials>),
    As(HostKey),
}

impl Listening {
    /// As configured; nothing is opened yet.
    ///
    /// # Errors
    /// The certificate, the key or the CA.
    pub fn new(listener: &Listener) -> Result<Self, TlsError> {
        let trusted = match &listener.trust {
            Trust::Named(host) => Trusted::As(*host),
            Trust::Tls(files) => Trusted::Shown(Credentials::load(files.clone())?),
        };
        Ok(Self { at: listener.at.clone(), trusted })
    }

    /// Listens.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn open(&self) -> Result<Socket, NetError> {
        let socket = match &self.at {
            Endpoint::Tcp(address) => Socket::tcp(*address)?,
            Endpoint::Unix(path) => Socket::unix(path)?,
        };
        if let (Endpoint::Tcp(address), Trusted::As(host)) = (&self.at, &self.trusted) {
            tracing::warn!(%address, "plaintext: whoever reaches this address is taken for {host}, unseen and unchecked");
        }
        // Port 0 has become one.
        let chosen = socket.tcp_address().ok().flatten().map_or(self.at.clone(), Endpoint::Tcp);
        tracing::info!("serving on {}", Self { at: chosen, trusted: self.trusted.clone() });
        Ok(socket)
    }

    /// How a client that comes now is received.
    pub async fn welcome(&self) -> Welcome {
        match &self.trusted {
            Trusted::Shown(credentials) => Welcome::Tls(credentials.server().await),
            Trusted::As(host) => Welcome::As(*host),
        }
    }
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match &self.trusted {
            Trusted::Shown(_) => "TLS",
            Trusted::As(_) => "plaintext",
        };
        match &self.at {
            Endpoint::Tcp(address) => write!(f, "{address} ({how})"),
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
