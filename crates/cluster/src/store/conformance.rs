//! The suite that every engine passes: each case is a rule of the contract; then a seeded random comparison with
//! [`Memory`]. A case panics with what it expected.

use super::{
    Compare, EPOCH_PREFIX, Engine, HISTORY_MAX, Key, LIFT_MAX, LeaseId, Memory, Op, Revision, StoreError, Txn,
};
use units::{Epoch, Millis, Moment};

/// Makes an empty engine.
pub type Fresh<'a> = &'a mut dyn FnMut() -> Box<dyn Engine>;

/// Runs all cases.
///
/// # Panics
/// If the engine breaks the contract.
pub fn run(fresh: Fresh<'_>) {
    a_transaction_is_all_or_nothing(&mut *fresh());
    compares_see_absence_revision_and_value(&mut *fresh());
    bad_input_changes_nothing(&mut *fresh());
    watchers_see_every_change_in_order(&mut *fresh());
    old_history_is_compacted_and_says_so(&mut *fresh());
    leased_objects_vanish_with_their_lease(&mut *fresh());
    a_restore_lowers_no_epoch(&mut *fresh());
    a_lifted_counter_never_goes_back(&mut *fresh());
    for seed in 1..=20 {
        random_calls_agree_with_memory(seed, &mut *fresh());
    }
}

fn key(text: &str) -> Key {
    text.parse().expect("the suite's keys are good")
}

#[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
fn put(name: &str, value: impl ToString) -> Op {
    Op::Put { key: key(name), value: value.to_string(), lease: None }
}

fn change(ops: Vec<Op>) -> Txn {
    Txn { then: ops, ..Txn::default() }
}

fn value(engine: &mut dyn Engine, name: &str) -> Option<String> {
    engine.get(&key(name)).expect("get works").map(|entry| entry.value)
}

fn a_transaction_is_all_or_nothing(engine: &mut dyn Engine) {
    let first = engine.txn(&change(vec![put("/vm/a", 1), put("/vm/b", 2)])).expect("a plain change");
    assert!(first.held);
    let swap = Txn {
        compares: vec![Compare::Changed(key("/vm/a"), first.at), Compare::Changed(key("/vm/b"), Revision(0))],
        then: vec![put("/vm/a", 3)],
        otherwise: vec![put("/vm/c", 4)],
    };
    let second = engine.txn(&swap).expect("a compare that does not hold is no error");
    assert!(!second.held && second.at > first.at);
    assert_eq!(value(engine, "/vm/a").as_deref(), Some("1"), "then did not happen");
    assert_eq!(value(engine, "/vm/c").as_deref(), Some("4"), "otherwise did");
    let all = engine.range("/vm/").expect("range works");
    assert_eq!(all.at, second.at);
    assert_eq!(all.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["/vm/a", "/vm/b", "/vm/c"]);
    assert_eq!(all.entries[0].changed, first.at);
    let nothing = engine.txn(&change(vec![Op::Delete(key("/vm/zzz"))])).expect("removing nothing is no error");
    assert_eq!(nothing.at, second.at, "nothing changed, so no revision");
}

fn compares_see_absence_revision_and_value(engine: &mut dyn Engine) {
    let claim = |value: u32| Txn {
        compares: vec![Compare::Changed(key("/owner/x"), Revision(0))],
        then: vec![put("/owner/x", value)],
        otherwise: vec![],
    };
    assert!(engine.txn(&claim(1)).expect("free").held);
    assert!(!engine.txn(&claim(2)).expect("taken").held);
    assert_eq!(value(engine, "/owner/x").as_deref(), Some("1"));
    let by_value = |was: &str| Txn {
        compares: vec![Compare::Value(key("/owner/x"), was.into())],
        then: vec![Op::Delete(key("/owner/x"))],
        otherwise: vec![],
    };
    assert!(!engine.txn(&by_value("2")).expect("another value").held);
    assert!(engine.txn(&by_value("1")).expect("this value").held);
    let again = engine.txn(&claim(3)).expect("free again");
    assert!(again.held);
    let entry = engine.get(&key("/owner/x")).expect("get works").expect("just written");
    assert_eq!((entry.created, entry.changed), (again.at, again.at), "an object that comes back is a new one");
}

