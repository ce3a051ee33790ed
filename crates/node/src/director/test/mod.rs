//! The director with a real store and real jobs against scripted machines.

mod behind;
mod place;
mod refusals;
mod shown;
mod standing;
mod tend;
mod unknown;
pub mod world;

use super::{Desk, recover, runs};
use crate::vms::object::Wish;
use api::{Code, VmMigrateRequest, VmStartRequest, VmState, VmStopRequest};
use cluster::job::{Guest, VolumeFloor};
use cluster::store::{Engine, Key, Op, Txn};
use host::runtime::now;
use std::rc::Rc;
use std::time::Duration;
use units::{Epoch, Millis, Moment, VmName};
use world::{World, ended, key, local, record, running, spec, until};

fn name(text: &str) -> VmName {
    text.parse().expect("a name")
}

async fn said(desk: &Rc<Desk>, vm: &str, what: &str) -> bool {
    let why = desk.vm_why(vm).await.expect("it is there");
    why.sentences.iter().any(|line| line.contains(what))
}

/// Goal: a VM is made, started, moved and stopped, each with its epoch at the target and its story told. Method: all of it.
#[test]
fn a_vm_starts_moves_and_stops() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        assert_eq!(world.state.borrow().floors[&"web1".parse().unwrap()], Epoch(1));
        let request = VmMigrateRequest { host: Some("gamma".parse().unwrap()), deadline_ms: None };
        let begun = desk.vm_migrate("web1", &request).await.expect("it can");
        let job = ended(&desk, &begun.job.expect("a job")).await;
        assert_eq!(job.outcome.as_deref(), Some("done"), "{job:?}");
        let receipt = job.receipt.expect("a migration has one");
        assert!(receipt.cpu_blackout_ms.is_some_and(|ms| ms < 1_000), "{receipt:?}");
        println!("hand-over {:?} ms, blackout {:?} ms", receipt.hand_over_ms, receipt.cpu_blackout_ms);
        let shown = desk.vm_show("web1").await.unwrap();
        assert_eq!((shown.vm.state, shown.vm.host, shown.vm.epoch), (VmState::Running, "gamma".parse().ok(), 3));
        assert_eq!(world.state.borrow().floors[&"web1".parse().unwrap()], Epoch(3));
        until("the move is told", async || said(&desk, "web1", "it moved from beta to gamma").await).await;
        let stopped = desk.vm_stop("web1", &VmStopRequest { patience_ms: Some(5) }, "the test").await.unwrap();
        assert!(stopped.text.contains("being shut down on 'gamma'"), "{stopped:?}");
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.state, VmState::Stopping);
        let members = api::NodeList { cluster: units::CaFingerprint([1; 32]), nodes: Vec::new() };
        let synced = desk.synced(&record(2), world.report(2), members).await.unwrap();
        let [assignment] = &synced.assignments[..] else { panic!("{synced:?}") };
        assert!(assignment.owner && !assignment.running && !assignment.job);
        assert_eq!((assignment.epoch, assignment.patience_ms), (Epoch(3), Millis(5)));
        assert_eq!((synced.witnesses.len(), synced.witnesses[2].portals[0].port()), (3, 10_812));
        world.becomes(2, "web1", |tell| tell.guest = Guest::Absent);
        desk.tend().await.unwrap();
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.state, VmState::Stopped, "it is not brought back");
        desk.vm_delete("web1").await.expect("it is off");
    });
}

