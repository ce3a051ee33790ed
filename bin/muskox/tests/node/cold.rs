//! Everything loses its power at once and comes back.

use crate::images::{import, imported};
use crate::storage::{pool_of, storage_machine};
use crate::support::{Machine, Machines, boot_disk};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The VM that others wait for has to run for 3 s; what is polled may be this much late.
const AFTER_THE_FIRST: Duration = Duration::from_millis(2_500);

/// Goal: after a loss of power of the whole cluster the VMs that ran come back by themselves at newer epochs, those of a higher
/// order 3 s after those of a lower one; what was stopped, and what must not start by itself, stays off. Method: a cluster of
/// one machine with four VMs; every process of it is killed at once; the node is started.
#[test]
fn what_ran_comes_back_in_order_after_a_cold_start() {
    let machines = Machines::new();
    let (mut alpha, _target) = storage_machine(&machines);
    alpha.ask("POST", "/v1/pools", &pool_of(&alpha, &["d0", "d1"]));
    let image = alpha.path("guest.img");
    std::fs::write(&image, boot_disk()).unwrap();
    // By name the first one to start would be the last.
    for (name, order, autostart) in
        [("a-late", 20, true), ("b-off", 0, true), ("c-byhand", 0, false), ("z-early", 10, true)]
    {
        let done = imported(&alpha, &import(&image, name));
        assert_eq!(done["state"], "done", "{done}");
        let spec = format!(
            "name = \"{name}\"\nmemory = 32\nvcpus = 1\norder = {order}\nautostart = {autostart}\n[[disk]]\nvolume = \"{name}\"\n"
        );
        alpha.ask("POST", "/v1/vms", &json!({"spec": spec}));
        alpha.ask("POST", &format!("/v1/vms/{name}/start"), &json!({"overcommit": false}));
    }
    alpha.wait("four VMs", |it| states(it).values().all(|(state, _)| state == "running"));
    alpha.ask("POST", "/v1/vms/b-off/stop", &json!({"patience_ms": 10}));
    alpha.wait("a stopped VM", |it| states(it)["b-off"].0 == "stopped");
    let before = states(&alpha);

    alpha.lose_power();
    alpha.start();
    let up = RefCell::new(BTreeMap::new());
    let begun = Instant::now();
    alpha.wait("the VMs", |it| {
        for (name, (state, epoch)) in states(it) {
            if state == "running" {
                up.borrow_mut().entry(name.clone()).or_insert(begun.elapsed());
                assert!(epoch > before[&name].1, "{name} runs at the epoch of its former life");
            }
        }
        let up = up.borrow();
        up.contains_key("a-late") && up.contains_key("z-early")
    });
    let up = up.into_inner();
    println!("after a cold start: {up:?}");
    assert!(up["a-late"] >= up["z-early"] + AFTER_THE_FIRST, "{up:?}; the log:\n{}", alpha.log());
    let after = states(&alpha);
    assert_eq!(up.len(), 2, "{after:?}");
    assert_eq!(after["b-off"], before["b-off"]);
    assert_eq!((after["c-byhand"].0.as_str(), after["c-byhand"].1), ("down", before["c-byhand"].1), "{after:?}");
}

fn states(machine: &Machine) -> BTreeMap<String, (String, u64)> {
    let list = machine.ask("GET", "/v1/vms", &Value::Null);
    let vms = list["vms"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    vms.map(|vm| (text(&vm["name"]), (text(&vm["state"]), vm["epoch"].as_u64().unwrap()))).collect()
}
