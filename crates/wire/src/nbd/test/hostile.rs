//! Peers that mean harm: the holes other implementations had, replayed (by their CVE numbers), and floods.

use super::drive::{Client, Server, greeted, greeting, option, option_with, reply, reply_kinds};
use crate::nbd::constant::*;
use crate::nbd::{
    ClientCommand, ClientFailure, ClientTls, Closing, Limits, Operation, Request, ServerCommand, TlsPolicy, Verdict,
};
use units::ByteOffset;

fn broken(server: &Server) -> bool {
    matches!(server.end(), Some(ServerCommand::Close(Closing::Broken(_))))
}

fn client_broken(client: &Client) -> bool {
    matches!(client.end(), Some(ClientCommand::Failed(ClientFailure::Broken(_))))
}

/// CVE-2017-15118 (QEMU): a name of 4096 bytes and more overflowed the stack. 4096 is served, 4097 is not, everywhere
/// a name can stand.
#[test]
fn a_name_of_4097_bytes_goes_nowhere() {
    let named =
        |len: usize, rest: &[u8]| [&u32::try_from(len).unwrap().to_be_bytes()[..], &vec![b'x'; len], rest].concat();
    for opt in [OPT_INFO, OPT_GO, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT] {
        let rest: &[u8] = if opt <= OPT_GO { &[0, 0] } else { &[0, 0, 0, 0] };
        let mut server = greeted(TlsPolicy::Off);
        server.feed(&mut &option(OPT_STRUCTURED_REPLY, &[])[..]);
        let longest = reply_kinds(&server.feed(&mut &option(opt, &named(4096, rest))[..]));
        assert_ne!(longest, [REP_FLAG_ERROR | 3], "option {opt} with 4096 bytes");
        let too_long = reply_kinds(&server.feed(&mut &option(opt, &named(4097, rest))[..]));
        assert_eq!(too_long, [REP_FLAG_ERROR | 3], "option {opt} with 4097 bytes");
    }
    let mut server = greeted(TlsPolicy::Off);
    server.feed(&mut &option_with(OPT_EXPORT_NAME, 4097, &[])[..]); // the header is enough
    assert!(broken(&server));
    assert!(!server.log.iter().any(|c| matches!(c, ServerCommand::OpenExport { .. })));
}

/// CVE-2017-15119 (QEMU): an option of 4 GiB was read to its end. Ours ends at the header; up to 1 MiB is thrown away
/// without being held.
#[test]
fn an_option_of_4_gib_is_not_read() {
    for opt in [OPT_EXPORT_NAME, OPT_LIST, OPT_GO, OPT_SET_META_CONTEXT, OPT_ABORT, OPT_STARTTLS, 99] {
        for len in [OPTION_DRAIN_MAX + 1, u32::MAX] {
            let mut server = greeted(TlsPolicy::Off);
            server.feed(&mut &option_with(opt, len, &[])[..]);
            assert!(broken(&server), "option {opt} of {len} bytes");
        }
    }
    let mut server = greeted(TlsPolicy::Off);
    server.feed(&mut &option_with(OPT_GO, OPTION_DRAIN_MAX, &[])[..]);
    for _ in 0..OPTION_DRAIN_MAX / 4096 - 1 {
        assert!(server.feed(&mut &[0; 4096][..]).is_empty());
        assert_eq!(server.machine.held_bytes(), 0);
    }
    assert_eq!(reply_kinds(&server.feed(&mut &[0; 4096][..])), [REP_FLAG_ERROR | 9]);
}

/// CVE-2017-9524 and CVE-2024-7409 (QEMU): clients that go away, or just stay, in the middle of the handshake. A
/// machine can be dropped at any byte, and one that waits holds no more than the longest option.
#[test]
fn half_open_handshakes_are_cheap_and_harmless() {
    let bytes = [&[0, 0, 0, 3][..], &option(OPT_LIST, &[]), &option(OPT_GO, &[0, 0, 0, 1, b'x', 0, 0])].concat();
    for cut in 0..bytes.len() {
        let mut server = Server::new(TlsPolicy::Off);
        server.feed(&mut &bytes[..cut]);
        assert!(server.machine.held_bytes() < 16);
    }
    let mut server = greeted(TlsPolicy::Off);
    server.feed(&mut &option_with(OPT_GO, OPTION_LEN_MAX, &[0; 1000])[..]);
    assert_eq!(server.machine.held_bytes(), 1000, "memory follows what arrived, not what was announced");
}