/// Goal: a target that does not answer blocks the fence, visibly; the job survives its director; when the target is back the
/// guest starts, not before. Method: the first director's tasks are dropped, a second one takes over.
#[test]
fn a_blocked_job_is_taken_over_and_goes_on() {
    let (world, job) = local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        desk.vm_create(&spec("web1", "")).await.expect("it is made");
        world.state.borrow_mut().target_down = true;
        let begun = desk.vm_start("web1", &VmStartRequest { host: None, overcommit: false }, "the test").await;
        let job = begun.expect("it begins").job.expect("a job");
        until("it is blocked", async || desk.job_show(&job).await.unwrap().blocked.is_some()).await;
        // D11: its time goes on while nothing of it is written.
        let time = async || desk.job_show(&job).await.unwrap().spent_ms;
        let before = time().await;
        until("its time goes on", async || time().await > before + 250).await;
        let listed = desk.job_list().await.unwrap().jobs[0].spent_ms;
        assert!(listed > before + 250, "{listed} {before}");
        (world, job)
    });
    assert!(world.state.borrow().starts.is_empty());
    local(async {
        let desk = world.direct().await;
        runs::take_over_all(&desk).await;
        assert!(desk.working(&name("web1")).is_some());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(world.state.borrow().starts.is_empty());
        world.state.borrow_mut().target_down = false;
        let job = ended(&desk, &job).await;
        assert_eq!(job.outcome.as_deref(), Some("done"), "{job:?}");
        assert!(
            job.history.iter().any(|note| note.why.as_deref() == Some("continued by another controller")),
            "{job:?}"
        );
        assert_eq!(world.state.borrow().starts.len(), 1);
    });
}

/// Goal: a silent host loses its VM only with a majority of votes and a destination, and then it does, once. Method: each
/// of the three alone, then all.
#[test]
fn a_dead_host_loses_its_vms_by_votes_only() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        world.state.borrow_mut().dead.insert(1);
        world.state.borrow_mut().silent.insert(1, Millis(2_900));
        world.state.borrow_mut().votes = vec![0, 2];
        assert!(!desk.bury_the_dead().await.unwrap(), "not silent for long enough");
        world.state.borrow_mut().silent.insert(1, Millis(3_100));
        world.state.borrow_mut().votes = vec![0];
        assert!(desk.bury_the_dead().await.unwrap());
        desk.tend().await.unwrap();
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.epoch, 1, "one vote of three");
        world.state.borrow_mut().votes = vec![0, 2];
        world.state.borrow_mut().no_qemu = [0, 2].into();
        world.sync_all(&desk).await;
        desk.bury_the_dead().await.unwrap();
        desk.bury_the_dead().await.unwrap();
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.epoch, 1, "nowhere to go");
        until("why nothing is done", async || said(&desk, "web1", "nothing was done because no other host").await)
            .await;
        world.state.borrow_mut().no_qemu.clear();
        world.sync_all(&desk).await;
        desk.bury_the_dead().await.unwrap();
        until("it runs elsewhere", async || world.state.borrow().starts.len() == 2).await;
        until("the story", async || said(&desk, "web1", "it started on").await).await;
        let shown = desk.vm_show("web1").await.unwrap();
        assert_eq!((shown.vm.epoch, shown.vm.state), (2, VmState::Running), "{shown:?}");
        assert_ne!(shown.vm.host, "beta".parse().ok());
        for what in ["2 of 3 witnesses voted beta dead after 3.1 s", "storage fenced off all earlier writers (epoch 2"]
        {
            until(what, async || said(&desk, "web1", what).await).await;
        }
        desk.bury_the_dead().await.unwrap();
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.epoch, 2);
        // It is back, but the votes still bind: it would get no lease for a guest.
        world.state.borrow_mut().dead.clear();
        world.state.borrow_mut().silent.clear();
        world.sync_all(&desk).await;
        let back = VmMigrateRequest { host: "beta".parse().ok(), deadline_ms: None };
        let refused = desk.vm_migrate("web1", &back).await.expect_err("too early");
        assert!(refused.code == Code::NotPossible && refused.text.contains("'beta' was voted dead"), "{refused:?}");
    });
}

