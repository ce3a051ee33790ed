//! A node and its machine's dead-man: what the node is told never ends one that runs well.

use crate::support::{Machine, Machines};
use host::vm::Identity;
use serde_json::Value;

/// Who the machine's dead-man is, as its node noted it.
fn deadman_of(machine: &Machine) -> Identity {
    let note = machine.path("run/muskox/deadman.process");
    machine.wait("dead-man", |_| note.exists());
    Identity::parse(&std::fs::read_to_string(note).unwrap()).expect("a note")
}

fn lives(identity: &Identity) -> bool {
    host::vm::Process::find(identity).unwrap().is_some()
}

/// How many witnesses a machine's dead-man goes by, by its own word.
fn witnesses(machine: &Machine) -> usize {
    let mut ctl = std::process::Command::new(env!("CARGO_BIN_EXE_muskox"));
    let socket = machine.path("run/muskox/deadman.sock");
    let shown = ctl.args(["ctl", "--json", "--socket"]).arg(socket).arg("status").output().unwrap();
    let report: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
    report["deadman"]["peers"].as_array().map_or(0, Vec::len)
}

/// What doctor says of a machine's processes that is bad.
fn bad(asked: &Machine, of: &str) -> String {
    let doctor = asked.ask("GET", "/v1/doctor", &Value::Null);
    let checks = doctor["checks"].as_array().unwrap().iter();
    checks.filter(|it| it["node"] == of && it["grade"] == "bad").map(|it| format!("{} ", it["text"])).collect()
}

/// CA1. Goal: a second node on a member's address is refused at its join, with the way out, and no dead-man notices. Method: the
/// same address with another port, then an address of its own; the dead-men's processes and what they know.
#[test]
fn a_machine_on_a_members_address_is_not_admitted() {
    let machines = Machines::new();
    let alpha = machines.first(&[]);
    let before = deadman_of(&alpha);
    let mut beta = machines.machine("beta");
    let own = beta.address.clone();
    let ip = alpha.address.rsplit_once(':').unwrap().0;
    beta.address = format!("{ip}:21812");
    let problem = beta.refused("join", &beta.join_words(&alpha.token()));
    assert_eq!(problem["code"], "address_taken", "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("'alpha'"), "{problem}");
    assert!(problem["hint"].as_str().unwrap().contains("127.0.0.2"), "{problem}");
    beta.address = own;
    beta.join(&alpha.token());
    beta.start();
    alpha.wait("both witnesses", |it| witnesses(it) == 2);
    assert_eq!(deadman_of(&alpha), before);
    assert!(lives(&before));
}

/// CA1. Goal: a configuration that no dead-man would take, as a store of an older version may make it, replaces nothing and ends
/// nothing; doctor says why; the next sound one is taken. Method: three machines; a store in which one has another's address too.
#[test]
fn a_refused_configuration_ends_no_dead_man() {
    let machines = Machines::new();
    let mut alpha = machines.first(&["--roles", "witness"]);
    let beta = machines.member("beta", &alpha);
    let gamma = machines.member("gamma", &alpha);
    let all = [&alpha, &beta, &gamma];
    all.iter().for_each(|it| it.wait("three witnesses", |it| witnesses(it) == 3));
    let before = all.map(deadman_of);
    let files = all.map(|it| std::fs::read_to_string(it.path("etc/muskox/deadman.toml")).unwrap());

    let sound = alpha.path("sound");
    let file = sound.to_str().unwrap();
    alpha.node("store-backup", &[file]);
    alpha.stop();
    let mut backup: Value = serde_json::from_slice(&std::fs::read(&sound).unwrap()).unwrap();
    let object = backup["objects"].as_array_mut().unwrap().iter_mut().find(|it| it[0] == "/node/beta").unwrap();
    let mut record: Value = serde_json::from_str(object[1].as_str().unwrap()).unwrap();
    let gammas = gamma.address.rsplit_once(':').unwrap().0;
    record["portals"] = serde_json::json!([gammas]);
    object[1] = record.to_string().into();
    let clashing = alpha.path("clashing");
    std::fs::write(&clashing, backup.to_string()).unwrap();
    alpha.node("store-restore", &[clashing.to_str().unwrap()]);
    alpha.start();
    for it in [&alpha, &beta, &gamma] {
        alpha.wait("the reason", |alpha| {
            let said = bad(alpha, &it.name);
            said.contains("refused") && said.contains("'beta' and 'gamma' have the same address")
        });
    }
    let all = [&alpha, &beta, &gamma];
    assert!(before.iter().all(lives), "{}", alpha.log());
    assert_eq!(all.map(|it| std::fs::read_to_string(it.path("etc/muskox/deadman.toml")).unwrap()), files);
    assert!(all.iter().all(|it| it.path("etc/muskox/deadman.toml.refused").exists() && witnesses(it) == 3));

    alpha.stop();
    alpha.node("store-restore", &[file]);
    alpha.start();
    for it in [&alpha, &beta, &gamma] {
        alpha.wait("nothing that is bad", |alpha| bad(alpha, &it.name).is_empty());
        assert!(!it.path("etc/muskox/deadman.toml.refused").exists());
    }
    assert_eq!([&alpha, &beta, &gamma].map(deadman_of), before);
}
