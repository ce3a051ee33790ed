//! The server's handshake as a step machine: bytes in, commands out.
//!
//! Whoever drives it calls [`ServerHandshake::step`] until it returns `None`, carries out each command, and calls
//! again with more bytes or after an answer. Input is taken only as far as it is understood, so what stays in the
//! slice after [`ServerCommand::Transmission`] already belongs to transmission.
//!
//! ```text
//!  Greeting ─▶ ClientFlags ─▶ OptionHead ◀──────────────────────┐
//!                              │  │  │                           │ answered
//!                              │  │  └─▶ Drain ── refuse ──────▶─┤
//!                              │  └─▶ OptionData ──▶ AwaitList ─▶┤
//!                              │            │  └───▶ AwaitOpen ─▶┴─▶ Over (transmission)
//!                              │            └──────▶ AwaitTls ──▶ OptionHead, all forgotten
//!                              └─▶ Over (closed)
//! ```
//!
//! Invariants: before TLS, where it is required, nothing is learnt and nothing negotiated; a plaintext byte behind
//! STARTTLS ends the session (CVE-2021-3716); at most [`OPTION_LEN_MAX`] bytes are held. It does *not* know what an
//! export is: it asks.

use super::bytes::{Gather, take_u32, take_u64};
use super::constant::{
    EXPORT_NAME_ZEROES, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, INIT_MAGIC, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO,
    OPT_LIST, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_STARTTLS, OPT_STRUCTURED_REPLY, OPTION_DRAIN_MAX,
    OPTION_LEN_MAX, OPTION_MAGIC, OPTIONS_MAX, STRING_MAX,
};
use super::option::{
    InfoRequest, OPTION_HEAD, parse_info, parse_meta, push_ack, push_info, push_listed, push_meta_context,
    push_refusal, string,
};
use super::{Contexts, ExportInfo, ListedExport, OptionError, Refusal, TransmissionFlags, WireError};
use std::collections::VecDeque;

/// Whether a listener speaks TLS. There is no "if the client wants to": a man in the middle would decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPolicy {
    /// Nothing but STARTTLS and ABORT before TLS ("FORCEDTLS" in the document).
    Required,
    /// Plaintext only ("NOTLS").
    Off,
}

/// Why an export is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFor {
    /// To describe it; nothing is attached.
    Info,
    /// To enter transmission; a refusal is told to the client.
    Go,
    /// To enter transmission the old way; a refusal closes the connection.
    ExportName,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerCommand {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Do the TLS handshake, then call [`ServerHandshake::tls_started`].
    StartTls,
    /// Call [`ServerHandshake::answer_list`].
    ListExports,
    /// Call [`ServerHandshake::answer_open`]; may take its time.
    OpenExport {
        /// What the client calls it; possibly empty.
        name: String,
        /// Why.
        why: OpenFor,
    },
    /// The handshake is over; requests follow in the input.
    Transmission(Negotiated),
    /// Close the connection, after what was sent.
    Close(Closing),
}

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The export's name as the client gave it.
    pub name: String,
    /// The export as it was offered; its flags are final.
    pub export: ExportInfo,
    /// Whether reads are answered in chunks.
    pub structured: bool,
    /// What a block status answers; none: it is not understood.
    pub contexts: Contexts,
}

/// Why the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The client wanted it.
    Aborted,
    /// The client was refused in a way that knows no answer.
    Refused(Refusal),
    /// The client broke the protocol.
    Broken(WireError),
}

#[derive(Debug)]
enum State {
    Greeting,
    ClientFlags,
    OptionHead,
    OptionData { option: u32, len: usize },
    Drain { option: u32, left: usize, then: Then },
    AwaitTls,
    AwaitList,
    AwaitOpen { why: OpenFor, asked: InfoRequest },
    Over,
}

/// What happens once the data of an option has been thrown away.
#[derive(Debug)]
enum Then {
    Refuse(Refusal),
    Abort,
}

/// One connection's handshake.
#[derive(Debug)]
pub struct ServerHandshake {
    policy: TlsPolicy,
    tls: bool,
    no_zeroes: bool,
    structured: bool,
    /// What was selected, and for which export.
    context_for: Option<(String, Contexts)>,
    options: u32,
    held: Gather,
    state: State,
    queue: VecDeque<ServerCommand>,
}

