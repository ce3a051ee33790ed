//! One NBD connection to the target, as a session of [`block::hold`].
//!
//! One task owns the stream: it sends what operations put into the outbox, receives answers straight into the reads'
//! buffers and asks for life. Invariant: when the connection ends, for whatever reason, every operation without an
//! answer ends with `Disconnected`, exactly once, and so does every later one.

use super::inbox::{Heard, Inbox};
use crate::stream::{Outbox, Weight};
use block::health::{Health, HealthTiming, Verdict};
use block::hold::Session;
use block::runtime::{Rt, Task};
use block::wait::WaitList;
use block::{BlockDevice, DeviceError, Durability, Geometry, IoBuf, IoData, IoFuture};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite};
use units::{ByteLen, ByteOffset, Moment};
use wire::nbd::constant::{
    CMD_DISC, CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES,
};
use wire::nbd::{NbdError, Pending, Ready, Request, TransmissionFlags, encode_request};

/// A range longer than this is trimmed or zeroed in pieces: the protocol's length field has 32 bits.
const RANGE_MAX_BYTES: u64 = 1 << 30;

/// An open connection.
pub struct Link(Rc<Shared>);

struct Shared {
    ready: Ready,
    geometry: Geometry,
    state: RefCell<State>,
    alive: Cell<bool>,
    lost: WaitList,
    reason: RefCell<String>,
}

struct State {
    next_cookie: u64,
    waiting: HashMap<u64, Waiting>,
    outbox: Outbox<IoData>,
    task: Option<Waker>,
}

/// An operation without an answer yet.
pub(super) struct Waiting {
    pub(super) pending: Pending,
    pub(super) buffer: Option<IoBuf>,
    /// When it was sent, if it is a probe.
    probed: Option<Moment>,
    answer: Rc<Answer>,
}

#[derive(Default)]
struct Answer {
    result: RefCell<Option<Result<Option<IoBuf>, DeviceError>>>,
    waker: RefCell<Option<Waker>>,
}

impl Link {
    /// Takes over a connection whose handshake is done; `received` came in behind it. When the target
    /// answers a probe, `heard` becomes the moment at which that was sent: an answer may be old when it comes.
    #[must_use]
    pub fn start<S>(
        rt: &Rt,
        stream: S,
        received: &[u8],
        ready: Ready,
        timing: HealthTiming,
        heard: Rc<Cell<Option<Moment>>>,
    ) -> Rc<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let geometry = geometry_of(&ready);
        let state = State { next_cookie: 1, waiting: HashMap::new(), outbox: Outbox::default(), task: None };
        let shared = Rc::new(Shared {
            ready,
            geometry,
            state: RefCell::new(state),
            alive: Cell::new(true),
            lost: WaitList::default(),
            reason: RefCell::default(),
        });
        let running = Running {
            inbox: Inbox::new(received, shared.ready.structured),
            shared: Rc::clone(&shared),
            stream,
            health: Health::new(timing, rt.now()),
            alarm: rt.sleep_until(rt.now() + timing.period),
            rt: Rc::clone(rt),
            heard,
        };
        rt.spawn(Box::pin(running));
        Rc::new(Self(shared))
    }

    fn submit(
        &self,
        command: u16,
        flags: u16,
        at: ByteOffset,
        len: u32,
        payload: Option<IoData>,
        buffer: Option<IoBuf>,
    ) -> Reply {
        let answer = Rc::new(Answer::default());
        if !self.0.alive.get() {
            answer.give(Err(DeviceError::Disconnected));
            return Reply(answer);
        }
        let mut state = self.0.state.borrow_mut();
        let request = Request { flags, command, cookie: state.next_cookie, at, len };
        state.next_cookie += 1;
        state.outbox.put(Weight::default(), payload, |heads| heads.extend_from_slice(&encode_request(&request)));
        let pending = Pending::new(request, &self.0.ready);
        state.waiting.insert(request.cookie, Waiting { pending, buffer, probed: None, answer: Rc::clone(&answer) });
        if let Some(task) = state.task.take() {
            task.wake();
        }
        Reply(answer)
    }

    /// One command without payload over a range of any length.
    fn over_range(&self, command: u16, flags: u16, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        if let Err(error) = self.0.geometry.check(at, len) {
            return IoFuture::ready(Err(error));
        }
        let link = Self(Rc::clone(&self.0));
        IoFuture::later(async move {
            let mut done = 0;
            while done < len.0 {
                let part = (len.0 - done).min(RANGE_MAX_BYTES);
                let part_len = u32::try_from(part).expect("bounded by RANGE_MAX_BYTES");
                link.submit(command, flags, at + ByteLen(done), part_len, None, None).await?;
                done += part;
            }
            Ok(())
        })
    }
}

