//! What is found is said: one disease at a time.

use super::*;
use crate::peer::Tell;
use api::{NodeState, Role};
use cluster::job::Guest;
use cluster::store::Revision;
use units::{ArrayId, ByteLen, Epoch, HostKey, Millis, VolumeId};
use wire::control::{MemberReport, MemberState, PoolReport, PoolState, ServeState, VolumeReport};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub fn member(text: &str) -> Member {
    Member {
        name: name(text),
        address: "127.0.0.1:1".parse().unwrap(),
        portals: Vec::new(),
        roles: vec![Role::Storage, Role::Host, Role::Witness],
        key: HostKey([1; 32]),
        joined_s: 0,
        state: NodeState::Up,
        heard_ms: Some(1),
        certificate_until_s: Some(1_000_000),
        version: Some(crate::VERSION.to_owned()),
    }
}

/// A guest that runs, with one disk that has two paths.
fn reaching(waits: Option<&str>, down: usize) -> Tell {
    let portals = ["10.0.1.1:10809", "10.0.2.1:10809"].map(|portal| portal.parse().unwrap());
    let (gone, up) = portals.split_at(down);
    let down = gone.iter().map(|portal| (*portal, "no route to host".to_owned())).collect();
    let waits = waits.map(str::to_owned);
    let disk = crate::peer::DiskTell { volume: "web1".parse().unwrap(), waits, down, up: up.to_vec() };
    Tell { disks: vec![disk], ..guest(Guest::Running) }
}

/// A machine that is well.
pub fn report() -> HostReport {
    HostReport {
        sequence: crate::peer::Sequence::default(),
        memory: ByteLen::mib(1024),
        free: ByteLen::mib(512),
        cpus: 2,
        qemu: Some((10, 0)),
        accelerator: "kvm".to_owned(),
        bridges: Vec::new(),
        bridges_out: Vec::new(),
        lacks_machine: None,
        processor: None,
        guests: Vec::new(),
        unlisted: None,
        target_up: Some(Millis(1)),
        deadman: true,
        withheld: None,
        witnesses: Vec::new(),
        complaints: Vec::new(),
        faults: Vec::new(),
    }
}

fn status() -> StatusReport {
    let pool = PoolReport {
        pool: "tank".parse().unwrap(),
        array: Some(ArrayId([1; 16])),
        state: PoolState::Healthy,
        reason: None,
        note: None,
        size: ByteLen::mib(100),
        free: ByteLen::mib(50),
        members: Vec::new(),
        resync: None,
    };
    let volume = VolumeReport {
        volume: "web1".parse().unwrap(),
        id: VolumeId([2; 16]),
        pool: "tank".parse().unwrap(),
        size: ByteLen::mib(8),
        state: ServeState::Serving,
        reason: None,
        epoch: Epoch(1),
        sessions: 0,
        zeroing: None,
    };
    let (pools, volumes) = (vec![pool], vec![volume]);
    StatusReport {
        version: String::new(),
        up: Millis(5_000),
        pools,
        volumes,
        sessions: Vec::new(),
        troubles: Vec::new(),
    }
}

/// A cluster in which nothing is wrong.
fn healthy() -> Findings {
    let names = ["one", "three", "two"];
    Findings {
        certificate_s: 1_200_000,
        members: names.map(member).to_vec(),
        looks: names.map(|text| (name(text), Ok(report()))).into(),
        targets: [(name("one"), Ok(status()))]
            .into_iter()
            .chain(["three", "two"].map(|text| {
                let empty = StatusReport { pools: Vec::new(), volumes: Vec::new(), ..status() };
                (name(text), Ok(empty))
            }))
            .collect(),
        pools: vec![PoolObject { version: 1, name: "tank".parse().unwrap(), node: name("one") }],
        volumes: vec![VolumeObject {
            version: 1,
            name: "web1".parse().unwrap(),
            id: Some(VolumeId([2; 16])),
            pool: "tank".parse().unwrap(),
            node: name("one"),
            size: ByteLen::mib(8),
            vm: None,
            unknown_fields: cluster::store::UnknownFields::default(),
        }],
        ..Findings::empty(name("one"), 0)
    }
}

fn target(findings: &mut Findings) -> &mut StatusReport {
    findings.targets.get_mut(&name("one")).unwrap().as_mut().unwrap()
}

fn look(findings: &mut Findings) -> &mut HostReport {
    findings.looks.get_mut(&name("two")).unwrap().as_mut().unwrap()
}