/// Goal: a QEMU that dies is started again in place, at a new epoch, the second time later; a host that is merely silent
/// loses nothing; a guest that switches itself off stays off. Method: the director's own loop, and the guest's end.
#[test]
fn a_dead_qemu_is_restarted_in_place_more_and_more_slowly() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        let tending = Rc::clone(&desk);
        tokio::task::spawn_local(async move { recover::tend(&tending).await });
        let dies = |tell: &mut crate::peer::Tell| {
            (tell.guest, tell.why) = (Guest::Absent, Some("it crashed".to_owned()));
        };
        world.becomes(1, "web1", dies);
        until("the first restart", async || world.state.borrow().starts.len() == 2).await;
        until("its end", async || desk.working(&name("web1")).is_none()).await;
        let died = now();
        world.becomes(1, "web1", dies);
        until("the second restart", async || world.state.borrow().starts.len() == 3).await;
        assert!(now().since(died) >= Millis(1_000), "{}", now().since(died));
        assert!(world.state.borrow().starts.iter().all(|(host, _)| *host == 1), "in place");
        until("the story", async || said(&desk, "web1", "it had died 2 times soon after starting").await).await;
        until("its end", async || desk.working(&name("web1")).is_none()).await;
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.epoch, 3);
        world.becomes(1, "web1", |tell| (tell.guest, tell.powered_off) = (Guest::Absent, true));
        until("it is heeded", async || !desk.vm_show("web1").await.unwrap().vm.wished).await;
        world.state.borrow_mut().dead.insert(1);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(world.state.borrow().starts.len(), 3);
        world.state.borrow_mut().dead.clear();
        desk.wish(&name("web1"), Wish::Running, None).await.expect("it is there");
        until("an old power-off is not heeded again", async || world.state.borrow().starts.len() == 4).await;
        assert!(desk.vm_show("web1").await.unwrap().vm.wished);
    });
}

/// Goal: a guest that was left standing at an epoch that is over is ended by a start at the next one, a guest that stands at
/// the present one is not. Method: its owner says so, first the one, then the other.
#[test]
fn a_guest_left_behind_is_started_anew() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        let tending = Rc::clone(&desk);
        tokio::task::spawn_local(async move { recover::tend(&tending).await });
        let stands =
            |epoch| move |tell: &mut crate::peer::Tell| (tell.guest, tell.epoch) = (Guest::Stopped, Some(Epoch(epoch)));
        let epoch = desk.vm_show("web1").await.unwrap().vm.epoch;
        world.becomes(1, "web1", stands(epoch));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(world.state.borrow().starts.len(), 1, "the dead-man or a disk has stopped it: it goes on");
        world.becomes(1, "web1", stands(epoch - 1));
        until("a start at the next epoch", async || world.state.borrow().starts.len() == 2).await;
        until("its end", async || desk.working(&name("web1")).is_none()).await;
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.epoch, epoch + 1);
    });
}

/// Goal: a VM of a higher order waits until those of a lower one run and have settled; one that stands, about to be started, does
/// not run. Method: after a cold start a host makes a guest and takes its time to let it run.
#[test]
fn an_order_waits_for_what_is_being_started() {
    local(async {
        let world = World::new(&["first", "second"]).await;
        let desk = world.direct_since(Moment(now().0.saturating_sub(recover::SETTLE.0))).await;
        for (vm, more) in [("first", "order=1"), ("second", "order=2")] {
            desk.vm_create(&spec(vm, more)).await.expect("it is made");
            running(&desk, vm, 1).await;
            world.becomes(1, vm, |tell| tell.guest = Guest::Absent);
        }
        world.state.borrow_mut().sluggish = [0, 1, 2].into();
        let tending = Rc::clone(&desk);
        tokio::task::spawn_local(async move { recover::tend(&tending).await });
        until("the first one's job", async || desk.working(&name("first")).is_some()).await;
        world.becomes(1, "first", |tell| (tell.guest, tell.epoch) = (Guest::Stopped, Some(Epoch(2))));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(desk.working(&name("first")).is_some(), "it is still being started");
        assert!(desk.working(&name("second")).is_none(), "the second one did not wait");
        world.state.borrow_mut().sluggish.clear();
        world.becomes(1, "first", |tell| tell.guest = Guest::Running);
        until("its end", async || desk.working(&name("first")).is_none()).await;
        let ran = now();
        until("the second one's start", async || desk.vm_show("second").await.unwrap().vm.epoch == 2).await;
        assert!(now().since(ran) >= Millis(2_500), "{}", now().since(ran));
    });
}

