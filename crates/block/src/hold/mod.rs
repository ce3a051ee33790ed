//! A guest's disk that outlives its sessions: no path means the guest waits, and what a target forgot with its power
//! is written again before the guest goes on. Reasons and the bound: docs/rfd/0006-initiator.md.
//!
//! Invariant: what the guest was answered stays true over any number of lost sessions, target restarts and power cuts
//! of the target, as long as this process lives. It does *not* know what a session is made of, nor where the target is:
//! a [`Connector`] is handed in.
//!
//! ```text
//!             connected, log written again
//!  waiting ─────────────────────────────────▶ up
//!   │  ▲ ◀──────────── session lost ───────────┘
//!   │  │ bound passed: operations are answered HoldExpired until it is up
//!   └──┴─ the gate says that the epoch is over ──▶ fenced (for good)
//! ```

mod log;
mod ranges;
#[cfg(test)]
mod test;

pub use log::{Content, Mark, UnflushedLog};

use crate::device::{BlockDevice, DeviceError, Durability, Geometry, IoFuture};
use crate::runtime::{Rt, run_to_end, sleep};
use crate::wait::WaitList;
use crate::{IoBuf, IoData};
use futures_util::future::{select, try_join_all};
use ranges::{Ranges, WriteTurn};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use units::sabotage::{Bug, planted};
use units::{ByteLen, ByteOffset, Epoch, Millis, Moment};

/// One connection to the target. When it is lost, every operation on it ends with [`DeviceError::Disconnected`].
pub trait Session: BlockDevice {
    /// Ends when the session is lost, with the reason for people.
    fn lost(&self) -> Pin<Box<dyn Future<Output = String>>>;
    /// Gives the session up: it is lost from now on.
    fn close(&self);
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The gate says that this epoch is over. Final.
    Fenced {
        /// What we hold.
        held: Epoch,
        /// What the volume is at.
        current: Epoch,
    },
    /// Anything else: tried again; the reason is for people.
    Later(String),
}

/// What a connector returns.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Rc<dyn Session>, ConnectError>>>>;

/// The way to the target. Each session it opens after the first carries a new incarnation, so that the target has
/// ended all operations of the older ones before it lets this one in.
pub trait Connector {
    /// Opens the next session; bounded in time by itself.
    fn connect(&self) -> Connecting;
}

/// The bounds of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldOptions {
    /// How long operations wait without a session before they are answered an error.
    pub bound: Millis,
    /// First pause between two attempts to connect.
    pub retry_first: Millis,
    /// Longest pause between two attempts.
    pub retry_most: Millis,
    /// Memory for the un-flushed log; at half of it a flush is made on our own account.
    pub log_bytes: u64,
}

impl Default for HoldOptions {
    /// 600 s: longer than a switch reboot and than a storage box's. 100 ms to 2 s between attempts: a target is
    /// found within 2 s of its return. 64 MiB: a second of Gigabit Ethernet, flushed every half.
    fn default() -> Self {
        Self { bound: Millis(600_000), retry_first: Millis(100), retry_most: Millis(2_000), log_bytes: 64 << 20 }
    }
}

/// What people see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldStatus {
    /// Where it stands.
    pub state: HoldState,
    /// Sessions opened so far.
    pub sessions: u64,
    /// Bytes answered and not yet durable.
    pub unflushed_bytes: u64,
    /// Ranges written again after reconnects, in total.
    pub rewritten: u64,
    /// Why there is no session, as far as that is known; empty while there is one.
    pub reason: String,
}

/// See the picture in the module's doc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldState {
    /// No session since this moment.
    Waiting(Moment),
    /// Served by a session.
    Up,
    /// The epoch is over.
    Fenced {
        /// What we hold.
        held: Epoch,
        /// What the volume is at.
        current: Epoch,
    },
}

/// A held volume; clone the handle freely. It keeps connected until its runtime ends.
#[derive(Clone)]
pub struct Hold(Rc<Held>);

