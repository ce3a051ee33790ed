//! The judge's own judges: good evidence gives a good report, and each thing that can be wrong gives exactly its mark.

mod blind;
mod made;

use super::{Oracles, Records, Report, verify, write};
use crate::demo::evidence::{
    APPLIED, AppliedLine, BEACONS, Beacon, Cause, EVENTS, Event, Evidence, GrantOwner, Grants, GuestError, ORACLES,
    Outcome, PROBE, RECORDS, REFEREE, ROGUE, STORE, Step, What, Writer,
};
use crate::demo::guest::record::Boot;
use made::{KEYS, good};
use serde::Serialize;
use std::path::{Path, PathBuf};

fn report(evidence: &Evidence) -> Report {
    Report::of(evidence).unwrap()
}

/// The goals that were missed.
fn missed(report: &Report) -> Vec<&str> {
    report.goals.iter().filter(|goal| !goal.ok).map(|goal| goal.name.as_str()).collect()
}

/// What a spoilt copy of the good evidence gives: the violated invariants, the missed goals, ok.
fn spoilt(spoil: impl FnOnce(&mut Evidence)) -> (Vec<String>, Vec<String>, bool) {
    let mut evidence = good();
    spoil(&mut evidence);
    let report = report(&evidence);
    let invariants = report.violations.iter().map(|it| it.invariant.clone()).collect();
    (invariants, missed(&report).into_iter().map(str::to_owned).collect(), report.ok)
}

/// The mutation violates exactly this and nothing else is wrong.
fn violates(invariant: &str, what: &str, spoil: impl FnOnce(&mut Evidence)) {
    let (violated, _, ok) = spoilt(spoil);
    assert_eq!(violated, [invariant], "{what}");
    assert!(!ok, "{what}");
}

/// The mutation misses exactly this goal, and `ok` falls with it.
fn leaves_open(goal: &str, spoil: impl FnOnce(&mut Evidence)) {
    let (violated, missed, ok) = spoilt(spoil);
    assert!(violated.is_empty(), "{goal}: {violated:?}");
    assert_eq!((missed, ok), (vec![goal.to_owned()], false));
}

/// Goal: every figure of a good run is what one reads off the evidence by hand. Method: that.
#[test]
fn good_evidence_gives_a_good_report() {
    let report = report(&good());
    assert_eq!(report.violations, []);
    assert_eq!(missed(&report), Vec::<&str>::new());
    assert!(report.ok);
    assert_eq!(report.oracles, Oracles { mdadm: true, lvm: true, e2fsck: true });
    let Records { acked, missing: 0, torn: 0 } = report.records else { panic!("{:?}", report.records) };
    assert!((3000..5000).contains(&acked), "{acked}");
    let migration = &report.migrations[0];
    assert_eq!((migration.total_ms, migration.bytes, report.migrations.len()), (1080, 90_000_000, 2));
    assert_eq!((migration.cpu_blackout_ms, migration.receipt_blackout_ms), (Some(55.0), 41));
    assert_eq!(migration.network_blackout_ms, Some(110.0));
    let freeze = &report.failovers[1];
    assert_eq!((freeze.cause.as_str(), freeze.detect_ms, freeze.fence_ms), ("freeze", Some(3000), Some(3110)));
    let mut late = good();
    let verdict = late.events.iter_mut().find(|event| event.what == What::Verdict { fault: 3 });
    verdict.unwrap().at_us += 400_000;
    assert_eq!(self::report(&late).failovers[1].detect_ms, Some(3110), "before the first ack");
    assert_eq!((freeze.vcpus_running_ms, freeze.guest_answers_ms), (Some(3800), Some(12_000)));
    assert_eq!((freeze.overlap_ms, freeze.stale_applied), (150, 0));
    assert!(freeze.stale_refused > 100);
    let causes: Vec<_> = report.failovers.iter().map(|one| (one.cause.as_str(), one.overlap_ms)).collect();
    assert_eq!(causes, [("poweroff", 0), ("freeze", 150), ("cut", 0)]);
    let outages: Vec<_> = report.outages.iter().map(|one| (one.cause.as_str(), one.resumed_ms)).collect();
    assert_eq!(outages, [("switch", Some(800)), ("storage", Some(900))]);
}

