//! Replies on the client: the fixed part of each, cut off the front of the stream. What has any length (data, text,
//! extents) follows and is read by the caller straight to where it belongs; [`super::Pending`] says how much that is
//! and whether it may be.

use crate::nbd::bytes::{take_u16, take_u32, take_u64};
use crate::nbd::constant::{
    REPLY_FLAG_DONE, REPLY_TYPE_BLOCK_STATUS, REPLY_TYPE_ERROR_OFFSET, REPLY_TYPE_FLAG_ERROR, REPLY_TYPE_NONE,
    REPLY_TYPE_OFFSET_DATA, REPLY_TYPE_OFFSET_HOLE, SIMPLE_REPLY_MAGIC, STRING_MAX, STRUCTURED_REPLY_MAGIC,
};
use crate::nbd::{NbdError, WireError};
use units::ByteOffset;

/// The fixed part of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// Which request it answers.
    pub cookie: u64,
    /// Whether it is the last for that request.
    pub done: bool,
    /// What it says.
    pub body: ReplyBody,
}

/// What a reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    /// A simple reply; after a successful read its data follows.
    Simple(Result<(), NbdError>),
    /// `len` bytes of data follow, to be put at `at` of the export.
    OffsetData {
        /// Where.
        at: ByteOffset,
        /// How many.
        len: u32,
    },
    /// `len` bytes at `at` of the export read as zeroes.
    OffsetHole {
        /// Where.
        at: ByteOffset,
        /// How many.
        len: u32,
    },
    /// The end, successful unless an error came before.
    None,
    /// `extents` × 8 bytes follow, for [`super::decode_extents`].
    BlockStatus {
        /// Whose.
        context: u32,
        /// How many.
        extents: u32,
    },
    /// The request failed; `text_len` bytes of text follow, then `skip` bytes to be thrown away.
    Error {
        /// How.
        error: NbdError,
        /// Words for people.
        text_len: u16,
        /// Fields this end does not use.
        skip: u32,
    },
}

impl ReplyHead {
    /// No head is longer; a buffer that holds as much never blocks decoding.
    pub const BYTES_MAX: usize = 32;
}

/// Error chunks hold an error, a text of at most 4096 bytes and a few fields. Longer ones are an attack.
const ERROR_PAYLOAD_MAX: u32 = 6 + 4096 + 64;

/// Cuts the head of a reply off the front of `from`; `None` and nothing cut while it is incomplete.
///
/// # Errors
/// Anything the document does not allow a server to send; the stream is lost and must be closed.
pub fn decode_reply(from: &mut &[u8], structured: bool) -> Result<Option<ReplyHead>, WireError> {
    let mut rest = *from;
    let Some(magic) = take_u32(&mut rest) else {
        return Ok(None);
    };
    let head = match magic {
        SIMPLE_REPLY_MAGIC => decode_simple(&mut rest),
        STRUCTURED_REPLY_MAGIC if structured => decode_chunk(&mut rest)?,
        _ => {
            return Err(WireError::new("a reply begins with another magic", u64::from(magic)));
        }
    };
    if head.is_some() {
        *from = rest;
    }
    Ok(head)
}

fn decode_simple(rest: &mut &[u8]) -> Option<ReplyHead> {
    let error = NbdError::from_wire(take_u32(rest)?);
    Some(ReplyHead { cookie: take_u64(rest)?, done: true, body: ReplyBody::Simple(error) })
}

struct Chunk {
    flags: u16,
    kind: u16,
    cookie: u64,
    len: u32,
}

