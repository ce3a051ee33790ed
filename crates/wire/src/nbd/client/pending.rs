//! One request in flight on the client: judges each reply to it and says what follows on the stream.
//!
//! Invariant: a read is reported as successful only after every byte of it arrived exactly once and no error chunk
//! came; a copy that silently misses data is worse than none (libnbd CVE-2022-0485). Memory is bounded: pieces out of
//! order are remembered as at most [`ISLANDS_MAX`] ranges.

use super::reply::{ReplyBody, ReplyHead};
use crate::nbd::bytes::take_u32;
use crate::nbd::constant::{
    CHUNKS_MAX, CMD_BLOCK_STATUS, CMD_FLAG_DF, CMD_FLAG_REQ_ONE, CMD_READ, EXTENTS_MAX, ISLANDS_MAX,
};
use crate::nbd::{Extent, NbdError, Ready, Request, WireError};
use units::ByteOffset;

/// A request that was sent.
#[derive(Clone, Debug)]
pub struct Pending {
    request: Request,
    structured: bool,
    context: Option<u32>,
    chunks: u32,
    content: u32,
    status_seen: bool,
    error: Option<NbdError>,
    covered: Coverage,
}

/// What has to be taken off the stream before the next reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Nothing.
    Nothing,
    /// `len` bytes, to be put at `into` of the read's buffer.
    Data {
        /// Where in the buffer.
        into: u32,
        /// How many.
        len: u32,
    },
    /// Nothing on the stream: `len` zeroes, to be put at `into` of the read's buffer.
    Zeroes {
        /// Where in the buffer.
        into: u32,
        /// How many.
        len: u32,
    },
    /// `count` × 8 bytes for [`decode_extents`].
    Extents {
        /// How many.
        count: u32,
    },
    /// `len` bytes of text, then `skip` bytes to be thrown away.
    Text {
        /// How many.
        len: u16,
        /// How many.
        skip: u32,
    },
}

/// What a reply means for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What has to be taken off the stream.
    pub follows: Follows,
    /// How the request ended, once that has been taken; `None` while more replies come.
    pub finished: Option<Result<(), NbdError>>,
}

impl Pending {
    /// The request as it was sent over a connection that became `ready`.
    #[must_use]
    pub fn new(request: Request, ready: &Ready) -> Self {
        Self {
            request,
            structured: ready.structured,
            context: ready.context,
            chunks: 0,
            content: 0,
            status_seen: false,
            error: None,
            covered: Coverage::default(),
        }
    }

    /// The request.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Judges a reply whose cookie is this request's.
    ///
    /// # Errors
    /// The reply cannot belong to this request: the connection must be closed and the request counts as unanswered.
    pub fn accept(&mut self, head: &ReplyHead) -> Result<Progress, WireError> {
        debug_assert_eq!(head.cookie, self.request.cookie);
        self.chunks += 1;
        if self.chunks > CHUNKS_MAX {
            return Err(WireError::new("more chunks than a reply can need", u64::from(self.chunks)));
        }
        let follows = match head.body {
            ReplyBody::Simple(answer) => return self.accept_simple(answer),
            ReplyBody::None => Follows::Nothing,
            ReplyBody::OffsetData { at, len } => Follows::Data { into: self.place(at, len)?, len },
            ReplyBody::OffsetHole { at, len } => Follows::Zeroes { into: self.place(at, len)?, len },
            ReplyBody::BlockStatus { context, extents } => self.accept_status(context, extents)?,
            ReplyBody::Error { error, text_len, skip } => {
                self.error.get_or_insert(error);
                Follows::Text { len: text_len, skip }
            }
        };
        let finished = if head.done { Some(self.finish()?) } else { None };
        Ok(Progress { follows, finished })
    }

    fn accept_simple(&self, answer: Result<(), NbdError>) -> Result<Progress, WireError> {
        let refuse = |what| Err(WireError::new(what, u64::from(self.request.command)));
        let follows = match self.request.command {
            _ if self.chunks > 1 => return refuse("a simple reply after chunks"),
            CMD_READ if self.structured => {
                return refuse("a simple reply to a read despite structured replies");
            }
            CMD_BLOCK_STATUS if answer.is_ok() => return refuse("a block status without extents"),
            CMD_READ if answer.is_ok() => Follows::Data { into: 0, len: self.request.len },
            _ => Follows::Nothing,
        };
        Ok(Progress { follows, finished: Some(answer) })
    }

