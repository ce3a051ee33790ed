//! Our client and our server understand each other, and the document's bytes are what they say.

use super::drive::{Client, Server, converse, disk, greeted, greeting, option, reply, reply_kinds};
use crate::nbd::Context;
use crate::nbd::constant::*;
use crate::nbd::{
    ClientCommand, ClientFailure, ClientTls, Closing, OpenFor, OptionError, Ready, ServerCommand, TlsPolicy,
    TransmissionFlags,
};

const ERR_TLS_REQD: u32 = REP_FLAG_ERROR | 5;
const ERR_INVALID: u32 = REP_FLAG_ERROR | 3;
const ERR_UNSUP: u32 = REP_FLAG_ERROR | 1;
const ERR_TOO_BIG: u32 = REP_FLAG_ERROR | 9;

fn name_data(name: &str, rest: &[u8]) -> Vec<u8> {
    let len = u32::try_from(name.len()).unwrap();
    [&len.to_be_bytes()[..], name.as_bytes(), rest].concat()
}

/// The whole handshake, with and without TLS, whole and in pieces: both ends agree on the same things.
#[test]
fn both_ends_agree_however_the_bytes_are_cut() {
    for (policy, tls) in [(TlsPolicy::Off, ClientTls::Off), (TlsPolicy::Required, ClientTls::Required)] {
        for piece in (1..24).chain([64, 4096]) {
            let (mut server, mut client) = (Server::new(policy), Client::new("disk", tls));
            converse(&mut server, &mut client, piece);
            let mut offered = disk();
            offered.flags = offered.flags.with(TransmissionFlags::SEND_DF);
            let Some(ServerCommand::Transmission(negotiated)) = server.end() else { panic!("{:?}", server.log) };
            assert_eq!((negotiated.name.as_str(), &negotiated.export), ("disk", &offered));
            assert!(negotiated.structured && negotiated.contexts.has(Context::BaseAllocation));
            offered.description = None; // not asked for
            let ready = Ready { export: offered, structured: true, context: Some(Context::BaseAllocation.id()) };
            assert_eq!(client.end(), Some(&ClientCommand::Ready(ready)), "pieces of {piece}");
            assert_eq!(server.tls, policy == TlsPolicy::Required);
        }
    }
}

/// A refusal reaches the other end with its kind and its words, and the client leaves politely.
#[test]
fn a_refusal_keeps_its_words() {
    let table = [
        ("stale", OptionError::Policy, "attach again"),
        ("blocked", OptionError::Shutdown, "floor"),
        ("nothing", OptionError::Unknown, "no such volume"),
    ];
    for (name, kind, words) in table {
        let (mut server, mut client) = (Server::new(TlsPolicy::Off), Client::new(name, ClientTls::Off));
        converse(&mut server, &mut client, 4096);
        let Some(ClientCommand::Failed(ClientFailure::Refused(refusal))) = client.end() else {
            panic!("{:?}", client.log)
        };
        assert_eq!(refusal.kind, kind);
        assert!(refusal.text.contains(words), "{refusal}");
        assert_eq!(server.end(), Some(&ServerCommand::Close(Closing::Aborted)));
    }
}

/// TLS on one side only is an error on both, and nothing is served.
#[test]
fn tls_is_never_a_matter_of_luck() {
    let (mut server, mut client) = (Server::new(TlsPolicy::Off), Client::new("disk", ClientTls::Required));
    converse(&mut server, &mut client, 4096);
    assert!(matches!(client.end(), Some(ClientCommand::Failed(ClientFailure::TlsRefused(_)))), "{:?}", client.log);
    let (mut server, mut client) = (Server::new(TlsPolicy::Required), Client::new("disk", ClientTls::Off));
    converse(&mut server, &mut client, 4096);
    let Some(ClientCommand::Failed(ClientFailure::Refused(refusal))) = client.end() else { panic!("{:?}", client.log) };
    assert_eq!(refusal.kind, OptionError::TlsReqd);
    assert!(!server.log.iter().any(|c| matches!(c, ServerCommand::OpenExport { .. })));
}