fn geometry_of(ready: &Ready) -> Geometry {
    let export = &ready.export;
    Geometry {
        size: export.size,
        block_bytes: export.block.min.clamp(512, 4096),
        optimal_bytes: export.block.preferred,
        volatile_cache: export.flags.has(TransmissionFlags::SEND_FLUSH),
        discard: export.flags.has(TransmissionFlags::SEND_TRIM),
    }
}

impl Session for Link {
    fn lost(&self) -> Pin<Box<dyn Future<Output = String>>> {
        let shared = Rc::clone(&self.0);
        Box::pin(async move {
            if shared.alive.get() {
                shared.lost.wait().await;
            }
            shared.reason.borrow().clone()
        })
    }

    fn close(&self) {
        self.0.end("given up by this side");
    }
}

impl BlockDevice for Link {
    fn geometry(&self) -> Geometry {
        self.0.geometry
    }

    fn read(&self, at: ByteOffset, into: IoBuf) -> IoFuture<IoBuf> {
        let Ok(len) = u32::try_from(into.len()) else {
            return IoFuture::ready(Err(self.too_long(at, into.byte_len())));
        };
        let reply = self.submit(CMD_READ, 0, at, len, None, Some(into));
        IoFuture::later(async move { Ok(reply.await?.expect("a read is answered with its buffer")) })
    }

    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        let Ok(len) = u32::try_from(from.len()) else {
            return IoFuture::ready(Err(self.too_long(at, from.byte_len())));
        };
        let flags = if how == Durability::Fua { CMD_FLAG_FUA } else { 0 };
        let reply = self.submit(CMD_WRITE, flags, at, len, Some(from), None);
        IoFuture::later(async move { reply.await.map(drop) })
    }

    fn flush(&self) -> IoFuture<()> {
        if !self.0.geometry.volatile_cache {
            return IoFuture::ready(Ok(()));
        }
        let reply = self.submit(CMD_FLUSH, 0, ByteOffset(0), 0, None, None);
        IoFuture::later(async move { reply.await.map(drop) })
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        if !self.0.geometry.discard {
            return IoFuture::ready(self.0.geometry.check(at, len));
        }
        self.over_range(CMD_TRIM, 0, at, len)
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        let fua = if how == Durability::Fua { CMD_FLAG_FUA } else { 0 };
        let hole = if may_unmap { 0 } else { CMD_FLAG_NO_HOLE };
        self.over_range(CMD_WRITE_ZEROES, fua | hole, at, len)
    }
}

impl Link {
    fn too_long(&self, at: ByteOffset, len: ByteLen) -> DeviceError {
        DeviceError::OutOfRange { at, len, size: self.0.geometry.size }
    }
}

impl Shared {
    fn end(&self, reason: impl Into<String>) {
        if !self.alive.replace(false) {
            return;
        }
        *self.reason.borrow_mut() = reason.into();
        let mut state = self.state.borrow_mut();
        let unanswered = std::mem::take(&mut state.waiting);
        let task = state.task.take();
        drop(state);
        unanswered.into_values().for_each(|waiting| waiting.answer.give(Err(DeviceError::Disconnected)));
        self.lost.wake_all();
        if let Some(task) = task {
            task.wake();
        }
    }

