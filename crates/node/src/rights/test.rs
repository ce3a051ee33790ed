//! The matrix of `rights`, cell by cell, on a real node: every call of the API, consoles, and every word between nodes.

use super::*;
use crate::identity::{Identity, Seat};
use crate::peer::Reply;
use crate::registry::{self, Record};
use crate::root::Root;
use crate::service::Node;
use api::{CALLS, Role};
use hyper::body::Bytes;
use std::path::PathBuf;

const BETA: HostKey = HostKey([2; 32]);
const GONE: HostKey = HostKey([3; 32]);
const STRANGER: HostKey = HostKey([9; 32]);

/// Whose call it is. A new call has to be put into [`ROWS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    /// A person's: a member passes it on for one of its users.
    Person,
    /// A machine's too, by itself.
    Machine,
    /// This machine's owner's alone.
    Owner,
    /// Whoever can prove it by the request.
    Anybody,
}
use Row::{Anybody, Machine, Owner, Person};

const ROWS: &[(&str, Row)] = &[
    ("node_list", Machine),
    ("node_remove", Person),
    ("token_create", Person),
    ("pool_list", Person),
    ("pool_create", Person),
    ("pool_show", Person),
    ("pool_add", Person),
    ("pool_replace", Person),
    ("pool_start", Person),
    ("pool_stop", Person),
    ("volume_list", Person),
    ("volume_create", Person),
    ("volume_show", Person),
    ("volume_remove", Person),
    ("vm_list", Person),
    ("vm_create", Person),
    ("vm_show", Person),
    ("vm_edit", Person),
    ("vm_delete", Person),
    ("vm_start", Person),
    ("vm_stop", Person),
    ("vm_migrate", Person),
    ("vm_adopt", Person),
    ("vm_forget", Person),
    ("vm_why", Person),
    ("job_list", Person),
    ("job_show", Person),
    ("job_cancel", Person),
    ("doctor", Person),
    ("store_changes", Person),
    ("image_import", Owner),
    ("store_backup", Owner),
    ("work_list", Owner),
    ("work_show", Owner),
    ("work_cancel", Owner),
    ("join", Anybody),
    ("renew", Anybody),
];

/// Who calls, and which rows are open to that.
fn columns() -> [(&'static str, Caller, &'static [Row]); 8] {
    let machine = |key, user| Caller::Machine { key, user };
    [
        ("a user here", Caller::Local(0), &[Person, Machine, Owner, Anybody]),
        ("the node itself", Caller::Itself, &[Machine, Anybody]),
        ("a member for its user", machine(BETA, Some(0)), &[Person, Machine, Anybody]),
        ("a member by itself", machine(BETA, None), &[Machine, Anybody]),
        ("one that was removed", machine(GONE, Some(0)), &[Anybody]),
        ("a stranger's key", machine(STRANGER, Some(0)), &[Anybody]),
        ("a stranger's key by itself", machine(STRANGER, None), &[Anybody]),
        ("nobody", Caller::Nobody, &[Anybody]),
    ]
}

