//! One NBD connection after its handshake: requests in, answers out. The hot path.
//!
//! One turn: take what the disk has finished, start every request that is here, send every answer that is ready in one
//! gathered send, receive all there is in one receive. Answers that are there at once never see a queue of futures.
//!
//! Invariants: so many requests and so much payload ([`Weight::has_room`]) are in memory, counted until the answer has left;
//! beyond that nothing is received, and TCP tells the client. A block status is the client's heartbeat: it is answered from
//! memory, and has a place of its own. What was started is answered, unless the connection breaks; then it runs to its end
//! below the gate all the same. This module does *not* know epochs: the disk and the [`Admission`] it is given refuse.
//!
//! ```text
//!            revoked                1 s later, or stop, DISC, end of stream
//!   Open ───────────────▶ Lingering ────────────────▶ Draining ──── all answers sent, or 10 s ───▶ over
//!   requests are served   requests are refused        nothing is received
//! ```

mod export;
mod inbox;
mod operation;
#[cfg(test)]
pub(crate) mod test;

pub use export::{Connections, export_info};

use crate::stream::{BEATS_MAX, Outbox, Weight};
use block::{DeviceError, Disk, IoBuf};
use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use inbox::{Inbox, Next, Payload};
use operation::{Finished, Work, begin, refusal_text, wire_error};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};
use wire::nbd::{
    Contexts, Extent, Limits, Negotiated, Operation, Request, Verdict, WireError, block_status, push_error,
    push_read_head, push_success,
};

/// After a revocation the client's requests on their way are answered (refused), so that it learns why; then it must go.
const LINGER: Duration = Duration::from_secs(1);
/// How long answers may take to leave once nothing more is received.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug)]
pub enum Ended {
    /// The client said goodbye.
    Disconnected,
    /// The client closed without a word.
    Closed,
    /// The gate took the attachment's rights for good.
    Revoked,
    /// The target or the pool stops.
    Stopped,
    /// The client broke the protocol.
    Broken(WireError),
    /// The connection broke.
    Lost(io::Error),
}

/// Why the server's side wants a session to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The gate took the attachment's rights for good.
    Revoked,
    /// The target or the pool stops.
    Stopping,
}

/// What others may see of a session while it runs.
#[derive(Debug, Default)]
pub struct Meter {
    /// Requests started whose answer has not left.
    pub in_flight: Cell<u32>,
    /// Requests answered.
    pub answered: Cell<u64>,
}

/// Who let the client in.
pub trait Admission {
    /// The client has sent something.
    fn heard(&self);

    /// Whether it may still read.
    ///
    /// # Errors
    /// What a read would be answered; no disk is touched for that.
    fn standing(&self) -> Result<(), DeviceError>;
}

/// A session; the future ends when the connection can be closed.
pub struct Session<S> {
    stream: S,
    disk: Disk,
    limits: Limits,
    structured: bool,
    contexts: Contexts,
    inbox: Inbox,
    outbox: Outbox<IoBuf>,
    work: FuturesUnordered<Work>,
    in_flight: Weight,
    /// Whole requests were all taken: only a receive brings more.
    wants_bytes: bool,
    leave: Option<Pin<Box<dyn Future<Output = Leave>>>>,
    admission: Option<Rc<dyn Admission>>,
    phase: Phase,
    meter: Rc<Meter>,
}

