//! The client's handshake as a step machine: bytes in, commands out, like the server's.
//!
//! ```text
//!  Greeting ─▶ [STARTTLS ─▶ AwaitTls] ─▶ STRUCTURED_REPLY ─▶ [SET_META_CONTEXT] ─▶ GO ─▶ Over (ready or failed)
//! ```
//!
//! Invariants: with [`ClientTls::Required`] no name and no negotiation crosses in plaintext, and a server that refuses
//! TLS is left, never served without (CVE-2019-14842); there is no way back to EXPORT_NAME, whose errors have no
//! words. Replies are bounded in length and number. It does *not* know why a volume is attached.

use crate::nbd::bytes::{Gather, take_u16, take_u32, take_u64};
use crate::nbd::constant::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, INIT_MAGIC,
    OPT_ABORT, OPT_GO, OPT_SET_META_CONTEXT, OPT_STARTTLS, OPT_STRUCTURED_REPLY, OPTION_MAGIC, OPTION_REPLIES_MAX,
    OPTION_REPLY_LEN_MAX, OPTION_REPLY_MAGIC, REP_ACK, REP_INFO, REP_META_CONTEXT, STRING_MAX,
};
use crate::nbd::error::shown;
use crate::nbd::option::{OPTION_REPLY_HEAD, encode_info, encode_meta, push_option};
use crate::nbd::{BlockSizes, Context, ExportInfo, OptionError, Refusal, TransmissionFlags, WireError};
use std::collections::VecDeque;
use units::ByteLen;

/// Whether a connection is made over TLS. There is no "if the server can".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTls {
    /// TLS or nothing.
    Required,
    /// Plaintext: Unix sockets and loopback.
    Off,
}

/// What the client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// The export's name, at most [`STRING_MAX`] bytes.
    pub export: String,
    /// Over TLS?
    pub tls: ClientTls,
    /// What a block status shall be about, if the server knows it.
    pub context: Option<Context>,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCommand {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Do the TLS handshake, then call [`ClientHandshake::tls_started`].
    StartTls,
    /// The handshake is over; requests may be sent.
    Ready(Ready),
    /// Close the connection, after what was sent.
    Failed(ClientFailure),
}

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The export; its block sizes are the document's defaults if the server named none.
    pub export: ExportInfo,
    /// Whether reads are answered in chunks.
    pub structured: bool,
    /// The server's id of the context that was asked for; `None`: it does not know it.
    pub context: Option<u32>,
}

/// Why there is no export.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientFailure {
    /// The server says no to the export, with its words.
    #[error("the server refused: {0}")]
    Refused(Refusal),
    /// The server says no to TLS; it is not asked without.
    #[error("TLS is required, but the server refused it: {0}")]
    TlsRefused(Refusal),
    /// The server broke the protocol.
    #[error(transparent)]
    Broken(#[from] WireError),
}

#[derive(Debug)]
enum State {
    Greeting,
    ReplyHead { option: u32 },
    ReplyData { option: u32, kind: u32, len: usize },
    AwaitTls,
    Over,
}

/// One connection's handshake.
#[derive(Debug)]
pub struct ClientHandshake {
    config: ClientConfig,
    structured: bool,
    context: Option<u32>,
    size_and_flags: Option<(ByteLen, TransmissionFlags)>,
    block: BlockSizes,
    name: Option<String>,
    description: Option<String>,
    replies: u32,
    held: Gather,
    state: State,
    queue: VecDeque<ClientCommand>,
}