/// Goal: a write of the fenced writer that a disk had after the ack is I1, whether it came or ended late, or never ended;
/// one that the disk refused is none. Method: move one write's moments behind the ack at 83.11 s.
#[test]
fn stale_writes_are_seen() {
    let ack_us = 83_110_000;
    violates("I1", "received late", |it| {
        (it.applied[0].received_us, it.applied[0].completed_us) = (ack_us + 1, Some(ack_us + 2));
    });
    violates("I1", "completed late", |it| it.applied[0].completed_us = Some(ack_us + 1));
    violates("I1", "never completed", |it| it.applied[0].completed_us = None);
    violates("I1", "a raise that was asked for again, and a late note, move no ack", |it| {
        let mut again = it.grants[0].lines.iter().find(|line| line.epoch == 7).unwrap().clone();
        again.mono_us += 2_000_000;
        it.grants[0].lines.insert(14, again);
        let (machine, volume) = ("storage".into(), "web1".into());
        it.events.push(Event { at_us: 85_200_000, what: What::Fenced { fault: 3, machine, volume, epoch: 7 } });
        it.applied[0].completed_us = Some(ack_us + 1);
    });
    let refused = spoilt(|it| (it.applied[0].completed_us, it.applied[0].failed) = (Some(ack_us + 1), true));
    assert_eq!(refused, (vec![], vec![], true));
    let one = spoilt(|it| {
        it.applied[0].completed_us = Some(ack_us + 1);
        it.applied[1].completed_us = Some(ack_us + 1);
    });
    assert_eq!(one.1, ["stale writes applied"]);
    let mut evidence = good();
    evidence.applied.iter_mut().take(2).for_each(|op| op.completed_us = None);
    assert_eq!(report(&evidence).failovers[1].stale_applied, 1, "one write on two disks is one");
}

fn beacons(boot: u64, host: &str, from_ms: u64, to_ms: u64) -> impl Iterator<Item = Beacon> {
    let one = move |(at_ms, host)| Beacon { at_us: at_ms * 1000, host, boot: Boot(boot), counter: at_ms / 5 };
    let host = host.to_owned();
    (from_ms..to_ms).step_by(5).map(move |at_ms| (at_ms, host.clone())).map(one)
}

fn also(evidence: &mut Evidence, more: impl Iterator<Item = Beacon>) {
    evidence.beacons.extend(more);
    evidence.beacons.sort_by_key(|line| line.at_us);
}

/// Goal: two running copies are I2: after a cut at all, after a freeze beyond 250 ms, in a migration by their counters.
/// Method: add beacons of the old copy.
#[test]
fn running_twice_is_seen() {
    violates("I2", "cut", |it| also(it, beacons(0xc, "host1", 126_000, 126_050)));
    violates("I2", "freeze", |it| also(it, beacons(0xb, "host2", 110_150, 110_300)));
    violates("I2", "migration", |it| also(it, beacons(0xa, "host1", 26_050, 26_200)));
    let half_a_line = spoilt(|it| also(it, beacons(0xa, "host1", 26_050, 26_060)));
    assert!(half_a_line.2, "two numbers at both hosts prove nothing");
}

/// Goal: lost, torn and twice acknowledged records are I3. Method: one each.
#[test]
fn lost_records_are_seen() {
    violates("I3", "missing", |it| it.records.as_mut().unwrap().missing = 1);
    violates("I3", "torn", |it| it.records.as_mut().unwrap().torn = 1);
    violates("I3", "acknowledged by two boots", |it| {
        let mut again = it.receipts[10];
        (again.at_us, again.boot) = (58_010_000, Boot(0xb));
        it.receipts.push(again);
        it.receipts.sort_by_key(|line| line.at_us);
        it.records.as_mut().unwrap().acked += 1;
    });
}

/// Goal: who does anything but wait in an outage violates I8; a guest that saw an error, D2. Method: one each.
#[test]
fn outages_change_nothing() {
    let (violated, _, _) = spoilt(|it| also(it, beacons(0xe, "host2", 212_000, 212_050)));
    assert_eq!(violated, ["I8", "I2"], "a restart, beside a copy that goes on");
    violates("I8", "epoch", |it| {
        let mut change = it.store.last().unwrap().clone();
        let text = change.value.unwrap().as_str().unwrap().replace("\"epoch\":8", "\"epoch\":9");
        (change.revision, change.value) = (150, Some(text.into()));
        it.store.push(change);
    });
    let error = |at_us| GuestError { at_us, host: "host2".into(), text: "I/O error, dev vda".into() };
    violates("D2", "guest errors in an outage", |it| it.guest_errors.push(error(225_000_000)));
    violates("D2", "guest errors when a disk fails", |it| it.guest_errors.push(error(31_000_000)));
    let fenced = spoilt(|it| it.guest_errors.push(error(110_000_000)));
    assert!(fenced.2, "a fenced guest may see errors");
}

