//! What happened to VMs, for `why`: `/fact/NAME` holds the newest facts of one VM. Facts are for people: nothing waits for
//! them and nothing is decided by them.

use super::Desk;
use crate::registry;
use crate::store::{failed, parse_object};
use crate::vms::object::Vm;
use api::{Code, Problem};
use cluster::store::{Compare, Engine, Key, Revision, Txn, UnknownFields};
use cluster::why::{Fact, Happened, sentence};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};
use units::VmName;

/// Facts kept of one VM.
pub const KEEP_MAX: usize = 64;
/// A fact is added again if somebody changed its object meanwhile.
const TRIES: u32 = 8;
/// Words of others in a fact: with [`KEEP_MAX`] of them an object stays far below its 64 KiB.
const WORDS_MAX_CHARS: usize = 300;

/// `/fact/NAME`. What a newer version recorded stays in its place, and is not told.
#[derive(Serialize, Deserialize)]
pub struct Facts {
    version: u32,
    facts: Vec<Value>,
    #[serde(flatten)]
    unknown_fields: UnknownFields,
}

impl Desk {
    /// Writes a fact down, beside what goes on.
    pub fn happened(self: &Rc<Self>, vm: &VmName, happened: Happened) {
        let (desk, vm) = (Rc::clone(self), vm.clone());
        let fact = Fact { at_ms: now_ms(), happened };
        tracing::info!("VM '{vm}': {}", sentence(&fact.happened));
        tokio::task::spawn_local(async move {
            let name = vm.clone();
            match desk.store.ask(move |engine| add_in_turn(engine, &name, &fact)).await {
                Ok(()) => {}
                Err(problem) => tracing::warn!("a fact about VM '{vm}' was not kept: {problem}"),
            }
        });
    }
}

/// Milliseconds since 1970 by this machine's clock.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).expect("the year is below 500 million"))
}

/// Somebody's words, short enough to be kept.
#[must_use]
pub fn words(text: &str) -> String {
    text.chars().take(WORDS_MAX_CHARS).collect()
}

/// Facts of a VM, oldest first.
///
/// # Errors
/// [`api::Code::StoreFailed`].
pub fn of(engine: &mut dyn Engine, vm: &VmName) -> Result<Vec<Fact>, Problem> {
    let entry = engine.get(&key(vm)).map_err(|error| failed(&error))?;
    let facts = entry.map_or_else(|| Ok(Vec::new()), |entry| parse_object::<Facts>(&entry).map(|facts| facts.facts))?;
    Ok(facts.into_iter().filter_map(|fact| serde_json::from_value(fact).ok()).collect())
}

/// The object's key.
#[must_use]
pub fn key(vm: &VmName) -> Key {
    format!("/fact/{vm}").parse().expect("a name is a part of a key")
}

/// Adds a fact. Whoever changed the object at the same time is not overwritten: it is read again.
fn add_in_turn(engine: &mut dyn Engine, vm: &VmName, fact: &Fact) -> Result<(), Problem> {
    for _ in 0..TRIES {
        if add(engine, vm, fact)? {
            return Ok(());
        }
    }
    Err(Problem::new(Code::Busy, format!("{} is changed by others again and again", key(vm)), "nothing was kept of it"))
}

/// Adds a fact; whether the object was still as it was read.
fn add(engine: &mut dyn Engine, vm: &VmName, fact: &Fact) -> Result<bool, Problem> {
    if engine.get(&Vm::key(vm)).map_err(|error| failed(&error))?.is_none() {
        // Deleted meanwhile, or a host's own invention.
        return Ok(true);
    }
    let key = key(vm);
    let entry = engine.get(&key).map_err(|error| failed(&error))?;
    let changed = entry.as_ref().map_or(Revision(0), |entry| entry.changed);
    let mut object = match &entry {
        Some(entry) => parse_object::<Facts>(entry)?,
        None => Facts { version: 1, facts: Vec::new(), unknown_fields: UnknownFields::default() },
    };
    object.facts.push(serde_json::to_value(fact).expect("plain data"));
    object.facts.drain(..object.facts.len().saturating_sub(KEEP_MAX));
    let put = registry::put(&key, &object);
    let txn = Txn { compares: vec![Compare::Changed(key, changed)], then: vec![put], otherwise: Vec::new() };
    engine.txn(&txn).map(|outcome| outcome.held).map_err(|error| failed(&error))
}

#[cfg(test)]
mod test {
    use super::*;
    use cluster::store::{Memory, Op};

    /// Goal: the newest facts are kept, no more, and only of VMs that there are. Method: one too early; two more than fit.
    #[test]
    fn only_the_newest_facts_are_kept() {
        let (mut engine, vm) = (Memory::new(), "a".parse().expect("a name"));
        add_in_turn(&mut engine, &vm, &Fact { at_ms: 9, happened: Happened::NothingDone { why: String::new() } })
            .expect("read");
        assert!(of(&mut engine, &vm).expect("read").is_empty(), "nothing is kept of a VM that there is not");
        let put = Op::Put { key: Vm::key(&vm), value: "{}".to_owned(), lease: None };
        engine.txn(&Txn { then: vec![put], ..Txn::default() }).expect("plain");
        for at_ms in 0..KEEP_MAX as u64 + 2 {
            let happened = Happened::NothingDone { why: "x".repeat(WORDS_MAX_CHARS) };
            add_in_turn(&mut engine, &vm, &Fact { at_ms, happened }).expect("it is kept");
        }
        let facts = of(&mut engine, &vm).expect("read");
        assert_eq!((facts.len(), facts[0].at_ms), (KEEP_MAX, 2));
        assert_eq!(words(&"ä".repeat(900)).chars().count(), WORDS_MAX_CHARS);
    }
}