/// Goal: what a host said under an older order moves no job, nor does a guest that runs at an older epoch; a wish to stop that
/// comes while a job runs is done after it. Method: a host that does not start the guest, and reports that it runs: of an order
/// before the job's, and of an epoch before it.
#[test]
fn old_news_is_ignored_and_a_stop_waits_for_the_job() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        desk.vm_create(&spec("web1", "")).await.expect("it is made");
        world.state.borrow_mut().sluggish = [0, 1, 2].into();
        let request = VmStartRequest { host: Some("beta".parse().unwrap()), overcommit: false };
        let job = desk.vm_start("web1", &request, "the test").await.unwrap().job.expect("a job");
        until("the order to start", async || world.state.borrow().guests.contains_key(&(1, name("web1")))).await;
        let at = world.state.borrow().guests[&(1, name("web1"))].at;
        desk.heard(key(1), super::hosts::test::tell("web1", at.0 - 1, Guest::Running));
        world.becomes(1, "web1", |tell| (tell.guest, tell.epoch) = (Guest::Running, Some(Epoch(0))));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(desk.job_show(&job).await.unwrap().outcome, None);
        let stopped = desk.vm_stop("web1", &VmStopRequest { patience_ms: None }, "the test").await.unwrap();
        assert!(stopped.text.contains("when job"), "{stopped:?}");
        let again = desk.vm_start("web1", &request, "the test").await.expect_err("a job works on it");
        assert_eq!(again.code, Code::InUse);
        world.becomes(1, "web1", |tell| tell.epoch = Some(Epoch(1)));
        assert_eq!(ended(&desk, &job).await.outcome.as_deref(), Some("done"));
        let shown = desk.vm_show("web1").await.unwrap().vm;
        assert_eq!((shown.wished, shown.state), (false, VmState::Stopping));
    });
}

/// Goal: a word that arrives after a later one of the same host moves no job and hides nothing. Method: a host that does not
/// start the guest says that it stands; what it said before, that it runs, arrives then.
#[test]
fn what_was_overtaken_moves_no_job() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        desk.vm_create(&spec("web1", "")).await.expect("it is made");
        world.state.borrow_mut().sluggish = [0, 1, 2].into();
        let request = VmStartRequest { host: Some("beta".parse().unwrap()), overcommit: false };
        let job = desk.vm_start("web1", &request, "the test").await.unwrap().job.expect("a job");
        until("the order to start", async || world.state.borrow().guests.contains_key(&(1, name("web1")))).await;
        let tell = |number, guest| {
            move |tell: &mut crate::peer::Tell| {
                tell.sequence = crate::peer::Sequence { life: 1, number };
                (tell.guest, tell.epoch) = (guest, Some(Epoch(1)));
            }
        };
        world.becomes(1, "web1", tell(9, Guest::Stopped));
        world.becomes(1, "web1", tell(8, Guest::Running));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(desk.job_show(&job).await.unwrap().outcome, None);
        assert_eq!(desk.hosts.borrow().guest(&name("web1"), key(1), now()), Some(Guest::Stopped));
        world.becomes(1, "web1", tell(10, Guest::Running));
        assert_eq!(ended(&desk, &job).await.outcome.as_deref(), Some("done"));
    });
}

