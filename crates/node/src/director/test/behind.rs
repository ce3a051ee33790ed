//! A store that was brought back from a backup that is older than what runs.

use super::world::{World, ended, key, record, running, until};
use super::{local, name, said};
use crate::director::Desk;
use api::{Code, NodeList, Problem, VmMigrateRequest, VmStartRequest, VmState, VmStopRequest};
use cluster::job::Guest;
use host::runtime::now;
use std::rc::Rc;
use std::time::Duration;
use units::{CaFingerprint, Epoch, Millis};

const TO_GAMMA: &str = "gamma";

fn to(host: &str) -> VmMigrateRequest {
    VmMigrateRequest { host: host.parse().ok(), deadline_ms: None }
}

async fn moved(desk: &Rc<Desk>, host: &str) {
    let begun = desk.vm_migrate("web1", &to(host)).await.expect("it can");
    assert_eq!(ended(desk, &begun.job.expect("a job")).await.outcome.as_deref(), Some("done"));
}

/// web1 runs at gamma, epoch 3; the store is lost, and the one in its place says beta, epoch 1.
async fn past() -> Rc<World> {
    let world = World::new(&["web1"]).await;
    let desk = world.direct().await;
    running(&desk, "web1", 1).await;
    let backup = world.store.ask(|engine| engine.backup().map_err(|error| crate::store::failed(&error))).await.unwrap();
    moved(&desk, TO_GAMMA).await;
    until("its end", async || desk.working(&name("web1")).is_none()).await;
    drop(desk);
    world.restored(backup).await
}

async fn refused(desk: &Rc<Desk>) -> Problem {
    desk.vm_adopt("web1", "the test").await.expect_err("it cannot be adopted")
}

/// What a machine is told about web1.
async fn assigned(world: &World, desk: &Rc<Desk>, n: usize) -> Vec<crate::peer::Assignment> {
    let members = NodeList { cluster: CaFingerprint([1; 32]), nodes: Vec::new() };
    desk.synced(&record(n), world.report(n), members).await.expect("the store works").assignments
}

/// Goal: a store of the past neither starts nor ends a guest, whoever asks and however far its counter comes; a person's
/// step makes it agree; then its orders are taken again. Method: a backup, a move, the store lost; everything that might
/// begin something; adopt; a move and a stop.
#[test]
fn a_store_of_the_past_does_nothing_until_it_is_adopted() {
    local(async {
        let world = past().await;
        let desk = world.direct().await;
        let starts = world.state.borrow().starts.len();
        let guests = world.state.borrow().guests.clone();
        desk.tend().await.unwrap();
        world.state.borrow_mut().silent.insert(1, Millis(9_000));
        world.state.borrow_mut().votes = vec![0, 2];
        world.state.borrow_mut().dead.insert(1);
        desk.bury_the_dead().await.unwrap();
        world.state.borrow_mut().dead.clear();
        world.state.borrow_mut().silent.clear();
        world.sync_all(&desk).await;
        // However far the counter comes: the epochs still differ.
        let on = |engine: &mut dyn cluster::store::Engine| {
            engine.lift(cluster::store::Revision(500)).map_err(|error| crate::store::failed(&error))
        };
        let problem = desk.refuse_if_behind(&name("web1")).await.expect_err("gamma knows better");
        // D11: neither "down", nor on the host of the past.
        let shown = &desk.vm_list().await.unwrap().vms[0];
        assert_eq!((shown.state, &shown.host), (api::VmState::Unknown, &"gamma".parse().ok()));
        desk.store.ask(on).await.unwrap();
        let start = VmStartRequest { host: None, overcommit: false };
        for refused in [
            desk.vm_start("web1", &start, "the test").await.map(drop),
            desk.vm_stop("web1", &VmStopRequest { patience_ms: None }, "the test").await.map(drop),
            desk.vm_migrate("web1", &to("alpha")).await.map(drop),
            desk.vm_delete("web1").await.map(drop),
        ] {
            let refused = refused.expect_err("the store is behind");
            assert_eq!(refused, problem);
            for word in ["web1", "epoch 1", "'gamma'", "epoch 3"] {
                assert!(refused.text.contains(word), "{refused:?}");
            }
            assert!(refused.code == Code::NotPossible && refused.hint.contains("muskox vm adopt web1"), "{refused:?}");
        }
        assert_eq!(assigned(&world, &desk, 2).await, [], "gamma is not told to end its guest");
        desk.tend().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(world.state.borrow().guests, guests, "nobody was asked for anything");
        assert!(said(&desk, "web1", "muskox vm adopt web1").await);
        until("a fact", async || said(&desk, "web1", "nothing was done because the store is behind").await).await;

        let done = desk.vm_adopt("web1", "the test").await.expect("everybody answers");
        assert_eq!(done.text, "VM 'web1' belongs to 'gamma' at epoch 3; the store had said 'beta' at epoch 1");
        let shown = desk.vm_show("web1").await.unwrap().vm;
        assert_eq!((shown.state, shown.host, shown.epoch), (VmState::Running, "gamma".parse().ok(), 3));
        assert!(desk.all_behind().await.unwrap().is_empty() && !said(&desk, "web1", "muskox vm adopt").await);
        let again = refused(&desk).await;
        assert!(again.code == Code::NotPossible && again.text.contains("is not behind"), "{again:?}");
        desk.tend().await.unwrap();
        moved(&desk, "alpha").await;
        assert_eq!(world.state.borrow().starts.len(), starts, "it was never started anew");
        desk.vm_stop("web1", &VmStopRequest { patience_ms: None }, "the test").await.expect("it agrees");
        let [told] = &assigned(&world, &desk, 0).await[..] else { panic!("alpha owns it") };
        let newest = world.state.borrow().orders[&(0, name("web1"))].newest();
        assert!(told.owner && !told.running && told.at > newest, "{told:?} {newest:?}");
    });
}

