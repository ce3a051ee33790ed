//! Replies as the server writes them: headers in small arrays, or appended to a buffer the caller recycles.
//!
//! With structured replies a read is answered in chunks, always; everything else may use a simple reply, and does
//! unless an error has a text to carry. Source: `doc/proto.md`, sections "Simple reply message" and "Structured reply
//! chunk message".

use super::bytes::Fill;
use super::constant::{
    REPLY_FLAG_DONE, REPLY_TYPE_BLOCK_STATUS, REPLY_TYPE_ERROR, REPLY_TYPE_NONE, REPLY_TYPE_OFFSET_DATA,
    REPLY_TYPE_OFFSET_HOLE, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use super::error::cut;
use super::{Contexts, NbdError};
use units::ByteOffset;

/// A piece of a block status reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How many bytes, not zero.
    pub len: u32,
    /// `STATE_HOLE`, `STATE_ZERO` or neither.
    pub state: u32,
}

/// The header of a structured chunk.
const CHUNK_HEAD: usize = 20;

fn chunk_head<'a>(out: &'a mut [u8], cookie: u64, kind: u16, done: bool, payload: u32) -> Fill<'a> {
    let flags = if done { REPLY_FLAG_DONE } else { 0 };
    let mut fill = Fill(out);
    fill.put(&STRUCTURED_REPLY_MAGIC.to_be_bytes()).put(&flags.to_be_bytes()).put(&kind.to_be_bytes());
    fill.put(&cookie.to_be_bytes()).put(&payload.to_be_bytes());
    fill
}

/// A simple reply. After a successful read the data follows.
#[must_use]
pub fn simple_reply(cookie: u64, answer: Result<(), NbdError>) -> [u8; 16] {
    let mut out = [0; 16];
    let error = answer.map_or_else(NbdError::wire, |()| 0);
    let mut fill = Fill(&mut out);
    fill.put(&SIMPLE_REPLY_MAGIC.to_be_bytes()).put(&error.to_be_bytes()).put(&cookie.to_be_bytes()).full();
    out
}

/// The head of a chunk of data; `len` bytes follow. `done` only when nothing can fail any more.
///
/// # Panics
/// For a length that is no chunk's: zero, or so long that the header's own length overflows.
#[must_use]
pub fn offset_data_head(cookie: u64, at: ByteOffset, len: u32, done: bool) -> [u8; 28] {
    assert!(len > 0, "a content chunk describes at least one byte");
    let payload = len.checked_add(8).expect("a read is at most 32 MiB");
    let mut out = [0; 28];
    chunk_head(&mut out, cookie, REPLY_TYPE_OFFSET_DATA, done, payload).put(&at.0.to_be_bytes()).full();
    out
}

/// A whole chunk saying that `len` bytes read as zeroes.
///
/// # Panics
/// If `len` is zero.
#[must_use]
pub fn offset_hole(cookie: u64, at: ByteOffset, len: u32, done: bool) -> [u8; 32] {
    assert!(len > 0, "a content chunk describes at least one byte");
    let mut out = [0; 32];
    let mut fill = chunk_head(&mut out, cookie, REPLY_TYPE_OFFSET_HOLE, done, 12);
    fill.put(&at.0.to_be_bytes()).put(&len.to_be_bytes()).full();
    out
}

/// The chunk that ends a reply: success, unless an error chunk came before.
#[must_use]
pub fn none_done(cookie: u64) -> [u8; CHUNK_HEAD] {
    let mut out = [0; CHUNK_HEAD];
    chunk_head(&mut out, cookie, REPLY_TYPE_NONE, true, 0).full();
    out
}

/// Appends the error chunk that ends a reply; the text is cut to what fits.
pub fn error_chunk(into: &mut Vec<u8>, cookie: u64, error: NbdError, text: &str) {
    let text = &text.as_bytes()[..cut(text)];
    let text_len = u16::try_from(text.len()).expect("cut to 4096 bytes");
    let mut head = [0; CHUNK_HEAD + 6];
    let mut fill = chunk_head(&mut head, cookie, REPLY_TYPE_ERROR, true, 6 + u32::from(text_len));
    fill.put(&error.wire().to_be_bytes()).put(&text_len.to_be_bytes()).full();
    into.extend_from_slice(&head);
    into.extend_from_slice(text);
}

/// Appends the chunks that answer a block status request, one a context, and end the reply.
///
/// # Panics
/// Without extents or with an empty one: the client could not go on.
pub fn block_status(into: &mut Vec<u8>, cookie: u64, contexts: Contexts, extents: &[Extent]) {
    assert!(!extents.is_empty() && extents.iter().all(|e| e.len > 0), "a status describes at least one byte");
    let payload = u32::try_from(4 + extents.len() * 8).expect("a status has few extents");
    let last = contexts.iter().last();
    for context in contexts.iter() {
        let (done, id) = (Some(context) == last, context.id());
        let mut head = [0; CHUNK_HEAD + 4];
        chunk_head(&mut head, cookie, REPLY_TYPE_BLOCK_STATUS, done, payload).put(&id.to_be_bytes()).full();
        into.extend_from_slice(&head);
        for extent in extents {
            into.extend_from_slice(&extent.len.to_be_bytes());
            into.extend_from_slice(&extent.state.to_be_bytes());
        }
    }
}

