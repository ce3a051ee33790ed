//! Who the store said owns a VM, beside what the targets granted and where guests started (I9, I1, I12).
//!
//! The store's log and the targets' logs are kept apart by different machines: a raise or a start without its
//! transaction shows as a grant, or a start, that no revision of the store explains.

use super::Violation;
use super::timeline::Timeline;
use crate::demo::evidence::{Evidence, GrantLine, StoreChange};
use serde_json::Value;
use std::collections::BTreeMap;

/// Where the store keeps owners and floors: docs/rfd/0008-jobs.md.
const OWNERS: &str = "/epoch/vm/";
const FLOORS: &str = "/epoch/volume/";

/// An owner, as a revision of the store said.
struct Owner {
    revision: u64,
    not_before_us: Option<u64>,
    vm: String,
    epoch: u64,
    owner: Option<String>,
    volumes: Vec<String>,
}

/// I9, I1 and I12.
pub fn violations(timeline: &Timeline, evidence: &Evidence) -> Vec<Violation> {
    let owners: Vec<Owner> = evidence.store.iter().filter_map(owner).collect();
    let mut found = unexplained_grants(&owners, evidence);
    found.extend(unexplained_starts(&owners, timeline));
    found.extend(contradictions(evidence));
    found
}

/// How often a VM's epoch or owner changed between two revisions; up to the end, if the second is not known.
pub fn changes(timeline: &Timeline, evidence: &Evidence, (from, to): (u64, Option<u64>)) -> u64 {
    let of_it = evidence.store.iter().filter_map(owner).filter(|owner| owner.vm == timeline.vm);
    let (mut last, mut count) = (None, 0);
    for owner in of_it {
        let now = (owner.epoch, owner.owner);
        let within = owner.revision > from && to.is_none_or(|to| owner.revision <= to);
        count += u64::from(within && last.as_ref() != Some(&now));
        last = Some(now);
    }
    count
}

/// Each epoch and when it was first granted.
pub fn first_grants(evidence: &Evidence) -> BTreeMap<u64, u64> {
    let mut first = BTreeMap::new();
    for (_, line) in grants(evidence) {
        let known = first.entry(line.epoch).or_insert(line.mono_us);
        *known = line.mono_us.min(*known);
    }
    first
}

/// Every grant must be what the store had said before.
fn unexplained_grants(owners: &[Owner], evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for (machine, line) in grants(evidence) {
        let place = format!("{machine} granted {} at epoch {} to {}", line.volume, line.epoch, names(&line.writers()));
        let of_it: Vec<&Owner> =
            owners.iter().filter(|it| it.epoch == line.epoch && it.volumes.contains(&line.volume)).collect();
        let says = |it: &&&Owner| it.owner.iter().map(String::as_str).eq(line.writers());
        match of_it.iter().find(says) {
            _ if is_filled(evidence, line) => {}
            Some(it) if it.not_before_us.is_some_and(|at_us| at_us > line.mono_us) => {
                let early_ms = (it.not_before_us.unwrap_or_default() - line.mono_us) / 1000;
                let revision = it.revision;
                found.push(Violation::new(
                    "I9",
                    format!("{place}, {early_ms} ms or more before revision {revision} said so"),
                ));
            }
            Some(_) => {}
            None => {
                let owner = of_it.first().map_or("nothing at that epoch".to_owned(), |it| {
                    format!("that {} owns it", it.owner.as_deref().unwrap_or("nobody"))
                });
                found.push(Violation::new("I9", format!("{place}; the store says {owner}")));
            }
        }
    }
    found
}

/// A volume without a VM, while an image is imported, has a floor that no VM owns; it was there before the grant.
fn is_filled(evidence: &Evidence, line: &GrantLine) -> bool {
    let key = format!("{FLOORS}{}", line.volume);
    let before = |change: &&StoreChange| change.not_before_us.is_none_or(|at_us| at_us <= line.mono_us);
    let floors = evidence.store.iter().filter(|change| change.key == key).filter(before).filter_map(object);
    floors.into_iter().any(|floor| floor["epoch"].as_u64() == Some(line.epoch) && floor["vm"].is_null())
}

/// Every start must be at the host that the store had named, under its epoch.
fn unexplained_starts(owners: &[Owner], timeline: &Timeline) -> Vec<Violation> {
    let mut found = Vec::new();
    for start in &timeline.starts {
        let place = format!("{} ran at {} under epoch {}", timeline.vm, start.host, start.epoch);
        let Some(key) = timeline.hosts.get(&start.host) else {
            found.push(Violation::new("I9", format!("{place}, and nobody knows that host")));
            continue;
        };
        let says = |it: &&Owner| it.vm == timeline.vm && it.epoch == start.epoch && it.owner.as_ref() == Some(key);
        match owners.iter().find(says) {
            Some(it) if it.not_before_us.is_some_and(|at_us| at_us > start.at_us) => {
                found.push(Violation::new("I9", format!("{place} before revision {} said so", it.revision)));
            }
            Some(_) => {}
            None => found.push(Violation::new("I9", format!("{place}; the store never said so"))),
        }
    }
    found
}

/// One epoch of a volume has one set of owners and one writer, and at each target epochs only grow.
fn contradictions(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut writers: BTreeMap<(&str, u64), Vec<&str>> = BTreeMap::new();
    let mut newest: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (machine, line) in grants(evidence) {
        let (volume, epoch, now) = (line.volume.as_str(), line.epoch, line.writers());
        if now.len() > 1 {
            found.push(Violation::new(
                "I1",
                format!("{volume} at epoch {epoch} has {} writers: {}", now.len(), names(&now)),
            ));
        }
        let before = writers.entry((volume, epoch)).or_insert_with(|| now.clone());
        if *before != now {
            let (one, other) = (names(before), names(&now));
            found.push(Violation::new("I1", format!("{volume} at epoch {epoch} was granted to {one} and to {other}")));
        }
        let known = newest.entry((machine, volume)).or_insert(epoch);
        if epoch < *known {
            found
                .push(Violation::new("I12", format!("{machine} went back from epoch {known} to {epoch} for {volume}")));
        }
        *known = epoch.max(*known);
    }
    found
}

fn grants(evidence: &Evidence) -> impl Iterator<Item = (&str, &GrantLine)> {
    let all = evidence.grants.iter().flat_map(|log| log.lines.iter().map(|line| (log.machine.as_str(), line)));
    all.filter(|(_, line)| line.is_grant())
}

fn names(keys: &[&str]) -> String {
    // The first digits tell keys apart, and all of them are in the evidence.
    let short = keys.iter().map(|key| key.get(..12).unwrap_or(key));
    if keys.is_empty() { "nobody".to_owned() } else { short.collect::<Vec<_>>().join(" and ") }
}

fn owner(change: &StoreChange) -> Option<Owner> {
    let vm = change.key.strip_prefix(OWNERS)?.to_owned();
    let object = object(change)?;
    let volumes = object["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Some(Owner {
        revision: change.revision,
        not_before_us: change.not_before_us,
        vm,
        epoch: object["epoch"].as_u64()?,
        owner: object["owner"].as_str().map(str::to_owned),
        volumes: volumes.map(str::to_owned).collect(),
    })
}

/// The object in a change, whichever way the value was written.
fn object(change: &StoreChange) -> Option<Value> {
    match change.value.as_ref()? {
        Value::String(text) => serde_json::from_str(text).ok(),
        value => Some(value.clone()),
    }
}