pub fn guest(kind: Guest) -> Tell {
    Tell { at: Revision(1), ..Tell::new("vm1".parse().unwrap(), crate::peer::Sequence::default(), kind) }
}

/// Goal: each disease is named once, with what to do, and a healthy cluster has none. Method: a healthy one, spoiled in one
/// place at a time.
#[test]
fn each_disease_is_named() {
    assert!(judge(&healthy()).iter().all(|check| check.grade == Grade::Good), "{:?}", judge(&healthy()));
    type Spoil = fn(&mut Findings);
    let cases: [(&str, Grade, Spoil); 28] = [
        ("votes", Grade::Warning, |it| drop(it.members.pop())),
        ("node", Grade::Bad, |it| {
            let gone = Problem::new(Code::Unreachable, "it does not answer", "start it");
            it.looks.insert(name("two"), Err(gone));
        }),
        ("node", Grade::Warning, |it| it.members[1].state = NodeState::Silent),
        ("certificate", Grade::Bad, |it| it.now_s = 1_000_001),
        ("certificate", Grade::Warning, |it| it.members[0].certificate_until_s = Some(1_000)),
        ("version", Grade::Warning, |it| it.members[0].version = Some("0.0.0".to_owned())),
        ("QEMU", Grade::Bad, |it| look(it).qemu = None),
        // A33.
        ("QEMU", Grade::Bad, |it| look(it).lacks_machine = Some("pc-q35-7.2".to_owned())),
        // D2: a bridge that cannot be kept, say.
        ("machine", Grade::Bad, |it| look(it).faults.push(("x".to_owned(), "y".to_owned()))),
        ("KVM", Grade::Warning, |it| look(it).accelerator = "tcg".to_owned()),
        ("dead-man", Grade::Bad, |it| look(it).deadman = false),
        ("machine", Grade::Warning, |it| look(it).complaints.push(("x".to_owned(), "y".to_owned()))),
        ("target", Grade::Bad, |it| {
            let gone = Problem::new(Code::Failed, "no target", "");
            it.targets.insert(name("two"), Err(gone));
        }),
        ("pool tank", Grade::Warning, |it| target(it).pools[0].state = PoolState::Degraded),
        // D6.
        ("pool tank", Grade::Warning, |it| {
            let disk = MemberReport { path: "/dev/a".to_owned(), slot: Some(0), state: MemberState::InSync };
            target(it).pools[0].members = vec![disk];
        }),
        ("pool tank", Grade::Bad, |it| target(it).pools.clear()),
        ("pool tank", Grade::Warning, |it| it.pools.clear()),
        ("volume web1", Grade::Bad, |it| target(it).volumes[0].state = ServeState::BlockedFloor),
        ("volume web1", Grade::Bad, |it| target(it).volumes.clear()),
        ("volume web1", Grade::Warning, |it| it.volumes.clear()),
        // A19: one of stock tools, with a name that is not possible here.
        ("volume Root+1", Grade::Warning, |it| {
            let mut other = target(it).volumes[0].clone();
            other.volume = "Root+1".to_owned();
            (other.state, other.reason) = (ServeState::Offline, Some("its name".to_owned()));
            target(it).volumes.push(other);
        }),
        ("VM vm1", Grade::Bad, |it| {
            it.vms.push(VmAtAGlance { name: "vm1".parse().unwrap(), wish: "running".to_owned(), down: None });
            look(it).guests.push(guest(Guest::Absent));
        }),
        ("VM vm1", Grade::Bad, |it| look(it).guests.push(guest(Guest::Stopped))),
        // A24: both segments are cut, and one.
        ("VM vm1", Grade::Bad, |it| look(it).guests.push(reaching(Some("no answer"), 2))),
        ("VM vm1", Grade::Warning, |it| look(it).guests.push(reaching(None, 1))),
        ("VM vm1", Grade::Bad, |it| {
            let problem = Problem::new(Code::NotPossible, "the store is behind", "adopt it");
            it.behind.push(("vm1".parse().unwrap(), problem));
        }),
        ("job j1", Grade::Bad, |it| {
            let blocked = Some("votes".to_owned());
            it.jobs.push(JobAtAGlance { id: "j1".to_owned(), blocked, outcome: None });
        }),
        ("object /vm/vm1", Grade::Bad, |it| it.unreadable.push(("/vm/vm1".parse().unwrap(), "x".to_owned()))),
    ];
    for (what, grade, spoil) in cases {
        let mut findings = healthy();
        spoil(&mut findings);
        let checks = judge(&findings);
        let bad: Vec<&Check> = checks.iter().filter(|check| check.grade != Grade::Good && check.what == what).collect();
        assert!(!bad.is_empty() && bad.iter().all(|check| check.grade == grade), "{what}: {checks:?}");
        assert!(bad.iter().all(|check| !check.hint.is_empty() && !check.text.is_empty()), "{bad:?}");
    }
}