    fn accept_status(&mut self, context: u32, extents: u32) -> Result<Follows, WireError> {
        let refuse = |what, got: u32| Err(WireError::new(what, u64::from(got)));
        if self.request.command != CMD_BLOCK_STATUS || self.context != Some(context) {
            return refuse("a block status nobody asked for", context);
        }
        if std::mem::replace(&mut self.status_seen, true) {
            return refuse("a second block status for one context", context);
        }
        if extents > EXTENTS_MAX || (self.request.flags & CMD_FLAG_REQ_ONE != 0 && extents != 1) {
            return refuse("more extents than were asked for", extents);
        }
        Ok(Follows::Extents { count: extents })
    }

    /// Where in the read's buffer a piece belongs; every byte once, none outside.
    fn place(&mut self, at: ByteOffset, len: u32) -> Result<u32, WireError> {
        let refuse = |what| Err(WireError::new(what, at.0));
        if self.request.command != CMD_READ {
            return refuse("data for a request that is no read");
        }
        self.content += 1;
        if self.content > 1 && self.request.flags & CMD_FLAG_DF != 0 {
            return refuse("a fragmented reply to a read that forbade it");
        }
        let place = at.0.checked_sub(self.request.at.0).and_then(|into| u32::try_from(into).ok());
        let Some((into, end)) = place.and_then(|into| Some((into, into.checked_add(len)?))) else {
            return refuse("data outside the read");
        };
        if end > self.request.len {
            return refuse("data outside the read");
        }
        if !self.covered.add(into, end) {
            return refuse("data that overlaps, or in too many pieces");
        }
        Ok(into)
    }

    fn finish(&self) -> Result<Result<(), NbdError>, WireError> {
        if let Some(error) = self.error {
            return Ok(Err(error));
        }
        match self.request.command {
            CMD_READ if self.covered.upto != self.request.len => {
                Err(WireError::new("a read that claims success without all its data", u64::from(self.covered.upto)))
            }
            CMD_BLOCK_STATUS if !self.status_seen => Err(WireError::new("a block status without extents", 0)),
            _ => Ok(Ok(())),
        }
    }
}

/// Which bytes of a read have arrived.
#[derive(Clone, Debug, Default)]
struct Coverage {
    /// All before this.
    upto: u32,
    /// Beyond, sorted, apart from each other and from `upto`.
    islands: Vec<(u32, u32)>,
}

impl Coverage {
    /// Adds a range that is not empty; `false` if part of it is already there or the ranges become too many.
    fn add(&mut self, start: u32, end: u32) -> bool {
        debug_assert!(start < end);
        let next = self.islands.partition_point(|&(first, _)| first < start);
        let before = next.checked_sub(1).map_or(self.upto, |i| self.islands[i].1);
        let after = self.islands.get(next).map_or(u32::MAX, |&(first, _)| first);
        if start < before || end > after {
            return false;
        }
        let joins_next = next < self.islands.len() && end == after;
        if next == 0 && start == self.upto {
            self.upto = if joins_next { self.islands.remove(0).1 } else { end };
        } else if next > 0 && start == before {
            let end = if joins_next { self.islands.remove(next).1 } else { end };
            self.islands[next - 1].1 = end;
        } else if joins_next {
            self.islands[next].0 = start;
        } else if self.islands.len() < ISLANDS_MAX {
            self.islands.insert(next, (start, end));
        } else {
            return false;
        }
        true
    }
}

