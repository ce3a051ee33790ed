//! A host that cannot tell about a VM: nothing is done to that VM while the host lives; a host that is voted dead loses it as
//! any other; a person's word ends the state.

use super::world::{World, key, local, running, until};
use super::{name, said};
use crate::director::Desk;
use crate::peer::Tell;
use api::{Code, VmMigrateRequest, VmStartRequest, VmState, VmStopRequest};
use cluster::job::Guest;
use std::rc::Rc;
use std::time::Duration;
use units::{Epoch, Millis};

fn unknown(tell: &mut Tell) {
    (tell.guest, tell.at, tell.why) =
        (Guest::Unknown, cluster::store::Revision(0), Some("its file is torn".to_owned()));
}

/// A VM that runs on beta, whose node then cannot tell about it.
async fn unclear() -> (Rc<World>, Rc<Desk>) {
    let world = World::new(&["web1"]).await;
    let desk = world.direct().await;
    running(&desk, "web1", 1).await;
    world.becomes(1, "web1", unknown);
    (world, desk)
}

async fn tended(world: &World, desk: &Rc<Desk>) {
    for _ in 0..3 {
        desk.bury_the_dead().await.expect("the ballot answers");
        desk.tend().await.expect("the store works");
        world.sync_all(desk).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// CA2. Goal: as long as its host lives, a VM that the host cannot tell about is neither fenced, started nor ended, whoever
/// asks; why says what it is and what to do. Method: the director's own loops; start, stop, move, delete, each refused.
#[test]
fn what_its_host_cannot_tell_about_is_left_alone() {
    local(async {
        let (world, desk) = unclear().await;
        let (floors, guests) = {
            let state = world.state.borrow();
            (state.floors.clone(), state.guests.clone())
        };
        tended(&world, &desk).await;
        let start = VmStartRequest { host: None, overcommit: true };
        let to = VmMigrateRequest { host: "gamma".parse().ok(), deadline_ms: None };
        let refusals = [
            desk.vm_start("web1", &start, "the test").await.expect_err("it may run"),
            desk.vm_stop("web1", &VmStopRequest { patience_ms: None }, "the test")
                .await
                .expect_err("nobody would obey"),
            desk.vm_migrate("web1", &to).await.expect_err("from where"),
            desk.vm_delete("web1").await.expect_err("it may run"),
        ];
        for refused in refusals {
            assert!(refused.text.contains("'beta' cannot tell about VM 'web1': its file is torn"), "{refused:?}");
            assert!(refused.code == Code::NotPossible && refused.hint.contains("vm adopt web1"), "{refused:?}");
        }
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.state, VmState::Unknown);
        assert!(said(&desk, "web1", "vm forget web1").await);
        assert_eq!(
            (&world.state.borrow().floors, &world.state.borrow().guests),
            (&floors, &guests),
            "nobody did anything"
        );
        assert_eq!(world.state.borrow().starts.len(), 1);
        assert_eq!(desk.all_behind().await.unwrap().len(), 1, "doctor names it");
    });
}

/// CA2, B5. Goal: a host that cannot list what it has says of no VM that it is absent. Method: its report lists nothing and
/// says why; then it is well again.
#[test]
fn a_host_that_cannot_list_its_guests_has_lost_none() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        {
            let mut state = world.state.borrow_mut();
            state.blind.insert(1);
            state.life = 1;
        }
        world.sync_all(&desk).await;
        tended(&world, &desk).await;
        assert_eq!(world.state.borrow().starts.len(), 1, "it was not started again");
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.state, VmState::Unknown);
        let refused = desk.vm_adopt("web1", "the test").await.expect_err("what would be adopted");
        assert!(refused.text.contains("'beta' cannot tell which VMs it has: the disk fails"), "{refused:?}");
        {
            let mut state = world.state.borrow_mut();
            state.blind.clear();
            state.life = 2;
        }
        world.sync_all(&desk).await;
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.state, VmState::Running);
    });
}

