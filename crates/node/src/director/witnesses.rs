//! Who has a vote, and whom machines may still take for the ones who have.
//!
//! A host's lease is granted by a majority of the witnesses that *its* dead-man knows. Members join and go while some hosts
//! are not told: so a host counts as dead only by a majority of each set that a host may still go by. A set is forgotten
//! when every host's dead-man has said that it knows the newest (docs/rfd/0007-witness.md, rule 10).

use super::view::get;
use crate::registry::{self, Record, put};
use crate::store::{failed, parse_object};
use api::{Code, Problem, Role};
use cluster::ha::{Answer, Verdict, verdict};
use cluster::store::{Compare, Engine, Key, Revision, Txn, UnknownFields};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use units::{HostKey, Moment};

/// Sets that hosts may go by at the same time; beyond that those who join have no vote yet.
const SETS_MAX: usize = 8;

/// `/cluster/witnesses`.
#[derive(Serialize, Deserialize)]
pub struct Object {
    version: u32,
    sets: Vec<Vec<HostKey>>,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    unknown_fields: UnknownFields,
}

/// Every set that a host may go by; the last one is what machines are told.
pub type Sets = Vec<Vec<HostKey>>;

/// The sets as they are now.
///
/// # Errors
/// [`api::Code::StoreFailed`].
pub fn sets(engine: &mut dyn Engine, members: &[Record]) -> Result<Sets, Problem> {
    read(engine, members).map(|(sets, ..)| sets)
}

/// The sets after what hosts' dead-men said that they know, and whether that is new. What is told is in the store first.
///
/// # Errors
/// [`api::Code::StoreFailed`].
pub fn move_on(
    engine: &mut dyn Engine,
    members: &[Record],
    said: &BTreeMap<HostKey, Vec<HostKey>>,
) -> Result<(Sets, bool), Problem> {
    let (before, unknown_fields, at) = read(engine, members)?;
    let after = next(before.clone(), members, said);
    if before == after && at != Revision(0) {
        return Ok((before, false));
    }
    write(engine, &Object { version: 1, sets: after.clone(), unknown_fields }, at)?;
    Ok((after, true))
}

/// Adds sets that a host may go by, as a machine says to a store that was brought back from a backup. The newest stays the last.
///
/// # Errors
/// [`api::Code::StoreFailed`].
pub fn keep(engine: &mut dyn Engine, more: &[Vec<HostKey>]) -> Result<(), Problem> {
    let members = registry::members(engine)?;
    let (before, unknown_fields, at) = read(engine, &members)?;
    let more = more.iter().filter(|set| !set.is_empty() && !before.contains(set)).cloned();
    let after: Sets = more.chain(before.iter().cloned()).collect();
    if after == before {
        return Ok(());
    }
    write(engine, &Object { version: 1, sets: after, unknown_fields }, at)
}

fn write(engine: &mut dyn Engine, object: &Object, at: Revision) -> Result<(), Problem> {
    let key = key();
    let then = vec![put(&key, object)];
    let txn = Txn { compares: vec![Compare::Changed(key, at)], then, otherwise: Vec::new() };
    if engine.txn(&txn).map_err(|error| failed(&error))?.held {
        return Ok(());
    }
    // Nobody is told of a set that is not in the store.
    Err(Problem::new(Code::Busy, "others changed the witnesses meanwhile", "it is tried again by itself"))
}

/// What the votes come to, whichever of the sets the host goes by.
#[must_use]
pub fn verdict_by_all(answers: &[Answer], sets: &Sets, now: Moment) -> Verdict {
    let verdicts = sets.iter().map(|witnesses| verdict(answers, witnesses, now));
    let stricter = |one, other| match (one, other) {
        // Counted by the newest set.
        (Verdict::Dead { until, .. }, Verdict::Dead { until: other, votes, of }) => {
            Verdict::Dead { until: until.min(other), votes, of }
        }
        (no @ Verdict::NotDead { .. }, _) | (_, no) => no,
    };
    verdicts.reduce(stricter).unwrap_or(Verdict::NotDead { dead: 0, needed: 1 })
}

fn next(mut sets: Sets, members: &[Record], said: &BTreeMap<HostKey, Vec<HostKey>>) -> Sets {
    let newest = sets.last().expect("there is always one").clone();
    let mut hosts = members.iter().filter(|record| record.roles.contains(&Role::Host));
    if hosts.all(|host| said.get(&host.key) == Some(&newest)) {
        sets = vec![newest.clone()];
    }
    let wanted = keys(members);
    let gone = newest.iter().any(|key| !wanted.contains(key));
    if wanted != newest && (gone || sets.len() < SETS_MAX) {
        sets.push(wanted);
    }
    sets
}