/// Goal: orders of a store whose epochs are right but whose counter is behind are refused by hosts, so none is given;
/// adopting lifts the counter. Method: a backup, then a stop and a new start of the director's word only.
#[test]
fn a_counter_that_is_behind_is_lifted() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        let backup =
            |engine: &mut dyn cluster::store::Engine| engine.backup().map_err(|error| crate::store::failed(&error));
        let backup = desk.store.ask(backup).await.unwrap();
        let heard = cluster::store::Revision(backup.at.0 + 1_000);
        drop(desk);
        let world = world.restored(backup).await;
        let desk = world.direct().await;
        let order = cluster::job::Order { vm: name("web1"), job: "j1".parse().unwrap(), at: heard };
        assert!(world.state.borrow_mut().orders.get_mut(&(1, name("web1"))).unwrap().admit(&order));
        world.becomes(1, "web1", |tell| tell.at = heard);
        let problem = desk.vm_migrate("web1", &to(TO_GAMMA)).await.expect_err("beta would not hear it");
        assert!(problem.text.contains(&format!("order {}", heard.0)), "{problem:?}");
        desk.vm_adopt("web1", "the test").await.expect("everybody answers");
        let shown = desk.vm_show("web1").await.unwrap().vm;
        assert_eq!((shown.host, shown.epoch), ("beta".parse().ok(), 1), "nothing else was wrong");
        let [told] = &assigned(&world, &desk, 1).await[..] else { panic!("beta owns it") };
        assert!(told.at > heard, "{told:?}");
        moved(&desk, TO_GAMMA).await;
    });
}

/// Goal: adopting is refused while somebody who may know more is silent, and when two hosts claim the same; each refusal
/// says who. Method: each of these, then none.
#[test]
fn nothing_is_adopted_on_half_of_the_answers() {
    local(async {
        let world = past().await;
        let desk = world.direct().await;
        world.state.borrow_mut().dead.insert(0);
        let silent = refused(&desk).await;
        assert!(silent.code == Code::Unreachable && silent.text.contains("'alpha'"), "{silent:?}");
        world.state.borrow_mut().dead = [1].into();
        let silent = refused(&desk).await;
        assert!(silent.code == Code::Unreachable && silent.text.contains("'beta'"), "{silent:?}");
        world.state.borrow_mut().dead.clear();
        world.state.borrow_mut().target_down = true;
        let silent = refused(&desk).await;
        assert!(silent.code == Code::Unreachable && silent.text.contains("'alpha'"), "{silent:?}");
        world.state.borrow_mut().target_down = false;
        world.becomes(1, "web1", |tell| (tell.guest, tell.epoch) = (Guest::Running, Some(Epoch(3))));
        let two = refused(&desk).await;
        assert_eq!(two.code, Code::NotPossible);
        assert!(two.text.contains("'beta' and 'gamma'") && two.text.contains("epoch 3"), "{two:?}");
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.epoch, 1, "nothing was changed");
        world.becomes(1, "web1", |tell| tell.epoch = Some(Epoch(1)));
        desk.vm_adopt("web1", "the test").await.expect("gamma's is newer");
        let [told] = &assigned(&world, &desk, 1).await[..] else { panic!("beta has an old one") };
        assert!(!told.owner && !told.job, "beta ends what it has: {told:?}");
    });
}

