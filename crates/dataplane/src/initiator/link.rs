//! One NBD connection to the target, as a session of [`block::hold`].
//!
//! One task owns the stream: it sends what operations put into the outbox, receives answers straight into the reads'
//! buffers and asks for life. Invariant: when the connection ends, for whatever reason, every operation without an
//! answer ends with `Disconnected`, exactly once, and so does every later one.

use super::inbox::{Heard, Inbox};
use super::requests::{Reply, Requests, Waiting};
use crate::stream::{Outbox, Weight, Wire};
use block::health::{Health, HealthTiming, Verdict};
use block::hold::Session;
use block::runtime::{Rt, Task};
use block::wait::WaitList;
use block::{BlockDevice, DeviceError, Durability, Geometry, IoBuf, IoData, IoFuture};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use units::{ByteLen, ByteOffset, Moment};
use wire::nbd::constant::{
    CMD_BLOCK_STATUS, CMD_DISC, CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLAG_REQ_ONE, CMD_FLUSH, CMD_READ, CMD_TRIM,
    CMD_WRITE, CMD_WRITE_ZEROES,
};
use wire::nbd::{NbdError, Ready, Request, TransmissionFlags, encode_request};

/// A range longer than this is trimmed or zeroed in pieces: the protocol's length field has 32 bits.
const RANGE_MAX_BYTES: u64 = 1 << 30;
/// A write longer than this is sent in pieces: between two of them a probe has its turn, however slow the wire.
const WRITE_PIECE_BYTES: u32 = 1 << 20;

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
    requests: Requests,
    task: Option<Waker>,
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
        S: Wire + 'static,
    {
        let geometry = geometry_of(&ready);
        let state = State { requests: Requests::new(), task: None };
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
            acknowledged: stream.acknowledged().map_or(0, |acknowledged| acknowledged.bytes),
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
        if !self.0.alive.get() {
            return Reply::now(DeviceError::Disconnected);
        }
        let mut state = self.0.state.borrow_mut();
        let request = Request { flags, command, cookie: 0, at, len };
        let reply = state.requests.submit(request, &self.0.ready, payload, buffer);
        if let Some(task) = state.task.take() {
            task.wake();
        }
        reply
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

fn in_memory(len: u32) -> usize {
    usize::try_from(len).expect("usize has 64 bits")
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
        let most = WRITE_PIECE_BYTES.min(self.0.ready.export.block.max);
        if len <= most {
            let reply = self.submit(CMD_WRITE, flags, at, len, Some(from), None);
            return IoFuture::later(async move { reply.await.map(drop) });
        }
        let replies: Vec<Reply> = (0..len)
            .step_by(in_memory(most))
            .map(|start| {
                let part = most.min(len - start);
                let data = from.slice(in_memory(start), in_memory(part));
                self.submit(CMD_WRITE, flags, at + ByteLen(u64::from(start)), part, Some(data), None)
            })
            .collect();
        IoFuture::later(async move {
            // All of them are waited for: what is still under way when this is answered could overtake what comes next.
            let mut all = Ok(());
            for reply in replies {
                all = all.and(reply.await.map(drop));
            }
            all
        })
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
    /// Whether the target answers our heartbeat.
    fn knows_heartbeat(&self) -> bool {
        self.ready.context.is_some()
    }

    fn end(&self, reason: impl Into<String>) {
        if !self.alive.replace(false) {
            return;
        }
        *self.reason.borrow_mut() = reason.into();
        let mut state = self.state.borrow_mut();
        let unanswered = state.requests.give_up();
        let task = state.task.take();
        drop(state);
        unanswered.for_each(|waiting| waiting.answer(Err(DeviceError::Disconnected)));
        self.lost.wake_all();
        if let Some(task) = task {
            task.wake();
        }
    }

    /// An answer of the target. ESHUTDOWN is not passed on: this connection serves nothing any more, and the next
    /// attach says whether the epoch is over.
    fn answered(waiting: Waiting, result: Result<(), NbdError>) -> Result<(), String> {
        let result = match result {
            Ok(()) => Ok(()),
            Err(NbdError::Shutdown) => {
                waiting.answer(Err(DeviceError::Disconnected));
                return Err("the target ends this attachment".into());
            }
            Err(NbdError::Perm) => Err(DeviceError::ReadOnly),
            Err(error) => Err(DeviceError::Failed { errno: error.wire().try_into().expect("a small number") }),
        };
        waiting.answer(result);
        Ok(())
    }
}

/// The task that owns the stream.
struct Running<S> {
    shared: Rc<Shared>,
    stream: S,
    inbox: Inbox,
    health: Health,
    /// Bytes that the target's machine had acknowledged at the last look.
    acknowledged: u64,
    alarm: Task,
    rt: Rt,
    heard: Rc<Cell<Option<Moment>>>,
}

impl<S: Wire> Future for Running<S> {
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

impl<S: Wire> Running<S> {
    /// Receives, sends and looks at the clock until nothing more can be done now.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        self.receive(cx)?;
        while self.alarm.as_mut().poll(cx).is_ready() {
            self.look_at_acknowledged();
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
        let sent = self.shared.state.borrow_mut().requests.poll_send(&mut self.stream, cx);
        sent.map_err(|error| format!("sending to the target: {error}"))
    }

    /// Bytes that arrive at the target's machine are life while more of ours is under way: a probe may be behind it. A
    /// target that knows our heartbeat answers it as soon as it has it. Another one may have to read its media for that:
    /// there it is life that its machine takes the probes.
    fn look_at_acknowledged(&mut self) {
        let Some(now) = self.stream.acknowledged() else { return };
        let more = now.bytes > std::mem::replace(&mut self.acknowledged, now.bytes);
        let on_its_way = !now.all || !self.shared.state.borrow().requests.outbox_is_empty();
        if more && (on_its_way || !self.shared.knows_heartbeat()) {
            self.health.acknowledged(self.rt.now());
        }
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
                    .next(&mut state.requests.waiting)
                    .map_err(|broken| format!("the target broke the protocol: {broken}"))?
                {
                    Heard::More => break,
                    Heard::Part => {}
                    Heard::Finished(cookie, result) => {
                        let waiting = state.requests.finish(cookie);
                        drop(state);
                        // A refusal does not count here: it may say that the epoch is over.
                        if result.is_ok() && waiting.probed.is_some() {
                            self.heard.set(self.heard.get().max(waiting.probed));
                        }
                        Shared::answered(waiting, result)?;
                    }
                }
            }
        }
    }

    /// That anything comes back is what counts. The heartbeat is answered by the target's gate, from memory; a target that
    /// does not know it is asked for one block.
    fn probe(&self) {
        let (shared, len) = (&self.shared, self.shared.geometry.block_bytes);
        let (command, flags, buffer) = if shared.knows_heartbeat() {
            (CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, None)
        } else {
            (CMD_READ, 0, Some(IoBuf::new(in_memory(len))))
        };
        let request = Request { flags, command, cookie: 0, at: ByteOffset(0), len };
        shared.state.borrow_mut().requests.probe(request, &shared.ready, buffer, self.rt.now());
    }

    /// Lets the target know, if the stream takes it at once.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        let request = Request { flags: 0, command: CMD_DISC, cookie: 0, at: ByteOffset(0), len: 0 };
        let mut last = Outbox::<IoData>::default();
        last.put(Weight::default(), None, |heads| heads.extend_from_slice(&encode_request(&request)));
        let clean = self.shared.state.borrow().requests.outbox_is_empty();
        if clean {
            let _ = last.poll_send(&mut self.stream, cx);
        }
    }
}
