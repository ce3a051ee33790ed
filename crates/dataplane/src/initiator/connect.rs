//! From a portal's address to a [`Link`]: TCP, TLS, the NBD handshake, and an incarnation that no connection had before.
//!
//! Invariant: a number is durable before a target hears it. It does *not* decide when to connect; `hold` does.

use super::incarnation::Incarnations;
use super::link::Link;
use super::paths::Paths;
use crate::credentials::Credentials;
use block::health::HealthTiming;
use block::hold::{ConnectError, Connecting, Connector, Session};
use block::runtime::Rt;
use host::net::{Expect, Transport, connect_tcp};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use units::{Epoch, HostKey, Millis, Mode, Moment, VolumeName};
use wire::nbd::{
    AttachAs, ClientCommand, ClientConfig, ClientFailure, ClientHandshake, ClientTls as TlsChoice, Context::Heartbeat,
    ExportName, NoEntry, Ready, Refusal,
};

/// A storage segment answers a SYN within milliseconds or not at all; the kernel would repeat it only after a second.
const CONNECT_MAX: Millis = Millis(500);
/// The handshake with everything in it: a target lets an attach wait for the drain of the older incarnation, which takes
/// as long as a slow disk's flush. A longer drain goes on while the next attempt waits for it again.
const ATTACH_MAX: Millis = Millis(5_000);
/// The TLS handshake within it.
const TLS_MAX: Millis = Millis(2_000);
/// A handshake's replies are short; one receive takes them.
const READ_BYTES: usize = 16 << 10;

/// What one volume's sessions attach as, and where.
pub struct Way {
    /// The volume.
    pub volume: VolumeName,
    /// The epoch this process was started for.
    pub epoch: Epoch,
    /// What it may do.
    pub mode: Mode,
    /// The ways to the target.
    pub paths: Paths,
    /// TLS and the target's key; `None`: plaintext, as the configuration asked for.
    pub tls: Option<(Rc<Credentials>, HostKey)>,
    /// The counter.
    pub incarnations: Rc<Incarnations>,
    /// When a session counts as dead.
    pub timing: HealthTiming,
    /// Time and tasks.
    pub rt: Rt,
    /// When the newest question was asked that the target answered, on whatever connection: it answers only who owns
    /// the volume.
    pub heard: Rc<Cell<Option<Moment>>>,
}

/// A way as a hold wants it.
pub struct Connect(pub Rc<Way>);

impl Connector for Connect {
    fn connect(&self) -> Connecting {
        let way = Rc::clone(&self.0);
        Box::pin(async move {
            let mut failed = None;
            way.paths.lost();
            for _ in 0..way.paths.count() {
                let (path, portal) = way.paths.take();
                match way.connect_to(portal).await {
                    Ok(link) => {
                        way.paths.tried(path, None);
                        return Ok(link as Rc<dyn Session>);
                    }
                    Err(fenced @ ConnectError::Fenced { .. }) => return Err(fenced),
                    Err(later) => {
                        let ConnectError::Later(why) = &later else { unreachable!("it is not fenced") };
                        way.paths.tried(path, Some(why.clone()));
                        failed = Some(later);
                    }
                }
            }
            Err(failed.expect("the configuration has a portal"))
        })
    }
}

impl Way {
    async fn connect_to(&self, portal: SocketAddr) -> Result<Rc<Link>, ConnectError> {
        let later = |text: String| ConnectError::Later(format!("{portal}: {text}"));
        let transport = connect_tcp(portal, CONNECT_MAX).await.map_err(|error| later(error.to_string()))?;
        let incarnation = self.incarnations.next().map_err(|error| later(error.to_string()))?;
        let name = ExportName {
            volume: self.volume.clone(),
            attach: Some(AttachAs { epoch: self.epoch, incarnation, mode: self.mode }),
        };
        let asked = self.rt.now();
        let attach = tokio::time::timeout(ATTACH_MAX.into(), self.shake_hands(transport, name.to_string())).await;
        match attach {
            Err(_) => Err(later(format!("the target did not answer the attach within {ATTACH_MAX}"))),
            Ok(Err(HandshakeError::Refused(refusal))) => Err(match NoEntry::of(&refusal) {
                Some(NoEntry::EpochOver { held, current }) => ConnectError::Fenced { held, current },
                _ => later(refusal.text),
            }),
            Ok(Err(error)) => Err(later(error.to_string())),
            Ok(Ok((transport, received, ready))) => {
                self.heard.set(self.heard.get().max(Some(asked)));
                Ok(Link::start(&self.rt, transport, &received, ready, self.timing, Rc::clone(&self.heard)))
            }
        }
    }

    async fn shake_hands(
        &self,
        mut transport: Transport,
        export: String,
    ) -> Result<(Transport, Vec<u8>, Ready), HandshakeError> {
        let choice = if self.tls.is_some() { TlsChoice::Required } else { TlsChoice::Off };
        let mut machine = ClientHandshake::new(ClientConfig { export, tls: choice, context: Some(Heartbeat) });
        let (mut received, mut room) = (Vec::new(), vec![0; READ_BYTES]);
        loop {
            let mut input = received.as_slice();
            let command = machine.step(&mut input);
            let left = input.len();
            received.drain(..received.len() - left);
            match command {
                Some(ClientCommand::Send(bytes)) => {
                    transport.write_all(&bytes).await?;
                    transport.flush().await?;
                }
                Some(ClientCommand::StartTls) => {
                    let (credentials, key) = self.tls.as_ref().expect("only a machine that requires TLS starts it");
                    transport = credentials.client().await.connect(transport, &Expect::Key(*key), TLS_MAX).await?;
                    machine.tls_started();
                }
                Some(ClientCommand::Ready(ready)) => return Ok((transport, received, ready)),
                Some(ClientCommand::Failed(ClientFailure::Refused(refusal))) => {
                    return Err(HandshakeError::Refused(refusal));
                }
                Some(ClientCommand::Failed(failure)) => return Err(HandshakeError::Failed(failure)),
                None => match transport.read(&mut room).await? {
                    0 => return Err(HandshakeError::Closed),
                    count => received.extend_from_slice(&room[..count]),
                },
            }
        }
    }
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("{}", .0.text)]
    Refused(Refusal),
    #[error(transparent)]
    Failed(ClientFailure),
    #[error("the target closed the connection during the handshake")]
    Closed,
    #[error(transparent)]
    Tls(#[from] host::net::TlsError),
    #[error("the connection broke during the handshake: {0}")]
    Broken(#[from] std::io::Error),
}