/// The first bytes of each side, as the document draws them.
#[test]
#[rustfmt::skip]
fn the_first_bytes_are_the_documents() {
    assert_eq!(greeting(), [
        b'N', b'B', b'D', b'M', b'A', b'G', b'I', b'C',
        b'I', b'H', b'A', b'V', b'E', b'O', b'P', b'T',
        0, 3, // FIXED_NEWSTYLE, NO_ZEROES
    ]);
    let mut client = Client::new("disk", ClientTls::Required);
    assert_eq!(client.feed(&mut &greeting()[..]), [
        0, 0, 0, 3, // the same two
        b'I', b'H', b'A', b'V', b'E', b'O', b'P', b'T',
        0, 0, 0, 5, // STARTTLS
        0, 0, 0, 0, // no data
    ]);
    let mut server = greeted(TlsPolicy::Off);
    assert_eq!(server.feed(&mut &option(OPT_STRUCTURED_REPLY, &[])[..]), [
        0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9, // magic of replies
        0, 0, 0, 8, // STRUCTURED_REPLY
        0, 0, 0, 1, // ACK
        0, 0, 0, 0, // no data
    ]);
}

/// One row an option: what is answered without TLS being asked for.
#[test]
fn options_are_answered_as_the_document_says() {
    let meta = |queries: &[&str]| {
        let mut data = name_data("disk", &u32::try_from(queries.len()).unwrap().to_be_bytes());
        queries.iter().for_each(|query| data.extend(name_data(query, &[])));
        data
    };
    let table: [(&str, Vec<u8>, &[u32]); 20] = [
        ("LIST", option(OPT_LIST, &[]), &[REP_SERVER, REP_SERVER, REP_SERVER, REP_ACK]),
        ("LIST with data", option(OPT_LIST, &[1]), &[ERR_INVALID]),
        ("STARTTLS where there is none", option(OPT_STARTTLS, &[]), &[REP_FLAG_ERROR | 2]),
        ("EXTENDED_HEADERS", option(OPT_EXTENDED_HEADERS, &[]), &[ERR_UNSUP]),
        ("PEEK_EXPORT, withdrawn", option(4, &[1, 2, 3]), &[ERR_UNSUP]),
        ("an option of the future", option(0xffff_ffff, &[0; 70_000]), &[ERR_UNSUP]),
        ("contexts before chunks", option(OPT_SET_META_CONTEXT, &meta(&[])), &[ERR_INVALID]),
        ("STRUCTURED_REPLY with data", option(OPT_STRUCTURED_REPLY, &[0]), &[ERR_INVALID]),
        ("STRUCTURED_REPLY", option(OPT_STRUCTURED_REPLY, &[]), &[REP_ACK]),
        (
            "list all contexts",
            option(OPT_LIST_META_CONTEXT, &meta(&[])),
            &[REP_META_CONTEXT, REP_META_CONTEXT, REP_ACK],
        ),
        ("list by wildcard", option(OPT_LIST_META_CONTEXT, &meta(&["base:"])), &[REP_META_CONTEXT, REP_ACK]),
        ("list of another space", option(OPT_LIST_META_CONTEXT, &meta(&["qemu:x"])), &[REP_ACK]),
        ("set nothing", option(OPT_SET_META_CONTEXT, &meta(&[])), &[REP_ACK]),
        ("set by wildcard", option(OPT_SET_META_CONTEXT, &meta(&["base:"])), &[REP_ACK]),
        ("set", option(OPT_SET_META_CONTEXT, &meta(&["x:y", "base:allocation"])), &[REP_META_CONTEXT, REP_ACK]),
        ("a long option", option(OPT_SET_META_CONTEXT, &[0; 65537]), &[ERR_TOO_BIG]),
        ("INFO", option(OPT_INFO, &name_data("disk", &[0, 0])), &[REP_INFO, REP_INFO, REP_ACK]),
        (
            "INFO with name and description", // 4 requests: NAME, DESCRIPTION, EXPORT, one of the future
            option(OPT_INFO, &name_data("disk", &[0, 4, 0, 1, 0, 2, 0, 0, 9, 9])),
            &[REP_INFO, REP_INFO, REP_INFO, REP_INFO, REP_ACK],
        ),
        ("GO of nothing", option(OPT_GO, &name_data("", &[0, 0])), &[REP_FLAG_ERROR | 6]),
        ("ABORT with data", option(OPT_ABORT, &[1, 2, 3]), &[REP_ACK]),
    ];
    let mut server = greeted(TlsPolicy::Off);
    for (what, bytes, expect) in table {
        assert_eq!(reply_kinds(&server.feed(&mut &bytes[..])), expect, "{what}");
    }
    assert_eq!(server.end(), Some(&ServerCommand::Close(Closing::Aborted)));
}