/// Appends the head of a successful read; `len` bytes of data have to follow, and complete the reply.
pub fn push_read_head(into: &mut Vec<u8>, structured: bool, cookie: u64, at: ByteOffset, len: u32) {
    if structured {
        into.extend_from_slice(&offset_data_head(cookie, at, len, true));
    } else {
        into.extend_from_slice(&simple_reply(cookie, Ok(())));
    }
}

/// Appends the successful reply to anything without data.
pub fn push_success(into: &mut Vec<u8>, cookie: u64) {
    into.extend_from_slice(&simple_reply(cookie, Ok(())));
}

/// Appends the failed reply to anything: with the text where structured replies were negotiated.
pub fn push_error(into: &mut Vec<u8>, structured: bool, cookie: u64, error: NbdError, text: &str) {
    if structured {
        error_chunk(into, cookie, error, text);
    } else {
        into.extend_from_slice(&simple_reply(cookie, Err(error)));
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::nbd::Context;

    const COOKIE: u64 = 0x0102_0304_0506_0708;

    /// Every reply stands here byte by byte as the document draws it.
    #[test]
    #[rustfmt::skip]
    fn replies_are_the_documents_bytes() {
        assert_eq!(simple_reply(COOKIE, Err(NbdError::NoSpc)), [
            0x67, 0x44, 0x66, 0x98, // magic
            0, 0, 0, 28,            // error: ENOSPC
            1, 2, 3, 4, 5, 6, 7, 8, // cookie
        ]);
        assert_eq!(offset_data_head(COOKIE, ByteOffset(0x1000), 512, true), [
            0x66, 0x8e, 0x33, 0xef, // magic
            0, 1,                   // flags: DONE
            0, 1,                   // type: OFFSET_DATA
            1, 2, 3, 4, 5, 6, 7, 8, // cookie
            0, 0, 2, 8,             // length: 512 and the offset's 8
            0, 0, 0, 0, 0, 0, 0x10, 0, // offset
        ]);
        assert_eq!(offset_hole(COOKIE, ByteOffset(0x1000), 512, false), [
            0x66, 0x8e, 0x33, 0xef, // magic
            0, 0,                   // flags: more follows
            0, 2,                   // type: OFFSET_HOLE
            1, 2, 3, 4, 5, 6, 7, 8, // cookie
            0, 0, 0, 12,            // length
            0, 0, 0, 0, 0, 0, 0x10, 0, // offset
            0, 0, 2, 0,             // hole of 512 bytes
        ]);
        assert_eq!(none_done(COOKIE), [
            0x66, 0x8e, 0x33, 0xef, // magic
            0, 1,                   // flags: DONE
            0, 0,                   // type: NONE
            1, 2, 3, 4, 5, 6, 7, 8, // cookie
            0, 0, 0, 0,             // length
        ]);
        let mut out = Vec::new();
        error_chunk(&mut out, COOKIE, NbdError::Shutdown, "no");
        assert_eq!(out, [
            0x66, 0x8e, 0x33, 0xef, // magic
            0, 1,                   // flags: DONE
            0x80, 1,                // type: ERROR
            1, 2, 3, 4, 5, 6, 7, 8, // cookie
            0, 0, 0, 8,             // length: 4 + 2 + text
            0, 0, 0, 108,           // error: ESHUTDOWN
            0, 2,                   // text length
            b'n', b'o',
        ]);
        out.clear();
        block_status(&mut out, COOKIE, Contexts::default().with(Context::BaseAllocation), &[Extent { len: 4096, state: 0 }, Extent { len: 512, state: 3 }]);
        assert_eq!(out, [
            0x66, 0x8e, 0x33, 0xef, // magic
            0, 1,                   // flags: DONE
            0, 5,                   // type: BLOCK_STATUS
            1, 2, 3, 4, 5, 6, 7, 8, // cookie
            0, 0, 0, 20,            // length: 4 + 2 × 8
            0, 0, 0, 1,             // context
            0, 0, 0x10, 0,          // 4096 bytes
            0, 0, 0, 0,             // allocated
            0, 0, 2, 0,             // 512 bytes
            0, 0, 0, 3,             // hole that reads as zeroes
        ]);
    }

    /// A block status has one chunk for each context that was selected, and only the last one ends the reply.
    #[test]
    fn each_context_has_its_chunk() {
        let mut out = Vec::new();
        let both = Context::ALL.into_iter().fold(Contexts::default(), Contexts::with);
        block_status(&mut out, COOKIE, both, &[Extent { len: 512, state: 0 }]);
        let (first, second) = out.split_at(CHUNK_HEAD + 12);
        assert_eq!((first[5], second[5]), (0, 1), "flags: DONE");
        assert_eq!((first[CHUNK_HEAD + 3], second[CHUNK_HEAD + 3]), (1, 2), "contexts");
        assert_eq!(first.len(), second.len());
    }

    /// A text longer than a string of the protocol is cut; the lengths still agree.
    #[test]
    fn an_error_text_stays_a_string_of_the_protocol() {
        let mut out = Vec::new();
        push_error(&mut out, true, 1, NbdError::Io, &"x".repeat(5000));
        assert_eq!(out.len(), 20 + 6 + 4096);
        assert_eq!(out[16..20], (6_u32 + 4096).to_be_bytes());
        out.clear();
        push_error(&mut out, false, 1, NbdError::Io, "not carried by a simple reply");
        assert_eq!(out.len(), 16);
    }
}