/// Goal: a grant or a start that the store had not ordered is I9. Method: take the transaction away; let it come later;
/// another owner; another host; a host nobody knows. A volume without a VM needs its floor only.
#[test]
fn deeds_without_a_transaction_are_seen() {
    let without = |it: &mut Evidence| it.store.retain(|change| change.revision != 48);
    let (violated, _, ok) = spoilt(without);
    // Two volumes and the start.
    assert_eq!((violated.len(), ok), (3, false));
    assert!(violated.iter().all(|it| it == "I9"));
    violates("I9", "the transaction came later", |it| {
        it.store[0].not_before_us = Some(11_011_000);
        it.grants[0].lines[1].mono_us = 11_012_000;
    });
    violates("I9", "another owner", |it| {
        it.grants[0].lines[0].owners = vec![GrantOwner { host: KEYS[1].into(), mode: "rw".into() }];
    });
    let start = |host: &'static str| {
        move |it: &mut Evidence| {
            let start = What::Running { host: host.into(), epoch: 1, fault: None };
            it.events.insert(1, Event { at_us: 12_000_000, what: start });
        }
    };
    violates("I9", "another host", start("host2"));
    violates("I9", "an unknown host", start("host9"));
    violates("I9", "a start before its transaction", |it| {
        it.store[7].not_before_us = Some(200_000_000);
        // The target's log says nothing, so the lab's note of the ack counts.
        it.grants[0].lines.retain(|line| line.epoch != 8);
        let (machine, volume) = ("storage".into(), "web1".into());
        let what = What::Fenced { fault: 4, machine, volume, epoch: 8 };
        it.events.push(Event { at_us: 118_200_000, what });
    });
    let image = spoilt(|it| {
        let mut line = it.grants[0].lines[0].clone();
        line.volume = "image".into();
        it.grants[0].lines.push(line);
        let mut floor = it.store[0].clone();
        (floor.key, floor.value) = ("/epoch/volume/image".into(), Some(serde_json::json!({"epoch": 1})));
        it.store.insert(0, floor);
    });
    assert_eq!(image, (vec![], vec![], true));
}

/// Goal: two writers of one epoch are I1, a target that goes back is I12. Method: a second owner; a second target that
/// granted somebody else (which the store did not say either); an old line again.
#[test]
fn grants_that_contradict_each_other_are_seen() {
    let other = || GrantOwner { host: KEYS[1].into(), mode: "rw".into() };
    let (violated, _, ok) = spoilt(|it| it.grants[0].lines[0].owners.push(other()));
    assert_eq!((violated, ok), (vec!["I9".to_owned(), "I1".to_owned()], false));
    let (violated, _, ok) = spoilt(|it| {
        let mut second = Grants { machine: "storage2".into(), lines: vec![it.grants[0].lines[0].clone()] };
        second.lines[0].owners = vec![other()];
        it.grants.push(second);
    });
    assert_eq!((violated, ok), (vec!["I9".to_owned(), "I1".to_owned()], false));
    violates("I12", "an epoch goes back", |it| {
        let old = it.grants[0].lines[0].clone();
        it.grants[0].lines.push(old);
    });
    let read_only = spoilt(|it| it.grants[0].lines[0].owners.push(GrantOwner { mode: "ro".into(), ..other() }));
    assert!(read_only.2, "a reader is no writer");
}

fn is(kind: fn(&What) -> bool) -> impl Fn(&Event) -> bool {
    move |event| kind(&event.what)
}

/// Goal: a run that left something out is not ok, though nothing was violated. Method: leave out one thing each.
#[test]
fn an_incomplete_run_is_not_ok() {
    leaves_open("steps done", |it| {
        it.events.retain(|event| event.what != What::Done { step: Step::Switch, round: 1 });
    });
    leaves_open("steps done", |it| {
        let failed = What::Failed { step: Step::Check, round: 1, text: "no disk".into() };
        it.events.push(Event { at_us: 256_000_000, what: failed });
    });
    leaves_open("oracles that agree", |it| it.oracles[1].agrees = false);
    leaves_open("oracles that agree", |it| drop(it.oracles.remove(2)));
    leaves_open("records looked for on the disk", |it| it.records = None);
    leaves_open("records looked for on the disk", |it| it.records.as_mut().unwrap().acked -= 1);
    leaves_open("stale writes refused in each freeze", |it| {
        it.rogue.retain(|line| line.outcome != Outcome::Refused);
    });
    leaves_open("failovers seen to their end", |it| {
        it.events.retain(|event| event.what != What::Verdict { fault: 4 });
    });
    leaves_open("migrations done", |it| {
        let ends = is(|what| matches!(what, What::MigrateEnd { migration: 2, .. }));
        it.events.retain(|event| !ends(event));
    });
    let few = spoilt(|it| {
        it.receipts.retain(|line| line.n % 4 == 0);
        it.records.as_mut().unwrap().acked = it.receipts.len() as u64;
    });
    assert_eq!(few.1, ["acknowledged records", "records a second outside outages"]);
    assert!(!few.2);
    let mut silent = good();
    silent.receipts.retain(|line| line.at_us < 220_000_000);
    let report = report(&silent);
    assert_eq!(report.outages[1].resumed_ms, None);
    assert!(missed(&report).contains(&"outages after which the guest went on") && !report.ok);
}