/// Goal: a move that cannot be begun is refused with all reasons and changes nothing; one that copies for ever is undone
/// when it is cancelled, soon. Method: a host without QEMU and bridge; a source that is stuck.
#[test]
fn a_move_is_refused_with_reasons_or_cancelled() {
    local(async {
        let world = World::new(&["web1", "db"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        world.state.borrow_mut().no_qemu.insert(2);
        world.sync_all(&desk).await;
        let to = |host: &str| VmMigrateRequest { host: host.parse().ok(), deadline_ms: None };
        let refused = desk.vm_migrate("web1", &to("gamma")).await.expect_err("no QEMU");
        assert!(refused.code == Code::NotPossible && refused.text.contains("gamma has no QEMU"), "{refused:?}");
        let refused = desk.vm_migrate("web1", &to("beta")).await.expect_err("there already");
        assert!(refused.text.contains("runs on beta already"), "{refused:?}");
        desk.vm_create(&spec("db", "")).await.expect("it is made");
        let refused = desk.vm_migrate("db", &to("beta")).await.expect_err("it does not run");
        assert!(refused.text.contains("does not run"), "{refused:?}");
        world.state.borrow_mut().stuck = true;
        let job = desk.vm_migrate("web1", &to("alpha")).await.expect("it can").job.expect("a job");
        until("it copies", async || desk.job_show(&job).await.unwrap().stage == "copy").await;
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.state, VmState::Migrating);
        let before = now();
        desk.job_cancel(&job).await.expect("it goes on");
        let job = ended(&desk, &job).await;
        assert!(now().since(before) < Millis(3_000), "{}", now().since(before));
        assert_eq!(job.outcome.as_deref(), Some("undone"), "{job:?}");
        assert_eq!(desk.job_cancel(&job.id).await.expect_err("it has ended").code, Code::NotPossible);
        let shown = desk.vm_show("web1").await.unwrap().vm;
        assert_eq!((shown.host, shown.epoch, shown.state), ("beta".parse().ok(), 1, VmState::Running));
        assert_eq!(desk.job_list().await.unwrap().jobs[0].id, job.id, "the newest first");
    });
}

/// A03. Goal: who changes the seed of a VM that was started is told that its guest does not read it again. Method: before and after a start.
#[test]
fn a_changed_seed_is_said_to_do_nothing_by_itself() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        desk.vm_create(&spec("web1", "")).await.expect("it can be");
        let seeded = |name: &str| format!("{}\n[seed]\nhostname='{name}'\n", spec("web1", ""));
        assert!(desk.vm_edit("web1", &seeded("one")).await.expect("it may").notes.is_empty(), "nobody has read it yet");
        desk.vm_start("web1", &VmStartRequest { host: None, overcommit: false }, "the test").await.expect("it can");
        let more = seeded("one").replace("memory=512", "memory=700");
        assert!(desk.vm_edit("web1", &more).await.expect("it may").notes.is_empty(), "the seed is as it was");
        let notes = desk.vm_edit("web1", &seeded("two")).await.expect("it may").notes;
        assert!(notes.len() == 1 && notes[0].contains("cloud-init clean"), "{notes:?}");
    });
}

