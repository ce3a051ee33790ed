//! What can go wrong between two ends: an error number in a reply, a refused option, a broken protocol.

use super::constant::{REP_FLAG_ERROR, STRING_MAX};
use std::fmt;

/// The error numbers of replies. Source: `doc/proto.md`, section "Error values".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NbdError {
    /// Not allowed: a write through a read-only or standby attachment.
    Perm,
    /// The media failed.
    Io,
    /// No memory.
    NoMem,
    /// A request that makes no sense.
    Inval,
    /// Past the end, or no space.
    NoSpc,
    /// A read that does not fit one chunk.
    Overflow,
    /// Only for `CMD_FLAG_FAST_ZERO`.
    NotSup,
    /// The server goes away; with muskox also: this attachment's epoch is over.
    Shutdown,
}

impl NbdError {
    /// The number on the wire.
    #[must_use]
    pub const fn wire(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::NoMem => 12,
            Self::Inval => 22,
            Self::NoSpc => 28,
            Self::Overflow => 75,
            Self::NotSup => 95,
            Self::Shutdown => 108,
        }
    }

    /// The error a peer sent; 0 is none. An unexpected number counts as [`NbdError::Inval`], as the document says.
    ///
    /// # Errors
    /// What `number` means.
    pub const fn from_wire(number: u32) -> Result<(), Self> {
        Err(match number {
            0 => return Ok(()),
            1 => Self::Perm,
            5 => Self::Io,
            12 => Self::NoMem,
            28 => Self::NoSpc,
            75 => Self::Overflow,
            95 => Self::NotSup,
            108 => Self::Shutdown,
            _ => Self::Inval,
        })
    }

    /// What to answer when the kernel said `errno` (Linux numbers, `asm-generic/errno.h`). EDQUOT and EFBIG count as
    /// ENOSPC by the document; what has no number there is [`NbdError::Io`]: the operation did not happen.
    #[must_use]
    pub const fn from_errno(errno: i32) -> Self {
        match errno {
            1 | 30 => Self::Perm,
            12 => Self::NoMem,
            22 => Self::Inval,
            27 | 28 | 122 => Self::NoSpc,
            75 => Self::Overflow,
            95 => Self::NotSup,
            108 => Self::Shutdown,
            _ => Self::Io,
        }
    }
}

impl fmt::Display for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perm => "operation not permitted",
            Self::Io => "input/output error",
            Self::NoMem => "out of memory",
            Self::Inval => "invalid request",
            Self::NoSpc => "no space left, or past the end",
            Self::Overflow => "too large for one chunk",
            Self::NotSup => "not supported",
            Self::Shutdown => "the server has ended this attachment",
        })
    }
}

/// Why an option was refused. Source: `doc/proto.md`, section "Option reply types".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OptionError {
    /// Unknown option.
    Unsup,
    /// Forbidden by the server's policy.
    Policy,
    /// Malformed or at the wrong time.
    Invalid,
    /// Not on this platform.
    Platform,
    /// Not before TLS.
    TlsReqd,
    /// No such export.
    Unknown,
    /// The server goes away, or the volume cannot be served now.
    Shutdown,
    /// Not without asking for block sizes.
    BlockSizeReqd,
    /// Too large.
    TooBig,
    /// Not without extended headers.
    ExtHeaderReqd,
    /// One that is not in the document; without the error bit.
    Other(u32),
}

impl OptionError {
    /// The reply type on the wire.
    #[must_use]
    pub const fn wire(self) -> u32 {
        REP_FLAG_ERROR
            | match self {
                Self::Unsup => 1,
                Self::Policy => 2,
                Self::Invalid => 3,
                Self::Platform => 4,
                Self::TlsReqd => 5,
                Self::Unknown => 6,
                Self::Shutdown => 7,
                Self::BlockSizeReqd => 8,
                Self::TooBig => 9,
                Self::ExtHeaderReqd => 10,
                Self::Other(number) => number,
            }
    }