/// Reads the extents of a block status reply to `request`, all of them at once.
///
/// # Errors
/// An extent the document does not allow.
pub fn decode_extents(mut bytes: &[u8], request: &Request) -> Result<Vec<Extent>, WireError> {
    let mut extents = Vec::with_capacity(bytes.len() / 8);
    let mut described = 0_u64;
    while let (Some(len), Some(state)) = (take_u32(&mut bytes), take_u32(&mut bytes)) {
        if len == 0 || described >= u64::from(request.len) {
            return Err(WireError::new("an extent that describes nothing asked for", u64::from(len)));
        }
        described += u64::from(len);
        extents.push(Extent { len, state });
    }
    if request.flags & CMD_FLAG_REQ_ONE != 0 && (extents.len() != 1 || described > u64::from(request.len)) {
        return Err(WireError::new("one extent was asked for", described));
    }
    Ok(extents)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::nbd::constant::{CMD_WRITE, STATE_HOLE, STATE_ZERO};
    use crate::nbd::{BlockSizes, ExportInfo, TransmissionFlags};
    use units::ByteLen;

    fn ready(structured: bool) -> Ready {
        let export = ExportInfo {
            size: ByteLen::mib(1),
            flags: TransmissionFlags::HAS_FLAGS,
            block: BlockSizes::DEFAULT,
            name: None,
            description: None,
        };
        Ready { export, structured, context: structured.then_some(5) }
    }

    fn pending(command: u16, flags: u16, structured: bool) -> Pending {
        Pending::new(Request { flags, command, cookie: 1, at: ByteOffset(1000), len: 100 }, &ready(structured))
    }

    fn data(at: u64, len: u32, done: bool) -> ReplyHead {
        ReplyHead { cookie: 1, done, body: ReplyBody::OffsetData { at: ByteOffset(at), len } }
    }

    const NONE: ReplyHead = ReplyHead { cookie: 1, done: true, body: ReplyBody::None };
    const ERROR: ReplyBody = ReplyBody::Error { error: NbdError::Io, text_len: 3, skip: 8 };

    /// Pieces in any order make a read, each placed where it belongs; the end is told once and only when all is there.
    #[test]
    fn a_read_succeeds_when_every_byte_arrived_once() {
        let orders: [&[(u64, u32)]; 5] = [
            &[(1000, 100)],
            &[(1000, 50), (1050, 50)],
            &[(1050, 50), (1000, 50)],
            &[(1090, 10), (1000, 10), (1050, 40), (1010, 40)],
            &[(1010, 10), (1030, 10), (1020, 10), (1040, 60), (1000, 10)],
        ];
        for order in orders {
            let mut read = pending(CMD_READ, 0, true);
            for &(at, len) in order {
                let into = u32::try_from(at - 1000).unwrap();
                let expect = Progress { follows: Follows::Data { into, len }, finished: None };
                assert_eq!(read.accept(&data(at, len, false)), Ok(expect), "{order:?}");
            }
            assert_eq!(read.accept(&NONE).unwrap().finished, Some(Ok(())), "{order:?}");
        }
        let mut read = pending(CMD_READ, 0, true);
        let hole = ReplyBody::OffsetHole { at: ByteOffset(1000), len: 100 };
        let progress = read.accept(&ReplyHead { cookie: 1, done: true, body: hole }).unwrap();
        assert_eq!(progress, Progress { follows: Follows::Zeroes { into: 0, len: 100 }, finished: Some(Ok(())) });
    }

    /// A read with bytes missing, doubled or foreign is a broken connection; with an error chunk it has failed.
    /// CVE-2022-0485: none of these may look like success.
    #[test]
    fn a_read_with_a_gap_is_never_a_success() {
        let bad: [(&str, &[ReplyHead]); 9] = [
            ("nothing at all", &[NONE]),
            ("a gap at the end", &[data(1000, 99, true)]),
            ("a gap in front", &[data(1001, 99, true)]),
            ("twice the same", &[data(1000, 50, false), data(1000, 50, false)]),
            ("overlapping backwards", &[data(1050, 50, false), data(1000, 51, false)]),
            ("inside another", &[data(1010, 50, false), data(1020, 10, false)]),
            ("before the read", &[data(999, 100, true)]),
            ("beyond the read", &[data(1000, 101, true)]),
            ("far beyond", &[data(u64::MAX, u32::MAX, true)]),
        ];
        for (what, heads) in bad {
            let mut read = pending(CMD_READ, 0, true);
            let results: Vec<_> = heads.iter().map(|head| read.accept(head)).collect();
            assert!(results.last().unwrap().is_err(), "{what}: {results:?}");
        }
        let mut read = pending(CMD_READ, 0, true);
        let progress = read.accept(&ReplyHead { cookie: 1, done: false, body: ERROR }).unwrap();
        assert_eq!(progress, Progress { follows: Follows::Text { len: 3, skip: 8 }, finished: None });
        assert_eq!(read.accept(&data(1000, 100, true)).unwrap().finished, Some(Err(NbdError::Io)));
        let mut whole = pending(CMD_READ, CMD_FLAG_DF, true);
        assert!(whole.accept(&data(1000, 50, false)).is_ok());
        assert!(whole.accept(&data(1050, 50, true)).is_err(), "fragments were forbidden");
    }

    /// Kinds of replies that do not fit their request.
    #[test]
    fn a_reply_must_fit_its_request() {
        let simple = |answer| ReplyHead { cookie: 1, done: true, body: ReplyBody::Simple(answer) };
        assert!(pending(CMD_READ, 0, true).accept(&simple(Ok(()))).is_err());
        assert!(pending(CMD_READ, 0, true).accept(&simple(Err(NbdError::Io))).is_err());
        let plain = pending(CMD_READ, 0, false).accept(&simple(Ok(()))).unwrap();
        assert_eq!(plain, Progress { follows: Follows::Data { into: 0, len: 100 }, finished: Some(Ok(())) });
        let plain = pending(CMD_READ, 0, false).accept(&simple(Err(NbdError::Io))).unwrap();
        assert_eq!(plain, Progress { follows: Follows::Nothing, finished: Some(Err(NbdError::Io)) });
        let write = pending(CMD_WRITE, 0, true).accept(&simple(Ok(()))).unwrap();
        assert_eq!(write, Progress { follows: Follows::Nothing, finished: Some(Ok(())) });
        assert!(pending(CMD_WRITE, 0, true).accept(&data(1000, 100, true)).is_err(), "data for a write");
        assert_eq!(pending(CMD_WRITE, 0, true).accept(&NONE).unwrap().finished, Some(Ok(())));
        let mut late = pending(CMD_WRITE, 0, true);
        late.accept(&ReplyHead { cookie: 1, done: false, body: ERROR }).unwrap();
        assert!(late.accept(&simple(Ok(()))).is_err(), "an error is not taken back");
    }

    /// Block status: our context, once, no more extents than asked for, no empty ones (CVE-2020-1711's kin).
    #[test]
    fn a_block_status_stays_within_what_was_asked() {
        let status =
            |context, extents| ReplyHead { cookie: 1, done: true, body: ReplyBody::BlockStatus { context, extents } };
        let ask = |flags| pending(CMD_BLOCK_STATUS, flags, true);
        let good = ask(0).accept(&status(5, 3)).unwrap();
        assert_eq!(good, Progress { follows: Follows::Extents { count: 3 }, finished: Some(Ok(())) });
        assert!(ask(0).accept(&status(6, 3)).is_err(), "another context");
        assert!(ask(0).accept(&status(5, EXTENTS_MAX + 1)).is_err(), "endless");
        assert!(ask(CMD_FLAG_REQ_ONE).accept(&status(5, 2)).is_err());
        assert!(ask(0).accept(&NONE).is_err(), "success without a status");
        assert!(pending(CMD_READ, 0, true).accept(&status(5, 1)).is_err());

        let bytes = |extents: &[(u32, u32)]| -> Vec<u8> {
            extents.iter().flat_map(|(len, state)| [len.to_be_bytes(), state.to_be_bytes()].concat()).collect()
        };
        let request = *ask(0).request();
        let both = STATE_HOLE | STATE_ZERO;
        let extents = decode_extents(&bytes(&[(60, 0), (4000, both)]), &request).unwrap();
        assert_eq!(extents, [Extent { len: 60, state: 0 }, Extent { len: 4000, state: both }]);
        assert!(decode_extents(&bytes(&[(0, 0)]), &request).is_err(), "an empty extent");
        assert!(decode_extents(&bytes(&[(100, 0), (1, 0)]), &request).is_err(), "one more than needed");
        let one = Request { flags: CMD_FLAG_REQ_ONE, ..request };
        assert!(decode_extents(&bytes(&[(101, 0)]), &one).is_err(), "longer than asked");
        assert!(decode_extents(&bytes(&[(100, 0)]), &one).is_ok());
    }

    /// A server that sends the odd bytes first makes us remember ranges: only so many.
    #[test]
    fn pieces_out_of_order_are_bounded() {
        let request = Request { flags: 0, command: CMD_READ, cookie: 1, at: ByteOffset(0), len: 1 << 20 };
        let mut read = Pending::new(request, &ready(true));
        let taken = (0..u64::MAX).take_while(|i| read.accept(&data(i * 2 + 1, 1, false)).is_ok()).count();
        assert_eq!(taken, ISLANDS_MAX);
    }
}
