//! What the client sends: one receive takes all there is, whole requests are cut off the front, and the payload of a
//! large write is received straight into the buffer that goes to the disk.
//!
//! Invariant: at most [`BUFFER_BYTES`] and the payload of one write are held here. What a request means is the caller's
//! business; this module only knows where it ends.

use block::IoBuf;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use wire::nbd::{Request, WireError, decode_request};

/// What one receive can take: 56 writes of 4 KiB, or thousands of reads.
pub const BUFFER_BYTES: usize = 256 << 10;
/// Payloads up to this are collected in the receive buffer and copied: cheaper than a receive of their own.
const COPIED_MAX_BYTES: usize = 32 << 10;
/// After a large payload the next receive asks for this much only: more would be the next payload, to be copied.
const SHORT_WINDOW_BYTES: usize = 4 << 10;

/// The receiving half.
pub struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    window: usize,
    pending: Pending,
}

/// What the stream owes before the next request can be looked at.
enum Pending {
    Nothing,
    /// The rest of a large payload.
    Payload {
        request: Request,
        data: IoBuf,
        filled: usize,
    },
    /// Payload of a refused write.
    Skip {
        left: usize,
    },
}

/// Where the payload of a write is.
#[derive(Debug)]
pub enum Payload {
    /// Here.
    Here(IoBuf),
    /// On its way into its own buffer; [`Inbox::peek`] returns the write when it is complete.
    Coming,
    /// Not all received, and small: look again after the next receive.
    NotYet,
}

/// What comes next on the stream.
#[derive(Debug)]
pub enum Next {
    /// More has to be received first.
    More,
    /// A request without payload, or whose payload has not been asked for yet: [`Inbox::take_payload`] or
    /// [`Inbox::skip`] decides.
    Request(Request),
    /// A write whose payload is complete.
    Write(Request, IoBuf),
}

impl Inbox {
    /// An inbox that begins with bytes somebody else received already.
    pub fn new(received: &[u8]) -> Self {
        let mut buffer = vec![0; BUFFER_BYTES.max(received.len())];
        buffer[..received.len()].copy_from_slice(received);
        Self { buffer, start: 0, end: received.len(), window: BUFFER_BYTES, pending: Pending::Nothing }
    }

