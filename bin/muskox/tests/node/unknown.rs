//! What a host kept of its VMs cannot be read: a real node with real QEMUs.

use crate::images::{import, imported};
use crate::storage::{pool_of, storage_machine};
use crate::support::{Machine, Machines, boot_disk};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The director settles for 3 s after its start, and a VM that it took to be down it would start within a second.
const LONG_ENOUGH: Duration = Duration::from_millis(5_000);

/// VMs, and what happens to the file of each. Of those that are told `unknown` nothing may be done.
const SPOILT: [(&str, &str); 5] = [
    ("a-more", "running"),
    ("b-newer", "unknown"),
    ("c-less", "unknown"),
    ("d-torn", "unknown"),
    ("e-gone", "unknown"),
];

fn file(machine: &Machine, vm: &str) -> PathBuf {
    machine.path("var/lib/muskox/vm").join(format!("{vm}.json"))
}

fn spoil(machine: &Machine, vm: &str) {
    let path = file(machine, vm);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut kept: Value = serde_json::from_str(&text).unwrap();
    match vm {
        "a-more" => kept["later"] = json!({"x": 1}),
        "b-newer" => kept["version"] = json!(9),
        "c-less" => drop(kept.as_object_mut().unwrap().remove("brief")),
        "d-torn" => return std::fs::write(path, &text[..text.len() / 2]).unwrap(),
        _ => return std::fs::remove_file(path).unwrap(),
    }
    std::fs::write(path, kept.to_string()).unwrap();
}

/// State and epoch of every VM.
fn states(machine: &Machine) -> BTreeMap<String, (String, u64)> {
    let list = machine.ask("GET", "/v1/vms", &Value::Null);
    let vms = list["vms"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    vms.map(|vm| (text(&vm["name"]), (text(&vm["state"]), vm["epoch"].as_u64().unwrap()))).collect()
}

/// Who runs a VM: pid, start time, boot.
fn qemu(machine: &Machine, vm: &str) -> String {
    std::fs::read_to_string(machine.path("run/muskox/vm").join(vm).join("process")).unwrap()
}

fn lives(machine: &Machine, vm: &str) -> bool {
    let pid = qemu(machine, vm).split(' ').next().unwrap().to_owned();
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

/// CA2. Goal: a guest whose file cannot be read, was written by a newer version, or is gone, runs on untouched after its node was
/// started anew: not fenced, not started, not ended; a field too many changes nothing and is kept. `vm adopt` takes over what
/// runs, `vm forget` ends it. Method: five VMs, each file spoilt in another way while the node is off.
#[test]
fn guests_outlive_what_was_kept_of_them() {
    let machines = Machines::new();
    let (mut alpha, _target) = storage_machine(&machines);
    alpha.ask("POST", "/v1/pools", &pool_of(&alpha, &["d0", "d1"]));
    let image = alpha.path("guest.img");
    std::fs::write(&image, boot_disk()).unwrap();
    for (vm, _) in SPOILT {
        assert_eq!(imported(&alpha, &import(&image, vm))["state"], "done");
        let spec = format!("name = \"{vm}\"\nmemory = 32\nvcpus = 1\n[[disk]]\nvolume = \"{vm}\"\n");
        alpha.ask("POST", "/v1/vms", &json!({"spec": spec}));
        alpha.ask("POST", &format!("/v1/vms/{vm}/start"), &json!({"overcommit": false}));
    }
    alpha.wait("the VMs", |it| states(it).values().all(|(state, _)| state == "running"));
    let (before, qemus) = (states(&alpha), SPOILT.map(|(vm, _)| qemu(&alpha, vm)));

    alpha.stop();
    SPOILT.iter().for_each(|(vm, _)| spoil(&alpha, vm));
    alpha.start();
    let as_told = |it: &Machine| SPOILT.iter().all(|(vm, state)| states(it)[*vm].0 == *state);
    alpha.wait("what is known of each", as_told);
    std::thread::sleep(LONG_ENOUGH);
    assert!(as_told(&alpha), "{:?}", states(&alpha));
    for ((vm, state), qemu_before) in SPOILT.iter().zip(&qemus) {
        assert_eq!(&qemu(&alpha, vm), qemu_before, "{vm}: another QEMU\n{}", alpha.log());
        assert!(lives(&alpha, vm), "{vm} was ended\n{}", alpha.log());
        assert_eq!(states(&alpha)[*vm].1, before[*vm].1, "{vm}: it was fenced");
        if *state == "unknown" {
            let why = alpha.ask_refused("POST", &format!("/v1/vms/{vm}/stop"), &json!({}), "not_possible");
            assert!(why.contains(&format!("'alpha' cannot tell about VM '{vm}'")), "{why}");
        }
    }
    let doctor = alpha.ask("GET", "/v1/doctor", &Value::Null).to_string();
    assert!(doctor.contains("VM b-newer") && doctor.contains("its version is 9, this muskox knows 1"), "{doctor}");
    assert!(std::fs::read_to_string(file(&alpha, "a-more")).unwrap().contains("later"));

    for (vm, _) in SPOILT.iter().filter(|(vm, state)| *state == "unknown" && *vm != "d-torn") {
        alpha.ask("POST", &format!("/v1/vms/{vm}/adopt"), &Value::Null);
    }
    alpha.ask("POST", "/v1/vms/d-torn/forget", &Value::Null);
    alpha.wait("all VMs", |it| states(it).values().all(|(state, _)| state == "running"));
    for ((vm, _), qemu_before) in SPOILT.iter().zip(&qemus) {
        let (same, epoch) = (&qemu(&alpha, vm) == qemu_before, states(&alpha)[*vm].1);
        let anew = *vm == "d-torn";
        assert_eq!((same, epoch > before[*vm].1), (!anew, anew), "{vm}: epoch {epoch}\n{}", alpha.log());
    }
    assert!(alpha.path("var/lib/muskox/vm/b-newer.unreadable").exists(), "what a newer version wrote is kept");
    alpha.ask("POST", "/v1/vms/b-newer/stop", &json!({"patience_ms": 10}));
    alpha.wait("its end", |it| states(it)["b-newer"].0 == "stopped");
}