/// CA2. Goal: a host that is voted dead is an ordinary failover, whatever it could not tell about; when it is back and still
/// cannot tell, the VM is another host's and can be moved and stopped. Method: beta dies with its unclear VM and comes back.
#[test]
fn a_dead_host_loses_what_it_could_not_tell_about() {
    local(async {
        let (world, desk) = unclear().await;
        {
            let mut state = world.state.borrow_mut();
            state.dead.insert(1);
            state.silent.insert(1, Millis(3_100));
            state.votes = vec![0, 2];
        }
        assert!(desk.bury_the_dead().await.unwrap());
        until("it runs elsewhere", async || world.state.borrow().starts.len() == 2).await;
        until("its end", async || desk.working(&name("web1")).is_none()).await;
        let shown = desk.vm_show("web1").await.unwrap().vm;
        assert_eq!((shown.epoch, shown.state), (2, VmState::Running), "{shown:?}");
        {
            let mut state = world.state.borrow_mut();
            state.dead.clear();
            state.silent.clear();
        }
        world.sync_all(&desk).await;
        assert_eq!(world.state.borrow().guests[&(1, name("web1"))].guest, Guest::Unknown);
        tended(&world, &desk).await;
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.state, VmState::Running);
        desk.vm_stop("web1", &VmStopRequest { patience_ms: None }, "the test").await.expect("its owner is another");
    });
}

/// CA2. Goal: adopting takes over what runs there at the epoch that it has, without touching it; a host that is not the owner
/// is told by the next assignment to end it. Method: once where nothing is behind, once where the store is.
#[test]
fn adopting_ends_it_and_touches_nothing() {
    local(async {
        let (world, desk) = unclear().await;
        let done = desk.vm_adopt("web1", "the test").await.expect("everybody answers");
        assert_eq!(done.text, "VM 'web1' is taken over on 'beta' as it is there, at epoch 1");
        let shown = desk.vm_show("web1").await.unwrap().vm;
        assert_eq!((shown.epoch, shown.state, shown.host), (1, VmState::Running, "beta".parse().ok()));
        assert!(desk.all_behind().await.unwrap().is_empty());
        until("the story", async || said(&desk, "web1", "the test had beta take over what ran").await).await;
        assert_eq!(
            (world.state.borrow().starts.len(), world.state.borrow().floors[&"web1".parse().unwrap()]),
            (1, Epoch(1))
        );
        let again = desk.vm_adopt("web1", "the test").await.expect_err("all is clear");
        assert!(again.text.contains("is not behind"), "{again:?}");
        world.becomes(1, "web1", |tell| {
            unknown(tell);
            tell.epoch = None;
        });
        let refused = desk.vm_adopt("web1", "the test").await.expect_err("at which epoch");
        assert!(refused.text.contains("'beta' has something of VM 'web1' and no epoch for it"), "{refused:?}");
        world.becomes(1, "web1", |tell| tell.nothing_runs = true);
        desk.vm_adopt("web1", "the test").await.expect("nothing runs there");
    });
}

/// CA2. Goal: forgetting ends what runs and lets the VM be started again; it is refused while all is clear, and while a host
/// that may have it is silent. Method: each.
#[test]
fn forgetting_ends_what_runs() {
    local(async {
        let (world, desk) = unclear().await;
        world.state.borrow_mut().dead.insert(1);
        let silent = desk.vm_forget("web1", "the test").await.expect_err("beta has it");
        assert!(silent.code == Code::Unreachable && silent.text.contains("'beta'"), "{silent:?}");
        world.state.borrow_mut().dead.clear();
        world.sync_all(&desk).await;
        let done = desk.vm_forget("web1", "the test").await.expect("beta obeys");
        assert_eq!(done.text, "nothing of VM 'web1' is left on 'beta'");
        desk.tend().await.unwrap();
        until("it is started again", async || world.state.borrow().starts.len() == 2).await;
        until("its end", async || desk.working(&name("web1")).is_none()).await;
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.epoch, 2);
        let refused = desk.vm_forget("web1", "the test").await.expect_err("all is clear");
        assert!(refused.code == Code::NotPossible, "{refused:?}");
        assert_eq!(desk.hosts.borrow().guest(&name("web1"), key(1), host::runtime::now()), Some(Guest::Running));
    });
}
