//! TLS 1.3 with certificates on both sides; who a peer is, is its key.
//!
//! Every peer's certificate must be signed by the cluster's CA and valid now. Its identity is the [`HostKey`]: the
//! SHA-256 of its public key, so a renewed certificate keeps it. No tickets, no resumption: a resumed session would skip
//! the look at the certificate, and storage connections are few and long.

mod files;
mod session;
mod stranger;
mod verify;

pub use files::TlsFiles;
pub(super) use session::Session;
pub use stranger::{StrangerTls, fingerprint_of};
pub use verify::host_key_of;

use super::transport::Transport;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use units::{HostKey, Millis};

/// Why there is no TLS, for people.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{what} '{path}' cannot be read ({source}): check the path and its owner")]
    Read {
        /// What it should hold.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The key is open to others.
    #[error(
        "key '{path}' may be read by others (mode {mode:04o}): run `chmod 600 '{path}'`, and renew it if it leaked"
    )]
    KeyOpen {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file holds something else.
    #[error("{what} '{path}' is not usable ({problem}): it must be PEM")]
    BadFile {
        /// What it should hold.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Certificate and key do not belong together, or the like.
    #[error("certificate '{certificate}' and key '{key}' do not work together ({problem}): were both renewed?")]
    Mismatch {
        /// Which.
        certificate: PathBuf,
        /// Which.
        key: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The peer was not accepted, or did not accept us, or spoke something else.
    #[error("no TLS with the peer ({0}): check both certificates, their CA and both clocks")]
    Refused(rustls::Error),
    /// The connection broke.
    #[error("the connection broke during the TLS handshake ({0})")]
    Broken(#[from] io::Error),
    /// The peer took too long.
    #[error("the peer did not finish the TLS handshake within {0}")]
    TooSlow(Millis),
}

/// What a server needs to speak TLS. Reloading is making a new one: handshakes take it by reference.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerConfig>);

/// What a client needs to speak TLS.
#[derive(Clone)]
pub struct ClientTls {
    certificates: Arc<files::Loaded>,
}

/// Whom a client expects at the other end. Its certificate must come from the CA in either case.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Exactly this key, whatever name its certificate bears.
    Key(HostKey),
    /// Any key whose certificate bears this name or address.
    Name(ServerName<'static>),
}

impl ServerTls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// [`TlsError`]: which file, and what is wrong with it.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        files.load()?.server(files, false).map(|config| Self(Arc::new(config)))
    }

    /// As [`ServerTls::load`], but a client that shows no certificate is let in too: its connection has no
    /// [`Transport::host_key`]. For the one door at which machines ask to become members.
    ///
    /// # Errors
    /// [`TlsError`]: which file, and what is wrong with it.
    pub fn load_for_strangers_too(files: &TlsFiles) -> Result<Self, TlsError> {
        files.load()?.server(files, true).map(|config| Self(Arc::new(config)))
    }

    /// Makes `plain` a TLS connection, within `limit`. What was received and given back counts as the beginning of the
    /// peer's hello. A refused peer is told why, as far as TLS has words for it.
    ///
    /// # Errors
    /// [`TlsError`]; the connection is gone.
    pub async fn accept(&self, plain: Transport, limit: Millis) -> Result<Transport, TlsError> {
        let connection = ServerConnection::new(Arc::clone(&self.0)).map_err(TlsError::Refused)?;
        shake_hands(plain, Connection::Server(connection), limit).await
    }
}

impl ClientTls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// [`TlsError`]: which file, and what is wrong with it.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let certificates = Arc::new(files.load()?);
        // A mistake is found now, not at the first connection.
        certificates.client(files, None)?;
        Ok(Self { certificates })
    }

    /// Makes `plain` a TLS connection, within `limit`, if the peer is the expected one. In TLS 1.3 the client is done
    /// first: that the server refuses *our* certificate shows only at the first read.
    ///
    /// # Errors
    /// [`TlsError`]; the connection is gone.
    pub async fn connect(&self, plain: Transport, expect: &Expect, limit: Millis) -> Result<Transport, TlsError> {
        let config: ClientConfig = self.certificates.client_for(expect)?;
        let name = match expect {
            Expect::Name(name) => name.clone(),
            // Never looked at: the key decides.
            Expect::Key(_) => ServerName::try_from("muskox").expect("a plain word is a name"),
        };
        let connection = ClientConnection::new(Arc::new(config), name).map_err(TlsError::Refused)?;
        shake_hands(plain, Connection::Client(connection), limit).await
    }
}

async fn shake_hands(mut plain: Transport, connection: Connection, limit: Millis) -> Result<Transport, TlsError> {
    assert!(plain.session.is_none(), "TLS within TLS is nobody's wish");
    let early = plain.take_unread();
    let shaken = Session::shake_hands(&plain.socket, connection, early);
    let session = tokio::time::timeout(limit.into(), shaken).await.map_err(|_| TlsError::TooSlow(limit))??;
    plain.session = Some(Box::new(session));
    Ok(plain)
}
