//! Looking after VMs that should run, beside hosts that do not answer.

use super::world::{World, local, running, until};
use super::{name, said};
use cluster::job::Guest;
use host::runtime::now;
use std::rc::Rc;
use units::Millis;

/// CA14. Goal: a host that does not answer a look keeps no other host's VM down. Method: three VMs that ended there, which is looked at
/// for 2 s each, and one on another host, the last by name.
#[test]
fn a_host_that_does_not_answer_keeps_nobody_down() {
    local(async {
        let vms = ["a1", "a2", "a3", "web"];
        let world = World::new(&vms).await;
        let desk = world.direct().await;
        for (vm, host) in vms.into_iter().zip([1, 1, 1, 2]) {
            running(&desk, vm, host).await;
        }
        until("quiet", async || vms.iter().all(|vm| desk.working(&name(vm)).is_none())).await;
        world.state.borrow_mut().mute.insert(1);
        for (vm, host) in vms.into_iter().zip([1, 1, 1, 2]) {
            world.becomes(host, vm, |tell| tell.guest = Guest::Absent);
        }
        let begun = now();
        let tending = Rc::clone(&desk);
        tokio::task::spawn_local(async move { tending.tend().await });
        until("its start", async || world.state.borrow().starts.len() == 5).await;
        let took = now().since(begun);
        assert!(world.state.borrow().starts[4].0 == 2 && took < Millis(1_900), "{took}");
    });
}

/// CA14. Goal: a VM whose host's node is silent and whose host is not voted dead is left alone, and that is said. Method: a director that
/// has never heard that host.
#[test]
fn a_vm_whose_node_is_silent_is_told_of() {
    let world = local(async {
        let world = World::new(&["web1"]).await;
        running(&world.direct().await, "web1", 1).await;
        world
    });
    world.state.borrow_mut().dead.insert(1);
    local(async {
        let desk = world.direct().await;
        desk.tend().await.unwrap();
        until("the reason", async || said(&desk, "web1", "the node of its host 'beta' does not answer").await).await;
        assert_eq!(world.state.borrow().starts.len(), 1);
    });
}
