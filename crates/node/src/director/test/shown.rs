//! What people and programs are shown of a VM.

use super::world::{World, local, running, spec, until};
use cluster::job::Guest;

/// Goal: D9: a VM that runs is shown as it runs, with what holds from its next start on. Method: edited while it runs, edited back,
/// edited and off.
#[test]
fn an_edit_of_a_vm_that_runs_is_pending() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        let shown = async || {
            let vm = desk.vm_list().await.expect("the store works").vms.remove(0);
            (vm.memory >> 20, vm.vcpus, vm.pending)
        };
        assert_eq!(shown().await, (512, 1, Vec::new()));
        let larger = spec("web1", "").replace("memory=512", "memory=640").replace("vcpus=1", "vcpus=2");
        let edited = desk.vm_edit("web1", &larger).await.expect("it can");
        assert_eq!(edited.spec, larger, "the description is the new one");
        let pending = vec!["memory 640 MiB".to_owned(), "vcpus 2".to_owned()];
        assert_eq!(shown().await, (512, 1, pending));
        desk.vm_edit("web1", &spec("web1", "")).await.expect("it can");
        assert_eq!(shown().await, (512, 1, Vec::new()));
        desk.vm_edit("web1", &larger).await.expect("it can");
        desk.vm_stop("web1", &api::VmStopRequest { patience_ms: None }, "the test").await.expect("it can");
        world.becomes(1, "web1", |tell| tell.guest = Guest::Absent);
        assert_eq!(shown().await, (640, 2, Vec::new()), "what it will run with");
    });
}

/// Goal: D19: a program learns when, what kind, at which epoch and on which host, without reading sentences. Method: a start.
#[test]
fn events_are_for_programs() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        until("the start is told", async || {
            let why = desk.vm_why("web1").await.expect("it is there");
            why.events.iter().any(|event| event.kind == "started")
        })
        .await;
        let why = desk.vm_why("web1").await.expect("it is there");
        let started = why.events.iter().find(|event| event.kind == "started").expect("it was there");
        assert_eq!((started.epoch, started.host.as_deref()), (Some(1), Some("beta")));
        assert!(started.at.starts_with("20") && started.at.ends_with('Z'), "{started:?}");
        assert_eq!(started.text, "it started on beta with epoch 1");
        assert_eq!(desk.vm_show("web1").await.expect("it is there").events, why.events);
    });
}

/// Goal: A24: that a guest waits for a volume is told when it begins and when it ends, once each. Method: a host that tells it twice.
#[test]
fn a_guest_that_waits_for_its_disk_is_told() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        let disk = |waits: Option<&str>| crate::peer::DiskTell {
            volume: "web1".parse().expect("a name"),
            waits: waits.map(str::to_owned),
            down: Vec::new(),
            up: Vec::new(),
        };
        let told = async |what: &str| {
            let why = desk.vm_why("web1").await.expect("it is there");
            why.sentences.iter().filter(|line| line.contains(what)).count()
        };
        world.becomes(1, "web1", |tell| tell.disks = vec![disk(Some("no answer"))]);
        until("the wait is told", async || told("volume web1 could not be reached").await == 1).await;
        world.becomes(1, "web1", |tell| tell.disks = vec![disk(Some("another reason"))]);
        world.becomes(1, "web1", |tell| tell.disks = vec![disk(None)]);
        until("its end is told", async || told("volume web1 was back after").await == 1).await;
        assert_eq!(told("volume web1 could not be reached").await, 1);
    });
}