/// CVE-2019-14850 (nbdkit): the backend was opened before the client had said anything worth it. Nothing is opened
/// before GO, INFO or EXPORT_NAME, nor before TLS where it is required.
#[test]
fn nothing_is_opened_early() {
    let opened = |server: &Server| server.log.iter().any(|c| matches!(c, ServerCommand::OpenExport { .. }));
    let all = |skip: &[u32]| -> Vec<u8> {
        let options = (0..=12).filter(|opt| !skip.contains(opt));
        options.flat_map(|opt| option(opt, &[0, 0, 0, 1, b'x', 0, 0])).collect()
    };
    let mut server = greeted(TlsPolicy::Required);
    server.feed(&mut &all(&[OPT_EXPORT_NAME, OPT_ABORT])[..]);
    assert!(!opened(&server) && server.end().is_none(), "{:?}", server.log);
    let mut server = greeted(TlsPolicy::Off);
    server.feed(&mut &all(&[OPT_EXPORT_NAME, OPT_ABORT, OPT_INFO, OPT_GO])[..]);
    assert!(!opened(&server) && server.end().is_none(), "{:?}", server.log);
}

/// CVE-2019-14851 (nbdkit): options in an order nobody expected met an assertion. All sequences of four options, well
/// and badly formed, with and without TLS.
#[test]
fn no_order_of_options_meets_an_assertion() {
    let name = [0, 0, 0, 4, b'd', b'i', b's', b'k'];
    let go = [&name[..], &[0, 0]].concat();
    let set = [&name[..], &[0, 0, 0, 0]].concat();
    let pool = [
        option(OPT_INFO, &go),
        option(OPT_STRUCTURED_REPLY, &[]),
        option(OPT_SET_META_CONTEXT, &set),
        option(OPT_STARTTLS, &[]),
        option(OPT_LIST, &[]),
        option(OPT_GO, &[0]),
        option(OPT_GO, &go),
        option(OPT_EXPORT_NAME, b"disk"),
    ];
    let count = pool.len();
    for policy in [TlsPolicy::Off, TlsPolicy::Required] {
        for order in 0..count.pow(4) {
            let mut server = greeted(policy);
            for place in 0..4 {
                server.feed(&mut &pool[order / count.pow(place) % count][..]);
            }
            let ends =
                server.log.iter().filter(|c| matches!(c, ServerCommand::Close(_) | ServerCommand::Transmission(_)));
            assert!(ends.count() <= 1, "{:?}", server.log);
        }
    }
}

/// CVE-2021-3716 (nbdkit): options sent in plaintext behind STARTTLS were carried into the TLS session. Ours ends
/// when the first such byte is seen, wherever the stream is cut.
#[test]
fn plaintext_behind_starttls_ends_the_session() {
    let start = option(OPT_STARTTLS, &[]);
    let bytes = [&start[..], &option(OPT_STRUCTURED_REPLY, &[])].concat();
    for cut in 0..=bytes.len() {
        let mut server = greeted(TlsPolicy::Required);
        // Whoever drives it has not brought TLS up yet: it steps by hand.
        let mut commands = Vec::new();
        for part in [&bytes[..cut], &bytes[cut..]] {
            let mut input = part;
            while let Some(command) = server.machine.step(&mut input) {
                commands.push(command);
            }
        }
        let last = commands.last().expect("there is an end");
        assert!(matches!(last, ServerCommand::Close(Closing::Broken(_))), "cut at {cut}: {commands:?}");
        let together = cut == 0 || cut == bytes.len();
        assert!(!together || !commands.contains(&ServerCommand::StartTls), "a driver could start TLS and go on");
    }
    let mut client = Client::new("disk", ClientTls::Required);
    client.feed(&mut &greeting()[..]);
    let ack = reply(OPT_STARTTLS, REP_ACK, &[]);
    client.feed(&mut &[&ack[..], &reply(OPT_STRUCTURED_REPLY, REP_ACK, &[])].concat()[..]);
    assert!(client_broken(&client), "{:?}", client.log);
    assert!(!client.log.contains(&ClientCommand::StartTls), "a driver could start TLS and go on");
}

/// CVE-2019-14842 (libnbd): a server, or who stands before it, says no to TLS. The client says ABORT and nothing
/// else: no name of an export has crossed.
#[test]
fn a_client_that_wants_tls_does_not_go_on_without() {
    for kind in (1..=10).chain([99]) {
        let mut client = Client::new("secret", ClientTls::Required);
        client.feed(&mut &greeting()[..]);
        let out = client.feed(&mut &reply(OPT_STARTTLS, REP_FLAG_ERROR | kind, b"no")[..]);
        assert_eq!(out, option(OPT_ABORT, &[]));
        let Some(ClientCommand::Failed(ClientFailure::TlsRefused(refusal))) = client.end() else {
            panic!("{:?}", client.log)
        };
        assert_eq!(refusal.text, "no");
        assert!(client.feed(&mut &reply(OPT_ABORT, REP_ACK, &[])[..]).is_empty());
    }
    let mut client = Client::new("secret", ClientTls::Required);
    let mut old = greeting();
    old[17] = 2; // without FIXED_NEWSTYLE: the other way to talk a client out of TLS
    assert!(client.feed(&mut &old[..]).is_empty());
    assert!(client_broken(&client));
}