    /// An answer of the target. ESHUTDOWN is not passed on: this connection serves nothing any more, and the next
    /// attach says whether the epoch is over.
    fn answered(&self, waiting: Waiting, result: Result<(), NbdError>) -> Result<(), String> {
        let result = match result {
            Ok(()) => Ok(waiting.buffer),
            Err(NbdError::Shutdown) => {
                waiting.answer.give(Err(DeviceError::Disconnected));
                return Err("the target ends this attachment".into());
            }
            Err(NbdError::Perm) => Err(DeviceError::ReadOnly),
            Err(error) => Err(DeviceError::Failed { errno: error.wire().try_into().expect("a small number") }),
        };
        waiting.answer.give(result);
        Ok(())
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

/// What an operation waits for.
struct Reply(Rc<Answer>);

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

/// The task that owns the stream.
struct Running<S> {
    shared: Rc<Shared>,
    stream: S,
    inbox: Inbox,
    health: Health,
    alarm: Task,
    rt: Rt,
    heard: Rc<Cell<Option<Moment>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Running<S> {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.shared.alive.get() {
            match this.turn(cx) {
                Ok(()) => {
                    this.shared.state.borrow_mut().task = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Err(reason) => this.shared.end(reason),
            }
        }
        this.say_goodbye(cx);
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Running<S> {
    /// Receives, sends and looks at the clock until nothing more can be done now.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        self.receive(cx)?;
        while self.alarm.as_mut().poll(cx).is_ready() {
            let next = match self.health.tick(self.rt.now()) {
                Verdict::Dead(silent) => return Err(format!("the target was silent for {silent}")),
                Verdict::Probe(next) => {
                    self.probe();
                    next
                }
                Verdict::Wait(next) => next,
            };
            self.alarm = self.rt.sleep_until(next);
        }
        let sent = self.shared.state.borrow_mut().outbox.poll_send(&mut self.stream, cx);
        sent.map(drop).map_err(|error| format!("sending to the target: {error}"))
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        loop {
            let received = self.inbox.poll_receive(&mut self.stream, cx);
            match received.map_err(|error| format!("receiving from the target: {error}"))? {
                Poll::Pending => return Ok(()),
                Poll::Ready(0) => return Err("the target closed the connection".into()),
                Poll::Ready(_) => self.health.heard(self.rt.now()),
            }
            loop {
                let mut state = self.shared.state.borrow_mut();
                match self
                    .inbox
                    .next(&mut state.waiting)
                    .map_err(|broken| format!("the target broke the protocol: {broken}"))?
                {
                    Heard::More => break,
                    Heard::Part => {}
                    Heard::Finished(cookie, result) => {
                        let waiting = state.waiting.remove(&cookie).expect("the inbox names requests that wait");
                        drop(state);
                        // A refusal does not count here: it may say that the epoch is over.
                        if result.is_ok() && waiting.probed.is_some() {
                            self.heard.set(self.heard.get().max(waiting.probed));
                        }
                        self.shared.answered(waiting, result)?;
                    }
                }
            }
        }
    }

    /// A read of one block whose answer nobody waits for: that anything comes is what counts.
    fn probe(&self) {
        let block = self.shared.geometry.block_bytes;
        let buffer = IoBuf::new(usize::try_from(block).expect("usize has 64 bits"));
        let (asked, cookie) = (self.rt.now(), self.shared.state.borrow().next_cookie);
        drop(Link(Rc::clone(&self.shared)).submit(CMD_READ, 0, ByteOffset(0), block, None, Some(buffer)));
        if let Some(waiting) = self.shared.state.borrow_mut().waiting.get_mut(&cookie) {
            waiting.probed = Some(asked);
        }
    }

    /// Lets the target know, if the stream takes it at once.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        let request = Request { flags: 0, command: CMD_DISC, cookie: 0, at: ByteOffset(0), len: 0 };
        let mut last = Outbox::<IoData>::default();
        last.put(Weight::default(), None, |heads| heads.extend_from_slice(&encode_request(&request)));
        let clean = self.shared.state.borrow().outbox.is_empty();
        if clean {
            let _ = last.poll_send(&mut self.stream, cx);
        }
    }
}