enum Phase {
    Open,
    Lingering(Pin<Box<Sleep>>),
    Draining(Ended, Pin<Box<Sleep>>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// A session on `disk` as it was negotiated; `received` is what came behind the handshake. It ends early when
    /// `leave` does.
    pub fn new(
        stream: S,
        received: &[u8],
        negotiated: &Negotiated,
        disk: Disk,
        leave: impl Future<Output = Leave> + 'static,
    ) -> Self {
        Self {
            stream,
            disk,
            limits: Limits::of(&negotiated.export, !negotiated.contexts.is_empty()),
            structured: negotiated.structured,
            contexts: negotiated.contexts,
            inbox: Inbox::new(received),
            outbox: Outbox::default(),
            work: FuturesUnordered::new(),
            in_flight: Weight::default(),
            wants_bytes: true,
            leave: Some(Box::pin(leave)),
            admission: None,
            phase: Phase::Open,
            meter: Rc::default(),
        }
    }

    /// Who let the client in; without it everybody stays in.
    #[must_use]
    pub fn admitted_by(mut self, admission: Rc<dyn Admission>) -> Self {
        self.admission = Some(admission);
        self
    }

    /// What others may see.
    pub fn meter(&self) -> Rc<Meter> {
        Rc::clone(&self.meter)
    }

    /// Does what can be done now. `Ok(false)`: nothing could, and every reason to go on has our waker.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let mut moved = self.heed(cx);
        moved |= self.collect(cx);
        moved |= self.start_all()?;
        let sent = self.outbox.poll_send(&mut self.stream, cx).map_err(Ended::Lost)?;
        moved |= self.give_back(sent);
        if self.is_over() {
            return Err(self.why());
        }
        Ok(moved | self.receive(cx)?)
    }

    /// Listens to the server's side and to the clock.
    fn heed(&mut self, cx: &mut Context<'_>) -> bool {
        match self.leave.as_mut().map(|leave| leave.as_mut().poll(cx)) {
            Some(Poll::Ready(Leave::Revoked)) => self.phase = Phase::Lingering(Box::pin(sleep(LINGER))),
            Some(Poll::Ready(Leave::Stopping)) => self.drain(Ended::Stopped),
            _ => return self.linger(cx),
        }
        self.leave = None;
        true
    }

    fn linger(&mut self, cx: &mut Context<'_>) -> bool {
        let Phase::Lingering(until) = &mut self.phase else { return false };
        let over = until.as_mut().poll(cx).is_ready();
        if over {
            self.drain(Ended::Revoked);
        }
        over
    }

    fn drain(&mut self, why: Ended) {
        if !matches!(self.phase, Phase::Draining(..)) {
            self.phase = Phase::Draining(why, Box::pin(sleep(DRAIN_MAX)));
            self.leave = None;
        }
    }