/// Goal: speed is told and not needed. Method: a slow migration, a late start, a guest that goes on late.
#[test]
fn slowness_is_a_goal_missed_and_nothing_worse() {
    let slow = spoilt(|it| {
        for event in &mut it.events {
            match &mut event.what {
                What::Running { fault: Some(3), .. } => event.at_us += 4_000_000,
                What::End { fault: 5 } => event.at_us -= 6_000_000,
                _ => {}
            }
        }
        it.events.sort_by_key(|event| event.at_us);
        let arrivals = [26_000_000..26_450_000, 71_000_000..71_450_000];
        it.beacons.retain(|line| !arrivals.iter().any(|arrival| arrival.contains(&line.at_us)));
    });
    let names = [
        "migration: CPU blackout, median, ms",
        "migration: CPU blackout, longest, ms",
        "freeze: vCPUs run elsewhere, longest, ms",
        "switch off: the guest goes on, longest, ms",
    ];
    assert_eq!(slow, (vec![], names.map(str::to_owned).into(), true));
    let three = spoilt(|it| {
        it.events.iter_mut().for_each(|event| {
            if let What::RunBegin { rounds, .. } = &mut event.what {
                *rounds = 3;
            }
        });
    });
    let more = [
        "migrations",
        "steps done",
        "failovers seen to their end",
        "outages after which the guest went on",
        "migrations done",
    ];
    assert_eq!(three.1, more, "three rounds promise more");
}

/// Goal: a timeline that contradicts itself is no evidence. Method: three contradictions.
#[test]
fn contradictions_are_errors() {
    let fails = |spoil: fn(&mut Evidence), words: &str| {
        let mut evidence = good();
        spoil(&mut evidence);
        let error = format!("{:#}", Report::of(&evidence).unwrap_err());
        assert!(error.contains(words), "{error}");
    };
    fails(|it| it.events.clear(), "does not say that a run began");
    fails(
        |it| it.events.retain(|event| !matches!(event.what, What::Inject { cause: Cause::Cut, .. })),
        "fault 4 was never",
    );
    fails(|it| it.events.push(it.events[0].clone()), "begins once");
}

/// Goal: the page shows what was violated first and in red, and nobody's name becomes markup. Method: bad evidence of a
/// guest with a strange name.
#[test]
fn the_page_shows_what_is_wrong() {
    let mut evidence = good();
    evidence.applied[0].completed_us = None;
    if let What::RunBegin { vm, .. } = &mut evidence.events[0].what {
        *vm = "<script>".into();
    }
    evidence.store.iter_mut().for_each(|change| change.key = "/epoch/vm/<script>".into());
    let report = report(&evidence);
    let page = super::html::page(&report, &super::Timeline::of(&evidence).unwrap(), &evidence);
    let place = |words: &str| page.find(words).unwrap_or_else(|| panic!("the page does not show: {words}"));
    assert!(place("One promise was broken") < place("class=\"tiles\""));
    assert!(place("class=\"stale\"") > place("class=\"refused\""), "drawn over the others");
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
}

/// A folder that is gone in the end.
struct Folder(PathBuf);

