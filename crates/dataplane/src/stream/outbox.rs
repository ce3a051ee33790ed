//! What is on its way out: heads side by side in one buffer, payloads where they are, all of it in one gathered send.
//! Answers of a server, requests of a client.
//!
//! Invariant: bytes leave in the order they were put in; what a request weighs is given back when the last byte of
//! its answer has left, so a client that does not read cannot make us keep more than it may have in flight.

use super::Weight;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// Pieces per send: 64 reads with their heads. Linux takes 1024 (IOV_MAX); more than this is another round.
const SLICES_MAX: usize = 128;
/// Heads already sent are cut off the buffer when there are this many bytes of them.
const HEADS_SLACK_BYTES: usize = 16 << 10;

/// The queue.
pub struct Outbox<B> {
    heads: Vec<u8>,
    /// Bytes at the front of `heads` that have left.
    heads_sent: usize,
    pieces: VecDeque<Piece<B>>,
    /// Bytes of the first piece that have left.
    first_sent: usize,
    /// Bytes of all pieces that have not left.
    unsent: usize,
    unflushed: bool,
}

struct Piece<B> {
    content: Content<B>,
    weight: Weight,
}

enum Content<B> {
    /// So many bytes of `heads`.
    Head(usize),
    Body(B),
}

impl<B: Deref<Target = [u8]>> Content<B> {
    fn len(&self) -> usize {
        match self {
            Self::Head(len) => *len,
            Self::Body(data) => data.len(),
        }
    }
}

impl<B> Default for Outbox<B> {
    fn default() -> Self {
        Self { heads: Vec::new(), heads_sent: 0, pieces: VecDeque::new(), first_sent: 0, unsent: 0, unflushed: false }
    }
}

impl<B: Deref<Target = [u8]>> Outbox<B> {
    /// Whether everything has left.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && !self.unflushed
    }

    /// How many bytes have not left.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent
    }

    /// Queues an answer: `write` appends its head, `body` follows.
    pub fn put(&mut self, weight: Weight, body: Option<B>, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.heads.len();
        write(&mut self.heads);
        let added = self.heads.len() - before;
        self.unsent += added + body.as_ref().map_or(0, |data| data.len());
        let head_weight = if body.is_some() { Weight::default() } else { weight };
        match self.pieces.back_mut() {
            Some(Piece { content: Content::Head(len), weight }) => {
                *len += added;
                weight.add(head_weight);
            }
            _ => self.pieces.push_back(Piece { content: Content::Head(added), weight: head_weight }),
        }
        if let Some(data) = body {
            self.pieces.push_back(Piece { content: Content::Body(data), weight });
        }
    }

    /// Sends until all has left or the stream takes no more (then it wakes the task). Returns what is given back.
    ///
    /// # Errors
    /// The stream's.
    pub fn poll_send<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> io::Result<Weight> {
        let mut given_back = Weight::default();
        while !self.pieces.is_empty() {
            match self.poll_gather(stream, cx) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(sent) => {
                    self.unflushed = true;
                    given_back.add(self.advance(sent?));
                }
                Poll::Pending => return Ok(given_back),
            }
        }
        if self.unflushed && Pin::new(stream).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(given_back)
    }

    fn poll_gather<S: AsyncWrite + Unpin>(&self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let (mut count, mut skip, mut head) = (0, self.first_sent, self.heads_sent);
        for piece in self.pieces.iter().take(SLICES_MAX) {
            let bytes = match &piece.content {
                Content::Head(len) => {
                    // `heads_sent` is already past the part of the first piece that has left.
                    let left = len - skip;
                    head += left;
                    &self.heads[head - left..head]
                }
                Content::Body(data) => &data[skip..],
            };
            slices[count] = IoSlice::new(bytes);
            (count, skip) = (count + 1, 0);
        }
        Pin::new(stream).poll_write_vectored(cx, &slices[..count])
    }

    fn advance(&mut self, mut sent: usize) -> Weight {
        self.unsent -= sent;
        let mut given_back = Weight::default();
        while let Some(first) = self.pieces.front() {
            let left = first.content.len() - self.first_sent;
            let part = left.min(sent);
            if matches!(first.content, Content::Head(_)) {
                self.heads_sent += part;
            }
            if part < left {
                self.first_sent += part;
                break;
            }
            given_back.add(first.weight);
            self.pieces.pop_front();
            self.first_sent = 0;
            sent -= part;
        }
        if self.heads_sent == self.heads.len() {
            self.heads.clear();
            self.heads_sent = 0;
        } else if self.heads_sent >= HEADS_SLACK_BYTES {
            self.heads.drain(..self.heads_sent);
            self.heads_sent = 0;
        }
        given_back
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use block::IoBuf;
    use std::task::Waker;

    /// A stream that takes a given number of bytes at each call, then none until it is asked again.
    struct Sip {
        sizes: Vec<usize>,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Sip {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }
        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let Some(size) = self.sizes.pop().filter(|&size| size > 0) else { return Poll::Pending };
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(size).collect();
            self.taken.extend_from_slice(&all);
            Poll::Ready(Ok(all.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Goal: however the stream cuts, bytes keep their order and every weight comes back once, not before its last
    /// byte. Method: answers with and without data, sent in steps of every size, more put in between.
    #[test]
    fn any_cut_keeps_order_and_weight() {
        for step in 1..200 {
            let (mut outbox, mut expect) = (Outbox::<IoBuf>::default(), Vec::new());
            let mut stream = Sip { sizes: Vec::new(), taken: Vec::new() };
            let (mut back, mut put) = (Weight::default(), Weight::default());
            for round in 0_u8..12 {
                let body = (round % 3 != 0).then(|| IoBuf::copy_of(&vec![round; usize::from(round) * 40 + 1]));
                let head = vec![0xf0 | round; 16];
                expect.extend_from_slice(&head);
                expect.extend_from_slice(body.as_deref().unwrap_or_default());
                let weight = Weight::of(100 + u64::from(round));
                put.add(weight);
                outbox.put(weight, body, |heads| heads.extend_from_slice(&head));
                stream.sizes = vec![0, step];
                back.add(outbox.poll_send(&mut stream, &mut Context::from_waker(Waker::noop())).unwrap());
                assert!(back.requests <= put.requests);
            }
            while !outbox.is_empty() {
                stream.sizes = vec![step];
                back.add(outbox.poll_send(&mut stream, &mut Context::from_waker(Waker::noop())).unwrap());
            }
            assert_eq!(stream.taken, expect, "step {step}");
            assert_eq!(outbox.unsent_bytes(), 0, "step {step}");
            assert_eq!(back, put, "step {step}");
            assert!(outbox.heads.is_empty());
        }
    }
}