struct Held {
    rt: Rt,
    options: HoldOptions,
    connector: Box<dyn Connector>,
    geometry: Cell<Geometry>,
    session: RefCell<Option<Rc<dyn Session>>>,
    state: RefCell<HoldState>,
    changed: WaitList,
    log: RefCell<UnflushedLog>,
    log_shrunk: WaitList,
    flushing: Cell<bool>,
    ranges: Rc<Ranges>,
    sessions: Cell<u64>,
    rewritten: Cell<u64>,
    reason: RefCell<String>,
}

/// Ranges written again at the same time after a reconnect.
const REWRITE_WINDOW: usize = 16;

impl Hold {
    /// Connects for the first time, once: who opens it decides how often to try. From then on it keeps connected.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn open(rt: &Rt, options: HoldOptions, connector: Box<dyn Connector>) -> Result<Self, ConnectError> {
        let first = first_session(&*connector).await?;
        let held = Rc::new(Held {
            rt: Rc::clone(rt),
            options,
            connector,
            geometry: Cell::new(first.geometry()),
            session: RefCell::new(Some(Rc::clone(&first))),
            state: RefCell::new(HoldState::Up),
            changed: WaitList::default(),
            log: RefCell::default(),
            log_shrunk: WaitList::default(),
            flushing: Cell::new(false),
            ranges: Rc::default(),
            sessions: Cell::new(1),
            rewritten: Cell::new(0),
            reason: RefCell::default(),
        });
        let weak = Rc::downgrade(&held);
        let lost = first.lost();
        rt.spawn(Box::pin(async move {
            let mut reason = lost.await;
            while let Some(held) = weak.upgrade() {
                let Some(session) = held.reconnect(reason).await else { return };
                let lost = session.lost();
                drop((held, session));
                reason = lost.await;
            }
        }));
        Ok(Self(held))
    }

    /// For people and for the node.
    #[must_use]
    pub fn status(&self) -> HoldStatus {
        HoldStatus {
            state: self.0.state.borrow().clone(),
            sessions: self.0.sessions.get(),
            unflushed_bytes: self.0.log.borrow().data_bytes(),
            rewritten: self.0.rewritten.get(),
            reason: self.0.reason.borrow().clone(),
        }
    }

    /// Ends when the state is no longer what it was at the call.
    pub fn changed(&self) -> crate::wait::Wait {
        self.0.changed.wait()
    }
}

/// Connects and flushes: an earlier life of this process may have been told of writes that are not durable yet, and its
/// un-flushed log went with it. What the target still has becomes durable before anybody goes on.
async fn first_session(connector: &dyn Connector) -> Result<Rc<dyn Session>, ConnectError> {
    let session = connector.connect().await?;
    match session.flush().await {
        Ok(()) | Err(DeviceError::ReadOnly) => Ok(session),
        Err(error) => {
            session.close();
            Err(ConnectError::Later(format!("the first flush: {error}")))
        }
    }
}

impl Held {
    fn set_state(&self, state: HoldState) {
        *self.state.borrow_mut() = state;
        self.changed.wake_all();
    }

    fn say(&self, reason: impl Into<String>) {
        *self.reason.borrow_mut() = reason.into();
    }

    /// From a lost session to the next one; `None` when there will be none.
    async fn reconnect(self: &Rc<Self>, lost_because: String) -> Option<Rc<dyn Session>> {
        self.session.replace(None);
        self.say(lost_because);
        self.set_state(HoldState::Waiting(self.rt.now()));
        let mut pause = self.options.retry_first;
        loop {
            match self.next_session().await {
                Ok(session) => {
                    self.sessions.set(self.sessions.get() + 1);
                    self.session.replace(Some(Rc::clone(&session)));
                    self.say("");
                    self.set_state(HoldState::Up);
                    return Some(session);
                }
                Err(ConnectError::Fenced { held, current }) => {
                    self.say(format!("fenced: {}", DeviceError::Fenced { held, current }));
                    self.set_state(HoldState::Fenced { held, current });
                    return None;
                }
                Err(ConnectError::Later(reason)) => self.say(reason),
            }
            sleep(&self.rt, pause).await;
            pause = Millis(pause.0 * 2).min(self.options.retry_most);
        }
    }

