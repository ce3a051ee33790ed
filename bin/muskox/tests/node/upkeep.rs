//! What an owner does now and then: a look at everything, a backup, its way back, the unit, a machine that goes.

use crate::storage::{pool_of, storage_machine, volume_of, wait_until_served};
use crate::support::{Machine, Machines, mode_of};
use serde_json::{Value, json};
use std::process::Command;

fn file_of(machine: &Machine, name: &str) -> String {
    machine.path(name).to_str().unwrap().to_owned()
}

/// Goal: a backup made while the node runs brings everything back, except that no epoch goes back; a running node, another
/// cluster's backup and half a file are refused and change nothing; a lost store is made anew only from a backup.
/// Method: a pool, a backup, an import (epochs grow), a volume more; restore; lose the store; restore.
#[test]
fn a_backup_comes_back_and_no_epoch_does() {
    let machines = Machines::new();
    let (mut alpha, _target) = storage_machine(&machines);
    alpha.ask("POST", "/v1/pools", &pool_of(&alpha, &["d0", "d1"]));
    alpha.ask("POST", "/v1/volumes", &volume_of("web1", 8));
    wait_until_served(&alpha, "web1");
    let file = file_of(&alpha, "backup");
    assert!(alpha.node("store-backup", &[&file]).contains("objects"));
    assert_eq!(mode_of(&alpha.path("backup")), 0o600);
    assert_eq!(alpha.refused("store-backup", &[&file])["code"], "exists", "nothing is overwritten");
    assert_eq!(alpha.refused("store-restore", &[&file])["code"], "in_use");

    std::fs::write(alpha.path("image"), vec![7; 1 << 20]).unwrap();
    let begun =
        alpha.ask("POST", "/v1/images", &json!({"path": alpha.path("image"), "volume": "web1", "format": "raw"}));
    let work = format!("/v1/works/{}", begun["id"].as_str().unwrap());
    alpha.wait("an import", |alpha| alpha.ask("GET", &work, &Value::Null)["state"] == "done");
    alpha.ask("POST", "/v1/volumes", &volume_of("later", 4));
    wait_until_served(&alpha, "later");

    alpha.stop();
    let other = machines.machine("alpha2");
    other.init(&[]);
    let foreign = file_of(&other, "backup");
    other.node("store-backup", &[&foreign]);
    assert_eq!(alpha.refused("store-restore", &[&foreign])["code"], "bad_request");
    let whole = std::fs::read(alpha.path("backup")).unwrap();
    std::fs::write(alpha.path("torn"), &whole[..whole.len() / 2]).unwrap();
    assert_eq!(alpha.refused("store-restore", &[&file_of(&alpha, "torn")])["code"], "bad_request");
    assert!(alpha.node("store-restore", &[&file]).contains("no epoch"));
    let names = |alpha: &Machine| {
        let all = alpha.ask("GET", "/v1/volumes", &Value::Null);
        all["volumes"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    alpha.start();
    assert_eq!(names(&alpha), ["web1"]);
    // The floor is the import's: the next one is above it.
    let begun =
        alpha.ask("POST", "/v1/images", &json!({"path": alpha.path("image"), "volume": "web1", "format": "raw"}));
    let work = format!("/v1/works/{}", begun["id"].as_str().unwrap());
    alpha.wait("an import", |alpha| alpha.ask("GET", &work, &Value::Null)["state"] == "done");
    assert_eq!(alpha.ask("GET", "/v1/volumes/web1", &Value::Null)["epoch"], 4);

    alpha.stop();
    for left in ["store.db", "store.db-wal", "store.db-shm"] {
        let _ = std::fs::remove_file(alpha.path("var/lib/muskox").join(left));
    }
    assert!(alpha.start_refused().contains("store.db' is gone"));
    assert!(alpha.node("store-restore", &[&file]).contains("gone"));
    alpha.start();
    assert_eq!(names(&alpha), ["web1"]);
}

/// Goal: a store that was made anew from an old backup is known to be behind by the target's word alone; nothing is begun for
/// the VM, and a person's step makes the two agree. Method: a backup, an import that raises the volume's epoch, the store
/// lost and brought back, a VM of that volume.
#[test]
fn a_lost_store_is_behind_until_it_agrees() {
    let machines = Machines::new();
    let (mut alpha, _target) = storage_machine(&machines);
    alpha.ask("POST", "/v1/pools", &pool_of(&alpha, &["d0", "d1"]));
    alpha.ask("POST", "/v1/volumes", &volume_of("web1", 8));
    wait_until_served(&alpha, "web1");
    let file = file_of(&alpha, "backup");
    alpha.node("store-backup", &[&file]);
    std::fs::write(alpha.path("image"), vec![7; 1 << 20]).unwrap();
    let begun =
        alpha.ask("POST", "/v1/images", &json!({"path": alpha.path("image"), "volume": "web1", "format": "raw"}));
    let work = format!("/v1/works/{}", begun["id"].as_str().unwrap());
    alpha.wait("an import", |alpha| alpha.ask("GET", &work, &Value::Null)["state"] == "done");
    let epoch = alpha.ask("GET", "/v1/volumes/web1", &Value::Null)["epoch"].clone();

    alpha.stop();
    for left in ["store.db", "store.db-wal", "store.db-shm"] {
        let _ = std::fs::remove_file(alpha.path("var/lib/muskox").join(left));
    }
    alpha.node("store-restore", &[&file]);
    alpha.start();
    wait_until_served(&alpha, "web1");
    let spec = "name='vm1'\nmemory=64\nvcpus=1\n[[disk]]\nvolume='web1'\n";
    let made = alpha.ask("POST", "/v1/vms", &json!({"spec": spec}));
    assert_ne!(made["vm"]["epoch"], epoch, "the backup knows nothing of the import");
    let behind = |alpha: &Machine| {
        let doctor = alpha.ask("GET", "/v1/doctor", &Value::Null);
        doctor["checks"].as_array().unwrap().iter().any(|check| check["what"] == "VM vm1" && check["grade"] == "bad")
    };
    alpha.wait("a finding", behind);
    let start = json!({"overcommit": true});
    let said = alpha.ask_refused("POST", "/v1/vms/vm1/start", &start, "not_possible");
    assert!(said.contains("the store is behind on VM 'vm1'") && said.contains(&format!("epoch {epoch}")), "{said}");
    let done = alpha.ask("POST", "/v1/vms/vm1/adopt", &Value::Null);
    assert!(done["text"].as_str().unwrap().contains(&format!("at epoch {epoch}")), "{done}");
    assert_eq!(alpha.ask("GET", "/v1/vms/vm1", &Value::Null)["vm"]["epoch"], epoch);
    assert!(!behind(&alpha));
    alpha.ask_refused("POST", "/v1/vms/vm1/adopt", &Value::Null, "not_possible");
}

/// Goal: doctor names what is wrong on each machine, and nothing that is not; it answers although a machine is dead; a
/// machine that has a pool does not go. Method: two machines, the target stopped, one node killed.
#[test]
fn doctor_and_a_machine_that_stays() {
    let machines = Machines::new();
    let (mut alpha, target) = storage_machine(&machines);
    let mut beta = machines.machine("beta");
    let token = alpha.token();
    beta.node("join", &[&beta.join_words(&token)[..], &["--roles", "witness"]].concat());
    beta.start();
    beta.wait_until_up("beta");
    alpha.ask("POST", "/v1/pools", &pool_of(&alpha, &["d0", "d1"]));
    let healthy = |alpha: &Machine| alpha.ask("GET", "/v1/pools/tank", &Value::Null)["state"] == "healthy";
    alpha.wait("the first resync's end", healthy);
    let found = |alpha: &Machine, what: &str, node: &str| {
        let doctor = alpha.ask("GET", "/v1/doctor", &Value::Null);
        let checks = doctor["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["what"] == what && check["node"] == node);
        found.unwrap_or_else(|| panic!("no {what} of {node} in {doctor}")).clone()
    };
    assert_eq!(found(&alpha, "votes", "alpha")["grade"], "warning");
    assert_eq!(found(&alpha, "node", "beta")["grade"], "good");
    assert_eq!(found(&alpha, "pool tank", "alpha")["grade"], "good");
    assert_eq!(found(&alpha, "target", "alpha")["grade"], "good");
    assert_eq!(found(&alpha, "certificate", "beta")["grade"], "good");
    assert_eq!(beta.ask("GET", "/v1/doctor", &Value::Null)["checks"][0]["node"], "alpha");
    // D10: while the store is away, a machine says what it sees by itself.
    alpha.wait("beta's dead-man", |it| found(it, "dead-man", "beta")["grade"] == "good");
    alpha.stop();
    let alone = beta.ask("GET", "/v1/doctor", &Value::Null);
    let checks = alone["checks"].as_array().unwrap();
    assert!(checks[0]["what"] == "store" && checks[0]["grade"] == "bad", "{alone}");
    let deadman = checks.iter().find(|check| check["what"] == "dead-man").expect("its own");
    assert!(deadman["node"] == "beta" && deadman["grade"] == "good", "{alone}");
    let refused = beta.refused("list", &[]);
    assert!(refused["hint"].as_str().unwrap().contains("`muskox doctor`"), "{refused}");
    alpha.start();
    beta.wait_until_up("beta");
    target.stop();
    let dead = found(&alpha, "target", "alpha");
    assert!(dead["grade"] == "bad" && !dead["hint"].as_str().unwrap().is_empty(), "{dead}");
    target.go_on();
    beta.kill();
    assert_eq!(found(&alpha, "node", "beta")["grade"], "bad");

    let mut gamma = machines.machine("gamma");
    gamma.join(&alpha.token());
    gamma.start();
    alpha.node("remove", &["gamma", "--yes"]);
    assert!(alpha.refused("remove", &["alpha", "--yes"])["detail"].as_str().unwrap().contains("the pool 'tank'"));
}

/// CA5. Goal: the units are such that systemd understands, the dead-man's and the guard's among them, and installing says what was
/// done. Method: `systemd-analyze verify`, and an install under a folder.
#[test]
fn the_units_are_units() {
    let machines = Machines::new();
    let alpha = machines.machine("alpha");
    let printed = alpha.node("install", &["--print"]);
    assert!(!alpha.path("etc/systemd").exists(), "printing writes nothing");
    assert!(alpha.node("install", &[]).contains("systemd was not told"));
    for name in ["node", "deadman", "guard"] {
        let unit = alpha.path(&format!("etc/systemd/system/muskox-{name}.service"));
        let text = std::fs::read_to_string(&unit).unwrap();
        assert!(printed.contains(&format!("# {}\n{text}", unit.display())), "{printed}");
        let oracle = Command::new("systemd-analyze").arg("verify").arg(&unit).output();
        let oracle = oracle.expect("systemd-analyze is installed");
        let said = String::from_utf8_lossy(&oracle.stderr).into_owned();
        assert!(oracle.status.success() && !said.contains(".service:"), "{said}");
    }
}
