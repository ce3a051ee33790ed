//! Leases and votes between real processes.

use crate::support::{Cluster, PATIENCE, exchange, is_dead, peer, runs};
use host::net::{ClientTls, Expect, TlsFiles, connect_tcp};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use units::Millis;
use wire::control::{Answer, Ask, Code, Decoder, Outcome, Reply, Request, StandingReport, VERSION, VoteReport, encode};

/// Goal: who is dead is voted dead by the others and by nobody else, and those votes bind: the host that comes back is
/// granted nothing until they end. Method: three dead-men, one killed, votes asked at another; it is started again.
#[test]
fn a_dead_one_is_voted_dead_and_refused() {
    let mut cluster = Cluster::running(3);
    for n in 0..3 {
        cluster.wait(n, "a witness that counts", |report| report.doubt.is_none());
    }
    let votes = cluster.votes(0, 2);
    assert_eq!(votes.len(), 3);
    assert!(votes.iter().all(|cast| matches!(cast.vote, Some(VoteReport::Alive(_)))), "{votes:?}");
    cluster.kill(2);
    let killed = Instant::now();
    let votes = loop {
        let votes = cluster.votes(0, 2);
        if votes.iter().filter(|cast| is_dead(cast)).count() == 2 {
            break votes;
        }
        assert!(killed.elapsed() < PATIENCE, "{votes:?}\n{}", cluster.log(0));
        std::thread::sleep(Duration::from_millis(20));
    };
    let voted = Instant::now();
    assert!(killed.elapsed() >= Duration::from_millis(600), "voted dead after {:?}", killed.elapsed());
    for cast in &votes {
        assert!(cast.asked_ago < Millis(600), "{cast:?}");
        match cast.name.to_string().as_str() {
            "host2" => assert!(cast.vote.is_none() && cast.reason.is_some(), "{cast:?}"),
            _ => assert_eq!(cast.vote, Some(VoteReport::Dead(Millis(1_440)))),
        }
    }
    cluster.start(2);
    let back = cluster.wait(2, "a refusal", |report| peer(report, "host0").refused.is_some());
    assert_eq!(back.standing, StandingReport::Paused);
    // A vote outlives its process: this witness is killed and started again, and still refuses.
    cluster.kill(0);
    cluster.start(0);
    cluster.wait(2, "the lease after the votes", runs);
    assert!(voted.elapsed() >= Duration::from_millis(1_440), "granted after {:?}", voted.elapsed());
    let votes = cluster.votes(1, 2);
    assert!(!votes.iter().any(is_dead), "{votes:?}");
}

/// Goal: a silent witness's connections are given up whatever TCP thinks, and after silence of any length everybody
/// talks again within a second. Method: two of three stopped for 2.5 s; then the age of their grants at the third.
#[test]
fn after_a_long_silence_they_talk_within_a_second() {
    let cluster = Cluster::running(3);
    [1, 2].iter().for_each(|n| cluster.signal(*n, "-STOP"));
    cluster.wait(0, "a pause", |report| report.standing == StandingReport::Paused);
    cluster.wait(0, "connections given up", |report| {
        let ways = report.peers.iter().flat_map(|peer| &peer.portals);
        ways.clone().count() == 4 && ways.into_iter().all(|way| way.reason.is_some())
    });
    std::thread::sleep(Duration::from_millis(2_500));
    [1, 2].iter().for_each(|n| cluster.signal(*n, "-CONT"));
    let begun = Instant::now();
    let young = |age: Option<Millis>| age.is_some_and(|age| age < Millis(500));
    cluster.wait(0, "grants", |report| {
        ["host1", "host2"].iter().all(|name| {
            let peer = peer(report, name);
            young(peer.granted) && peer.portals.iter().all(|portal| young(portal.heard))
        })
    });
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(1_500), "it took {took:?}: {}", cluster.log(0));
    cluster.wait(0, "a lease", runs);
}

/// Goal: one network is enough. Method: each one's second portal leads to a listener that never answers.
#[test]
fn one_network_is_enough() {
    let mut cluster = Cluster::new(3);
    let holes: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    for n in 0..3 {
        let mut text = std::fs::read_to_string(cluster.path(n, "deadman.toml")).unwrap();
        for (machine, hole) in cluster.machines.iter().zip(&holes) {
            let portals = text.rfind(&format!("\"{}\"]", machine.portals[1])).unwrap();
            let hole = hole.local_addr().unwrap().to_string();
            text.replace_range(portals + 1..portals + 1 + machine.portals[1].len(), &hole);
        }
        std::fs::write(cluster.path(n, "deadman.toml"), text).unwrap();
        cluster.start(n);
    }
    let report = cluster.wait(0, "a lease", runs);
    let ways = &peer(&report, "host1").portals;
    assert!(ways[0].reason.is_none() != ways[1].reason.is_none(), "{ways:?}");
}

/// Goal: fewer than three witnesses pause nothing and vote nobody dead. Method: two, one killed.
#[test]
fn two_are_unwatched() {
    let mut cluster = Cluster::new(2);
    (0..2).for_each(|n| cluster.start(n));
    cluster.wait(0, "its standing", |report| report.standing == StandingReport::Unwatched);
    cluster.kill(1);
    std::thread::sleep(Duration::from_millis(1_000));
    assert!(!cluster.votes(0, 1).iter().any(is_dead));
    assert_eq!(cluster.try_status(0).unwrap().standing, StandingReport::Unwatched);
}