/// CVE-2023-5215 (libnbd): a size beyond 2^63 became negative. And the rest of what a server may lie about in GO.
#[test]
fn a_lying_description_is_refused() {
    let export =
        |size: u64, flags: u16| [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
    let block = |min: u32, preferred: u32, max: u32| {
        let sizes = [min, preferred, max].map(u32::to_be_bytes).concat();
        [&INFO_BLOCK_SIZE.to_be_bytes()[..], &sizes].concat()
    };
    let good = block(512, 4096, 1 << 25);
    let table: [(&str, Vec<u8>, Vec<u8>); 8] = [
        ("2^63 bytes", export(1 << 63, 1), good.clone()),
        ("2^64 - 1 bytes", export(u64::MAX, 1), good.clone()),
        ("no HAS_FLAGS", export(1 << 20, 2), good.clone()),
        ("a block size of zero", export(1 << 20, 1), block(0, 4096, 1 << 25)),
        ("a block size of 128 KiB", export(1 << 20, 1), block(1 << 17, 1 << 17, 1 << 25)),
        ("a maximum of zero", export(1 << 20, 1), block(512, 4096, 0)),
        ("a short description", export(1 << 20, 1)[..11].to_vec(), good.clone()),
        ("a long one", [&export(1 << 20, 1)[..], &[0]].concat(), good),
    ];
    let answer = |infos: &[&[u8]]| {
        let mut client = Client::new("disk", ClientTls::Off);
        client.feed(&mut &greeting()[..]);
        client.feed(&mut &reply(OPT_STRUCTURED_REPLY, REP_FLAG_ERROR | 1, &[])[..]);
        infos.iter().for_each(|info| drop(client.feed(&mut &reply(OPT_GO, REP_INFO, info)[..])));
        client.feed(&mut &reply(OPT_GO, REP_ACK, &[])[..]);
        client
    };
    for (what, export, block) in table {
        assert!(client_broken(&answer(&[&export, &block])), "{what}");
    }
    assert!(client_broken(&answer(&[])), "success without a size");
    let fine = answer(&[&export(1 << 20, 1), &block(512, 4096, 1 << 25), &[0x77, 0x77, 1, 2, 3]]);
    assert!(matches!(fine.end(), Some(ClientCommand::Ready(_))), "an unknown information is ignored");
}

/// CVE-2025-47711 (nbdkit): a block status over a range near 2^32 bytes met an assertion. Ours takes any length that
/// lies in the export.
#[test]
fn a_block_status_of_nearly_4_gib_is_a_request_like_others() {
    let export = crate::nbd::ExportInfo { size: units::ByteLen(8 << 30), ..super::drive::disk() };
    let limits = Limits::of(&export, true);
    let at = ByteOffset(4096);
    for (len, good) in [(u32::MAX - 4095, true), (u32::MAX, false)] {
        let verdict = limits.check(&Request { flags: 0, command: CMD_BLOCK_STATUS, cookie: 0, at, len });
        let expect = Verdict::Do(Operation::BlockStatus { at, len, one: false });
        assert_eq!(verdict == expect, good, "{verdict:?}");
    }
}

/// Floods: options on the server, replies and lengths on the client.
#[test]
fn floods_end() {
    let mut server = greeted(TlsPolicy::Off);
    let bytes = option(OPT_LIST, &[]);
    let sent = (0..).take_while(|_| !server.feed(&mut &bytes[..]).is_empty()).count();
    assert_eq!(sent, usize::try_from(OPTIONS_MAX).unwrap());
    assert!(broken(&server));

    let mut client = Client::new("disk", ClientTls::Off);
    client.feed(&mut &greeting()[..]);
    client.feed(&mut &reply(OPT_STRUCTURED_REPLY, REP_FLAG_ERROR | 1, &[])[..]);
    let info = reply(OPT_GO, REP_INFO, &[0xff, 0xff]);
    let taken = (0..)
        .take_while(|_| {
            client.feed(&mut &info[..]);
            client.end().is_none()
        })
        .count();
    assert_eq!(taken, usize::try_from(OPTION_REPLIES_MAX).unwrap());
    assert!(client_broken(&client));

    let mut client = Client::new("disk", ClientTls::Off);
    client.feed(&mut &greeting()[..]);
    let mut endless = reply(OPT_STRUCTURED_REPLY, REP_FLAG_ERROR | 1, &[]);
    endless[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    client.feed(&mut &endless[..]);
    assert!(client_broken(&client), "an error text of 4 GiB");
}