/// EXPORT_NAME: size, flags, and 124 zeroes unless both sides said otherwise; requests behind it stay in the input.
#[test]
fn the_old_way_in_has_its_zeroes() {
    for (flags, len) in [(1_u32, 10 + 124), (3, 10)] {
        let mut server = Server::new(TlsPolicy::Off);
        server.feed(&mut &[][..]);
        let bytes = [&flags.to_be_bytes()[..], &option(OPT_EXPORT_NAME, b"disk"), b"request"].concat();
        let mut input = &bytes[..];
        let out = server.feed(&mut input);
        assert_eq!(out.len(), len);
        assert_eq!(out[..10], [0, 0, 0, 0, 4, 0, 0, 0, 0, 0x0d], "64 MiB; HAS_FLAGS, FLUSH, FUA and no DF");
        assert_eq!(input, b"request");
        assert!(matches!(server.end(), Some(ServerCommand::Transmission(n)) if !n.structured));
    }
    let mut server = greeted(TlsPolicy::Off);
    assert!(server.feed(&mut &option(OPT_EXPORT_NAME, b"stale")[..]).is_empty(), "it has no way to say why");
    assert!(matches!(server.end(), Some(ServerCommand::Close(Closing::Refused(_)))));
}

/// What was negotiated holds for the export it was negotiated for, and not beyond STARTTLS.
#[test]
fn negotiated_state_does_not_outlive_its_reason() {
    let structured = option(OPT_STRUCTURED_REPLY, &[]);
    let set = |name: &str| {
        let mut data = name_data(name, &1_u32.to_be_bytes());
        data.extend(name_data(Context::BaseAllocation.name(), &[]));
        option(OPT_SET_META_CONTEXT, &data)
    };
    let go = option(OPT_GO, &name_data("disk", &[0, 0]));
    let bad_set = option(OPT_SET_META_CONTEXT, &[0]);
    let selected = |parts: &[&[u8]]| {
        let mut server = greeted(TlsPolicy::Off);
        server.feed(&mut &parts.concat()[..]);
        match server.end() {
            Some(ServerCommand::Transmission(n)) => n.contexts.has(Context::BaseAllocation),
            other => panic!("{other:?}"),
        }
    };
    assert!(selected(&[&structured, &set("disk"), &go]));
    assert!(!selected(&[&structured, &set("other"), &go]), "selected for another export");
    assert!(!selected(&[&structured, &set("disk"), &bad_set, &go]), "replaced, although it failed");

    let mut server = greeted(TlsPolicy::Required);
    server.feed(&mut &option(OPT_STARTTLS, &[])[..]);
    server.feed(&mut &[&structured[..], &set("disk")].concat()[..]);
    assert_eq!(reply_kinds(&server.feed(&mut &option(OPT_STARTTLS, &[])[..])), [ERR_INVALID], "TLS within TLS");
    server.feed(&mut &go[..]);
    assert!(matches!(server.end(), Some(ServerCommand::Transmission(n)) if n.contexts.has(Context::BaseAllocation)));
}