impl ServerHandshake {
    /// A handshake that has not begun; the first step sends the greeting.
    #[must_use]
    pub fn new(policy: TlsPolicy) -> Self {
        Self {
            policy,
            tls: false,
            no_zeroes: false,
            structured: false,
            context_for: None,
            options: 0,
            held: Gather::default(),
            state: State::Greeting,
            queue: VecDeque::new(),
        }
    }

    /// Takes what it understands from `input` and says what to do next; `None` until there are more bytes or an
    /// answer.
    pub fn step(&mut self, input: &mut &[u8]) -> Option<ServerCommand> {
        while self.queue.is_empty() && self.advance(input) {}
        self.queue.pop_front()
    }

    /// TLS is up: what follows in the input was decrypted. Everything negotiated before is forgotten.
    ///
    /// # Panics
    /// If nobody asked for it.
    pub fn tls_started(&mut self) {
        assert!(matches!(self.state, State::AwaitTls), "TLS started without STARTTLS");
        self.tls = true;
        self.structured = false;
        self.context_for = None;
        self.state = State::OptionHead;
    }

    /// The exports the client may see, or why not.
    ///
    /// # Panics
    /// If nobody asked, or for a name that is no string of the protocol.
    pub fn answer_list(&mut self, answer: Result<&[ListedExport], Refusal>) {
        assert!(matches!(self.state, State::AwaitList), "a list nobody asked for");
        self.state = State::OptionHead;
        let mut out = Vec::new();
        match answer {
            Ok(exports) => {
                for export in exports {
                    assert!(export.name.len() <= STRING_MAX && export.description.len() <= STRING_MAX);
                    push_listed(&mut out, OPT_LIST, export);
                }
                push_ack(&mut out, OPT_LIST);
            }
            Err(refusal) => push_refusal(&mut out, OPT_LIST, &refusal),
        }
        self.queue.push_back(ServerCommand::Send(out));
    }

    /// The export that was to be opened, or why not.
    ///
    /// # Panics
    /// If nobody asked, or if the answer breaks the protocol's rules for exports.
    pub fn answer_open(&mut self, answer: Result<ExportInfo, Refusal>) {
        let State::AwaitOpen { why, asked } = std::mem::replace(&mut self.state, State::OptionHead) else {
            panic!("an export nobody asked for");
        };
        match answer {
            Ok(export) => self.opened(why, asked, export),
            Err(refusal) if why == OpenFor::ExportName => self.close(Closing::Refused(refusal)),
            Err(refusal) => self.refuse(if why == OpenFor::Go { OPT_GO } else { OPT_INFO }, &refusal),
        }
    }

