//! Everything of this room that outlives its process, and every message, read as another version would have written it.

use crate::agent::versions::{LIVES, MEMORY};
use crate::director::versions::{FACTS, Witnesses};
use crate::identity::Identity;
use crate::past::{Kept, Restored};
use crate::peer::{Ask, Reply};
use crate::registry::versions::{GONE, HELD, WAITING};
use crate::registry::{self, Record, Settings};
use crate::storage::object::{ClaimObject, PoolObject, VolumeObject};
use crate::store::parse_object;
use crate::vms::object::Vm;
use cluster::job::{self, Ownership, Task, VolumeFloor};
use cluster::store::{Entry, Revision};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Reads a text as this program does, and writes what it read.
pub type Rewrite = fn(&str) -> Result<String, String>;

/// Something that another version may have written.
pub struct Kind {
    /// What it is.
    pub name: &'static str,
    /// One of it, as this version writes it.
    pub sample: fn() -> Value,
    /// Reads and writes it.
    pub rewrite: Rewrite,
    /// It has a version, and a higher one is refused.
    pub versioned: bool,
    /// Where fields that are not known are written back, as JSON pointers: everywhere that this program writes again what it
    /// read. What is written once, and messages, only have to be read.
    pub keeps: &'static [&'static str],
}

/// As [`Rewrite`], of an object of the store.
pub fn object<T: Serialize + DeserializeOwned>(text: &str) -> Result<String, String> {
    let key = "/kind/name".parse().unwrap();
    let entry = Entry { key, value: text.to_owned(), created: Revision(1), changed: Revision(1), lease: None };
    let read: T = parse_object(&entry).map_err(|problem| problem.text)?;
    Ok(serde_json::to_string(&read).unwrap())
}

fn told<T: Serialize + DeserializeOwned>(text: &str) -> Result<String, String> {
    let read: T = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(serde_json::to_string(&read).unwrap())
}

