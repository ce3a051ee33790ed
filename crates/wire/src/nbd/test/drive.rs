//! Drives handshakes in tests: a server with a few exports, a client, and the wire between them.

use crate::nbd::Context;
use crate::nbd::constant::{OPTION_MAGIC, OPTION_REPLY_MAGIC};
use crate::nbd::{
    BlockSizes, ClientCommand, ClientConfig, ClientHandshake, ClientTls, ExportInfo, ListedExport, Refusal,
    ServerCommand, ServerHandshake, TlsPolicy, TransmissionFlags,
};
use units::ByteLen;

/// The export `disk` as the test server offers it. DF is for the handshake to decide, not for us.
pub(super) fn disk() -> ExportInfo {
    ExportInfo {
        size: ByteLen::mib(64),
        flags: TransmissionFlags::HAS_FLAGS
            .with(TransmissionFlags::SEND_FLUSH)
            .with(TransmissionFlags::SEND_FUA)
            .with(TransmissionFlags::SEND_DF),
        block: BlockSizes { min: 4096, preferred: 65536, max: 32 << 20 },
        name: None,
        description: Some("a disk".to_owned()),
    }
}

fn open(name: &str) -> Result<ExportInfo, Refusal> {
    match name {
        "disk" => Ok(disk()),
        "stale" => Err(Refusal::policy("epoch 3 is over, the volume is at epoch 4: attach again")),
        "blocked" => Err(Refusal::shutdown("the volume is blocked until its floor is known")),
        _ => Err(Refusal::unknown("there is no such volume")),
    }
}

/// A server's handshake with everything it said.
pub(super) struct Server {
    pub(super) machine: ServerHandshake,
    pub(super) log: Vec<ServerCommand>,
    pub(super) tls: bool,
}

impl Server {
    pub(super) fn new(policy: TlsPolicy) -> Self {
        Self { machine: ServerHandshake::new(policy), log: Vec::new(), tls: false }
    }

    /// Feeds bytes and answers questions; what is returned is to be sent.
    pub(super) fn feed(&mut self, input: &mut &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(command) = self.machine.step(input) {
            match &command {
                ServerCommand::Send(bytes) => out.extend_from_slice(bytes),
                ServerCommand::StartTls => {
                    self.tls = true;
                    if input.is_empty() {
                        self.machine.tls_started();
                    }
                }
                ServerCommand::ListExports => {
                    let list = [("disk", "a disk"), ("stale", ""), ("blocked", "")];
                    let list = list.map(|(name, text)| ListedExport { name: name.into(), description: text.into() });
                    self.machine.answer_list(Ok(&list));
                }
                ServerCommand::OpenExport { name, .. } => self.machine.answer_open(open(name)),
                ServerCommand::Transmission(_) | ServerCommand::Close(_) => {}
            }
            self.log.push(command);
        }
        out
    }

    /// How it ended, if it did.
    pub(super) fn end(&self) -> Option<&ServerCommand> {
        let last = self.log.last()?;
        matches!(last, ServerCommand::Transmission(_) | ServerCommand::Close(_)).then_some(last)
    }
}

/// A client's handshake with everything it said.
pub(super) struct Client {
    pub(super) machine: ClientHandshake,
    pub(super) log: Vec<ClientCommand>,
}

impl Client {
    pub(super) fn new(export: &str, tls: ClientTls) -> Self {
        let config = ClientConfig { export: export.to_owned(), tls, context: Some(Context::BaseAllocation) };
        Self { machine: ClientHandshake::new(config), log: Vec::new() }
    }

    /// Feeds bytes; what is returned is to be sent.
    pub(super) fn feed(&mut self, input: &mut &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(command) = self.machine.step(input) {
            match &command {
                ClientCommand::Send(bytes) => out.extend_from_slice(bytes),
                ClientCommand::StartTls if input.is_empty() => self.machine.tls_started(),
                _ => {}
            }
            self.log.push(command);
        }
        out
    }

    /// How it ended, if it did.
    pub(super) fn end(&self) -> Option<&ClientCommand> {
        let last = self.log.last()?;
        matches!(last, ClientCommand::Ready(_) | ClientCommand::Failed(_)).then_some(last)
    }
}

/// What each side said, message by message.
#[derive(Default)]
pub(super) struct Talk {
    pub(super) from_server: Vec<Vec<u8>>,
    pub(super) from_client: Vec<Vec<u8>>,
}

/// Lets both talk until neither says more; every message is delivered in pieces of `piece` bytes.
pub(super) fn converse(server: &mut Server, client: &mut Client, piece: usize) -> Talk {
    let mut talk = Talk::default();
    let mut to_client = server.feed(&mut &[][..]);
    while !to_client.is_empty() {
        talk.from_server.push(to_client.clone());
        let to_server: Vec<u8> = to_client.chunks(piece).flat_map(|part| client.feed(&mut &*part)).collect();
        if to_server.is_empty() {
            break;
        }
        talk.from_client.push(to_server.clone());
        to_client = to_server.chunks(piece).flat_map(|part| server.feed(&mut &*part)).collect();
    }
    talk
}

/// An option's bytes, with a length that need not be true.
pub(super) fn option_with(option: u32, len: u32, data: &[u8]) -> Vec<u8> {
    [&OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &len.to_be_bytes(), data].concat()
}

/// An option's bytes.
pub(super) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    option_with(option, u32::try_from(data.len()).unwrap(), data)
}

/// A reply's bytes.
pub(super) fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &len, data].concat()
}

/// The types of the replies in `bytes`, in order; greeting and transmission must not be among them.
pub(super) fn reply_kinds(mut bytes: &[u8]) -> Vec<u32> {
    let mut kinds = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[..8], OPTION_REPLY_MAGIC.to_be_bytes());
        kinds.push(u32::from_be_bytes(bytes[12..16].try_into().unwrap()));
        let len = u32::from_be_bytes(bytes[16..20].try_into().unwrap());
        bytes = &bytes[20 + usize::try_from(len).unwrap()..];
    }
    kinds
}

/// A server past greeting and client flags.
pub(super) fn greeted(policy: TlsPolicy) -> Server {
    let mut server = Server::new(policy);
    assert_eq!(server.feed(&mut &[0, 0, 0, 3][..]).len(), 18);
    server
}

/// A server's greeting.
pub(super) fn greeting() -> Vec<u8> {
    Server::new(TlsPolicy::Off).feed(&mut &[][..])
}