fn bad_input_changes_nothing(engine: &mut dyn Engine) {
    let refused = |engine: &mut dyn Engine, txn: &Txn| engine.txn(txn).expect_err("bad input");
    let twice = change(vec![put("/vm/a", 1), Op::Delete(key("/vm/a"))]);
    assert!(matches!(refused(engine, &twice), StoreError::BadTxn));
    let many = change((0..65).map(|n| put(&format!("/vm/n{n}"), n)).collect());
    assert!(matches!(refused(engine, &many), StoreError::BadTxn));
    assert!(matches!(refused(engine, &change(vec![put("/vm/a", "{not json")])), StoreError::BadValue(_)));
    let long = format!("\"{}\"", "x".repeat(super::VALUE_MAX_BYTES));
    assert!(matches!(refused(engine, &change(vec![put("/vm/a", long)])), StoreError::BadValue(_)));
    let leased = Op::Put { key: key("/vm/a"), value: "1".into(), lease: Some(LeaseId(99)) };
    assert!(matches!(refused(engine, &change(vec![put("/vm/b", 1), leased])), StoreError::NoLease(LeaseId(99))));
    assert!(engine.range("/").expect("range works").entries.is_empty());
    for bad in
        ["", "/", "vm/a", "/vm", "/vm/", "/vm//a", "/vm/../a", "/VM/a", "/vm/a b", &format!("/vm/{}", "x".repeat(64))]
    {
        assert!(bad.parse::<Key>().is_err(), "{bad}");
    }
}

fn watchers_see_every_change_in_order(engine: &mut dyn Engine) {
    let from = engine.range("/").expect("range works").at;
    engine.txn(&change(vec![put("/vm/a", 1)])).expect("plain");
    engine.txn(&change(vec![put("/net/z", 1), put("/vm/b", 2)])).expect("plain");
    engine.txn(&change(vec![Op::Delete(key("/vm/a"))])).expect("plain");
    let seen = engine.changes("/vm/", from, 100).expect("all kept");
    let brief: Vec<_> = seen.iter().map(|change| (change.key.as_str(), change.value.as_deref())).collect();
    assert_eq!(brief, [("/vm/a", Some("1")), ("/vm/b", Some("2")), ("/vm/a", None)]);
    assert!(seen.windows(2).all(|pair| pair[0].at < pair[1].at));
    let rest = engine.changes("/vm/", seen[0].at, 1).expect("all kept");
    assert_eq!(rest, seen[1..2], "from is excluded, most is kept");
}

fn old_history_is_compacted_and_says_so(engine: &mut dyn Engine) {
    let start = engine.txn(&change(vec![put("/vm/a", 0)])).expect("plain").at;
    for batch in 0..=HISTORY_MAX / 50 {
        let ops = (0..50).map(|n| put(&format!("/vm/n{n}"), batch)).collect();
        engine.txn(&change(ops)).expect("plain");
    }
    let error = engine.changes("/", start, 10).expect_err("that is too long ago");
    let StoreError::Compacted { oldest, .. } = error else { panic!("{error}") };
    assert!(oldest > start);
    let now = engine.range("/").expect("range works").at;
    assert_eq!(engine.changes("/", now, 10).expect("now is never too old"), []);
}

fn leased_objects_vanish_with_their_lease(engine: &mut dyn Engine) {
    let lease = engine.lease(Millis(1000), Moment(0)).expect("a lease");
    let leased = Op::Put { key: key("/node/a"), value: "1".into(), lease: Some(lease) };
    engine.txn(&change(vec![leased, put("/node/b", 1)])).expect("plain");
    engine.expire(Moment(900)).expect("expire works");
    engine.keep(lease, Moment(900)).expect("still there");
    engine.expire(Moment(1800)).expect("expire works");
    assert!(value(engine, "/node/a").is_some(), "kept until 1900");
    let before = engine.range("/").expect("range works").at;
    engine.expire(Moment(1900)).expect("expire works");
    assert_eq!((value(engine, "/node/a"), value(engine, "/node/b").as_deref()), (None, Some("1")));
    assert_eq!(engine.changes("/", before, 10).expect("kept").len(), 1, "watchers see it vanish");
    assert!(matches!(engine.keep(lease, Moment(1900)), Err(StoreError::NoLease(_))));
}

