//! The guest's side: NBD on a Unix socket for QEMU. One export, the volume; no TLS, since only who may open the socket
//! comes in (mode 0600).

use crate::session::{Connections, Leave, Session, export_info};
use block::Disk;
use host::net::{Listener, Lobby, Place, Places, Transport};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use units::{Mode, VolumeName};
use wire::nbd::{ListedExport, Refusal, ServerCommand, ServerHandshake, TlsPolicy};

/// QEMU is on this machine: its handshake takes milliseconds.
const LOGIN_MAX: Duration = Duration::from_secs(10);
/// Connections at once: QEMU has one, and people look in. A QEMU that was broken into gets no more memory of ours than that.
const PLACES: Places = Places { all: 8, of_one: 8 };
const READ_BYTES: usize = 16 << 10;

/// One volume as QEMU sees it.
pub struct Served {
    /// Its name, and the export's; the empty name means it too.
    pub name: VolumeName,
    /// Whether it may be written.
    pub mode: Mode,
    /// The volume.
    pub disk: Disk,
}

/// Lets clients in until the task is dropped.
pub async fn serve(listener: Listener, served: std::rc::Rc<Served>) {
    let lobby = Lobby::new(PLACES);
    let receive = |transport, place: Place| {
        let (served, lobby) = (std::rc::Rc::clone(&served), std::rc::Rc::clone(&lobby));
        async move {
            match place.hold(served.welcome(transport, &place)).await {
                Some(Ok(())) => {}
                Some(Err(error)) => lobby.say(|| format!("{}: a client left: {error}", served.name)),
                None => lobby
                    .say(|| format!("{}: the client that was here the longest had to go for a newer one", served.name)),
            }
        }
    };
    lobby.let_in(&listener, receive).await;
}

impl Served {
    async fn welcome(&self, mut transport: Transport, place: &Place) -> io::Result<()> {
        let shaken = tokio::time::timeout(LOGIN_MAX, self.shake_hands(&mut transport)).await;
        let Some((received, negotiated)) = shaken.map_err(|_| io::ErrorKind::TimedOut)?? else { return Ok(()) };
        // Who only knocks goes first.
        place.heard();
        let stays = std::future::pending::<Leave>();
        let ended = Session::new(transport, &received, &negotiated, self.disk.clone(), stays).await;
        tracing::debug!(volume = %self.name, ?ended, "a client's session ended");
        Ok(())
    }

    async fn shake_hands(&self, transport: &mut Transport) -> io::Result<Option<(Vec<u8>, wire::nbd::Negotiated)>> {
        let mut machine = ServerHandshake::new(TlsPolicy::Off);
        let (mut received, mut room) = (Vec::new(), vec![0; READ_BYTES]);
        loop {
            let mut input = received.as_slice();
            let command = machine.step(&mut input);
            let left = input.len();
            received.drain(..received.len() - left);
            match command {
                Some(ServerCommand::Send(bytes)) => transport.write_all(&bytes).await?,
                Some(ServerCommand::StartTls) => unreachable!("a plaintext handshake refuses TLS"),
                Some(ServerCommand::ListExports) => {
                    let only = ListedExport { name: self.name.to_string(), description: String::new() };
                    machine.answer_list(Ok(&[only]));
                }
                Some(ServerCommand::OpenExport { name, .. }) if name.is_empty() || name == self.name.as_str() => {
                    machine.answer_open(Ok(export_info(self.disk.geometry(), self.mode, Connections::Many)));
                }
                Some(ServerCommand::OpenExport { name, .. }) => {
                    let text = format!("this socket serves '{}', not '{name}'", self.name);
                    machine.answer_open(Err(Refusal::unknown(text)));
                }
                Some(ServerCommand::Transmission(negotiated)) => return Ok(Some((received, negotiated))),
                Some(ServerCommand::Close(_)) => return Ok(None),
                None => match transport.read(&mut room).await? {
                    0 => return Ok(None),
                    count => received.extend_from_slice(&room[..count]),
                },
            }
        }
    }
}
