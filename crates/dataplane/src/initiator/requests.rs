//! What was asked over one connection and is not answered: what waits for a place at the target, what is on its way, and
//! who waits for the answer.
//!
//! Invariants: no more is sent than the target takes at once ([`Weight::has_room`]), so it always reads on; and at most
//! [`AHEAD_BYTES`] and one request are given to the stream before a probe that is asked now. So a probe is behind neither a
//! full window nor a long queue. Every request is answered exactly once.

use crate::stream::{Outbox, Weight, Wire};
use block::{DeviceError, IoBuf, IoData};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use units::Moment;
use wire::nbd::constant::CMD_READ;
use wire::nbd::{Pending, Ready, Request, encode_request};

/// What is given to the stream at a time: enough that a gathered send is full, little enough that a probe is soon sent.
const AHEAD_BYTES: usize = 512 << 10;

/// All requests of one connection.
pub(super) struct Requests {
    next_cookie: u64,
    pub(super) waiting: HashMap<u64, Waiting>,
    /// Not given to the stream yet.
    queue: VecDeque<Queued>,
    outbox: Outbox<IoData>,
    /// Given to the stream and not answered.
    in_flight: Weight,
}

struct Queued {
    request: Request,
    payload: Option<IoData>,
    weight: Weight,
}

/// An operation without an answer yet.
pub(super) struct Waiting {
    pub(super) pending: Pending,
    pub(super) buffer: Option<IoBuf>,
    /// When it was asked, if it is a probe.
    pub(super) probed: Option<Moment>,
    weight: Weight,
    answer: Rc<Answer>,
}

#[derive(Default)]
pub(super) struct Answer {
    result: RefCell<Option<Result<Option<IoBuf>, DeviceError>>>,
    waker: RefCell<Option<Waker>>,
}

/// What an operation waits for.
pub(super) struct Reply(Rc<Answer>);

impl Requests {
    pub fn new() -> Self {
        Self {
            next_cookie: 1,
            waiting: HashMap::new(),
            queue: VecDeque::new(),
            outbox: Outbox::default(),
            in_flight: Weight::default(),
        }
    }

    /// Queues a request; its cookie is filled in.
    pub fn submit(
        &mut self,
        mut request: Request,
        ready: &Ready,
        payload: Option<IoData>,
        buffer: Option<IoBuf>,
    ) -> Reply {
        let bytes = if payload.is_some() || request.command == CMD_READ { request.len } else { 0 };
        let weight = Weight::of(u64::from(bytes));
        let reply = self.expect(&mut request, ready, buffer, weight, None);
        self.queue.push_back(Queued { request, payload, weight });
        reply
    }

    /// Sends a probe before all that waits. Nobody waits for its answer.
    pub fn probe(&mut self, mut request: Request, ready: &Ready, buffer: Option<IoBuf>, asked: Moment) {
        drop(self.expect(&mut request, ready, buffer, Weight::default(), Some(asked)));
        self.outbox.put(Weight::default(), None, |heads| heads.extend_from_slice(&encode_request(&request)));
    }

    fn expect(
        &mut self,
        request: &mut Request,
        ready: &Ready,
        buffer: Option<IoBuf>,
        weight: Weight,
        probed: Option<Moment>,
    ) -> Reply {
        request.cookie = self.next_cookie;
        self.next_cookie += 1;
        let (pending, answer) = (Pending::new(*request, ready), Rc::new(Answer::default()));
        let waiting = Waiting { pending, buffer, probed, weight, answer: Rc::clone(&answer) };
        self.waiting.insert(request.cookie, waiting);
        Reply(answer)
    }

    /// An answer is complete.
    pub fn finish(&mut self, cookie: u64) -> Waiting {
        let waiting = self.waiting.remove(&cookie).expect("the inbox names requests that wait");
        self.in_flight.remove(waiting.weight);
        waiting
    }

    /// Sends what has a place at the target, until the stream takes no more.
    ///
    /// # Errors
    /// The stream's.
    pub fn poll_send<S: Wire>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            self.fill();
            self.outbox.poll_send(stream, cx)?;
            let more = self.queue.front().is_some_and(|next| self.in_flight.has_room(next.weight.bytes));
            if !more || !self.outbox.is_empty() {
                return Ok(());
            }
        }
    }

    fn fill(&mut self) {
        while self.outbox.unsent_bytes() < AHEAD_BYTES {
            let place = |next: &mut Queued| self.in_flight.has_room(next.weight.bytes);
            let Some(Queued { request, payload, weight }) = self.queue.pop_front_if(place) else { return };
            self.in_flight.add(weight);
            self.outbox.put(Weight::default(), payload, |heads| heads.extend_from_slice(&encode_request(&request)));
        }
    }

    /// Whether the stream has taken all it was given.
    pub fn outbox_is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Everybody who waits; nothing more is sent.
    pub fn give_up(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        self.queue.clear();
        std::mem::take(&mut self.waiting).into_values()
    }
}

impl Waiting {
    /// Tells who asked.
    pub fn answer(self, result: Result<(), DeviceError>) {
        self.answer.give(result.map(|()| self.buffer));
    }
}

impl Reply {
    /// An answer without a request.
    pub fn now(result: DeviceError) -> Self {
        let answer = Rc::new(Answer::default());
        answer.give(Err(result));
        Self(answer)
    }
}

impl Answer {
    fn give(&self, result: Result<Option<IoBuf>, DeviceError>) {
        let before = self.result.borrow_mut().replace(result);
        assert!(before.is_none(), "an operation is answered once");
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Future for Reply {
    type Output = Result<Option<IoBuf>, DeviceError>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.0.result.borrow_mut().take() {
            return Poll::Ready(result);
        }
        *self.0.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}