fn a_restore_lowers_no_epoch(engine: &mut dyn Engine) {
    let owner = |epoch: u64, host: &str| format!(r#"{{"epoch":{epoch},"host":"{host}"}}"#);
    let (one, two, three) = ("/epoch/one", "/epoch/two", "/epoch/three");
    engine.txn(&change(vec![put(one, owner(5, "a")), put(two, owner(5, "a")), put("/vm/x", 1)])).expect("plain");
    let backup = engine.backup().expect("backup works");
    let raised = change(vec![put(one, owner(7, "b")), put(three, owner(2, "c")), put("/vm/x", 2)]);
    let last = engine.txn(&raised).expect("plain").at;
    engine.restore(&backup).expect("restore works");
    assert_eq!(value(engine, one), Some(owner(7, "b")), "the higher epoch stays, with its owner");
    assert_eq!(value(engine, two), Some(owner(5, "a")));
    assert_eq!(value(engine, three), Some(owner(2, "c")), "an epoch the backup does not know stays");
    assert_eq!(value(engine, "/vm/x").as_deref(), Some("1"), "everything else is the backup's");
    assert!(engine.range("/").expect("range works").at > last, "revisions grow over a restore");
    assert!(matches!(engine.changes("/", last, 10), Err(StoreError::Compacted { .. })), "watchers range again");
    assert_eq!(super::epoch_of(&key(&format!("{EPOCH_PREFIX}one")), &owner(7, "b")), Some(Epoch(7)));
}

fn a_lifted_counter_never_goes_back(engine: &mut dyn Engine) {
    let first = engine.txn(&change(vec![put("/vm/a", 1)])).expect("plain").at;
    assert_eq!(engine.lift(Revision(100)).expect("lift works"), Revision(100));
    let all = engine.range("/").expect("range works");
    assert_eq!((all.at, all.entries[0].changed), (Revision(100), first), "no object was changed");
    assert_eq!(engine.lift(Revision(50)).expect("lift works"), Revision(100), "it does not go back");
    for far in [Revision(u64::MAX), Revision(100 + LIFT_MAX + 1)] {
        assert!(matches!(engine.lift(far), Err(StoreError::TooFar { .. })), "{far:?}");
    }
    let next = engine.txn(&change(vec![put("/vm/a", 2)])).expect("plain").at;
    assert_eq!(next, Revision(101), "the next change is above");
    let seen = engine.changes("/", first, 10).expect("watchers notice nothing");
    assert_eq!(seen.iter().map(|change| change.at).collect::<Vec<_>>(), [next]);
}

/// Goal: an engine and the model in memory cannot be told apart. Method: the same seeded calls on both.
fn random_calls_agree_with_memory(seed: u64, engine: &mut dyn Engine) {
    let mut model = Memory::new();
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for step in 0..200 {
        let name = format!("/vm/n{}", next(6));
        let at = model.get(&key(&name)).expect("the model works").map_or(Revision(0), |entry| entry.changed);
        let guess = if next(3) == 0 { Revision(at.0 + 1) } else { at };
        let op = if next(4) == 0 { Op::Delete(key(&name)) } else { put(&name, step) };
        let other = put("/log/last", step);
        let txn = Txn { compares: vec![Compare::Changed(key(&name), guess)], then: vec![op], otherwise: vec![other] };
        let (ours, theirs) = (model.txn(&txn).expect("good"), engine.txn(&txn).expect("good"));
        assert_eq!(ours, theirs, "seed {seed} step {step}");
        let from = Revision(next(ours.at.0 + 1));
        let (ours, theirs) = (model.changes("/", from, 7), engine.changes("/", from, 7));
        assert_eq!(ours.expect("kept"), theirs.expect("kept"), "seed {seed} step {step}");
    }
    assert_eq!(model.range("/").expect("the model works"), engine.range("/").expect("range works"), "seed {seed}");
}