/// Goal: volumes are one VM's, not while they are filled, and a volume's next VM begins above everything that was promised
/// of it. Method: make, edit, delete, make again.
#[test]
fn volumes_are_one_vms_and_floors_never_go_back() {
    local(async {
        let world = World::new(&["web1", "db"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        let other = spec("db", "").replace("volume='db'", "volume='web1'");
        assert_eq!(desk.vm_create(&other).await.expect_err("web1's").code, Code::InUse);
        assert_eq!(desk.vm_create(&spec("web1", "")).await.expect_err("twice").code, Code::Exists);
        let macs = desk.vm_show("web1").await.unwrap().macs;
        let more = spec("web1", "").replace("memory=512", "memory=700");
        assert_eq!(desk.vm_edit("web1", &more).await.expect("memory may change").macs, macs);
        let briefed = desk.view().await.unwrap().brief(&name("web1")).unwrap();
        assert_eq!(briefed.memory_mib, 512, "it runs as it was started");
        let disks = format!("{more}\n[[disk]]\nvolume='db'\n");
        assert_eq!(desk.vm_edit("web1", &disks).await.expect_err("it runs").code, Code::InUse);
        assert_eq!(desk.vm_delete("web1").await.expect_err("it runs").code, Code::InUse);
        desk.vm_stop("web1", &VmStopRequest { patience_ms: None }, "the test").await.unwrap();
        world.becomes(1, "web1", |tell| tell.guest = Guest::Absent);
        desk.vm_edit("web1", &disks).await.expect("it is off");
        let briefed = desk.view().await.unwrap().brief(&name("web1")).unwrap();
        assert_eq!((briefed.memory_mib, briefed.disks.len()), (700, 2));
        desk.vm_delete("web1").await.expect("it is off");
        let floor = |engine: &mut dyn cluster::store::Engine| {
            let entry = super::get(engine, &VolumeFloor::key(&"web1".parse().unwrap()))?.expect("it stays");
            Ok(VolumeFloor::read(&entry.value).unwrap())
        };
        assert_eq!(desk.store.ask(floor).await.unwrap(), VolumeFloor::new(Epoch(1), None));
        let claim = |put: bool| {
            move |engine: &mut dyn cluster::store::Engine| {
                let key = crate::storage::object::claim_key(&"web1".parse().unwrap());
                let op = if put { crate::registry::put(&key, &1) } else { cluster::store::Op::Delete(key) };
                engine.txn(&cluster::store::Txn { then: vec![op], ..Default::default() }).unwrap();
                Ok(())
            }
        };
        desk.store.ask(claim(true)).await.unwrap();
        assert_eq!(desk.vm_create(&spec("web1", "")).await.expect_err("it is filled").code, Code::InUse);
        desk.store.ask(claim(false)).await.unwrap();
        desk.vm_create(&spec("web1", "")).await.expect("it is nobody's");
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.epoch, 1);
        running(&desk, "web1", 2).await;
        assert_eq!(desk.vm_show("web1").await.unwrap().vm.epoch, 2);
        assert_eq!(
            desk.store_changes("0").await.unwrap().next,
            desk.store_changes("0").await.unwrap().changes.last().unwrap().revision
        );
    });
}

/// Goal: two hosts never take more than one of them could carry alone, unless that is asked for. Method: hosts of 2 GiB free.
#[test]
fn a_start_leaves_room_for_a_lost_host() {
    local(async {
        let world = World::new(&["a", "b", "c", "d"]).await;
        let desk = world.direct().await;
        for vm in ["a", "b", "c", "d"] {
            let text = spec(vm, "hosts=['beta','gamma']").replace("memory=512", "memory=1900");
            desk.vm_create(&text).await.expect("it is made");
        }
        let start = |vm: &'static str, overcommit| {
            let desk = Rc::clone(&desk);
            async move { desk.vm_start(vm, &VmStartRequest { host: None, overcommit }, "the test").await }
        };
        // They never run: what was given away counts, used or not.
        world.state.borrow_mut().sluggish = [0, 1, 2].into();
        for vm in ["a", "b"] {
            start(vm, false).await.expect("there is room");
        }
        let refused = start("c", false).await.expect_err("both allowed hosts are full");
        assert!(refused.code == Code::NotPossible && refused.text.contains("memory free"), "{refused:?}");
        assert!(!desk.vm_show("c").await.unwrap().vm.wished, "nothing was changed");
    });
}

/// Goal: a target that died soon after its start and was started at once is told its floors anew: without them a volume
/// whose member is missing serves nobody. Method: two lives that began two seconds apart, and the second one once more.
#[test]
fn a_target_that_restarts_quickly_is_told_its_floors() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        desk.vm_create(&spec("web1", "")).await.expect("it is made");
        let told = async || world.state.borrow().floors.contains_key(&"web1".parse().unwrap());
        desk.target_lives(&record(0), Some(Millis(2_100)));
        until("the first life knows", told).await;
        world.state.borrow_mut().floors.clear();
        desk.target_lives(&record(0), Some(Millis(100)));
        until("the second life knows", told).await;
    });
}

