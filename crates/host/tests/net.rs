//! Sockets over loopback: who is let in, who is not, and that a connection can move to another thread.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

mod support;

use host::net::{
    ClientTls, Expect, Listener, NetError, Peer, ServerTls, TlsError, TlsFiles, Transport, connect_tcp, connect_unix,
};
use host::runtime::block_on;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use std::fs::Permissions;
use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use support::{Scratch, have, tool};
use units::{HostKey, Millis};

const LIMIT: Millis = Millis(5000);
const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// A CA and the folder its certificates are in.
struct Authority {
    scratch: Scratch,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let (mut params, key) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(scratch.path("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { scratch, issuer: Issuer::new(params, key) }
    }

    /// A machine's certificate, valid until the end of `year`.
    fn machine(&self, name: &str, year: i32) -> TlsFiles {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = TlsFiles {
            certificate: self.scratch.path(&format!("{name}.pem")),
            key: self.scratch.path(&format!("{name}.key")),
            ca: self.scratch.path("ca.pem"),
        };
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
        files
    }
}

/// The identity as OpenSSL sees it.
fn key_by_openssl(files: &TlsFiles) -> HostKey {
    let script = "openssl x509 -in \"$1\" -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -r";
    let printed = tool(Command::new("sh").args(["-c", script, "sh"]).arg(&files.certificate));
    printed.split_whitespace().next().unwrap().parse().unwrap()
}

fn localhost() -> Expect {
    Expect::Name("localhost".try_into().unwrap())
}

/// Both ends of a fresh loopback connection.
async fn pair() -> (Transport, Transport) {
    let listener = Listener::tcp(SocketAddr::from(LOOPBACK)).unwrap();
    let address = listener.tcp_address().unwrap().unwrap();
    let (client, server) = tokio::join!(connect_tcp(address, LIMIT), listener.accept());
    (client.unwrap(), server.unwrap())
}

type Shaken = (Result<Transport, TlsError>, Result<Transport, TlsError>);

/// Client and server shake hands.
async fn shake(client: &TlsFiles, server: &TlsFiles, expect: Expect) -> Shaken {
    let (plain_client, plain_server) = pair().await;
    let (client, server) = (ClientTls::load(client).unwrap(), ServerTls::load(server).unwrap());
    tokio::join!(client.connect(plain_client, &expect, LIMIT), server.accept(plain_server, LIMIT))
}

async fn send(to: &mut Transport, mut bytes: &[u8]) {
    while !bytes.is_empty() || to.has_unsent() {
        to.writable().await.unwrap();
        let (first, second) = bytes.split_at(bytes.len() / 3);
        match to.try_write_vectored(&[IoSlice::new(first), IoSlice::new(second)]) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

async fn receive(from: &mut Transport, len: usize) -> std::io::Result<Vec<u8>> {
    let (mut bytes, mut done) = (vec![0; len], 0);
    while done < len {
        tokio::time::timeout(LIMIT.into(), from.readable()).await.map_err(|_| ErrorKind::TimedOut)??;
        match from.try_read(&mut bytes[done..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

/// What is sent arrives, both ways at once, more than any buffer holds.
async fn check_bytes_flow(one: &mut Transport, other: &mut Transport) {
    let long = pattern(3 << 20);
    let (_, seen) = tokio::join!(send(one, &long), receive(other, long.len()));
    assert!(seen.unwrap() == long);
    let (_, seen) = tokio::join!(send(other, &long[..100_000]), receive(one, 100_000));
    assert!(seen.unwrap() == long[..100_000]);
}

/// Goal: both sides learn the other's key, by name and by pin, as OpenSSL computes it, and bytes flow. Method: shake.
#[test]
fn a_peer_is_its_key() {
    let authority = Authority::new("peer-key");
    let (client, server) = (authority.machine("client", 2099), authority.machine("server", 2099));
    if !have("openssl") {
        return;
    }
    let (client_key, server_key) = (key_by_openssl(&client), key_by_openssl(&server));
    let checked = async |_| {
        for expect in [localhost(), Expect::Key(server_key)] {
            let (at_client, at_server) = shake(&client, &server, expect).await;
            let (mut at_client, mut at_server) = (at_client.unwrap(), at_server.unwrap());
            assert_eq!(at_server.host_key(), Some(client_key));
            assert_eq!(at_client.host_key(), Some(server_key));
            check_bytes_flow(&mut at_client, &mut at_server).await;
            at_client.say_goodbye();
            at_server.readable().await.unwrap();
            assert_eq!(at_server.try_read(&mut [0; 10]).unwrap(), 0, "a closing word is an end");
            drop(at_client);
        }
        let (at_client, at_server) = shake(&client, &server, localhost()).await;
        drop(at_client);
        let broken = receive(&mut at_server.unwrap(), 1).await.expect_err("no closing word");
        assert!(matches!(broken.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{broken}");
    };
    block_on(checked).unwrap();
}

/// Goal: a wrong CA, an old certificate, another key, another name are all refused, by whoever has to refuse. Method:
/// one of each (both CAs bear the same name: only the signature tells them apart). A client learns at its first read that its own certificate was refused (TLS 1.3).
#[test]
fn the_wrong_peer_is_refused() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (client, server) = (ours.machine("client", 2099), ours.machine("server", 2099));
    let (old, stranger) = (ours.machine("old", 2001), theirs.machine("stranger", 2099));
    let client_as_stranger =
        TlsFiles { certificate: stranger.certificate.clone(), key: stranger.key.clone(), ca: client.ca.clone() };
    let checked = async |_| {
        for (bad, words) in [(&client_as_stranger, "BadSignature"), (&old, "xpired")] {
            let (at_client, at_server) = shake(bad, &server, localhost()).await;
            let refused = at_server.map(drop).expect_err(words).to_string();
            assert!(refused.contains(words), "{refused}");
            receive(&mut at_client.unwrap(), 1).await.expect_err("the server has refused");
        }
        for (bad, words) in [(&stranger, "BadSignature"), (&old, "xpired")] {
            for expect in [localhost(), Expect::Key(HostKey([0; 32]))] {
                let (at_client, at_server) = shake(&client, bad, expect).await;
                let refused = at_client.map(drop).expect_err(words).to_string();
                assert!(refused.contains(words), "{refused}");
                assert!(at_server.is_err());
            }
        }
        for expect in [Expect::Name("elsewhere".try_into().unwrap()), Expect::Key(HostKey([7; 32]))] {
            let (at_client, at_server) = shake(&client, &server, expect).await;
            assert!(matches!(at_client, Err(TlsError::Refused(_))));
            assert!(at_server.is_err());
        }
    };
    block_on(checked).unwrap();
}

/// Goal: who shows no certificate, speaks no TLS, or says nothing does not get in. Method: OpenSSL without a
/// certificate, plain bytes, silence.
#[test]
fn who_shows_nothing_is_refused() {
    let authority = Authority::new("nothing");
    let server = ServerTls::load(&authority.machine("server", 2099)).unwrap();
    let checked = async |_| {
        let (mut client, plain) = pair().await;
        send(&mut client, b"NBDMAGIC and more of what is no TLS at all").await;
        let refused = server.accept(plain, LIMIT).await.map(drop).expect_err("no TLS");
        assert!(matches!(refused, TlsError::Refused(_)), "{refused}");

        let (client, plain) = pair().await;
        let refused = server.accept(plain, Millis(50)).await.map(drop).expect_err("silence");
        assert!(matches!(refused, TlsError::TooSlow(_)), "{refused}");
        drop(client);

        if !have("openssl") {
            return;
        }
        let listener = Listener::tcp(SocketAddr::from(LOOPBACK)).unwrap();
        let address = listener.tcp_address().unwrap().unwrap().to_string();
        let mut openssl = Command::new("openssl");
        let openssl = openssl.args(["s_client", "-connect", &address]).stdin(std::process::Stdio::null());
        let mut openssl =
            openssl.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let plain = listener.accept().await.unwrap();
        let refused = server.accept(plain, LIMIT).await.map(drop).expect_err("no certificate");
        openssl.kill().unwrap();
        openssl.wait().unwrap();
        assert!(refused.to_string().contains("no certificates"), "{refused}");
    };
    block_on(checked).unwrap();
}

/// Goal: TLS may begin in the middle of a connection, even if the hello was received too early (NBD STARTTLS). Method:
/// the server reads everything that is there, gives back what follows the plain word, and upgrades.
#[test]
fn tls_begins_in_the_middle_of_a_connection() {
    let authority = Authority::new("starttls");
    let (client, server) = (authority.machine("client", 2099), authority.machine("server", 2099));
    let (client, server) = (ClientTls::load(&client).unwrap(), ServerTls::load(&server).unwrap());
    let checked = async |_| {
        let (mut plain_client, mut plain_server) = pair().await;
        send(&mut plain_client, b"STARTTLS").await;
        let upgrade = async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            plain_server.readable().await.unwrap();
            let mut all = vec![0; 4096];
            let count = plain_server.try_read(&mut all).unwrap();
            assert!(count > 8 && all.starts_with(b"STARTTLS"), "the hello came with it");
            plain_server.unread(&all[8..count]);
            server.accept(plain_server, LIMIT).await
        };
        let expect = localhost();
        let (at_client, at_server) = tokio::join!(client.connect(plain_client, &expect, LIMIT), upgrade);
        check_bytes_flow(&mut at_client.unwrap(), &mut at_server.unwrap()).await;
    };
    block_on(checked).unwrap();
}

/// Goal: a connection moves to another thread with its TLS state, what is decrypted, and what was given back, in order.
/// Method: send, read a little, give some back, move, read on there and answer.
#[test]
fn a_connection_moves_to_another_thread() {
    let authority = Authority::new("moves");
    let (client, server) = (authority.machine("client", 2099), authority.machine("server", 2099));
    for tls in [false, true] {
        let moved = async |_| {
            let (mut at_client, mut at_server) = pair().await;
            if tls {
                let shaken = shake(&client, &server, localhost()).await;
                (at_client, at_server) = (shaken.0.unwrap(), shaken.1.unwrap());
            }
            let key = at_server.host_key();
            assert_eq!(key.is_some(), tls);
            let long = pattern(10_000);
            send(&mut at_client, &long).await;
            let first = receive(&mut at_server, 100).await.unwrap();
            at_server.unread(&first[60..]);
            at_server.unread(&first[50..60]);
            let parts = at_server.into_parts().unwrap();
            let there = std::thread::spawn(move || {
                let read_on = async |_| {
                    let mut at_server = Transport::from_parts(parts).unwrap();
                    assert_eq!(at_server.host_key(), key);
                    assert!(receive(&mut at_server, 9950).await.unwrap() == pattern(10_000)[50..]);
                    send(&mut at_server, b"moved").await;
                };
                block_on(read_on).unwrap();
            });
            assert_eq!(receive(&mut at_client, 5).await.unwrap(), b"moved");
            there.join().unwrap();
        };
        block_on(moved).unwrap();
    }
}

/// Goal: a Unix socket is its owner's only, replaces a stale one, and never anything else. Method: each case.
#[test]
fn a_unix_socket_is_private_and_replaces_only_a_stale_one() {
    let scratch = Scratch::new("unix");
    let path = scratch.path("socket");
    let checked = async |_| {
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a stale socket");
        let listener = Listener::unix(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let theirs = scratch.path("theirs");
        std::fs::create_dir(&theirs).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&theirs, Some(65_534), Some(65_534)).unwrap();
        }
        let _of_folder = Listener::unix_of_folder(&theirs.join("socket")).unwrap();
        let (folder, socket) = (std::fs::metadata(&theirs).unwrap(), std::fs::metadata(theirs.join("socket")).unwrap());
        assert_eq!((socket.uid(), socket.gid(), socket.mode() & 0o777), (folder.uid(), folder.gid(), 0o600));
        assert!(matches!(Listener::unix(&path), Err(NetError::Answered(_))));
        let _first_try = listener.accept().await.unwrap();
        let (client, server) = tokio::join!(connect_unix(&path), listener.accept());
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        let process = i32::try_from(std::process::id()).unwrap();
        assert_eq!(server.peer(), Peer::Unix { user: rustix::process::getuid().as_raw(), process: Some(process) });
        check_bytes_flow(&mut client, &mut server).await;
        drop(listener);
        assert!(!path.exists(), "it goes with its listener");

        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::unix(&path), Err(NetError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let long = scratch.path(&"x".repeat(120));
        let refused = Listener::unix(&long).map(drop).expect_err("too long").to_string();
        assert!(refused.contains("107 at most"), "{refused}");
        let missing = connect_unix(&scratch.path("nobody")).await.map(drop).expect_err("nobody").to_string();
        assert!(missing.contains("cannot connect to") && missing.contains("nobody"), "{missing}");
    };
    block_on(checked).unwrap();
}

/// Goal: bad files are named, with what is wrong. Method: one of each.
#[test]
fn bad_files_are_named() {
    let authority = Authority::new("files");
    let (good, other) = (authority.machine("good", 2099), authority.machine("other", 2099));
    let check = |files: &TlsFiles, words: &str, culprit: &std::path::Path| {
        for refused in [ServerTls::load(files).map(drop), ClientTls::load(files).map(drop)] {
            let refused = refused.expect_err(words).to_string();
            assert!(refused.contains(words) && refused.contains(culprit.to_str().unwrap()), "{refused}");
        }
    };
    let missing = authority.scratch.path("missing");
    check(&TlsFiles { ca: missing.clone(), ..good.clone() }, "cannot be read", &missing);
    check(&TlsFiles { certificate: good.key.clone(), ..good.clone() }, "it holds no certificate", &good.key);
    check(&TlsFiles { key: other.key.clone(), ..good.clone() }, "do not work together", &other.key);
    std::fs::set_permissions(&good.key, Permissions::from_mode(0o640)).unwrap();
    check(&good, "may be read by others (mode 0640)", &good.key);
    std::fs::set_permissions(&good.key, Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&good.key, "-----BEGIN RUBBISH-----").unwrap();
    check(&good, "is not usable", &good.key);
}
