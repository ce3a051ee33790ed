//! An NBD client on a Unix socket that never waits inside a request: requests and answers are queued, [`Client::pump`]
//! moves what can move. Simple replies only, as many in flight as its user likes.

use crate::load::nbd::{REPLY_LEN, REQUEST_LEN, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, handshake};
use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A server that does not get through the negotiation within this is left, to be tried again.
const NEGOTIATION: Duration = Duration::from_secs(5);
const RECEIVE_BYTES: usize = 256 << 10;
/// Source: the NetworkBlockDevice project's `doc/proto.md`.
const COMMAND_READ: u16 = 0;
const COMMAND_WRITE: u16 = 1;
const COMMAND_FLUSH: u16 = 3;
const FLAG_FUA: u16 = 1;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A read.
    Read,
    /// A write.
    Write {
        /// That is durable when it is answered.
        fua: bool,
    },
    /// A flush.
    Flush,
}

/// A connection in transmission.
pub struct Client {
    stream: UnixStream,
    size: u64,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    taken: usize,
}

/// An answer; its payload is in [`Client::payload`] until the next pump.
pub struct Answer {
    /// The request's.
    pub cookie: u64,
    /// Zero if all is well.
    pub error: u32,
    payload: Range<usize>,
}

impl Client {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// When nobody is there, or it is no NBD server.
    pub fn connect(socket: &Path, export: &str) -> anyhow::Result<Self> {
        let mut stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(NEGOTIATION))?;
        stream.set_write_timeout(Some(NEGOTIATION))?;
        let size = handshake(&mut stream, export)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, size, out: Vec::new(), sent: 0, input: Vec::new(), taken: 0 })
    }

    /// The export's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Queues a request; `payload` appends what a write carries.
    pub fn ask(&mut self, ask: Ask, cookie: u64, at: u64, len: u32, payload: impl FnOnce(&mut Vec<u8>)) {
        let (command, flags) = match ask {
            Ask::Read => (COMMAND_READ, 0),
            Ask::Write { fua } => (COMMAND_WRITE, if fua { FLAG_FUA } else { 0 }),
            Ask::Flush => (COMMAND_FLUSH, 0),
        };
        let start = self.out.len();
        self.out.extend(REQUEST_MAGIC.to_be_bytes());
        self.out.extend(flags.to_be_bytes());
        self.out.extend(command.to_be_bytes());
        self.out.extend(cookie.to_be_bytes());
        self.out.extend(at.to_be_bytes());
        self.out.extend(len.to_be_bytes());
        assert_eq!(self.out.len() - start, REQUEST_LEN);
        payload(&mut self.out);
    }

    /// Sends and receives what can be, waiting at most `wait` for something to receive.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn pump(&mut self, wait: Duration) -> anyhow::Result<()> {
        self.input.drain(..self.taken);
        self.taken = 0;
        self.send()?;
        let blocked = self.sent < self.out.len();
        let events = if blocked { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.stream, events)], Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for the server"),
        }
        self.send()?;
        let start = self.input.len();
        self.input.resize(start + RECEIVE_BYTES, 0);
        let received = self.stream.read(&mut self.input[start..]);
        let many = match &received {
            Ok(many) => *many,
            Err(_) => 0,
        };
        self.input.truncate(start + many);
        match received {
            Ok(0) => anyhow::bail!("the server hung up"),
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Err(error).context("receiving answers")
            }
            _ => Ok(()),
        }
    }

    /// The next whole answer; `payload` says how many bytes a good answer to this request carries.
    ///
    /// # Errors
    /// When what came is no answer.
    pub fn next_answer(&mut self, payload: impl Fn(u64) -> anyhow::Result<usize>) -> anyhow::Result<Option<Answer>> {
        let Some(head) = self.input.get(self.taken..self.taken + REPLY_LEN) else { return Ok(None) };
        let magic = u32::from_be_bytes(head[0..4].try_into().expect("four bytes"));
        anyhow::ensure!(magic == SIMPLE_REPLY_MAGIC, "an answer begins with {magic:#x}");
        let error = u32::from_be_bytes(head[4..8].try_into().expect("four bytes"));
        let cookie = u64::from_be_bytes(head[8..16].try_into().expect("eight bytes"));
        let start = self.taken + REPLY_LEN;
        let payload = start..start + if error == 0 { payload(cookie)? } else { 0 };
        if payload.end > self.input.len() {
            return Ok(None);
        }
        self.taken = payload.end;
        Ok(Some(Answer { cookie, error, payload }))
    }

    /// What an answer carries.
    pub fn payload(&self, answer: &Answer) -> &[u8] {
        &self.input[answer.payload.clone()]
    }

    fn send(&mut self) -> anyhow::Result<()> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(many) => self.sent += many,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending requests"),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }
}