/// Goal: an object that cannot be read holds nobody else up, and nothing is done to its VM: no recovery when its host dies, no
/// assignment, no second one of its name, no job; it is in the list and says what is wrong. What was only unreadable goes on as
/// before. Method: each of a VM's three objects as a newer muskox might write it; two VMs whose host dies, and the bad one back.
#[test]
fn what_cannot_be_read_is_left_alone() {
    for (bad, listed) in
        [("/vm/web1", VmState::Unknown), ("/epoch/vm/web1", VmState::Unknown), ("/volume/web1", VmState::Running)]
    {
        local(async {
            let world = World::new(&["web1", "db"]).await;
            let desk = world.direct().await;
            running(&desk, "web1", 1).await;
            running(&desk, "db", 1).await;
            let good = swap(&desk, bad, r#"{"version":99}"#).await;
            let list = desk.vm_list().await.expect("it is told").vms;
            assert_eq!(list.iter().map(|vm| vm.state).collect::<Vec<_>>(), [VmState::Running, listed], "{bad}");
            let members = api::NodeList { cluster: units::CaFingerprint([1; 32]), nodes: Vec::new() };
            let synced = desk.synced(&record(1), world.report(1), members).await.expect("others go on");
            assert_eq!(synced.assignments.iter().map(|it| it.vm.as_str()).collect::<Vec<_>>(), ["db"], "{bad}");
            world.state.borrow_mut().dead.insert(1);
            world.state.borrow_mut().silent.insert(1, Millis(3_100));
            world.state.borrow_mut().votes = vec![0, 2];
            desk.bury_the_dead().await.expect("others go on");
            until("the other one runs elsewhere", async || world.state.borrow().starts.len() == 3).await;
            desk.tend().await.expect("others go on");
            assert!(desk.working(&name("web1")).is_none(), "{bad}");
            assert_eq!(desk.unreadable.borrow().len(), 1);
            if bad != "/volume/web1" {
                let again = desk.vm_create(&spec("web1", "")).await.expect_err("it is there");
                assert!(again.code == Code::StoreFailed && again.text.contains(bad), "{again:?}");
                assert_eq!(desk.vm_show("web1").await.expect_err("unreadable").code, Code::StoreFailed);
            }
            swap(&desk, bad, &good).await;
            desk.bury_the_dead().await.expect("it can be read");
            until("it runs elsewhere too", async || world.state.borrow().starts.len() == 4).await;
        });
    }
}

/// Writes an object anew; what it was.
async fn swap(desk: &Rc<Desk>, key: &str, value: &str) -> String {
    let before = read(desk, key).await;
    write(desk, key, Some(value)).await;
    before
}

async fn read(desk: &Rc<Desk>, key: &str) -> String {
    let key: Key = key.parse().expect("a key");
    desk.store.ask(move |engine| super::get(engine, &key)).await.expect("the store works").expect("it is there").value
}

/// Writes an object, or removes it.
async fn write(desk: &Rc<Desk>, key: &str, value: Option<&str>) {
    let key: Key = key.parse().expect("a key");
    let op = match value {
        Some(value) => Op::Put { key, value: value.to_owned(), lease: None },
        None => Op::Delete(key),
    };
    let work = move |engine: &mut dyn Engine| Ok(engine.txn(&Txn { then: vec![op], ..Txn::default() }).expect("plain"));
    assert!(desk.store.ask(work).await.expect("the store works").held);
}

/// Goal: a host is told which VMs of those it knows are deleted, and only those: not one that is there, cannot be read, or has a
/// job; nor any that it has heard of after the store, which is then the one that knows less. What it no longer speaks of is
/// forgotten here. Method: a VM that never was, beside one that is; then each exception.
#[test]
fn hosts_are_told_what_is_deleted() {
    local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        let gone = |at| super::hosts::test::tell("gone", at, Guest::Absent);
        let unknown = async |tell: crate::peer::Tell| {
            let mut report = world.report(1);
            report.guests.push(tell);
            let members = api::NodeList { cluster: units::CaFingerprint([1; 32]), nodes: Vec::new() };
            let synced = desk.synced(&record(1), report, members).await.expect("the store works");
            (synced.unknown, synced.at.0)
        };
        let named = || vec![name("gone")];
        let (told, at) = unknown(gone(3)).await;
        assert_eq!(told, named());
        assert_eq!(unknown(gone(at)).await.0, named());
        assert_eq!(unknown(gone(at + 100)).await.0, [], "of a store that was lost");
        let job = desk.job_list().await.unwrap().jobs[0].id.clone();
        let job = read(&desk, &format!("/job/{job}")).await;
        let job = job.replace("\"web1\"", "\"gone\"").replace(r#""outcome":{"end":"done"}"#, r#""outcome":null"#);
        for (key, value) in [("/vm/gone", "{}"), ("/epoch/vm/gone", "{}"), ("/job/j1", &job), ("/job/j1", "{}")] {
            write(&desk, key, Some(value)).await;
            assert_eq!(unknown(gone(3)).await.0, [], "{key}: {value}");
            write(&desk, key, None).await;
            assert_eq!(unknown(gone(3)).await.0, named(), "{key}: {value}");
        }
        assert!(desk.hosts.borrow().tell(&name("gone"), key(1)).is_some());
        until("it is forgotten here", async || desk.hosts.borrow().tell(&name("gone"), key(1)).is_none()).await;
    });
}

