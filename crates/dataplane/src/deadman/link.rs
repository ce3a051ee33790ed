//! One way to one witness: a connection that is renewed on every heartbeat, given up after three without an answer, and
//! made anew at once. TCP's own patience decides nothing.

use super::core::Core;
use crate::credentials::Credentials;
use block::health::{Health, HealthTiming, Verdict};
use host::net::{Expect, Transport, connect_tcp};
use host::runtime::{now, sleep_until};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use units::sabotage::{Bug, planted};
use units::{HostKey, Millis, Moment};
use wire::control::{Answer, Ask, Decoder, PortalReport, RenewalReport, Reply, Request, VERSION, VoteReport, encode};

/// A network answers a SYN within milliseconds or not at all; the kernel would repeat it only after a second.
const CONNECT_MAX: Millis = Millis(500);
/// A handshake; two journeys and a signature.
const TLS_MAX: Millis = Millis(750);
/// Between attempts: short, so that a link that is back is used within a second.
const RETRY: Millis = Millis(100);
/// Heartbeats without an answer after which a connection is given up.
const MISSES: u64 = 3;
/// Questions that wait for a witness on one connection; votes are asked for by one node at a time.
const QUESTIONS_MAX: usize = 16;
/// An answer is 100 bytes.
const ANSWER_BYTES_MAX: usize = 4 << 10;
const READ_BYTES: usize = 512;

/// A way to a witness; it ends when this is dropped.
pub struct Link {
    way: Rc<Way>,
    questions: mpsc::Sender<Question>,
    task: AbortHandle,
}

struct Way {
    peer: HostKey,
    portal: SocketAddr,
    heartbeat: Millis,
    core: Rc<Core>,
    credentials: Rc<Credentials>,
    heard: Cell<Option<Moment>>,
    /// Why there is no connection; `None` while there is one.
    reason: RefCell<Option<String>>,
}

/// A question for a vote.
struct Question {
    host: HostKey,
    answer: oneshot::Sender<Result<VoteReport, String>>,
}

/// What was sent and not answered.
enum Pending {
    Renewal(Moment),
    Vote(oneshot::Sender<Result<VoteReport, String>>),
}

impl Link {
    /// Begins to connect.
    pub fn start(
        peer: HostKey,
        portal: SocketAddr,
        heartbeat: Millis,
        core: Rc<Core>,
        credentials: Rc<Credentials>,
    ) -> Self {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let reason = RefCell::new(Some("not connected yet".to_owned()));
        let way = Rc::new(Way { peer, portal, heartbeat, core, credentials, heard: Cell::new(None), reason });
        let task = tokio::task::spawn_local(Rc::clone(&way).keep(asked)).abort_handle();
        Self { way, questions, task }
    }

    /// Whether there is a connection.
    pub fn is_up(&self) -> bool {
        self.way.reason.borrow().is_none()
    }

    /// Asks for the witness's vote on `host`; the answer never comes if the connection ends before it.
    pub fn ask(&self, host: HostKey) -> oneshot::Receiver<Result<VoteReport, String>> {
        let (answer, answered) = oneshot::channel();
        // A full queue drops the question, and with it the sender: no answer.
        let _ = self.questions.try_send(Question { host, answer });
        answered
    }

