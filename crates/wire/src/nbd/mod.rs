//! NBD, fixed newstyle, both ends.
//!
//! A connection has two phases. The handshake is a step machine on each side ([`ServerHandshake`],
//! [`ClientHandshake`]): bytes in, commands out. Transmission is a codec without state: the payload of a write or
//! read never passes through it, the caller moves it straight between the socket and its final buffer and is only
//! told how many bytes follow.
//!
//! ```text
//!  client                                      server
//!    ◀──────────── NBDMAGIC IHAVEOPT flags ──────
//!    ── client flags ──▶
//!    ── STARTTLS ──▶            ◀── ACK ──          both sides forget what was negotiated before
//!    ══ TLS ══════════════════════════════════
//!    ── STRUCTURED_REPLY, SET_META_CONTEXT ──▶      ◀── ACK ──
//!    ── GO name ──▶                                 ◀── INFO…, ACK ──  or an error with a text
//!    ── request ──▶                                 ◀── simple reply | structured chunks ──
//! ```
//!
//! Source of every number here: the NBD protocol document, NetworkBlockDevice/nbd `doc/proto.md`.
//! What muskox does where it leaves a choice, and how fencing shows on the wire, is `docs/formats/nbd.md`.

mod bytes;
mod client;
pub mod constant;
mod context;
mod entry;
mod error;
mod export;
mod name;
mod option;
mod reply;
mod request;
mod server;
#[cfg(test)]
mod test;

pub use client::{
    ClientCommand, ClientConfig, ClientFailure, ClientHandshake, ClientTls, Follows, Pending, Progress, Ready,
    ReplyBody, ReplyHead, decode_extents, decode_reply, encode_request,
};
pub use context::{Context, Contexts};
pub use entry::NoEntry;
pub use error::{NbdError, OptionError, Refusal, WireError};
pub use export::{BlockSizes, ExportInfo, ListedExport, TransmissionFlags};
pub use name::{AttachAs, ExportName, NameError};
pub use reply::{
    Extent, block_status, error_chunk, none_done, offset_data_head, offset_hole, push_error, push_read_head,
    push_success, simple_reply,
};
pub use request::{Limits, Operation, Request, Verdict, decode_request};
pub use server::{Closing, Negotiated, OpenFor, ServerCommand, ServerHandshake, TlsPolicy};
