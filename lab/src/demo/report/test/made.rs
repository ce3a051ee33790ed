//! Evidence of a run that never was and in which all went well: one round, four minutes.

use crate::demo::evidence::{
    Answer, AppliedLine, Beacon, Cause, Event, Evidence, GrantLine, GrantOwner, Grants, Kind, OracleRun, Outcome,
    Receipt, RecordsCheck, RogueLine, Stamp, Step, StoreChange, What,
};
use crate::demo::guest::record::Boot;
use serde_json::json;

/// The hosts' keys.
pub const KEYS: [&str; 2] = ["11aa", "22bb"];
const VOLUMES: [&str; 2] = ["web1", "web1-canary"];

/// A stretch in which one boot lives at one host: (boot, host, from, to) in milliseconds.
const LIVES: [(u64, &str, u64, u64); 9] = [
    (0xa, "host1", 18_000, 26_000),
    (0xa, "host2", 26_050, 45_000),
    (0xb, "host1", 55_000, 71_000),
    (0xb, "host2", 71_050, 80_000),
    // Thawed, and paused within the dead-man's time.
    (0xb, "host2", 110_000, 110_150),
    (0xc, "host1", 90_000, 117_400),
    (0xd, "host2", 125_000, 140_000),
    (0xd, "host2", 210_500, 220_000),
    (0xd, "host2", 240_600, 250_000),
];

/// When records arrive: (boot, from, to) in milliseconds, one every 25.
const WORK: [(u64, u64, u64); 7] = [
    (0xa, 20_000, 26_000),
    (0xa, 26_100, 45_000),
    (0xb, 58_000, 71_000),
    (0xb, 71_100, 80_000),
    (0xc, 93_000, 115_000),
    (0xd, 128_000, 140_000),
    (0xd, 210_800, 220_000),
];

/// All of it.
pub fn good() -> Evidence {
    let mut evidence = Evidence { records: None, ..Evidence::default() };
    events(&mut evidence);
    guest(&mut evidence);
    epochs(&mut evidence);
    rogue(&mut evidence);
    let acked = evidence.receipts.len() as u64;
    evidence.records = Some(RecordsCheck { acked, missing: 0, torn: 0 });
    evidence.oracles = ["mdadm", "lvm", "e2fsck"].map(oracle).into();
    evidence.events.sort_by_key(|event| event.at_us);
    evidence
}

fn oracle(name: &str) -> OracleRun {
    let output = format!("outputs/{name}.txt");
    OracleRun { oracle: name.into(), command: format!("{name} --look"), status: 0, output, agrees: true }
}

fn events(evidence: &mut Evidence) {
    let mut at = |at_ms: u64, what: What| evidence.events.push(Event { at_us: at_ms * 1000, what });
    let hosts = ["host1", "host2"].map(str::to_owned).into_iter().zip(KEYS.map(str::to_owned)).collect();
    at(0, What::RunBegin { rounds: 1, sabotage: None, vm: "web1".into(), hosts });
    let begins = [0, 2, 4, 10, 24, 29, 44, 64, 78, 114, 139, 218, 250];
    for (step, (begin, end)) in Step::ALL.into_iter().zip(begins.into_iter().zip([&begins[1..], &[255]].concat())) {
        at(begin * 1000, What::Phase { step, round: 1 });
        at(end * 1000 - 10, What::Done { step, round: 1 });
    }
    let running = |host: &str, epoch, fault| What::Running { host: host.into(), epoch, fault };
    at(12_000, running("host1", 1, None));
    for (migration, begin, from, to, epoch) in [(1, 25_000, "host1", "host2", 3), (2, 70_000, "host2", "host1", 6)] {
        // The second one's hosts are named the way round it went.
        let (from, to) = if migration == 2 { (to, from) } else { (from, to) };
        at(begin, What::MigrateBegin { migration, from: from.into(), to: to.into() });
        at(begin + 1041, running(to, epoch, None));
        at(begin + 1100, What::MigrateEnd { migration, total_ms: 1080, bytes: 90_000_000, blackout_ms: 41 });
    }
    let faults = [
        (1, Cause::Disk, None, 30_000, 35_000, 40_000),
        (2, Cause::Poweroff, Some("host2"), 45_000, 62_000, 63_000),
        (3, Cause::Freeze, Some("host2"), 80_000, 110_000, 112_000),
        (4, Cause::Cut, Some("host1"), 115_000, 135_000, 137_000),
        (5, Cause::Switch, None, 140_000, 210_000, 216_000),
        (6, Cause::Storage, None, 220_000, 240_000, 245_000),
    ];
    for (fault, cause, host, begin, end, settled) in faults {
        at(begin, What::Inject { fault, cause, host: host.map(str::to_owned), revision: begin / 1000 });
        at(end, What::End { fault });
        at(settled, What::Settled { fault, revision: settled / 1000 });
    }
    for (fault, begin, host, epoch) in [(2, 45_000, "host1", 4), (3, 80_000, "host1", 7), (4, 115_000, "host2", 8)] {
        at(begin + 3000, What::Verdict { fault });
        at(begin + 3800, running(host, epoch, Some(fault)));
    }
    at(35_000, What::Pool { state: "resync".into(), text: "43 %, 12 s left".into() });
    at(250_000, What::WorkEnd);
}

