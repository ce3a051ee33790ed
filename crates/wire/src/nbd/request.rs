//! Requests on the server: decoding, and what each one is allowed to do. The hot path; nothing here allocates.
//!
//! The payload of a write does not pass through: [`Operation::Write`] says how many bytes follow, [`Verdict::Refuse`]
//! how many have to be read and thrown away.

use super::bytes::{take_u16, take_u32, take_u64};
use super::constant::{
    CMD_BLOCK_STATUS, CMD_DISC, CMD_FLAG_DF, CMD_FLAG_FAST_ZERO, CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLAG_REQ_ONE,
    CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, PAYLOAD_MAX, REQUEST_MAGIC,
};
use super::{ExportInfo, NbdError, TransmissionFlags, WireError};
use units::{ByteLen, ByteOffset};

/// A request as it stands on the wire. Source: `doc/proto.md`, section "Request message".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// `CMD_FLAG_*`.
    pub flags: u16,
    /// `CMD_*`.
    pub command: u16,
    /// Chosen by the client, returned in the reply.
    pub cookie: u64,
    /// Where.
    pub at: ByteOffset,
    /// How many bytes.
    pub len: u32,
}

impl Request {
    /// How many bytes it has, without a payload.
    pub const BYTES: usize = 28;

    /// How many payload bytes follow it.
    #[must_use]
    pub const fn payload_bytes(&self) -> u32 {
        if self.command == CMD_WRITE { self.len } else { 0 }
    }
}

/// Cuts a request off the front of `from`; `None` and nothing cut while it is incomplete.
///
/// # Errors
/// The magic is wrong: the stream is out of step and must be closed.
pub fn decode_request(from: &mut &[u8]) -> Result<Option<Request>, WireError> {
    let mut rest = *from;
    let Some(magic) = take_u32(&mut rest) else {
        return Ok(None);
    };
    if magic != REQUEST_MAGIC {
        return Err(WireError::new("a request begins with another magic", u64::from(magic)));
    }
    let request = decode_fields(&mut rest);
    if request.is_some() {
        *from = rest;
    }
    Ok(request)
}

fn decode_fields(rest: &mut &[u8]) -> Option<Request> {
    Some(Request {
        flags: take_u16(rest)?,
        command: take_u16(rest)?,
        cookie: take_u64(rest)?,
        at: ByteOffset(take_u64(rest)?),
        len: take_u32(rest)?,
    })
}

/// What the requests of one connection are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long the export is; it may grow.
    pub size: ByteLen,
    /// Offsets and lengths are multiples of this power of two.
    pub block_bytes: u32,
    /// Longest payload.
    pub payload_max: u32,
    /// What was advertised.
    pub flags: TransmissionFlags,
    /// Whether a context for it was selected.
    pub block_status: bool,
}

