//! D1, D4, OD3: the words of whoever refuses travel from where they arise to the job (and so to the command line, which shows that),
//! to `why`, and to doctor.

use super::world::{NAMES, Refuses, World, ended, local, running, spec, until};
use crate::director::Desk;
use crate::doctor;
use api::{VmMigrateRequest, VmStartRequest};
use futures_util::future::join_all;
use std::rc::Rc;
use wire::control::{Code, Refusal};

const WORDS: &str = "no space left on '/mnt/x', as its owner says";

/// Who refuses, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A host cannot keep a start's order.
    Order,
    /// A host cannot start it.
    Start,
    /// A host waits for something before it starts it.
    Attach,
    /// A host cannot take its memory.
    Incoming,
    /// A host cannot keep the order to take its memory.
    IncomingOrder,
    /// A host cannot copy its memory.
    Migrate,
    /// A target does not serve.
    Target,
    /// A target knows a newer epoch.
    Fenced,
}

const KINDS: [Kind; 8] = [
    Kind::Order,
    Kind::Start,
    Kind::Attach,
    Kind::Incoming,
    Kind::IncomingOrder,
    Kind::Migrate,
    Kind::Target,
    Kind::Fenced,
];

/// Goal: whoever refuses, its words and its name are in the job, in `why` and, while the VM is down or its job waits, in doctor.
/// Method: one world for each kind of refusal.
#[test]
fn a_refusals_words_reach_everybody() {
    local(join_all(KINDS.map(refused)));
}

async fn refused(kind: Kind) {
    let world = World::new(&["web1"]).await;
    let desk = world.direct().await;
    let host = |n: usize| Some(NAMES[n].parse().expect("a name"));
    let moves = matches!(kind, Kind::Incoming | Kind::IncomingOrder | Kind::Migrate);
    if moves {
        running(&desk, "web1", 1).await;
    } else {
        desk.vm_create(&spec("web1", "")).await.expect("it is made");
    }
    set_up(&world, kind);
    let begun = if moves {
        desk.vm_migrate("web1", &VmMigrateRequest { host: host(2), deadline_ms: None }).await
    } else {
        desk.vm_start("web1", &VmStartRequest { host: host(1), overcommit: false }, "the test").await
    };
    let job = begun.expect("it begins").job.expect("a job");
    let who = match kind {
        Kind::Order | Kind::Start | Kind::Attach | Kind::Migrate => "beta",
        Kind::Incoming | Kind::IncomingOrder => "gamma",
        Kind::Target | Kind::Fenced => "alpha",
    };
    let has_words = |text: &str| text.contains(WORDS) && text.contains(who);
    if matches!(kind, Kind::Attach | Kind::Target) {
        let waits =
            async || desk.job_show(&job).await.expect("it is there").blocked.is_some_and(|text| has_words(&text));
        until(&format!("{kind:?}: the job says what it waits for"), waits).await;
    } else {
        let job = ended(&desk, &job).await;
        assert!(has_words(job.why.as_ref().expect("it did not come to what was asked")), "{kind:?}: {job:?}");
    }
    until(&format!("{kind:?}: it is told"), async || why(&desk).await.iter().any(|line| has_words(line))).await;
    if !moves {
        let looked = async || {
            let stored = doctor::stored(&world.store, Some(&desk)).await.expect("the store works");
            let waits = stored.jobs.iter().filter(|job| job.outcome.is_none()).find_map(|job| job.blocked.clone());
            waits.or_else(|| stored.vms.iter().find_map(|vm| vm.down.clone())).is_some_and(|text| has_words(&text))
        };
        until(&format!("{kind:?}: doctor says it"), looked).await;
    }
}

fn set_up(world: &World, kind: Kind) {
    let mut state = world.state.borrow_mut();
    let words = WORDS.to_owned();
    match kind {
        Kind::Order => drop(state.refuses.insert(1, Refuses::Order(words))),
        Kind::Start | Kind::Migrate => drop(state.refuses.insert(1, Refuses::Deed(words))),
        Kind::Attach => drop(state.refuses.insert(1, Refuses::Waits(words))),
        Kind::Incoming => drop(state.refuses.insert(2, Refuses::Deed(words))),
        Kind::IncomingOrder => drop(state.refuses.insert(2, Refuses::Order(words))),
        Kind::Target => state.target_refuses = Some(Refusal::new(Code::Failed, words, "")),
        Kind::Fenced => state.target_refuses = Some(Refusal::new(Code::Fenced, words, "")),
    }
}

/// Sentences, each of which is an event too, apart from how it is now.
async fn why(desk: &Rc<Desk>) -> Vec<String> {
    let why = desk.vm_why("web1").await.expect("it is there");
    for event in &why.events {
        assert!(why.sentences.iter().any(|line| line.contains(&event.text)), "{event:?}: {why:?}");
        assert!(event.at.ends_with('Z') && !event.kind.is_empty());
    }
    why.sentences
}
