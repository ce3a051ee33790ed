//! A store that is brought back: what the other machines keep of the cluster counts.

use crate::support::{Machine, Machines};
use serde_json::Value;

fn kept(machine: &Machine) -> String {
    std::fs::read_to_string(machine.path("var/lib/muskox/cluster.json")).unwrap_or_default()
}

/// What doctor says of a restore, by machine.
fn unheard(asked: &Machine) -> Vec<String> {
    let doctor = asked.ask("GET", "/v1/doctor", &Value::Null);
    let checks = doctor["checks"].as_array().unwrap().iter();
    checks.filter(|it| it["what"] == "restore").map(|it| it["node"].as_str().unwrap().to_owned()).collect()
}

/// CA8. Goal: after the store's machine has lost everything but a backup, a machine that was removed since is out again as soon as one
/// that knows it calls, nobody is admitted before that, who has not called is named, and a token of the backup is void. Method: three
/// machines, one of which is removed after the backup; the one that knows it comes back last.
#[test]
fn a_removed_machine_stays_out_after_a_restore() {
    let machines = Machines::new();
    let mut alpha = machines.first(&["--roles", "witness"]);
    let mut bravo = machines.member("bravo", &alpha);
    let mut charlie = machines.member("charlie", &alpha);
    let old = alpha.token();
    let backup = alpha.path("backup");
    let file = backup.to_str().unwrap();
    alpha.node("store-backup", &[file]);
    let key = alpha.listed("bravo")["key"].as_str().unwrap().to_owned();
    bravo.stop();
    alpha.node("remove", &["bravo", "--yes"]);
    charlie.wait("what it is to keep", |it| kept(it).contains(&format!("\"removed\":[{{\"key\":\"{key}\"")));
    charlie.stop();
    alpha.stop();
    for name in ["store.db", "store.db-wal", "store.db-shm", "cluster.json"] {
        let _ = std::fs::remove_file(alpha.path("var/lib/muskox").join(name));
    }
    let said = alpha.node("store-restore", &[file]);
    assert!(said.contains("but for its join tokens"), "{said}");
    alpha.start();
    assert_eq!(alpha.names(), ["alpha", "bravo", "charlie"], "as the backup says");
    alpha.wait("its own word", |it| unheard(it) == ["bravo", "charlie"]);

    let delta = machines.machine("delta");
    assert_eq!(delta.refused("join", &delta.join_words(&old))["code"], "token_unknown");
    let fresh = alpha.token();
    let refused = delta.refused("join", &delta.join_words(&fresh));
    assert_eq!(refused["code"], "busy", "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("'bravo', 'charlie' not yet"), "{refused}");
    charlie.start();
    alpha.wait("the removal", |it| it.names() == ["alpha", "charlie"]);
    assert_eq!(unheard(&alpha), Vec::<String>::new());
    alpha.wait("what it is to keep", |it| kept(it).contains(&key));
    delta.join(&fresh);
    assert_eq!(alpha.names(), ["alpha", "charlie", "delta"]);
    bravo.start();
    bravo.wait("the refusal", |it| it.log().contains("was removed from the cluster"));
}