    /// Connects and makes the target hold again what the guest was answered.
    async fn next_session(&self) -> Result<Rc<dyn Session>, ConnectError> {
        let session = self.connector.connect().await?;
        let (was, is) = (self.geometry.get(), session.geometry());
        if is.size < was.size || is.block_bytes != was.block_bytes {
            session.close();
            let text = format!(
                "the volume came back as {} in blocks of {}, it was {} in blocks of {}: not served",
                is.size, is.block_bytes, was.size, was.block_bytes
            );
            return Err(ConnectError::Later(text));
        }
        if let Err(error) = self.rewrite(&*session).await {
            session.close();
            return Err(match error {
                DeviceError::Fenced { held, current } => ConnectError::Fenced { held, current },
                error => ConnectError::Later(format!("writing the un-flushed data again: {error}")),
            });
        }
        self.geometry.set(is);
        Ok(session)
    }

    /// Entries do not overlap, so their order is free.
    async fn rewrite(&self, session: &dyn Session) -> Result<(), DeviceError> {
        let contents = if planted(Bug::LogNotRewritten) { Vec::new() } else { self.log.borrow().contents() };
        for window in contents.chunks(REWRITE_WINDOW) {
            let writes = window.iter().map(|(at, content)| match content {
                Content::Data(data) => session.write(*at, data.clone(), Durability::Cached),
                Content::Zeroes(len) => session.write_zeroes(*at, ByteLen(*len), Durability::Cached, true),
            });
            try_join_all(writes).await?;
            self.rewritten.set(self.rewritten.get() + window.len() as u64);
        }
        Ok(())
    }

    /// The session to use now; waits for one within the bound.
    async fn session(&self) -> Result<Rc<dyn Session>, DeviceError> {
        loop {
            if let Some(session) = &*self.session.borrow() {
                return Ok(Rc::clone(session));
            }
            let changed = self.changed.wait();
            let since = match &*self.state.borrow() {
                HoldState::Fenced { held, current } => {
                    return Err(DeviceError::Fenced { held: *held, current: *current });
                }
                HoldState::Waiting(since) => *since,
                HoldState::Up => unreachable!("up means that there is a session"),
            };
            if self.rt.now().since(since) >= self.options.bound {
                return Err(DeviceError::HoldExpired { held: self.options.bound });
            }
            select(changed, self.rt.sleep_until(since + self.options.bound)).await;
        }
    }

    /// Does a change on session after session until a target answers it or the hold ends.
    async fn until_answered(
        &self,
        turn: Option<&WriteTurn>,
        operation: impl Fn(&dyn Session) -> IoFuture<()>,
    ) -> Result<(), DeviceError> {
        loop {
            let session = self.session().await?;
            match operation(&*session).await {
                Err(DeviceError::Disconnected) => {
                    if let Some(turn) = turn {
                        turn.doubt();
                    }
                    self.left(&session);
                }
                // What was answered on a session that has been replaced since was not in the log when the target was
                // made to hold it again: the target may have forgotten it, so it is done once more.
                Ok(()) if turn.is_some() && !self.is_current(&session) => {
                    turn.into_iter().for_each(WriteTurn::doubt);
                }
                answer => return answer,
            }
        }
    }

    fn is_current(&self, session: &Rc<dyn Session>) -> bool {
        self.session.borrow().as_ref().is_some_and(|current| Rc::ptr_eq(current, session))
    }

    /// An operation heard of the loss before the task that waits for it did.
    fn left(&self, session: &Rc<dyn Session>) {
        let mut current = self.session.borrow_mut();
        if current.as_ref().is_some_and(|current| Rc::ptr_eq(current, session)) {
            *current = None;
            drop(current);
            self.set_state(HoldState::Waiting(self.rt.now()));
        }
    }