    /// How many bytes of a half-received message are held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    fn opened(&mut self, why: OpenFor, asked: InfoRequest, mut export: ExportInfo) {
        export.flags = export.flags.with(TransmissionFlags::HAS_FLAGS).without(TransmissionFlags::SEND_DF);
        if self.structured {
            export.flags = export.flags.with(TransmissionFlags::SEND_DF);
        }
        export.validate().expect("what we offer keeps the protocol's rules");
        let mut out = Vec::new();
        match why {
            OpenFor::Info | OpenFor::Go => {
                let option = if why == OpenFor::Go { OPT_GO } else { OPT_INFO };
                push_info(&mut out, option, &asked, &export);
                push_ack(&mut out, option);
            }
            OpenFor::ExportName => {
                out.extend_from_slice(&export.size.0.to_be_bytes());
                out.extend_from_slice(&export.flags.0.to_be_bytes());
                let zeroes = if self.no_zeroes { 0 } else { EXPORT_NAME_ZEROES };
                out.resize(out.len() + zeroes, 0);
            }
        }
        self.queue.push_back(ServerCommand::Send(out));
        if why != OpenFor::Info {
            let selected = self.context_for.take().filter(|(name, _)| self.structured && *name == asked.name);
            self.state = State::Over;
            self.queue.push_back(ServerCommand::Transmission(Negotiated {
                name: asked.name,
                export,
                structured: self.structured,
                contexts: selected.map(|(_, contexts)| contexts).unwrap_or_default(),
            }));
        }
    }

    /// Does one thing; `false` when it has to wait.
    fn advance(&mut self, input: &mut &[u8]) -> bool {
        match &mut self.state {
            State::Greeting => self.greet(),
            State::ClientFlags => match self.held.fill(input, 4) {
                Some(bytes) => self.client_flags(&bytes),
                None => return false,
            },
            State::OptionHead => match self.held.fill(input, OPTION_HEAD) {
                Some(bytes) => self.option_head(&bytes),
                None => return false,
            },
            State::OptionData { option, len } => {
                let (option, len) = (*option, *len);
                match self.held.fill(input, len) {
                    Some(data) => self.option_data(option, &data, input),
                    None => return false,
                }
            }
            State::Drain { left, .. } => {
                let part = input.len().min(*left);
                *left -= part;
                *input = &input[part..];
                if *left > 0 {
                    return false;
                }
                self.drained();
            }
            State::AwaitTls if !input.is_empty() => self.injected(input),
            State::AwaitTls | State::AwaitList | State::AwaitOpen { .. } | State::Over => {
                return false;
            }
        }
        true
    }

    fn greet(&mut self) {
        let mut out = Vec::with_capacity(18);
        out.extend_from_slice(&INIT_MAGIC.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
        self.state = State::ClientFlags;
        self.queue.push_back(ServerCommand::Send(out));
    }

    fn client_flags(&mut self, bytes: &[u8]) {
        let flags = take_u32(&mut &*bytes).expect("four bytes were gathered");
        if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
            return self.broken("unknown client flags", u64::from(flags));
        }
        if flags & u32::from(FLAG_FIXED_NEWSTYLE) == 0 {
            return self.broken("the client does not speak fixed newstyle", u64::from(flags));
        }
        self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
        self.state = State::OptionHead;
    }

    fn option_head(&mut self, mut bytes: &[u8]) {
        let head = &mut bytes;
        let magic = take_u64(head).expect("16 bytes were gathered");
        let option = take_u32(head).expect("16 bytes were gathered");
        let len = take_u32(head).expect("16 bytes were gathered");
        self.options += 1;
        if magic != OPTION_MAGIC {
            return self.broken("an option begins with another magic", magic);
        }
        if self.options > OPTIONS_MAX {
            return self.broken("more options than any client needs", u64::from(self.options));
        }
        if len > OPTION_DRAIN_MAX {
            return self.broken("an option longer than any client needs", u64::from(len));
        }
        if option == OPT_EXPORT_NAME {
            // It knows no error reply: what cannot be served closes the connection.
            if self.before_tls() {
                return self.close(Closing::Refused(tls_required()));
            }
            if len as usize > STRING_MAX {
                return self.broken("an export name longer than 4096 bytes", u64::from(len));
            }
        }
        let len = usize::try_from(len).expect("bounded above");
        self.state = match self.triage(option, len) {
            Some(then) => State::Drain { option, left: len, then },
            None => State::OptionData { option, len },
        };
    }

    /// What can be said about an option by its header; `None` if its data matters.
    fn triage(&mut self, option: u32, len: usize) -> Option<Then> {
        if option == OPT_SET_META_CONTEXT {
            self.context_for = None; // replaced also when it fails
        }
        let refuse = |kind, text: &str| Some(Then::Refuse(Refusal::new(kind, text)));
        match option {
            OPT_ABORT => Some(Then::Abort),
            OPT_STARTTLS if self.policy == TlsPolicy::Off => {
                refuse(OptionError::Policy, "this listener serves without TLS")
            }
            OPT_STARTTLS if self.tls => refuse(OptionError::Invalid, "TLS is already in use"),
            OPT_STARTTLS | OPT_LIST | OPT_STRUCTURED_REPLY if len == 0 => {
                if option != OPT_STARTTLS && self.before_tls() { Some(Then::Refuse(tls_required())) } else { None }
            }
            OPT_STARTTLS => refuse(OptionError::Invalid, "STARTTLS takes no data"),
            _ if self.before_tls() => Some(Then::Refuse(tls_required())),
            OPT_LIST | OPT_STRUCTURED_REPLY => refuse(OptionError::Invalid, "this option takes no data"),
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT if !self.structured => {
                refuse(OptionError::Invalid, "ask for structured replies first")
            }
            OPT_INFO | OPT_GO | OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT if len > OPTION_LEN_MAX as usize => {
                refuse(OptionError::TooBig, "the option's data is too long")
            }
            OPT_EXPORT_NAME | OPT_INFO | OPT_GO | OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => None,
            _ => refuse(OptionError::Unsup, "this option is not known here"),
        }
    }

    fn option_data(&mut self, option: u32, data: &[u8], input: &[u8]) {
        self.state = State::OptionHead;
        match option {
            OPT_STARTTLS if !input.is_empty() => self.injected(input),
            OPT_STARTTLS => {
                self.ack(OPT_STARTTLS);
                self.state = State::AwaitTls;
                self.queue.push_back(ServerCommand::StartTls);
            }
            OPT_STRUCTURED_REPLY => {
                self.structured = true;
                self.ack(OPT_STRUCTURED_REPLY);
            }
            OPT_LIST => {
                self.state = State::AwaitList;
                self.queue.push_back(ServerCommand::ListExports);
            }
            OPT_EXPORT_NAME => match string(data) {
                Some(name) => {
                    let asked = InfoRequest { name: name.to_owned(), wants_name: false, wants_description: false };
                    self.open(OpenFor::ExportName, asked);
                }
                None => self.broken("an export name that is no string", data.len() as u64),
            },
            OPT_INFO | OPT_GO => match parse_info(data) {
                Ok(asked) => self.open(if option == OPT_GO { OpenFor::Go } else { OpenFor::Info }, asked),
                Err(refusal) => self.refuse(option, &refusal),
            },
            _ => self.meta_context(option, data),
        }
    }

    fn meta_context(&mut self, option: u32, data: &[u8]) {
        let asked = match parse_meta(data) {
            Ok(asked) => asked,
            Err(refusal) => return self.refuse(option, &refusal),
        };
        let mut out = Vec::new();
        if option == OPT_SET_META_CONTEXT {
            asked.exact.iter().for_each(|context| push_meta_context(&mut out, option, context.id(), context));
            self.context_for = Some((asked.name, asked.exact));
        } else {
            // The id is reserved in a list.
            asked.listed.iter().for_each(|context| push_meta_context(&mut out, option, 0, context));
        }
        push_ack(&mut out, option);
        self.queue.push_back(ServerCommand::Send(out));
    }

    fn drained(&mut self) {
        match std::mem::replace(&mut self.state, State::OptionHead) {
            State::Drain { option, then: Then::Refuse(refusal), .. } => self.refuse(option, &refusal),
            State::Drain { option, then: Then::Abort, .. } => {
                self.ack(option);
                self.close(Closing::Aborted);
            }
            _ => unreachable!("only called while draining"),
        }
    }

    fn before_tls(&self) -> bool {
        self.policy == TlsPolicy::Required && !self.tls
    }

    fn open(&mut self, why: OpenFor, asked: InfoRequest) {
        self.queue.push_back(ServerCommand::OpenExport { name: asked.name.clone(), why });
        self.state = State::AwaitOpen { why, asked };
    }

    fn ack(&mut self, option: u32) {
        let mut out = Vec::new();
        push_ack(&mut out, option);
        self.queue.push_back(ServerCommand::Send(out));
    }

    fn refuse(&mut self, option: u32, refusal: &Refusal) {
        let mut out = Vec::new();
        push_refusal(&mut out, option, refusal);
        self.queue.push_back(ServerCommand::Send(out));
    }

    fn injected(&mut self, input: &[u8]) {
        self.broken("plaintext behind STARTTLS", input.len() as u64);
    }

    fn broken(&mut self, what: &'static str, got: u64) {
        self.close(Closing::Broken(WireError::new(what, got)));
    }

    fn close(&mut self, why: Closing) {
        self.state = State::Over;
        self.queue.push_back(ServerCommand::Close(why));
    }
}

fn tls_required() -> Refusal {
    Refusal::new(OptionError::TlsReqd, "this listener serves over TLS only: send STARTTLS first")
}