fn decode_chunk(rest: &mut &[u8]) -> Result<Option<ReplyHead>, WireError> {
    let mut fields =
        || Some(Chunk { flags: take_u16(rest)?, kind: take_u16(rest)?, cookie: take_u64(rest)?, len: take_u32(rest)? });
    let Some(Chunk { flags, kind, cookie, len }) = fields() else {
        return Ok(None);
    };
    let done = flags & REPLY_FLAG_DONE != 0;
    check_chunk(kind, len, done)?;
    let body = match kind {
        REPLY_TYPE_NONE => Some(ReplyBody::None),
        REPLY_TYPE_OFFSET_DATA => take_u64(rest).map(|at| ReplyBody::OffsetData { at: ByteOffset(at), len: len - 8 }),
        REPLY_TYPE_OFFSET_HOLE => decode_hole(rest)?,
        REPLY_TYPE_BLOCK_STATUS => {
            take_u32(rest).map(|context| ReplyBody::BlockStatus { context, extents: (len - 4) / 8 })
        }
        _ => decode_error(rest, kind, len)?,
    };
    Ok(body.map(|body| ReplyHead { cookie, done, body }))
}

/// Section "Structured reply types": each type's rule for *length*, checked before anything of it is read.
fn check_chunk(kind: u16, len: u32, done: bool) -> Result<(), WireError> {
    let good = match kind {
        REPLY_TYPE_NONE => len == 0 && done,
        REPLY_TYPE_OFFSET_DATA => len > 8,
        REPLY_TYPE_OFFSET_HOLE => len == 12,
        REPLY_TYPE_BLOCK_STATUS => len >= 12 && (len - 4).is_multiple_of(8),
        REPLY_TYPE_ERROR_OFFSET => (14..=ERROR_PAYLOAD_MAX).contains(&len),
        _ if kind & REPLY_TYPE_FLAG_ERROR != 0 => (6..=ERROR_PAYLOAD_MAX).contains(&len),
        _ => {
            return Err(WireError::new("a chunk of an unknown type", u64::from(kind)));
        }
    };
    if good { Ok(()) } else { Err(WireError::new("a chunk of the wrong length", u64::from(len))) }
}

fn decode_hole(rest: &mut &[u8]) -> Result<Option<ReplyBody>, WireError> {
    let mut fields = || Some((take_u64(rest)?, take_u32(rest)?));
    match fields() {
        Some((_, 0)) => Err(WireError::new("a hole of no bytes", 0)),
        Some((at, len)) => Ok(Some(ReplyBody::OffsetHole { at: ByteOffset(at), len })),
        None => Ok(None),
    }
}

