//! Where a VM may go, and where not.

use super::name;
use super::world::{World, ended, local, processor_with, running, spec, until};
use api::{Code, VmMigrateRequest, VmStartRequest, VmState};

fn to(host: &str) -> VmMigrateRequest {
    VmMigrateRequest { host: host.parse().ok(), deadline_ms: None }
}

/// Goal: A23: a bridge without a carrier is no place for a VM: not for its start, a move or a failover; the reason is said. Method:
/// the cable of one host is pulled, then of all that are left.
#[test]
fn a_bridge_without_a_carrier_takes_no_vm() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        world.state.borrow_mut().unplugged = [0, 1, 2].into();
        world.sync_all(&desk).await;
        desk.vm_create(&spec("web1", "")).await.expect("it is made");
        let start = VmStartRequest { host: None, overcommit: false };
        let refused = desk.vm_start("web1", &start, "the test").await.expect_err("no host has a network");
        let says = "'beta' cannot give the VM its bridge 'lan': its port 'eth1' has no carrier";
        assert!(refused.code == Code::NotPossible && refused.text.contains(says), "{refused:?}");
        world.state.borrow_mut().unplugged = [0, 2].into();
        world.sync_all(&desk).await;
        desk.vm_start("web1", &start, "the test").await.expect("beta has one");
        until("it runs", async || desk.vm_show("web1").await.unwrap().vm.state == VmState::Running).await;
        until("its job's end", async || desk.working(&name("web1")).is_none()).await;
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.host, "beta".parse().ok());
        let refused = desk.vm_migrate("web1", &to("gamma")).await.expect_err("gamma has none");
        assert!(refused.text.contains("gamma cannot give the VM its bridge 'lan': its port"), "{refused:?}");
        world.state.borrow_mut().unplugged = [1, 2].into();
        world.sync_all(&desk).await;
        let job = desk.vm_migrate("web1", &to("alpha")).await.expect("away from where there is none").job;
        assert_eq!(ended(&desk, &job.expect("a job")).await.outcome.as_deref(), Some("done"));
    });
}

/// Goal: CA9, A32: a guest does not move to a processor that lacks what it has seen, nor between accelerators; without a wished host it
/// goes to one that it can go to. Method: fewer flags, KVM, a model of which one host lacks more, a host that does not say.
#[test]
fn a_guest_moves_between_like_processors_only() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        let refused = async |host: &str, says: &str| {
            let refused = desk.vm_migrate("web1", &to(host)).await.expect_err("unlike");
            assert!(refused.code == Code::NotPossible && refused.text.contains(says), "{refused:?}");
        };
        world.state.borrow_mut().processors = [(2, Some(processor_with(&["sse2"])))].into();
        refused("gamma", "guests on host gamma do not get the CPU flags avx2,").await;
        world.state.borrow_mut().processors = [(0, None)].into();
        refused("alpha", "host alpha does not say which processor").await;
        world.state.borrow_mut().kvm = [2].into();
        world.sync_all(&desk).await;
        refused("gamma", "gamma runs guests by kvm and the source by tcg").await;
        world.state.borrow_mut().kvm.clear();
        world.state.borrow_mut().no_machine = [2].into();
        world.sync_all(&desk).await;
        refused("gamma", "does not offer the machine type pc-q35-7.2").await;
        world.state.borrow_mut().no_machine.clear();
        world.sync_all(&desk).await;
        // Alpha does not say what it has: without a wish it goes to gamma.
        let job =
            desk.vm_migrate("web1", &VmMigrateRequest { host: None, deadline_ms: None }).await.expect("gamma").job;
        assert_eq!(ended(&desk, &job.expect("a job")).await.outcome.as_deref(), Some("done"));
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.host, "gamma".parse().ok());
    });
}

/// Goal: A33, D12: a start names the host whose QEMU has no machine type of ours, and the one with fewer processors than the VM; the
/// latter is overruled by --overcommit. Method: one after the other.
#[test]
fn a_start_says_what_a_host_lacks() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        desk.vm_create(&spec("web1", "").replace("vcpus=1", "vcpus=100")).await.expect("it is made");
        let start = |overcommit| VmStartRequest { host: "beta".parse().ok(), overcommit };
        let refused = desk.vm_start("web1", &start(false), "the test").await.expect_err("two processors");
        let says = "'beta' has 2 processors for the VM's 100 (--overcommit";
        assert!(refused.code == Code::NotPossible && refused.text.contains(says), "{refused:?}");
        world.state.borrow_mut().no_machine = [1].into();
        world.sync_all(&desk).await;
        let refused = desk.vm_start("web1", &start(true), "the test").await.expect_err("no machine type");
        assert!(refused.text.contains("QEMU of 'beta' does not offer the machine type pc-q35-7.2"), "{refused:?}");
        world.state.borrow_mut().no_machine.clear();
        world.sync_all(&desk).await;
        desk.vm_start("web1", &start(true), "the test").await.expect("overruled");
        until("it runs", async || desk.vm_show("web1").await.unwrap().vm.state == VmState::Running).await;
    });
}

/// Goal: A34: QEMU's own share is counted: what fits by its memory alone does not fit. Method: a host of 2 GiB free.
#[test]
fn qemus_own_share_is_counted() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        desk.vm_create(&spec("web1", "").replace("memory=512", "memory=2000")).await.expect("it is made");
        let start = VmStartRequest { host: None, overcommit: true };
        let refused = desk.vm_start("web1", &start, "the test").await.expect_err("2048 MiB are free");
        assert!(refused.text.contains("QEMU's own share with it"), "{refused:?}");
    });
}