/// Goal: a host that is gone for good does not keep a VM from being adopted, once the witnesses say so, and it stays a
/// suspect; a guest that is there is wished to run, whatever the backup wished. Method: a backup from before the first
/// start; beta dies with one vote against it, then with two.
#[test]
fn a_dead_host_is_done_without() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        desk.vm_create(&super::spec("web1", "")).await.expect("it is made");
        let backup =
            |engine: &mut dyn cluster::store::Engine| engine.backup().map_err(|error| crate::store::failed(&error));
        let backup = desk.store.ask(backup).await.unwrap();
        running(&desk, "web1", 2).await;
        drop(desk);
        let world = world.restored(backup).await;
        let desk = world.direct().await;
        assert!(!desk.vm_show("web1").await.unwrap().vm.wished);
        world.state.borrow_mut().dead.insert(1);
        world.state.borrow_mut().votes = vec![0];
        let silent = refused(&desk).await;
        assert!(silent.code == Code::Unreachable && silent.text.contains("'beta'"), "{silent:?}");
        world.state.borrow_mut().votes = vec![0, 2];
        desk.vm_adopt("web1", "the test").await.expect("beta is dead");
        let shown = desk.vm_show("web1").await.unwrap().vm;
        assert_eq!((shown.host, shown.epoch, shown.wished), ("gamma".parse().ok(), 1, true));
        assert_eq!(desk.view().await.unwrap().ownership(&name("web1")).unwrap().unsettled, [key(1)]);
        world.state.borrow_mut().dead.clear();
        let again = refused(&desk).await;
        assert!(again.text.contains("is not behind"), "a suspect that came back is no reason: {again:?}");
    });
}

/// Goal: where no guest is left, the target alone shows that the store is behind; the owner stays, the epoch is the
/// target's, and the next start is above it. Method: the guest gone everywhere, the target's life is new.
#[test]
fn a_target_alone_shows_it() {
    local(async {
        let world = past().await;
        let gone = |tell: &mut crate::peer::Tell| {
            (tell.guest, tell.epoch, tell.at) = (Guest::Absent, None, cluster::store::Revision(1));
        };
        for n in [1, 2] {
            world.becomes(n, "web1", gone);
            world.state.borrow_mut().orders.clear();
        }
        let desk = world.direct().await;
        desk.refuse_if_behind(&name("web1")).await.expect("nobody has said anything yet");
        desk.target_lives(&record(0), Some(Millis(100)));
        until("the target's word", async || desk.refuse_if_behind(&name("web1")).await.is_err()).await;
        let problem = desk.refuse_if_behind(&name("web1")).await.expect_err("it has just said so");
        assert!(problem.text.contains("the target of volume 'web1' is at epoch 3"), "{problem:?}");
        desk.vm_adopt("web1", "the test").await.expect("everybody answers");
        let shown = desk.vm_show("web1").await.unwrap().vm;
        assert_eq!((shown.host, shown.epoch), ("beta".parse().ok(), 3));
        desk.tend().await.unwrap();
        until("it is brought back", async || desk.vm_show("web1").await.unwrap().vm.state == VmState::Running).await;
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.epoch, 4);
    });
}

/// Goal: a start that nobody's word held back is refused by the target; it ends there, and tells that the store is behind:
/// no higher epoch is tried until somebody healthy is fenced. Method: as above, with a start before the target said anything.
#[test]
fn a_refused_epoch_shows_it_too() {
    local(async {
        let world = past().await;
        for n in [1, 2] {
            world.becomes(n, "web1", |tell| {
                (tell.guest, tell.epoch, tell.at) = (Guest::Absent, None, cluster::store::Revision(1));
            });
            world.state.borrow_mut().orders.clear();
        }
        let desk = world.direct().await;
        let starts = world.state.borrow().starts.len();
        let begun = desk.vm_start("web1", &VmStartRequest { host: None, overcommit: true }, "the test").await;
        let job = ended(&desk, &begun.expect("nobody has said anything yet").job.expect("a job")).await;
        assert_eq!(job.outcome.as_deref(), Some("lost"), "{job:?}");
        let problem = desk.refuse_if_behind(&name("web1")).await.expect_err("the target has said so");
        assert!(problem.text.contains("the target of volume 'web1' is at epoch 3"), "{problem:?}");
        desk.tend().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.epoch, 2, "one epoch was tried");
        assert_eq!(world.state.borrow().starts.len(), starts);
    });
}

/// Goal: a director that has just begun begins nothing before those who may know better have called. Method: gamma, which
/// has the guest, calls 300 ms after the start is asked for.
#[test]
fn a_new_director_listens_first() {
    local(async {
        let world = past().await;
        world.state.borrow_mut().dead.insert(2);
        let desk = world.direct_since(now()).await;
        let late = Rc::clone(&world);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            late.state.borrow_mut().dead.clear();
        });
        world.becomes(1, "web1", |tell| tell.at = cluster::store::Revision(1));
        let start = VmStartRequest { host: None, overcommit: false };
        let refused = desk.vm_start("web1", &start, "the test").await.expect_err("gamma has it");
        assert!(refused.text.contains("'gamma'"), "{refused:?}");
        assert!(desk.job_list().await.unwrap().jobs.iter().all(|job| job.outcome.is_some()));
        assert_eq!(desk.hosts.borrow().guest(&name("web1"), key(2), now()), Some(Guest::Running));
    });
}