    /// What a reply type means; `None` if it is not an error.
    #[must_use]
    pub const fn from_wire(kind: u32) -> Option<Self> {
        if kind & REP_FLAG_ERROR == 0 {
            return None;
        }
        Some(match kind & !REP_FLAG_ERROR {
            1 => Self::Unsup,
            2 => Self::Policy,
            3 => Self::Invalid,
            4 => Self::Platform,
            5 => Self::TlsReqd,
            6 => Self::Unknown,
            7 => Self::Shutdown,
            8 => Self::BlockSizeReqd,
            9 => Self::TooBig,
            10 => Self::ExtHeaderReqd,
            number => Self::Other(number),
        })
    }
}

/// An option refused, with the server's words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} ({kind:?})")]
pub struct Refusal {
    /// What kind.
    pub kind: OptionError,
    /// What is wrong and what to do, at most [`STRING_MAX`] bytes.
    pub text: String,
}

impl Refusal {
    /// A refusal of `kind`; the text is cut to what fits a string of the protocol.
    pub fn new(kind: OptionError, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.truncate(cut(&text));
        Self { kind, text }
    }

    /// There is no such volume.
    pub fn unknown(text: impl Into<String>) -> Self {
        Self::new(OptionError::Unknown, text)
    }

    /// The gate, or an administrator, says no.
    pub fn policy(text: impl Into<String>) -> Self {
        Self::new(OptionError::Policy, text)
    }

    /// The volume cannot be served now, or the server stops.
    pub fn shutdown(text: impl Into<String>) -> Self {
        Self::new(OptionError::Shutdown, text)
    }
}

/// Where to cut `text` so that it fits a string of the protocol and stays UTF-8.
pub(super) fn cut(text: &str) -> usize {
    text.floor_char_boundary(STRING_MAX)
}

/// A peer's text as it may be shown: bounded, valid, without control characters.
pub(super) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(STRING_MAX)]);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The peer broke the protocol. There is one thing to do: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke the NBD protocol: {what} (got {got:#x})")]
pub struct WireError {
    /// What was broken.
    pub what: &'static str,
    /// The number that broke it.
    pub got: u64,
}

impl WireError {
    /// That `what` was broken by `got`.
    #[must_use]
    pub const fn new(what: &'static str, got: u64) -> Self {
        Self { what, got }
    }

    /// A reply to a request that is not in flight.
    #[must_use]
    pub const fn unknown_cookie(cookie: u64) -> Self {
        Self::new("a reply to no request in flight", cookie)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Every error survives the wire; what is not in the document becomes EINVAL.
    #[test]
    fn errors_survive_the_wire() {
        use NbdError::*;
        for error in [Perm, Io, NoMem, Inval, NoSpc, Overflow, NotSup, Shutdown] {
            assert_eq!(NbdError::from_wire(error.wire()), Err(error));
            let errno = i32::try_from(error.wire()).unwrap();
            assert_eq!(NbdError::from_errno(errno), error, "the document took Linux's numbers");
        }
        assert_eq!(NbdError::from_wire(0), Ok(()));
        assert_eq!(NbdError::from_wire(0xffff_ffff), Err(Inval));
        for number in 0..=11 {
            let kind = OptionError::from_wire(REP_FLAG_ERROR | number).unwrap();
            assert_eq!(kind.wire(), REP_FLAG_ERROR | number);
        }
        assert_eq!(OptionError::from_wire(1), None);
    }

    /// A long text is cut between characters, not within one.
    #[test]
    fn a_text_is_cut_between_characters() {
        let refusal = Refusal::policy("ä".repeat(3000));
        assert_eq!(refusal.text.len(), STRING_MAX);
        let refusal = Refusal::policy(format!("a{}", "ä".repeat(3000)));
        assert_eq!(refusal.text.len(), STRING_MAX - 1);
        assert_eq!(shown(b"a\x1b[31m\xff"), "a\u{fffd}[31m\u{fffd}");
    }
}
