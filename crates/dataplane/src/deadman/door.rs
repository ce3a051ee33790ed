//! Where the other machines come in: they renew, and ask for this witness's vote. Who has no witness's key is dropped.

use super::core::Core;
use crate::control::{ACCEPT_PAUSE, Answering, Manners, converse};
use crate::credentials::Credentials;
use cluster::lease::{ADDRESSES_MAX, MEMBERS_MAX};
use host::net::{Listener, Transport};
use host::runtime::now;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use units::{HostKey, Millis, Moment};
use wire::control::{Code, Refusal, Reply, Request};

/// Connections at once: each witness on each network, twice while it connects anew.
const CONNECTIONS_MAX: usize = 2 * MEMBERS_MAX * ADDRESSES_MAX;
/// A handshake; two journeys and a signature.
const TLS_MAX: Millis = Millis(1_000);
/// A peer speaks every heartbeat. Who has been silent for this long has connected anew, or is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A request is 100 bytes.
const REQUEST_BYTES_MAX: usize = 1 << 10;
const READ_BYTES: usize = 512;
/// A knock is logged this often.
const COMPLAIN_EVERY: Millis = Millis(10_000);

const MANNERS: Manners = Manners {
    read_bytes: READ_BYTES,
    request_bytes_max: REQUEST_BYTES_MAX,
    silence_max: Some(SILENCE_MAX),
    send_max: Duration::from_secs(1),
};

/// All doors of this machine.
pub struct Doors {
    core: Rc<Core>,
    credentials: Rc<Credentials>,
    room: Arc<Semaphore>,
    complained: Cell<Moment>,
}

impl Doors {
    /// Doors that lead to this core.
    pub fn new(core: Rc<Core>, credentials: Rc<Credentials>) -> Rc<Self> {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Rc::new(Self { core, credentials, room, complained: Cell::new(Moment(0)) })
    }

    /// Serves one listener until the task is dropped. Conversations go on.
    pub async fn serve(self: Rc<Self>, listener: Listener) {
        loop {
            let place = Arc::clone(&self.room).acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok(plain) => {
                    let this = Rc::clone(&self);
                    tokio::task::spawn_local(async move {
                        let _place = place;
                        this.receive(plain).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn receive(&self, plain: Transport) {
        let peer = plain.peer();
        let stream = match self.credentials.server().await.accept(plain, TLS_MAX).await {
            Ok(stream) => stream,
            Err(error) => return self.complain(&format!("{peer:?}: {error}")),
        };
        let Some(from) = stream.host_key().filter(|key| self.core.knows(*key)) else {
            let key = stream.host_key();
            return self.complain(&format!("{peer:?}: {key:?} is no witness of the configuration, dropped"));
        };
        let machine = Machine { core: Rc::clone(&self.core), from };
        if let Err(error) = converse(stream, &machine, &MANNERS).await {
            tracing::debug!(%from, %error, "a conversation ended");
        }
    }

    /// Anybody can knock: the log is not theirs to fill.
    fn complain(&self, text: &str) {
        if now().since(self.complained.get()) >= COMPLAIN_EVERY {
            self.complained.set(now());
            tracing::warn!("{text}");
        }
    }
}

/// A witness at the other end.
struct Machine {
    core: Rc<Core>,
    from: HostKey,
}

impl Answering for Machine {
    async fn answer(&self, request: Request) -> Result<Reply, Refusal> {
        if !self.core.knows(self.from) {
            return Err(Refusal::new(Code::Invalid, "this key is no witness any more", "see the configuration"));
        }
        self.core.heard(self.from);
        match request {
            Request::Renew => Ok(Reply::Renewal(self.core.renew(self.from))),
            Request::Vote { host } => self.core.vote(host).await.map(Reply::Vote),
            _ => {
                let text = "another machine may renew and ask for a vote, nothing else";
                Err(Refusal::new(Code::Invalid, text, "ask on that machine's own control socket"))
            }
        }
    }
}
