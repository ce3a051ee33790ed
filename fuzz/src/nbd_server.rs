//! NBD as a client may speak it: handshake, then requests.
//!
//! First byte: bit 0 TLS required, bit 1 export read-only. The rest is the stream, from the client flags on.

use crate::Seed;
use units::ByteLen;
use wire::nbd::constant::{OPTION_DRAIN_MAX, OPTION_LEN_MAX};
use wire::nbd::{
    BlockSizes, ExportInfo, ExportName, Limits, ListedExport, Refusal, ServerCommand, ServerHandshake, TlsPolicy,
    TransmissionFlags, Verdict, decode_request,
};

/// Fed whole and byte by byte, the server says the same.
pub fn nbd_server(data: &[u8]) {
    let Some((&choice, stream)) = data.split_first() else { return };
    let whole = serve(choice, [stream].into_iter());
    let pieces = serve(choice, std::iter::once(&stream[..0]).chain(stream.chunks(1)));
    // A plaintext byte behind STARTTLS is seen earlier or later; both end the session before anything is served.
    if choice & 1 == 0 {
        assert_eq!(whole, pieces);
    }
}

fn serve<'a>(choice: u8, parts: impl Iterator<Item = &'a [u8]>) -> Vec<ServerCommand> {
    let policy = if choice & 1 == 0 { TlsPolicy::Off } else { TlsPolicy::Required };
    let mut machine = ServerHandshake::new(policy);
    let mut log = Vec::new();
    let mut requests = Vec::new();
    let mut transmission = None;
    for mut part in parts {
        while transmission.is_none() {
            let Some(command) = machine.step(&mut part) else { break };
            answer(&mut machine, &command, choice, part.is_empty());
            if let ServerCommand::Transmission(negotiated) = &command {
                transmission = Some(Limits::of(&negotiated.export, !negotiated.contexts.is_empty()));
            }
            assert!(log.len() <= OPTION_DRAIN_MAX as usize);
            log.push(command);
        }
        assert!(machine.held_bytes() <= OPTION_LEN_MAX as usize);
        if transmission.is_some() {
            requests.extend_from_slice(part);
        }
    }
    if let Some(limits) = transmission {
        transmit(&limits, &requests);
    }
    log
}

pub(crate) fn answer(machine: &mut ServerHandshake, command: &ServerCommand, choice: u8, drained: bool) {
    match command {
        ServerCommand::StartTls if drained => machine.tls_started(),
        ServerCommand::ListExports => {
            machine.answer_list(Ok(&[ListedExport { name: "v".to_owned(), description: "a volume".to_owned() }]));
        }
        ServerCommand::OpenExport { name, .. } => machine.answer_open(match name.parse::<ExportName>() {
            Ok(name) if name.volume.as_str() == "v" => Ok(volume(choice)),
            Ok(_) => Err(Refusal::unknown("there is no such volume")),
            Err(error) => Err(Refusal::policy(error.to_string())),
        }),
        _ => {}
    }
}

pub(crate) fn volume(choice: u8) -> ExportInfo {
    let flags = TransmissionFlags(if choice & 2 == 0 { 0x096d } else { 0x0003 });
    ExportInfo {
        size: ByteLen::mib(64),
        flags,
        block: BlockSizes { min: 512, preferred: 4096, max: 32 << 20 },
        name: Some("v".to_owned()),
        description: Some("a volume".to_owned()),
    }
}

pub(crate) fn transmit(limits: &Limits, mut from: &[u8]) {
    while let Ok(Some(request)) = decode_request(&mut from) {
        let skip = match limits.check(&request) {
            Verdict::Do(_) => request.payload_bytes(),
            Verdict::Refuse { skip, .. } => skip,
            Verdict::Disconnect | Verdict::Close(_) => return,
        };
        assert!(skip <= limits.payload_max.max(32 << 20));
        from = &from[from.len().min(skip as usize)..];
    }
}

/// Written by hand, with what a peer says first.
pub fn seeds() -> Vec<Seed> {
    Vec::new()
}