fn of_job<T: Serialize>(read: Result<T, job::JobError>) -> Result<String, String> {
    let whole = |error: job::JobError| match &error {
        job::JobError::Unreadable { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    Ok(serde_json::to_string(&read.map_err(whole)?).unwrap())
}

fn node_toml(text: &str) -> Result<String, String> {
    let table: toml::Table = serde_json::from_str(text).unwrap();
    let read = Identity::parse(&toml::to_string(&table).unwrap())?;
    let written: toml::Table = toml::from_str(&toml::to_string(&read).unwrap()).unwrap();
    Ok(serde_json::to_string(&written).unwrap())
}

const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";

fn ownership() -> Value {
    json!({"version": 1, "vm": "web1", "epoch": 7, "promised": 9, "owner": KEY, "unsettled": [KEY], "job": "j1", "volumes": ["root"]})
}

fn job_of(plan: &Value) -> Value {
    json!({
        "version": 1, "id": "j1", "owner": KEY, "term": 1, "plan": plan, "owned": ownership(), "deadline_ms": 60_000,
        "spent_ms": 5, "in_stage_ms": 1, "cancel": false, "blocked": null, "outcome": null,
        "history": [{"after_ms": 1, "by": KEY, "stage": "copy"}]
    })
}

fn migration() -> Value {
    job_of(&json!({
        "kind": "migrate", "source": KEY, "destination": KEY, "stage": "copy", "closing": 8, "landing": 9, "power": false,
        "why": null, "receipt": {"bytes": null, "rounds": null, "cpu_blackout_ms": null, "network_blackout_ms": null,
        "copy_ms": null, "hand_over_ms": null, "resume_ms": null}
    }))
}

fn recovery() -> Value {
    job_of(&json!({"kind": "recover", "to": KEY, "spare": [KEY], "power": false, "tried": 0}))
}

fn vm() -> Value {
    json!({
        "version": 1, "name": "web1", "spec": "name='web1'", "macs": ["52:54:00:00:00:01"], "uuid": "u", "wish": "running",
        "wished_at": 4, "created_s": 5
    })
}

/// What a host is told of a VM.
pub fn brief() -> Value {
    json!({
        "vm": "web1", "uuid": "u", "memory_mib": 32, "vcpus": 1, "cpu": null,
        "disks": [{"volume": "web1", "serial": "web1", "portals": ["127.0.0.1:1"], "target": KEY}],
        "nics": [{"bridge": "lan", "mac": "52:54:00:00:00:01"}],
        "seed": {"hostname": "web1", "ssh_keys": [], "user_data": null, "network_config": null, "files": []},
        "patience_ms": 5
    })
}

fn tell() -> Value {
    json!({
        "vm": "web1", "sequence": {"life": 1, "number": 2}, "at": 3, "guest": "running", "epoch": 4, "refused": null,
        "measured": {"bytes": null, "rounds": null, "cpu_blackout_ms": null, "network_blackout_ms": null},
        "stopped_ago_ms": null, "resumed_ago_ms": null, "port": null, "powered_off": false, "paused": false, "why": null
    })
}

fn report() -> Value {
    json!({
        "sequence": {"life": 1, "number": 2}, "memory": 1, "free": 1, "cpus": 1, "qemu": [10, 0], "accelerator": "kvm",
        "bridges": [], "guests": [tell()], "unlisted": null, "target_up": null, "deadman": true, "witnesses": [KEY],
        "complaints": []
    })
}

fn synced() -> Value {
    let node = json!({"name": "a", "address": "127.0.0.1:1", "portals": [], "roles": ["host"], "key": KEY, "joined_s": 1,
        "state": "up", "heard_ms": 1, "certificate_until_s": 1, "version": "1"});
    let timing = serde_json::to_value(cluster::lease::LeaseTiming::default()).unwrap();
    json!({
        "reply": "synced", "members": {"cluster": KEY, "nodes": [node]},
        "assignments": [{"vm": "web1", "owner": true, "epoch": 1, "at": 1, "job": false, "running": true, "patience_ms": 1}],
        "witnesses": [{"key": KEY, "name": "a", "portals": ["127.0.0.1:1"]}], "timing": timing, "at": 1, "unknown": [],
        "keep": {"removed": kept()["removed"], "sets": [[KEY]], "tell": false}
    })
}

fn kept() -> Value {
    json!({"version": 1, "removed": [{"key": KEY, "name": "b", "removed_s": 7}], "sets": [[KEY]]})
}

fn volume() -> Value {
    json!({"version": 1, "name": "v", "id": null, "pool": "p", "node": "a", "size": 1, "vm": null})
}

fn claim() -> Value {
    json!({"version": 1, "volume": "v", "machine": "a", "epoch": 1, "since_s": 1})
}

fn node() -> Value {
    json!({
        "version": 1, "name": "a", "address": "127.0.0.1:1", "portals": [], "roles": ["host"], "key": KEY, "joined_s": 1
    })
}

fn identity() -> Value {
    json!({
        "version": 1, "cluster": KEY, "name": "a", "address": "127.0.0.1:1", "portals": [], "roles": ["host"],
        "store": {"address": "127.0.0.1:1", "key": KEY}
    })
}

fn act() -> Value {
    json!({
        "ask": "act", "order": {"vm": "web1", "job": "j1", "at": 1}, "action": {"do": "watch", "host": KEY},
        "brief": brief(), "other": {"key": KEY, "name": "a", "ip": "127.0.0.1", "port": 1}
    })
}

/// A message with its kind in it.
fn with(mut message: Value, tag: &str, kind: &str) -> Value {
    message[tag] = json!(kind);
    message
}

/// The store's objects.
fn stored() -> Vec<Kind> {
    let kind = |name, sample, rewrite, keeps| Kind { name, sample, rewrite, versioned: true, keeps };
    let floor = || json!({"version": 1, "epoch": 7, "vm": null});
    let settings = || serde_json::to_value(Settings::new(5)).unwrap();
    let restored = || json!({"version": 1, "restored_s": 7, "told": [KEY]});
    let a_job: Rewrite = |text| of_job(job::Record::<Task>::read(text));
    vec![
        kind("/epoch/vm", ownership, |text| of_job(Ownership::read(text)), &[""]),
        // Written whole from its VM's ownership.
        kind("/epoch/volume", floor, |text| of_job(VolumeFloor::read(text)), &[]),
        kind("/job, a move", migration, a_job, &["", "/plan", "/owned"]),
        kind("/job, a recovery", recovery, a_job, &["", "/plan", "/owned"]),
        kind("/vm", vm, object::<Vm>, &[""]),
        kind("/volume", volume, object::<VolumeObject>, &[""]),
        // Written once.
        kind("/pool", || json!({"version": 1, "name": "p", "node": "a"}), object::<PoolObject>, &[]),
        kind("/claim", claim, object::<ClaimObject>, &[]),
        kind("/node", node, object::<Record>, &[""]),
        kind("/cluster/settings", settings, object::<registry::Settings>, &[]),
        kind("/cluster/restored", restored, object::<Restored>, &[""]),
        kind("/cluster/witnesses", || json!({"version": 1, "sets": [[KEY]]}), object::<Witnesses>, &[""]),
        HELD,
        WAITING,
        GONE,
        FACTS,
    ]
}

/// Files that outlive the node.
fn filed() -> Vec<Kind> {
    let kept_of: Rewrite = |text| Kept::parse(text).map(|read| serde_json::to_string(&read).unwrap());
    let kept = Kind { name: "cluster.json", sample: kept, rewrite: kept_of, versioned: true, keeps: &[""] };
    vec![
        MEMORY,
        LIVES,
        kept,
        Kind { name: "node.toml", sample: identity, rewrite: node_toml, versioned: true, keeps: &[""] },
    ]
}

/// What nodes say to each other: of another version, because one is updated first.
fn said() -> Vec<Kind> {
    let kind = |name, sample, rewrite, keeps| Kind { name, sample, rewrite, versioned: false, keeps };
    let adopt = || json!({"ask": "adopt", "brief": brief(), "at": 1, "epoch": 1});
    let sync = || json!({"ask": "sync", "certificate_until_s": 1, "version": "1", "report": report(), "keeps": 1, "kept": kept()});
    let acted = || json!({"reply": "acted", "admitted": true, "why": null, "told": tell()});
    vec![
        kind("act", act, told::<Ask>, &["/brief"]),
        kind("adopt", adopt, told::<Ask>, &["/brief"]),
        kind("tell", || with(tell(), "ask", "tell"), told::<Ask>, &[]),
        kind("sync", sync, told::<Ask>, &[]),
        kind("acted", acted, told::<Reply>, &[]),
        kind("look", || with(report(), "reply", "look"), told::<Reply>, &[]),
        kind("synced", synced, told::<Reply>, &[]),
    ]
}

/// Where the objects of a value are, as JSON pointers.
fn objects(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.push(at.to_owned());
            fields.iter().for_each(|(name, value)| objects(value, &format!("{at}/{name}"), found));
        }
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(index, value)| objects(value, &format!("{at}/{index}"), found));
        }
        _ => {}
    }
}