/// Goal: A41: doctor names the disk, and says what brings it back. Method: a missing, a failed one; a pool that is down.
#[test]
fn a_degraded_pool_names_its_disk_and_the_way_back() {
    let said = |state, member: Option<MemberState>, reason: &str| {
        let mut findings = healthy();
        let report = &mut target(&mut findings).pools[0];
        (report.state, report.reason) = (state, Some(reason.to_owned()));
        report.members =
            member.map(|state| MemberReport { path: "/dev/b".to_owned(), slot: Some(1), state }).into_iter().collect();
        if state == PoolState::Failed {
            (report.size, report.free) = (ByteLen(0), ByteLen(0));
        }
        let check = judge(&findings).into_iter().find(|check| check.what == "pool tank").unwrap();
        (check.text, check.hint)
    };
    let (text, hint) = said(PoolState::Degraded, Some(MemberState::Missing), "/dev/disk/by-id/b is missing");
    assert!(text.contains("/dev/disk/by-id/b is missing") && hint.contains("comes back by itself"), "{text} {hint}");
    let (text, hint) = said(PoolState::Degraded, Some(MemberState::Failed), "/dev/b: no answer");
    assert!(text.contains("/dev/b") && hint.contains("`muskox pool add`"), "{text} {hint}");
    let (text, _) = said(PoolState::Failed, None, "no member is here");
    assert_eq!(text, "failed: no member is here", "no size of what is not there");
}

/// Goal: a claim is a finding only when nobody fills the volume any more.
#[test]
fn a_claim_left_over_is_named() {
    let mut findings = healthy();
    let volume: VolumeName = "web1".parse().unwrap();
    let claim = ClaimObject { version: 1, volume: volume.clone(), machine: name("two"), epoch: Epoch(3), since_s: 0 };
    findings.claims.push(claim);
    assert!(judge(&findings).iter().any(|check| check.node == name("two") && check.grade == Grade::Warning));
    findings.filling.push(volume);
    assert!(judge(&findings).iter().all(|check| check.grade == Grade::Good));
}

/// Goal: what cannot be read is a finding that hides nothing else, and nobody is told to remove the volume that it describes.
/// Method: a store with a good and a bad object of each kind; a target that has the volume.
#[test]
fn what_cannot_be_read_is_named() {
    let mut engine = cluster::store::Memory::new();
    let settings = registry::Settings::new(3_600);
    let seat = crate::identity::Seat {
        name: name("one"),
        address: "127.0.0.1:1".parse().unwrap(),
        portals: Vec::new(),
        roles: vec![Role::Storage],
    };
    let record = registry::Record::new(seat, HostKey([1; 32]), 0);
    registry::found(&mut engine, &record, settings).unwrap();
    let put = |key: &str, value: &str| cluster::store::Op::Put {
        key: key.parse().unwrap(),
        value: value.to_owned(),
        lease: None,
    };
    let bad = ["/claim/c", "/epoch/vm/vm1", "/job/j1", "/pool/p", "/vm/vm1", "/volume/web1"].map(|key| put(key, "{}"));
    let good = put("/pool/tank", r#"{"version":1,"name":"tank","node":"one"}"#);
    let then = bad.into_iter().chain([good]).collect();
    engine.txn(&cluster::store::Txn { then, ..Default::default() }).unwrap();
    let stored = read(&mut engine).unwrap();
    let keys: Vec<&str> = stored.unreadable.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["/claim/c", "/epoch/vm/vm1", "/job/j1", "/pool/p", "/vm/vm1", "/volume/web1"]);
    let Stored { pools, volumes, unreadable, .. } = stored;
    let findings = Findings { pools, volumes, unreadable, ..healthy() };
    assert_eq!(findings.pools.len(), 1);
    assert!(judge(&findings).iter().all(|check| check.grade == Grade::Good || check.what.starts_with("object ")));
}