impl Folder {
    fn with(evidence: &Evidence, name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("muskox-report-{name}-{}", std::process::id()));
        let writer = Writer::create(&folder.join("evidence")).unwrap();
        for event in &evidence.events {
            writer.event_at(event.at_us, event.what.clone()).unwrap();
        }
        evidence.receipts.iter().for_each(|line| writer.receipt(line).unwrap());
        evidence.probes.iter().for_each(|line| writer.probe(line).unwrap());
        evidence.beacons.iter().for_each(|line| writer.beacon(line).unwrap());
        evidence.guest_errors.iter().for_each(|line| writer.guest_error(line).unwrap());
        evidence.rogue.iter().for_each(|line| writer.rogue(line).unwrap());
        evidence.store.iter().for_each(|line| writer.store(line).unwrap());
        let began = evidence.applied.iter().map(|op| AppliedLine { completed_us: None, ..op.clone() });
        lines(&writer.path(APPLIED), began.chain(evidence.applied.iter().cloned()));
        for log in &evidence.grants {
            // As a target's state folder has it after a rotation.
            let (old, new) = log.lines.split_at(2);
            lines(&folder.join("grants.jsonl.1"), old.iter());
            lines(&folder.join("grants.jsonl"), new.iter());
            writer.grants(&log.machine, &folder).unwrap();
        }
        writer.document(RECORDS, &evidence.records).unwrap();
        writer.document(ORACLES, &evidence.oracles).unwrap();
        evidence.oracles.iter().for_each(|run| drop(writer.output(&run.oracle, "clean").unwrap()));
        Self(folder)
    }

    fn evidence(&self) -> PathBuf {
        self.0.join("evidence")
    }

    /// The good evidence with one file spoilt does not read, and the error names `words`.
    fn refuses(&self, name: &str, spoil: impl FnOnce(String) -> String, words: &str) {
        let path = self.evidence().join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, spoil(text.clone())).unwrap();
        let error = format!("{:#}", Evidence::read(&self.evidence()).unwrap_err());
        assert!(error.contains(words), "{name}: {error}");
        std::fs::write(&path, text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn lines(path: &Path, lines: impl Iterator<Item = impl Serialize>) {
    let text: String = lines.map(|line| serde_json::to_string(&line).unwrap() + "\n").collect();
    std::fs::write(path, text).unwrap();
}

/// Goal: what is written to files is read back whole, the report follows from them, and a report that was touched, or
/// evidence that was, is seen. Method: write, read, compare, change.
#[test]
fn a_report_follows_from_its_folder() {
    let evidence = good();
    let folder = Folder::with(&evidence, "follows");
    let read = Evidence::read(&folder.evidence()).unwrap();
    assert_eq!((read.events.len(), read.store.len()), (evidence.events.len(), evidence.store.len()));
    assert_eq!(read.grants[0].lines, evidence.grants[0].lines);
    assert_eq!(read.applied, evidence.applied, "the two lines of an operation are one");
    let made = write(&folder.evidence(), &folder.0).unwrap();
    assert_eq!(made, report(&evidence));
    assert_eq!(verify(&folder.evidence(), &folder.0).unwrap(), made);
    let page = std::fs::read_to_string(folder.0.join("report.html")).unwrap();
    for words in ["safe and complete", "freeze host2", "boot 4", "cut off host1", "no answer for", "class=\"refused\""]
    {
        assert!(page.contains(words), "the page does not show: {words}");
    }
    assert!(!page.contains("http"), "the page fetches nothing");

    let path = folder.0.join("report.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"stale_refused\": ", "\"stale_refused\": 1")).unwrap();
    let error = verify(&folder.evidence(), &folder.0).unwrap_err().to_string();
    assert!(error.ends_with("it differs in: failovers"), "{error}");
    std::fs::write(&path, text).unwrap();
    std::fs::write(folder.evidence().join(RECORDS), r#"{"acked":1,"missing":0,"torn":0}"#).unwrap();
    assert!(verify(&folder.evidence(), &folder.0).unwrap_err().to_string().contains("ok, goals"));
    assert!(Writer::create(&folder.evidence()).is_err(), "evidence of two runs");
}

/// Goal: evidence that does not read is an error with its place, never silence. Method: spoil each file.
#[test]
fn evidence_is_read_strictly() {
    let folder = Folder::with(&good(), "strict");
    for name in [EVENTS, REFEREE, PROBE, BEACONS, ROGUE, STORE, APPLIED, "grants-storage.jsonl"] {
        folder.refuses(name, |text| text + "{\"at_us\":1", &format!("{name}:"));
        folder.refuses(name, |text| text + "\n{}\n", &format!("{name}:"));
    }
    folder.refuses(RECORDS, |_| r#"{"acked":1}"#.to_owned(), RECORDS);
    folder.refuses(STORE, |text| text.lines().rev().map(|line| format!("{line}\n")).collect(), "revisions go back");
    folder.refuses("outputs/lvm.txt", |_| "\n".to_owned(), "said nothing");
    std::fs::remove_file(folder.evidence().join(ROGUE)).unwrap();
    assert!(Evidence::read(&folder.evidence()).is_err(), "nobody looked");
}