/// What a good request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Answer with `len` bytes.
    Read {
        /// Where.
        at: ByteOffset,
        /// How many bytes.
        len: u32,
    },
    /// `len` bytes follow on the stream.
    Write {
        /// Where.
        at: ByteOffset,
        /// How many bytes.
        len: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Make answered writes durable.
    Flush,
    /// The content is not needed any more.
    Trim {
        /// Where.
        at: ByteOffset,
        /// How many bytes.
        len: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Make a range zero.
    WriteZeroes {
        /// Where.
        at: ByteOffset,
        /// How many bytes.
        len: u32,
        /// Durable before the reply.
        fua: bool,
        /// Whether the space may be given back.
        may_unmap: bool,
    },
    /// Say what a range is made of.
    BlockStatus {
        /// Where.
        at: ByteOffset,
        /// How many bytes; a hint unless `one`.
        len: u32,
        /// Exactly one extent, no longer than `len`.
        one: bool,
    },
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Do(Operation),
    /// Read and forget `skip` bytes, then answer with `error`.
    Refuse {
        /// What to answer.
        error: NbdError,
        /// How many payload bytes follow the request.
        skip: u32,
    },
    /// Answer what is in flight, then close; no reply.
    Disconnect,
    /// Close now.
    Close(WireError),
}

impl Limits {
    /// The limits of an export as it was offered.
    #[must_use]
    pub fn of(export: &ExportInfo, block_status: bool) -> Self {
        Self {
            size: export.size,
            block_bytes: export.block.min,
            payload_max: export.block.max.min(PAYLOAD_MAX),
            flags: export.flags,
            block_status,
        }
    }

    /// Decides about a request. Where the document leaves the error open, `docs/formats/nbd.md` says why this one.
    #[must_use]
    pub fn check(&self, request: &Request) -> Verdict {
        let skip = request.payload_bytes();
        if skip > PAYLOAD_MAX {
            return Verdict::Close(WireError::new("a write longer than 32 MiB", u64::from(skip)));
        }
        if request.command == CMD_DISC {
            return Verdict::Disconnect;
        }
        match self.decide(request) {
            Ok(operation) => Verdict::Do(operation),
            Err(error) => Verdict::Refuse { error, skip },
        }
    }

    fn decide(&self, request: &Request) -> Result<Operation, NbdError> {
        let Request { flags, at, len, .. } = *request;
        let fua = flags & CMD_FLAG_FUA != 0;
        self.check_flags(request)?;
        match request.command {
            CMD_READ => {
                self.check_range(request, NbdError::Inval)?;
                self.check_payload(len)?;
                Ok(Operation::Read { at, len })
            }
            CMD_WRITE => {
                self.check_writable()?;
                self.check_range(request, NbdError::NoSpc)?;
                self.check_payload(len)?;
                Ok(Operation::Write { at, len, fua })
            }
            CMD_FLUSH if at.0 == 0 && len == 0 => self.offered(TransmissionFlags::SEND_FLUSH, Operation::Flush),
            CMD_TRIM => {
                self.check_writable()?;
                self.check_range(request, NbdError::Inval)?;
                self.offered(TransmissionFlags::SEND_TRIM, Operation::Trim { at, len, fua })
            }
            CMD_WRITE_ZEROES => {
                self.check_writable()?;
                self.check_range(request, NbdError::NoSpc)?;
                let operation = Operation::WriteZeroes { at, len, fua, may_unmap: flags & CMD_FLAG_NO_HOLE == 0 };
                let operation = self.offered(TransmissionFlags::SEND_WRITE_ZEROES, operation)?;
                // Zeroes are written to every member of an array: never known to be faster than data.
                if flags & CMD_FLAG_FAST_ZERO != 0 { Err(NbdError::NotSup) } else { Ok(operation) }
            }
            CMD_BLOCK_STATUS if self.block_status => {
                self.check_range(request, NbdError::Inval)?;
                Ok(Operation::BlockStatus { at, len, one: flags & CMD_FLAG_REQ_ONE != 0 })
            }
            _ => Err(NbdError::Inval),
        }
    }

    /// Section "Error values": a flag that is unknown, or not documented for the command, is EINVAL. FUA is valid
    /// with every command once offered (section "Command flags").
    fn check_flags(&self, request: &Request) -> Result<(), NbdError> {
        let own = match request.command {
            CMD_READ if self.flags.has(TransmissionFlags::SEND_DF) => CMD_FLAG_DF,
            CMD_WRITE_ZEROES if self.flags.has(TransmissionFlags::SEND_FAST_ZERO) => {
                CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO
            }
            CMD_WRITE_ZEROES => CMD_FLAG_NO_HOLE,
            CMD_BLOCK_STATUS => CMD_FLAG_REQ_ONE,
            _ => 0,
        };
        let fua = if self.flags.has(TransmissionFlags::SEND_FUA) { CMD_FLAG_FUA } else { 0 };
        if request.flags & !(own | fua) == 0 { Ok(()) } else { Err(NbdError::Inval) }
    }

    fn check_writable(&self) -> Result<(), NbdError> {
        if self.flags.has(TransmissionFlags::READ_ONLY) { Err(NbdError::Perm) } else { Ok(()) }
    }

    fn check_range(&self, request: &Request, past_the_end: NbdError) -> Result<(), NbdError> {
        let len = ByteLen(u64::from(request.len));
        if len.0 == 0 || !request.at.is_aligned(self.block_bytes) || !len.is_aligned(self.block_bytes) {
            return Err(NbdError::Inval);
        }
        match request.at.checked_add(len) {
            Some(end) if end.0 <= self.size.0 => Ok(()),
            _ => Err(past_the_end),
        }
    }

    fn check_payload(&self, len: u32) -> Result<(), NbdError> {
        if len <= self.payload_max { Ok(()) } else { Err(NbdError::Inval) }
    }

    fn offered(&self, flag: TransmissionFlags, operation: Operation) -> Result<Operation, NbdError> {
        if self.flags.has(flag) { Ok(operation) } else { Err(NbdError::Inval) }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::nbd::constant::{CMD_CACHE, CMD_FLAG_REQ_ONE};

    const MIB: u32 = 1 << 20;

    fn limits() -> Limits {
        let all = TransmissionFlags(0xffff).without(TransmissionFlags::READ_ONLY);
        Limits { size: ByteLen::mib(64), block_bytes: 4096, payload_max: 32 * MIB, flags: all, block_status: true }
    }

    fn request(command: u16, flags: u16, at: u64, len: u32) -> Request {
        Request { flags, command, cookie: 7, at: ByteOffset(at), len }
    }

    #[rustfmt::skip]
    const WRITE: [u8; 28] = [
        0x25, 0x60, 0x95, 0x13,                         // magic
        0x00, 0x01,                                     // flags: FUA
        0x00, 0x01,                                     // command: WRITE
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, // cookie
        0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x10, 0x00, // offset: 4 GiB + 4096
        0x00, 0x00, 0x20, 0x00,                         // length: 8192
    ];

    /// The bytes of the document's table, whole and cut at every place: nothing is taken before all is there.
    #[test]
    fn a_request_is_decoded_once_it_is_whole() {
        for cut in 0..WRITE.len() {
            let mut from = &WRITE[..cut];
            assert_eq!(decode_request(&mut from), Ok(None));
            assert_eq!(from.len(), cut);
        }
        let mut from = &[&WRITE[..], &[0xee]].concat()[..];
        let expect = Request {
            flags: CMD_FLAG_FUA,
            command: CMD_WRITE,
            cookie: 0x1122_3344_5566_7788,
            at: ByteOffset((1 << 32) + 4096),
            len: 8192,
        };
        assert_eq!(decode_request(&mut from), Ok(Some(expect)));
        assert_eq!(from, [0xee]);
        assert_eq!(crate::nbd::encode_request(&expect), WRITE);
        // Byte-swapped, the historic magic, and the first byte of something else.
        for magic in [0x1395_6025_u32, 0x1256_0953, 0] {
            assert!(decode_request(&mut &magic.to_be_bytes()[..]).is_err(), "{magic:#x}");
        }
    }

    /// One row a rule of the document: what is done, which error is answered, how much is skipped.
    #[test]
    fn requests_are_checked_against_the_export() {
        use NbdError::{Inval, NoSpc, NotSup};
        use Operation::*;
        let at = ByteOffset(4096);
        let refused = |error, skip| Verdict::Refuse { error, skip };
        let table = [
            (request(CMD_READ, 0, 4096, 4096), Verdict::Do(Read { at, len: 4096 })),
            (request(CMD_READ, CMD_FLAG_DF | CMD_FLAG_FUA, 4096, 4096), Verdict::Do(Read { at, len: 4096 })),
            (request(CMD_READ, 0, 0, 32 * MIB), Verdict::Do(Read { at: ByteOffset(0), len: 32 * MIB })),
            (request(CMD_READ, 0, 0, 32 * MIB + 4096), refused(Inval, 0)), // above the maximum
            (request(CMD_READ, 0, 0, 0), refused(Inval, 0)),               // nothing asked for
            (request(CMD_READ, 0, 512, 4096), refused(Inval, 0)),          // offset unaligned
            (request(CMD_READ, 0, 0, 512), refused(Inval, 0)),             // length unaligned
            (request(CMD_READ, 0, 64 << 20, 4096), refused(Inval, 0)),     // past the end
            (request(CMD_READ, 0, u64::MAX - 4095, 4096), refused(Inval, 0)), // past 2^64
            (request(CMD_READ, CMD_FLAG_REQ_ONE, 0, 4096), refused(Inval, 0)), // another command's flag
            (request(CMD_READ, 1 << 5, 0, 4096), refused(Inval, 0)),       // unknown flag
            (request(CMD_WRITE, 0, 4096, 8192), Verdict::Do(Write { at, len: 8192, fua: false })),
            (request(CMD_WRITE, CMD_FLAG_FUA, 4096, 8192), Verdict::Do(Write { at, len: 8192, fua: true })),
            (request(CMD_WRITE, 0, 1, 4096), refused(Inval, 4096)), // the payload follows all the same
            (request(CMD_WRITE, CMD_FLAG_DF, 0, 4096), refused(Inval, 4096)),
            (request(CMD_WRITE, 0, 64 << 20, 4096), refused(NoSpc, 4096)), // past the end, as the document says
            (request(CMD_FLUSH, CMD_FLAG_FUA, 0, 0), Verdict::Do(Flush)),
            (request(CMD_FLUSH, 0, 4096, 0), refused(Inval, 0)), // must be zero
            (request(CMD_FLUSH, 0, 0, 1), refused(Inval, 0)),
            (request(CMD_TRIM, 0, 4096, 4096), Verdict::Do(Trim { at, len: 4096, fua: false })),
            (request(CMD_TRIM, 0, 64 << 20, 4096), refused(Inval, 0)),
            (
                request(CMD_WRITE_ZEROES, 0, 4096, 40 * MIB), // no payload: longer than 32 MiB is fine
                Verdict::Do(WriteZeroes { at, len: 40 * MIB, fua: false, may_unmap: true }),
            ),
            (
                request(CMD_WRITE_ZEROES, CMD_FLAG_NO_HOLE | CMD_FLAG_FUA, 4096, 4096),
                Verdict::Do(WriteZeroes { at, len: 4096, fua: true, may_unmap: false }),
            ),
            (request(CMD_WRITE_ZEROES, CMD_FLAG_FAST_ZERO, 0, 4096), refused(NotSup, 0)),
            (request(CMD_WRITE_ZEROES, 0, 64 << 20, 4096), refused(NoSpc, 0)),
            (request(CMD_BLOCK_STATUS, 0, 4096, 4096), Verdict::Do(BlockStatus { at, len: 4096, one: false })),
            (
                request(CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, 4096, 4096),
                Verdict::Do(BlockStatus { at, len: 4096, one: true }),
            ),
            (request(CMD_BLOCK_STATUS, 0, 64 << 20, 4096), refused(Inval, 0)),
            (request(CMD_CACHE, 0, 0, 4096), refused(Inval, 0)),
            (request(8, 0, 0, 0), refused(Inval, 0)),
            (request(0xffff, 0xffff, u64::MAX, u32::MAX), refused(Inval, 0)),
            (request(CMD_DISC, 0, 0, 0), Verdict::Disconnect),
        ];
        for (request, expect) in table {
            assert_eq!(limits().check(&request), expect, "{request:?}");
        }
        let huge = limits().check(&request(CMD_WRITE, 0, 0, 32 * MIB + 4096));
        assert!(matches!(huge, Verdict::Close(_)), "a payload nobody can want is not read: {huge:?}");
    }

    /// What was not advertised is EINVAL; writes to a read-only export are EPERM; each flag is taken away alone.
    #[test]
    fn what_was_not_offered_is_refused() {
        use NbdError::{Inval, Perm};
        use TransmissionFlags as Flags;
        let table = [
            (Flags::SEND_FLUSH, request(CMD_FLUSH, 0, 0, 0), Inval),
            (Flags::SEND_FUA, request(CMD_TRIM, CMD_FLAG_FUA, 0, 4096), Inval),
            (Flags::SEND_TRIM, request(CMD_TRIM, 0, 0, 4096), Inval),
            (Flags::SEND_WRITE_ZEROES, request(CMD_WRITE_ZEROES, 0, 0, 4096), Inval),
            (Flags::SEND_DF, request(CMD_READ, CMD_FLAG_DF, 0, 4096), Inval),
            (Flags::SEND_FAST_ZERO, request(CMD_WRITE_ZEROES, CMD_FLAG_FAST_ZERO, 0, 4096), Inval),
        ];
        for (flag, request, error) in table {
            let limits = Limits { flags: limits().flags.without(flag), ..limits() };
            assert_eq!(limits.check(&request), Verdict::Refuse { error, skip: 0 }, "{request:?}");
        }
        let reader = Limits { flags: limits().flags.with(Flags::READ_ONLY), ..limits() };
        for (command, skip) in [(CMD_WRITE, 4096), (CMD_TRIM, 0), (CMD_WRITE_ZEROES, 0)] {
            assert_eq!(reader.check(&request(command, 0, 0, 4096)), Verdict::Refuse { error: Perm, skip });
        }
        assert!(matches!(reader.check(&request(CMD_READ, 0, 0, 4096)), Verdict::Do(_)));
        let blind = Limits { block_status: false, ..limits() };
        let refused = Verdict::Refuse { error: Inval, skip: 0 };
        assert_eq!(blind.check(&request(CMD_BLOCK_STATUS, 0, 0, 4096)), refused);
    }
}
