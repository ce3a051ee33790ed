//! What the target sends: heads are cut off the receive buffer, the data of a read goes to the read's own buffer,
//! large data without passing through the receive buffer.
//!
//! Invariant: at most [`BUFFER_BYTES`] are held besides the buffers of operations that wait; what a head may say is
//! judged by [`wire::nbd::Pending`] before a byte of it is believed.

use super::requests::Waiting;
use block::IoBuf;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use wire::nbd::{Follows, NbdError, WireError, decode_reply};

/// What one receive can take.
const BUFFER_BYTES: usize = 128 << 10;

/// The receiving half.
pub(super) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    structured: bool,
    owed: Owed,
}

/// What the stream owes before the next head.
enum Owed {
    Nothing,
    /// Data of a read; its buffer is here meanwhile.
    Data {
        cookie: u64,
        buffer: IoBuf,
        place: usize,
        left: usize,
        then: Option<Result<(), NbdError>>,
    },
    /// Words nobody reads.
    Skip {
        cookie: u64,
        left: usize,
        then: Option<Result<(), NbdError>>,
    },
}

/// What was heard.
#[derive(Debug)]
pub(super) enum Heard {
    /// More has to be received first.
    More,
    /// Something, but no operation ended by it.
    Part,
    /// This operation is answered.
    Finished(u64, Result<(), NbdError>),
}

impl Inbox {
    /// An inbox that begins with bytes received behind the handshake.
    pub fn new(received: &[u8], structured: bool) -> Self {
        let mut buffer = vec![0; BUFFER_BYTES.max(received.len())];
        buffer[..received.len()].copy_from_slice(received);
        Self { buffer, start: 0, end: received.len(), structured, owed: Owed::Nothing }
    }

    /// Makes what it can of what was received.
    ///
    /// # Errors
    /// The target broke the protocol; the stream is lost.
    pub fn next(&mut self, waiting: &mut HashMap<u64, Waiting>) -> Result<Heard, WireError> {
        match std::mem::replace(&mut self.owed, Owed::Nothing) {
            Owed::Nothing => self.head(waiting),
            Owed::Data { cookie, mut buffer, mut place, mut left, then } => {
                let part = left.min(self.end - self.start);
                buffer[place..place + part].copy_from_slice(&self.buffer[self.start..self.start + part]);
                self.start += part;
                (place, left) = (place + part, left - part);
                if left > 0 {
                    self.owed = Owed::Data { cookie, buffer, place, left, then };
                    return Ok(Heard::More);
                }
                waiting.get_mut(&cookie).expect("it waits until it is finished").buffer = Some(buffer);
                Ok(finished(cookie, then))
            }
            Owed::Skip { cookie, mut left, then } => {
                let part = left.min(self.end - self.start);
                self.start += part;
                left -= part;
                if left > 0 {
                    self.owed = Owed::Skip { cookie, left, then };
                    return Ok(Heard::More);
                }
                Ok(finished(cookie, then))
            }
        }
    }

    fn head(&mut self, waiting: &mut HashMap<u64, Waiting>) -> Result<Heard, WireError> {
        let mut rest = &self.buffer[self.start..self.end];
        let before = rest.len();
        let Some(head) = decode_reply(&mut rest, self.structured)? else { return Ok(Heard::More) };
        self.start += before - rest.len();
        let cookie = head.cookie;
        let operation = waiting.get_mut(&cookie).ok_or(WireError::unknown_cookie(cookie))?;
        let progress = operation.pending.accept(&head)?;
        let then = progress.finished;
        let in_memory = |n: u32| usize::try_from(n).expect("usize has 64 bits");
        match progress.follows {
            Follows::Nothing => return Ok(finished(cookie, then)),
            Follows::Zeroes { into, len } => {
                let buffer = operation.buffer.as_mut().expect("only a read is sent zeroes");
                buffer[in_memory(into)..in_memory(into) + in_memory(len)].fill(0);
                return Ok(finished(cookie, then));
            }
            Follows::Data { into, len } => {
                let buffer = operation.buffer.take().expect("only a read is sent data");
                self.owed = Owed::Data { cookie, buffer, place: in_memory(into), left: in_memory(len), then };
            }
            Follows::Text { len, skip } => {
                self.owed = Owed::Skip { cookie, left: usize::from(len) + in_memory(skip), then };
            }
            Follows::Extents { count } => self.owed = Owed::Skip { cookie, left: in_memory(count) * 8, then },
        }
        Ok(Heard::Part)
    }

    /// Receives what there is, once; 0 at the end of the stream.
    ///
    /// # Errors
    /// The stream's.
    pub fn poll_receive<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if let Owed::Data { buffer, place, left, .. } = &mut self.owed {
                let mut room = ReadBuf::new(&mut buffer[*place..*place + *left]);
                ready!(Pin::new(stream).poll_read(cx, &mut room))?;
                let count = room.filled().len();
                (*place, *left) = (*place + count, *left - count);
                return Poll::Ready(Ok(count));
            }
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut room = ReadBuf::new(&mut self.buffer[self.end..]);
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        let count = room.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

fn finished(cookie: u64, then: Option<Result<(), NbdError>>) -> Heard {
    then.map_or(Heard::Part, |result| Heard::Finished(cookie, result))
}
