//! Hosts whose dead-men let no guest run.

use super::world::{World, key, local, running, spec, until};
use super::{name, said};
use api::{Code, VmMigrateRequest, VmStartRequest};
use host::runtime::now;
use units::Millis;

/// CA6. Goal: a host that lets no guest start is not chosen: for no failover, start or move; that is said, with the host's name and
/// its reason; once it does, it is. Method: three hosts; of a dead one's VM the next one is to be the only one that may, then none.
#[test]
fn a_host_that_lets_no_guest_start_is_not_chosen() {
    local(async {
        let world = World::new(&["web1", "web2"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        let ask = |host: &str| VmStartRequest { host: host.parse().ok(), overcommit: true };
        desk.vm_create(&spec("web2", "")).await.expect("it is made");
        world.state.borrow_mut().withheld = [0, 2].into();
        world.sync_all(&desk).await;
        let reason = "lets no guest start now: the dead-man pauses all guests";
        let refused = desk.vm_start("web2", &ask("gamma"), "the test").await.expect_err("gamma is alone");
        assert!(
            refused.code == Code::NotPossible && refused.text.contains(&format!("'gamma' {reason}")),
            "{refused:?}"
        );
        let to = VmMigrateRequest { host: "gamma".parse().ok(), deadline_ms: None };
        let refused = desk.vm_migrate("web1", &to).await.expect_err("gamma is alone");
        assert!(refused.text.contains(&format!("'gamma' {reason}")), "{refused:?}");

        world.state.borrow_mut().dead.insert(1);
        world.state.borrow_mut().silent.insert(1, Millis(3_100));
        world.state.borrow_mut().votes = vec![0, 2];
        desk.bury_the_dead().await.unwrap();
        until("why nothing is done", async || said(&desk, "web1", "nothing was done because no other host").await)
            .await;
        assert_eq!(world.state.borrow().starts.len(), 1, "on beta alone");
        // Without the mend it is alpha: of two with the same room the first one.
        world.state.borrow_mut().withheld = [0].into();
        world.sync_all(&desk).await;
        desk.bury_the_dead().await.unwrap();
        until("it runs elsewhere", async || world.state.borrow().starts.len() == 2).await;
        assert_eq!(world.state.borrow().starts[1].0, 2);
    });
}

/// Goal: a start that is asked for while the cluster's dead-men find each other waits a moment and is done. Method: no host lets a guest
/// start, and half a second later all do; where none does for seconds, it is refused.
#[test]
fn a_start_waits_for_dead_men_that_have_just_begun() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        desk.vm_create(&spec("web1", "")).await.expect("it is made");
        world.state.borrow_mut().withheld = [0, 1, 2].into();
        world.sync_all(&desk).await;
        // Nobody waits for a host that there is not.
        let (asked, nowhere) = (now(), VmStartRequest { host: "nowhere".parse().ok(), overcommit: false });
        desk.vm_start("web1", &nowhere, "the test").await.expect_err("there is no such host");
        assert!(now().since(asked) < Millis(3_000));
        let later = std::rc::Rc::clone(&world);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            later.state.borrow_mut().withheld.clear();
        });
        running(&desk, "web1", 1).await;
    });
}

/// CA6. Goal: a start that waits for its host's dead-man says so in `blocked` and `why`. Method: a host that takes the order and waits.
#[test]
fn a_start_that_waits_for_a_dead_man_says_so() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        desk.vm_create(&spec("web1", "")).await.expect("it is made");
        world.state.borrow_mut().sluggish.insert(1);
        let request = VmStartRequest { host: "beta".parse().ok(), overcommit: false };
        let job = desk.vm_start("web1", &request, "the test").await.expect("it begins").job.expect("a job");
        let ordered = || world.state.borrow().guests.contains_key(&(1, name("web1")));
        until("the order", async || ordered()).await;
        let why = "the dead-man pauses all guests: no majority of witnesses grants";
        world.becomes(1, "web1", |tell| (tell.paused, tell.why) = (true, Some(why.to_owned())));
        let blocked = format!("its host lets no guest start now: {why}");
        until("the reason", async || desk.job_show(&job).await.unwrap().blocked.as_ref() == Some(&blocked)).await;
        until("the story", async || said(&desk, "web1", &blocked).await).await;
        assert_eq!(desk.hosts.borrow().tell(&name("web1"), key(1)).map(|tell| tell.paused), Some(true));
    });
}
