//! One session's disk: every operation passes the gate; what passed runs to its end whatever becomes of the session.

use super::Attachment;
use super::sessions::{Door, Kind, Ticket};
use super::volume::{Answer, Inner};
use crate::device::{BlockDevice, DeviceError, Disk, Durability, Geometry, IoFuture};
use crate::{IoBuf, IoData};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use units::sabotage::{Bug, planted};
use units::{ByteLen, ByteOffset};

/// An admitted session. Dropping it detaches.
pub struct Session {
    volume: Rc<Inner>,
    door: Door,
    attachment: Attachment,
    notice: Rc<Answer<()>>,
}

impl Session {
    pub(super) fn new(volume: Rc<Inner>, door: Door, attachment: Attachment, notice: Rc<Answer<()>>) -> Self {
        Self { volume, door, attachment, notice }
    }

    /// What it was admitted as; for a stock client, what the gate assigned.
    #[must_use]
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Whether the gate wants this connection closed.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.notice.is_said()
    }

    /// Waits until the gate wants this connection closed: the session is never served again.
    pub fn revoked(&self) -> impl Future<Output = ()> + use<> {
        let notice = Rc::clone(&self.notice);
        async move { notice.heard().await }
    }

    /// The client has sent something; to be called whenever it has. Silence of a stock client is judged by this.
    pub fn heard(&self) {
        self.volume.heard(self.door);
    }

    /// Whether it may still read, asked without a read.
    ///
    /// # Errors
    /// What a read would be answered.
    pub fn standing(&self) -> Result<(), DeviceError> {
        self.volume.standing(self.door)
    }

    /// As the disk that a protocol serves.
    #[must_use]
    pub fn disk(self: &Rc<Self>) -> Disk {
        Rc::<Self>::clone(self)
    }

    fn pass<T: Unpin + 'static>(&self, kind: Kind, work: impl FnOnce(&Disk) -> IoFuture<T> + 'static) -> IoFuture<T> {
        let ticket = match self.volume.admit(self.door, kind) {
            Ok(ticket) => ticket,
            Err(DeviceError::Fenced { .. }) if planted(Bug::RequeueNewEpoch) && kind == Kind::Write => {
                let volume = Rc::clone(&self.volume);
                return IoFuture::later(async move {
                    volume.until_serving().await;
                    work(&volume.parts.disk).await
                });
            }
            Err(refused) => return IoFuture::ready(Err(refused)),
        };
        match work(&self.volume.parts.disk).try_now() {
            Ok(answer) => {
                self.volume.ended(ticket);
                IoFuture::ready(answer)
            }
            Err(work) => {
                let volume = Rc::clone(&self.volume);
                IoFuture::later(Passage { volume, below: Some((work, ticket)) })
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.volume.detach(self.door.session());
    }
}

impl BlockDevice for Session {
    fn geometry(&self) -> Geometry {
        self.volume.parts.disk.geometry()
    }

    fn read(&self, at: ByteOffset, into: IoBuf) -> IoFuture<IoBuf> {
        self.pass(Kind::Read, move |disk| disk.read(at, into))
    }

    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        self.pass(Kind::Write, move |disk| disk.write(at, from, how))
    }

    fn flush(&self) -> IoFuture<()> {
        self.pass(Kind::Read, |disk| disk.flush())
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.pass(Kind::Write, move |disk| disk.discard(at, len))
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        self.pass(Kind::Write, move |disk| disk.write_zeroes(at, len, how, may_unmap))
    }
}

/// An operation below the gate. Unlike [`crate::runtime::run_to_end`] it goes on even if it was never polled: it was
/// admitted, so the disk below may have begun, and only its real end may end the ticket.
struct Passage<T: Unpin + 'static> {
    volume: Rc<Inner>,
    below: Option<(IoFuture<T>, Ticket)>,
}

impl<T: Unpin + 'static> Future for Passage<T> {
    type Output = Result<T, DeviceError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (work, _) = self.below.as_mut().expect("polled again after it was ready");
        let answer = ready!(Pin::new(work).poll(cx));
        let (_, ticket) = self.below.take().expect("it was there a line above");
        self.volume.ended(ticket);
        Poll::Ready(answer)
    }
}

impl<T: Unpin + 'static> Drop for Passage<T> {
    fn drop(&mut self) {
        if let Some((work, ticket)) = self.below.take() {
            let volume = Rc::clone(&self.volume);
            self.volume.parts.rt.spawn(Box::pin(async move {
                let _ = work.await;
                volume.ended(ticket);
            }));
        }
    }
}