    /// Takes what the disk has finished.
    fn collect(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some(finished)) = Pin::new(&mut self.work).poll_next(cx) {
            self.finish(finished);
            moved = true;
        }
        moved
    }

    /// Starts every request that is here, as far as the limits allow.
    fn start_all(&mut self) -> Result<bool, Ended> {
        let mut moved = false;
        self.wants_bytes = false;
        while !matches!(self.phase, Phase::Draining(..)) {
            let went_on = match self.inbox.peek().map_err(Ended::Broken)? {
                Next::More => {
                    self.wants_bytes = true;
                    false
                }
                Next::Write(request, data) => {
                    self.begin_write(&request, data);
                    true
                }
                Next::Request(request) => self.decide(&request)?,
            };
            if !went_on {
                break;
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Starts or refuses one request; `false` if it has to wait.
    fn decide(&mut self, request: &Request) -> Result<bool, Ended> {
        match self.limits.check(request) {
            Verdict::Do(Operation::BlockStatus { len, .. }) if self.in_flight.beats < BEATS_MAX => {
                self.inbox.accept();
                self.in_flight.add(Weight::BEAT);
                self.block_status(request, len, Weight::BEAT);
                Ok(true)
            }
            Verdict::Do(operation) => Ok(self.admit(request, operation)),
            Verdict::Refuse { .. } if !self.in_flight.has_room(0) => Ok(false),
            Verdict::Refuse { error, skip } => {
                self.inbox.skip(skip);
                self.in_flight.add(Weight::of(0));
                let (structured, text) = (self.structured, refusal_text(error, &self.limits));
                self.outbox.put(Weight::of(0), None, |heads| {
                    push_error(heads, structured, request.cookie, error, &text);
                });
                Ok(true)
            }
            Verdict::Disconnect => {
                self.drain(Ended::Disconnected);
                Ok(true)
            }
            Verdict::Close(error) => Err(Ended::Broken(error)),
        }
    }

    fn admit(&mut self, request: &Request, operation: Operation) -> bool {
        let bytes = match operation {
            Operation::Read { len, .. } | Operation::Write { len, .. } => u64::from(len),
            _ => 0,
        };
        if !self.in_flight.has_room(bytes) {
            return false;
        }
        if !matches!(operation, Operation::Write { .. }) {
            self.inbox.accept();
            self.in_flight.add(Weight::of(bytes));
            self.begin(request, operation, Weight::of(bytes), None);
            return true;
        }
        match self.inbox.take_payload(*request) {
            Payload::NotYet => {
                self.wants_bytes = true;
                return false;
            }
            Payload::Coming => self.in_flight.add(Weight::of(bytes)),
            Payload::Here(data) => {
                self.in_flight.add(Weight::of(bytes));
                self.begin(request, operation, Weight::of(bytes), Some(data));
            }
        }
        true
    }

    /// A write whose payload was waited for; it was admitted when it was first seen.
    fn begin_write(&mut self, request: &Request, data: IoBuf) {
        let Verdict::Do(operation) = self.limits.check(request) else {
            unreachable!("it was checked before its payload was received, and the limits stand");
        };
        self.begin(request, operation, Weight::of(u64::from(request.len)), Some(data));
    }

    fn begin(&mut self, request: &Request, operation: Operation, weight: Weight, data: Option<IoBuf>) {
        if let Operation::BlockStatus { len, .. } = operation {
            return self.block_status(request, len, weight);
        }
        let cookie = request.cookie;
        match begin(&self.disk, operation, data).try_now() {
            Ok(answer) => self.finish(Finished { cookie, at: request.at, weight, answer }),
            Err(doing) => self.work.push(Work::new(cookie, request.at, weight, doing)),
        }
    }

    /// Answered from memory. Volumes are fully allocated and do not know which blocks are zero.
    fn block_status(&mut self, request: &Request, len: u32, weight: Weight) {
        let (cookie, contexts) = (request.cookie, self.contexts);
        match self.admission.as_ref().map_or(Ok(()), |admission| admission.standing()) {
            Ok(()) => {
                let all = [Extent { len, state: 0 }];
                self.outbox.put(weight, None, |heads| block_status(heads, cookie, contexts, &all));
            }
            Err(error) => self.finish(Finished { cookie, at: request.at, weight, answer: Err(error) }),
        }
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { cookie, at, weight, answer } = finished;
        let structured = self.structured;
        match answer {
            Ok(Some(data)) => {
                let len = u32::try_from(data.len()).expect("a read is at most 32 MiB");
                self.outbox.put(weight, Some(data), |heads| push_read_head(heads, structured, cookie, at, len));
            }
            Ok(None) => self.outbox.put(weight, None, |heads| push_success(heads, cookie)),
            Err(error) => self.outbox.put(weight, None, |heads| {
                push_error(heads, structured, cookie, wire_error(error), &error.to_string());
            }),
        }
    }

    fn give_back(&mut self, sent: Weight) -> bool {
        self.in_flight.remove(sent);
        self.meter.in_flight.set(self.in_flight.requests);
        self.meter.answered.set(self.meter.answered.get() + u64::from(sent.requests + sent.beats));
        sent != Weight::default()
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        if !self.wants_bytes {
            if let Phase::Draining(_, until) = &mut self.phase {
                // Polled for its waker; `is_over` looks whether it has passed.
                let _ = until.as_mut().poll(cx);
            }
            return Ok(false);
        }
        match self.inbox.poll_receive(&mut self.stream, cx) {
            Poll::Ready(Ok(true)) => {
                if let Some(admission) = &self.admission {
                    admission.heard();
                }
                Ok(true)
            }
            Poll::Ready(Ok(false)) => {
                self.drain(Ended::Closed);
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(Ended::Lost(error)),
            Poll::Pending => Ok(false),
        }
    }

    fn is_over(&self) -> bool {
        let Phase::Draining(_, until) = &self.phase else { return false };
        until.is_elapsed() || (self.work.is_empty() && self.outbox.is_empty())
    }

    fn why(&mut self) -> Ended {
        match std::mem::replace(&mut self.phase, Phase::Open) {
            Phase::Draining(why, _) => why,
            Phase::Open | Phase::Lingering(_) => unreachable!("only a draining session is over"),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Session<S> {
    type Output = Ended;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            match self.turn(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(ended) => return Poll::Ready(ended),
            }
        }
    }
}