/// Goal: another machine may renew and ask for a vote, nothing else; a key that is no witness's gets not a word. Method:
/// a witness's own certificate, and a stranger's of the same CA, over TLS.
#[test]
fn a_machine_may_renew_and_vote_and_nothing_else() {
    let mut cluster = Cluster::running(3);
    cluster.kill(2);
    let ask = |folder: &Path, request: Request| over_tls(&cluster, folder, request);
    let folder = cluster.path(2, "");
    assert!(matches!(ask(&folder, Request::Renew), Some(Outcome::Reply(Reply::Renewal(_)))));
    let host = cluster.key(1);
    assert!(matches!(ask(&folder, Request::Vote { host }), Some(Outcome::Reply(Reply::Vote(_)))));
    for request in [Request::Status, Request::Votes { host }, Request::Reload, Request::PoolList] {
        match ask(&folder, request.clone()) {
            Some(Outcome::Refusal(refusal)) => assert_eq!(refusal.code, Code::Invalid),
            other => panic!("{request:?}: {other:?}"),
        }
    }
    assert!(ask(&cluster.stranger(), Request::Renew).is_none());
    assert!(cluster.log(0).contains("is no witness"), "{}", cluster.log(0));
    let stream = std::os::unix::net::UnixStream::connect(cluster.path(0, "deadman.sock")).unwrap();
    assert!(exchange(stream, Request::Renew).is_err(), "whose lease would that be?");
}

/// Asks machine 0 over TLS with the certificate in `folder`; `None`: the connection was closed.
fn over_tls(cluster: &Cluster, folder: &Path, request: Request) -> Option<Outcome> {
    let files = ["host.pem", "host.key", "ca.pem"].map(|name| folder.join(name));
    let [certificate, key, ca] = files;
    let (portal, expect) = (cluster.machines[0].portals[0].parse().unwrap(), Expect::Key(cluster.key(0)));
    let talk = async {
        let plain = connect_tcp(portal, Millis(5_000)).await.ok()?;
        let tls = ClientTls::load(&TlsFiles { certificate, key, ca }).unwrap();
        let mut stream = tls.connect(plain, &expect, Millis(5_000)).await.ok()?;
        let ask = encode(&Ask { version: VERSION, id: 1, request }).unwrap();
        stream.write_all(&ask).await.ok()?;
        stream.flush().await.ok()?;
        let (mut decoder, mut buffer) = (Decoder::default(), [0; 4096]);
        loop {
            if let Some(answer) = decoder.take_message::<Answer>().unwrap() {
                return Some(answer.outcome);
            }
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(len) => decoder.push(&buffer[..len]),
            }
        }
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(talk)
}

/// Goal: a certificate that is renewed on disk is used for the next connection, in both directions. Method: renewed,
/// then a peer is started again.
#[test]
fn a_renewed_certificate_is_used() {
    let mut cluster = Cluster::running(3);
    cluster.renew(0);
    cluster.kill(1);
    cluster.start(1);
    crate::support::until("the new certificate", || cluster.log(0).contains("certificate was read anew"));
    cluster.wait(1, "a lease", runs);
}

/// DA10, CA4. Goal: strangers who connect and say nothing keep no witness out, and end nobody's lease. Method: 10 000 of them from
/// the witnesses' own address; a witness connects anew while they come, and when all are there.
#[test]
fn silent_strangers_keep_no_witness_out() {
    let mut cluster = Cluster::running(3);
    cluster.kill(2);
    let folder = cluster.path(2, "");
    let logged = cluster.log(0).len();
    let door = cluster.machines[0].portals[0].parse().unwrap();
    let took = crate::flood::beside_strangers(door, || {
        assert!(runs(&cluster.try_status(0).expect("it answers")), "a lease ended");
        matches!(over_tls(&cluster, &folder, Request::Renew), Some(Outcome::Reply(Reply::Renewal(_))))
    });
    assert!(took.iter().all(|took| *took <= crate::flood::IN_WITHIN), "{took:?}");
    let more = cluster.log(0).len() - logged;
    assert!(more < 16 << 10, "{more} bytes of log for strangers:\n{}", cluster.log(0));
}

/// A21. Goal: an address that cannot be had keeps a dead-man from nothing, and is listened on when it comes. Method: one of two is
/// another program's at the start, which leaves later.
#[test]
fn an_address_that_comes_late_is_listened_on() {
    let mut cluster = Cluster::new(3);
    let late = cluster.machines[0].portals[1].clone();
    let other = TcpListener::bind(&late).unwrap();
    (0..3).for_each(|n| cluster.start(n));
    let report = cluster.wait(0, "a lease", runs);
    assert!(report.troubles.iter().any(|text| text.contains(&format!("cannot listen on {late}"))), "{report:?}");
    drop(other);
    cluster.wait(0, "the late address", |report| report.troubles.is_empty());
    cluster.wait(1, "the other way", |report| peer(report, "host0").portals.iter().all(|way| way.reason.is_none()));
}