fn fields<'a>(value: &'a mut Value, at: &str) -> &'a mut Map<String, Value> {
    value.pointer_mut(at).and_then(Value::as_object_mut).unwrap_or_else(|| panic!("an object at '{at}'"))
}

/// CA2. Goal: what another version wrote is read with a field too many and with its own fields kept where it is written again;
/// a field too few is read or named; a newer form is refused by its number. Nothing is read as something else. Method:
/// every kind, every object in it, every field of that.
#[test]
fn other_versions_are_read_or_refused_by_name() {
    for Kind { name, sample, rewrite, versioned, keeps } in stored().into_iter().chain(filed()).chain(said()) {
        let sample = sample();
        let again = rewrite(&sample.to_string()).unwrap_or_else(|why| panic!("{name}: {why}"));
        rewrite(&again).unwrap_or_else(|why| panic!("{name}, as it was written: {again}: {why}"));
        let mut places = Vec::new();
        objects(&sample, "", &mut places);
        for place in places {
            let what = format!("{name} at '{place}'");
            let news = json!({"since": "later", "list": [1, 2]});
            let mut more = sample.clone();
            fields(&mut more, &place).insert("zz_newer".to_owned(), news.clone());
            let again = rewrite(&more.to_string()).unwrap_or_else(|why| panic!("{what}, a field too many: {why}"));
            let again: Value = serde_json::from_str(&again).unwrap();
            let kept = again.pointer(&format!("{place}/zz_newer")) == Some(&news);
            assert!(kept || !keeps.contains(&place.as_str()), "{what}: a field of a newer version was lost: {again}");
            let names: Vec<String> = fields(&mut sample.clone(), &place).keys().cloned().collect();
            for field in names {
                let mut less = sample.clone();
                fields(&mut less, &place).remove(&field);
                if let Err(why) = rewrite(&less.to_string()) {
                    assert!(why.contains(&field) || why.contains("missing"), "{what} without '{field}': {why}");
                }
            }
        }
        if versioned {
            let mut newer = sample.clone();
            newer["version"] = json!(9);
            let refused = rewrite(&newer.to_string()).expect_err("a newer form");
            assert!(refused.contains('9') && refused.contains("version"), "{name}: {refused}");
        }
    }
}

/// CA2. Goal: a state that only a newer version has is unknown, never absent. Method: the word of one.
#[test]
fn a_state_of_a_newer_version_is_unknown() {
    let mut it = tell();
    it["guest"] = json!("dreaming");
    let read: crate::peer::Tell = serde_json::from_value(it).unwrap();
    assert_eq!(read.guest, job::Guest::Unknown);
    assert_eq!(serde_json::to_value(job::Guest::Unknown).unwrap(), json!("unknown"));
}