/// A cluster's first node, which knows a member and one that was removed.
async fn node(name: &str) -> (Node, PathBuf) {
    let base = std::env::temp_dir().join(format!("muskox-rights-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&base);
    let seat = |name: &str, last: u8| Seat {
        name: name.parse().unwrap(),
        address: format!("127.0.0.{last}:1").parse().unwrap(),
        portals: Vec::new(),
        roles: vec![Role::Witness],
    };
    let root = Root::new(&base);
    crate::init::init(&root, &seat("alpha", 1), 3600).unwrap();
    let node = crate::run::open(root.clone(), Identity::load(&root).unwrap()).unwrap();
    let others = [("beta", 2, BETA), ("gone", 3, GONE)].map(|(name, last, key)| Record::new(seat(name, last), key, 1));
    let admit = move |engine: &mut dyn cluster::store::Engine| {
        for record in &others {
            let hash = record.key.to_string();
            registry::add_token(engine, &hash, u64::MAX, 1)?;
            registry::admit(engine, &hash, record)?;
        }
        registry::remove(engine, &"gone".parse().unwrap(), &"alpha".parse().unwrap(), 2)
    };
    node.keeper.as_ref().unwrap().store.ask(admit).await.unwrap();
    (node, base)
}

/// Whether an answer is a refusal of who asks.
fn denied(code: Option<Code>) -> bool {
    matches!(code, Some(Code::Forbidden | Code::NotAMember | Code::Removed))
}

/// Goal: CA14: what a machine may ask by itself is listed, and everything else is refused; so a new call is a person's. Method: every
/// call of the table, with an empty request, by everybody. What is let in may fail for any other reason.
#[tokio::test]
async fn every_call_by_everybody() {
    let (node, base) = node("calls").await;
    let (listed, known) = (ROWS.iter().map(|(name, _)| *name), CALLS.iter().map(|call| call.name));
    assert!(listed.eq(known), "every call has its row, in the order of the table");
    for (call, (_, row)) in CALLS.iter().zip(ROWS) {
        for (who, caller, open) in columns() {
            let answer = node.answer(caller, call, &call.path_for("x"), "x", Bytes::from_static(b"{}")).await;
            let problem: Option<Problem> = serde_json::from_slice(&answer.body).ok();
            let got = denied(problem.as_ref().map(|problem| problem.code));
            assert_eq!(!got, open.contains(row), "{} by {who}: {problem:?}", call.name);
        }
    }
    for (who, caller, open) in columns() {
        let visit = crate::console::visitor(&node, caller).await;
        assert_eq!(visit.is_ok(), open.contains(&Person), "a console by {who}: {visit:?}");
    }
    std::fs::remove_dir_all(base).unwrap();
}

/// Goal: who asked is in the log, with the user that a member says, and what came of it; what was refused at the door, and what only
/// looks, is not. Method: three calls.
#[tokio::test]
async fn what_was_asked_is_written_down() {
    let (node, base) = node("audit").await;
    let log = base.join("var/lib/muskox/audit.jsonl");
    let ask = async |caller, name: &str, of: &str| {
        let call = Call::named(name);
        node.answer(caller, call, &call.path_for(of), of, Bytes::from_static(b"{}")).await.status
    };
    assert_eq!(ask(Caller::Local(0), "node_list", "").await, 200);
    assert_eq!(ask(Caller::Machine { key: BETA, user: None }, "node_remove", "beta").await, 403);
    assert!(!log.exists());
    assert_eq!(ask(Caller::Machine { key: BETA, user: Some(1000) }, "node_remove", "none").await, 404);
    assert_eq!(ask(Caller::Local(0), "node_remove", "beta").await, 200);
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |line: usize, key: &str| lines[line][key].to_string();
    let asked = |line| ["member", "user", "call", "name"].map(|key| said(line, key));
    assert_eq!(asked(0), ["\"beta\"", "1000", "\"node_remove\"", "\"none\""]);
    assert_eq!(asked(2), ["\"alpha\"", "0", "\"node_remove\"", "\"beta\""]);
    assert_eq!((said(1, "result"), said(3, "result")), ("\"not_found\"".into(), "\"done\"".into()));
    assert_eq!((said(0, "id"), said(2, "id")), (said(1, "id"), said(3, "id")));
    std::fs::remove_dir_all(base).unwrap();
}

/// What a word between nodes is. A new one does not compile here until it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// An order of the machine with the store.
    Order,
    /// A machine's own report.
    Report,
    /// For a user of the machine that says it.
    ForUser,
    /// The same without a user.
    ByItself,
}

/// How many kinds [`word`] tells apart, and which one this is.
const KINDS: usize = 11;

fn word(ask: &Ask) -> (usize, Word) {
    match ask {
        Ask::Act(_) => (0, Word::Order),
        Ask::Target { .. } => (1, Word::Order),
        Ask::Look => (2, Word::Order),
        Ask::Adopt(_) => (3, Word::Order),
        Ask::Forget { .. } => (4, Word::Order),
        Ask::Filling { .. } => (5, Word::Order),
        Ask::Tell(_) => (6, Word::Report),
        Ask::Sync(_) => (7, Word::Report),
        Ask::Release { .. } => (8, Word::Report),
        Ask::Claims => (9, Word::Report),
        Ask::Claim { user: Some(_), .. } => (10, Word::ForUser),
        Ask::Claim { user: None, .. } => (10, Word::ByItself),
    }
}

const BRIEF: &str = r#""brief":{"vm":"web1","uuid":"","memory_mib":64,"vcpus":1,"cpu":null,"disks":[],"nics":[],"seed":null,"patience_ms":1}"#;
const TELL: &str = r#""vm":"web1","at":5,"guest":"running","epoch":3,"refused":null,"measured":{},"stopped_ago_ms":null,
    "resumed_ago_ms":null,"port":null,"powered_off":false,"paused":false,"why":null"#;

fn words() -> Vec<Ask> {
    let order = r#""order":{"vm":"web1","job":"j1","at":1}"#;
    let report = r#""report":{"memory":1,"free":1,"cpus":1,"qemu":null,"accelerator":"tcg","bridges":[],"guests":[],
        "target_up":null,"deadman":false,"complaints":[]}"#;
    let beta = BETA;
    let texts = [
        format!(r#"{{"ask":"act",{order},"action":{{"do":"destroy","host":"{beta}"}},{BRIEF},"other":null}}"#),
        r#"{"ask":"target","request":{"do":"raise","volume":"web1","epoch":7,"owners":[],"shared":false}}"#.to_owned(),
        r#"{"ask":"look"}"#.to_owned(),
        format!(r#"{{"ask":"adopt",{BRIEF},"at":5,"epoch":3}}"#),
        r#"{"ask":"forget","vm":"web1"}"#.to_owned(),
        r#"{"ask":"filling","volume":"web1"}"#.to_owned(),
        format!(r#"{{"ask":"tell",{TELL}}}"#),
        format!(r#"{{"ask":"sync","certificate_until_s":1,"version":"0",{report}}}"#),
        r#"{"ask":"release","volume":"web1","epoch":1}"#.to_owned(),
        r#"{"ask":"claims"}"#.to_owned(),
        r#"{"ask":"claim","volume":"web1","user":0}"#.to_owned(),
        r#"{"ask":"claim","volume":"web1"}"#.to_owned(),
    ];
    texts.iter().map(|text| serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))).collect()
}

/// Goal: CA14: an order is the store's alone, a report a member's, and nothing is claimed by a machine for itself. Method: every kind of
/// word by the machine with the store, a member, one that was removed, a stranger's key, and nobody.
#[tokio::test]
async fn every_word_by_everybody() {
    let (node, base) = node("words").await;
    let mut kinds: Vec<usize> = words().iter().map(|ask| word(ask).0).collect();
    kinds.dedup();
    assert!(kinds.into_iter().eq(0..KINDS), "every kind is tried");
    let machine = |key| Caller::Machine { key, user: None };
    let callers = [
        ("the store", machine(node.key), [true, true, true, false]),
        ("a member", machine(BETA), [false, true, true, false]),
        ("one that was removed", machine(GONE), [false; 4]),
        ("a stranger's key", machine(STRANGER), [false; 4]),
        ("nobody", Caller::Nobody, [false; 4]),
    ];
    let local = tokio::task::LocalSet::new();
    for ask in words() {
        for (who, caller, [order, report, for_user, by_itself]) in callers {
            let open = match word(&ask).1 {
                Word::Order => order,
                Word::Report => report,
                Word::ForUser => for_user,
                Word::ByItself => by_itself,
            };
            let body = serde_json::to_vec(&ask).unwrap();
            let heard = local.run_until(node.hear_peer(caller, body.into())).await;
            let problem = match heard {
                Ok(Reply::Problem { problem }) | Err(problem) => Some(problem),
                Ok(_) => None,
            };
            let got = denied(problem.as_ref().map(|problem| problem.code));
            assert_eq!(!got, open, "{ask:?} by {who}: {problem:?}");
        }
    }
    std::fs::remove_dir_all(base).unwrap();
}
