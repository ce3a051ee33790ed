//! Where the other machines come in: they renew, and ask for this witness's vote. Who has no witness's key is dropped.

use super::core::Core;
use crate::control::{Answering, Manners, converse};
use crate::credentials::Credentials;
use cluster::lease::{ADDRESSES_MAX, MEMBERS_MAX, Voter};
use host::net::{Listener, Lobby, Place, Places, Source, Transport};
use host::runtime::{now, sleep_until};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Mutex;
use units::{HostKey, Millis, Moment};
use wire::control::{Code, Refusal, Reply, Request};

/// Connections of which nothing is proven. Those from a witness's addresses go last.
const STRANGERS: Places = Places { all: 2048, of_one: 1024 };
/// Witnesses: each on each network, twice while it connects anew.
const WITNESSES: Places = Places { all: MEMBERS_MAX * 2 * ADDRESSES_MAX, of_one: 2 * ADDRESSES_MAX };
/// A handshake; two journeys and a signature.
const TLS_MAX: Millis = Millis(1_000);
/// Between two handshakes with strangers: each costs a signature, at real-time priority, whoever asks. So they take a twentieth
/// of a processor at most.
const STRANGER_EVERY: Millis = Millis(5);
/// A peer speaks every heartbeat. Who has been silent for this long has connected anew, or is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A request is 100 bytes.
const REQUEST_BYTES_MAX: usize = 1 << 10;
const READ_BYTES: usize = 512;

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
    strangers: Rc<Lobby>,
    witnesses: Rc<Lobby>,
    /// When a stranger's handshake last began. Strangers queue for it in the order in which they spoke.
    last_stranger: Mutex<Moment>,
}

impl Doors {
    /// Doors that lead to this core.
    pub fn new(core: Rc<Core>, credentials: Rc<Credentials>) -> Rc<Self> {
        let (strangers, witnesses) = (Lobby::new(STRANGERS), Lobby::new(WITNESSES));
        Rc::new(Self { core, credentials, strangers, witnesses, last_stranger: Mutex::new(Moment(0)) })
    }

    /// Whose addresses those of the witnesses are.
    pub fn know(&self, witnesses: &[Voter]) {
        let portals = witnesses.iter().flat_map(|peer| &peer.portals);
        self.strangers.know(portals.map(|portal| portal.ip()));
    }

    /// Serves one listener until the task is dropped. Conversations go on.
    pub async fn serve(self: Rc<Self>, listener: Listener) {
        let receive = |plain, place| {
            let this = Rc::clone(&self);
            async move { this.receive(plain, place).await }
        };
        self.strangers.let_in(&listener, receive).await;
    }

    async fn receive(&self, plain: Transport, place: Place) {
        let peer = plain.peer();
        let proving = async {
            place.spoken_to_by(&plain, TLS_MAX).await?;
            self.wait_for_turn(&plain).await;
            self.credentials.server().await.accept(plain, TLS_MAX).await
        };
        let stream = match place.hold(proving).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return self.strangers.say(|| format!("{peer:?}: {error}")),
            None => return self.strangers.say(|| format!("{peer:?} was sent away: newer ones needed its place")),
        };
        let Some(from) = stream.host_key().filter(|key| self.core.knows(*key)) else {
            let key = stream.host_key();
            return self.strangers.say(|| format!("{peer:?}: {key:?} is no witness of the configuration, dropped"));
        };
        drop(place);
        let place = self.witnesses.enter(Source::Key(from));
        let machine = Machine { core: Rc::clone(&self.core), from };
        if let Err(error) = converse(stream, &machine, &MANNERS, &place).await {
            tracing::debug!(%from, %error, "a conversation ended");
        }
    }

    async fn wait_for_turn(&self, plain: &Transport) {
        if !self.strangers.knows(plain.peer()) {
            let mut last = self.last_stranger.lock().await;
            sleep_until(*last + STRANGER_EVERY).await;
            *last = now();
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
