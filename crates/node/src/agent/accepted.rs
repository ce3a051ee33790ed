//! What the registry admits, every other part accepts: the messages between nodes, the dead-man, the target, initiators.
//! Their own readers say so, with the very texts that this node would write.

use super::place::Place;
use super::{deadman, initiator, target};
use crate::director::told;
use crate::identity::{Identity, Seat, check_address, check_portals};
use crate::peer::{Brief, BriefDisk, Synced, WitnessAt};
use crate::registry::{Record, Settings, add_token, admit, found, members};
use crate::root::Root;
use api::{Code, NodeList, Problem, Role};
use cluster::job::VOLUMES_MAX;
use cluster::lease::{LeaseTiming, MEMBERS_MAX, SEGMENTS_MAX};
use cluster::store::{Engine, Memory, Revision};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use units::{CaFingerprint, Epoch, HostKey, Millis};

/// What a reply to a node may be long (`client`), with room for assignments.
const REPLY_BYTES_MAX: usize = 256 << 10;

/// A machine with the longest name, of every kind by turns: roles, address families, how many segments, and whether its
/// node's address is one of theirs.
fn seat(n: u8) -> Seat {
    let roles = [vec![Role::Storage], vec![Role::Host], vec![Role::Witness], Role::ALL.to_vec()];
    let ip = |segment: u8| -> IpAddr {
        match n % 2 {
            0 => IpAddr::from([10, 0, segment, n]),
            _ => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, segment.into(), n.into()]),
        }
    };
    let most = u8::try_from(SEGMENTS_MAX).expect("a few");
    let portals: Vec<IpAddr> = match n % 3 {
        0 => Vec::new(),
        // Its node's among them, and beside them.
        1 => (0..most).map(ip).collect(),
        _ => (1..=most).map(ip).collect(),
    };
    let name = format!("m{n:02}{}", "x".repeat(60)).parse().expect("63 letters are a name");
    Seat { name, address: SocketAddr::new(ip(0), 20_000), portals, roles: roles[usize::from(n % 4)].clone() }
}

fn record(n: u8, seat: Seat) -> Record {
    Record::new(seat, HostKey([n; 32]), 0)
}

/// As the service does it, with a token of its own.
fn join(engine: &mut Memory, n: u8, seat: Seat) -> Result<Record, Problem> {
    let hash = format!("{n:02x}").repeat(32);
    if engine.range("/token/").expect("it can be read").entries.is_empty() {
        add_token(engine, &hash, 2, 1)?;
    }
    check_address(seat.address)?;
    check_portals(&seat.portals)?;
    admit(engine, &hash, &record(n, seat))
}

/// Goal, CA1: whatever the registry admits, every other part accepts; what it does not is refused there, in words. Method: as many
/// machines as it takes, of every kind; after each join every machine's texts are read by those who are to read them.
#[test]
fn whatever_is_admitted_every_process_accepts() {
    let mut engine = Memory::new();
    found(&mut engine, &record(1, seat(1)), Settings::new(60)).expect("the first");
    accepted_by_all(&mut engine);
    let mut admitted = 1;
    let refusal = loop {
        let n = u8::try_from(admitted + 1).expect("it ends before 256");
        match join(&mut engine, n, seat(n)) {
            Ok(_) => accepted_by_all(&mut engine),
            Err(problem) => break problem,
        }
        admitted += 1;
    };
    assert_eq!((admitted, refusal.code), (MEMBERS_MAX, Code::Busy), "{refusal:?}");
    assert!(refusal.text.contains("1 to 32 machines") && refusal.hint.contains("node remove"), "{refusal:?}");
}

fn accepted_by_all(engine: &mut Memory) {
    let all = members(engine).expect("it can be read");
    let keys: Vec<HostKey> = all.iter().map(|record| record.key).collect();
    let witnesses = told(&all, &keys);
    let synced = sent(witnesses, engine);
    for record in &all {
        let seat = Seat {
            name: record.name.clone(),
            address: record.address,
            portals: record.portals.clone(),
            roles: record.roles.clone(),
        };
        let identity = Identity::new(CaFingerprint([1; 32]), seat, None);
        let place = Place::new(&Root::new(Path::new("/")), &identity, record.key);
        let at = Path::new("/etc/muskox/x.toml");
        let text = deadman::wanted(&place, &synced);
        let read = dataplane::deadman::config::Config::parse(at, &text);
        let read = read.unwrap_or_else(|error| panic!("{} machines, '{}': {error}\n{text}", all.len(), record.name));
        assert_eq!((read.witnesses.len(), read.listen.len()), (all.len(), record.ips().len()));
        let text = target::wanted(&place);
        let read = dataplane::target::config::Config::parse(at, &text);
        assert_eq!(read.unwrap_or_else(|error| panic!("{error}\n{text}")).listeners.len(), record.storage_ips().len());
        let text = initiator::wanted(&place, &brief(record), Epoch(1));
        let read = dataplane::initiator::config::Config::parse(at, &text);
        assert_eq!(read.unwrap_or_else(|error| panic!("{error}\n{text}")).volumes.len(), VOLUMES_MAX);
    }
}

