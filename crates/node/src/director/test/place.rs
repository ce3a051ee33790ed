//! Where a VM may go, and where not.

use super::name;
use super::world::{World, ended, local, spec, until};
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
