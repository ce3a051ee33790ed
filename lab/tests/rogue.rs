//! The rogue writer against a real target on the lab's disks, over TLS.

// A panic is the report, in helpers too.
#![allow(clippy::unwrap_used)]

mod support;

use lab::demo::evidence::{APPLIED, Evidence, Kind, Outcome, Writer, now_us};
use lab::demo::rogue::{Credentials, Plan, Rogue, erase};
use lab::kills::keys::Keys;
use lab::ledger::Ledger;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::Processes;

const PATIENCE: Duration = Duration::from_secs(60);
const OFFSET: u64 = 8 << 20;
const BLOCKS: u64 = 64;

/// A storage box on loopback: disks of the lab, a target, a volume `canary`.
struct StorageBox {
    processes: Processes,
    portal: String,
}

impl StorageBox {
    fn start(root: &Path, keys: &Keys, evidence: &Writer) -> Self {
        let config = format!("[[listen]]\nnbd = \"127.0.0.1:0\"\ntls = {{ {} }}\n", keys.toml().join(", "));
        let processes = Processes::start(root.to_owned(), &evidence.path(APPLIED), &config);
        let mut this = Self { processes, portal: String::new() };
        wait("a target", || this.log().contains("ready"));
        let log = this.log();
        let address = log.lines().find_map(|line| line.split("serving on ").nth(1)?.strip_suffix(" (TLS)"));
        this.portal = address.unwrap_or_else(|| panic!("no address in {log}")).to_owned();
        this.ctl(&["pool", "create", "tank", &this.processes.disk(0), &this.processes.disk(1)]);
        this.ctl(&["volume", "create", "tank", "canary", "16M"]);
        wait("a served volume", || this.ctl(&["volume", "list"]).contains("serving"));
        this
    }

    fn log(&self) -> String {
        self.processes.log()
    }

    fn ctl(&self, words: &[&str]) -> String {
        let done = self.processes.ctl(words);
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "ctl {words:?}: {said}\n{}", self.log());
        said
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "no {what} in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Goal: the rogue gets in by right, has writes on their way when the fence falls, tries everything afterwards, and is
/// refused; nothing of it reaches a disk after the ack; the new owner can take its stamps away. Method: one of each with
/// the disks' own log as the judge, the ack's moment taken when `grant raise` has returned.
#[test]
fn a_rogue_is_let_in_then_fenced() {
    let allowed = std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1");
    if allowed && !Path::new("/dev/fuse").exists() {
        eprintln!("SKIP: FUSE disks need root and /dev/fuse");
        return;
    }
    let root = std::env::temp_dir().join(format!("muskox-rogue-{}", std::process::id()));
    std::fs::create_dir_all(&root).unwrap();
    let ledger = Ledger::open(&root.join("ledger")).unwrap();
    let evidence = Arc::new(Writer::create(&root.join("evidence")).unwrap());
    let [storage_keys, old, new] = Keys::make(&root.join("keys"), ["storage", "host2", "host1"]).unwrap();
    let storage = StorageBox::start(&root, &storage_keys, &evidence);
    storage.ctl(&["grant", "raise", "canary", "7", "--owner", &old.identity]);
    let credentials = Credentials::of(&root.join("host2"), &old).unwrap();
    let plan = Plan {
        // Its own: entering one is part of what is tried.
        namespace: Some("/proc/self/ns/net".into()),
        portals: vec![storage.portal.clone()],
        keys: Some(&credentials),
        volume: "canary".into(),
        epoch: 7,
        incarnation: 1,
        fault: 3,
        offset: OFFSET,
        blocks: BLOCKS,
    };
    let mut rogue = Rogue::start(&plan, &ledger, &evidence).unwrap();
    wait("write by right", || {
        rogue.check_lives().unwrap();
        rogue.tally().applied.load(Ordering::Relaxed) >= 16
    });
    storage.ctl(&["grant", "raise", "canary", "8", "--owner", &new.identity]);
    let acked_us = now_us();
    wait("refusals", || rogue.tally().refused.load(Ordering::Relaxed) >= 12);
    // Longer than a write is on its way.
    std::thread::sleep(Duration::from_millis(500));
    let tally = rogue.end().unwrap();
    assert!(tally.refused.load(Ordering::Relaxed) >= 12);

    for name in ["records.json", "oracles.json"] {
        assert!(!evidence.path(name).exists());
    }
    let seen = Evidence::read(evidence.folder()).unwrap();
    let late: Vec<_> = seen.applied.iter().filter(|op| op.completed_us.is_none_or(|at| at > acked_us)).collect();
    let first = late.first();
    assert!(late.is_empty(), "{} after the ack, the first: {:?}", late.len(), first);
    let drained = seen.applied.iter().filter(|op| op.completed_us.is_some_and(|at| at + 1_000_000 > acked_us));
    assert!(drained.count() >= 4, "the fence had something to drain");
    assert!(seen.applied.iter().all(|op| op.stamp.run == 3 && op.stamp.epoch == 7 && !op.failed));
    let has = |what, outcome| seen.rogue.iter().any(|line| line.what == what && line.outcome == outcome);
    for what in [Kind::Write, Kind::Queued, Kind::Attach] {
        assert!(has(what, Outcome::Applied), "{what:?} was applied before");
    }
    for what in Kind::ALL {
        assert!(has(what, Outcome::Refused), "{what:?} was refused afterwards: {:#?}", seen.rogue.last());
    }
    let after = |line: &&lab::demo::evidence::RogueLine| line.at_us > acked_us && line.outcome != Outcome::Refused;
    let others: Vec<_> = seen.rogue.iter().filter(after).collect();
    assert!(others.is_empty(), "sent after the ack and not refused: {others:#?}");

    let owner = Credentials::of(&root.join("host1"), &new).unwrap();
    only_the_owner_erases(&plan, (&credentials, &owner), &ledger);
    let disk = std::fs::read(root.join("dir/disk0")).unwrap();
    assert!(disk.chunks(512).all(|sector| !sector.starts_with(b"muskox-rogue")), "a stamp is left");
    drop(storage);
    ledger.settle().unwrap();
}

/// At epoch 8, which is the new owner's.
fn only_the_owner_erases(plan: &Plan<'_>, (old, new): (&Credentials, &Credentials), ledger: &Ledger) {
    for epoch in [7, 8] {
        let plan = Plan { keys: Some(old), epoch, ..plan.clone() };
        assert!(erase(&plan, ledger).is_err(), "the old owner may not, at epoch {epoch}");
    }
    erase(&Plan { keys: Some(new), epoch: 8, ..plan.clone() }, ledger).unwrap();
}
