//! NBD as a client may speak it inside TLS: the plain part and STARTTLS are gone through first.
//!
//! First byte: bit 1 export read-only, as in `nbd_server`. The rest is what was decrypted, from the first option on.

use crate::Seed;
use crate::nbd_server::{answer, transmit, volume};
use wire::nbd::constant::{OPTION_DRAIN_MAX, OPTION_LEN_MAX};
use wire::nbd::{Limits, ServerCommand, ServerHandshake, TlsPolicy};

/// Client flags, then STARTTLS. Source: the NBD protocol's document, "Fixed newstyle negotiation".
const PLAIN: &[u8] = b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0";

/// Fed whole and byte by byte, the server says the same, and it never asks for TLS inside TLS.
pub fn nbd_in_tls(data: &[u8]) {
    let Some((&choice, stream)) = data.split_first() else { return };
    let whole = serve(choice, [stream].into_iter());
    let pieces = serve(choice, std::iter::once(&stream[..0]).chain(stream.chunks(1)));
    assert_eq!(whole, pieces);
}

fn in_tls() -> ServerHandshake {
    let mut machine = ServerHandshake::new(TlsPolicy::Required);
    let mut plain = PLAIN;
    while let Some(command) = machine.step(&mut plain) {
        if command == ServerCommand::StartTls {
            machine.tls_started();
        }
        assert!(!matches!(command, ServerCommand::Close(_)), "a good start was refused: {command:?}");
    }
    assert!(plain.is_empty());
    machine
}

fn serve<'a>(choice: u8, parts: impl Iterator<Item = &'a [u8]>) -> Vec<ServerCommand> {
    let (mut machine, mut log, mut requests, mut limits) = (in_tls(), Vec::new(), Vec::new(), None);
    for mut part in parts {
        while limits.is_none() {
            let Some(command) = machine.step(&mut part) else { break };
            assert_ne!(command, ServerCommand::StartTls, "TLS in TLS");
            answer(&mut machine, &command, choice, false);
            if let ServerCommand::Transmission(negotiated) = &command {
                assert_eq!(negotiated.export, volume_as_offered(choice, negotiated.structured));
                limits = Some(Limits::of(&negotiated.export, !negotiated.contexts.is_empty()));
            }
            assert!(log.len() <= OPTION_DRAIN_MAX as usize);
            log.push(command);
        }
        assert!(machine.held_bytes() <= OPTION_LEN_MAX as usize);
        if limits.is_some() {
            requests.extend_from_slice(part);
        }
    }
    if let Some(limits) = limits {
        transmit(&limits, &requests);
    }
    log
}

fn volume_as_offered(choice: u8, structured: bool) -> wire::nbd::ExportInfo {
    use wire::nbd::TransmissionFlags;
    let mut export = volume(choice);
    export.flags = export.flags.with(TransmissionFlags::HAS_FLAGS).without(TransmissionFlags::SEND_DF);
    if structured {
        export.flags = export.flags.with(TransmissionFlags::SEND_DF);
    }
    export
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).expect("a short option");
    [b"IHAVEOPT", &number.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
}

/// The numbers are those of the protocol's document: STRUCTURED_REPLY 8, SET_META_CONTEXT 10, GO 7, LIST 3, ABORT 2.
pub fn seeds() -> Vec<Seed> {
    let name = b"v;epoch=1;incarnation=1;mode=rw";
    let sized = |text: &[u8]| [&u32::try_from(text.len()).expect("short").to_be_bytes()[..], text].concat();
    let go = option(7, &[sized(name), vec![0, 1, 0, 3]].concat());
    let context = option(10, &[sized(name), vec![0, 0, 0, 1], sized(b"base:allocation")].concat());
    let read = b"\x25\x60\x95\x13\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\x10\0\0\0\x02\0";
    let seed = |choice: u8, parts: &[&[u8]]| [&[choice][..], &parts.concat()].concat();
    vec![
        ("go", seed(0, &[&option(8, &[]), &context, &go, read])),
        ("read_only", seed(2, &[&go, read])),
        ("export_name", seed(0, &[&option(1, b"v"), read])),
        ("list_and_abort", seed(0, &[&option(3, &[]), &option(2, &[])])),
        ("tls_in_tls", seed(0, &[&option(5, &[]), &go])),
    ]
}
