//! The client: our initiator's end. A server is not trusted either: it may lie about sizes, send what nobody asked
//! for, or never stop.

mod handshake;
mod pending;
mod reply;

pub use handshake::{ClientCommand, ClientConfig, ClientFailure, ClientHandshake, ClientTls, Ready};
pub use pending::{Follows, Pending, Progress, decode_extents};
pub use reply::{ReplyBody, ReplyHead, decode_reply};

use super::Request;
use super::bytes::Fill;
use super::constant::REQUEST_MAGIC;

/// A request's bytes; the payload of a write follows. Source: `doc/proto.md`, section "Request message".
#[must_use]
pub fn encode_request(request: &Request) -> [u8; Request::BYTES] {
    let mut out = [0; Request::BYTES];
    let mut fill = Fill(&mut out);
    fill.put(&REQUEST_MAGIC.to_be_bytes()).put(&request.flags.to_be_bytes()).put(&request.command.to_be_bytes());
    fill.put(&request.cookie.to_be_bytes()).put(&request.at.0.to_be_bytes()).put(&request.len.to_be_bytes()).full();
    out
}