/// Before TLS where it is required: one row an option.
#[test]
fn nothing_is_learnt_before_tls() {
    let table: [(&str, Vec<u8>, &[u32]); 8] = [
        ("LIST", option(OPT_LIST, &[]), &[ERR_TLS_REQD]),
        ("LIST with data", option(OPT_LIST, &[1]), &[ERR_TLS_REQD]),
        ("STRUCTURED_REPLY", option(OPT_STRUCTURED_REPLY, &[]), &[ERR_TLS_REQD]),
        ("INFO", option(OPT_INFO, &name_data("disk", &[0, 0])), &[ERR_TLS_REQD]),
        ("GO", option(OPT_GO, &name_data("disk", &[0, 0])), &[ERR_TLS_REQD]),
        ("an unknown option", option(77, &[0; 100]), &[ERR_TLS_REQD]),
        ("STARTTLS with data", option(OPT_STARTTLS, &[0]), &[ERR_INVALID]),
        ("ABORT", option(OPT_ABORT, &[]), &[REP_ACK]),
    ];
    let mut server = greeted(TlsPolicy::Required);
    for (what, bytes, expect) in table {
        assert_eq!(reply_kinds(&server.feed(&mut &bytes[..])), expect, "{what}");
    }
    let mut server = greeted(TlsPolicy::Required);
    assert!(server.feed(&mut &option(OPT_EXPORT_NAME, b"disk")[..]).is_empty());
    assert!(matches!(server.end(), Some(ServerCommand::Close(Closing::Refused(r))) if r.kind == OptionError::TlsReqd));
}

/// Flags nobody defined, and the style before the fix, are not spoken with.
#[test]
fn client_flags_are_exact() {
    for flags in [0_u32, 2, 4, 5, 0x8000_0003, u32::MAX] {
        let mut server = Server::new(TlsPolicy::Off);
        server.feed(&mut &flags.to_be_bytes()[..]);
        assert!(matches!(server.end(), Some(ServerCommand::Close(Closing::Broken(_)))), "{flags:#x}");
    }
}

/// Structured replies are optional for the client; the context is not asked for without them.
#[test]
fn the_client_lives_without_structured_replies() {
    let mut client = Client::new("disk", ClientTls::Off);
    client.feed(&mut &greeting()[..]);
    let out = client.feed(&mut &reply(OPT_STRUCTURED_REPLY, ERR_UNSUP, b"old")[..]);
    assert_eq!(out[8..12], OPT_GO.to_be_bytes());
    let info = [&INFO_EXPORT.to_be_bytes()[..], &(1_u64 << 20).to_be_bytes(), &1_u16.to_be_bytes()].concat();
    let bytes = [reply(OPT_GO, REP_INFO, &info), reply(OPT_GO, REP_ACK, &[])].concat();
    client.feed(&mut &bytes[..]);
    let Some(ClientCommand::Ready(ready)) = client.end() else { panic!("{:?}", client.log) };
    assert!(!ready.structured && ready.context.is_none());
    assert_eq!(ready.export.block, crate::nbd::BlockSizes::DEFAULT, "the server named no block sizes");
}

/// The driver is told why an export is opened, once per question, and only when the question is whole.
#[test]
fn an_export_is_opened_only_for_a_whole_question() {
    let bytes = option(OPT_GO, &name_data("disk", &[0, 0]));
    for cut in 0..bytes.len() {
        let mut server = greeted(TlsPolicy::Off);
        server.feed(&mut &bytes[..cut]);
        assert!(server.log.iter().all(|c| !matches!(c, ServerCommand::OpenExport { .. })), "cut at {cut}");
        server.feed(&mut &bytes[cut..]);
        let opened = ServerCommand::OpenExport { name: "disk".to_owned(), why: OpenFor::Go };
        assert_eq!(server.log.iter().filter(|c| **c == opened).count(), 1);
    }
}