/// Over the wire and back.
fn sent(witnesses: Vec<WitnessAt>, engine: &mut Memory) -> Synced {
    let cluster = CaFingerprint([1; 32]);
    let timing: LeaseTiming = crate::registry::settings(engine).expect("it was founded").lease;
    let members = NodeList { cluster, nodes: Vec::new() };
    let (assignments, unknown) = (Vec::new(), Vec::new());
    let synced = Synced { members, assignments, witnesses, timing, at: Revision(1), unknown, keep: Default::default() };
    let text = serde_json::to_string(&synced).expect("plain values are JSON");
    assert!(text.len() < REPLY_BYTES_MAX, "{} bytes", text.len());
    let read: Synced = serde_json::from_str(&text).expect("it was written here");
    assert_eq!(read, synced);
    read
}

/// A VM with as many disks as there may be, all on one machine.
fn brief(target: &Record) -> Brief {
    let portals = |port| target.storage_ips().into_iter().map(move |ip| SocketAddr::new(ip, port)).collect();
    let disk = |n: usize| BriefDisk {
        volume: format!("v{n:02}{}", "x".repeat(60)).parse().expect("63 letters are a name"),
        serial: format!("s{n}"),
        portals: portals(crate::ports::TARGET),
        target: target.key,
        unknown_fields: cluster::store::UnknownFields::default(),
    };
    Brief {
        vm: format!("w{}", "x".repeat(62)).parse().expect("63 letters are a name"),
        uuid: String::new(),
        memory_mib: 64,
        vcpus: 1,
        cpu: None,
        disks: (0..VOLUMES_MAX).map(disk).collect(),
        nics: Vec::new(),
        seed: None,
        patience_ms: Millis(1),
        unknown_fields: cluster::store::UnknownFields::default(),
    }
}

/// Goal, CA1: a machine whose processes would clash with another's, or be found nowhere, is refused at its join, with the reason; the
/// token stays good and nothing changes. Method: seats that are wrong in one thing.
#[test]
fn what_no_process_would_accept_is_not_admitted() {
    let mut engine = Memory::new();
    found(&mut engine, &record(1, seat(1)), Settings::new(60)).expect("the first");
    join(&mut engine, 2, seat(2)).expect("a sound machine");
    let before = members(&mut engine).expect("it can be read");
    let other = |spoil: &dyn Fn(&mut Seat)| {
        let mut seat = seat(4);
        spoil(&mut seat);
        seat
    };
    let (first, second) = (seat(1), seat(2));
    let at = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    for (seat, code, words) in [
        (other(&|it| it.address = SocketAddr::new(first.address.ip(), 20_001)), Code::AddressTaken, "m01"),
        (other(&|it| it.portals = vec![second.portals[7]]), Code::AddressTaken, "m02"),
        (other(&|it| it.portals = vec![second.address.ip()]), Code::AddressTaken, "m02"),
        (other(&|it| it.address = at("10.0.0.4:10812")), Code::BadRequest, "dead-man"),
        (other(&|it| it.address = at("10.0.0.4:10809")), Code::BadRequest, "target"),
        (other(&|it| it.address = at("[fe80::4]:10811")), Code::BadRequest, "link-local"),
        (other(&|it| it.address = at("[::ffff:10.0.0.4]:10811")), Code::BadRequest, "IPv4"),
        (
            other(&|it| it.portals = (0..9).map(|n| IpAddr::from([10, 0, n, 4])).collect()),
            Code::BadRequest,
            "9 portals",
        ),
    ] {
        let problem = join(&mut engine, 4, seat.clone()).expect_err(words);
        assert_eq!(problem.code, code, "{seat:?}: {problem:?}");
        assert!(problem.text.contains(words) && !problem.hint.is_empty(), "{problem:?}");
        assert_eq!(members(&mut engine).expect("it can be read"), before);
    }
}