    /// Waits, before each try, for writes in doubt: another read may have seen them already.
    async fn read(self: Rc<Self>, at: ByteOffset, into: IoBuf) -> Result<IoBuf, DeviceError> {
        let len = into.len();
        let mut buffer = Some(into);
        loop {
            let session = self.session().await?;
            if self.ranges.in_doubt(at, ByteLen(len as u64)) {
                self.ranges.settled(at, ByteLen(len as u64)).await;
                continue;
            }
            match session.read(at, buffer.take().unwrap_or_else(|| IoBuf::new(len))).await {
                Err(DeviceError::Disconnected) => self.left(&session),
                answer => return answer,
            }
        }
    }

    async fn write(
        self: Rc<Self>,
        at: ByteOffset,
        content: Content,
        how: Durability,
        may_unmap: bool,
    ) -> Result<(), DeviceError> {
        let len = ByteLen(content.len());
        // Its place in the order first: also those that wait for room go in the order in which they came.
        let turn = Rc::clone(&self.ranges).turn(at, len).await;
        self.room_in_log().await?;
        self.until_answered(Some(&turn), |session| match &content {
            Content::Data(data) => session.write(at, data.clone(), how),
            Content::Zeroes(len) => session.write_zeroes(at, ByteLen(*len), how, may_unmap),
        })
        .await?;
        let mut log = self.log.borrow_mut();
        if how == Durability::Fua || !self.geometry.get().volatile_cache {
            log.forget(at, len);
        } else {
            log.answered(at, content);
        }
        let half_full = log.memory() > self.options.log_bytes / 2;
        drop(log);
        if half_full {
            self.flush_aside();
        }
        Ok(())
    }

    async fn discard(self: Rc<Self>, at: ByteOffset, len: ByteLen) -> Result<(), DeviceError> {
        let turn = Rc::clone(&self.ranges).turn(at, len).await;
        self.until_answered(Some(&turn), |session| session.discard(at, len)).await?;
        if !planted(Bug::LogKeptOverDiscard) {
            self.log.borrow_mut().forget(at, len);
        }
        Ok(())
    }

    async fn flush(self: Rc<Self>) -> Result<(), DeviceError> {
        let mark = Cell::new(self.log.borrow().mark());
        self.until_answered(None, |session| {
            mark.set(self.log.borrow().mark());
            session.flush()
        })
        .await?;
        self.log.borrow_mut().flushed(mark.get());
        self.log_shrunk.wake_all();
        Ok(())
    }

    /// Back-pressure: at the log's bound a write waits for a flush, its own or another's.
    async fn room_in_log(self: &Rc<Self>) -> Result<(), DeviceError> {
        while self.log.borrow().memory() >= self.options.log_bytes {
            if self.flushing.get() {
                self.log_shrunk.wait().await;
            } else {
                self.own_flush().await?;
            }
        }
        Ok(())
    }

    fn flush_aside(self: &Rc<Self>) {
        if self.flushing.get() {
            return;
        }
        let held = Rc::clone(self);
        self.rt.spawn(Box::pin(async move {
            if let Err(error) = held.own_flush().await {
                held.say(format!("a flush on our own account: {error}"));
            }
        }));
    }

    async fn own_flush(self: &Rc<Self>) -> Result<(), DeviceError> {
        self.flushing.set(true);
        let result = Rc::clone(self).flush().await;
        self.flushing.set(false);
        self.log_shrunk.wake_all();
        result
    }
}

impl Hold {
    fn work<T, F>(&self, work: impl FnOnce(Rc<Held>) -> F) -> IoFuture<T>
    where
        T: Unpin + 'static,
        F: Future<Output = Result<T, DeviceError>> + 'static,
    {
        run_to_end(&self.0.rt, work(Rc::clone(&self.0)))
    }
}

impl BlockDevice for Hold {
    fn geometry(&self) -> Geometry {
        self.0.geometry.get()
    }

    fn read(&self, at: ByteOffset, into: IoBuf) -> IoFuture<IoBuf> {
        self.work(|held| held.read(at, into))
    }

    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        self.work(|held| held.write(at, Content::Data(from), how, false))
    }

    fn flush(&self) -> IoFuture<()> {
        self.work(Held::flush)
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.work(|held| held.discard(at, len))
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        self.work(|held| held.write(at, Content::Zeroes(len.0), how, may_unmap))
    }
}