    /// Cuts off what is complete. A request is cut off with [`Inbox::accept`].
    ///
    /// # Errors
    /// The stream is out of step.
    pub fn peek(&mut self) -> Result<Next, WireError> {
        match std::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Payload { request, data, filled } if filled == data.len() => {
                self.window = SHORT_WINDOW_BYTES;
                return Ok(Next::Write(request, data));
            }
            Pending::Skip { left } => {
                let part = left.min(self.end - self.start);
                self.start += part;
                if part < left {
                    self.pending = Pending::Skip { left: left - part };
                    return Ok(Next::More);
                }
            }
            Pending::Nothing => {}
            waiting @ Pending::Payload { .. } => {
                self.pending = waiting;
                return Ok(Next::More);
            }
        }
        let request = decode_request(&mut &self.buffer[self.start..self.end])?;
        Ok(request.map_or(Next::More, Next::Request))
    }

    /// Cuts off a request without payload, as [`Inbox::peek`] returned it.
    pub fn accept(&mut self) {
        self.start += Request::BYTES;
        debug_assert!(self.start <= self.end, "only a whole request is cut off");
    }

    /// Cuts off a write and its payload, or sees to the payload's coming.
    pub fn take_payload(&mut self, request: Request) -> Payload {
        let len = usize::try_from(request.payload_bytes()).expect("usize has 64 bits");
        let body = self.start + Request::BYTES;
        let here = self.end - body;
        if here >= len {
            self.start = body + len;
            return Payload::Here(IoBuf::copy_of(&self.buffer[body..body + len]));
        }
        if len <= COPIED_MAX_BYTES {
            return Payload::NotYet;
        }
        let mut data = IoBuf::new(len);
        data[..here].copy_from_slice(&self.buffer[body..self.end]);
        self.start = self.end;
        self.pending = Pending::Payload { request, data, filled: here };
        Payload::Coming
    }

    /// Cuts off a refused request and throws `len` bytes of payload away, as they come.
    pub fn skip(&mut self, len: u32) {
        self.accept();
        self.pending = Pending::Skip { left: usize::try_from(len).expect("usize has 64 bits") };
    }

    /// Receives what there is, once. `Ready(false)` at the end of the stream.
    ///
    /// # Errors
    /// The stream's.
    pub fn poll_receive<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        if let Pending::Payload { data, filled, .. } = &mut self.pending {
            let mut room = ReadBuf::new(&mut data[*filled..]);
            ready!(Pin::new(stream).poll_read(cx, &mut room))?;
            let count = room.filled().len();
            *filled += count;
            return Poll::Ready(Ok(count > 0));
        }
        self.make_room();
        let room_end = self.buffer.len().min(self.end + self.window);
        let mut room = ReadBuf::new(&mut self.buffer[self.end..room_end]);
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        let count = room.filled().len();
        self.end += count;
        if count == self.window {
            self.window = BUFFER_BYTES;
        }
        Poll::Ready(Ok(count > 0))
    }

    /// Keeps room for a whole copied write behind what is here: what stays is less than one, so the move is short.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < 2 * COPIED_MAX_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        debug_assert!(self.end < self.buffer.len(), "a full buffer holds a request that can be cut off");
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::task::Waker;
    use units::ByteOffset;
    use wire::nbd::constant::{CMD_READ, CMD_WRITE};
    use wire::nbd::encode_request;

    /// A stream that gives a given number of bytes at each call.
    struct Drip {
        bytes: Vec<u8>,
        step: usize,
    }

    impl AsyncRead for Drip {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let count = self.step.min(into.remaining()).min(self.bytes.len());
            into.put_slice(&self.bytes.drain(..count).collect::<Vec<_>>());
            Poll::Ready(Ok(()))
        }
    }

    fn request(command: u16, cookie: u64, len: u32) -> Request {
        Request { flags: 0, command, cookie, at: ByteOffset(0), len }
    }

    /// Goal: however the stream is cut, every request comes out once, in order, with its own payload, and skipped
    /// payloads are skipped. Method: a stream of reads, small, middle and large writes, dripped in steps.
    #[test]
    fn any_cut_gives_the_same_requests() {
        let lens: [u32; 8] = [0, 4096, 512, 300_000, 4096, 33_000, 262_144, 100];
        let mut stream = Vec::new();
        for (cookie, &len) in (0_u8..).zip(&lens) {
            let command = if len == 0 { CMD_READ } else { CMD_WRITE };
            stream.extend_from_slice(&encode_request(&request(command, u64::from(cookie), len)));
            stream.extend_from_slice(&vec![cookie; len as usize]);
        }
        for (step, already) in [(1, 0), (27, 3), (4095, 28), (65_536, 40_000), (1 << 20, 700_000)] {
            let (first, rest) = stream.split_at(already.min(stream.len()));
            let (mut inbox, mut drip) = (Inbox::new(first), Drip { bytes: rest.to_vec(), step });
            let mut seen = Vec::new();
            loop {
                match inbox.peek().unwrap() {
                    Next::Request(request) if request.cookie == 4 => {
                        inbox.skip(request.len);
                        seen.push(request.cookie);
                    }
                    Next::Request(request) if request.command == CMD_READ => {
                        inbox.accept();
                        seen.push(request.cookie);
                    }
                    Next::Request(request) => match inbox.take_payload(request) {
                        Payload::Here(data) => check(&mut seen, request, &data),
                        Payload::Coming => {}
                        Payload::NotYet if !receive(&mut inbox, &mut drip) => break,
                        Payload::NotYet => {}
                    },
                    Next::Write(request, data) => check(&mut seen, request, &data),
                    Next::More if !receive(&mut inbox, &mut drip) => break,
                    Next::More => {}
                }
            }
            assert_eq!(seen, (0..8).collect::<Vec<_>>(), "step {step}");
        }
    }

    fn check(seen: &mut Vec<u64>, request: Request, data: &[u8]) {
        assert_eq!(data.len(), request.len as usize);
        assert!(data.iter().all(|&byte| u64::from(byte) == request.cookie));
        seen.push(request.cookie);
    }

    fn receive(inbox: &mut Inbox, drip: &mut Drip) -> bool {
        match inbox.poll_receive(drip, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(more) => more.unwrap(),
            Poll::Pending => panic!("a drip is always ready"),
        }
    }

    #[test]
    fn a_stream_out_of_step_is_noticed() {
        assert!(Inbox::new(&[0x13; 28]).peek().is_err());
    }
}
