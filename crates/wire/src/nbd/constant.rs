//! The numbers of the protocol, under the names of its document without the prefix `NBD_`, and muskox's own limits.
//!
//! Source: NetworkBlockDevice/nbd `doc/proto.md`, the section named at each group. All integers travel big endian.

/// `NBDMAGIC`, the first eight bytes of a server. Section "Newstyle negotiation".
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: second half of the greeting, and before every option. Section "Newstyle negotiation".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Before every reply to an option. Section "Fixed newstyle negotiation".
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Before every request. Section "Request message".
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before a simple reply. Section "Simple reply message".
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Before a structured reply chunk. Section "Structured reply chunk message".
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

// Section "Handshake flags" (16 bits, server) and "Client flags" (32 bits, client); the bits are the same.
/// The peer speaks fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// The 124 zeroes after `OPT_EXPORT_NAME` are left out.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;
/// How many zeroes those are.
pub const EXPORT_NAME_ZEROES: usize = 124;

// Section "Option types".
/// Enter transmission, without the possibility of an error.
pub const OPT_EXPORT_NAME: u32 = 1;
/// End the session.
pub const OPT_ABORT: u32 = 2;
/// List the exports.
pub const OPT_LIST: u32 = 3;
/// Upgrade to TLS.
pub const OPT_STARTTLS: u32 = 5;
/// Describe an export.
pub const OPT_INFO: u32 = 6;
/// Enter transmission.
pub const OPT_GO: u32 = 7;
/// Use structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// List metadata contexts.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Select metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;
/// Use 64-bit lengths; answered with `REP_ERR_UNSUP` for now.
pub const OPT_EXTENDED_HEADERS: u32 = 11;

// Section "Option reply types".
/// Accepted, nothing more follows.
pub const REP_ACK: u32 = 1;
/// One export of a list.
pub const REP_SERVER: u32 = 2;
/// One piece of information about an export.
pub const REP_INFO: u32 = 3;
/// One metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// Errors have this bit.
pub const REP_FLAG_ERROR: u32 = 1 << 31;

// Section "Option reply types", under `NBD_REP_INFO`.
/// Size and transmission flags; 12 bytes with its type.
pub const INFO_EXPORT: u16 = 0;
/// Canonical name.
pub const INFO_NAME: u16 = 1;
/// Text for people.
pub const INFO_DESCRIPTION: u16 = 2;
/// Minimum, preferred and maximum block size; 14 bytes with its type.
pub const INFO_BLOCK_SIZE: u16 = 3;

// Section "Request types".
/// Read.
pub const CMD_READ: u16 = 0;
/// Write; its payload follows the request.
pub const CMD_WRITE: u16 = 1;
/// Disconnect; not answered.
pub const CMD_DISC: u16 = 2;
/// Make answered writes durable.
pub const CMD_FLUSH: u16 = 3;
/// The content is not needed any more.
pub const CMD_TRIM: u16 = 4;
/// Prefetch; not offered.
pub const CMD_CACHE: u16 = 5;
/// Write zeroes.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// What a range is made of.
pub const CMD_BLOCK_STATUS: u16 = 7;

// Section "Command flags".
/// Durable before the reply.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
/// `CMD_WRITE_ZEROES`: keep the space allocated.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// `CMD_READ`: at most one content chunk.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// `CMD_BLOCK_STATUS`: one extent only.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// `CMD_WRITE_ZEROES`: only if faster than writing.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

// Section "Structured reply flags" and "Structured reply types".
/// The last chunk of a reply.
pub const REPLY_FLAG_DONE: u16 = 1 << 0;
/// No payload, always last.
pub const REPLY_TYPE_NONE: u16 = 0;
/// Offset, then data.
pub const REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Offset and length of zeroes.
pub const REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Context and extents.
pub const REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Error chunks have this bit.
pub const REPLY_TYPE_FLAG_ERROR: u16 = 1 << 15;
/// Error and text.
pub const REPLY_TYPE_ERROR: u16 = REPLY_TYPE_FLAG_ERROR | 1;
/// Error, text and the offset where it happened.
pub const REPLY_TYPE_ERROR_OFFSET: u16 = REPLY_TYPE_FLAG_ERROR | 2;

// Section "`base:allocation` metadata context".
/// Not allocated.
pub const STATE_HOLE: u32 = 1 << 0;
/// Reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;

/// A string is never longer. Section "Conventions".
pub const STRING_MAX: usize = 4096;
/// What a server accepts at least, and clients without other advice use at most: 32 MiB. Section "Block size
/// constraints".
pub const PAYLOAD_MAX: u32 = 1 << 25;
/// No minimum block size is larger. Section "Block size constraints".
pub const MIN_BLOCK_MAX: u32 = 1 << 16;

/// The port of IANA's registry.
pub const PORT: u16 = 10809;

// muskox's own limits. A peer that passes one is misbehaving, so the connection ends or the option is refused.
/// Longest option data kept in memory: a name (4 KiB) and 15 queries of the longest kind.
pub const OPTION_LEN_MAX: u32 = 64 << 10;
/// Longest option data read and thrown away to be polite; CVE-2017-15119 was 4 GiB.
pub const OPTION_DRAIN_MAX: u32 = 1 << 20;
/// Options in one handshake. A client needs about five, `nbdinfo --list` two a volume.
pub const OPTIONS_MAX: u32 = 1024;
/// Information requests in one option; four are defined.
pub const INFO_REQUESTS_MAX: u16 = 64;
/// Queries for metadata contexts in one option.
pub const META_QUERIES_MAX: u32 = 64;
/// Longest reply to an option that a client takes: `REP_SERVER` with name and description, and room.
pub const OPTION_REPLY_LEN_MAX: u32 = 64 << 10;
/// Replies a client takes for one option of its own.
pub const OPTION_REPLIES_MAX: u32 = 64;
/// Chunks a client takes for one request: 32 MiB in pieces of 512 bytes.
pub const CHUNKS_MAX: u32 = 1 << 16;
/// Pieces out of order that a client remembers for one read.
pub const ISLANDS_MAX: usize = 256;
/// Extents a client takes in one block status chunk (1 MiB).
pub const EXTENTS_MAX: u32 = 1 << 17;