fn decode_error(rest: &mut &[u8], kind: u16, len: u32) -> Result<Option<ReplyBody>, WireError> {
    let mut fields = || Some((take_u32(rest)?, take_u16(rest)?));
    let Some((number, text_len)) = fields() else {
        return Ok(None);
    };
    let Err(error) = NbdError::from_wire(number) else {
        return Err(WireError::new("an error chunk without an error", 0));
    };
    let fixed = if kind == REPLY_TYPE_ERROR_OFFSET { 14 } else { 6 };
    if u32::from(text_len) > len - fixed || usize::from(text_len) > STRING_MAX {
        return Err(WireError::new("an error text longer than its chunk", u64::from(text_len)));
    }
    Ok(Some(ReplyBody::Error { error, text_len, skip: len - 6 - u32::from(text_len) }))
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::nbd::{
        Context, Contexts, Extent, block_status, error_chunk, none_done, offset_data_head, offset_hole, simple_reply,
    };

    fn chunk(kind: u16, done: bool, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap();
        let mut out = STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
        out.extend(u16::from(done).to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(9_u64.to_be_bytes());
        out.extend(len.to_be_bytes());
        out.extend(payload);
        out
    }

    /// What the server's encoders write is what the client reads; cut at every place of the head, nothing is taken.
    #[test]
    fn every_reply_comes_back_as_it_was_meant() {
        let at = ByteOffset(1 << 33);
        let (mut error, mut status) = (Vec::new(), Vec::new());
        error_chunk(&mut error, 9, NbdError::Shutdown, "over");
        block_status(
            &mut status,
            9,
            Contexts::default().with(Context::BaseAllocation),
            &[Extent { len: 1, state: 0 }, Extent { len: 2, state: 3 }],
        );
        let over = ReplyBody::Error { error: NbdError::Shutdown, text_len: 4, skip: 0 };
        let table: [(&[u8], bool, ReplyBody, usize); 7] = [
            (&simple_reply(9, Ok(())), true, ReplyBody::Simple(Ok(())), 0),
            (&simple_reply(9, Err(NbdError::Io)), true, ReplyBody::Simple(Err(NbdError::Io)), 0),
            (&offset_data_head(9, at, 512, false), false, ReplyBody::OffsetData { at, len: 512 }, 0),
            (&offset_hole(9, at, 512, true), true, ReplyBody::OffsetHole { at, len: 512 }, 0),
            (&none_done(9), true, ReplyBody::None, 0),
            (&error, true, over, 4),
            (&status, true, ReplyBody::BlockStatus { context: 1, extents: 2 }, 16),
        ];
        for (bytes, done, body, follows) in table {
            let head = bytes.len() - follows;
            assert!(head <= ReplyHead::BYTES_MAX);
            for cut in 0..head {
                let mut from = &bytes[..cut];
                assert_eq!(decode_reply(&mut from, true), Ok(None), "{body:?} cut at {cut}");
                assert_eq!(from.len(), cut);
            }
            let mut from = bytes;
            assert_eq!(decode_reply(&mut from, true), Ok(Some(ReplyHead { cookie: 9, done, body })));
            assert_eq!(from.len(), follows);
        }
    }

    /// One row a rule a hostile server may break.
    #[test]
    fn what_the_document_forbids_ends_the_stream() {
        let text_too_long = [&5_u32.to_be_bytes()[..], &3_u16.to_be_bytes(), b"no"].concat();
        let no_error = [&0_u32.to_be_bytes()[..], &0_u16.to_be_bytes()].concat();
        let empty_hole = [0; 12];
        let bad: [(&str, Vec<u8>); 13] = [
            ("another magic", vec![0x96, 0x74, 0x46, 0x68]),
            ("NONE with a payload", chunk(REPLY_TYPE_NONE, true, &[0])),
            ("NONE that is not the end", chunk(REPLY_TYPE_NONE, false, &[])),
            ("data without a byte", chunk(REPLY_TYPE_OFFSET_DATA, true, &[0; 8])),
            ("a short hole", chunk(REPLY_TYPE_OFFSET_HOLE, true, &[0; 11])),
            ("an empty hole", chunk(REPLY_TYPE_OFFSET_HOLE, true, &empty_hole)),
            ("a status without extents", chunk(REPLY_TYPE_BLOCK_STATUS, true, &[0; 4])),
            ("a status with half an extent", chunk(REPLY_TYPE_BLOCK_STATUS, true, &[0; 16])),
            ("a short error", chunk(REPLY_TYPE_FLAG_ERROR | 1, true, &[0; 5])),
            ("an error that is none", chunk(REPLY_TYPE_FLAG_ERROR | 1, true, &no_error)),
            ("a text longer than its chunk", chunk(REPLY_TYPE_FLAG_ERROR | 1, true, &text_too_long)),
            ("an endless error", chunk(REPLY_TYPE_FLAG_ERROR | 1, true, &[1; 5000])),
            ("64-bit block status (libnbd CVE-2023-5871)", chunk(6, true, &[0; 32])),
        ];
        for (what, bytes) in bad {
            assert!(decode_reply(&mut &bytes[..], true).is_err(), "{what}");
        }
        assert!(decode_reply(&mut &none_done(1)[..], false).is_err(), "a chunk nobody negotiated");
    }

    /// An error type from the future is an error all the same, and its unknown fields are skipped.
    #[test]
    fn an_unknown_error_type_is_an_error() {
        let payload = [&5_u32.to_be_bytes()[..], &2_u16.to_be_bytes(), b"no", &[7; 3]].concat();
        let bytes = chunk(REPLY_TYPE_FLAG_ERROR | 99, false, &payload);
        let body = ReplyBody::Error { error: NbdError::Io, text_len: 2, skip: 3 };
        assert_eq!(decode_reply(&mut &bytes[..], true), Ok(Some(ReplyHead { cookie: 9, done: false, body })));
    }
}