/// D3. Goal: what a move took counts the time in which nobody directed it, so that it is never less than its blackout; a source
/// that waits and does not run on by itself is what the job waits for, in its words. Method: a director ends while the target
/// does not answer its fence; the next one comes 1.5 s later.
#[test]
fn a_move_counts_the_time_without_a_director() {
    const AWAY: Duration = Duration::from_millis(1_500);
    let (world, job) = local(async {
        let world = World::new(&["web1"]).await;
        let desk = world.direct().await;
        running(&desk, "web1", 1).await;
        world.state.borrow_mut().stuck = true;
        let to = VmMigrateRequest { host: "gamma".parse().ok(), deadline_ms: None };
        let job = desk.vm_migrate("web1", &to).await.expect("it can").job.expect("a job");
        let copies = async || desk.job_show(&job).await.unwrap().stage == "copy";
        until("the copy", copies).await;
        world.state.borrow_mut().target_down = true;
        world.becomes(1, "web1", |tell| (tell.guest, tell.stopped_ago_ms) = (Guest::PreSwitchover, Some(Millis(0))));
        until("the hand-over", async || desk.job_show(&job).await.unwrap().stage == "hand over").await;
        let why = "nobody has directed its move for 2.0 s; it stays stopped: its host holds no lease";
        let at = || world.state.borrow().orders[&(1, name("web1"))].newest();
        let waits = async || {
            let at = at();
            world.becomes(1, "web1", |tell| (tell.at, tell.why) = (at, Some(why.to_owned())));
            desk.job_show(&job).await.unwrap().blocked.as_deref() == Some(why)
        };
        until("the reason", waits).await;
        until("a fact", async || said(&desk, "web1", "its host holds no lease").await).await;
        (world, job)
    });
    std::thread::sleep(AWAY);
    local(async {
        let desk = world.direct().await;
        world.state.borrow_mut().target_down = false;
        runs::take_over_all(&desk).await;
        let job = ended(&desk, &job).await;
        let receipt = job.receipt.expect("a migration has one");
        assert_eq!(job.outcome.as_deref(), Some("done"), "{:?}", job.history);
        assert!(Duration::from_millis(receipt.total_ms) >= AWAY, "{receipt:?}");
        assert!(receipt.cpu_blackout_ms.is_some_and(|blackout| blackout <= receipt.total_ms), "{receipt:?}");
    });
}