fn guest(evidence: &mut Evidence) {
    for (boot, host, from, to) in LIVES {
        let beacon =
            |at_ms: u64| Beacon { at_us: at_ms * 1000, host: host.into(), boot: Boot(boot), counter: at_ms / 5 };
        evidence.beacons.extend((from..to).step_by(5).map(beacon));
        if to - from > 1000 {
            let answer =
                |at_ms| Answer { at_us: at_ms * 1000 + 800, sent_us: at_ms * 1000, n: at_ms / 10, boot: Boot(boot) };
            evidence.probes.extend((from + 2000..to).step_by(10).map(answer));
        }
    }
    let answered = |from: u64, to: u64, boot: u64| {
        let answer =
            |at_ms| Answer { at_us: at_ms * 1000 + 800, sent_us: at_ms * 1000, n: at_ms / 10, boot: Boot(boot) };
        (from..to).step_by(10).map(answer).collect::<Vec<_>>()
    };
    // Only boots take long, a handed-over guest answers again soon.
    evidence.probes.extend([answered(26_100, 28_050, 0xa), answered(71_100, 73_050, 0xb)].concat());
    let resumed = WORK.into_iter().chain([(0xd, 240_900, 250_000)]);
    for (boot, from, to) in resumed {
        for at_ms in (from..to).step_by(25) {
            let n = evidence.receipts.len() as u64;
            evidence.receipts.push(Receipt { at_us: at_ms * 1000, boot: Boot(boot), n, crc: 7 });
        }
    }
    evidence.beacons.sort_by_key(|line| line.at_us);
    evidence.probes.sort_by_key(|line| line.at_us);
}

fn epochs(evidence: &mut Evidence) {
    let [one, two] = KEYS.map(Some);
    let moves = [
        (11_000, one),
        (25_980, None),
        (26_020, two),
        (48_100, one),
        (70_980, None),
        (71_020, two),
        (83_100, one),
        (118_100, two),
    ];
    let mut lines = Vec::new();
    for (epoch, (at_ms, owner)) in (1..).zip(moves) {
        let value = json!({"version": 1, "vm": "web1", "epoch": epoch, "owner": owner, "volumes": VOLUMES});
        let (key, not_before_us) = ("/epoch/vm/web1".to_owned(), Some(at_ms * 1000));
        // The store's own form: text. Revisions grow with the seconds.
        let value = Some(value.to_string().into());
        evidence.store.push(StoreChange { revision: at_ms / 1000, key, value, not_before_us });
        for volume in VOLUMES {
            let owners = owner.iter().map(|&host| GrantOwner { host: host.into(), mode: "rw".into() }).collect();
            let mono_us = at_ms * 1000 + 10_000;
            lines.push(GrantLine { mono_us, kind: "grant".into(), volume: volume.into(), epoch, owners });
        }
    }
    evidence.grants = vec![Grants { machine: "storage".into(), lines }];
}

fn rogue(evidence: &mut Evidence) {
    for (seq, at_ms) in (1..).zip((79_000..112_000).step_by(100)) {
        let late = at_ms > 82_800;
        let (what, at_us) = (Kind::ALL[usize::try_from(seq % 4).unwrap()], at_ms * 1000);
        let (outcome, text) = if late { (Outcome::Refused, "epoch 6 is over") } else { (Outcome::Applied, "") };
        let (done_us, text) = (at_us + if late { 1000 } else { 300_000 }, text.to_owned());
        let line =
            RogueLine { at_us, done_us, fault: 3, what, epoch: 6, incarnation: 2, seq: Some(seq), outcome, text };
        evidence.rogue.push(line);
        let stamp = Stamp { run: 3, epoch: 6, seq, kind: what };
        for disk in if late { 0..0 } else { 0..2 } {
            let (received_us, completed_us) = (at_us + 500, Some(at_us + 301_000));
            let op = AppliedLine { id: seq * 2, received_us, completed_us, failed: false, disk, offset: 4096, stamp };
            evidence.applied.push(op);
        }
    }
}