impl ClientHandshake {
    /// A handshake that has not begun: the server speaks first.
    ///
    /// # Panics
    /// If the export's name is no string of the protocol.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        assert!(config.export.len() <= STRING_MAX && !config.export.contains('\0'), "an export name of ours fits");
        Self {
            config,
            structured: false,
            context: None,
            size_and_flags: None,
            block: BlockSizes::DEFAULT,
            name: None,
            description: None,
            replies: 0,
            held: Gather::default(),
            state: State::Greeting,
            queue: VecDeque::new(),
        }
    }

    /// Takes what it understands from `input` and says what to do next; `None` until there are more bytes.
    pub fn step(&mut self, input: &mut &[u8]) -> Option<ClientCommand> {
        while self.queue.is_empty() {
            match self.advance(input) {
                Ok(true) => {}
                Ok(false) => break,
                Err(broken) => self.fail(ClientFailure::Broken(broken)),
            }
        }
        self.queue.pop_front()
    }

    /// TLS is up: what follows in the input was decrypted.
    ///
    /// # Panics
    /// If nobody asked for it.
    pub fn tls_started(&mut self) {
        assert!(matches!(self.state, State::AwaitTls), "TLS started without STARTTLS");
        self.send_option(OPT_STRUCTURED_REPLY, &[]);
    }

    /// How many bytes of a half-received message are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Does one thing; `false` when it has to wait.
    fn advance(&mut self, input: &mut &[u8]) -> Result<bool, WireError> {
        match self.state {
            State::Greeting => match self.held.fill(input, 18) {
                Some(bytes) => self.greeting(&bytes)?,
                None => return Ok(false),
            },
            State::ReplyHead { option } => match self.held.fill(input, OPTION_REPLY_HEAD) {
                Some(bytes) => self.reply_head(option, &bytes)?,
                None => return Ok(false),
            },
            State::ReplyData { option, kind, len } => match self.held.fill(input, len) {
                Some(data) => self.reply(option, kind, &data, input)?,
                None => return Ok(false),
            },
            State::AwaitTls if !input.is_empty() => return Err(injected(input)),
            State::AwaitTls | State::Over => return Ok(false),
        }
        Ok(true)
    }

    fn greeting(&mut self, mut bytes: &[u8]) -> Result<(), WireError> {
        let bytes = &mut bytes;
        let magic = take_u64(bytes).expect("18 bytes were gathered");
        if magic != INIT_MAGIC {
            return Err(WireError::new("this is no NBD server", magic));
        }
        let magic = take_u64(bytes).expect("18 bytes were gathered");
        if magic != OPTION_MAGIC {
            return Err(WireError::new("the server speaks the old style only", magic));
        }
        let flags = take_u16(bytes).expect("18 bytes were gathered");
        if flags & FLAG_FIXED_NEWSTYLE == 0 {
            return Err(WireError::new("the server does not speak fixed newstyle", u64::from(flags)));
        }
        let answer = u32::from(FLAG_FIXED_NEWSTYLE | (flags & FLAG_NO_ZEROES));
        self.queue.push_back(ClientCommand::Send(answer.to_be_bytes().to_vec()));
        match self.config.tls {
            ClientTls::Required => self.send_option(OPT_STARTTLS, &[]),
            ClientTls::Off => self.send_option(OPT_STRUCTURED_REPLY, &[]),
        }
        Ok(())
    }

    fn reply_head(&mut self, asked: u32, mut bytes: &[u8]) -> Result<(), WireError> {
        let head = &mut bytes;
        let magic = take_u64(head).expect("20 bytes were gathered");
        let option = take_u32(head).expect("20 bytes were gathered");
        let kind = take_u32(head).expect("20 bytes were gathered");
        let len = take_u32(head).expect("20 bytes were gathered");
        self.replies += 1;
        if magic != OPTION_REPLY_MAGIC {
            return Err(WireError::new("a reply to an option begins with another magic", magic));
        }
        if option != asked {
            return Err(WireError::new("a reply to an option nobody sent", u64::from(option)));
        }
        if len > OPTION_REPLY_LEN_MAX {
            return Err(WireError::new("a reply longer than any server needs", u64::from(len)));
        }
        if self.replies > OPTION_REPLIES_MAX {
            return Err(WireError::new("more replies than any server needs", u64::from(self.replies)));
        }
        let len = usize::try_from(len).expect("bounded above");
        self.state = State::ReplyData { option, kind, len };
        Ok(())
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8], input: &[u8]) -> Result<(), WireError> {
        self.state = State::ReplyHead { option };
        if let Some(kind) = OptionError::from_wire(kind) {
            return self.refused(option, Refusal::new(kind, shown(data)));
        }
        match (option, kind) {
            (_, REP_ACK) if !data.is_empty() => Err(WireError::new("an ACK with data", data.len() as u64)),
            (_, REP_ACK) => self.acknowledged(option, input),
            (OPT_SET_META_CONTEXT, REP_META_CONTEXT) => self.meta_context(data),
            (OPT_GO, REP_INFO) => self.info(data),
            _ => Err(WireError::new("a reply that does not belong to its option", u64::from(kind))),
        }
    }

    fn acknowledged(&mut self, option: u32, input: &[u8]) -> Result<(), WireError> {
        match option {
            OPT_STARTTLS if !input.is_empty() => return Err(injected(input)),
            OPT_STARTTLS => {
                self.state = State::AwaitTls;
                self.queue.push_back(ClientCommand::StartTls);
            }
            OPT_STRUCTURED_REPLY => {
                self.structured = true;
                if let Some(context) = self.config.context {
                    let data = encode_meta(&self.config.export, context);
                    self.send_option(OPT_SET_META_CONTEXT, &data);
                } else {
                    self.go();
                }
            }
            OPT_SET_META_CONTEXT => self.go(),
            _ => return self.ready(),
        }
        Ok(())
    }

    fn refused(&mut self, option: u32, refusal: Refusal) -> Result<(), WireError> {
        match option {
            OPT_STARTTLS => self.leave(ClientFailure::TlsRefused(refusal)),
            // Optional: the server is used without, unless it is unwilling altogether.
            OPT_STRUCTURED_REPLY | OPT_SET_META_CONTEXT
                if !matches!(refusal.kind, OptionError::TlsReqd | OptionError::Shutdown) =>
            {
                self.context = None;
                self.go();
            }
            _ => self.leave(ClientFailure::Refused(refusal)),
        }
        Ok(())
    }

    fn meta_context(&mut self, mut data: &[u8]) -> Result<(), WireError> {
        let id = take_u32(&mut data).ok_or(WireError::new("a metadata context without id", 0))?;
        if self.config.context.is_none_or(|context| data != context.name().as_bytes()) {
            return Err(WireError::new("a metadata context nobody asked for", u64::from(id)));
        }
        if self.context.replace(id).is_some() {
            return Err(WireError::new("a metadata context given twice", u64::from(id)));
        }
        Ok(())
    }

    fn info(&mut self, mut data: &[u8]) -> Result<(), WireError> {
        let len = data.len() as u64;
        let short = WireError::new("an information of the wrong length", len);
        let kind = take_u16(&mut data).ok_or(short)?;
        match kind {
            INFO_EXPORT => {
                let size = take_u64(&mut data).ok_or(short)?;
                let flags = take_u16(&mut data).ok_or(short)?;
                self.size_and_flags = Some((ByteLen(size), TransmissionFlags(flags)));
            }
            INFO_BLOCK_SIZE => {
                let mut next = || take_u32(&mut data).ok_or(short);
                self.block = BlockSizes { min: next()?, preferred: next()?, max: next()? };
            }
            INFO_NAME => self.name = Some(shown(std::mem::take(&mut data))),
            INFO_DESCRIPTION => self.description = Some(shown(std::mem::take(&mut data))),
            _ => data = &[], // to be ignored, says the document
        }
        if data.is_empty() { Ok(()) } else { Err(short) }
    }

    fn ready(&mut self) -> Result<(), WireError> {
        let (size, flags) = self.size_and_flags.ok_or(WireError::new("GO succeeded without size and flags", 0))?;
        let (name, description) = (self.name.take(), self.description.take());
        let export = ExportInfo { size, flags, block: self.block, name, description };
        export.validate()?;
        self.state = State::Over;
        let ready = Ready { export, structured: self.structured, context: self.context };
        self.queue.push_back(ClientCommand::Ready(ready));
        Ok(())
    }

    fn go(&mut self) {
        let data = encode_info(&self.config.export);
        self.send_option(OPT_GO, &data);
    }

    fn send_option(&mut self, option: u32, data: &[u8]) {
        let mut out = Vec::new();
        push_option(&mut out, option, data);
        self.replies = 0;
        self.state = State::ReplyHead { option };
        self.queue.push_back(ClientCommand::Send(out));
    }

    /// Ends the session as the document wants it: with ABORT, whose reply is not awaited.
    fn leave(&mut self, why: ClientFailure) {
        self.send_option(OPT_ABORT, &[]);
        self.fail(why);
    }

    fn fail(&mut self, why: ClientFailure) {
        self.state = State::Over;
        self.queue.push_back(ClientCommand::Failed(why));
    }
}

fn injected(input: &[u8]) -> WireError {
    WireError::new("plaintext behind the answer to STARTTLS", input.len() as u64)
}
