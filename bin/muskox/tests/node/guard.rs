//! What becomes of a guest when nobody but the guard is left to stop it: three real nodes, a real guest.

use crate::images::{import, imported};
use crate::storage::{pool_of, storage_machine};
use crate::support::{Machine, Machines, PATIENCE, boot_disk};
use host::vm::{Identity, Process, Signal};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The times that a cluster begins with, and a busy machine.
const STOPPED_WITHIN: Duration = Duration::from_millis(2_500 + 400 + 50);
/// The guest writes 18 times a second.
const STANDS: Duration = Duration::from_millis(500);

/// How much a machine's guest has said.
fn said(machine: &Machine) -> u64 {
    std::fs::metadata(machine.path("run/muskox/vm/web1/console.log")).map_or(0, |facts| facts.len())
}

fn noted(machine: &Machine, note: &str) -> Process {
    let note = machine.path(note);
    machine.wait("note", |_| note.exists());
    let identity = Identity::parse(&std::fs::read_to_string(note).unwrap()).expect("a note");
    Process::find(&identity).unwrap().expect("it lives")
}

/// Waits until the guest has said nothing for a while; when it last did, after `begun`.
fn silenced(machine: &Machine, begun: Instant) -> Duration {
    let (mut last, mut len) = (Instant::now(), said(machine));
    while last.elapsed() < STANDS {
        assert!(begun.elapsed() < PATIENCE, "it runs on\n{}", machine.log());
        std::thread::sleep(Duration::from_millis(5));
        if std::mem::replace(&mut len, said(machine)) != len {
            last = Instant::now();
        }
    }
    last.duration_since(begun)
}

/// A cluster of three whose guest runs on bravo.
fn three(machines: &Machines) -> ([Machine; 3], impl Drop) {
    let (alpha, target) = storage_machine(machines);
    let [bravo, charlie] = ["bravo", "charlie"].map(|name| machines.member(name, &alpha));
    let disks = json!(pool_of(&alpha, &["d0", "d1"])["members"]);
    alpha.ask("POST", "/v1/pools", &json!({"name": "tank", "node": "alpha", "members": disks, "wipe": false}));
    let image = alpha.path("guest.img");
    std::fs::write(&image, boot_disk()).unwrap();
    assert_eq!(imported(&alpha, &import(&image, "web1"))["state"], "done");
    let spec = "name = \"web1\"\nmemory = 32\nvcpus = 1\n[[disk]]\nvolume = \"web1\"\n";
    alpha.ask("POST", "/v1/vms", &json!({"spec": spec}));
    alpha.wait("the start", |it| {
        it.api("POST", "/v1/vms/web1/start", &json!({"host": "bravo", "overcommit": true})).0 == 200
    });
    bravo.wait("the guest", |it| said(it) > 100);
    ([alpha, bravo, charlie], target)
}

/// CA5. Goal: a guest whose dead-man hangs and whose node is gone stands within the lease and what a stop costs. The dead-man is let go
/// on before anybody voted: it asks, and the guest goes on. It hangs until its host was voted dead: the guest is never beside
/// its successor, and is ended when its dead-man goes on. Method: SIGSTOP, the lengths of the consoles' logs, SIGCONT; twice.
#[test]
fn a_guest_does_not_outlive_its_dead_man() {
    let machines = Machines::new();
    let ([alpha, mut bravo, charlie], _target) = three(&machines);
    let deadman = noted(&bravo, "run/muskox/deadman.process");
    let guard = noted(&bravo, "run/muskox/guard.process");
    let qemu = noted(&bravo, "run/muskox/vm/web1/process");
    bravo.kill();

    deadman.signal(Signal::STOP).unwrap();
    let took = silenced(&bravo, Instant::now());
    println!("the guest stood {took:?} after its dead-man's last deed");
    assert!(took < STOPPED_WITHIN, "{took:?}");
    assert!(bravo.path("run/muskox/vm/web1/frozen-by-guard").exists());
    deadman.signal(Signal::CONT).unwrap();
    let before = said(&bravo);
    bravo.wait("the guest that goes on", |it| said(it) > before + 100);

    deadman.signal(Signal::STOP).unwrap();
    let begun = Instant::now();
    let (mut len, mut last) = (said(&bravo), begun);
    let others = [&alpha, &charlie];
    // Nobody is voted dead in the first 30 s.
    while others.iter().all(|it| said(it) == 0) {
        assert!(begun.elapsed() < PATIENCE, "no failover\n{}", alpha.log());
        std::thread::sleep(Duration::from_millis(5));
        if std::mem::replace(&mut len, said(&bravo)) != len {
            last = Instant::now();
        }
    }
    println!("the guest stood after {:?}, its successor ran after {:?}", last.duration_since(begun), begun.elapsed());
    assert!(last.duration_since(begun) < STOPPED_WITHIN, "{:?}", last.duration_since(begun));
    assert_eq!(said(&bravo), len, "two copies");
    assert!(guard.has_ended().unwrap().is_none() && qemu.has_ended().unwrap().is_none());
    deadman.signal(Signal::CONT).unwrap();
    alpha.wait("the old copy's end", |_| qemu.has_ended().unwrap().is_some());
    assert_eq!(said(&bravo), len, "it was ended, not let go on");
    let shown = alpha.ask("GET", "/v1/vms/web1", &Value::Null);
    assert_ne!(shown["vm"]["host"], "bravo", "{shown}");
}