    /// How it is.
    pub fn report(&self) -> PortalReport {
        PortalReport {
            address: self.way.portal,
            heard: self.way.heard.get().map(|heard| now().since(heard)),
            reason: self.way.reason.borrow().clone(),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Way {
    async fn keep(self: Rc<Self>, mut asked: mpsc::Receiver<Question>) {
        assert!(!planted(Bug::TaskPanics), "planted");
        let mut news = true;
        loop {
            let ended = match self.connect().await {
                Ok(stream) => {
                    tracing::info!(portal = %self.portal, "connected to a witness");
                    *self.reason.borrow_mut() = None;
                    news = true;
                    self.talk(stream, &mut asked).await
                }
                Err(why) => why,
            };
            if std::mem::take(&mut news) {
                tracing::warn!(portal = %self.portal, "no connection to a witness: {ended}");
            }
            *self.reason.borrow_mut() = Some(ended);
            // Who asked in the meantime is not kept waiting.
            while asked.try_recv().is_ok() {}
            sleep_until(now() + RETRY).await;
        }
    }

    async fn connect(&self) -> Result<Transport, String> {
        let plain = connect_tcp(self.portal, CONNECT_MAX).await.map_err(|error| error.to_string())?;
        let tls = self.credentials.client().await;
        tls.connect(plain, &Expect::Key(self.peer), TLS_MAX).await.map_err(|error| error.to_string())
    }

    /// Renews until the connection is of no more use; why it is not.
    async fn talk(&self, mut stream: Transport, asked: &mut mpsc::Receiver<Question>) -> String {
        let timing = HealthTiming { period: self.heartbeat, dead_after: Millis(MISSES * self.heartbeat.0) };
        let mut health = Health::new(timing, now());
        let mut conversation = Conversation { next_id: 1, pending: BTreeMap::new(), decoder: Decoder::default() };
        let (mut buffer, mut alarm, mut out) = (vec![0; READ_BYTES], now(), Vec::new());
        conversation.put(&mut out, Request::Renew, Pending::Renewal(now()));
        loop {
            if !out.is_empty() {
                let sent = tokio::time::timeout(timing.dead_after.into(), send(&mut stream, &out)).await;
                match sent {
                    Ok(Ok(())) => out.clear(),
                    Ok(Err(error)) => return format!("sending failed: {error}"),
                    Err(_) => return "what was sent was not taken".to_owned(),
                }
            }
            tokio::select! {
                received = stream.read(&mut buffer) => match received {
                    Ok(0) => return "the witness closed the connection".to_owned(),
                    Ok(len) => {
                        health.heard(now());
                        if let Err(why) = self.received(&mut conversation, &buffer[..len]) {
                            return why;
                        }
                    }
                    Err(error) => return format!("receiving failed: {error}"),
                },
                () = sleep_until(alarm) => match health.tick(now()) {
                    Verdict::Probe(next) => {
                        alarm = next;
                        conversation.put(&mut out, Request::Renew, Pending::Renewal(now()));
                    }
                    Verdict::Wait(next) => alarm = next,
                    Verdict::Dead(silent) => return format!("the witness was silent for {silent}"),
                },
                Some(question) = asked.recv() => {
                    conversation.put(&mut out, Request::Vote { host: question.host }, Pending::Vote(question.answer));
                }
            }
        }
    }

    fn received(&self, conversation: &mut Conversation, bytes: &[u8]) -> Result<(), String> {
        conversation.decoder.push(bytes);
        while let Some(answer) =
            conversation.decoder.take_message::<Answer>().map_err(|error| format!("not the protocol: {error}"))?
        {
            self.heard.set(Some(now()));
            self.core.heard(self.peer);
            let pending = conversation.pending.remove(&answer.id);
            match (pending, answer.into_result()) {
                (Some(Pending::Renewal(sent)), Ok(Reply::Renewal(RenewalReport::Granted))) => {
                    self.core.granted(self.peer, sent);
                }
                (Some(Pending::Renewal(_)), Ok(Reply::Renewal(RenewalReport::Refused(left)))) => {
                    self.core.refused(self.peer, left);
                }
                (Some(Pending::Vote(to)), Ok(Reply::Vote(vote))) => drop(to.send(Ok(vote))),
                (Some(Pending::Vote(to)), Err(refusal)) => drop(to.send(Err(refusal.text))),
                (Some(Pending::Renewal(_)), Err(refusal)) => return Err(format!("refused: {}", refusal.text)),
                (_, Ok(_)) | (None, Err(_)) => return Err("an answer to no question".to_owned()),
            }
        }
        match conversation.decoder.waiting_bytes() > ANSWER_BYTES_MAX {
            true => Err("an answer is longer than any".to_owned()),
            false => Ok(()),
        }
    }
}

/// One connection's questions. Bounded: three heartbeats without an answer end it, and questions come through a queue.
struct Conversation {
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    decoder: Decoder,
}

impl Conversation {
    fn put(&mut self, out: &mut Vec<u8>, request: Request, pending: Pending) {
        let id = self.next_id;
        self.next_id += 1;
        out.extend(encode(&Ask { version: VERSION, id, request }).expect("a question is short"));
        self.pending.insert(id, pending);
    }
}

async fn send(stream: &mut Transport, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}