fn read(engine: &mut dyn Engine, members: &[Record]) -> Result<(Sets, UnknownFields, Revision), Problem> {
    let Some(entry) = get(engine, &key())? else {
        return Ok((vec![keys(members)], UnknownFields::default(), Revision(0)));
    };
    let object: Object = parse_object(&entry)?;
    let sets = if object.sets.is_empty() { vec![keys(members)] } else { object.sets };
    Ok((sets, object.unknown_fields, entry.changed))
}

fn keys(members: &[Record]) -> Vec<HostKey> {
    let mut keys: Vec<HostKey> = members.iter().map(|record| record.key).collect();
    keys.sort_unstable();
    keys
}

fn key() -> Key {
    "/cluster/witnesses".parse().expect("a word of letters is a part of a key")
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::identity::Seat;
    use cluster::lease::Vote;
    use cluster::store::Memory;
    use units::Millis;

    fn members(count: u8) -> Vec<Record> {
        let record = |n: u8| {
            let (address, roles) = (format!("127.0.0.{n}:1").parse().unwrap(), vec![Role::Host]);
            let name = format!("m{n}").parse().unwrap();
            Record::new(Seat { name, address, portals: Vec::new(), roles }, HostKey([n; 32]), 0)
        };
        (1..=count).map(record).collect()
    }

    fn dead(by: &[u8]) -> Vec<Answer> {
        let vote = Vote::Dead { valid_for: Millis(10_000) };
        by.iter().map(|n| Answer { by: HostKey([*n; 32]), asked: Moment(0), vote }).collect()
    }

    /// Goal: two machines that join at once do not outvote a host that does not know them yet and holds its lease by the
    /// others; once it knows them, they count. Method: three, then five; the first machine hears of it last.
    #[test]
    fn a_host_is_not_outvoted_by_witnesses_that_it_does_not_know() {
        let (mut engine, three, five) = (Memory::new(), members(3), members(5));
        let mut said: BTreeMap<HostKey, Vec<HostKey>> = five.iter().map(|it| (it.key, keys(&three))).collect();
        assert_eq!(move_on(&mut engine, &three, &said).unwrap(), (vec![keys(&three)], true));
        assert!(!move_on(&mut engine, &three, &said).unwrap().1);
        let (both, _) = move_on(&mut engine, &five, &said).unwrap();
        assert_eq!(both, [keys(&three), keys(&five)]);
        let by_all =
            |sets: &Sets, by: &[u8]| matches!(verdict_by_all(&dead(by), sets, Moment(5)), Verdict::Dead { .. });
        assert!(!by_all(&both, &[3, 4, 5]), "the first and the second grant the first its lease");
        assert!(!by_all(&both, &[2, 3]), "a host that knows the newest goes by three of five");
        assert!(by_all(&both, &[2, 3, 4]));
        for host in &five[1..] {
            said.insert(host.key, keys(&five));
        }
        assert_eq!(move_on(&mut engine, &five, &said).unwrap().0, both, "one has not heard of it");
        said.insert(five[0].key, keys(&five));
        let (settled, _) = move_on(&mut engine, &five, &said).unwrap();
        assert_eq!((settled.clone(), sets(&mut engine, &five).unwrap()), (vec![keys(&five)], settled.clone()));
        assert!(by_all(&settled, &[3, 4, 5]));
    }

    /// Goal: from two to three: a host that knows of two watches nobody and is never paused, so nobody is dead before it
    /// knows. A machine that goes is out at once, however many sets there are. Method: both.
    #[test]
    fn sets_below_three_declare_nobody_dead_and_who_goes_is_out() {
        let mut engine = Memory::new();
        let silent = BTreeMap::new();
        for count in 1..=20 {
            move_on(&mut engine, &members(count), &silent).unwrap();
        }
        let held = sets(&mut engine, &members(20)).unwrap();
        assert_eq!((held.len(), held.last().map(Vec::len)), (SETS_MAX, Some(SETS_MAX)));
        let all: Vec<u8> = (1..=20).collect();
        assert!(matches!(verdict_by_all(&dead(&all), &held, Moment(5)), Verdict::NotDead { .. }));
        let (after, _) = move_on(&mut engine, &members(4), &silent).unwrap();
        assert_eq!(after.last(), Some(&keys(&members(4))));
    }
}
