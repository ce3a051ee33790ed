//! As much of the NBD protocol as a load needs: fixed newstyle negotiation, requests, simple replies.
//! Source: the NetworkBlockDevice project's `doc/proto.md`. It is not `wire`'s on purpose: the lab is a stranger to muskox.

use anyhow::Context;
use std::io::{IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const INIT_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u32 = 2;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
/// An option reply is short; whoever announces more does not speak NBD.
const OPTION_REPLY_MAX: u32 = 4096;

pub(crate) const REQUEST_LEN: usize = 28;
pub(crate) const REPLY_LEN: usize = 16;
const RECEIVE_BYTES: usize = 512 << 10;
/// A server that answers nothing for this long is reported, not waited for.
const SILENCE: Duration = Duration::from_secs(30);
/// The kernel takes at most this many pieces in one send (`UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// A connection in transmission.
pub struct Connection {
    stream: Box<dyn Stream>,
    size: u64,
    buffer: Vec<u8>,
}

/// A read or a write.
pub struct Request {
    /// Or a read.
    pub write: bool,
    /// Comes back with the answer.
    pub cookie: u64,
    /// From here.
    pub at: u64,
    /// So many bytes.
    pub len: u32,
}

impl Request {
    /// Its 28 bytes.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[6..8].copy_from_slice(&u16::from(self.write).to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.at.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }
}

/// What came back so far: whole replies to be taken, and where in the stream the next bytes belong.
pub struct Replies {
    payload: usize,
    skip: usize,
    head: Vec<u8>,
    whole: Vec<(u64, u32)>,
    last: Option<(u64, u32)>,
}

impl Replies {
    /// `payload` bytes follow each reply that is no error.
    pub fn new(payload: usize) -> Self {
        Self { payload, skip: 0, head: Vec::with_capacity(REPLY_LEN), whole: Vec::new(), last: None }
    }

    /// Cookie and error of every reply that is whole.
    pub fn drain(&mut self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.whole.drain(..)
    }

    /// Takes the next bytes of the stream.
    fn feed(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        loop {
            let skipped = self.skip.min(bytes.len());
            bytes = &bytes[skipped..];
            self.skip -= skipped;
            if self.skip == 0 {
                self.whole.extend(self.last.take());
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let wanted = (REPLY_LEN - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if self.head.len() == REPLY_LEN {
                let magic = u32::from_be_bytes(self.head[0..4].try_into().expect("four bytes"));
                anyhow::ensure!(magic == SIMPLE_REPLY_MAGIC, "a reply begins with {magic:#x}");
                let error = u32::from_be_bytes(self.head[4..8].try_into().expect("four bytes"));
                let cookie = u64::from_be_bytes(self.head[8..16].try_into().expect("eight bytes"));
                self.head.clear();
                self.skip = if error == 0 { self.payload } else { 0 };
                self.last = Some((cookie, error));
            }
        }
    }
}

impl Connection {
    /// Connects over TCP.
    ///
    /// # Errors
    /// When nobody is there, or it is no NBD server.
    pub fn tcp(address: &str, export: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        Self::negotiate(Box::new(stream), export)
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// When nobody is there, or it is no NBD server.
    pub fn unix(path: &Path, export: &str) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("connecting to {}", path.display()))?;
        stream.set_read_timeout(Some(SILENCE))?;
        Self::negotiate(Box::new(stream), export)
    }

    /// The export's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn negotiate(mut stream: Box<dyn Stream>, export: &str) -> anyhow::Result<Self> {
        let size = handshake(stream.as_mut(), export)?;
        Ok(Self { stream, size, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Sends all requests at once, each followed by `payload`.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn send(&mut self, requests: &[[u8; REQUEST_LEN]], payload: &[u8]) -> anyhow::Result<()> {
        let pieces = requests.iter().flat_map(|request| [IoSlice::new(request), IoSlice::new(payload)]);
        let mut pieces: Vec<IoSlice<'_>> = pieces.filter(|piece| !piece.is_empty()).collect();
        let mut left = pieces.as_mut_slice();
        while !left.is_empty() {
            let many = left.len().min(PIECES_MAX);
            let sent = self.stream.write_vectored(&left[..many]).context("sending requests")?;
            anyhow::ensure!(sent > 0, "the server hung up");
            IoSlice::advance_slices(&mut left, sent);
        }
        Ok(())
    }

    /// Waits for bytes and feeds them.
    ///
    /// # Errors
    /// When the connection broke, or the server was silent.
    pub fn receive(&mut self, replies: &mut Replies) -> anyhow::Result<()> {
        let received = self.stream.read(&mut self.buffer).context("waiting for replies")?;
        anyhow::ensure!(received > 0, "the server hung up");
        replies.feed(&self.buffer[..received])
    }
}

/// Negotiates with NBD_OPT_GO; the export's size. After it the stream is in transmission, with simple replies.
///
/// # Errors
/// When it is no NBD server, it refuses the export, or the stream broke.
pub fn handshake<S: Read + Write + ?Sized>(stream: &mut S, export: &str) -> anyhow::Result<u64> {
    let mut hello = [0; 18];
    stream.read_exact(&mut hello).context("waiting for the server's greeting")?;
    let number = |at: usize| u64::from_be_bytes(hello[at..at + 8].try_into().expect("eight bytes"));
    anyhow::ensure!(number(0) == INIT_MAGIC && number(8) == OPTION_MAGIC, "this is no newstyle NBD server");
    let offered = u16::from_be_bytes([hello[16], hello[17]]);
    anyhow::ensure!(offered & FIXED_NEWSTYLE != 0, "the server does not speak fixed newstyle");
    // Our flags are the server's: fixed newstyle 1, no zeroes 2.
    let flags = u32::from(offered) & (u32::from(FIXED_NEWSTYLE) | NO_ZEROES);
    let name_len = u32::try_from(export.len()).context("the export's name is too long")?;
    let mut hello = flags.to_be_bytes().to_vec();
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend(OPTION_GO.to_be_bytes());
    hello.extend((name_len + 6).to_be_bytes());
    hello.extend(name_len.to_be_bytes());
    hello.extend(export.as_bytes());
    hello.extend(0_u16.to_be_bytes());
    stream.write_all(&hello)?;
    read_go_replies(stream, export)
}

/// Reads replies to NBD_OPT_GO until the acknowledgement; the export's size.
fn read_go_replies<S: Read + ?Sized>(stream: &mut S, export: &str) -> anyhow::Result<u64> {
    let mut size = None;
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head).context("waiting for the answer to NBD_OPT_GO")?;
        let magic = u64::from_be_bytes(head[0..8].try_into().expect("eight bytes"));
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let (kind, len) = (word(12), word(16));
        anyhow::ensure!(magic == OPTION_REPLY_MAGIC && len <= OPTION_REPLY_MAX, "this is no reply to an option");
        let mut data = vec![0; len as usize];
        stream.read_exact(&mut data)?;
        match kind {
            REPLY_ACK => return size.context("the server acknowledged without saying how large the export is"),
            REPLY_INFO if data.len() >= 12 && data[..2] == INFO_EXPORT.to_be_bytes() => {
                size = Some(u64::from_be_bytes(data[2..10].try_into().expect("eight bytes")));
            }
            kind if kind & REPLY_ERROR != 0 => {
                anyhow::bail!("the server refuses export '{export}': {} ({kind:#x})", String::from_utf8_lossy(&data))
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: however the stream is cut, the same replies come out. Method: three replies, cut at every byte.
    #[test]
    fn replies_survive_every_cut() {
        let mut stream = Vec::new();
        for (cookie, error) in [(1_u64, 0_u32), (2, 5), (3, 0)] {
            stream.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
            stream.extend(error.to_be_bytes());
            stream.extend(cookie.to_be_bytes());
            stream.extend(vec![0xEE; if error == 0 { 10 } else { 0 }]);
        }
        for cut in 0..=stream.len() {
            let mut replies = Replies::new(10);
            replies.feed(&stream[..cut]).unwrap();
            let mut got: Vec<_> = replies.drain().collect();
            assert_eq!(got.len(), usize::from(cut >= 26) + usize::from(cut >= 42) + usize::from(cut >= 68), "{cut}");
            replies.feed(&stream[cut..]).unwrap();
            got.extend(replies.drain());
            assert_eq!(got, [(1, 0), (2, 5), (3, 0)]);
        }
        assert!(Replies::new(0).feed(&[0; 16]).is_err());
    }

    #[test]
    fn a_request_has_the_protocols_bytes() {
        let bytes = Request { write: true, cookie: 7, at: 4096, len: 512 }.encode();
        assert_eq!(bytes[..8], [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1]);
        assert_eq!(bytes[8..], [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0]);
    }
}
